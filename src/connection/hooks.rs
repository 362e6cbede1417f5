//! What an application does when a connection starts and stops.

use std::fmt;

use super::heartbeat::Heartbeat;
use crate::conn::{CloseReason, Conn};
use crate::event::Event;
use crate::unwind::contained;

type OnStart = Box<dyn Fn(&Conn) + Send + Sync>;
type OnStop = Box<dyn Fn(&Conn, &CloseReason) + Send + Sync>;
type OnWatermark = Box<dyn Fn(&Conn, Watermark) + Send + Sync>;

/// Called on the connection's worker; a panic in one goes no further than its connection.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_start: Option<OnStart>,
    pub(crate) on_stop: Option<OnStop>,
    pub(crate) on_watermark: Option<OnWatermark>,
    pub(crate) heartbeat: Option<Heartbeat>,
}

/// Which mark a connection's outbox has crossed.
///
/// Between the two is room for a sender to stop, and to begin again before the outbox is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    /// The peer takes less than what is sent to it: more than `high_watermark_percent` of the outbox
    /// is full, and the socket takes no more at present.
    High,
    /// After that, the peer has taken what was unsent down to `low_watermark_percent`.
    Low,
}

impl Hooks {
    pub(crate) fn watermark(&self, conn: &Conn, mark: Watermark) {
        conn.emit(match mark {
            Watermark::High => Event::HighWatermark { conn, unsent: conn.unsent() },
            Watermark::Low => Event::LowWatermark { conn },
        });
        let Some(hook) = &self.on_watermark else { return };
        if contained(|| hook(conn, mark)).is_none() {
            conn.emit(Event::HookPanicked { conn, hook: "on_watermark" });
        }
    }

    pub(crate) fn start(&self, conn: &Conn) {
        let Some(hook) = &self.on_start else { return };
        conn.emit(Event::StartHook { conn });
        if contained(|| hook(conn)).is_none() {
            conn.emit(Event::HookPanicked { conn, hook: "on_conn_start" });
            conn.close(CloseReason::HookPanicked);
        }
    }

    pub(crate) fn stop(&self, conn: &Conn, why: &CloseReason) {
        let Some(hook) = &self.on_stop else { return };
        conn.emit(Event::StopHook { conn });
        if contained(|| hook(conn, why)).is_none() {
            conn.emit(Event::HookPanicked { conn, hook: "on_conn_stop" });
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_start", &self.on_start.is_some())
            .field("on_stop", &self.on_stop.is_some())
            .field("on_watermark", &self.on_watermark.is_some())
            .field("heartbeat", &self.heartbeat)
            .finish()
    }
}
