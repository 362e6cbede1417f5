//! The thread that accepts: with the acceptors, the manager, the router, and the course of the server's
//! life, so that nothing that the application does on its own thread holds them up.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix::{Actor, Addr, System};
use actix_rt::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::course::Course;
use super::error::ServerError;
use super::report::StopReport;
use crate::conn_manager::{ConnManager, Connections, Left};
use crate::router::Router;

/// Also its name in the lists of the system, which show so many letters.
const NAME: &str = "zinxide-accept";

/// How long an end waits for this thread, which the application's observer may hold up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread, as the one that started it sees it.
///
/// It is no [`Arbiter`](actix_rt::Arbiter), which ends with its [`System`], whoever stops that: the
/// manager is still to count the connections that end then. It ends by itself when the server has ended,
/// or is dropped, and the last connection has, also one of a worker that was left behind.
pub(super) struct Front {
    orders: oneshot::Sender<Orders>,
    thread: JoinHandle<()>,
    /// Says that the thread has ended.
    ended: oneshot::Receiver<Infallible>,
}

/// The actors of the thread.
pub(super) struct Actors {
    pub(super) manager: Addr<ConnManager>,
    pub(super) router: Addr<Router>,
    /// The manager's table.
    pub(super) connections: Connections,
}

type Served = Result<StopReport, ServerError>;

/// What the thread is told when the server serves.
struct Orders {
    course: Course,
    served: oneshot::Sender<Served>,
    /// Says by its drop that the listeners are closed.
    closed: mpsc::Sender<Infallible>,
}

impl Front {
    /// Starts the thread and its actors. The caller has made sure that an actix system runs.
    ///
    /// Cancel safe: the thread ends.
    pub(super) async fn start(
        make: impl FnOnce() -> (ConnManager, Router) + Send + 'static,
    ) -> io::Result<(Self, Actors)> {
        let (ready, started) = oneshot::channel();
        let (orders, ordered) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
        let system = System::current();
        let thread = thread::Builder::new().name(NAME.into()).spawn(move || {
            // Dropped after the runtime and all that is on it.
            let _alive: oneshot::Sender<Infallible> = alive;
            let runtime = match Runtime::new() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // For the application's observer.
            System::set_current(system);
            runtime.block_on(async move {
                let (manager, router) = make();
                let connections = manager.connections();
                let (manager, router) = (manager.start(), router.start());
                let actors = Actors { manager: manager.clone(), router, connections };
                if ready.send(Ok(actors)).is_ok() {
                    obey(ordered, manager).await;
                }
            });
        })?;
        let panicked = || Err(io::Error::other("it panicked"));
        match started.await.unwrap_or_else(|_| panicked()) {
            Ok(actors) => Ok((Self { orders, thread, ended }, actors)),
            Err(error) => {
                let _ = thread.join();
                Err(error)
            }
        }
    }

    /// Has the course run there, to its end; closes everything when it is dropped before that.
    pub(super) async fn serve(self, course: Course) -> Served {
        let Self { orders, thread, ended } = self;
        let ((tell, served), (open, closed)) = (oneshot::channel(), mpsc::channel());
        let mut serving = Serving { served: Some(served), closed };
        // A thread that is gone drops the course and both channels, as one that panics does.
        let _ = orders.send(Orders { course, served: tell, closed: open });
        let served = match &mut serving.served {
            Some(served) => served.await.unwrap_or(Err(ServerError::AcceptPanicked)),
            None => Err(ServerError::AcceptPanicked),
        };
        // It waits for the connections of workers that were left behind; nobody else need do so.
        let left_behind = served.as_ref().is_ok_and(|report| report.left_behind > 0);
        if !left_behind && timeout(PATIENCE, ended).await.is_ok() {
            let _ = thread.join();
        }
        served
    }
}

/// A server that serves, as the one that waits for its end sees it.
struct Serving {
    served: Option<oneshot::Receiver<Served>>,
    closed: mpsc::Receiver<Infallible>,
}

impl Drop for Serving {
    /// The thread sees that nobody waits and drops the course. The ports are free when it has.
    fn drop(&mut self) {
        self.served = None;
        let _ = self.closed.recv_timeout(PATIENCE);
    }
}

/// Runs the course when it comes, and counts the connections to the last.
async fn obey(ordered: oneshot::Receiver<Orders>, manager: Addr<ConnManager>) {
    // A server that is dropped before it serves gives no orders.
    if let Ok(Orders { course, mut served, closed }) = ordered.await {
        let ended = tokio::select! {
            ended = course.run(closed) => Some(ended),
            () = served.closed() => None,
        };
        if let Some(ended) = ended {
            // Nobody need wait for it.
            let _ = served.send(ended);
        }
    }
    // A manager that is gone has no connections to count.
    let _ = manager.send(Left).await;
}
