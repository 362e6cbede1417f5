//! Builds a server out of its parts and runs it to its end.

mod acceptor;
mod bound;
mod course;
mod error;
mod front;
mod gate;
mod handle;
mod listeners;
mod preface;
mod refusal;
mod report;
mod signals;
mod stop;
mod watchdog;
mod worker;

use std::fmt;
use std::sync::Arc;

use actix::{Actor, ArbiterHandle, Context, Handler, System};
use rustc_hash::FxHashMap;
#[cfg(feature = "tls")]
use rustls::crypto::CryptoProvider;

use crate::codec::framing::Framing;
use crate::conn::{CloseReason, Conn, Limits};
use crate::conn_manager::{AddError, Admission, ConnManager};
use crate::connection::{Heartbeat, Hooks, Watermark};
use crate::event::{Event, Events, Observer};
use crate::frame::{Frame, MsgId};
use crate::inbound::Inbound;
use crate::router::{Home, IntoReply, RegisterAll, Route, Router, SupervisedAddr, Surroundings};
use crate::settings::Settings;
use crate::transport::Layers;
#[cfg(feature = "ws")]
use crate::transport::ws::{Auth, Rules, Upgrade};
use crate::unwind::Guard;
pub use bound::BoundServer;
use bound::StoppedOnDrop;
use course::Course;
pub use error::ServerError;
use front::{Actors, Front};
pub(crate) use gate::Gate;
pub use handle::ServerHandle;
use refusal::Refusal;
pub use report::StopReport;
use worker::Workers;

/// A server to be: settings, routes and hooks.
///
/// It needs a running actix [`System`]: `#[actix::main]` or `#[actix::test]`.
#[must_use = "a server does nothing until it is served"]
pub struct Server {
    settings: Settings,
    routes: Vec<(MsgId, RouteMaker)>,
    /// Where the deaths of actors that are supervised for it are told.
    home: Home,
    hooks: Hooks,
    observer: Option<Observer>,
    costs: FxHashMap<MsgId, u32>,
    refusal: Refusal,
    notice: Option<Frame>,
    framing: Option<Arc<dyn Framing>>,
    #[cfg(feature = "tls")]
    tls_provider: Option<Arc<CryptoProvider>>,
    #[cfg(feature = "ws")]
    ws_auth: Option<Arc<dyn Auth>>,
    signals: bool,
}

/// What a server is made of, each in the form in which it is needed.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) routes: Vec<(MsgId, RouteMaker)>,
    pub(crate) hooks: Hooks,
    pub(crate) limits: Arc<Limits>,
    pub(crate) surroundings: Surroundings,
}

/// Makes a route when the server that it may want a handle to is there.
pub(crate) type RouteMaker = Box<dyn FnOnce(&ServerHandle) -> Route>;

