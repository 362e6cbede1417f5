//! Messages on their way to an actor of the same thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::task::Waker;

use bytes::Bytes;

use crate::codec::HEADER_LEN;
use crate::conn::Conn;
use crate::frame::MsgId;
use crate::inbound::{Inbound, Parcel};

/// A queue with room for more than this is not kept when it is empty.
const KEPT_ROOM: usize = 256;

/// The queue of a handler actor. It outlives the actor: the next one goes on with it.
#[derive(Default)]
pub(super) struct RunQueue {
    queued: RefCell<VecDeque<Queued>>,
    /// The actor's task.
    pub(super) waker: RefCell<Option<Waker>>,
    /// The actor will look into the queue: nobody needs to wake it.
    pub(super) scheduled: Cell<bool>,
    /// How many messages the present actor has got.
    pub(super) delivered: Cell<u32>,
    /// The route is unregistered: the actor ends when it has handled these.
    pub(super) retired: Cell<bool>,
    /// Nobody looks into the queue any more.
    pub(super) ended: Cell<bool>,
}

enum Queued {
    Run(Run),
    /// One that somebody had already; `None` only while it is taken off.
    Message(Option<Inbound>),
}

impl RunQueue {
    #[inline]
    pub(super) fn push(&self, parcel: Parcel<'_>) {
        let mut queued = self.queued.borrow_mut();
        match queued.back_mut() {
            Some(Queued::Run(run)) if run.is_followed_by(&parcel) => run.extend(&parcel),
            _ => queued.push_back(Queued::Run(Run::new(&parcel))),
        }
        drop(queued);
        self.wake();
    }

    pub(super) fn push_message(&self, message: Inbound) {
        self.queued.borrow_mut().push_back(Queued::Message(Some(message)));
        self.wake();
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<Inbound> {
        let mut queued = self.queued.borrow_mut();
        let message = match queued.front_mut()? {
            Queued::Run(run) => {
                let message = run.next();
                if run.left > 0 {
                    return message;
                }
                message
            }
            Queued::Message(message) => message.take(),
        };
        queued.pop_front();
        message
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.borrow().is_empty()
    }

    pub(super) fn wake(&self) {
        if !self.scheduled.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    pub(super) fn rest(&self) {
        self.scheduled.set(false);
        // What a burst needed is not kept for ever.
        let mut queued = self.queued.borrow_mut();
        if queued.is_empty() && queued.capacity() > KEPT_ROOM {
            *queued = VecDeque::new();
        }
    }

    pub(super) fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// Frames that follow each other in a read buffer. They are made messages one by one when the actor
/// gets them: a queue of messages would be larger than a processor's cache.
struct Run {
    id: MsgId,
    conn: Conn,
    buffer: Bytes,
    /// Where the payload of the first frame that is left is.
    first: Range<usize>,
    /// Where the last one ends.
    end: usize,
    /// How many are left.
    left: u32,
}

impl Run {
    fn new(parcel: &Parcel<'_>) -> Self {
        let Parcel { id, buffer, ref at, conn } = *parcel;
        let (buffer, conn) = (buffer.clone(), conn.clone());
        Self { id, conn, buffer, first: at.clone(), end: at.end, left: 1 }
    }

    #[inline]
    fn is_followed_by(&self, Parcel { id, buffer, at, conn }: &Parcel<'_>) -> bool {
        self.id == *id
            && self.end + HEADER_LEN == at.start
            && self.buffer.as_ptr() == buffer.as_ptr()
            && self.conn.is(conn)
    }

    #[inline]
    fn extend(&mut self, parcel: &Parcel<'_>) {
        self.end = parcel.at.end;
        self.left += 1;
    }

    #[inline]
    fn next(&mut self) -> Option<Inbound> {
        self.left = self.left.checked_sub(1)?;
        let Self { id, conn, buffer, first, .. } = self;
        let at = first.clone();
        if self.left > 0 {
            let codec = &conn.shared().limits.codec;
            let header = codec.header(&buffer[at.end..])?;
            first.start = at.end + HEADER_LEN;
            first.end = first.start + header.len as usize;
        }
        Some(Parcel { id: *id, buffer, at, conn }.into())
    }
}

impl Drop for Run {
    /// Messages nobody got are dropped like others, each with its place in the window.
    fn drop(&mut self) {
        while let Some(message) = self.next() {
            drop(message);
        }
    }
}
