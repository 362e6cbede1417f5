//! Async functions as routes: they run in the task of the connection that got the message.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::reply::{IntoReply, Replies};
use super::table::{Delivered, LocalRoute, RouteSource, Running, Surroundings};
use crate::frame::MsgId;
use crate::inbound::Inbound;
use crate::unwind::{Guard, contained};

pub(crate) struct FnSource<F, R> {
    f: Arc<Guard<F>>,
    reply: PhantomData<fn() -> R>,
}

impl<F, R> FnSource<F, R> {
    pub(crate) fn new(f: F) -> Self {
        Self { f: Arc::new(Guard::new(f)), reply: PhantomData }
    }
}

impl<F, R> RouteSource for FnSource<F, R>
where
    F: AsyncFn(Inbound) -> R + Send + Sync + 'static,
    R: IntoReply + 'static,
{
    fn kind(&self) -> &'static str {
        "function"
    }

    fn install(&self, _: MsgId, _: &Surroundings) -> Rc<dyn LocalRoute> {
        // A call may borrow from the function, so it keeps it. The `Rc` is the worker's own, to
        // be cloned without an atomic operation.
        let f = Rc::new(Arc::clone(&self.f));
        Rc::new(FnRoute {
            call: move |message| {
                let f = Rc::clone(&f);
                async move { f(message).await }
            },
            idle: RefCell::default(),
        })
    }
}

struct FnRoute<F, Fut> {
    call: F,
    /// A place for the next call's future, kept so that a call that never waits allocates
    /// nothing. One is enough: a call either ends before the next begins, or keeps its place.
    idle: RefCell<Option<Place<Fut>>>,
}

type Place<Fut> = Pin<Box<Option<Fut>>>;

impl<F, Fut> LocalRoute for FnRoute<F, Fut>
where
    F: Fn(Inbound) -> Fut + 'static,
    Fut: Future<Output: IntoReply> + 'static,
{
    #[inline]
    fn deliver(&self, message: Inbound, replies: &dyn Replies, cx: &mut Context<'_>) -> Delivered {
        let idle = self.idle.borrow_mut().take();
        let mut place = idle.unwrap_or_else(|| Box::pin(None));
        let polled = contained(|| {
            place.set(Some((self.call)(message)));
            let polled = place.as_mut().poll(replies, cx);
            if polled.is_ready() {
                place.set(None);
            }
            polled
        });
        match polled {
            Some(Poll::Ready(())) => {
                self.idle.replace(Some(place));
                Delivered::Done
            }
            Some(Poll::Pending) => Delivered::Suspended(place),
            None => {
                // What is left of the call may panic once more.
                let _ = contained(|| drop(place));
                Delivered::Panicked
            }
        }
    }
}

impl<Fut: Future<Output: IntoReply>> Running for Option<Fut> {
    #[inline]
    fn poll(self: Pin<&mut Self>, replies: &dyn Replies, cx: &mut Context<'_>) -> Poll<()> {
        let Some(call) = self.as_pin_mut() else { return Poll::Ready(()) };
        let answer = ready!(call.poll(cx));
        if let Some(reply) = answer.into_reply(replies.conn()) {
            replies.reply(reply);
        }
        Poll::Ready(())
    }
}