impl Server {
    /// A server with these settings, without routes and hooks.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            routes: Vec::new(),
            home: Home::to_be(),
            hooks: Hooks::default(),
            observer: None,
            costs: FxHashMap::default(),
            refusal: Refusal::new(None),
            notice: None,
            framing: None,
            #[cfg(feature = "tls")]
            tls_provider: None,
            #[cfg(feature = "ws")]
            ws_auth: None,
            signals: true,
        }
    }

    /// Messages with this id go to a handler actor, of which `factory` makes one on each worker:
    /// see [`Route::actor`].
    pub fn route<A, F>(self, id: MsgId, factory: F) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Inbound>,
        F: Fn() -> A + Send + Sync + 'static,
    {
        self.add_route(id, Route::actor(factory))
    }

    /// Messages with this id go to one shared actor: to its `Addr`, a `Recipient<Inbound>` of it, or a
    /// [`SupervisedAddr`]. See [`Route::to`]. It runs where it was started: by `.start()` in `main`, on
    /// main's thread, on which nothing of the server runs.
    pub fn route_to(self, id: MsgId, actor: impl Into<Route>) -> Self {
        self.add_route(id, actor.into())
    }

    /// Starts an actor of the application on this thread, and starts it again when it dies: see
    /// [`SupervisedAddr`]. Its deaths are events of this server, whether it has a route or not; before
    /// [`bind`](Self::bind) they are only logged.
    ///
    /// An actor that has much to do should not share the thread of `main`: see
    /// [`supervised_on`](Self::supervised_on).
    ///
    /// # Panics
    ///
    /// Without an actix system or arbiter on this thread.
    pub fn supervised<A, F>(&self, factory: F) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + 'static,
    {
        self.home.supervise(factory)
    }

    /// As [`supervised`](Self::supervised), on the thread of this arbiter; `Arbiter::new()` starts a thread.
    /// If the arbiter has ended, so has the actor.
    pub fn supervised_on<A, F>(&self, arbiter: &ArbiterHandle, factory: F) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + Send + 'static,
    {
        self.home.supervise_on(arbiter, factory)
    }

    /// Messages with this id go to an async function, whose return value is the answer: see
    /// [`Route::function`].
    pub fn route_fn<F, R>(self, id: MsgId, f: F) -> Self
    where
        F: AsyncFn(Inbound) -> R + Send + Sync + 'static,
        R: IntoReply + 'static,
    {
        self.add_route(id, Route::function(f))
    }

    /// Messages with this id take this route. Two routes for one id are an error of
    /// [`bind`](Self::bind); one route, cloned, may serve several ids, and if it is an actor's, by
    /// one actor on each worker.
    pub fn add_route(self, id: MsgId, route: Route) -> Self {
        self.route_with(id, |_| route)
    }

    /// Messages with this id take the route that `make` makes, which may keep the handle to the
    /// server: to broadcast, say. It is called by [`bind`](Self::bind), on the thread that calls that.
    ///
    /// ```
    /// use zinxide::{Frame, Inbound, Route, Server, Settings};
    ///
    /// let server = Server::new(Settings::default()).route_with(7, |server| {
    ///     let server = server.clone();
    ///     Route::function(async move |mut msg: Inbound| {
    ///         // An error would mean that the message is larger than an outbox.
    ///         server.broadcast(Frame::new(7, msg.take_payload())).await.map(drop)
    ///     })
    /// });
    /// ```
    pub fn route_with(
        mut self,
        id: MsgId,
        make: impl FnOnce(&ServerHandle) -> Route + 'static,
    ) -> Self {
        let make = Guard::new(make);
        self.routes.push((id, Box::new(move |server| make.into_inner()(server))));
        self
    }

    /// Calls `hook` when a connection has been admitted, before its first message is handled.
    ///
    /// It runs on the connection's worker and holds it up, so it must not block. The connection
    /// gets no broadcast before it. If it panics, the connection is closed with
    /// [`CloseReason::HookPanicked`]. It is not called for refused connections.
    pub fn on_conn_start(mut self, hook: impl Fn(&Conn) + Send + Sync + 'static) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_start = Some(Box::new(move |conn| hook(conn)));
        self
    }

    /// Calls `hook` when a connection has ended, after its last message: exactly once for each
    /// connection that [`on_conn_start`](Self::on_conn_start) was called for, or would have been.
    ///
    /// It runs on the connection's worker and holds it up, so it must not block. The socket is
    /// closed by then: sending answers `Closed`. Properties are still there, and are dropped after it. A panic in it is
    /// logged.
    pub fn on_conn_stop(
        mut self,
        hook: impl Fn(&Conn, &CloseReason) + Send + Sync + 'static,
    ) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_stop = Some(Box::new(move |conn, why| hook(conn, why)));
        self
    }

    /// Calls `hook` when the peer of a connection takes less than what is sent to it, and when it has
    /// made up for that: see [`Watermark`].
    ///
    /// It runs on the connection's worker and holds it up, so it must not block. A panic in it is
    /// logged.
    pub fn on_watermark(mut self, hook: impl Fn(&Conn, Watermark) + Send + Sync + 'static) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_watermark = Some(Box::new(move |conn, mark| hook(conn, mark)));
        self
    }

    /// Tells `observer` of everything that happens, beside the log and the counters: for metrics, say.
    ///
    /// It runs wherever something happens, on any thread, and holds that up, so it must not block. The
    /// thread that accepts is no [`Arbiter`](actix_rt::Arbiter). What it
    /// does is told it as well: if it sends, it must know when to stop. A panic in it is logged.
    pub fn on_event(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let observer = Guard::new(observer);
        self.observer = Some(Box::new(move |event| observer(event)));
        self
    }

    /// Cuts frames out of the byte stream by `framing`, instead of by the setting `wire_format`.
    pub fn framing(mut self, framing: impl Framing) -> Self {
        self.framing = Some(Arc::new(Guard::new(framing)));
        self
    }

    /// Counts a message with this id as `cost` messages for the setting `rate_messages`, but not for more
    /// than a burst; 0 for one that is free. Every other message counts as one.
    pub fn route_cost(mut self, id: MsgId, cost: u32) -> Self {
        self.costs.insert(id, cost);
        self
    }

    /// Sends a peer that is not admitted a frame that says why, if `frame` makes one. The socket is
    /// closed when the peer has closed its side, or a second later; with TLS, `handshake_deadline_ms`
    /// bounds what comes before. Over WebSocket, the peer is answered by an HTTP status instead.
    ///
    /// It runs on the thread that accepts, which is no [`Arbiter`](actix_rt::Arbiter), and holds it up, so
    /// it must not block. A panic in it leaves
    /// the frame out, and so does a payload above 4 GiB. If 256 peers are waited for already, the next one
    /// gets what its socket takes at once.
    ///
    /// ```
    /// use zinxide::{Frame, Server, Settings};
    ///
    /// let server = Server::new(Settings::default())
    ///     .refusal(|why| Some(Frame::new(9, why.to_string())));
    /// ```
    pub fn refusal(
        mut self,
        frame: impl Fn(&AddError) -> Option<Frame> + Send + Sync + 'static,
    ) -> Self {
        let frame = Guard::new(frame);
        self.refusal = Refusal::new(Some(Box::new(move |why| frame(why))));
        self
    }

    /// Sends this frame to every connection when the server is about to stop. Set `notice_ms`, too: for so
    /// long, or until all have left, it serves on, for clients to say what they have to say.
    ///
    /// An outbox without room does not get it. One that could never take it is an error of
    /// [`bind`](Self::bind).
    pub fn shutdown_notice(mut self, frame: impl Into<Frame>) -> Self {
        self.notice = Some(frame.into().guarded());
        self
    }

    /// Sends heartbeats to every connection, and closes those whose peers give no sign of life.
    ///
    /// If the heartbeat's id has no route, what peers send back with it is taken without a word.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.hooks.heartbeat = Some(heartbeat);
        self
    }

    /// Has this do the cryptography of TLS, in place of ring with all that it can do: a library of the
    /// application's own, or fewer cipher suites. One with which no version of TLS can be spoken is an error of
    /// [`bind`](Self::bind); endpoints without TLS have no use for it.
    ///
    /// Session tickets, which clients keep and only the server reads, are encrypted by ring in any case.
    ///
    /// The types are those of [`crate::rustls`], of which other versions do not fit.
    ///
    /// ```
    /// use zinxide::rustls::crypto::ring::{self, cipher_suite};
    /// use zinxide::rustls::crypto::CryptoProvider;
    /// use zinxide::{Server, Settings};
    ///
    /// let server = Server::new(Settings::default()).tls_provider(CryptoProvider {
    ///     cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384],
    ///     ..ring::default_provider()
    /// });
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.tls_provider = Some(provider.into());
        self
    }

    /// Asks `admits` for each request for a WebSocket whether its peer may connect; who may not is
    /// answered 401. It may remember in the connection's [properties](Conn::set_property) who the peer
    /// is, which `on_conn_start` finds there.
    ///
    /// The connection counts among `max_conn` meanwhile, and `handshake_deadline_ms` bounds how long
    /// that takes. It runs on the connection's worker, so it must not block. If it panics, the answer is
    /// 500.
    ///
    /// JavaScript in a browser can set no header of the request: a page has the [query](Upgrade::query), its
    /// cookies and the subprotocols for a token. Which subprotocol is spoken is decided after this.
    ///
    /// ```
    /// use zinxide::{Conn, Server, Settings, Upgrade};
    ///
    /// /// Who a peer says it is.
    /// struct User(String);
    ///
    /// let server = Server::new(Settings::default()).ws_auth(async |request: &Upgrade, conn: &Conn| {
    ///     let Some(token) = request.header("authorization") else { return false };
    ///     conn.set_property(User(token.to_owned())); // look it up somewhere first
    ///     true
    /// });
    /// ```
    #[cfg(feature = "ws")]
    pub fn ws_auth(
        mut self,
        admits: impl AsyncFn(&Upgrade, &Conn) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ws_auth = Some(Arc::new(Guard::new(admits)));
        self
    }

    /// Leaves SIGINT and SIGTERM to the application, which stops the server by
    /// [`ServerHandle::stop`]. By default the first signal drains the server and the second ends
    /// it at once.
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// Listens, and starts the workers and the thread that accepts. Dials are taken by the system from
    /// now on, and by the server from [`BoundServer::serve`] on.
    ///
    /// Certificates are read here, on this thread, which waits for files that are pipes or far away. Signals still do
    /// then what they did before.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: bad settings, two routes with one id, an address that is not to be had, too few
    /// threads or descriptors for the workers, no actix system. Whatever was started is stopped then.
    pub async fn bind(mut self) -> Result<BoundServer, ServerError> {
        let Self { signals, .. } = self;
        self.settings.validate()?;
        if System::try_current().is_none() {
            return Err(ServerError::NoSystem);
        }
        let notice = self.notice.take();
        #[cfg(feature = "tls")]
        let provider = self.tls_provider.take();
        #[cfg(feature = "ws")]
        let auth = self.ws_auth.take();
        let refusal = std::mem::replace(&mut self.refusal, Refusal::new(None));
        let Parts { settings, routes, hooks, limits, surroundings } = self.into_parts();
        let notice = notice.map(|frame| limits.check(frame)).transpose();
        let notice = notice.map_err(|error| ServerError::Notice(error.into_frame()))?;
        let layers = Layers::default();
        #[cfg(feature = "tls")]
        let layers = layers.with_tls(&settings, provider)?;
        #[cfg(feature = "ws")]
        let layers = layers.with_ws(Rules::new(&settings, auth), limits.codec.clone());
        let listeners = listeners::bind(&settings.endpoints(), &layers).await?;
        let addrs = listeners.iter().map(|listener| listener.at.clone()).collect();

        let workers = Workers::start(&settings, &Arc::new(hooks), &limits, &surroundings)?;
        let (admission, shared_limits) = (Admission::new(&settings), Arc::clone(&limits));
        let (fanouts, for_router) = (workers.fanouts(), workers.for_router());
        let front = Front::start(move || {
            let manager = ConnManager::with_workers(admission, shared_limits, fanouts);
            (manager, Router::with_workers(for_router, surroundings))
        });
        let (front, Actors { manager, router, connections }) = match front.await {
            Ok(started) => started,
            Err(error) => {
                workers.call_off();
                return Err(ServerError::AcceptThread(error));
            }
        };
        let (gate, knocks) = Gate::new(listeners.len());
        let handle =
            ServerHandle::new(addrs, manager, router, connections, &limits, gate, Arc::new(layers));
        let told = StoppedOnDrop(handle.clone());
        // From here on its drop closes everything, if this function does not come to its end.
        let course = Course {
            settings,
            listeners,
            knocks,
            limits,
            workers,
            handle: handle.clone(),
            refusal,
            notice,
            signals,
            told,
        };
        let routes = routes.into_iter().map(|(id, make)| (id, make(&handle))).collect();
        let registered = handle.router().send(RegisterAll(routes)).await;
        registered.map_err(|_| ServerError::AcceptPanicked)??;
        Ok(BoundServer { course, front })
    }

    pub(crate) fn into_parts(self) -> Parts {
        let Self { settings, routes, home, hooks, observer, costs, framing, .. } = self;
        let events = Events::start(observer);
        home.settle(&events);
        let mut limits = settings.limits(Arc::clone(&events));
        limits.rates.costs = costs;
        limits.codec = settings.codec(framing);
        let surroundings = Surroundings { events, while_down: settings.while_handler_down };
        Parts { settings, routes, hooks, limits: Arc::new(limits), surroundings }
    }

    /// Binds and serves until a signal or [`ServerHandle::stop`].
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind) and [`BoundServer::serve`].
    pub async fn serve(self) -> Result<StopReport, ServerError> {
        self.bind().await?.serve().await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.routes.iter().map(|(id, _)| id).collect();
        f.debug_struct("Server")
            .field("settings", &self.settings)
            .field("routes", &ids)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
