//! The one owner of the connection table and of the limit.

mod registration;
mod table;

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, Recipient, ResponseFuture};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::conn::{CloseReason, Conn, ConnId, Encoded, Limits, Pushed, SendError, Slow};
use crate::event;
use crate::frame::Frame;
use crate::settings::Settings;
use crate::surely::handle_surely;
pub(crate) use registration::{Gone, Registration};
pub use table::Connections;

/// The actor that tracks the connections of a server and admits new ones: one a server.
///
/// Check and count are one step in its mailbox, and nothing else counts connections, so there is
/// no way around the limit. The table it keeps can be read from any thread without asking it:
/// see [`Connections`].
#[derive(Debug)]
pub struct ConnManager {
    max_conn: usize,
    limits: Arc<Limits>,
    /// Written here alone.
    connections: Connections,
    /// Who waits for a connection to be gone.
    waiting: FxHashMap<ConnId, Vec<Rc<Waiting>>>,
    /// Everybody waits for the table to be empty: no more admissions.
    draining: bool,
    /// The workers, each of which sends a broadcast to its own connections.
    workers: Vec<Recipient<Fanout>>,
}

/// Admits a connection to the table, unless the server is full. Answered with the number of
/// connections, this one included.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<usize, AddError>")]
pub struct Add(pub Conn);

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// `max_conn` connections are there already.
    #[error("the server is full: {max_conn} connections")]
    Full {
        /// The limit.
        max_conn: usize,
    },
    /// The server is about to stop.
    #[error("the server drains")]
    Draining,
    /// A connection with this id is there already.
    #[error("connection {0} was added before")]
    Duplicate(ConnId),
    /// The connection ended before it was added.
    #[error("connection {0} is closed already")]
    Closed(ConnId),
}

/// There is no connection with this id (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no connection {0}")]
pub struct ConnNotFound(pub ConnId);

/// Closes a connection and takes it out of the table. Answered when both are done.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), ConnNotFound>")]
pub struct Remove(pub ConnId);

/// Answers the connection with this id.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Conn, ConnNotFound>")]
pub struct Get(pub ConnId);

/// Answers the number of connections.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct Len;

/// Answers the ids of all connections, in no particular order.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<ConnId>")]
pub struct Ids;

/// Closes all connections that are in the table now. Answered when each of them is closed and
/// removed, with how many they were; connections that arrive meanwhile are not touched.
///
/// It may be awaited in a handler or hook of one of those connections: a connection whose handler
/// is still at work 50 ms after its socket was closed is removed first, and its `on_conn_stop` runs
/// when the handler is done. A peer that is in the middle of a talk has three seconds to close its
/// side, so that it gets what it was sent.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct ClearConn;

/// Sends a frame to all connections, encoded once. Answered when it is in every outbox, with what
/// became of it; with [`SendError::TooLarge`] if there is no outbox that could ever take it.
///
/// A connection whose outbox has no room for it is closed as
/// [`SlowConsumer`](CloseReason::SlowConsumer): it would miss a message without knowing.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<BroadcastReport, SendError>")]
pub struct Broadcast(pub Frame);

/// What became of a [`Broadcast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Connections that accepted it.
    pub accepted: usize,
    /// Connections that had no room for it and are closed for that.
    pub refused: usize,
}

/// A broadcast on its way to the connections of one worker.
#[derive(Clone, Debug, Message)]
#[rtype(result = "BroadcastReport")]
pub(crate) struct Fanout(pub(crate) Encoded);

/// Closes all connections and admits no more. Answered when none is left.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// Answers its sender when the last connection that holds it is gone.
#[derive(Debug)]
struct Waiting(Option<oneshot::Sender<()>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.take() {
            // A waiter that went away waits no more.
            let _ = waiter.send(());
        }
    }
}

impl BroadcastReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
    }

    /// Counts how the broadcast fared with one connection, and closes one that had no room for it.
    pub(crate) fn count(&mut self, conn: &Conn, pushed: Pushed) {
        match pushed {
            Pushed::Accepted => self.accepted += 1,
            Pushed::Closed => {}
            Pushed::Refused => {
                self.refused += 1;
                conn.close(CloseReason::SlowConsumer(Slow::OutboxFull));
            }
        }
    }
}

impl ConnManager {
    /// A manager on its own, without a server: for tests of what talks to one.
    ///
    /// Of the settings it obeys `max_conn`, and the wire format for what it broadcasts.
    #[must_use = "a manager does nothing until it is started as an actor"]
    pub fn new(settings: &Settings) -> Self {
        Self::with_workers(settings.max_conn, Arc::new(settings.limits(Arc::default())), Vec::new())
    }

