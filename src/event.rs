//! Every event the crate emits: what is logged, at which level, and what is counted.
//!
//! | event | level | what an operator does about it |
//! |---|---|---|
//! | listening, suspended, resumed, draining, route added or removed, `max_conn` changed | info | |
//! | certificates reloaded | info; error if they are no good | mend the files |
//! | certificates still being read at the next SIGHUP | warn | find out which file cannot be read |
//! | stopped | info; warn if something was cut | raise `drain_deadline_ms`, or find the handler that hangs |
//! | connection admitted, removed | debug | |
//! | connection refused | warn | raise the limit it names, or find out who dials |
//! | a dial waits for a place | info once, until one is free | raise `max_conn` |
//! | accepting waits, as many handshakes are under way as may be | warn once a second, and counted | find out who connects; prefer ECDSA keys; set `max_handshakes_per_ip` |
//! | reading pauses, as much is received and not handed out as may be | warn once until it is half of that, and counted | raise `max_inbound_bytes`, or find out who sends half frames |
//! | accept failed | error once, then recovered: info | raise the descriptor limit |
//! | hook called | debug | |
//! | dial gone before it was accepted | debug | |
//! | connection closed | info; warn for what is not ordinary, if frames were cut, and if not all is acknowledged | look at that client or handler |
//! | connection closed whose peer said nothing, or asked in plain HTTP | debug, and counted | find out who looks whether the port is there, if there are many |
//! | the drain deadline, or `half_closed_ms`, passed under a connection | warn | raise the deadline, or find the handler that hangs |
//! | a worker ended under a connection that had not ended | warn | find out who stopped its arbiter or the actix system |
//! | high watermark, low watermark | debug | |
//! | frames dropped by an overflow policy | warn once a connection, and counted | |
//! | a peer sends too much | warn once a connection, and counted | raise the rate, or look at that client |
//! | hook panicked | error | find the panic above it in the log |
//! | message without a route | warn once a connection, and counted | register the route, or find out who sends it |
//! | route function returned `Err` | warn, and counted | |
//! | reply to a closed connection | debug | |
//! | a heartbeat has no frame | warn | give it another id or payload |
//! | peer without a sign of life | debug; the closing that comes of it: warn | |
//! | handler actor or supervised actor restarted | error | find the panic above it in the log |
//! | shared actor of a route is gone | error, once a route | find the panic above it in the log; have it supervised |
//! | message dropped while its handler actor was down | debug | |
//! | worker blocked, recovered | error, info | find the handler that blocks its thread |
//! | worker lost | error | find out who stopped its arbiter |
//! | client not connected | warn | find out why from the line; it dials again unless it says otherwise |
//! | client's offline queue full | warn, once an outage | widen it, or send less |
//! | answer that nobody waits for | debug | |
//! | client closed | info; with frames in its queue, or by a close that is final: warn | find out from the line why the server closed |
//! | worker stuck at the end | warn | find the handler that blocks its thread |
//! | observer panicked | error, and counted | find the panic above it in the log |
//!
//! The log target is `zinxide`. A line that is off costs a comparison and formats nothing. What is
//! counted is in [`Stats`].
//!
//! # How much is written
//!
//! Peers decide how often most of this happens, so there is one rule for all that they can cause: of the lines
//! of one kind, and one reason, a server writes the first ten as they come, and from then on one a second; after
//! ten quiet seconds, ten again. How many were left out is said in a line a second later at the latest
//! (`... and 1234 more in the last second like:` and the last that was written), and at the stop. The counters and
//! [`Server::on_event`](crate::Server::on_event) miss none. What the operator causes is always written.
//!
//! Peers also choose some of the words: an error of a route function may quote a message. So every line is escaped,
//! whatever is in it: what would end it or steer a terminal is written as `\n`, `\u{1b}`. It is cut at 512 bytes.
//!
//! A logger is code of the application, and so are the texts of its errors: a panic in them costs the line.

mod line;
mod log;
mod stats;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::mem::discriminant;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::log::Level;
use rustc_hash::FxHasher;

use self::log::Log;
use crate::client::{ConnectError, Outage, WhenQueueFull};
use crate::conn::{CloseReason, Conn, Excess, HandshakeError, Overflow, SendError, Unsent};
use crate::conn_manager::AddError;
use crate::endpoint::{Endpoint, ListenAddr, Scheme};
use crate::frame::MsgId;
use crate::server::StopReport;
#[cfg(feature = "tls")]
use crate::transport::tls::TlsError;
use crate::unwind::contained;
#[cfg(feature = "ws")]
pub(crate) use line::push_escaped;
use stats::Counters;
pub use stats::{Endings, Handshakes, Refusals, Stats};

