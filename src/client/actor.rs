//! The actor behind the handles of a client: it dials, keeps the connection, and dials again.

use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::dial::{Dialer, Dialled};
use super::shared::{Flushed, Shared};
use super::{Backoff, ConnectError, Outage};
use crate::conn::{CloseReason, Conn, ConnId};
use crate::conn_manager::{Add, ConnManager, Len, Registration};
use crate::connection::{Connection, Lives, Local};
use crate::endpoint::{Endpoint, ListenAddr};
use crate::event::Event;
use crate::unwind::contained;

/// A connection that was up for so long was no failure, however it ended.
const STEADY: Duration = Duration::from_secs(5);

/// Drains and closes the client.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Close;

/// Takes only control messages: frames travel past its mailbox, by what it shares with the handles.
pub(super) struct ClientActor {
    life: Option<Life>,
    shared: Arc<Shared>,
    local: Rc<Local>,
    closing: Rc<Notify>,
}

/// Who is told how the first dial went; the client ends with it if it fails.
pub(super) type First = oneshot::Sender<Result<(), ConnectError>>;

/// From the first dial to the last connection.
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) dialer: Dialer,
    pub(super) backoff: Option<Backoff>,
    pub(super) local: Rc<Local>,
    pub(super) lives: Lives,
    /// Tells of connections and their ends as that of a server does, and keeps the budget.
    pub(super) manager: Arc<Addr<ConnManager>>,
    /// Notified by a connection for which `on_conn_start` has run.
    pub(super) started: Arc<Notify>,
    pub(super) first: Option<First>,
    /// Notified when the client is to be closed; once.
    pub(super) closing: Rc<Notify>,
}

impl ClientActor {
    pub(super) fn new(life: Life) -> Self {
        let (shared, local) = (Arc::clone(&life.shared), Rc::clone(&life.local));
        let closing = Rc::clone(&life.closing);
        Self { life: Some(life), shared, local, closing }
    }
}

impl Actor for ClientActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(life) = self.life.take() {
            ctx.spawn(wrap_future(life.run()).map(|(), _: &mut Self, ctx| ctx.stop()));
        }
    }
}

impl Handler<Close> for ClientActor {
    type Result = ();

    fn handle(&mut self, _: Close, _: &mut Context<Self>) {
        self.closing.notify_one();
    }
}

impl Drop for ClientActor {
    /// Here, because a thread that is torn down runs nothing else.
    fn drop(&mut self) {
        self.shared.end();
        // What a route has captured may panic when it is dropped.
        let _ = contained(|| self.local.routes.clear());
    }
}

/// What became of an attempt to be connected.
enum Lost {
    /// There was no connection, or none that the server said anything on.
    Failed(ConnectError),
    /// The connection ended.
    Ended(CloseReason),
    /// It ended, and one side has said that this is final.
    Final(CloseReason),
}

impl Life {
    async fn run(mut self) {
        let pauses = |backoff: Option<Backoff>| backoff.map(|backoff| backoff.pauses());
        let mut to_come = pauses(self.backoff);
        let mut id = 0;
        loop {
            let dialled = tokio::select! {
                biased;
                () = self.closing.notified() => return,
                dialled = self.dialer.dial() => dialled,
            };
            let lost = match dialled {
                Ok(dialled) => {
                    id += 1;
                    let began = Instant::now();
                    let Some(lost) = self.serve(id, dialled).await else { return };
                    if began.elapsed() >= STEADY {
                        to_come = pauses(self.backoff);
                    }
                    lost
                }
                Err(error) => Lost::Failed(error),
            };
            let pause = to_come.as_mut().and_then(Iterator::next);
            let outage = match (lost, self.first.take()) {
                (Lost::Ended(why), _) => Outage::Ended(why),
                (Lost::Final(why), _) => {
                    self.shared.away(Outage::Final(why));
                    return;
                }
                (Lost::Failed(why), Some(first)) => {
                    // Who has stopped waiting has dropped the client.
                    let _ = first.send(Err(why));
                    return;
                }
                (Lost::Failed(why), None) => {
                    let endpoint = &self.shared.endpoint;
                    self.shared.emit(Event::ConnectFailed { endpoint, why: &why, pause });
                    Outage::Failed(Arc::new(why))
                }
            };
            self.shared.away(outage);
            let Some(pause) = pause else { return };
            tokio::select! {
                biased;
                () = self.closing.notified() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// From a stream that is ready for frames to the end of its connection. `None` if the client is to
    /// be closed, and the connection is.
    async fn serve(&mut self, id: ConnId, dialled: Dialled) -> Option<Lost> {
        let Dialled { transport, peer, local, .. } = dialled;
        let Endpoint { scheme, path, .. } = self.shared.endpoint.clone();
        let at = Arc::new(ListenAddr { scheme, addr: local, path });
        let conn = Conn::dialled(id, peer, at, Arc::clone(&self.shared.limits));
        #[cfg(feature = "ws")]
        if let Some(subprotocol) = dialled.subprotocol {
            conn.set_property(subprotocol);
        }
        let registration = Registration::new(&conn, Arc::clone(&self.manager));
        if !matches!(self.manager.send(Add(conn.clone())).await, Ok(Ok(_))) {
            // A manager that does not admit it, or is gone, has a system that ends.
            return None;
        }
        Connection::start_on(Rc::clone(&self.local), conn.clone(), Some(transport), registration);
        let was_up = tokio::select! {
            biased;
            () = self.started.notified() => true,
            () = self.lives.over() => false,
        };
        if was_up && let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
        let closed = tokio::select! {
            biased;
            () = self.lives.over() => false,
            () = self.closing.notified() => true,
            never = self.keep_flushing(&conn) => match never {},
        };
        if closed {
            // What is queued was accepted as well.
            let _ = timeout(self.shared.limits.drain_deadline, self.flush(&conn)).await;
            conn.stop();
            self.lives.over().await;
        }
        let why = conn.shared().why().clone();
        self.shared.disconnect(&why);
        // By now the manager has heard of the end and told of it.
        let _ = self.manager.send(Len).await;
        let shared = conn.shared();
        let lost = if !was_up {
            Lost::Failed(ConnectError::Ended(why))
        } else if shared.is_final() {
            Lost::Final(why)
        } else if why.is_of_peer() && !shared.was_heard() {
            Lost::Failed(ConnectError::ClosedBeforeFirstByte(why))
        } else {
            Lost::Ended(why)
        };
        (!closed).then_some(lost)
    }

    async fn keep_flushing(&self, conn: &Conn) -> Infallible {
        self.flush(conn).await;
        // Nothing queues behind an empty queue while there is a connection.
        pending().await
    }

    /// Moves the queue to the connection. Cancel safe.
    async fn flush(&self, conn: &Conn) {
        loop {
            match self.shared.flush_one(conn) {
                Flushed::One => {}
                Flushed::Full(len) => conn.shared().room_for(len).await,
                Flushed::All | Flushed::Closed => return,
            }
        }
    }
}
