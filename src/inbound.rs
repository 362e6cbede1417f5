//! One message on its way to a handler.

mod stock;

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use actix::Message;
use bytes::{Buf, Bytes};

use crate::conn::{CloseReason, Conn, SHARE_FROM, SendError};
use crate::event::Event;
use crate::frame::{Frame, MsgId};
use crate::router::SharedActor;
use crate::unwind::contained;
use stock::Body;
pub(crate) use stock::{Latest, handing_out, release_buffers, tell_latest};

/// A message from a peer, with the connection it came on.
///
/// It carries a permit of its connection's in-flight window, given back when it is dropped: drop
/// it when the message is done, because the connection reads on only while its window has room,
/// and gives a message to another handler only when this one is done.
///
/// Dropped by a panic, it ends its connection with [`CloseReason::HandlerPanicked`]; dropped in the
/// mailbox of an actor that is gone, with [`CloseReason::HandlerGone`].
pub struct Inbound(
    /// Boxed, because a message is moved often on its way; `None` only while it is dropped.
    Option<Box<Body>>,
);

/// What a message is made from. It has a place in the window of its connection, which only the
/// message gives back.
#[derive(Debug)]
#[must_use = "the window counts it until it is made a message and dropped"]
pub(crate) struct Parcel<'a> {
    pub(crate) id: MsgId,
    /// What was read; `at` is the payload.
    pub(crate) buffer: &'a Bytes,
    pub(crate) at: Range<usize>,
    pub(crate) conn: &'a Conn,
}

impl From<Parcel<'_>> for Inbound {
    #[inline]
    fn from(parcel: Parcel<'_>) -> Self {
        Self(Some(stock::body(parcel)))
    }
}

impl Message for Inbound {
    type Result = ();
}

impl Inbound {
    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "only `drop` takes the body, and nobody calls after that"
    )]
    fn body(&self) -> &Body {
        self.0.as_ref().expect("a message has a body")
    }

    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "only `drop` takes the body, and nobody calls after that"
    )]
    fn body_mut(&mut self) -> &mut Body {
        self.0.as_mut().expect("a message has a body")
    }

    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "`stock::body` sets it, and only a body in stock has none"
    )]
    fn peek_conn(&self) -> &Conn {
        self.body().conn.as_ref().expect("a message has a connection")
    }

    /// Sends it to a shared actor, or gives it back if that one is gone.
    pub(crate) fn send_to(mut self, actor: &Arc<SharedActor>) -> Result<(), Self> {
        let body = self.body_mut();
        body.by_mailbox = Some(Arc::clone(actor));
        body.seen.set(false);
        match actor.recipient().try_send(self) {
            Ok(()) => Ok(()),
            // The windows of the connections bound this mailbox; its own capacity is per address,
            // not per actor, and tells nobody when there is room again.
            Err(actix::prelude::SendError::Full(message)) => {
                actor.recipient().do_send(message);
                Ok(())
            }
            Err(actix::prelude::SendError::Closed(mut message)) => {
                message.body_mut().by_mailbox = None;
                Err(message)
            }
        }
    }

    /// The id of the message.
    pub fn id(&self) -> MsgId {
        let body = self.body();
        body.seen.set(true);
        body.id
    }

    /// The payload of the message.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let body = self.body();
        body.seen.set(true);
        &body.buffer[body.at.clone()]
    }

    /// Takes the payload out of the message, to send it on or to keep it; nothing is copied.
    ///
    /// It shares the buffer that it was read into (64 KiB, or about twice the largest packet): copy
    /// [`payload`](Self::payload) to keep it for long.
    pub fn take_payload(&mut self) -> Bytes {
        let body = self.body_mut();
        body.seen.set(true);
        let at = std::mem::take(&mut body.at);
        let mut payload = std::mem::take(&mut body.buffer);
        payload.truncate(at.end);
        payload.advance(at.start);
        payload
    }

    /// The connection it came on.
    pub fn conn(&self) -> &Conn {
        self.body().seen.set(true);
        self.peek_conn()
    }

    /// Answers the message. The answer is accepted even if the outbox is full, because the window
    /// bounds how many there can be; for more than one frame, send on [`conn`](Self::conn).
    ///
    /// If the connection is closed meanwhile, the answer is dropped, logged and counted; use
    /// [`try_reply`](Self::try_reply) to be told instead.
    pub fn reply(self, id: MsgId, payload: impl Into<Bytes>) {
        self.conn().reply(Frame::new(id, payload));
    }

    /// Answers the message with itself: sends it back as it is, with its id and payload.
    ///
    /// Else as [`reply`](Self::reply), but cheaper: the payload need not be shared for it.
    pub fn echo(mut self) {
        let small = self.payload().len() < SHARE_FROM;
        if !small || !self.conn().shared().push_reply_copy(self.id(), self.payload()) {
            let frame = Frame::new(self.id(), self.take_payload());
            self.conn().reply(frame);
        }
    }

    /// Answers the message, as [`reply`](Self::reply) does.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the connection is closed, [`SendError::TooLarge`] above 4 GiB,
    /// [`SendError::NoFrame`] if the framing has none for it.
    pub fn try_reply(self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.conn().shared().push_reply(Frame::new(id, payload))
    }
}

impl Drop for Inbound {
    #[inline]
    fn drop(&mut self) {
        let Some(body) = self.0.take() else { return };
        let Body { id, conn: Some(conn), .. } = &*body else { return };
        // A mailbox is closed before it is dropped, also by a panic of its actor.
        let unseen = |actor: &&Arc<SharedActor>| !body.seen.get() && actor.is_gone();
        if let Some(actor) = body.by_mailbox.as_ref().filter(unseen) {
            // Others' code, a logger's or an observer's, while this thread may unwind.
            let _ = contained(|| actor.found_gone(conn, *id));
            conn.close(CloseReason::HandlerGone(*id));
        } else if ABANDONED.get() {
            conn.close(CloseReason::HandlerGone(*id));
        } else if thread::panicking() {
            conn.emit(Event::HandlerPanicked { conn, message: *id });
            conn.close(CloseReason::HandlerPanicked(*id));
        }
        conn.shared().leave_window(1);
        stock::put(body);
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

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Body { id, at, .. } = self.body();
        f.debug_struct("Inbound")
            .field("id", id)
            .field("payload_len", &at.len())
            .field("conn", self.peek_conn())
            .finish_non_exhaustive()
    }
}
