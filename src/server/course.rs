//! What a server does from the first dial to its last connection, on the thread that accepts.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;

use actix::{Addr, Context, Handler, Message, ResponseActFuture};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::acceptor::{Acceptor, Reception};
use super::bound::StoppedOnDrop;
use super::error::ServerError;
use super::gate::{Door, Knocks};
use super::handle::{Phase, ServerHandle};
use super::listeners::Listener;
use super::preface::Prefaces;
use super::refusal::Refusal;
use super::report::StopReport;
use super::signals::{Signals, reload_at_hangup};
use super::stop::{DRAIN_SLACK, stop};
use super::watchdog;
use super::worker::Workers;
use crate::conn::Limits;
use crate::conn_manager::ConnManager;
use crate::event::Event;
use crate::frame::Frame;
use crate::router::Router;
use crate::settings::{Settings, WhenWorkerLost};
use crate::unwind::contained;

/// All that a server needs to serve.
pub(super) struct Course {
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

/// Its drop, by the last who has it, tells that the ports are free: those who wait for the stop, and
/// whoever drops a server that serves.
struct Open {
    _told: StoppedOnDrop,
    _closed: mpsc::Sender<Infallible>,
}

impl Course {
    /// Serves until a signal or [`ServerHandle::stop`], and stops. Dropped before that, it closes
    /// everything, and drops `closed` when that is done.
    pub(super) async fn run(
        self,
        closed: mpsc::Sender<Infallible>,
    ) -> Result<StopReport, ServerError> {
        let Self { told, settings, listeners, knocks, limits, mut workers, handle, .. } = self;
        // However this function ends: it is dropped as the last thing, since it is bound first.
        let open = Arc::new(Open { _told: told, _closed: closed });
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
        // Tasks, so that a dial wakes its acceptor and not all that is waited for below.
        let mut acceptors = JoinSet::new();
        for (Listener { socket, at, stack }, knocks) in listeners.into_iter().zip(knocks) {
            let socket = socket.try_into().map_err(ServerError::Accept)?;
            let prefaces = Prefaces::new(&settings);
            let door = Door::new(socket, at.addr, prefaces, knocks, Arc::clone(events));
            let acceptor = Acceptor::new(door, at, stack, Rc::clone(&reception));
            // A task that is aborted is dropped a moment later, its listener with it, and after that its
            // share of `open`: in this order, whether it has begun or not.
            let accepting = (acceptor.run(halted.clone()), Arc::clone(&open));
            acceptors.spawn_local(async move {
                let (run, _open) = accepting;
                run.await
            });
        }
        let until_it_ends = async {
            tokio::select! {
                Some(error) = over(&mut acceptors) => Err(error),
                error = lost(&mut workers, settings.when_worker_lost, &handle) => Err(error),
                () = gone(handle.conn_manager()) => Err(ServerError::AcceptPanicked),
                () = gone(handle.router()) => Err(ServerError::AcceptPanicked),
                () = watch_over(watched, &limits) => Ok(()),
                never = reloads => match never {},
                () = handle.stop_requested() => Ok(()),
                () = signals.next() => Ok(()),
            }
        };
        let served = unless_it_panics(until_it_ends).await;
        // Dials that are admitted by now are served.
        halt.send_replace(());
        let _ = timeout(DRAIN_SLACK, async { while over(&mut acceptors).await.is_some() {} }).await;
        // Closes the listeners: the ports are free from here on.
        acceptors.shutdown().await;
        handle.advance(Phase::Stopping);
        let stopped = tokio::select! {
            report = stop(&settings, self.notice, &handle, workers) => Ok(report),
            () = signals.next() => Err(ServerError::Forced { left: handle.connections().len() }),
        };
        if let Ok(report) = &stopped {
            events.emit(Event::Stopped { name, report });
        }
        served.unwrap_or(Err(ServerError::AcceptPanicked)).and(stopped)
    }
}

/// Waits until an acceptor has a dead listener or has panicked, or until all have halted. Cancel safe.
async fn over(acceptors: &mut JoinSet<Option<io::Error>>) -> Option<ServerError> {
    while let Some(ended) = acceptors.join_next().await {
        match ended {
            Ok(None) => {}
            Ok(Some(error)) => return Some(ServerError::Accept(error)),
            Err(_) => return Some(ServerError::AcceptPanicked),
        }
    }
    None
}

/// What `future` is ready with, or `None` if it panics.
async fn unless_it_panics<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match contained(|| future.as_mut().poll(cx)) {
        Some(polled) => polled.map(Some),
        None => Poll::Ready(None),
    })
    .await
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

/// Never answered: who asks learns that the actor is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct Vigil;

/// Waits for the end of an actor of this thread, which comes before the server's by a panic alone.
async fn gone<A>(actor: &Addr<A>)
where
    A: actix::Actor<Context = Context<A>> + Handler<Vigil>,
{
    let _ = actor.send(Vigil).await;
}

impl Handler<Vigil> for ConnManager {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Vigil, _: &mut Context<Self>) -> Self::Result {
        Box::pin(actix::fut::wrap_future(pending()))
    }
}

impl Handler<Vigil> for Router {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Vigil, _: &mut Context<Self>) -> Self::Result {
        Box::pin(actix::fut::wrap_future(pending()))
    }
}

/// Reports workers that are blocked, for ever.
async fn watch_over(workers: Vec<watchdog::Watched>, limits: &Limits) {
    match limits.patience.handler {
        Some(deadline) => watchdog::watch(workers, deadline, Arc::clone(&limits.events)).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn a_panic_is_told_from_an_end_and_goes_no_further() {
        assert_eq!(unless_it_panics(async { tokio::task::yield_now().await }).await, Some(()));
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        assert_eq!(unless_it_panics(panics).await, None::<()>);
    }
}
