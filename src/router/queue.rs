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
    /// Nobody looks into the queue now.
    pub(super) absent: Cell<bool>,
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
            Some(Queued::Run(run)) if run.is_followed_by(&parcel) => run.extend(parcel),
            _ => queued.push_back(Queued::Run(Run::new(parcel))),
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

    pub(super) fn end(&self) {
        self.ended.set(true);
        self.absent.set(true);
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
    fn new(Parcel { id, buffer, at, conn }: Parcel<'_>) -> Self {
        let (buffer, conn, end) = (buffer.clone(), conn.clone(), at.end);
        Self { id, conn, buffer, first: at, end, left: 1 }
    }

    #[inline]
    fn is_followed_by(&self, Parcel { id, buffer, at, conn }: &Parcel<'_>) -> bool {
        self.id == *id
            && self.end + HEADER_LEN == at.start
            // Of other framings nobody knows where the next payload begins.
            && conn.shared().limits.codec.is_plain()
            && self.buffer.as_ptr() == buffer.as_ptr()
            && self.conn.is(conn)
    }

    #[inline]
    fn extend(&mut self, Parcel { at, .. }: Parcel<'_>) {
        self.end = at.end;
        self.left += 1;
    }

    #[inline]
    fn next(&mut self) -> Option<Inbound> {
        self.left = self.left.checked_sub(1)?;
        let Self { id, conn, buffer, first, .. } = self;
        let at = first.clone();
        if self.left > 0 {
            *first = conn.shared().limits.codec.frame_at(buffer, at.end)?.payload;
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio_util::codec::Encoder;

    use super::*;
    use crate::codec::{FrameCodec, WireFormat};
    use crate::frame::Frame;
    use crate::settings::Settings;
    use crate::testing::conn;

    /// Queues messages as a reader does: several frames of one buffer, with these ids.
    fn read(queue: &RunQueue, conn: &Conn, frames: &[(MsgId, &'static str)]) {
        let mut codec = FrameCodec::new(WireFormat::LtvLe, u32::MAX);
        let mut bytes = BytesMut::new();
        let mut at = Vec::new();
        for &(id, payload) in frames {
            codec.encode(Frame::new(id, payload), &mut bytes).unwrap();
            at.push(bytes.len() - payload.len()..bytes.len());
        }
        let buffer = bytes.freeze();
        for (&(id, _), at) in frames.iter().zip(at) {
            conn.shared().window.enter(1);
            queue.push(Parcel { id, buffer: &buffer, at, conn });
        }
    }

    fn pop_all(queue: &RunQueue) -> Vec<(u64, MsgId, Vec<u8>)> {
        let next = || queue.pop().map(|m| (m.conn().id(), m.id(), m.payload().to_vec()));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn messages_leave_the_queue_as_they_came_in_runs_or_alone() {
        let (queue, settings) = (RunQueue::default(), Settings::default());
        let (one, two) = (conn(1, &settings), conn(2, &settings));
        read(&queue, &one, &[(7, "a"), (7, ""), (8, "b"), (7, "c")]);
        read(&queue, &two, &[(7, "d"), (7, "e")]);
        queue.push_message(crate::testing::inbound(&one, 9, "f"));
        read(&queue, &one, &[(7, "g")]);
        let expected = [(1, 7, "a"), (1, 7, ""), (1, 8, "b"), (1, 7, "c"), (2, 7, "d")];
        let expected = expected.into_iter().chain([(2, 7, "e"), (1, 9, "f"), (1, 7, "g")]);
        let expected: Vec<_> =
            expected.map(|(conn, id, text)| (conn, id, text.as_bytes().to_vec())).collect();
        assert_eq!(pop_all(&queue), expected);
        assert!(queue.is_empty());
        assert_eq!(one.shared().window.in_flight(), 0);
    }

    #[test]
    fn a_queue_that_is_dropped_gives_the_places_in_the_window_back() {
        let (queue, conn) = (RunQueue::default(), conn(1, &Settings::default()));
        read(&queue, &conn, &[(7, "a"), (7, "b"), (7, "c")]);
        drop(queue.pop());
        assert_eq!(conn.shared().window.in_flight(), 2);
        drop(queue);
        assert_eq!(conn.shared().window.in_flight(), 0);
    }
}
