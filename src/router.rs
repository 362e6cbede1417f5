//! The registry of routes: which handler gets which message.

mod function;
mod handler;
mod life;
mod mailbox;
mod queue;
mod reply;
mod restart;
mod shared;
mod supervised;
mod table;

use std::fmt;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, Recipient, ResponseFuture};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;

use crate::event::Event;
use crate::frame::MsgId;
use crate::inbound::Inbound;
use crate::surely::handle_surely;
use crate::unwind::{Guard, contained};
use function::FnSource;
use handler::HandlerSource;
pub(crate) use reply::{Answer, Replies};
pub use reply::{IntoReply, Reply};
pub(crate) use shared::SharedActor;
use shared::SharedSource;
pub(crate) use supervised::Home;
pub use supervised::{SupervisedAddr, supervise, supervise_on};
pub(crate) use table::{
    Called, Change, Delivered, LocalRoute, LocalTable, Origin, Publish, RouteSource, Running,
    Surroundings,
};

/// Where messages of one id go: what [`Register`] takes.
#[derive(Clone)]
pub struct Route(pub(crate) Arc<dyn RouteSource>);

impl Route {
    /// A handler actor on each worker, made by `factory` on the worker's thread, so that a message
    /// never changes thread and the actor's state is the worker's.
    ///
    /// The actor is supervised: if it panics or stops, the factory makes another one. If it got a message
    /// before, that is at once, up to ten times in a second, and beyond that after a pause that grows from
    /// 10 ms to 100 ms; else after a pause that grows from 10 ms to 10 s. Messages wait
    /// meanwhile, within their connections' windows, unless `while_handler_down` says otherwise.
    pub fn actor<A, F>(factory: F) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Inbound>,
        F: Fn() -> A + Send + Sync + 'static,
    {
        let factory = Guard::new(factory);
        Self(Arc::new(HandlerSource(Arc::new(move || (*factory)()))))
    }

    /// One shared actor, wherever it runs: a room, a world.
    ///
    /// When it is gone, a message for it closes its connection with
    /// [`CloseReason::HandlerGone`](crate::CloseReason::HandlerGone), and the first such message of a
    /// server is an [`Event::SharedActorGone`]. An actor that is started again when it dies is made
    /// by [`supervise`]; a [`SupervisedAddr`] is a route by `Route::from`.
    pub fn to(recipient: Recipient<Inbound>) -> Self {
        Self(Arc::new(SharedSource(SharedActor::new(recipient, None))))
    }

    /// An async function, run in the task of the connection that got the message; what it returns
    /// is the answer. (One that never returns, because it panics, say, must name a type that is one:
    /// `-> ()`.)
    ///
    /// While it waits, its connection neither reads nor handles another message; other connections go
    /// on. If the peer leaves or the connection is stopped meanwhile, the function is run to its end all
    /// the same: for as long as the drain deadline, or `half_closed_ms` if the peer has only closed its
    /// side.
    pub fn function<F, R>(f: F) -> Self
    where
        F: AsyncFn(Inbound) -> R + Send + Sync + 'static,
        R: IntoReply + 'static,
    {
        Self(Arc::new(FnSource::new(f)))
    }

    /// What kind of route it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        self.0.kind()
    }
}

impl From<Recipient<Inbound>> for Route {
    fn from(recipient: Recipient<Inbound>) -> Self {
        Self::to(recipient)
    }
}

impl<A> From<Addr<A>> for Route
where
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    fn from(addr: Addr<A>) -> Self {
        Self::to(addr.recipient())
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.kind()).finish()
    }
}

/// Why the router refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The id has a route already.
    #[error("message {0} has a route already")]
    Duplicate(MsgId),
    /// The id has no route.
    #[error("message {0} has no route")]
    NoRoute(MsgId),
}

/// Adds a route. Answered when all workers route by it: with [`RouteError::Duplicate`] if the id
/// has one already.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), RouteError>")]
pub struct Register {
    /// The id of the messages.
    pub id: MsgId,
    /// Where they go.
    pub route: Route,
}

/// Adds all of these routes, in one step on each worker, or none. Returns when all workers route by
/// them: with [`RouteError::Duplicate`] if an id has a route already, or two.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), RouteError>")]
pub(crate) struct RegisterAll(pub(crate) Vec<(MsgId, Route)>);

/// Takes a route away. Answered when no worker routes by it any more: with
/// [`RouteError::NoRoute`] if there is none. What was handed over before is still handled.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), RouteError>")]
pub struct Unregister(pub MsgId);

/// Answers the route of an id, if it has one.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<Route>")]
pub struct Lookup(pub MsgId);

/// Sends a message to the route of its id, on its connection's worker. Answered with
/// [`RouteError::NoRoute`] if there is none; the message is dropped then, unanswered.
///
/// This is for actors that have an [`Inbound`] to pass on; messages from the socket do not come
/// this way, so their order is not touched by it.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), RouteError>")]
pub struct Dispatch(pub Inbound);

