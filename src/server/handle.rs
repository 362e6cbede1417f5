//! The handle to a server, for everybody who does not run it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix::{Actor, Addr, ArbiterHandle, Context, Handler, Message};
use tokio::sync::watch;

use super::gate::Gate;
use crate::conn::{Budget, ConnId, IntakeBudget, Limits, Overflow, SendError};
use crate::conn_manager::{
    Broadcast, BroadcastReport, ClearConn, ConnManager, ConnNotFound, Connections, Remove,
    SetMaxConn,
};
use crate::endpoint::ListenAddr;
#[cfg(feature = "tls")]
use crate::event::Event;
use crate::event::{Events, Stats};
use crate::frame::{Frame, MsgId};
use crate::router::{Home, Register, Route, RouteError, Router, SupervisedAddr, Unregister};
use crate::surely::Surely;
use crate::transport::Layers;
#[cfg(feature = "tls")]
use crate::transport::tls::TlsError;

/// A handle to a server: cheap to clone, usable from any thread and after the server's end.
#[derive(Clone)]
pub struct ServerHandle(Arc<Inner>);

struct Inner {
    /// Where it listens; at least one.
    addrs: Vec<ListenAddr>,
    manager: Addr<ConnManager>,
    router: Addr<Router>,
    connections: Connections,
    events: Arc<Events>,
    budget: Arc<Budget>,
    intake: Option<Arc<IntakeBudget>>,
    gate: Gate,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "certificates are reloaded"))]
    layers: Arc<Layers>,
    /// Written by handles that ask for the stop and by the server itself; it only grows.
    phase: watch::Sender<Phase>,
}

/// How far a server's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    Stopping,
    Stopped,
}

impl ServerHandle {
    pub(crate) fn new(
        addrs: Vec<ListenAddr>,
        manager: Addr<ConnManager>,
        router: Addr<Router>,
        connections: Connections,
        limits: &Limits,
        gate: Gate,
        layers: Arc<Layers>,
    ) -> Self {
        let (events, budget) = (Arc::clone(&limits.events), Arc::clone(&limits.budget));
        let (phase, _) = watch::channel(Phase::Running);
        Self(Arc::new(Inner {
            addrs,
            manager,
            router,
            connections,
            events,
            budget,
            intake: limits.intake.clone(),
            gate,
            layers,
            phase,
        }))
    }

