//! An actor-model server library on actix: framed connections over TCP, TLS and WebSocket, messages routed by id,
//! connection management, and back-pressure end to end.
//!
//! A [`Server`] listens. Each peer that the [`ConnManager`] admits gets a [`Connection`] actor, which
//! lives on one worker thread, reads [`Frame`]s, and hands each as an [`Inbound`] to the handler that
//! the [`Router`] has for its id: an actor on the same thread, one shared actor anywhere, or an async
//! function. Everybody else holds a [`Conn`], the handle that sends and stops; [`ServerHandle`] is the
//! same for the server.
//!
//! ```text
//!    the thread that accepts             worker 1..N, a thread each
//!  ┌────────────────────────┐        ┌──────────────────────────────────────────────┐
//!  │ acceptor ── Add ──┐    │        │           ┌──────────────────┐               │
//!  │    │              ▼    │        │  peer ───►│ Connection actor ├─ Inbound ─┐   │
//!  │    │        ConnManager◄─ Gone ─┤       ◄───┤ reader    writer │           ▼   │
//!  │    └─ socket ──────────┼───────►│           └─────────────▲────┘   handler:    │
//!  │                        │        │                      outbox      actor or    │
//!  │ Router ── routes ──────┼───────►│                         ▲        function    │
//!  │                        │        │                        Conn ◄─ reply ─┘      │
//!  └────────────────────────┘        └──────────────────────────────────────────────┘
//! ```
//!
//! All of these threads are the server's own. The caller of [`BoundServer::serve`] only waits, so an actor
//! that is started by `.start()` in `main`, and runs on main's thread, may block it without holding up
//! anybody but those who wait for that actor.
//!
//! # Example
//!
//! A handler actor, a function and both hooks, with a client on the same thread. A real server calls
//! [`Server::serve`] and nothing after it.
//!
//! ```
//! use actix::{Actor, Context, Handler};
//! use futures_util::{SinkExt, StreamExt};
//! use tokio::net::TcpStream;
//! use tokio_util::codec::Framed;
//! use zinxide::{Frame, FrameCodec, Inbound, Server, Settings, WireFormat};
//!
//! /// Counts what its worker has answered.
//! struct Ping(u64);
//!
//! impl Actor for Ping {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<Inbound> for Ping {
//!     type Result = ();
//!
//!     fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
//!         self.0 += 1;
//!         msg.reply(0, format!("ping {}", self.0));
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut settings = Settings::default();
//!     settings.tcp_port = 0; // the system chooses
//!     let server = Server::new(settings)
//!         .route(0, || Ping(0))
//!         .route_fn(1, async |msg: Inbound| msg)
//!         .on_conn_start(|conn| drop(conn.send_buffered(2, "welcome")))
//!         .on_conn_stop(|conn, why| println!("{conn} left: {why}"))
//!         .bind()
//!         .await?;
//!     let handle = server.handle();
//!     let served = actix::spawn(server.serve());
//!
//!     let stream = TcpStream::connect(handle.local_addr()).await?;
//!     let mut client = Framed::new(stream, FrameCodec::new(WireFormat::LtvLe, 4096));
//!     client.send(Frame::new(0, "hello")).await?;
//!     client.send(Frame::new(1, "echo")).await?;
//!     for expected in [(2, "welcome"), (0, "ping 1"), (1, "echo")] {
//!         let frame = client.next().await.ok_or("closed")??;
//!         assert_eq!(frame, Frame::from(expected));
//!     }
//!
//!     handle.stop().await; // drains: the connection ends, the hook runs, the port is free
//!     served.await??;
//!     Ok(())
//! }
//! ```
//!
//! # Map
//!
//! | | |
//! |---|---|
//! | [`Server`], [`BoundServer`], [`ServerHandle`], [`ServerError`], [`StopReport`] | builder, listening server, handle to it, and how it ended |
//! | [`Settings`], [`SettingsError`], [`Network`], [`ClientCert`] | what a server is told: defaults, file, environment |
//! | [`Endpoint`], [`Scheme`], [`ListenAddr`] | where it listens, and what is spoken there |
//! | [`Overflow`], [`OverRate`], [`Unrouted`], [`WhenFull`], [`WhileDown`], [`WhenWorkerLost`] | policies for what can go wrong |
//! | [`Inbound`] | one message and its answer: all that a handler needs |
//! | [`router`]: [`Route`], [`Router`], [`RouteError`], [`IntoReply`], [`Reply`] | where messages go; routes that come and go |
//! | [`Conn`], [`ConnId`], [`Sent`], [`SendError`], [`Unsent`] | handle to a connection |
//! | [`CloseReason`], [`Slow`], [`Silence`], [`Excess`], [`HandshakeError`] | its end |
//! | [`Heartbeat`], [`Watermark`] | what it is asked, and what its application is told |
//! | [`conn_manager`]: [`ConnManager`], [`Connections`], [`BroadcastReport`] | who is connected; limit, look-up, broadcast, closing |
//! | [`Connection`], [`Stop`] | the actor of one connection |
//! | [`framing`] | protocols other than the two built-in formats |
//! | [`Frame`], [`MsgId`], [`FrameCodec`], [`WireFormat`], [`FrameError`], [`CodecError`] | what is on the wire, for servers and clients |
//! | [`Event`], [`Stats`], [`Endings`], [`Refusals`] | what happens, and what has happened so far |
//! | [`client`] | the other end: requests and answers, back-off, an offline queue |
//! | [`testing`] | the kit for tests of applications |
//!
//! The messages of [`ConnManager`] and [`Router`] have short names and live in their modules, and there
//! is no glob prelude, so that nothing collides with `actix::prelude`.
//!
//! # Guarantees
//!
//! In short; `ARCHITECTURE.md` in the repository has them all, with the test of each.
//!
//! - Never more than `max_conn` connections are admitted. Hooks run once for each connection that is,
//!   however it ends, with a [`CloseReason`]. Stopped means closed, also under a silent peer.
//! - A connection's messages are handed to their handlers in the order they came, across all routes;
//!   its frames leave in the order accepted, each whole.
//! - Nothing is lost silently: a frame that is not accepted comes back in the [`SendError`], and what an
//!   ending cut is counted.
//! - Everything that a peer can fill is bounded, by frames and by bytes. A slow handler slows its own
//!   peer down, by TCP; a peer that does not read costs only itself, and not for ever.
//! - A panic in a handler or hook ends at most the connection or handler actor it happened in.
//! - A stop drains: handlers answer what was received, the outboxes are written, hooks run, and all that
//!   has a deadline.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | |
//! |---|---|
//! | `tls` | `tls://` and, with `ws`, `wss://` endpoints, by rustls: `TlsError`, `PeerCertificates`. The version of `rustls`, which is re-exported, is a part of this crate's API then |
//! | `ws` | `ws://` endpoints; the HTTP handshake is tungstenite's: `Server::ws_auth`, `Upgrade`, `Subprotocol` |
//! | `proxy` | the setting `proxy_from`: the PROXY protocol, versions 1 and 2 |