/// A message for the workers: the one that has its connection delivers it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Redeliver(pub(crate) Inbound);

/// What the router needs of a worker.
#[derive(Clone)]
pub(crate) struct RouterWorker {
    pub(crate) publish: Recipient<Publish>,
    pub(crate) redeliver: Recipient<Redeliver>,
}

/// The registry actor: one a server. It owns the routes and publishes them to the workers, so that
/// a message goes from its connection straight to its handler.
///
/// Started on its own ([`Router::new`]), without a server, it delivers on its own thread.
pub struct Router {
    table: FxHashMap<MsgId, Route>,
    workers: Vec<RouterWorker>,
    /// The routes of this thread, for a router without workers.
    local: LocalTable,
    surroundings: Surroundings,
}

impl Router {
    /// A router without workers: it delivers what is dispatched to it.
    #[must_use = "a router does nothing until it is started as an actor"]
    pub fn new() -> Self {
        Self::with_workers(Vec::new(), Surroundings::default())
    }

    pub(crate) fn with_workers(workers: Vec<RouterWorker>, surroundings: Surroundings) -> Self {
        Self { table: FxHashMap::default(), workers, local: LocalTable::default(), surroundings }
    }

    /// Adds all of these routes, or none.
    fn add(
        &mut self,
        routes: Vec<(MsgId, Route)>,
    ) -> Result<impl Future<Output = ()> + use<>, RouteError> {
        let mut new = FxHashSet::default();
        let taken = |(id, _): &&(MsgId, Route)| self.table.contains_key(id) || !new.insert(*id);
        if let Some(&(id, _)) = routes.iter().find(taken) {
            return Err(RouteError::Duplicate(id));
        }
        let mut changes = Vec::with_capacity(routes.len());
        for (id, route) in routes {
            self.surroundings.events.emit(Event::RouteAdded { id, kind: route.kind() });
            changes.push(Change::Add(id, Arc::clone(&route.0)));
            self.table.insert(id, route);
        }
        Ok(self.publish(changes))
    }

    /// Has everybody make these changes; done when everybody has.
    fn publish(&mut self, changes: Vec<Change>) -> impl Future<Output = ()> + use<> {
        let changes = Arc::new(changes);
        let mut followed = Vec::new();
        if self.workers.is_empty() {
            self.local.update(Arc::clone(&changes), &self.surroundings);
        }
        for worker in &self.workers {
            let (until_followed, follows) = oneshot::channel();
            followed.push(follows);
            worker.publish.do_send(Publish { changes: Arc::clone(&changes), until_followed });
        }
        table::bury(changes);
        async move {
            for follows in followed {
                // Nothing is sent: the other end is dropped, also by a worker that is gone and routes by
                // nothing any more.
                let _ = follows.await;
            }
        }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

handle_surely!(Router: Register, Unregister);

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // What waits for room in a mailbox is overtaken by what comes later.
        ctx.set_mailbox_capacity(0);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.local.clear();
    }
}

impl Handler<RegisterAll> for Router {
    type Result = ResponseFuture<Result<(), RouteError>>;

    fn handle(&mut self, RegisterAll(routes): RegisterAll, _: &mut Context<Self>) -> Self::Result {
        let added = self.add(routes);
        Box::pin(async move {
            added?.await;
            Ok(())
        })
    }
}

impl Handler<Register> for Router {
    type Result = ResponseFuture<Result<(), RouteError>>;

    fn handle(
        &mut self,
        Register { id, route }: Register,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        Handler::handle(self, RegisterAll(vec![(id, route)]), ctx)
    }
}

impl Handler<Unregister> for Router {
    type Result = ResponseFuture<Result<(), RouteError>>;

    fn handle(&mut self, Unregister(id): Unregister, _: &mut Context<Self>) -> Self::Result {
        let Some(route) = self.table.remove(&id) else {
            return Box::pin(async move { Err(RouteError::NoRoute(id)) });
        };
        self.surroundings.events.emit(Event::RouteRemoved { id });
        let published = self.publish(vec![Change::Remove(id)]);
        // What a route has captured may panic when it is dropped.
        let _ = contained(|| drop(route));
        Box::pin(async move {
            published.await;
            Ok(())
        })
    }
}

impl Handler<Lookup> for Router {
    type Result = Option<Route>;

    fn handle(&mut self, Lookup(id): Lookup, _: &mut Context<Self>) -> Self::Result {
        self.table.get(&id).cloned()
    }
}

impl Handler<Dispatch> for Router {
    type Result = Result<(), RouteError>;

    fn handle(&mut self, Dispatch(message): Dispatch, _: &mut Context<Self>) -> Self::Result {
        let id = message.id();
        if !self.table.contains_key(&id) {
            return Err(RouteError::NoRoute(id));
        }
        match self.workers.get(message.conn().shared().worker()) {
            Some(worker) => worker.redeliver.do_send(Redeliver(message)),
            None => self.local.redeliver(message),
        }
        Ok(())
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("routes", &self.table.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