    /// The address the server listens on; the first, if there are more.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addrs[0].addr
    }

    /// All addresses the server listens on, in the order of its settings.
    pub fn listen_addrs(&self) -> &[ListenAddr] {
        &self.0.addrs
    }

    /// The actor that tracks the connections. It ends with the server: messages for it fail then.
    pub fn conn_manager(&self) -> &Addr<ConnManager> {
        &self.0.manager
    }

    /// The actor that keeps the routes. It ends with the server: messages for it fail then.
    pub fn router(&self) -> &Addr<Router> {
        &self.0.router
    }

    /// The connection table, to be read without asking the manager.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.0.events.stats()
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.0.events
    }

    /// Bytes accepted for sending that peers do not take at present, of all connections together: what
    /// `max_unsent_bytes` bounds.
    pub fn unsent_bytes(&self) -> usize {
        self.0.budget.used()
    }

    /// Bytes received and not handed out at present, of all connections together: what `max_inbound_bytes`
    /// bounds. 0 if nothing does.
    pub fn inbound_bytes(&self) -> usize {
        self.0.intake.as_ref().map_or(0, |intake| intake.held())
    }

    /// Sends a frame to all connections: see [`Broadcast`].
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] if no outbox could ever take the frame.
    ///
    /// # Cancel safety
    ///
    /// The broadcast is under way as soon as this is called, so dropping the future loses only the
    /// report.
    pub fn broadcast<F: Into<Frame>>(
        &self,
        frame: F,
    ) -> impl Future<Output = Result<BroadcastReport, SendError>> + use<F> {
        // A manager that is gone has no connections.
        let nobody = Ok(BroadcastReport::default());
        surely(&self.0.manager, Broadcast::new(frame), nobody)
    }

    /// As [`broadcast`](Self::broadcast), with a policy of its own for outboxes that have no room.
    ///
    /// # Errors
    ///
    /// As `broadcast`.
    ///
    /// # Cancel safety
    ///
    /// As `broadcast`.
    pub fn broadcast_with<F: Into<Frame>>(
        &self,
        frame: F,
        overflow: Overflow,
    ) -> impl Future<Output = Result<BroadcastReport, SendError>> + use<F> {
        let broadcast = Broadcast { overflow: Some(overflow), ..Broadcast::new(frame) };
        surely(&self.0.manager, broadcast, Ok(BroadcastReport::default()))
    }

    /// Changes the limit of connections: see [`SetMaxConn`]. Answers the one before.
    ///
    /// # Cancel safety
    ///
    /// The limit is changed all the same when the future is dropped.
    pub fn set_max_conn(&self, max_conn: usize) -> impl Future<Output = usize> + use<> {
        surely(&self.0.manager, SetMaxConn(max_conn), max_conn)
    }

    /// Stops listening, at all endpoints: the port is free, and whoever dials it is refused by the system, or taken by
    /// the process that listens on it next. Connections go on. Done when the listener is closed and all
    /// dials that the system had taken are admitted or refused; with `when_full: wait`, those without a
    /// place go on waiting. A server that does not serve yet is suspended when it does.
    ///
    /// Does nothing if the server is suspended already, or has ended.
    ///
    /// # Cancel safety
    ///
    /// The server is suspended all the same when the future is dropped.
    pub fn suspend(&self) -> impl Future<Output = ()> + use<> {
        self.0.gate.close()
    }

    /// Listens again, on the same addresses: on all of them, or on none. Does nothing if the server is not suspended.
    ///
    /// # Errors
    ///
    /// When an address is not to be had any more, or the server has ended. It stays suspended then.
    ///
    /// # Cancel safety
    ///
    /// The server is resumed all the same when the future is dropped.
    pub fn resume(&self) -> impl Future<Output = io::Result<()>> + use<> {
        self.0.gate.open()
    }

    /// Reads the files of `tls_cert`, `tls_key` and `tls_client_ca` again. Handshakes from now on are made
    /// with them; connections that are there are not touched.
    ///
    /// It blocks the thread while it reads, which takes for ever if a file is a pipe that nobody writes to, or on
    /// a machine that is away. Do not call it in a handler or a hook, which run on a worker's thread;
    /// [`reload_tls_detached`](Self::reload_tls_detached) is for those.
    ///
    /// # Errors
    ///
    /// [`TlsError`], if the files are not good, or the server has no endpoint with TLS. What was read
    /// before stays in use then.
    #[cfg(feature = "tls")]
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        let tls = self.0.layers.tls();
        let reloaded = tls.ok_or(TlsError::Unused).and_then(|tls| tls.reload().map(|()| tls));
        self.0.events.emit(match &reloaded {
            Ok(tls) => {
                let files = &tls.files;
                let client_ca = files.client_ca.as_deref();
                Event::TlsReloaded { cert: &files.cert, key: &files.key, client_ca }
            }
            Err(why) => Event::TlsNotReloaded { why },
        });
        reloaded.map(drop)
    }

    /// As [`reload_tls`](Self::reload_tls), on a thread of its own: neither the caller's thread nor a stop
    /// of the server waits for files that cannot be read. There is one such thread at a time; who calls
    /// this meanwhile waits for its turn. On Unix, SIGHUP does this, unless signals are left to the application.
    ///
    /// # Errors
    ///
    /// As those of `reload_tls`; [`TlsError::Thread`], if there is no thread to be had.
    ///
    /// # Cancel safety
    ///
    /// Reading goes on when the future is dropped, if its turn has come; else it does not begin.
    #[cfg(feature = "tls")]
    pub async fn reload_tls_detached(&self) -> Result<(), TlsError> {
        let Some(tls) = self.0.layers.tls() else { return self.reload_tls() };
        let turn = Arc::clone(&tls.reloading).lock_owned().await;
        let (tell, told) = tokio::sync::oneshot::channel();
        let handle = self.clone();
        // Not one of the runtime's, which are waited for when it ends.
        let thread = std::thread::Builder::new().name("zinxide-reload".to_owned());
        let started = thread.spawn(move || {
            let _turn = turn;
            // Nobody may wait any more.
            let _ = tell.send(handle.reload_tls());
        });
        if let Err(error) = started {
            let why = TlsError::Thread(error);
            self.0.events.emit(Event::TlsNotReloaded { why: &why });
            return Err(why);
        }
        let panicked = |_| Err(TlsError::Thread(io::Error::other("it panicked")));
        told.await.unwrap_or_else(panicked)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn has_tls(&self) -> bool {
        self.0.layers.tls().is_some()
    }

    /// Closes all connections: see [`ClearConn`].
    ///
    /// # Cancel safety
    ///
    /// The connections are closed all the same when the future is dropped.
    pub fn clear_conn(&self) -> impl Future<Output = usize> + use<> {
        surely(&self.0.manager, ClearConn, 0)
    }

    /// Closes one connection: see [`Remove`].
    ///
    /// # Errors
    ///
    /// [`ConnNotFound`] if there is none with this id (any more).
    ///
    /// # Cancel safety
    ///
    /// The connection is closed all the same when the future is dropped.
    pub fn remove(&self, id: ConnId) -> impl Future<Output = Result<(), ConnNotFound>> + use<> {
        surely(&self.0.manager, Remove(id), Err(ConnNotFound(id)))
    }

    /// Adds a route while the server runs: see [`Register`].
    ///
    /// # Errors
    ///
    /// [`RouteError::Duplicate`] if the id has one.
    ///
    /// # Cancel safety
    ///
    /// The route is added all the same when the future is dropped.
    pub fn register(
        &self,
        id: MsgId,
        route: Route,
    ) -> impl Future<Output = Result<(), RouteError>> + use<> {
        // A router that is gone has nobody to route for.
        surely(&self.0.router, Register { id, route }, Ok(()))
    }

    /// Takes a route away while the server runs: see [`Unregister`].
    ///
    /// # Errors
    ///
    /// [`RouteError::NoRoute`] if the id has none.
    ///
    /// # Cancel safety
    ///
    /// The route is taken away all the same when the future is dropped.
    pub fn unregister(&self, id: MsgId) -> impl Future<Output = Result<(), RouteError>> + use<> {
        surely(&self.0.router, Unregister(id), Err(RouteError::NoRoute(id)))
    }

    /// Starts an actor of the application on this thread, and starts it again when it dies: see
    /// [`SupervisedAddr`]. Its deaths are events of this server.
    ///
    /// # Panics
    ///
    /// Without an actix system or arbiter on this thread.
    pub fn supervised<A, F>(&self, factory: F) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + 'static,
    {
        Home::of(self.events()).supervise(factory)
    }

    /// As [`supervised`](Self::supervised), on the thread of this arbiter. If the arbiter has ended, so has
    /// the actor.
    pub fn supervised_on<A, F>(&self, arbiter: &ArbiterHandle, factory: F) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + Send + 'static,
    {
        Home::of(self.events()).supervise_on(arbiter, factory)
    }

    /// Drains and stops the server; done when it has stopped. Does nothing the second time. A
    /// [`BoundServer`](crate::BoundServer) that is neither served nor dropped does not stop.
    ///
    /// Do not await it in a handler: the drain waits for that handler, until its deadline.
    ///
    /// # Cancel safety
    ///
    /// The stop goes on when the future is dropped.
    pub fn stop(&self) -> impl Future<Output = ()> + use<> {
        self.advance(Phase::Stopping);
        let handle = self.clone();
        async move { handle.reached(Phase::Stopped).await }
    }

    pub(crate) async fn stop_requested(&self) {
        self.reached(Phase::Stopping).await;
    }

    pub(crate) fn advance(&self, phase: Phase) {
        self.0.phase.send_if_modified(|now| {
            let grows = *now < phase;
            *now = phase.max(*now);
            grows
        });
    }

    async fn reached(&self, phase: Phase) {
        // The sender lives in this very handle, so the channel is never closed.
        let _ = self.0.phase.subscribe().wait_for(|now| *now >= phase).await;
    }
}

/// Sends `message` now; the future has the answer, or `else_` if the actor is gone.
fn surely<A, M>(
    actor: &Addr<A>,
    message: M,
    else_: M::Result,
) -> impl Future<Output = M::Result> + use<A, M>
where
    A: Actor<Context = Context<A>> + Handler<Surely<M>>,
    M: Message<Result: Send> + Send + 'static,
{
    let (surely, answered) = Surely::new(message);
    actor.do_send(surely);
    async move { answered.await.unwrap_or(else_) }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("addrs", &self.0.addrs)
            .field("phase", &*self.0.phase.borrow())
            .field("connections", &self.0.connections.len())
            .finish_non_exhaustive()
    }
}