pub mod client;
mod codec;
mod conn;
pub mod conn_manager;
mod connection;
mod deadline;
mod endpoint;
mod event;
mod frame;
pub mod framing {
    //! Protocols other than the built-in [`WireFormat`](crate::WireFormat)s: described by parameters, or
    //! the user's own.

    pub use crate::codec::framing::{Found, Framing};
    pub use crate::codec::{ByteOrder, Delimited, Htlv, LengthField};
}
mod inbound;
pub mod router;
mod secret;
mod server;
mod settings;
mod surely;
pub mod testing;
mod transport;
mod turn;
mod unwind;

pub use codec::{CodecError, FrameCodec, FrameError, WireFormat};
pub use conn::{
    CloseReason, Conn, ConnId, Excess, Goodbye, GoodbyeError, HandshakeError, OverRate, Overflow,
    SendError, Sent, Silence, Slow, Unsent,
};
pub use conn_manager::{BroadcastReport, ConnManager, Connections};
pub use connection::{Connection, Heartbeat, Stop, Watermark};
pub use endpoint::{BadEndpoint, Endpoint, ListenAddr, Scheme};
pub use event::{Endings, Event, Handshakes, Refusals, Stats};
pub use frame::{Frame, MsgId};
pub use inbound::Inbound;
pub use router::{IntoReply, Reply, Route, RouteError, Router};
/// The TLS library, for what [`Server::tls_provider`] and [`client::Tls::provider`] take.
#[cfg(feature = "tls")]
pub use rustls;
pub use server::{BoundServer, Server, ServerError, ServerHandle, StopReport};
pub use settings::{
    BadNetwork, ClientCert, Network, Settings, SettingsError, Unrouted, WhenFull, WhenWorkerLost,
    WhileDown,
};
#[cfg(feature = "tls")]
pub use transport::tls::{PeerCertificates, TlsError};
#[cfg(feature = "ws")]
pub use transport::ws::{Subprotocol, Upgrade};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
