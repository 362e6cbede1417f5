//! The end of a server: connections and workers, in order.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::handle::ServerHandle;
use super::report::StopReport;
use super::worker::Workers;
use crate::conn::{CloseReason, Conn, Overflow};
use crate::conn_manager::{Drain, Left, Len, Shut};
use crate::event::Event;
use crate::frame::Frame;
use crate::settings::Settings;

/// What the end of a connection may take beyond its drain deadline: its handler's grace.
pub(super) const DRAIN_SLACK: Duration = Duration::from_millis(100);

/// How long the notice of a stop may take to reach the outboxes, if nobody waits for more.
const TELLING: Duration = Duration::from_millis(100);

/// Ends connections and workers in order.
///
/// The report adds up because each connection is counted once, however its end is cut short: by its own
/// deadline, by this function, or with its worker ([`Conn::cut_short`]).
pub(super) async fn stop(
    settings: &Settings,
    notice: Option<Frame>,
    handle: &ServerHandle,
    mut workers: Workers,
) -> StopReport {
    let began = Instant::now();
    let (manager, events) = (handle.conn_manager(), handle.events());
    let deadline = Duration::from_millis(settings.drain_deadline_ms);
    events.emit(Event::Draining { name: &settings.name, deadline });
    // A manager that is gone has no connections. Here and below.
    let _ = manager.send(Shut).await;
    let connections = not_over(handle, &workers).len();
    // After that, so that whoever is cut short is one of these.
    let before = handle.stats();
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
    if timeout(deadline + DRAIN_SLACK, drain).await.is_err() {
        // Whose end was told to the manager by now has ended in time.
        let _ = manager.send(Len).await;
        not_over(handle, &workers).iter().for_each(|conn| conn.cut_short(false));
    }
    while let Some(worker) = workers.also_lost() {
        events.emit(Event::WorkerLost { worker });
    }
    let workers_stuck = workers.stop(events).await;
    // The workers that have ended told the manager of all connections that they had.
    let _ = manager.send(Len).await;
    let (after, left) = (handle.stats(), attached(handle));
    let report = StopReport {
        connections,
        workers_stuck,
        left_behind: left.len(),
        took: began.elapsed(),
        ..StopReport::default()
    };
    left.iter().fold(report.between(&before, &after), |report, conn| report.leave(conn.unsent()))
}

/// Connections of peers in the table.
fn attached(handle: &ServerHandle) -> Vec<Conn> {
    let mut all = handle.connections().all();
    all.retain(|conn| conn.shared().is_attached());
    all
}

/// Connections in the table, and those that have left it although their handlers are at work.
fn not_over(handle: &ServerHandle, workers: &Workers) -> Vec<Conn> {
    // In this order: who leaves the table meanwhile is found in the other place.
    let mut conns = attached(handle);
    let outlasting = workers.outlasting();
    if !outlasting.is_empty() {
        let known: HashSet<_> = conns.iter().map(Conn::id).collect();
        conns.extend(outlasting.into_iter().filter(|conn| !known.contains(&conn.id())));
    }
    conns
}
