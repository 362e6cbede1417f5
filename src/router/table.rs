//! A worker's table of routes, and how it follows the router's.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::Message;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::reply::Replies;
use crate::conn::{CloseReason, Conn};
use crate::event::{Event, Events};
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

impl Surroundings {
    /// What becomes of a message whose actor is about to be started again; `None` if it waits.
    pub(crate) fn while_down(&self, conn: &Conn, id: MsgId) -> Option<Delivered> {
        match self.while_down {
            WhileDown::Wait => None,
            WhileDown::Close => Some(Delivered::Gone),
            WhileDown::Drop => {
                conn.emit(Event::DroppedWhileDown { conn, message: id });
                Some(Delivered::Done)
            }
        }
    }
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

/// One step from a table of routes to the next.
#[derive(Clone)]
pub(crate) enum Change {
    Add(MsgId, Arc<dyn RouteSource>),
    Remove(MsgId),
}

/// The router's news for a worker: what is different, so that it costs as much as is different.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Publish {
    pub(crate) changes: Arc<Vec<Change>>,
    /// Dropped when the worker routes by it. Not the answer of a message that is asked: that one would
    /// wait for room in the mailbox, and changes must come in their order.
    pub(crate) until_followed: oneshot::Sender<()>,
}

/// Drops changes where a panic does no harm: what a route has captured may panic when it is dropped.
pub(super) fn bury(changes: Arc<Vec<Change>>) {
    for change in Arc::into_inner(changes).into_iter().flatten() {
        let _ = contained(|| drop(change));
    }
}

/// A worker's image of the router's table.
#[derive(Default)]
pub(crate) struct LocalTable {
    /// Grows with each change, so that a connection knows when what it looked up is out of date.
    version: Cell<u64>,
    routes: RefCell<FxHashMap<MsgId, Installed>>,
    /// One source is one route, under however many ids.
    uses: RefCell<FxHashMap<Origin, Used>>,
    /// The route of all other ids.
    otherwise: OnceCell<Rc<dyn LocalRoute>>,
}

/// A route, and what it was made from, which it keeps.
struct Installed {
    source: Arc<dyn RouteSource>,
    route: Rc<dyn LocalRoute>,
}

/// A route, and how many ids it has.
struct Used {
    route: Rc<dyn LocalRoute>,
    ids: usize,
}

/// Where a source is in memory, by which it is told from others as long as somebody keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(*const ());

impl Origin {
    pub(crate) fn of(source: &Arc<dyn RouteSource>) -> Self {
        Self(Arc::as_ptr(source).cast())
    }
}

impl LocalTable {
    #[inline]
    pub(crate) fn get(&self, id: MsgId) -> Option<Rc<dyn LocalRoute>> {
        match self.routes.borrow().get(&id) {
            Some(installed) => Some(Rc::clone(&installed.route)),
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

    /// Follows the router, and lets it know.
    pub(crate) fn follow(&self, news: Publish, surroundings: &Surroundings) {
        let Publish { changes, until_followed } = news;
        self.update(changes, surroundings);
        drop(until_followed);
    }

    /// Makes these changes. A route that is still there keeps its actor.
    pub(crate) fn update(&self, changes: Arc<Vec<Change>>, surroundings: &Surroundings) {
        for change in &*changes {
            let gone = match change {
                Change::Add(id, source) => self.add(*id, source, surroundings),
                Change::Remove(id) => self.routes.borrow_mut().remove(id),
            };
            if let Some(gone) = gone {
                self.release(gone);
            }
        }
        bury(changes);
        self.version.set(self.version.get() + 1);
    }

    /// Returns the route that the id had before.
    fn add(
        &self,
        id: MsgId,
        source: &Arc<dyn RouteSource>,
        surroundings: &Surroundings,
    ) -> Option<Installed> {
        let origin = Origin::of(source);
        let known = self.uses.borrow().get(&origin).map(|used| Rc::clone(&used.route));
        let route = known.unwrap_or_else(|| source.install(id, surroundings));
        let used = || Used { route: Rc::clone(&route), ids: 0 };
        self.uses.borrow_mut().entry(origin).or_insert_with(used).ids += 1;
        let installed = Installed { source: Arc::clone(source), route };
        self.routes.borrow_mut().insert(id, installed)
    }

    /// An id has no longer this route, which is retired with its last id.
    fn release(&self, gone: Installed) {
        let origin = Origin::of(&gone.source);
        let mut uses = self.uses.borrow_mut();
        let last = match uses.get_mut(&origin) {
            Some(used) if used.ids > 1 => {
                used.ids -= 1;
                None
            }
            _ => uses.remove(&origin),
        };
        drop(uses);
        if last.is_some() {
            gone.route.retire();
        }
        // What a route has captured may panic when it is dropped, which must not end this thread's
        // worker.
        let _ = contained(|| drop((gone, last)));
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
        let (routes, uses) = (self.routes.take(), self.uses.take());
        let all = uses.values().map(|used| &used.route).chain(self.otherwise.get());
        all.for_each(|route| route.retire());
        self.version.set(self.version.get() + 1);
        for gone in uses {
            let _ = contained(|| drop(gone));
        }
        for gone in routes {
            let _ = contained(|| drop(gone));
        }
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

impl fmt::Debug for LocalTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.routes.borrow().keys()).finish()
    }
}
