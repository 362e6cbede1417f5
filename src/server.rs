//! Builds a server out of its parts and runs it to its end.

mod acceptor;
mod handle;
mod signals;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, Recipient, System};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use crate::conn::{CloseReason, Conn, Limits};
use crate::conn_manager::{ConnManager, Drain};
use crate::connection::{Heartbeat, Hooks};
use crate::event::{self, Counters};
use crate::frame::MsgId;
use crate::inbound::Inbound;
use crate::router::{IntoReply, Register, Route, RouteError, Router};
use crate::settings::{Settings, SettingsError};
use acceptor::Acceptor;
use handle::Phase;
pub use handle::ServerHandle;
use signals::Signals;
use worker::Workers;

/// How many dials the system keeps while the acceptor is busy; the system may keep fewer.
const BACKLOG: u32 = 4096;

/// What the end of a connection may take beyond its drain deadline: its handler's grace.
const DRAIN_SLACK: Duration = Duration::from_millis(100);

/// A server to be: settings, routes and hooks.
///
/// It needs a running actix [`System`]: `#[actix::main]` or `#[actix::test]`.
#[must_use = "a server does nothing until it is served"]
pub struct Server {
    settings: Settings,
    routes: Vec<(MsgId, RouteMaker)>,
    hooks: Hooks,
    signals: bool,
}

/// Makes a route when the server that it may want a handle to is there.
type RouteMaker = Box<dyn FnOnce(&ServerHandle) -> Route>;

/// Why a server did not start, or ended otherwise than by a stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Two routes have one id.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No actix system runs on this thread.
    #[error("no actix system runs on this thread; use #[actix::main]")]
    NoSystem,
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// Host and port of the settings.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// The handlers for SIGINT and SIGTERM cannot be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The listener is dead.
    #[error("the listener failed: {0}")]
    Accept(#[source] io::Error),
    /// A second signal ended the server before it was drained.
    #[error("stopped at once by a second signal, {left} connections were left")]
    Forced {
        /// Connections that were there.
        left: usize,
    },
}

impl Server {
    /// A server with these settings, without routes and hooks.
    pub fn new(settings: Settings) -> Self {
        Self { settings, routes: Vec::new(), hooks: Hooks::default(), signals: true }
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

    /// Messages with this id go to one shared actor: see [`Route::to`].
    pub fn route_to(self, id: MsgId, recipient: Recipient<Inbound>) -> Self {
        self.add_route(id, Route::to(recipient))
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
    /// server: to broadcast, say.
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
        self.routes.push((id, Box::new(make)));
        self
    }

    /// Calls `hook` when a connection has been admitted, before its first message is handled.
    ///
    /// It runs on the connection's worker and holds it up, so it must not block. The connection
    /// gets no broadcast before it. If it panics, the connection is closed with
    /// [`CloseReason::HookPanicked`]. It is not called for refused connections.
    pub fn on_conn_start(mut self, hook: impl Fn(&Conn) + Send + Sync + 'static) -> Self {
        self.hooks.on_start = Some(Box::new(hook));
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
        self.hooks.on_stop = Some(Box::new(hook));
        self
    }

    /// Sends heartbeats to every connection, and closes those whose peers give no sign of life.
    ///
    /// If the heartbeat's id has no route, what peers send back with it is taken without a word.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.hooks.heartbeat = Some(heartbeat);
        self
    }

    /// Leaves SIGINT and SIGTERM to the application, which stops the server by
    /// [`ServerHandle::stop`]. By default the first signal drains the server and the second ends
    /// it at once.
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// Listens, and starts the workers. Dials are taken by the system from now on, and by the
    /// server from [`BoundServer::serve`] on.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: bad settings, two routes with one id, an address that is not to be had, no
    /// actix system.
    pub async fn bind(self) -> Result<BoundServer, ServerError> {
        let Self { settings, routes, hooks, signals } = self;
        settings.validate()?;
        if System::try_current().is_none() {
            return Err(ServerError::NoSystem);
        }
        let listener = listen(&settings).map_err(|source| ServerError::Bind {
            addr: format!("{}:{}", settings.host, settings.tcp_port),
            source,
        })?;
        let bind_error = |source| ServerError::Bind { addr: settings.host.clone(), source };
        let addr = listener.local_addr().map_err(bind_error)?;

        let counters = Arc::new(Counters::default());
        let limits = Arc::new(settings.limits(Arc::clone(&counters)));
        let workers = Workers::start(settings.workers(), &Arc::new(hooks), &limits);
        let manager =
            ConnManager::with_workers(settings.max_conn, Arc::clone(&limits), workers.fanouts());
        let connections = manager.connections();
        let manager = manager.start();
        let router = Router::with_workers(workers.for_router(), Arc::clone(&counters)).start();
        let handle = ServerHandle::new(addr, manager, router, connections, counters);
        let told = StoppedOnDrop(handle.clone());
        for (id, make) in routes {
            let route = make(&handle);
            let registered = handle.router().send(Register { id, route }).await;
            registered.map_err(|_| ServerError::NoSystem)??;
        }
        Ok(BoundServer { settings, listener, limits, workers, handle, signals, told })
    }

