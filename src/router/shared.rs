//! Routes to one shared actor, wherever it runs.

use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Context;

use actix::Recipient;

use super::reply::Replies;
use super::supervised::Supervision;
use super::table::{Delivered, LocalRoute, RouteSource, Surroundings};
use crate::conn::Conn;
use crate::event::{Event, Events};
use crate::frame::MsgId;
use crate::inbound::Inbound;

/// An actor that all threads share, as a route has it.
pub(crate) struct SharedActor {
    recipient: Recipient<Inbound>,
    supervision: Option<Arc<Supervision>>,
    /// Who knows that it is gone, so that each server reports it once.
    reported: Mutex<Vec<Weak<Events>>>,
}

impl SharedActor {
    pub(super) fn new(
        recipient: Recipient<Inbound>,
        supervision: Option<Arc<Supervision>>,
    ) -> Arc<Self> {
        Arc::new(Self { recipient, supervision, reported: Mutex::default() })
    }

    pub(crate) fn recipient(&self) -> &Recipient<Inbound> {
        &self.recipient
    }

    /// Whether it is gone for good.
    pub(crate) fn is_gone(&self) -> bool {
        !self.recipient.connected()
    }

    fn is_down(&self) -> bool {
        self.supervision.as_ref().is_some_and(|supervision| supervision.is_down())
    }

    /// A message of this connection found it gone.
    #[cold]
    pub(crate) fn found_gone(&self, conn: &Conn, message: MsgId) {
        let events = &conn.shared().limits.events;
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(events))) {
            return;
        }
        reported.push(Arc::downgrade(events));
        drop(reported);
        conn.emit(Event::SharedActorGone { message });
    }
}

pub(crate) struct SharedSource(pub(super) Arc<SharedActor>);

impl RouteSource for SharedSource {
    fn kind(&self) -> &'static str {
        match self.0.supervision {
            Some(_) => "supervised actor",
            None => "recipient",
        }
    }

    fn install(&self, _: MsgId, surroundings: &Surroundings) -> Rc<dyn LocalRoute> {
        if let Some(supervision) = &self.0.supervision {
            supervision.routed_by(&surroundings.events);
        }
        Rc::new(SharedRoute { actor: Arc::clone(&self.0), surroundings: surroundings.clone() })
    }
}

struct SharedRoute {
    actor: Arc<SharedActor>,
    surroundings: Surroundings,
}

impl LocalRoute for SharedRoute {
    fn deliver(&self, message: Inbound, _: &dyn Replies, _: &mut Context<'_>) -> Delivered {
        if self.actor.is_down()
            && let Some(delivered) = self.surroundings.while_down(message.conn(), message.id())
        {
            return delivered;
        }
        match message.send_to(&self.actor) {
            Ok(()) => Delivered::Done,
            Err(message) => {
                self.actor.found_gone(message.conn(), message.id());
                Delivered::Gone
            }
        }
    }
}

impl fmt::Debug for SharedActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedActor").field("gone", &self.is_gone()).finish_non_exhaustive()
    }
}
