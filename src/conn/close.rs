//! Why a connection ended.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::goodbye;
use crate::codec::FrameError;
use crate::frame::MsgId;

/// Why a connection ended: what `on_conn_stop` and the log are told. The first reason wins.
///
/// What happens to frames already accepted depends on the reason: see each variant. All of it
/// happens within `drain_deadline_ms`, and what did not make it is counted in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed its side between two frames. Messages it sent before are still handled and
    /// answered.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer closed its WebSocket with a close code that is neither 1000 nor 1001; as
    /// [`PeerClosed`](Self::PeerClosed). Codes from 4000 to 4999 are those of applications, as in
    /// [`Goodbye`](crate::Goodbye).
    #[error("closed by the peer with code {code}{}", Said(.text))]
    PeerClosedWith {
        /// The code.
        code: u16,
        /// What the peer says about it: at most 123 bytes, which may have control characters.
        text: Arc<str>,
    },
    /// The server closed the connection, or reset it, after a frame that says that this is final, on a
    /// [client](crate::client) that [knows](crate::client::ClientBuilder::final_id) such frames; as
    /// [`PeerClosed`](Self::PeerClosed).
    #[error("closed by the peer for good")]
    PeerClosedFinally,
    /// The connection was admitted and then failed to become one: see [`HandshakeError`]. No hook was
    /// called for it.
    #[error("handshake failed: {0}")]
    Handshake(HandshakeError),
    /// The peer broke the protocol. Messages before that are still handled and answered.
    #[error("protocol error: {0}")]
    Protocol(FrameError),
    /// A message had no route and the policy is to close. Messages before it are still handled
    /// and answered.
    #[error("no route for message {0}")]
    NoRoute(MsgId),
    /// The peer sent more than `rate_messages` or `rate_bytes` allow, and the policy is to close.
    /// Messages before that are still handled and answered.
    #[error("over the rate: the peer sends {0}")]
    OverRate(Excess),
    /// The server drains. Messages already received are still handled and answered.
    #[error("the server shuts down")]
    Shutdown,
    /// [`Conn::stop`](crate::Conn::stop) or a `Stop` message. Frames already accepted are
    /// written; messages received and not yet with a handler are discarded.
    #[error("stopped")]
    Stopped,
    /// [`Conn::close_with`](crate::Conn::close_with): the application's code and text. Else as
    /// [`Stopped`](Self::Stopped), and the last frame of the [`Goodbye`](crate::Goodbye) is written last.
    #[error("closed with code {code}{}{text}", colon(.text))]
    App {
        /// The code, from 4000 to 4999.
        code: u16,
        /// The text, of at most [`MAX_TEXT`](crate::Goodbye::MAX_TEXT) bytes.
        text: Arc<str>,
    },
    /// A `Remove` message to the [`ConnManager`](crate::ConnManager); as [`Stopped`](Self::Stopped).
    #[error("removed")]
    Removed,
    /// A `ClearConn` message to the [`ConnManager`](crate::ConnManager); as
    /// [`Stopped`](Self::Stopped).
    #[error("cleared")]
    Cleared,
    /// The handler of this message panicked, or the shared actor did in whose mailbox the message
    /// waited; as [`Stopped`](Self::Stopped).
    #[error("the handler of message {0} panicked")]
    HandlerPanicked(MsgId),
    /// The hook `on_conn_start` panicked; as [`Stopped`](Self::Stopped).
    #[error("on_conn_start panicked")]
    HookPanicked,
    /// The handler actor of this message ended while the message was with it, or is not there any
    /// more; as [`Stopped`](Self::Stopped).
    #[error("the handler actor of message {0} is gone")]
    HandlerGone(MsgId),
    /// None of the messages in flight was done for `handler_deadline_ms`; this is the id of the one
    /// that was handed out last. A route function that waits is dropped; an actor may still have the
    /// message, whose answer comes to nothing. Else as [`Stopped`](Self::Stopped).
    #[error("the handler of message {0} is late")]
    HandlerLate(MsgId),
    /// The answers with this id, on a connection of a [client](crate::client), cannot be told apart any
    /// more: it seems that the server has left one out. See
    /// [`Client::request`](crate::client::Client::request). Else as [`Stopped`](Self::Stopped).
    #[error("the answers {0} are out of step with the requests")]
    OutOfStep(MsgId),
    /// The peer does not read: see [`Slow`]. What is unsent is cut.
    #[error("slow consumer: {0}")]
    SlowConsumer(Slow),
    /// The peer sent nothing, or not enough, for too long. Messages it sent before are still handled
    /// and answered.
    #[error("the peer is silent: {0}")]
    Silent(Silence),
    /// The peer did not complete a frame within `frame_deadline_ms`, and was not read in the end because
    /// all connections together held `max_inbound_bytes`: those whose frames are oldest give way. Else as
    /// [`Silent`](Self::Silent).
    #[error("a frame is not completed, and the server holds too much input")]
    InboundFull,
    /// Nothing was sent to the peer for `write_idle_deadline_ms`; as [`Silent`](Self::Silent).
    #[error("nothing was sent")]
    WriteIdle,
    /// The socket failed. What is unsent is cut.
    #[error("socket error: {0}")]
    Io(io::ErrorKind),
    /// The connection's worker ended under it. What is unsent is cut.
    #[error("the worker is gone")]
    WorkerGone,
}

