//! The mailbox of a supervised actor, which outlives it.
//!
//! It is not the actor's: a future in the actor's context takes messages from it and has the actor handle them.
//! So all addresses stay valid when the actor dies, and the next one goes on with what is queued.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::channel::AddressReceiver;
use actix::dev::{AsyncContextParts, ContextFut, ContextParts, Envelope, EnvelopeProxy, Stream};
use actix::{Actor, ActorFuture, AsyncContext, Context};

use super::supervised::Supervision;
use crate::turn::Turn;

/// What outlives the actor.
pub(super) struct Mailbox<A: Actor> {
    receiver: RefCell<AddressReceiver<A>>,
    /// One that was taken out of the receiver to see whether there is any.
    next: RefCell<Option<Envelope<A>>>,
    supervision: Arc<Supervision>,
    /// How many messages the present actor has got.
    delivered: Cell<u32>,
    /// The present actor's `Deliveries` found that nobody has an address, and is over.
    is_left: Cell<bool>,
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    pub(super) fn new(receiver: AddressReceiver<A>, supervision: Arc<Supervision>) -> Self {
        Self {
            receiver: RefCell::new(receiver),
            next: RefCell::new(None),
            supervision,
            delivered: Cell::new(0),
            is_left: Cell::new(false),
        }
    }

    /// Whether somebody has an address.
    pub(super) fn is_connected(&self) -> bool {
        self.receiver.borrow().connected()
    }

    /// Takes the next message; `None` if there is none, and `task` is woken when there is.
    fn pop(&self, task: &mut TaskContext<'_>) -> Option<Envelope<A>> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        match Pin::new(&mut *self.receiver.borrow_mut()).poll_next(task) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let next = self.pop(&mut TaskContext::from_waker(Waker::noop()));
        let is_empty = next.is_none();
        self.next.replace(next);
        is_empty
    }

    /// How many messages the actor has got that has died.
    pub(super) fn take_delivered(&self) -> u32 {
        self.delivered.replace(0)
    }

    /// Makes an actor that gets the messages.
    pub(super) fn begin(
        self: &Rc<Self>,
        alive: &Rc<Cell<bool>>,
        factory: impl FnOnce() -> A,
    ) -> ContextFut<A, Context<A>> {
        let mut ctx = Context::new();
        // The addresses that the actor gives of itself are those of this mailbox. Its context has one of
        // its own, which stays empty.
        *ctx.parts() = ContextParts::new(self.receiver.borrow().sender_producer());
        ctx.spawn(self.deliveries(alive));
        ctx.into_future(factory())
    }

    /// An actor that nobody had an address of may have given one away since.
    pub(super) fn resume(
        self: &Rc<Self>,
        alive: &Rc<Cell<bool>>,
        life: &mut ContextFut<A, Context<A>>,
    ) -> bool {
        let resumes = self.is_left.get() && self.is_connected();
        if resumes {
            life.ctx().spawn(self.deliveries(alive));
        }
        resumes
    }

    fn deliveries(self: &Rc<Self>, alive: &Rc<Cell<bool>>) -> Deliveries<A> {
        self.is_left.set(false);
        Deliveries { mailbox: Rc::clone(self), alive: Rc::clone(alive) }
    }
}

/// Handles the mailbox's messages in the actor's context. Without this future the actor ends as actix
/// actors do, when its other futures are done.
struct Deliveries<A: Actor> {
    mailbox: Rc<Mailbox<A>>,
    /// The actor has not died. One that has is polled once more when it is dropped, and may want to
    /// go on then.
    alive: Rc<Cell<bool>>,
}

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Deliveries<A> {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if !self.alive.get() {
            return Poll::Ready(());
        }
        let mailbox = &self.mailbox;
        if mailbox.supervision.is_down() {
            // Not before: that its factory is called does not mean that there is an actor.
            mailbox.supervision.set_down(false);
        }
        let mut turn = Turn::default();
        while !turn.is_over() {
            // Waits for a future or stops: the rest stays in the mailbox. Who ends that wait polls this.
            if ctx.waiting() {
                return Poll::Pending;
            }
            // Looked at first: what came before the last address was dropped is found after it.
            let connected = mailbox.is_connected();
            let Some(mut envelope) = mailbox.pop(task) else {
                if connected {
                    return Poll::Pending;
                }
                mailbox.is_left.set(true);
                return Poll::Ready(());
            };
            mailbox.delivered.set(mailbox.delivered.get().saturating_add(1));
            envelope.handle(actor, ctx);
            turn.spend();
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
