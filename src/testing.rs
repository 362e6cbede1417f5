//! The kit for tests of applications: a server on a free port, a client, connections without a
//! socket. The crate's own tests are written with it.
//!
//! ```
//! use zinxide::testing::{TestClient, TestServer, settings};
//! use zinxide::{Frame, Inbound, Server};
//!
//! #[actix::main] // in a test: #[actix::test]
//! async fn main() {
//!     let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
//!     let server = TestServer::start(server).await;
//!     let mut client = TestClient::connect(server.addr()).await;
//!     client.send(1, "hello").await;
//!     assert_eq!(client.recv().await, Some(Frame::new(1, "hello")));
//!     server.stop().await.unwrap();
//! }
//! ```
//!
//! [`TestClient::connect_to`] speaks whatever a server speaks: TLS, WebSocket, both.
//!
//! # Panics
//!
//! All of it panics where a test should fail: when a socket fails, and when something takes longer
//! than [`PATIENCE`].

mod client;
#[cfg(feature = "ws")]
mod incoming;
#[cfg(feature = "ws")]
mod messages;
mod stream;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use actix_rt::task::JoinHandle;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::conn::{Conn, ConnId, Intake, Limits};
use crate::conn_manager::{Add, Admission, ConnManager, Registration};
use crate::connection::{Connection, Lives, Local, watch};
use crate::endpoint::{Endpoint, ListenAddr, Scheme};
use crate::event::Stats;
use crate::frame::{Frame, MsgId};
use crate::inbound::{Inbound, Parcel};
use crate::router::{Change, Router};
use crate::server::{Gate, Parts, Server, ServerError, ServerHandle, StopReport};
use crate::settings::Settings;
use crate::transport::{Acknowledged, Boxed, Plain};
use crate::unwind::guarded;
pub use client::TestClient;
#[cfg(feature = "ws")]
#[doc(hidden)]
pub use incoming::{Incoming, read_ws};
pub use stream::{TestStream, TestWire};

/// How long the kit waits for anything. Longer than a busy machine needs, so that it bounds only
/// tests that fail.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The default settings, with a free port and two workers.
pub fn settings() -> Settings {
    Settings { tcp_port: 0, worker_pool_size: 2, ..Settings::default() }
}

/// What `future` answers, if it does so within [`PATIENCE`].
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("nothing happened for {PATIENCE:?}"),
    }
}

/// Where connections without a listener come in.
fn nowhere() -> ListenAddr {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    ListenAddr { scheme: Scheme::Tcp, addr, path: String::new() }
}

/// A connection without a socket: what it accepts stays in its outbox. For tests of actors that
/// hold connections, of a [`ConnManager`] first of all.
pub fn conn(id: ConnId, settings: &Settings) -> Conn {
    conn_from(id, nowhere().addr, settings)
}

/// As [`conn`], from this address.
pub fn conn_from(id: ConnId, peer: SocketAddr, settings: &Settings) -> Conn {
    Conn::new(id, peer, Arc::new(nowhere()), Arc::new(settings.limits(Arc::default())))
}

/// Takes what a [`conn`] without a socket has accepted so far, in order.
pub fn accepted(conn: &Conn) -> Vec<Frame> {
    let mut bytes = conn.shared().take_all();
    let codec = conn.shared().limits.codec.unlimited();
    std::iter::from_fn(|| codec.next_frame(&mut bytes).ok().flatten()).collect()
}

/// A message as it reaches a handler, from a [`conn`] without a socket: for tests of a handler
/// actor alone. What it answers is found by [`accepted`].
pub fn inbound(conn: &Conn, id: MsgId, payload: impl Into<Bytes>) -> Inbound {
    conn.shared().window.enter(1);
    let payload = guarded(payload.into());
    Parcel { id, buffer: &payload, at: 0..payload.len(), conn }.into()
}

/// A connection on a stream of the test's own, an in-memory one, say, with everything on the
/// test's thread: for tests that pause tokio's clock or talk to the [`Connection`] as an actor.
#[derive(Debug)]
pub struct TestConnection {
    /// The handle, as handlers see it.
    pub conn: Conn,
    /// The actor.
    pub actor: Addr<Connection>,
    /// A manager that has this connection only.
    pub manager: Addr<ConnManager>,
}

impl TestConnection {
    /// Starts a connection on `stream`, with routes and hooks as [`Server`] takes them.
    pub async fn start(
        server: Server,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> Self {
        Self::with(server, Scheme::Tcp, |limits| {
            Box::new(Plain::bounded(stream, Intake::new(limits.intake.as_ref())))
        })
        .await
    }

    #[cfg(all(test, feature = "ws"))]
    pub(crate) async fn over_ws(server: Server, transport: Boxed) -> Self {
        Self::with(server, Scheme::Ws, |_| transport).await
    }

    async fn with(
        server: Server,
        scheme: Scheme,
        transport: impl FnOnce(&Limits) -> Boxed,
    ) -> Self {
        let Parts { settings, routes, hooks, limits, surroundings } = server.into_parts();
        let transport = transport(&limits);
        let admission = Admission::new(&settings);
        let manager = ConnManager::with_workers(admission, Arc::clone(&limits), Vec::new());
        let local = Rc::new(Local::new(Arc::new(hooks), Lives::default(), Acknowledged::default()));
        let connections = manager.connections();
        let manager = manager.start();
        let nowhere = ListenAddr { scheme, ..nowhere() };
        let router = Router::new().start();
        let handle = ServerHandle::new(
            vec![nowhere.clone()],
            manager.clone(),
            router,
            connections,
            &limits,
            Gate::default(),
            Arc::default(),
        );
        let routes = routes.into_iter().map(|(id, make)| Change::Add(id, make(&handle).0));
        local.routes.update(Arc::new(routes.collect()), &surroundings);
        watch(&local, &limits.patience);
        let conn = Conn::new(1, nowhere.addr, Arc::new(nowhere), limits);
        let registration = Registration::new(&conn, Arc::new(manager.clone()));
        let added = within(manager.send(Add(conn.clone()))).await;
        assert!(matches!(added, Ok(Ok(1))), "the manager refuses: {added:?}");
        let actor = Connection::start_on(local, conn.clone(), Some(transport), registration);
        Self { conn, actor, manager }
    }

    /// What has happened to it so far, as a server counts it.
    pub fn stats(&self) -> Stats {
        self.conn.shared().limits.events.stats()
    }
}

/// A running server.
#[derive(Debug)]
pub struct TestServer {
    handle: ServerHandle,
    served: JoinHandle<Result<StopReport, ServerError>>,
}

impl TestServer {
    /// Binds `server` and serves it in the background, without signals.
    pub async fn start(server: Server) -> Self {
        let server = match server.without_signals().bind().await {
            Ok(server) => server,
            Err(error) => panic!("the server does not start: {error}"),
        };
        let handle = server.handle();
        Self { handle, served: actix_rt::spawn(server.serve()) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Where it listens, the first if there are several, as a client says it.
    pub fn endpoint(&self) -> Endpoint {
        self.handle.listen_addrs()[0].endpoint()
    }

    /// The handle to it.
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Drains and stops it. Answers what it ended with.
    pub async fn stop(self) -> Result<StopReport, ServerError> {
        within(self.handle.stop()).await;
        self.ended().await
    }

    /// What it ends with.
    pub async fn ended(self) -> Result<StopReport, ServerError> {
        match within(self.served).await {
            Ok(ended) => ended,
            Err(panic) => panic!("the server panicked: {panic}"),
        }
    }
}
