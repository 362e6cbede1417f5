//! Handler actors: one on each worker, fed by the connections of that worker, and supervised.
//!
//! A message for an actor on the same thread does not need a mailbox, which would cost two
//! allocations a message and starve the thread's other tasks while it is full. It goes through a
//! run queue that the actor's own context drains, a bounded number a turn, and that outlives the
//! actor if it dies.

use std::any::type_name;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use actix::dev::MessageResponse;
use actix::{Actor, ActorFuture, AsyncContext, Context, Handler};

use super::life::{Death, live};
use super::queue::RunQueue;
use super::reply::Replies;
use super::restart::Restarts;
use super::table::{Delivered, LocalRoute, RouteSource, Surroundings};
use crate::conn::Conn;
use crate::event::Event;
use crate::frame::MsgId;
use crate::inbound::{self, Inbound, Parcel};
use crate::settings::WhileDown;
use crate::turn::Turn;

pub(crate) struct HandlerSource<F>(pub(crate) Arc<F>);

impl<F, A> RouteSource for HandlerSource<F>
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    fn kind(&self) -> &'static str {
        "handler actor"
    }

    fn install(&self, id: MsgId, surroundings: &Surroundings) -> Rc<dyn LocalRoute> {
        let (queue, surroundings) = (Rc::new(RunQueue::default()), surroundings.clone());
        let route = HandlerRoute { queue: Rc::clone(&queue), surroundings: surroundings.clone() };
        actix_rt::spawn(supervise(id, Arc::clone(&self.0), queue, surroundings));
        Rc::new(route)
    }
}

struct HandlerRoute {
    queue: Rc<RunQueue>,
    surroundings: Surroundings,
}

impl HandlerRoute {
    /// What becomes of a message that the actor is not there for; `None` if it is queued.
    #[cold]
    fn without_actor(&self, conn: &Conn, id: MsgId) -> Option<Delivered> {
        if self.queue.ended.get() {
            return Some(Delivered::Gone);
        }
        self.surroundings.while_down(conn, id)
    }
}

impl LocalRoute for HandlerRoute {
    #[inline]
    fn deliver(&self, message: Inbound, _: &dyn Replies, _: &mut TaskContext<'_>) -> Delivered {
        if self.queue.absent.get()
            && let Some(delivered) = self.without_actor(message.conn(), message.id())
        {
            return delivered;
        }
        self.queue.push_message(message);
        Delivered::Done
    }

    #[inline]
    fn deliver_parcel(
        &self,
        parcel: Parcel<'_>,
        _: &dyn Replies,
        _: &mut TaskContext<'_>,
    ) -> Delivered {
        if self.queue.absent.get()
            && let Some(delivered) = self.without_actor(parcel.conn, parcel.id)
        {
            drop(Inbound::from(parcel));
            return delivered;
        }
        self.queue.push(parcel);
        Delivered::Done
    }

    fn retire(&self) {
        self.queue.retired.set(true);
        self.queue.wake();
    }
}

/// Handles the queue's messages in the actor's context.
struct Deliveries {
    queue: Rc<RunQueue>,
    /// The actor has not died. One that has is polled once more when it is dropped, and may want to
    /// go on then.
    alive: Rc<Cell<bool>>,
}

impl<A> ActorFuture<A> for Deliveries
where
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
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
        inbound::handing_out(|| self.queue.hand_out(actor, ctx, task))
    }
}

impl RunQueue {
    /// Has the actor handle what is queued, for a turn.
    fn hand_out<A>(
        &self,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()>
    where
        A: Actor<Context = Context<A>> + Handler<Inbound>,
    {
        self.register(task.waker());
        self.scheduled.set(true);
        let mut turn = Turn::default();
        while !turn.is_over() {
            // Waits for a future or stops: the rest stays queued.
            if ctx.waiting() {
                self.scheduled.set(false);
                return Poll::Pending;
            }
            let Some(message) = self.pop() else {
                self.rest();
                // Without this future the actor ends as actix actors do: when its other futures
                // are done, so that answers on their way still get out.
                if self.retired.get() {
                    self.end();
                }
                return if self.ended.get() { Poll::Ready(()) } else { Poll::Pending };
            };
            self.delivered.set(self.delivered.get().saturating_add(1));
            actor.handle(message, ctx).handle(ctx, None);
            turn.spend();
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs actor after actor on a queue until the route is retired.
async fn supervise<F, A>(
    id: MsgId,
    factory: Arc<F>,
    queue: Rc<RunQueue>,
    surroundings: Surroundings,
) where
    F: Fn() -> A,
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    let mut restarts = Restarts::new();
    loop {
        restarts.begin();
        let alive = Rc::new(Cell::new(true));
        let deliveries = Deliveries { queue: Rc::clone(&queue), alive: Rc::clone(&alive) };
        let begin = || {
            let mut ctx = Context::new();
            ctx.spawn(deliveries);
            ctx.into_future(factory())
        };
        let died = live(&alive, begin, |_| false).await;
        queue.waker.replace(None);
        if queue.retired.get() && queue.is_empty() {
            queue.end();
            return;
        }
        let pause = restarts.pause_after(queue.delivered.replace(0));
        surroundings.events.emit(Event::HandlerDied {
            actor: type_name::<A>(),
            message: Some(id),
            panicked: died == Death::Panicked,
            pause,
        });
        if pause.is_zero() {
            continue;
        }
        queue.absent.set(true);
        give_up(&queue, &surroundings);
        tokio::time::sleep(pause).await;
        queue.absent.set(false);
    }
}

/// Does with the messages of a dead actor what the policy says.
fn give_up(queue: &RunQueue, surroundings: &Surroundings) {
    let left = || std::iter::from_fn(|| queue.pop());
    match surroundings.while_down {
        WhileDown::Wait => {}
        WhileDown::Drop => left().for_each(|message| {
            let conn = message.conn();
            conn.emit(Event::DroppedWhileDown { conn, message: message.id() });
        }),
        WhileDown::Close => inbound::abandoning(|| left().for_each(drop)),
    }
}