/// Something that happened on a server or a client: what [`Server::on_event`](crate::Server::on_event) and
/// [`ClientBuilder::on_event`](crate::client::ClientBuilder::on_event) are told.
///
/// Its `Display` is what the log says, where it is escaped and cut.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "fields that say what they are, in variants that say the rest")]
pub enum Event<'a> {
    /// The server takes dials.
    Listening { name: &'a str, at: &'a ListenAddr, max_conn: usize, workers: usize },
    /// The server takes no more dials until it is resumed; its port is free.
    Suspended { addr: SocketAddr },
    /// The server takes dials again.
    Resumed { addr: SocketAddr },
    /// New certificates are in use: those of these files.
    #[cfg(feature = "tls")]
    TlsReloaded { cert: &'a Path, key: &'a Path, client_ca: Option<&'a Path> },
    /// New certificates are no good; those before them stay in use.
    #[cfg(feature = "tls")]
    TlsNotReloaded { why: &'a TlsError },
    /// A SIGHUP came while certificates were read, for this long already; they are read once more after that.
    #[cfg(feature = "tls")]
    TlsReloadWaits { reading: Duration },
    /// The server is about to stop.
    Draining { name: &'a str, deadline: Duration },
    /// The server has stopped.
    Stopped { name: &'a str, report: &'a StopReport },
    /// A worker does not end with its server, because a handler blocks its thread.
    WorkerStuck { worker: usize },
    /// A worker's thread has not come back from a handler for as long as `handler_deadline_ms`: most
    /// likely, from the one of this message.
    WorkerBlocked { worker: usize, message: MsgId, since: Duration },
    /// A worker that was blocked goes on.
    WorkerRecovered { worker: usize },
    /// A worker ended before its server did, and its connections with it.
    WorkerLost { worker: usize },
    /// A message id has a route.
    RouteAdded { id: MsgId, kind: &'a str },
    /// A message id has no route any more.
    RouteRemoved { id: MsgId },
    /// The limit of connections is another.
    MaxConnChanged { from: usize, to: usize },
    /// A connection was admitted; so many are connected.
    Admitted { conn: &'a Conn, connected: usize },
    /// A connection has ended and is out of the table; so many are connected.
    Removed { conn: &'a Conn, why: &'a CloseReason, connected: usize },
    /// A dial was not admitted.
    Refused { peer: SocketAddr, why: &'a AddError },
    /// A dial waits for a place, and all later ones with it.
    Parked { peer: SocketAddr },
    /// A dial waits for a place among `max_handshakes`, and all later ones with it; `first` for a while.
    HandshakesFull { peer: SocketAddr, first: bool },
    /// A connection is not read for a while, because the server holds more than `max_inbound_bytes`;
    /// `first` since it held half of that.
    ReadingPaused { held: usize, first: bool },
    /// Accepting failed, and is tried again; `first` in a row.
    AcceptFailed { error: &'a io::Error, first: bool },
    /// Accepting works again.
    AcceptRecovered,
    /// A dial was gone before it was accepted.
    DialGone { error: &'a io::Error },
    /// `on_conn_start` is called.
    StartHook { conn: &'a Conn },
    /// `on_conn_stop` is called.
    StopHook { conn: &'a Conn },
    /// A hook panicked.
    HookPanicked { conn: &'a Conn, hook: &'a str },
    /// The handler of a message panicked.
    HandlerPanicked { conn: &'a Conn, message: MsgId },
    /// A route function returned an error.
    HandlerFailed { conn: &'a Conn, error: fmt::Arguments<'a> },
    /// A supervised actor of this type ended, and is started again after a pause: the handler actor of
    /// this message, or one of the application ([`SupervisedAddr`](crate::router::SupervisedAddr)).
    HandlerDied { actor: &'a str, message: Option<MsgId>, panicked: bool, pause: Duration },
    /// The shared actor behind the route of this message is gone, and is not started again: connections
    /// that send to it are closed. Told once for each route to the actor.
    SharedActorGone { message: MsgId },
    /// A message was dropped in that pause.
    DroppedWhileDown { conn: &'a Conn, message: MsgId },
    /// A connection's socket is closed. It is `unconfirmed` if the system still held bytes that the
    /// peer's system had not acknowledged: they may be lost, beside what was `unsent`.
    Closed {
        conn: &'a Conn,
        why: &'a CloseReason,
        unsent: Unsent,
        unhandled: usize,
        unconfirmed: bool,
    },
    /// A connection's end is cut short, and the replies to the messages that handlers have come to
    /// nothing: because the drain deadline passed, or `half_closed_ms` after the peer had closed its side,
    /// or because its worker ended under it. Reported once a connection.
    CutShort { conn: &'a Conn, messages: u32, worker_ended: bool },
    /// The peer takes less than what is sent to it: this much is unsent.
    HighWatermark { conn: &'a Conn, unsent: Unsent },
    /// The peer has taken most of what was unsent.
    LowWatermark { conn: &'a Conn },
    /// Frames were dropped because the outbox was full; `first` for this connection.
    FramesDropped { conn: &'a Conn, overflow: Overflow, frames: usize, first: bool },
    /// An answer was dropped because the connection is closed.
    ReplyDropped { conn: &'a Conn, why: &'a SendError },
    /// The peer sends too much, and is not read for a while; `first` for this connection.
    RateDelayed { conn: &'a Conn, excess: Excess, first: bool },
    /// The peer sends too much, and this message was dropped; `first` for this connection.
    RateDropped { conn: &'a Conn, excess: Excess, message: MsgId, first: bool },
    /// The peer sends too much, and these replies to its pings were dropped; `first` for this connection.
    PongsDropped { conn: &'a Conn, excess: Excess, pongs: usize, first: bool },
    /// A heartbeat cannot be sent, now or ever: its id or payload has no frame.
    HeartbeatFailed { conn: &'a Conn, why: &'a SendError },
    /// The peer gives no sign of life.
    NotAlive { conn: &'a Conn },
    /// A message has no route; `first` for this connection.
    Unrouted { conn: &'a Conn, message: MsgId, first: bool },
    /// A client is not connected, and dials again after this pause; `None` if it gives up.
    ConnectFailed { endpoint: &'a Endpoint, why: &'a ConnectError, pause: Option<Duration> },
    /// A client dropped frames because its offline queue was full; `first` since it was connected.
    QueueDropped { endpoint: &'a Endpoint, policy: WhenQueueFull, frames: usize, first: bool },
    /// An answer came to a client when nobody waited for it any more.
    AnswerTooLate { conn: &'a Conn, message: MsgId },
    /// A client is closed; so much was in its offline queue. With the reason why it was not connected, if
    /// it was not.
    ClientClosed { endpoint: &'a Endpoint, why: Option<&'a Outage>, queued: Unsent },
}

impl Event<'_> {
    /// The level at which it is logged, if it is one of the first of its kind in a while; `None` if it is only
    /// counted.
    pub fn level(&self) -> Option<Level> {
        Some(match self {
            #[cfg(feature = "tls")]
            Self::TlsReloaded { .. } => Level::Info,
            #[cfg(feature = "tls")]
            Self::TlsNotReloaded { .. } => Level::Error,
            #[cfg(feature = "tls")]
            Self::TlsReloadWaits { .. } => Level::Warn,
            Self::Listening { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::Draining { .. }
            | Self::WorkerRecovered { .. }
            | Self::RouteAdded { .. }
            | Self::RouteRemoved { .. }
            | Self::MaxConnChanged { .. }
            | Self::Parked { .. }
            | Self::AcceptRecovered => Level::Info,
            Self::Stopped { report, .. } if report.is_clean() => Level::Info,
            Self::ClientClosed { why, queued, .. }
                if *queued == Unsent::default() && !matches!(why, Some(Outage::Final(_))) =>
            {
                Level::Info
            }
            Self::Closed { conn, why, .. } if is_unspoken(conn, why) || is_http(conn, why) => {
                Level::Debug
            }
            Self::Closed { why, unsent, unconfirmed: false, .. }
                if is_ordinary(why) && *unsent == Unsent::default() =>
            {
                Level::Info
            }
            Self::Stopped { .. }
            | Self::Closed { .. }
            | Self::CutShort { .. }
            | Self::HeartbeatFailed { .. }
            | Self::WorkerStuck { .. }
            | Self::Refused { .. }
            | Self::ConnectFailed { .. }
            | Self::ClientClosed { .. }
            | Self::HandlerFailed { .. } => Level::Warn,
            Self::QueueDropped { first, .. }
            | Self::HandshakesFull { first, .. }
            | Self::ReadingPaused { first, .. }
            | Self::FramesDropped { first, .. }
            | Self::RateDelayed { first, .. }
            | Self::RateDropped { first, .. }
            | Self::PongsDropped { first, .. }
            | Self::Unrouted { first, .. } => return first.then_some(Level::Warn),
            Self::AcceptFailed { first, .. } => return first.then_some(Level::Error),
            Self::WorkerBlocked { .. }
            | Self::WorkerLost { .. }
            | Self::HookPanicked { .. }
            | Self::SharedActorGone { .. }
            | Self::HandlerDied { .. } => Level::Error,
            Self::Admitted { .. }
            | Self::Removed { .. }
            | Self::DialGone { .. }
            | Self::StartHook { .. }
            | Self::StopHook { .. }
            | Self::HighWatermark { .. }
            | Self::LowWatermark { .. }
            | Self::ReplyDropped { .. }
            | Self::AnswerTooLate { .. }
            | Self::DroppedWhileDown { .. }
            | Self::NotAlive { .. } => Level::Debug,
            // The closing of the connection, which comes of it, is what is logged.
            Self::HandlerPanicked { .. } => return None,
        })
    }

    /// The events that are like it for the log; `None` if no peer can cause many of them.
    fn kind(&self, level: Level) -> Option<u64> {
        // A number, since the discriminant's type has the lifetime of what the event borrows.
        let mut kind = FxHasher::default();
        (discriminant(self), level as usize).hash(&mut kind);
        match self {
            Self::Listening { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::Draining { .. }
            | Self::Stopped { .. }
            | Self::WorkerStuck { .. }
            | Self::WorkerLost { .. }
            | Self::RouteAdded { .. }
            | Self::RouteRemoved { .. }
            | Self::MaxConnChanged { .. }
            | Self::ClientClosed { .. } => return None,
            // Once a shortage, and not more often than once a second: the acceptor sees to that.
            Self::AcceptFailed { .. } | Self::AcceptRecovered => return None,
            #[cfg(feature = "tls")]
            Self::TlsReloaded { .. } | Self::TlsNotReloaded { .. } => return None,
            Self::Closed { why, .. } => {
                discriminant(*why).hash(&mut kind);
                if let CloseReason::Handshake(why) = why {
                    discriminant(why).hash(&mut kind);
                }
            }
            Self::Refused { why, .. } => discriminant(*why).hash(&mut kind),
            Self::ConnectFailed { why, .. } => discriminant(*why).hash(&mut kind),
            Self::HookPanicked { hook, .. } => hook.hash(&mut kind),
            _ => {}
        }
        Some(kind.finish())
    }

    /// Whether it is the last word of a server or a client.
    fn is_last(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::ClientClosed { .. })
    }
}

/// Whether a peer that said nothing at all has left, or was left: it looked whether the port is there.
fn is_unspoken(conn: &Conn, why: &CloseReason) -> bool {
    use CloseReason as R;
    use HandshakeError as H;
    let left = matches!(
        why,
        R::PeerClosed | R::Io(_) | R::Silent(_) | R::Handshake(H::PeerClosed | H::Io(_) | H::Late)
    );
    let shared = conn.shared();
    left && !shared.dialled && !shared.was_heard()
}

/// Whether a peer asked in plain HTTP where something else is spoken: it looked whether the server is well.
fn is_http(conn: &Conn, why: &CloseReason) -> bool {
    matches!(why, CloseReason::Handshake(_) | CloseReason::Protocol(_))
        && conn.shared().asked_http()
}

fn is_ordinary(why: &CloseReason) -> bool {
    use CloseReason as R;
    matches!(
        why,
        R::PeerClosed
            | R::Shutdown
            | R::Stopped
            | R::App { .. }
            | R::Removed
            | R::Cleared
            | R::WriteIdle
            | R::Io(_)
    )
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { name, at, max_conn, workers } => {
                // What is spoken there goes without saying, if it is the usual.
                f.write_str(name)?;
                match at {
                    ListenAddr { scheme: Scheme::Tcp, addr, .. } => {
                        write!(f, " listens on {addr}")?;
                    }
                    at => write!(f, " listens on {at}")?,
                }
                write!(f, ", max_conn {max_conn}, {workers} workers")
            }
            Self::Suspended { addr } => write!(f, "suspended: {addr} is not listened on"),
            Self::Resumed { addr } => write!(f, "resumed: {addr} is listened on"),
            #[cfg(feature = "tls")]
            Self::TlsReloaded { cert, key, client_ca } => {
                write!(f, "new certificates are in use: {}, {}", cert.display(), key.display())?;
                client_ca.map_or(Ok(()), |file| write!(f, ", {}", file.display()))
            }
            #[cfg(feature = "tls")]
            Self::TlsNotReloaded { why } => {
                write!(f, "certificates were not reloaded; those before stay in use: {why}")
            }
            #[cfg(feature = "tls")]
            Self::TlsReloadWaits { reading } => write!(
                f,
                "certificates have been read for {} ms already; they are read once more after that",
                reading.as_millis()
            ),
            Self::Draining { name, deadline } => {
                write!(f, "{name} drains, for at most {} ms", deadline.as_millis())
            }
            Self::Stopped { name, report } => write!(f, "{name} stopped: {report}"),
            Self::WorkerStuck { worker } => {
                write!(
                    f,
                    "worker {worker} does not end, a handler blocks its thread; it is left behind"
                )
            }
            Self::WorkerBlocked { worker, message, since } => write!(
                f,
                "worker {worker} is blocked for {} ms, most likely by the handler of message {message}",
                since.as_millis()
            ),
            Self::WorkerRecovered { worker } => write!(f, "worker {worker} goes on"),
            Self::WorkerLost { worker } => write!(f, "worker {worker} ended before its server"),
            Self::RouteAdded { id, kind } => write!(f, "route added for message {id}: {kind}"),
            Self::RouteRemoved { id } => write!(f, "route removed for message {id}"),
            Self::MaxConnChanged { from, to } => write!(f, "max_conn was {from} and is {to}"),
            Self::Admitted { conn, connected } => write!(f, "{conn} added, {connected} connected"),
            Self::Removed { conn, connected, .. } => {
                write!(f, "{conn} removed, {connected} connected")
            }
            Self::Refused { peer, why } => write!(f, "connection from {peer} refused: {why}"),
            Self::Parked { peer } => {
                write!(f, "connection from {peer} waits for a place, and all that dial after it")
            }
            Self::HandshakesFull { peer, .. } => write!(
                f,
                "max_handshakes are under way: connection from {peer} waits, and all that come after it"
            ),
            Self::ReadingPaused { held, .. } => write!(
                f,
                "max_inbound_bytes: {held} bytes are received and not handed out, reading pauses for those who hold most"
            ),
            Self::AcceptFailed { error, .. } => {
                write!(f, "accept failed: {error}; trying again until it works")
            }
            Self::AcceptRecovered => f.write_str("accept works again"),
            Self::DialGone { error } => {
                write!(f, "a connection was gone before it was accepted: {error}")
            }
            Self::StartHook { conn } => write!(f, "{conn}: on_conn_start is called"),
            Self::StopHook { conn } => write!(f, "{conn}: on_conn_stop is called"),
            Self::HookPanicked { conn, hook } => write!(f, "{conn}: {hook} panicked"),
            Self::HandlerPanicked { conn, message } => {
                write!(f, "{conn}: the handler of message {message} panicked")
            }
            Self::HandlerFailed { conn, error } => {
                write!(f, "{conn}: a route function failed: {error}")
            }
            Self::HandlerDied { actor, message, panicked, pause } => {
                match message {
                    Some(message) => write!(f, "the handler actor of message {message}")?,
                    None => write!(f, "the supervised actor {actor}")?,
                }
                let how = if *panicked { "panicked" } else { "stopped" };
                write!(f, " {how}; it is started again ")?;
                match pause.as_millis() {
                    0 => f.write_str("at once"),
                    ms => write!(f, "in {ms} ms"),
                }
            }
            Self::SharedActorGone { message } => write!(
                f,
                "the actor behind message {message} is gone; connections that send to it are closed; told once a route"
            ),
            Self::DroppedWhileDown { conn, message } => {
                write!(f, "{conn}: message {message} was dropped while its handler actor was down")
            }
            Self::Closed { conn, why, unsent, unhandled, unconfirmed } => {
                write!(f, "{conn} closed: {why}")?;
                if unsent.frames > 0 || *unhandled > 0 {
                    let s = if *unhandled == 1 { "" } else { "s" };
                    write!(f, "; {unsent} unsent, {unhandled} byte{s} unhandled")?;
                }
                if *unconfirmed {
                    f.write_str("; the peer has not acknowledged all that was sent")?;
                }
                Ok(())
            }
            Self::CutShort { conn, messages, worker_ended } => {
                let why = if *worker_ended {
                    "its worker was stopped before it had ended"
                } else if conn.shared().closing() == Some(&CloseReason::PeerClosed) {
                    "half_closed_ms or the drain deadline passed"
                } else {
                    "the drain deadline passed"
                };
                let s = if *messages == 1 { " was" } else { "s were" };
                write!(f, "{conn}: {why}, {messages} message{s} with handlers")
            }
            Self::HighWatermark { conn, unsent } => {
                write!(f, "{conn} takes less than it is sent: {unsent} unsent")
            }
            Self::LowWatermark { conn } => write!(f, "{conn} has taken most of what it was sent"),
            Self::FramesDropped { conn, overflow, .. } => {
                let which = match overflow {
                    Overflow::DropOldest => "older frames",
                    _ => "frames",
                };
                write!(f, "{conn}: the outbox is full, {which} are dropped; told once a connection")
            }
            Self::ReplyDropped { conn, why } => write!(f, "{conn}: a reply was dropped, {why}"),
            Self::RateDelayed { conn, excess, .. } => {
                write!(f, "{conn} sends {excess}, its reading is held up; told once a connection")
            }
            Self::RateDropped { conn, excess, message, .. } => {
                write!(
                    f,
                    "{conn} sends {excess}, message {message} was dropped; told once a connection"
                )
            }
            Self::PongsDropped { conn, excess, pongs, .. } => {
                write!(
                    f,
                    "{conn} sends {excess}, {pongs} pongs were dropped; told once a connection"
                )
            }
            Self::HeartbeatFailed { conn, why } => {
                write!(f, "{conn} gets no heartbeat, {why}")
            }
            Self::NotAlive { conn } => write!(f, "{conn} gives no sign of life"),
            Self::Unrouted { conn, message, .. } => {
                write!(f, "{conn}: no route for message {message}; told once a connection")
            }
            Self::ConnectFailed { endpoint, why, pause: None } => {
                write!(f, "not connected to {endpoint}: {why}; given up")
            }
            Self::ConnectFailed { endpoint, why, pause: Some(pause) } => {
                let ms = pause.as_millis();
                write!(f, "not connected to {endpoint}: {why}; dialling again in {ms} ms")
            }
            Self::QueueDropped { endpoint, policy, .. } => {
                let which = match policy {
                    WhenQueueFull::DropOldest => "older frames",
                    _ => "frames",
                };
                write!(
                    f,
                    "the offline queue for {endpoint} is full, {which} are dropped; told once an outage"
                )
            }
            Self::AnswerTooLate { conn, message } => {
                write!(f, "{conn}: message {message} answers a request that nobody waits for")
            }
            Self::ClientClosed { endpoint, why, queued } => {
                write!(f, "the client of {endpoint} is closed")?;
                match why {
                    None => {}
                    Some(Outage::Final(why)) => {
                        write!(f, " and does not connect again: {why}")?;
                    }
                    Some(why) => write!(f, "; it was not connected: {why}")?,
                }
                match queued.frames {
                    0 => Ok(()),
                    _ => write!(f, "; {queued} were in its queue"),
                }
            }
        }
    }
}

pub(crate) type Observer = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// The kind of the line that tells of an observer's panic.
const OBSERVER: u64 = u64::MAX;

/// Where a server's events go: to its counters, to the log, and to its observer.
#[derive(Default)]
pub(crate) struct Events {
    counters: Counters,
    log: Log,
    observer: Option<Observer>,
}

impl Events {
    /// For an actix system that runs on this thread.
    pub(crate) fn start(observer: Option<Observer>) -> Arc<Self> {
        let (counters, log) = (Counters::default(), Log::default());
        let events = Arc::new(Self { counters, log, observer });
        log::keep_up(&events);
        events
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    #[expect(clippy::needless_pass_by_value, reason = "an event is made to be emitted")]
    pub(crate) fn emit(&self, event: Event<'_>) {
        self.counters.count(&event);
        if let Some(level) = event.level() {
            if event.is_last() {
                self.log.flush();
            }
            self.log.write(|| event.kind(level), level, &event);
        }
        if let Some(observer) = &self.observer
            && contained(|| observer(&event)).is_none()
        {
            self.counters.observer_panicked();
            let text = "the observer of events panicked";
            self.log.write(|| Some(OBSERVER), Level::Error, &text);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
