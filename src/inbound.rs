//! One message on its way to a handler.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;

use actix::{Message, Recipient};
use bytes::Bytes;

use crate::conn::{CloseReason, Conn, SendError};
use crate::event;
use crate::frame::{Frame, MsgId};

/// A message from a peer, with the connection it came on.
///
/// It carries a permit of its connection's in-flight window, given back when it is dropped: drop
/// it when the message is done, because the connection reads on only while its window has room,
/// and gives a message to another handler only when this one is done.
///
/// Dropped by a panic, it ends its connection with [`CloseReason::HandlerPanicked`]; dropped in the
/// mailbox of an actor that is gone, with [`CloseReason::HandlerGone`].
#[derive(Debug)]
pub struct Inbound {
    id: MsgId,
    /// Somebody has looked at it, so it has reached its handler.
    seen: Cell<bool>,
    payload: Bytes,
    conn: Conn,
    /// The shared actor in whose mailbox it travels.
    by_mailbox: Option<Arc<Recipient<Self>>>,
}

impl Message for Inbound {
    type Result = ();
}

impl Inbound {
    /// The caller has entered the connection's window.
    #[inline]
    pub(crate) fn new(frame: Frame, conn: Conn) -> Self {
        let Frame { id, payload } = frame;
        Self { id, seen: Cell::new(false), payload, conn, by_mailbox: None }
    }

    /// Sends it to a shared actor; false if that one is gone.
    pub(crate) fn send_to(mut self, actor: &Arc<Recipient<Self>>) -> bool {
        self.by_mailbox = Some(Arc::clone(actor));
        self.seen.set(false);
        match actor.try_send(self) {
            Ok(()) => true,
            // The windows of the connections bound this mailbox; its own capacity is per address,
            // not per actor, and tells nobody when there is room again.
            Err(actix::prelude::SendError::Full(message)) => {
                actor.do_send(message);
                true
            }
            Err(actix::prelude::SendError::Closed(_)) => false,
        }
    }

    /// The id of the message.
    pub fn id(&self) -> MsgId {
        self.seen.set(true);
        self.id
    }

    /// The payload of the message.
    ///
    /// It shares the buffer (of up to 64 KiB) that it was read into: copy it to keep it for long.
    pub fn payload(&self) -> &Bytes {
        self.seen.set(true);
        &self.payload
    }

    /// Takes the payload out, which saves the cost of sharing it.
    pub fn take_payload(&mut self) -> Bytes {
        self.seen.set(true);
        std::mem::take(&mut self.payload)
    }

    /// The connection it came on.
    pub fn conn(&self) -> &Conn {
        self.seen.set(true);
        &self.conn
    }

    /// Answers the message. The answer is accepted even if the outbox is full, because the window
    /// bounds how many there can be; for more than one frame, send on [`conn`](Self::conn).
    ///
    /// If the connection is closed meanwhile, the answer is dropped, logged and counted; use
    /// [`try_reply`](Self::try_reply) to be told instead.
    pub fn reply(self, id: MsgId, payload: impl Into<Bytes>) {
        self.conn().reply(Frame::new(id, payload));
    }

    /// Answers the message, as [`reply`](Self::reply) does.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the connection is closed, [`SendError::TooLarge`] above 4 GiB.
    pub fn try_reply(self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.conn().shared().push_reply(Frame::new(id, payload))
    }
}

impl Drop for Inbound {
    #[inline]
    fn drop(&mut self) {
        // A mailbox is closed before it is dropped, also by a panic of its actor.
        let unseen = |actor: &Arc<Recipient<Self>>| !self.seen.get() && !actor.connected();
        if self.by_mailbox.as_ref().is_some_and(unseen) || ABANDONED.get() {
            self.conn.close(CloseReason::HandlerGone(self.id));
        } else if thread::panicking() {
            event::handler_panicked(&self.conn);
            self.conn.close(CloseReason::HandlerPanicked(self.id));
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