    pub(crate) fn into_parts(self) -> (Settings, Vec<(MsgId, RouteMaker)>, Hooks) {
        (self.settings, self.routes, self.hooks)
    }

    /// Binds and serves until a signal or [`ServerHandle::stop`].
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind) and [`BoundServer::serve`].
    pub async fn serve(self) -> Result<(), ServerError> {
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

fn listen(settings: &Settings) -> io::Result<TcpListener> {
    let addr = settings.addr()?;
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart need not wait for the connections of the run before. On Windows this
    // option means something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// A server that listens and does not accept yet.
///
/// Dropping it, or the future of its [`serve`](Self::serve), closes everything without a drain.
#[must_use = "a server does nothing until it is served"]
pub struct BoundServer {
    settings: Settings,
    listener: TcpListener,
    limits: Arc<Limits>,
    workers: Workers,
    handle: ServerHandle,
    signals: bool,
    /// Last, so that the port is free when it tells.
    told: StoppedOnDrop,
}

impl BoundServer {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// A handle, to be kept when the server serves.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until a signal or [`ServerHandle::stop`], then drains: accepts no more, lets
    /// handlers answer what was received, writes what was accepted, closes every connection, runs
    /// the hooks, ends the workers. Connections have until the drain deadline (and 100 ms for what
    /// handlers do last), a worker whose thread a handler blocks has a second; what was cut is
    /// logged.
    ///
    /// # Errors
    ///
    /// [`ServerError::Accept`] if the listener dies (connections are drained all the same),
    /// [`ServerError::Forced`] if a second signal comes, [`ServerError::Signals`].
    pub async fn serve(self) -> Result<(), ServerError> {
        // However this function ends, who waits for the stop is told: as the last thing, since it
        // is bound first.
        let Self { told: _told, settings, listener, limits, workers, handle, signals } = self;
        let mut signals = Signals::new(signals).map_err(ServerError::Signals)?;
        event::listening(
            &settings.name,
            handle.local_addr(),
            settings.max_conn,
            settings.workers(),
        );

        let mut acceptor = Acceptor::new(
            listener,
            handle.local_addr(),
            handle.conn_manager().clone(),
            &workers,
            limits,
        );
        let accepted = tokio::select! {
            error = acceptor.run() => Err(ServerError::Accept(error)),
            () = handle.stop_requested() => Ok(()),
            () = signals.next() => Ok(()),
        };
        // Closes the listener: the port is free from here on.
        drop(acceptor);
        handle.advance(Phase::Stopping);

        let deadline = Duration::from_millis(settings.drain_deadline_ms);
        event::draining(&settings.name, deadline);
        let drain = async {
            let drained = timeout(deadline + DRAIN_SLACK, handle.conn_manager().send(Drain)).await;
            if !matches!(drained, Ok(Ok(()))) {
                event::drain_cut_short(&settings.name, handle.connections().len());
            }
            workers.stop(&settings.name).await;
        };
        let drained = tokio::select! {
            () = drain => Ok(()),
            () = signals.next() => Err(ServerError::Forced { left: handle.connections().len() }),
        };
        event::stopped(&settings.name, &handle.stats());
        accepted.and(drained)
    }
}

/// Tells those who wait for the stop of a server, also of one that never served.
struct StoppedOnDrop(ServerHandle);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.advance(Phase::Stopped);
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("handle", &self.handle).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
