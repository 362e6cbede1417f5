//! What a [`ConnManager`](super::ConnManager) is asked.

use actix::Message;

use super::admission::AddError;
use crate::conn::{Conn, ConnId, Encoded, Overflow, Pushed, SendError, Sent};
use crate::frame::Frame;

/// Admits a connection to the table, unless the server is full. Answered with the number of
/// connections, this one included.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<usize, AddError>")]
pub struct Add(pub Conn);

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
/// when the handler is done. A connection waits up to `linger_ms` for its peer's system to
/// acknowledge what was sent.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct ClearConn;

/// Sends a frame to all connections, encoded once. Answered when it is in every outbox, with what
/// became of it; with [`SendError::TooLarge`] if there is no outbox that could ever take it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<BroadcastReport, SendError>")]
pub struct Broadcast {
    /// What is sent.
    pub frame: Frame,
    /// What is done about a connection whose outbox has no room for it: `None` for what the setting
    /// `broadcast_overflow` says.
    pub overflow: Option<Overflow>,
}

impl Broadcast {
    /// A broadcast of this frame, with the policy of the settings.
    pub fn new(frame: impl Into<Frame>) -> Self {
        // It is dropped in mailboxes.
        Self { frame: frame.into().guarded(), overflow: None }
    }
}

/// What became of a [`Broadcast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Connections that accepted it, in place of older frames or not.
    pub accepted: usize,
    /// Connections that had no room for it, and were left as they are.
    pub refused: usize,
    /// Connections that had no room for it, so that it was dropped and counted.
    pub dropped: usize,
    /// Connections that had no room for it, and are closed for that.
    pub closed: usize,
}

impl BroadcastReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.closed += other.closed;
    }

    /// Does what the policy says about one connection, and counts it.
    pub(crate) fn count(&mut self, conn: &Conn, pushed: Pushed, overflow: Overflow) {
        match conn.settle(pushed, overflow) {
            Some(Sent::Accepted | Sent::InPlaceOf(_)) => self.accepted += 1,
            Some(Sent::Dropped) => self.dropped += 1,
            None if pushed == Pushed::Closed => {}
            None if overflow == Overflow::Close => self.closed += 1,
            None => self.refused += 1,
        }
    }
}

/// A broadcast on its way to the connections of one worker.
#[derive(Clone, Debug, Message)]
#[rtype(result = "BroadcastReport")]
pub(crate) struct Fanout {
    pub(crate) encoded: Encoded,
    pub(crate) overflow: Overflow,
}

/// Changes the limit of connections. Answered with the one before.
///
/// Nobody is closed if there are more: they are let go, and none comes in their place. With 0 nobody is
/// admitted; reserved places stay reserved, so that with no more than these the others are not.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct SetMaxConn(pub usize);

/// Answered when there is a place for a connection, as far as one can know.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Vacancy;

/// Answered when the connections that are there now have gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Left;

/// What peers do not take exceeds the budget.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shed;

/// Admits no more connections.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shut;

/// Closes all connections and admits no more. Answered when none is left.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;
