//! A server from its first dial to its last connection.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::acceptor::{Acceptor, Reception};
use super::error::ServerError;
use super::gate::{Door, Knocks};
use super::handle::{Phase, ServerHandle};
use super::listeners::Listener;
use super::preface::Prefaces;
use super::refusal::Refusal;
use super::report::StopReport;
use super::signals::{Signals, reload_at_hangup};
use super::watchdog;
use super::worker::Workers;
use crate::conn::{Limits, Overflow};
use crate::conn_manager::{Drain, Left, Shut};
use crate::endpoint::ListenAddr;
use crate::event::Event;
use crate::frame::Frame;
use crate::settings::{Settings, WhenWorkerLost};

/// What the end of a connection may take beyond its drain deadline: its handler's grace.
const DRAIN_SLACK: Duration = Duration::from_millis(100);

/// How long the notice of a stop may take to reach the outboxes, if nobody waits for more.
const TELLING: Duration = Duration::from_millis(100);

/// A server that listens and does not accept yet.
///
/// Dropping it, or the future of its [`serve`](Self::serve), closes everything without a drain.
#[must_use = "a server does nothing until it is served"]
pub struct BoundServer {
    pub(super) settings: Settings,
    pub(super) listeners: Vec<Listener>,
    pub(super) knocks: Vec<Knocks>,
    pub(super) limits: Arc<Limits>,
    pub(super) workers: Workers,
    pub(super) handle: ServerHandle,
    pub(super) refusal: Refusal,
    pub(super) notice: Option<Frame>,
    pub(super) signals: bool,
    /// Last, so that the port is free when it tells.
    pub(super) told: StoppedOnDrop,
}

impl BoundServer {
    /// The address it listens on; the first, if there are more.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// All addresses it listens on, in the order of its settings.
    pub fn listen_addrs(&self) -> &[ListenAddr] {
        self.handle.listen_addrs()
    }

    /// A handle, to be kept when the server serves.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until a signal or [`ServerHandle::stop`], then stops in phases:
    ///
    /// 1. The port is free, and nobody is admitted any more.
    /// 2. Clients are told, if there is a [notice](crate::Server::shutdown_notice), and served for
    ///    `notice_ms` more.
    /// 3. Nothing more is read. Handlers answer what was received; answers and other accepted frames
    ///    are written; sockets are closed; the hooks run. All that until the drain deadline, and
    ///    100 ms for what handlers do last.
    /// 4. The workers end. One whose thread a handler blocks has a second, then it is left behind.
    ///
    /// The report says what was cut. A second signal ends all this at once.
    ///
    /// # Errors
    ///
    /// [`ServerError::Accept`] if the listener dies, [`ServerError::WorkerLost`] (connections are
    /// drained all the same), [`ServerError::Forced`] if a second signal comes,
    /// [`ServerError::Signals`].
    pub async fn serve(self) -> Result<StopReport, ServerError> {
        // However this function ends, who waits for the stop is told: as the last thing, since it
        // is bound first.
        let Self { told: _told, settings, listeners, knocks, limits, mut workers, handle, .. } =
            self;
        let mut signals = Signals::new(self.signals).map_err(ServerError::Signals)?;
        let reloads = reload_at_hangup(self.signals, &handle).map_err(ServerError::Signals)?;
        let (name, events) = (&settings.name, handle.events());
        let (max_conn, threads) = (settings.max_conn, settings.workers());
        for Listener { at, .. } in &listeners {
            events.emit(Event::Listening { name, at, max_conn, workers: threads });
        }

        let manager = handle.conn_manager().clone();
        let (shared_limits, when_full) = (Arc::clone(&limits), settings.when_full);
        let reception = Reception::new(manager, &workers, shared_limits, when_full, self.refusal);
        let reception = Rc::new(reception);
        let watched = workers.watched();
        let (halt, halted) = watch::channel(());
        let mut accepting = Accepting(Vec::new());
        for (Listener { socket, at, stack }, knocks) in listeners.into_iter().zip(knocks) {
            let prefaces = Prefaces::new(&settings);
            let door = Door::new(socket, at.addr, prefaces, knocks, Arc::clone(events));
            let acceptor = Acceptor::new(door, at, stack, Rc::clone(&reception));
            accepting.0.push(Box::pin(acceptor.run(halted.clone())));
        }
        let served = tokio::select! {
            Some(error) = accepting.over() => Err(ServerError::Accept(error)),
            error = lost(&mut workers, settings.when_worker_lost, &handle) => Err(error),
            () = watch_over(watched, &limits) => Ok(()),
            never = reloads => match never {},
            () = handle.stop_requested() => Ok(()),
            () = signals.next() => Ok(()),
        };
        // Dials that are admitted by now are served.
        halt.send_replace(());
        let _ = timeout(DRAIN_SLACK, async { while accepting.over().await.is_some() {} }).await;
        // Closes the listeners: the ports are free from here on.
        drop(accepting);
        handle.advance(Phase::Stopping);
        let stopped = tokio::select! {
            report = stop(&settings, self.notice, &handle, workers) => Ok(report),
            () = signals.next() => Err(ServerError::Forced { left: handle.connections().len() }),
        };
        if let Ok(report) = &stopped {
            events.emit(Event::Stopped { name, report });
        }
        served.and(stopped)
    }
}

/// The acceptors of a server that are at work, each of which ends with its listener closed.
struct Accepting(Vec<Pin<Box<dyn Future<Output = Option<io::Error>>>>>);

impl Accepting {
    /// Runs them until one has a dead listener, or all have halted. Cancel safe.
    async fn over(&mut self) -> Option<io::Error> {
        poll_fn(|cx| {
            let mut dead = None;
            self.0.retain_mut(|acceptor| match acceptor.as_mut().poll(cx) {
                Poll::Ready(Some(error)) => {
                    dead = Some(error);
                    false
                }
                Poll::Ready(None) => false,
                Poll::Pending => true,
            });
            if dead.is_some() || self.0.is_empty() { Poll::Ready(dead) } else { Poll::Pending }
        })
        .await
    }
}

/// Reports workers that end, until that ends the server.
async fn lost(workers: &mut Workers, then: WhenWorkerLost, handle: &ServerHandle) -> ServerError {
    loop {
        let worker = workers.lost().await;
        handle.events().emit(Event::WorkerLost { worker });
        if then == WhenWorkerLost::Stop || workers.are_gone() {
            return ServerError::WorkerLost { worker };
        }
    }
}

/// Reports workers that are blocked, for ever.
async fn watch_over(workers: Vec<watchdog::Watched>, limits: &Limits) {
    match limits.patience.handler {
        Some(deadline) => watchdog::watch(workers, deadline, Arc::clone(&limits.events)).await,
        None => std::future::pending().await,
    }
}

/// Ends connections and workers in order.
async fn stop(
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
        let _ = manager.send(Drain).await;
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

/// Tells those who wait for the stop of a server, also of one that never served.
pub(super) struct StoppedOnDrop(pub(super) ServerHandle);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.advance(Phase::Stopped);
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("handle", &self.handle).finish_non_exhaustive()
    }
}
