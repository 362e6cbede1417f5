//! The published table: what the router knows, and what each worker makes of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::Message;
use rustc_hash::FxHashMap;

use super::reply::Replies;
use crate::conn::{CloseReason, Conn};
use crate::event::Events;
use crate::frame::MsgId;
use crate::inbound::{self, Inbound, Parcel};
use crate::settings::WhileDown;
use crate::unwind::contained;

/// What a route is before a worker has it: shared by all threads.
pub(crate) trait RouteSource: Send + Sync {
    /// What it is, for the log and for `Lookup`.
    fn kind(&self) -> &'static str;

    /// Makes the route of one worker, on that worker's thread.
    fn install(&self, id: MsgId, surroundings: &Surroundings) -> Rc<dyn LocalRoute>;
}

/// What routes need of their server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) events: Arc<Events>,
    /// What becomes of messages whose handler actor is about to be started again.
    pub(crate) while_down: WhileDown,
}

/// A route on the thread of the connections it serves.
pub(crate) trait LocalRoute {
    /// Gives the message to its handler. An answer that is there at once goes to `replies`.
    fn deliver(&self, message: Inbound, replies: &dyn Replies, cx: &mut Context<'_>) -> Delivered;

    /// Makes a message and delivers it.
    #[inline]
    fn deliver_parcel(
        &self,
        parcel: Parcel<'_>,
        replies: &dyn Replies,
        cx: &mut Context<'_>,
    ) -> Delivered {
        self.deliver(parcel.into(), replies, cx)
    }

    /// The route is unregistered: what it has is handled, nothing more comes.
    fn retire(&self) {}
}

/// What became of a delivered message.
pub(crate) enum Delivered {
    /// It is handled, or with an actor.
    Done,
    /// Its handler is suspended: poll it before anything else is delivered.
    Suspended(Pin<Box<dyn Running>>),
    /// Its handler panicked.
    Panicked,
    /// Its handler is gone for good.
    Gone,
    /// There is no handler behind this route for this message.
    Unrouted,
}

/// A suspended route function.
pub(crate) trait Running {
    fn poll(self: Pin<&mut Self>, replies: &dyn Replies, cx: &mut Context<'_>) -> Poll<()>;
}

/// How far a suspended route function got.
pub(crate) enum Called {
    Suspended(Pin<Box<dyn Running>>),
    Done,
    Panicked,
}

impl dyn Running {
    /// Polls the call, and drops it, when it is over, where a panic of that does no harm.
    pub(crate) fn proceed(mut self: Pin<Box<Self>>, conn: &Conn, cx: &mut Context<'_>) -> Called {
        let proceeded = contained(move || match self.as_mut().poll(conn, cx) {
            Poll::Ready(()) => Called::Done,
            Poll::Pending => Called::Suspended(self),
        });
        proceeded.unwrap_or(Called::Panicked)
    }
}

/// The router's table: immutable, replaced by each change.
#[derive(Clone, Default)]
pub(crate) struct Table(pub(crate) FxHashMap<MsgId, Arc<dyn RouteSource>>);

/// A worker's image of the published table.
#[derive(Default)]
pub(crate) struct LocalTable {
    /// Grows with each change, so that a connection knows when what it looked up is out of date.
    version: Cell<u64>,
    routes: RefCell<FxHashMap<MsgId, Installed>>,
    /// The route of all other ids.
    otherwise: OnceCell<Rc<dyn LocalRoute>>,
}

/// A route, and what it was made from, by which a change is told.
type Installed = (Arc<dyn RouteSource>, Rc<dyn LocalRoute>);

impl LocalTable {
    #[inline]
    pub(crate) fn get(&self, id: MsgId) -> Option<Rc<dyn LocalRoute>> {
        match self.routes.borrow().get(&id) {
            Some((_, route)) => Some(Rc::clone(route)),
            None => self.otherwise.get().cloned(),
        }
    }

    /// Messages without another route take this one. It is set before there are connections.
    pub(crate) fn set_otherwise(&self, route: Rc<dyn LocalRoute>) {
        let _ = self.otherwise.set(route);
    }

    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Follows the router: routes that are still there keep their actors.
    pub(crate) fn update(&self, table: &Table, surroundings: &Surroundings) {
        let known = self.routes.take();
        let mut routes = FxHashMap::<MsgId, Installed>::default();
        for (&id, source) in &table.0 {
            // One source is one route, under however many ids.
            let same =
                known.values().chain(routes.values()).find(|(from, _)| Arc::ptr_eq(from, source));
            let route = match same {
                Some((_, route)) => Rc::clone(route),
                None => source.install(id, surroundings),
            };
            routes.insert(id, (Arc::clone(source), route));
        }
        for (_, route) in known.values() {
            if !routes.values().any(|(_, kept)| Rc::ptr_eq(kept, route)) {
                route.retire();
            }
        }
        self.routes.replace(routes);
        // What a route has captured may panic when it is dropped, which must not end this thread's
        // worker.
        let _ = contained(|| drop(known));
        self.version.set(self.version.get() + 1);
    }

    /// Delivers a message that does not come from its connection's reader.
    pub(crate) fn redeliver(&self, message: Inbound) {
        let id = message.id();
        let Some(route) = self.get(id) else {
            // Unregistered while the message was on its way.
            return inbound::abandoning(|| drop(message));
        };
        actix_rt::spawn(async move {
            let conn = message.conn().clone();
            let mut message = Some(message);
            let mut delivered = poll_fn(|cx| match message.take() {
                Some(message) => Poll::Ready(route.deliver(message, &conn, cx)),
                None => Poll::Pending,
            })
            .await;
            loop {
                match delivered {
                    Delivered::Done | Delivered::Unrouted => return,
                    Delivered::Panicked => return conn.handler_panicked(id),
                    Delivered::Gone => return conn.close(CloseReason::HandlerGone(id)),
                    Delivered::Suspended(call) => delivered = finish(call, &conn).await,
                }
            }
        });
    }

    /// Ends all routes.
    pub(crate) fn clear(&self) {
        let routes = self.routes.take();
        let all = routes.values().map(|(_, route)| route).chain(self.otherwise.get());
        all.for_each(|route| route.retire());
        self.version.set(self.version.get() + 1);
    }
}

/// Runs a suspended call to its end.
async fn finish(call: Pin<Box<dyn Running>>, conn: &Conn) -> Delivered {
    let mut call = Some(call);
    poll_fn(|cx| match call.take().map(|call| call.proceed(conn, cx)) {
        Some(Called::Suspended(suspended)) => {
            call = Some(suspended);
            Poll::Pending
        }
        Some(Called::Done) => Poll::Ready(Delivered::Done),
        Some(Called::Panicked) => Poll::Ready(Delivered::Panicked),
        None => Poll::Pending,
    })
    .await
}

/// The router's news for a worker; answered when the worker routes by it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Publish(pub(crate) Arc<Table>);

impl fmt::Debug for LocalTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.routes.borrow().keys()).finish()
    }
}
