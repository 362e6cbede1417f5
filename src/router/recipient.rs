//! Routes to one shared actor, wherever it runs.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use actix::Recipient;

use super::reply::Replies;
use super::table::{Delivered, LocalRoute, RouteSource, Surroundings};
use crate::frame::MsgId;
use crate::inbound::Inbound;

pub(crate) struct RecipientSource(pub(crate) Arc<Recipient<Inbound>>);

impl RouteSource for RecipientSource {
    fn kind(&self) -> &'static str {
        "recipient"
    }

    fn install(&self, _: MsgId, _: &Surroundings) -> Rc<dyn LocalRoute> {
        Rc::new(RecipientRoute(Arc::clone(&self.0)))
    }
}

struct RecipientRoute(Arc<Recipient<Inbound>>);

impl LocalRoute for RecipientRoute {
    fn deliver(&self, message: Inbound, _: &dyn Replies, _: &mut Context<'_>) -> Delivered {
        if message.send_to(&self.0) { Delivered::Done } else { Delivered::Gone }
    }
}