/// Why a peer that was admitted did not come as far as its first frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It was not done within `handshake_deadline_ms`.
    #[error("not done in time")]
    Late,
    /// The peer closed its side.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The socket failed.
    #[error("socket error: {0}")]
    Io(io::ErrorKind),
    /// Either side did not like the other's TLS: what came was none, perhaps.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer's certificate is not trusted, or it has none and needs one, or it said so of this
    /// side's. As long as nobody changes a certificate or what is trusted, the next try ends as this one.
    ///
    /// A client of TLS 1.3 is done with the handshake before the server has seen its certificate: that it is
    /// not trusted ends the connection instead.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The answer to the request for a WebSocket is none, or the request cannot be made.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// The request for a WebSocket was answered with this HTTP status.
    #[error("HTTP {status}: {why}")]
    Http {
        /// The status.
        status: u16,
        /// Why not another one.
        why: String,
    },
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::PeerClosed,
            kind => Self::Io(kind),
        }
    }
}

/// How a slow consumer was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Slow {
    /// A frame whose policy is [`Overflow::Close`](crate::Overflow::Close), as that of broadcasts is
    /// by default, found the outbox full.
    #[error("outbox full")]
    OutboxFull,
    /// The peer took nothing for as long as the write deadline.
    #[error("write deadline")]
    WriteDeadline,
    /// All peers together had not taken more than `max_unsent_bytes`, and this one had taken least.
    #[error("the server's outboxes are full")]
    OverBudget,
}

/// What a peer sends too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Excess {
    /// More messages than `rate_messages`.
    #[error("too many messages")]
    Messages,
    /// More bytes than `rate_bytes`.
    #[error("too many bytes")]
    Bytes,
}

/// What a silent peer did not send in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Silence {
    /// No whole message since it connected, for `first_message_deadline_ms`.
    #[error("no first message")]
    FirstMessage,
    /// It began a frame and did not complete it within `frame_deadline_ms`.
    #[error("a frame is not completed")]
    Frame,
    /// No sign of life for as long as a [`Heartbeat`](crate::Heartbeat) allows.
    #[error("not alive")]
    NotAlive,
    /// Nothing at all for `idle_deadline_ms`.
    #[error("idle")]
    Idle,
}

/// What stands before a text, if there is one.
fn colon(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ": " }
}

/// What a peer says about its close: quoted and escaped, since a peer must not write lines of its own into a
/// log, or steer a terminal.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        if text.is_empty() { Ok(()) } else { write!(f, "{}{text:?}", colon(text)) }
    }
}

/// What is still done for a connection that ends, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Handlers answer what was received, then the outbox is written.
    Drain,
    /// No new frames; the outbox is written.
    Flush,
    /// Nothing: the socket is dead or deserves no more.
    Cut,
}

impl CloseReason {
    /// The reason that a transport's error stands for: the one that it wraps, if it does.
    pub(crate) fn of(error: io::Error) -> Self {
        let kind = error.kind();
        error.downcast().unwrap_or(Self::Io(kind))
    }

    /// Whether the side that closed asks the other not to connect again: by a code from 4000 to 4499, or by
    /// a frame. A [client](crate::client) obeys.
    pub fn is_final(&self) -> bool {
        match self {
            Self::App { code, .. } | Self::PeerClosedWith { code, .. } => goodbye::is_final(*code),
            Self::PeerClosedFinally => true,
            _ => false,
        }
    }

    /// Whether the peer, or the way to it, ended the connection.
    pub(crate) fn is_of_peer(&self) -> bool {
        matches!(
            self,
            Self::PeerClosed | Self::PeerClosedWith { .. } | Self::PeerClosedFinally | Self::Io(_)
        )
    }

    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::PeerClosed
            | Self::PeerClosedWith { .. }
            | Self::PeerClosedFinally
            | Self::Protocol(_)
            | Self::NoRoute(_)
            | Self::OverRate(_)
            | Self::Shutdown
            | Self::Silent(_)
            | Self::InboundFull
            | Self::WriteIdle => Ending::Drain,
            Self::Stopped
            | Self::App { .. }
            | Self::Removed
            | Self::Cleared
            | Self::HandlerPanicked(_)
            | Self::HookPanicked
            | Self::HandlerGone(_)
            | Self::HandlerLate(_)
            | Self::OutOfStep(_) => Ending::Flush,
            Self::SlowConsumer(_) | Self::Io(_) | Self::Handshake(_) | Self::WorkerGone => {
                Ending::Cut
            }
        }
    }
}
