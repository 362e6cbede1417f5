//! Routes of a client: messages that somebody has asked for are not for them.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use rustc_hash::{FxHashMap, FxHashSet};

use super::requests::Claim;
use super::shared::{Shared, bury};
use crate::conn::CloseReason;
use crate::event::Event;
use crate::frame::MsgId;
use crate::inbound::{Inbound, Parcel};
use crate::router::{
    Change, Delivered, LocalRoute, LocalTable, Origin, Replies, Route, RouteError, RouteSource,
    Surroundings,
};

/// Has a thread route by these, behind the requests of the client.
///
/// A request may be for any reply id, at any time and from any thread, so every route is behind them,
/// and ids without one have a route as well. Connections ask a table only for the id of the first of
/// a run of messages, so a server, which has no such routes, pays nothing for this.
pub(super) fn install(
    local: &LocalTable,
    routes: Vec<(MsgId, Route)>,
    others: Option<Route>,
    shared: &Arc<Shared>,
    surroundings: &Surroundings,
) -> Result<(), RouteError> {
    let mut ids = FxHashSet::default();
    let mut known = FxHashMap::<Origin, Arc<dyn RouteSource>>::default();
    // Kept until all are known by where they are.
    let sources: Vec<_> = routes.into_iter().map(|(id, Route(source))| (id, source)).collect();
    let mut changes = Vec::with_capacity(sources.len());
    for (id, source) in &sources {
        // One source is one route, under however many ids.
        let behind = known.entry(Origin::of(source)).or_insert_with(|| {
            let source = Arc::clone(source);
            Arc::new(BehindRequests { source, shared: Arc::clone(shared) })
        });
        changes.push(Change::Add(*id, Arc::clone(behind)));
        if !ids.insert(*id) {
            return Err(RouteError::Duplicate(*id));
        }
    }
    local.update(Arc::new(changes), surroundings);
    let route = others.map(|Route(source)| source.install(0, surroundings));
    local.set_otherwise(Rc::new(Requested { route, shared: Arc::clone(shared) }));
    Ok(())
}

struct BehindRequests {
    source: Arc<dyn RouteSource>,
    shared: Arc<Shared>,
}

impl RouteSource for BehindRequests {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn install(&self, id: MsgId, surroundings: &Surroundings) -> Rc<dyn LocalRoute> {
        let route = Some(self.source.install(id, surroundings));
        Rc::new(Requested { route, shared: Arc::clone(&self.shared) })
    }
}

/// A route behind the requests.
struct Requested {
    route: Option<Rc<dyn LocalRoute>>,
    shared: Arc<Shared>,
}

impl Requested {
    /// Gives a message to the one who asked for it. Gives it back if nobody did.
    fn answer<M: Into<Inbound>>(&self, id: MsgId, message: M) -> Result<Delivered, M> {
        let claim = self.shared.claim(id);
        if matches!(claim, Claim::Nobody) {
            return Err(message);
        }
        let mut message = message.into();
        let payload = message.take_payload();
        let conn = message.conn();
        let (too_late, out_of_step) = match claim {
            Claim::Answer(tell) => (tell.send(Ok(payload)).is_err(), false),
            Claim::TooLate(tell) => {
                bury(|| tell);
                (true, false)
            }
            Claim::OutOfStep(tell) => {
                bury(|| tell);
                (true, true)
            }
            Claim::Nobody => (false, false),
        };
        if too_late {
            conn.emit(Event::AnswerTooLate { conn, message: id });
        }
        if out_of_step {
            conn.close(CloseReason::OutOfStep(id));
        }
        Ok(Delivered::Done)
    }
}

impl LocalRoute for Requested {
    fn deliver(&self, message: Inbound, replies: &dyn Replies, cx: &mut Context<'_>) -> Delivered {
        self.shared.note(message.id(), message.conn());
        self.answer(message.id(), message).unwrap_or_else(|message| match &self.route {
            Some(route) => route.deliver(message, replies, cx),
            None => Delivered::Unrouted,
        })
    }

    fn deliver_parcel(
        &self,
        parcel: Parcel<'_>,
        replies: &dyn Replies,
        cx: &mut Context<'_>,
    ) -> Delivered {
        self.shared.note(parcel.id, parcel.conn);
        self.answer(parcel.id, parcel).unwrap_or_else(|parcel| match &self.route {
            Some(route) => route.deliver_parcel(parcel, replies, cx),
            None => {
                drop(Inbound::from(parcel));
                Delivered::Unrouted
            }
        })
    }

    fn retire(&self) {
        if let Some(route) = &self.route {
            route.retire();
        }
    }
}
