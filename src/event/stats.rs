//! What is counted, and what of it can be read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Event, is_http, is_unspoken};
use crate::conn::{CloseReason, HandshakeError, Overflow};
use crate::conn_manager::AddError;

macro_rules! counters {
    (
        $(#[$stats_doc:meta])* $Stats:ident, $Counters:ident {
            $($(#[$doc:meta])* $name:ident,)*
            $(; $($(#[$inner_doc:meta])* $inner:ident: $InnerStats:ident, $InnerCounters:ident,)+)?
        }
    ) => {
        $(#[$stats_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct $Stats {
            $($(#[$doc])* pub $name: u64,)*
            $($($(#[$inner_doc])* pub $inner: $InnerStats,)+)?
        }

        /// The live counters behind them.
        #[derive(Debug, Default)]
        pub(super) struct $Counters {
            $($name: AtomicU64,)*
            $($($inner: $InnerCounters,)+)?
        }

        impl $Counters {
            pub(super) fn snapshot(&self) -> $Stats {
                $Stats {
                    $($name: self.$name.load(Relaxed),)*
                    $($($inner: self.$inner.snapshot(),)+)?
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
        /// Connections not admitted.
        refused,
        /// Connections that ended, of those admitted.
        ended,
        /// Connections that ended by their peers' doing, which had not sent a byte: somebody looked whether
        /// the port is there.
        left_unspoken,
        /// Connections whose peers asked in plain HTTP, and for no WebSocket: somebody looked whether the server
        /// is well.
        plain_http,
        /// Connections whose end was not over by the drain deadline, or by `half_closed_ms` after their peers had
        /// closed their side, or when their worker ended.
        cut_short,
        /// Messages that were with their handlers then.
        messages_unfinished,
        /// Frames accepted for sending that a connection's end left unsent.
        frames_cut,
        /// The bytes of these frames that were unsent, headers included.
        bytes_cut,
        /// Bytes received that a connection's end left without a handler.
        bytes_unhandled,
        /// Connections that ended while the system still held bytes that their peers' systems had not
        /// acknowledged, beside what was unsent.
        unconfirmed,
        /// Frames that were dropped in place of the ones sent after them:
        /// [`Overflow::DropOldest`].
        oldest_dropped,
        /// Frames that were dropped for want of room:
        /// [`Overflow::DropNewest`].
        newest_dropped,
        /// Answers to connections that were closed meanwhile.
        replies_dropped,
        /// Times that an outbox rose above its high watermark.
        high_watermarks,
        /// Times that a connection's reading was held up because its peer sent too much.
        rate_delays,
        /// Messages dropped because their peer sent too much.
        rate_drops,
        /// Replies to WebSocket's pings that were dropped because the peer sent too much.
        pongs_dropped,
        /// Heartbeats that were not sent because the peer gave no sign of life.
        not_alive,
        /// Messages without a route.
        unrouted,
        /// Messages for which a route function returned an error.
        handler_errors,
        /// Messages whose handler panicked, and hooks and observers that did.
        panics,
        /// Handler actors and supervised actors that panicked or stopped, and were started again.
        restarts,
        /// Shared actors behind routes that were found gone.
        shared_actors_gone,
        /// Messages dropped because their handler actor was about to be started again.
        dropped_while_down,
        /// Times that a worker's thread did not come back from a handler in time.
        workers_blocked,
        /// Workers that ended before their server.
        workers_lost,
        /// Times that accepting waited because `max_handshakes` were under way.
        handshake_waits,
        /// Times that a connection was not read for a while because of `max_inbound_bytes`.
        reading_pauses,
        /// Failed accepts.
        accept_errors,
        /// Times that certificates were reloaded.
        tls_reloads,
        /// Times that certificates were to be reloaded, and the files were not good.
        tls_reloads_failed,
        /// Times that a client dialled and was not connected.
        connects_failed,
        /// Frames that were dropped because a client's offline queue was full.
        queue_dropped,
        /// Answers that came when the client's request was over.
        answers_too_late,
        /// Frames that were in a client's offline queue when it was closed.
        queue_left,
        ;
        /// Why they ended: adds up to `ended`.
        endings: Endings, EndingCounters,
        /// Why handshakes failed: adds up to `endings.handshake`.
        handshakes: Handshakes, HandshakeCounters,
        /// Why they were not admitted: adds up to `refused`.
        refusals: Refusals, RefusalCounters,
    }
}

counters! {
    /// How many connections ended for which [`CloseReason`].
    Endings, EndingCounters {
        /// [`CloseReason::PeerClosed`].
        peer_closed,
        /// [`CloseReason::PeerClosedWith`].
        peer_closed_with,
        /// [`CloseReason::PeerClosedFinally`].
        peer_closed_finally,
        /// [`CloseReason::Handshake`].
        handshake,
        /// [`CloseReason::Protocol`].
        protocol,
        /// [`CloseReason::NoRoute`].
        no_route,
        /// [`CloseReason::OverRate`].
        over_rate,
        /// [`CloseReason::Shutdown`].
        shutdown,
        /// [`CloseReason::Stopped`].
        stopped,
        /// [`CloseReason::App`].
        app,
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
        /// [`CloseReason::HandlerLate`].
        handler_late,
        /// [`CloseReason::OutOfStep`].
        out_of_step,
        /// [`CloseReason::SlowConsumer`].
        slow_consumer,
        /// [`CloseReason::Silent`].
        silent,
        /// [`CloseReason::InboundFull`].
        inbound_full,
        /// [`CloseReason::WriteIdle`].
        write_idle,
        /// [`CloseReason::Io`].
        io,
        /// [`CloseReason::WorkerGone`].
        worker_gone,
    }
}

counters! {
    /// How many connections ended for which [`HandshakeError`].
    Handshakes, HandshakeCounters {
        /// [`HandshakeError::Late`].
        late,
        /// [`HandshakeError::PeerClosed`].
        peer_closed,
        /// [`HandshakeError::Io`].
        io,
        /// [`HandshakeError::Tls`].
        tls,
        /// [`HandshakeError::Certificate`].
        certificate,
        /// [`HandshakeError::WebSocket`].
        web_socket,
        /// [`HandshakeError::Http`].
        http,
    }
}

counters! {
    /// How many connections were not admitted for which [`AddError`].
    Refusals, RefusalCounters {
        /// [`AddError::Full`].
        full,
        /// [`AddError::TooManyOfIp`].
        too_many_of_ip,
        /// [`AddError::TooFast`].
        too_fast,
        /// [`AddError::Denied`].
        denied,
        /// [`AddError::NoProxyHeader`].
        no_proxy_header,
        /// [`AddError::Draining`]: a dial waited when the server was stopped.
        draining,
        /// What a server does not ask for: other [`AddError`]s.
        other,
    }
}

impl EndingCounters {
    fn of(&self, why: &CloseReason) -> &AtomicU64 {
        match why {
            CloseReason::PeerClosed => &self.peer_closed,
            CloseReason::PeerClosedWith { .. } => &self.peer_closed_with,
            CloseReason::PeerClosedFinally => &self.peer_closed_finally,
            CloseReason::Handshake(_) => &self.handshake,
            CloseReason::Protocol(_) => &self.protocol,
            CloseReason::NoRoute(_) => &self.no_route,
            CloseReason::OverRate(_) => &self.over_rate,
            CloseReason::Shutdown => &self.shutdown,
            CloseReason::Stopped => &self.stopped,
            CloseReason::App { .. } => &self.app,
            CloseReason::Removed => &self.removed,
            CloseReason::Cleared => &self.cleared,
            CloseReason::HandlerPanicked(_) => &self.handler_panicked,
            CloseReason::HookPanicked => &self.hook_panicked,
            CloseReason::HandlerGone(_) => &self.handler_gone,
            CloseReason::HandlerLate(_) => &self.handler_late,
            CloseReason::OutOfStep(_) => &self.out_of_step,
            CloseReason::SlowConsumer(_) => &self.slow_consumer,
            CloseReason::Silent(_) => &self.silent,
            CloseReason::InboundFull => &self.inbound_full,
            CloseReason::WriteIdle => &self.write_idle,
            CloseReason::Io(_) => &self.io,
            CloseReason::WorkerGone => &self.worker_gone,
        }
    }
}

impl HandshakeCounters {
    fn of(&self, why: &HandshakeError) -> &AtomicU64 {
        match why {
            HandshakeError::Late => &self.late,
            HandshakeError::PeerClosed => &self.peer_closed,
            HandshakeError::Io(_) => &self.io,
            HandshakeError::Tls(_) => &self.tls,
            HandshakeError::Certificate(_) => &self.certificate,
            HandshakeError::WebSocket(_) => &self.web_socket,
            HandshakeError::Http { .. } => &self.http,
        }
    }
}

impl RefusalCounters {
    fn of(&self, why: &AddError) -> &AtomicU64 {
        match why {
            AddError::Full { .. } => &self.full,
            AddError::TooManyOfIp { .. } => &self.too_many_of_ip,
            AddError::TooFast { .. } => &self.too_fast,
            AddError::Denied(_) => &self.denied,
            AddError::NoProxyHeader(_) => &self.no_proxy_header,
            AddError::Draining => &self.draining,
            AddError::Duplicate(_) | AddError::Closed(_) => &self.other,
        }
    }
}

impl Counters {
    pub(super) fn observer_panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    pub(super) fn count(&self, event: &Event<'_>) {
        let (counter, n) = match event {
            Event::Admitted { .. } => (&self.admitted, 1),
            Event::Refused { why, .. } => {
                self.refusals.of(why).fetch_add(1, Relaxed);
                (&self.refused, 1)
            }
            Event::Removed { conn, why, .. } => {
                self.endings.of(why).fetch_add(1, Relaxed);
                if let CloseReason::Handshake(why) = why {
                    self.handshakes.of(why).fetch_add(1, Relaxed);
                }
                self.left_unspoken.fetch_add(is_unspoken(conn, why).into(), Relaxed);
                self.plain_http.fetch_add(is_http(conn, why).into(), Relaxed);
                (&self.ended, 1)
            }
            Event::Closed { unsent, unhandled, unconfirmed, .. } => {
                self.unconfirmed.fetch_add(u64::from(*unconfirmed), Relaxed);
                self.bytes_cut.fetch_add(unsent.bytes as u64, Relaxed);
                self.bytes_unhandled.fetch_add(*unhandled as u64, Relaxed);
                (&self.frames_cut, unsent.frames as u64)
            }
            Event::CutShort { messages, .. } => {
                self.cut_short.fetch_add(1, Relaxed);
                (&self.messages_unfinished, u64::from(*messages))
            }
            Event::FramesDropped { overflow: Overflow::DropOldest, frames, .. } => {
                (&self.oldest_dropped, *frames as u64)
            }
            Event::FramesDropped { frames, .. } => (&self.newest_dropped, *frames as u64),
            Event::ReplyDropped { .. } => (&self.replies_dropped, 1),
            Event::HighWatermark { .. } => (&self.high_watermarks, 1),
            Event::RateDelayed { .. } => (&self.rate_delays, 1),
            Event::RateDropped { .. } => (&self.rate_drops, 1),
            Event::PongsDropped { pongs, .. } => (&self.pongs_dropped, *pongs as u64),
            Event::NotAlive { .. } => (&self.not_alive, 1),
            Event::Unrouted { .. } => (&self.unrouted, 1),
            Event::HandlerPanicked { .. } | Event::HookPanicked { .. } => (&self.panics, 1),
            Event::HandlerFailed { .. } => (&self.handler_errors, 1),
            Event::HandlerDied { .. } => (&self.restarts, 1),
            Event::SharedActorGone { .. } => (&self.shared_actors_gone, 1),
            Event::DroppedWhileDown { .. } => (&self.dropped_while_down, 1),
            Event::WorkerBlocked { .. } => (&self.workers_blocked, 1),
            Event::WorkerLost { .. } => (&self.workers_lost, 1),
            Event::ConnectFailed { .. } => (&self.connects_failed, 1),
            Event::QueueDropped { frames, .. } => (&self.queue_dropped, *frames as u64),
            Event::AnswerTooLate { .. } => (&self.answers_too_late, 1),
            Event::ClientClosed { queued, .. } => (&self.queue_left, queued.frames as u64),
            Event::HandshakesFull { .. } => (&self.handshake_waits, 1),
            Event::ReadingPaused { .. } => (&self.reading_pauses, 1),
            Event::AcceptFailed { .. } | Event::DialGone { .. } => (&self.accept_errors, 1),
            #[cfg(feature = "tls")]
            Event::TlsReloaded { .. } => (&self.tls_reloads, 1),
            #[cfg(feature = "tls")]
            Event::TlsNotReloaded { .. } => (&self.tls_reloads_failed, 1),
            #[cfg(feature = "tls")]
            Event::TlsReloadWaits { .. } => return,
            Event::Listening { .. }
            | Event::Suspended { .. }
            | Event::Resumed { .. }
            | Event::Draining { .. }
            | Event::Stopped { .. }
            | Event::WorkerStuck { .. }
            | Event::WorkerRecovered { .. }
            | Event::RouteAdded { .. }
            | Event::RouteRemoved { .. }
            | Event::MaxConnChanged { .. }
            | Event::AcceptRecovered
            | Event::Parked { .. }
            | Event::StartHook { .. }
            | Event::StopHook { .. }
            | Event::HeartbeatFailed { .. }
            | Event::LowWatermark { .. } => return,
        };
        counter.fetch_add(n, Relaxed);
    }
}
