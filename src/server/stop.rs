//! The end of a server: connections and workers, in order.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::handle::ServerHandle;
use super::report::StopReport;
use super::worker::Workers;
use crate::conn::{CloseReason, Overflow};
use crate::conn_manager::{Drain, Left, Shut};
use crate::event::Event;
use crate::frame::Frame;
use crate::settings::Settings;

/// What the end of a connection may take beyond its drain deadline: its handler's grace.
pub(super) const DRAIN_SLACK: Duration = Duration::from_millis(100);

/// How long the notice of a stop may take to reach the outboxes, if nobody waits for more.
const TELLING: Duration = Duration::from_millis(100);

/// Ends connections and workers in order.
pub(super) async fn stop(
    settings: &Settings,
    notice: Option<Frame>,
    handle: &ServerHandle,
    mut workers: Workers,
) -> StopReport {
    let (began, before) = (Instant::now(), handle.stats());
    let (manager, events) = (handle.conn_manager(), handle.events());
    let deadline = Duration::from_millis(settings.drain_deadline_ms);
    events.emit(Event::Draining { name: &settings.name, deadline });
    // A manager that is gone has no connections. Here and below.
    let _ = manager.send(Shut).await;
    let connections = handle.connections().len();
    if let Some(notice) = notice {
        let time = Duration::from_millis(settings.notice_ms);
        let told = async {
            let _ = handle.broadcast_with(notice, Overflow::Refuse).await;
            if !time.is_zero() {
                let _ = manager.send(Left).await;
            }
        };
        // A worker that is blocked tells nobody.
        let _ = timeout(time.max(TELLING), told).await;
    }
    let drain = async {
        if manager.send(Drain).await.is_err() {
            // It panicked. What it would have done is done here, for those that it knew.
            handle.connections().all().iter().for_each(|conn| conn.close(CloseReason::Shutdown));
        }
        workers.connections_over().await;
    };
    let drained = timeout(deadline + DRAIN_SLACK, drain).await;
    while let Some(worker) = workers.also_lost() {
        events.emit(Event::WorkerLost { worker });
    }
    let cut = if drained.is_ok() { 0 } else { handle.connections().len() as u64 };
    let workers_stuck = workers.stop(events).await;
    let report = StopReport {
        connections,
        cut,
        workers_stuck,
        took: began.elapsed(),
        ..StopReport::default()
    };
    report.between(&before, &handle.stats())
}
