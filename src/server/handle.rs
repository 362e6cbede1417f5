//! The handle to a server, for everybody who does not run it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use actix::Addr;
use tokio::sync::watch;

use crate::conn::{ConnId, SendError};
use crate::conn_manager::{
    Broadcast, BroadcastReport, ClearConn, ConnManager, ConnNotFound, Connections, Remove,
};
use crate::event::{Counters, Stats};
use crate::frame::{Frame, MsgId};
use crate::router::{Register, Route, RouteError, Router, Unregister};

/// A handle to a server: cheap to clone, usable from any thread and after the server's end.
#[derive(Clone)]
pub struct ServerHandle(Arc<Inner>);

struct Inner {
    addr: SocketAddr,
    manager: Addr<ConnManager>,
    router: Addr<Router>,
    connections: Connections,
    counters: Arc<Counters>,
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
        addr: SocketAddr,
        manager: Addr<ConnManager>,
        router: Addr<Router>,
        connections: Connections,
        counters: Arc<Counters>,
    ) -> Self {
        let (phase, _) = watch::channel(Phase::Running);
        Self(Arc::new(Inner { addr, manager, router, connections, counters, phase }))
    }

    /// The address the server listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The actor that tracks the connections.
    pub fn conn_manager(&self) -> &Addr<ConnManager> {
        &self.0.manager
    }

    /// The actor that keeps the routes.
    pub fn router(&self) -> &Addr<Router> {
        &self.0.router
    }

    /// The connection table, to be read without asking the manager.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }

    /// Sends a frame to all connections: see [`Broadcast`].
    ///
    /// # Cancel safety
    ///
    /// The broadcast is under way as soon as this is called, so dropping the future loses only the
    /// report.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] if no outbox could ever take the frame.
    pub fn broadcast<F: Into<Frame>>(
        &self,
        frame: F,
    ) -> impl Future<Output = Result<BroadcastReport, SendError>> + use<F> {
        let report = self.0.manager.send(Broadcast(frame.into()));
        // A manager that is gone has no connections.
        async move { report.await.unwrap_or_else(|_| Ok(BroadcastReport::default())) }
    }

    /// Closes all connections: see [`ClearConn`].
    ///
    /// # Cancel safety
    ///
    /// The connections are closed all the same when the future is dropped.
    pub fn clear_conn(&self) -> impl Future<Output = usize> + use<> {
        let cleared = self.0.manager.send(ClearConn);
        async move { cleared.await.unwrap_or_default() }
    }

    /// Closes one connection: see [`Remove`].
    ///
    /// # Errors
    ///
    /// [`ConnNotFound`] if there is none with this id (any more).
    pub async fn remove(&self, id: ConnId) -> Result<(), ConnNotFound> {
        self.0.manager.send(Remove(id)).await.unwrap_or(Err(ConnNotFound(id)))
    }

    /// Adds a route while the server runs: see [`Register`].
    ///
    /// # Errors
    ///
    /// [`RouteError::Duplicate`] if the id has one.
    pub async fn register(&self, id: MsgId, route: Route) -> Result<(), RouteError> {
        // A router that is gone has nobody to route for.
        self.0.router.send(Register { id, route }).await.unwrap_or(Ok(()))
    }

    /// Takes a route away while the server runs: see [`Unregister`].
    ///
    /// # Errors
    ///
    /// [`RouteError::NoRoute`] if the id has none.
    pub async fn unregister(&self, id: MsgId) -> Result<(), RouteError> {
        self.0.router.send(Unregister(id)).await.unwrap_or(Err(RouteError::NoRoute(id)))
    }

    /// Drains and stops the server; done when it has stopped. Does nothing the second time.
    ///
    /// Do not await it in a handler: the drain waits for that handler, until its deadline.
    ///
    /// # Cancel safety
    ///
    /// The stop goes on when the future is dropped.
    pub async fn stop(&self) {
        self.advance(Phase::Stopping);
        self.reached(Phase::Stopped).await;
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

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("addr", &self.0.addr)
            .field("phase", &*self.0.phase.borrow())
            .field("connections", &self.0.connections.len())
            .finish_non_exhaustive()
    }
}
