//! Routes to one shared actor, wherever it runs.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use actix::Recipient;
use actix::prelude::SendError as MailboxError;

use super::table::{Delivered, LocalRoute, RouteSource};
use crate::conn::Conn;
use crate::event::Counters;
use crate::frame::MsgId;
use crate::inbound::Inbound;

pub(crate) struct RecipientSource(pub(crate) Recipient<Inbound>);

impl RouteSource for RecipientSource {
    fn kind(&self) -> &'static str {
        "recipient"
    }

    fn install(&self, _: MsgId, _: &Arc<Counters>) -> Rc<dyn LocalRoute> {
        Rc::new(RecipientRoute(self.0.clone()))
    }
}

struct RecipientRoute(Recipient<Inbound>);

impl LocalRoute for RecipientRoute {
    fn deliver(&self, message: Inbound, _: &Conn, _: &mut Context<'_>) -> Delivered {
        match self.0.try_send(message) {
            Ok(()) => Delivered::Handed,
            // The windows of the connections bound this mailbox; its own capacity is per address,
            // not per actor, and tells nobody when there is room again.
            Err(MailboxError::Full(message)) => {
                self.0.do_send(message);
                Delivered::Handed
            }
            Err(MailboxError::Closed(message)) => {
                drop(message);
                Delivered::Gone
            }
        }
    }
}
