//! Every event the crate emits: what is logged, at which level, and what is counted.
//!
//! | event | level | what an operator does about it |
//! |---|---|---|
//! | listening, draining, stopped, route added, route removed | info | |
//! | connection added, removed | info | |
//! | connection refused | warn | raise `max_conn`, or find out who dials |
//! | accept failed | error once, then recovered: info | raise the descriptor limit |
//! | hook called | debug | |
//! | dial gone before it was accepted | debug | |
//! | connection closed | info; warn for a protocol error, a slow consumer, a handler's fault, frames cut | look at that client or handler |
//! | hook panicked | error | find the panic above it in the log |
//! | message without a route | warn once a connection | register the route, or find out who sends it |
//! | route function answered `Err` | warn | |
//! | reply to a closed connection | debug | |
//! | peer without a sign of life | debug; the closing that comes of it: warn | |
//! | handler actor restarted | error | find the panic above it in the log |
//! | worker stuck | warn | find the handler that blocks its thread |
//! | drain cut short | warn | raise `drain_deadline_ms`, or find the handler that hangs |
//!
//! The log target is `zinxide`. A line that is off costs a comparison and formats nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use log::{debug, error, info, log, warn};
use serde::Serialize;

use crate::conn::{CloseReason, Conn, Cut, SendError};
use crate::frame::MsgId;

const TARGET: &str = "zinxide";

