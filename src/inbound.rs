//! One message on its way to a handler.

use std::cell::Cell;
use std::thread;

use actix::Message;
use bytes::Bytes;

use crate::conn::{CloseReason, Conn, SendError};
use crate::frame::{Frame, MsgId};

/// A message from a peer, with the connection it came on.
///
/// It carries a permit of its connection's in-flight window, given back when it is dropped: drop
/// it when the message is done, because the connection reads on only while its window has room,
/// and gives a message to another handler only when this one is done.
///
/// Dropped by a panic, it ends its connection with [`CloseReason::HandlerPanicked`].
#[derive(Debug)]
pub struct Inbound {
    id: MsgId,
    payload: Bytes,
    conn: Conn,
}

impl Message for Inbound {
    type Result = ();
}

impl Inbound {
    /// The caller has entered the connection's window.
    #[inline]
    pub(crate) fn new(frame: Frame, conn: Conn) -> Self {
        Self { id: frame.id, payload: frame.payload, conn }
    }

    /// The id of the message.
    pub fn id(&self) -> MsgId {
        self.id
    }

    /// The payload of the message.
    ///
    /// It shares the buffer (of up to 64 KiB) that it was read into: copy it to keep it for long.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Takes the payload out, which saves the cost of sharing it.
    pub fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }

    /// The connection it came on.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Answers the message. The answer is accepted even if the outbox is full, because the window
    /// bounds how many there can be; for more than one frame, send on [`conn`](Self::conn).
    ///
    /// If the connection is closed meanwhile, the answer is dropped, logged and counted; use
    /// [`try_reply`](Self::try_reply) to be told instead.
    pub fn reply(self, id: MsgId, payload: impl Into<Bytes>) {
        self.conn.reply(Frame::new(id, payload));
    }

    /// Answers the message, as [`reply`](Self::reply) does.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the connection is closed, [`SendError::TooLarge`] above 4 GiB.
    pub fn try_reply(self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.conn.shared().push_reply(Frame::new(id, payload))
    }
}

impl Drop for Inbound {
    #[inline]
    fn drop(&mut self) {
        if thread::panicking() {
            self.conn.close(CloseReason::HandlerPanicked(self.id));
        } else if ABANDONED.get() {
            self.conn.close(CloseReason::HandlerGone(self.id));
        }
        self.conn.shared().leave_window(1);
    }
}

thread_local! {
    /// Messages dropped on this thread now are dropped unhandled.
    static ABANDONED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; every message dropped in it ends its connection with [`CloseReason::HandlerGone`].
pub(crate) fn abandoning<R>(f: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            ABANDONED.set(self.0);
        }
    }
    let _reset = Reset(ABANDONED.replace(true));
    f()
}