    pub(crate) fn with_workers(
        max_conn: usize,
        limits: Arc<Limits>,
        workers: Vec<Recipient<Fanout>>,
    ) -> Self {
        Self {
            max_conn,
            limits,
            connections: Connections::default(),
            waiting: FxHashMap::default(),
            draining: false,
            workers,
        }
    }

    /// The table, to be read from any thread.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Closes `conns`; the answer comes when they are gone.
    fn end(&mut self, conns: Vec<Conn>, reason: &CloseReason) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        let waiting = Rc::new(Waiting(Some(tx)));
        for conn in conns {
            conn.close(reason.clone());
            if conn.shared().is_attached() {
                self.waiting.entry(conn.id()).or_default().push(Rc::clone(&waiting));
            } else {
                // No socket behind it, so nobody would report its end.
                self.forget(conn.id());
            }
        }
        rx
    }

    fn forget(&mut self, id: ConnId) {
        if let Some(conn) = self.connections.remove(id) {
            event::removed(&conn, self.connections.len());
            self.waiting.remove(&id);
        }
    }
}

impl Actor for ConnManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // What waits for room in a mailbox is overtaken by what comes later.
        ctx.set_mailbox_capacity(0);
    }
}

handle_surely!(ConnManager: Broadcast, ClearConn, Remove);

impl Handler<Add> for ConnManager {
    type Result = Result<usize, AddError>;

    fn handle(&mut self, Add(conn): Add, _: &mut Context<Self>) -> Self::Result {
        let (id, max_conn) = (conn.id(), self.max_conn);
        if self.draining {
            return Err(AddError::Draining);
        }
        if self.connections.len() >= max_conn {
            return Err(AddError::Full { max_conn });
        }
        if conn.is_closed() {
            return Err(AddError::Closed(id));
        }
        if !self.connections.insert(conn.clone()) {
            return Err(AddError::Duplicate(id));
        }
        let len = self.connections.len();
        event::added(&conn, len);
        Ok(len)
    }
}

impl Handler<Remove> for ConnManager {
    type Result = ResponseFuture<Result<(), ConnNotFound>>;

    fn handle(&mut self, Remove(id): Remove, _: &mut Context<Self>) -> Self::Result {
        let Some(conn) = self.connections.get(id) else {
            return Box::pin(async move { Err(ConnNotFound(id)) });
        };
        let gone = self.end(vec![conn], &CloseReason::Removed);
        Box::pin(async move {
            let _ = gone.await;
            Ok(())
        })
    }
}

impl Handler<Gone> for ConnManager {
    type Result = ();

    fn handle(&mut self, Gone(id): Gone, _: &mut Context<Self>) {
        self.forget(id);
    }
}

impl Handler<Get> for ConnManager {
    type Result = Result<Conn, ConnNotFound>;

    fn handle(&mut self, Get(id): Get, _: &mut Context<Self>) -> Self::Result {
        self.connections.get(id).ok_or(ConnNotFound(id))
    }
}

impl Handler<Len> for ConnManager {
    type Result = usize;

    fn handle(&mut self, _: Len, _: &mut Context<Self>) -> usize {
        self.connections.len()
    }
}

impl Handler<Ids> for ConnManager {
    type Result = Vec<ConnId>;

    fn handle(&mut self, _: Ids, _: &mut Context<Self>) -> Vec<ConnId> {
        self.connections.ids()
    }
}

impl Handler<ClearConn> for ConnManager {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: ClearConn, _: &mut Context<Self>) -> Self::Result {
        let conns = self.connections.all();
        let len = conns.len();
        let gone = self.end(conns, &CloseReason::Cleared);
        Box::pin(async move {
            let _ = gone.await;
            len
        })
    }
}

impl Handler<Drain> for ConnManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.draining = true;
        let gone = self.end(self.connections.all(), &CloseReason::Shutdown);
        Box::pin(async move {
            let _ = gone.await;
        })
    }
}

impl Handler<Broadcast> for ConnManager {
    type Result = ResponseFuture<Result<BroadcastReport, SendError>>;

    fn handle(&mut self, Broadcast(frame): Broadcast, _: &mut Context<Self>) -> Self::Result {
        if !self.limits.can_ever_send(&frame) {
            return Box::pin(async move { Err(SendError::TooLarge(frame)) });
        }
        let encoded = Encoded::new(&self.limits.codec, &frame);
        let mut report = BroadcastReport::default();
        if self.workers.is_empty() {
            for conn in self.connections.all() {
                report.count(&conn, conn.shared().push_encoded(&encoded));
            }
        }
        let fanouts = self.workers.iter().map(|worker| worker.send(Fanout(encoded.clone())));
        let fanouts: Vec<_> = fanouts.collect();
        Box::pin(async move {
            for fanout in fanouts {
                // A worker that is gone has no connections.
                report.add(fanout.await.unwrap_or_default());
            }
            Ok(report)
        })
    }
}
