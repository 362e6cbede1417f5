//! Messages that are handled although nobody may wait for the answer.

use actix::Message;
use tokio::sync::oneshot;

/// actix skips a message whose sender has stopped waiting for the answer, and one sent to a full
/// mailbox is not in it before it is polled. In this envelope a message is sent at once and is
/// always handled.
pub(crate) struct Surely<M: Message> {
    pub(crate) message: M,
    pub(crate) answer: oneshot::Sender<M::Result>,
}

impl<M: Message> Message for Surely<M> {
    type Result = ();
}

impl<M: Message> Surely<M> {
    pub(crate) fn new(message: M) -> (Self, oneshot::Receiver<M::Result>) {
        let (answer, answered) = oneshot::channel();
        (Self { message, answer }, answered)
    }
}

/// Handles `Surely<M>` as the actor handles `M`, which it answers by a future.
macro_rules! handle_surely {
    ($actor:ty: $($message:ty),*) => {$(
        impl actix::Handler<crate::surely::Surely<$message>> for $actor {
            type Result = ();

            fn handle(&mut self, surely: crate::surely::Surely<$message>, ctx: &mut Self::Context) {
                let crate::surely::Surely { message, answer } = surely;
                let answered = actix::Handler::handle(self, message, ctx);
                actix_rt::spawn(async move {
                    // Nobody need be there to hear it.
                    let _ = answer.send(answered.await);
                });
            }
        }
    )*};
}
pub(crate) use handle_surely;
