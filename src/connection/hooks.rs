//! What an application does when a connection starts and stops.

use std::fmt;

use super::heartbeat::Heartbeat;
use crate::conn::{CloseReason, Conn};
use crate::event;
use crate::unwind::contained;

type OnStart = Box<dyn Fn(&Conn) + Send + Sync>;
type OnStop = Box<dyn Fn(&Conn, &CloseReason) + Send + Sync>;

/// Called on the connection's worker; a panic in one goes no further than its connection.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_start: Option<OnStart>,
    pub(crate) on_stop: Option<OnStop>,
    pub(crate) heartbeat: Option<Heartbeat>,
}

impl Hooks {
    pub(crate) fn start(&self, conn: &Conn) {
        let Some(hook) = &self.on_start else { return };
        event::start_hook(conn);
        if contained(|| hook(conn)).is_none() {
            event::hook_panicked(conn, "on_conn_start");
            conn.close(CloseReason::HookPanicked);
        }
    }

    pub(crate) fn stop(&self, conn: &Conn, why: &CloseReason) {
        let Some(hook) = &self.on_stop else { return };
        event::stop_hook(conn);
        if contained(|| hook(conn, why)).is_none() {
            event::hook_panicked(conn, "on_conn_stop");
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_start", &self.on_start.is_some())
            .field("on_stop", &self.on_stop.is_some())
            .field("heartbeat", &self.heartbeat)
            .finish()
    }
}
