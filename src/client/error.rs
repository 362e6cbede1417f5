//! What can go wrong with a client.

use std::io;
use std::net::SocketAddr;

use crate::conn::{CloseReason, HandshakeError, SendError};
use crate::endpoint::Scheme;
use crate::frame::Frame;
use crate::router::RouteError;
use crate::settings::SettingsError;

/// Why a client did not start, or is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(Box<SettingsError>),
    /// Two routes have one id.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No actix system runs on this thread.
    #[error("no actix system runs on this thread; use #[actix::main]")]
    NoSystem,
    /// The endpoint needs a Cargo feature that is not compiled in.
    #[error("{scheme}:// needs the feature `{feature}` of zinxide")]
    NoFeature {
        /// What is spoken at the endpoint.
        scheme: Scheme,
        /// The name of the feature.
        feature: &'static str,
    },
    /// The certificates, the key or the server's name that the client was given make no sense, or the
    /// system has no certificates to trust.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The request for a WebSocket cannot be made: a header or a subprotocol that the client was given is
    /// none, or the endpoint's path.
    #[error("the request for a WebSocket cannot be made: {0}")]
    WebSocket(String),
    /// The client was given a part that means nothing at its endpoint. To go on without it might be to go
    /// on without encryption, or without the proof of who it is.
    #[error("`{part}` means nothing at a {scheme}:// endpoint")]
    Unused {
        /// What is spoken at the endpoint.
        scheme: Scheme,
        /// The method of [`ClientBuilder`](super::ClientBuilder): `tls` or `websocket`.
        part: &'static str,
    },
    /// The host name has no address.
    #[error("{host} is not found: {source}")]
    Resolve {
        /// The host of the endpoint.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// None of the addresses took the dial; this is the last.
    #[error("cannot connect to {addr}: {source}")]
    Dial {
        /// Where nobody answered.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The server took the dial, and TLS or WebSocket failed on it.
    #[error("handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    /// It was not done by the deadline.
    #[error("not connected in time")]
    Late,
    /// The connection ended before it was up: `on_conn_start` panicked, say.
    #[error("the connection ended at once: {0}")]
    Ended(CloseReason),
    /// The server took the connection, and closed or reset it before it had sent a byte of a frame: it
    /// is full, perhaps.
    #[error("the server closed the connection before it sent anything ({0})")]
    ClosedBeforeFirstByte(CloseReason),
    /// The client was closed, or its actix system has ended.
    #[error("the client is closed")]
    Closed,
}

impl From<SettingsError> for ConnectError {
    fn from(error: SettingsError) -> Self {
        Self::Settings(Box::new(error))
    }
}

/// Why a request has no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not accepted, or the client was closed before it left; the frame is given back.
    #[error(transparent)]
    NotAccepted(#[from] SendError),
    /// The deadline passed before it left, and it is not sent any more; the frame is given back.
    #[error("the request was not sent in time")]
    NotSent(Frame),
    /// Later frames took its place in the offline queue; the frame is given back.
    #[error("the request was displaced in the offline queue")]
    Displaced(Frame),
    /// The deadline passed without an answer. The server may have handled the request.
    #[error("no answer in time")]
    Late,
    /// The connection ended without an answer. The server may have handled the request.
    #[error("the connection ended without an answer: {0}")]
    Disconnected(CloseReason),
}