macro_rules! counters {
    (
        $(#[$stats_doc:meta])* $Stats:ident, $Counters:ident {
            $($(#[$doc:meta])* $name:ident,)*
            $(; $(#[$inner_doc:meta])* $inner:ident: $InnerStats:ident, $InnerCounters:ident,)?
        }
    ) => {
        $(#[$stats_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct $Stats {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$inner_doc])* pub $inner: $InnerStats,)?
        }

        /// The live counters behind them.
        #[derive(Debug, Default)]
        pub(crate) struct $Counters {
            $($name: AtomicU64,)*
            $($inner: $InnerCounters,)?
        }

        impl $Counters {
            pub(crate) fn snapshot(&self) -> $Stats {
                $Stats {
                    $($name: self.$name.load(Relaxed),)*
                    $($inner: self.$inner.snapshot(),)?
                }
            }
        }
    };
}

counters! {
    /// What has happened on a server so far: see [`ServerHandle::stats`](crate::ServerHandle::stats).
    Stats, Counters {
        /// Connections admitted.
        admitted,
        /// Connections refused because the server was full or draining.
        refused,
        /// Connections that ended, of those admitted.
        ended,
        /// Frames accepted for sending that a connection's end left unsent.
        frames_cut,
        /// Answers to connections that were closed meanwhile.
        replies_dropped,
        /// Heartbeats that were not sent because the peer gave no sign of life.
        not_alive,
        /// Messages without a route.
        unrouted,
        /// Messages whose handler panicked, and hooks that did.
        panics,
        /// Handler actors that panicked or stopped, and were started again.
        restarts,
        /// Failed accepts.
        accept_errors,
        ;
        /// Why they ended: adds up to `ended`.
        endings: Endings, EndingCounters,
    }
}

counters! {
    /// How many connections ended for which [`CloseReason`].
    Endings, EndingCounters {
        /// [`CloseReason::PeerClosed`].
        peer_closed,
        /// [`CloseReason::Protocol`].
        protocol,
        /// [`CloseReason::NoRoute`].
        no_route,
        /// [`CloseReason::Shutdown`].
        shutdown,
        /// [`CloseReason::Stopped`].
        stopped,
        /// [`CloseReason::Removed`].
        removed,
        /// [`CloseReason::Cleared`].
        cleared,
        /// [`CloseReason::HandlerPanicked`].
        handler_panicked,
        /// [`CloseReason::HookPanicked`].
        hook_panicked,
        /// [`CloseReason::HandlerGone`].
        handler_gone,
        /// [`CloseReason::SlowConsumer`].
        slow_consumer,
        /// [`CloseReason::Silent`].
        silent,
        /// [`CloseReason::Io`].
        io,
        /// [`CloseReason::WorkerGone`].
        worker_gone,
    }
}

impl EndingCounters {
    fn of(&self, why: &CloseReason) -> &AtomicU64 {
        match why {
            CloseReason::PeerClosed => &self.peer_closed,
            CloseReason::Protocol(_) => &self.protocol,
            CloseReason::NoRoute(_) => &self.no_route,
            CloseReason::Shutdown => &self.shutdown,
            CloseReason::Stopped => &self.stopped,
            CloseReason::Removed => &self.removed,
            CloseReason::Cleared => &self.cleared,
            CloseReason::HandlerPanicked(_) => &self.handler_panicked,
            CloseReason::HookPanicked => &self.hook_panicked,
            CloseReason::HandlerGone(_) => &self.handler_gone,
            CloseReason::SlowConsumer(_) => &self.slow_consumer,
            CloseReason::Silent(_) => &self.silent,
            CloseReason::Io(_) => &self.io,
            CloseReason::WorkerGone => &self.worker_gone,
        }
    }
}

fn counters(conn: &Conn) -> &Counters {
    &conn.shared().limits.counters
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn listening(name: &str, addr: SocketAddr, max_conn: usize, workers: usize) {
    info!(target: TARGET, "{name} listens on {addr}, max_conn {max_conn}, {workers} workers");
}

pub(crate) fn route_added(id: MsgId, kind: &str) {
    info!(target: TARGET, "route added for message {id}: {kind}");
}

pub(crate) fn route_removed(id: MsgId) {
    info!(target: TARGET, "route removed for message {id}");
}

pub(crate) fn draining(name: &str, deadline: Duration) {
    info!(target: TARGET, "{name} drains, for at most {} ms", deadline.as_millis());
}

pub(crate) fn stopped(name: &str, stats: &Stats) {
    info!(target: TARGET, "{name} stopped: {} connections served, {} refused", stats.ended, stats.refused);
}

pub(crate) fn drain_cut_short(name: &str, left: usize) {
    warn!(target: TARGET, "{name}: the drain deadline passed with {left} connections left");
}

pub(crate) fn worker_stuck(name: &str, index: usize) {
    warn!(target: TARGET, "{name}: worker {index} does not end, a handler blocks its thread; it is left behind");
}

pub(crate) fn added(conn: &Conn, len: usize) {
    count(&counters(conn).admitted);
    info!(target: TARGET, "{conn} added, {len} connected");
}

pub(crate) fn removed(conn: &Conn, len: usize) {
    let counters = counters(conn);
    count(&counters.ended);
    count(counters.endings.of(&conn.shared().closing().unwrap_or(CloseReason::WorkerGone)));
    info!(target: TARGET, "connection {} removed, {len} connected", conn.id());
}

pub(crate) fn refused(counters: &Counters, peer: SocketAddr, why: &dyn fmt::Display) {
    count(&counters.refused);
    warn!(target: TARGET, "connection from {peer} refused: {why}");
}

pub(crate) fn accept_failed(counters: &Counters, error: &io::Error, first: bool) {
    count(&counters.accept_errors);
    if first {
        error!(target: TARGET, "accept failed: {error}; trying again until it works");
    }
}

pub(crate) fn accept_recovered() {
    info!(target: TARGET, "accept works again");
}

pub(crate) fn accept_skipped(counters: &Counters, error: &io::Error) {
    count(&counters.accept_errors);
    debug!(target: TARGET, "a connection was gone before it was accepted: {error}");
}

pub(crate) fn start_hook(conn: &Conn) {
    debug!(target: TARGET, "{conn}: on_conn_start is called");
}

pub(crate) fn stop_hook(conn: &Conn) {
    debug!(target: TARGET, "{conn}: on_conn_stop is called");
}

pub(crate) fn hook_panicked(conn: &Conn, hook: &str) {
    count(&counters(conn).panics);
    error!(target: TARGET, "{conn}: {hook} panicked");
}

/// The closing of the connection, which comes of it, is what is logged: this is called while the
/// thread unwinds, when a logger that panics would abort the process.
pub(crate) fn handler_panicked(conn: &Conn) {
    count(&counters(conn).panics);
}

pub(crate) fn closed(conn: &Conn, why: &CloseReason, cut: Cut, unread: usize) {
    use CloseReason as R;
    counters(conn).frames_cut.fetch_add(cut.frames as u64, Relaxed);
    let ordinary = matches!(
        why,
        R::PeerClosed | R::Shutdown | R::Stopped | R::Removed | R::Cleared | R::Io(_)
    );
    let level = if ordinary && cut == Cut::default() { log::Level::Info } else { log::Level::Warn };
    if cut == Cut::default() && unread == 0 {
        log!(target: TARGET, level, "{conn} closed: {why}");
    } else {
        let Cut { frames, bytes } = cut;
        log!(target: TARGET, level, "{conn} closed: {why}; {frames} frames ({bytes} bytes) unsent, {unread} bytes unhandled");
    }
}

pub(crate) fn not_alive(conn: &Conn) {
    count(&counters(conn).not_alive);
    debug!(target: TARGET, "{conn} gives no sign of life");
}

pub(crate) fn unrouted(conn: &Conn, id: MsgId, first: bool) {
    count(&counters(conn).unrouted);
    if first {
        warn!(target: TARGET, "{conn}: no route for message {id}; told once a connection");
    }
}

pub(crate) fn reply_dropped(conn: &Conn, why: &SendError) {
    count(&counters(conn).replies_dropped);
    debug!(target: TARGET, "{conn}: a reply was dropped, {why}");
}

pub(crate) fn handler_failed(conn: &Conn, error: &dyn fmt::Display) {
    warn!(target: TARGET, "{conn}: a route function failed: {error}");
}

pub(crate) fn handler_died(counters: &Counters, id: MsgId, panicked: bool, pause: Duration) {
    count(&counters.restarts);
    let how = if panicked { "panicked" } else { "stopped" };
    error!(target: TARGET, "the handler actor of message {id} {how}; it is started again in {} ms", pause.as_millis());
}
