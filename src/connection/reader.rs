//! Bytes from the socket to frames, in memory that an idle connection does not keep.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::codec::framing::Found;
use crate::codec::{FrameCodec, FrameError};
use crate::inbound;
use crate::transport::{Bounds, Transport};

/// What one read takes at most, unless a larger packet is on its way.
const CHUNK: usize = 64 * 1024;

/// Less room than this is not worth a read.
const LEAST_ROOM: usize = 16 * 1024;

/// A framing says of whole frames that they are none.
pub(super) const NOT_FOUND_AGAIN: FrameError =
    FrameError::Malformed("the framing does not find a frame again");

/// The read buffer of a worker: lent to the connection that reads, whole again when the payloads
/// cut from it are dropped.
#[derive(Debug, Default)]
pub(crate) struct ReadPool(RefCell<Option<BytesMut>>);

impl ReadPool {
    fn take(&self) -> Option<BytesMut> {
        self.0.take()
    }

    fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut kept = self.0.borrow_mut();
        // What a large packet needed is not kept for ever, and a rest that was put aside is no match
        // for a chunk.
        if buffer.capacity() > 2 * CHUNK {
            return;
        }
        if kept.as_ref().is_none_or(|kept| kept.capacity() <= buffer.capacity()) {
            *kept = Some(buffer);
        }
    }
}

/// What a connection has received and not handed out.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Whole frames, handed out up to `next`.
    frames: Bytes,
    next: usize,
    /// What came after them.
    buffer: BytesMut,
    /// If the transport has messages.
    messages: Option<Box<Messages>>,
    /// A frame was completed since this was asked.
    completed: bool,
}

/// Where messages end in what was received.
#[derive(Debug, Default)]
struct Messages {
    /// How many bytes at the end of the buffer are of a message that is not whole.
    open: usize,
    /// How long the whole messages are that were not handed out, where a framing must know.
    lens: VecDeque<usize>,
    /// Where the first of these begins in the frames.
    begin: usize,
}

impl Reader {
    /// Bytes received and not handed out.
    pub(crate) fn len(&self) -> usize {
        self.frames.len() - self.next + self.buffer.len()
    }

    /// What has come that is no whole frame.
    pub(crate) fn remainder(&self) -> &[u8] {
        &self.buffer
    }

    /// The memory that they take.
    pub(crate) fn held(&self) -> usize {
        self.frames.len() + self.buffer.capacity()
    }

    /// The next frame, if it has come whole; its payload is a place in [`frames`](Self::frames). It stays
    /// the next one until it is [passed](Self::pass).
    #[cfg(feature = "ws")]
    pub(crate) fn next_frame(&mut self, codec: &FrameCodec) -> Result<Option<Found>, FrameError> {
        if !self.gather(codec)? {
            return Ok(None);
        }
        self.frame(codec).map(Some).ok_or(NOT_FOUND_AGAIN)
    }

    /// Whether there are whole frames, of those that were read last.
    #[inline]
    pub(crate) fn has_frames(&self) -> bool {
        self.next < self.frames.len()
    }

    /// The same, of all that was read.
    #[inline]
    pub(crate) fn gather(&mut self, codec: &FrameCodec) -> Result<bool, FrameError> {
        if self.has_frames() {
            return Ok(true);
        }
        self.forget_frames();
        let whole = match &self.messages {
            None => codec.whole_frames(&self.buffer)?,
            Some(messages) => self.buffer.len() - messages.open,
        };
        if whole == 0 {
            return Ok(false);
        }
        self.frames = self.buffer.split_to(whole).freeze();
        self.completed = true;
        Ok(true)
    }

    /// The next of the whole frames that [there are](Self::has_frames); `None` if the framing says
    /// otherwise than before.
    #[inline]
    pub(crate) fn frame(&mut self, codec: &FrameCodec) -> Option<Found> {
        match codec.is_plain() {
            true => codec.plain_frame_at(&self.frames, self.next),
            false => self.frame_of_framing(codec),
        }
    }

    /// The next frame of a framing, which sees no more than the message where there are messages.
    fn frame_of_framing(&mut self, codec: &FrameCodec) -> Option<Found> {
        let Some(Messages { lens, begin, .. }) = self.messages.as_deref_mut() else {
            return codec.frame_at(&self.frames, self.next);
        };
        while *begin < self.next {
            *begin += lens.pop_front()?;
        }
        codec.frame_at(self.frames.get(..*begin + lens.front()?)?, self.next)
    }

    /// Whether a frame was completed since this was asked last.
    #[inline]
    pub(crate) fn take_completed(&mut self) -> bool {
        std::mem::take(&mut self.completed)
    }

    /// The frames that were read last.
    #[inline]
    pub(crate) fn frames(&self) -> &Bytes {
        &self.frames
    }

    /// The frame that was found is handed out: it was this long.
    #[inline]
    pub(crate) fn pass(&mut self, len: usize) {
        self.next += len;
    }

    /// Reads once. Ready with how many bytes came, 0 at the end of the stream.
    ///
    /// The buffer grows with what has come, never with what a header announces. If the transport has
    /// messages, [`note_messages`](Self::note_messages) is to follow.
    #[inline(always)]
    pub(crate) fn poll_fill(
        &mut self,
        transport: &mut dyn Transport,
        pool: &ReadPool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Whatever holds the buffer keeps it from being used again.
        debug_assert!(self.frames.is_empty());
        inbound::release_buffers();
        if self.buffer.capacity() < LEAST_ROOM
            && let Some(mut chunk) = pool.take()
        {
            chunk.extend_from_slice(&self.buffer);
            self.buffer = chunk;
        }
        if self.buffer.capacity() - self.buffer.len() < LEAST_ROOM {
            // Allocates only if payloads cut from this buffer are still in use.
            self.buffer.reserve(self.buffer.len().max(CHUNK));
        }
        transport.poll_fill(&mut self.buffer, cx)
    }

    /// Takes over where messages end in what was read.
    pub(crate) fn note_messages(&mut self, transport: &mut dyn Transport) {
        if let Some(Bounds { open, lens }) = transport.bounds() {
            let messages = self.messages.get_or_insert_default();
            messages.open = *open;
            // All that were whole are handed out. Memory for many is kept on neither side.
            debug_assert!(messages.lens.is_empty());
            messages.lens = std::mem::take(lens);
        }
    }

    /// Gives back what is not needed while nothing comes.
    pub(crate) fn rest(&mut self, pool: &ReadPool) {
        if self.next == self.frames.len() {
            self.forget_frames();
        }
        if self.buffer.len() < LEAST_ROOM && self.buffer.capacity() > self.buffer.len() {
            let rest = match &self.buffer[..] {
                [] => BytesMut::new(),
                rest => BytesMut::from(rest),
            };
            pool.give(std::mem::replace(&mut self.buffer, rest));
        }
    }

    /// Forgets the input.
    pub(crate) fn recycle(&mut self, pool: &ReadPool) {
        self.forget_frames();
        self.messages = None;
        pool.give(std::mem::take(&mut self.buffer));
    }

    #[inline]
    fn forget_frames(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        self.frames = Bytes::new();
        if let Some(Messages { lens, begin, .. }) = self.messages.as_deref_mut()
            && self.next > 0
        {
            // Of the last of them.
            lens.pop_front();
            *begin = 0;
        }
        self.next = 0;
    }
}

#[cfg(all(test, feature = "ws"))]
mod tests {
    use std::task::Waker;

    use futures_util::FutureExt;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::codec::WireFormat;
    use crate::codec::envelope::Envelope;
    use crate::codec::framing::AnyMessage;
    use crate::transport::Plain;
    use crate::transport::ws::Filter;

    #[test]
    fn where_messages_ended_takes_no_memory_when_they_are_handed_out() {
        const MESSAGES: usize = 9000;
        let (mut peer, stream) = duplex(1 << 16);
        let codec = FrameCodec::framed(AnyMessage, 100);
        let below = Box::new(Plain::new(stream));
        let mut filter = Filter::new(below, Envelope::Message, codec.clone());
        let messages = [0x82, 0x81, 0, 0, 0, 0, b'x'].repeat(MESSAGES);
        peer.write_all(&messages).now_or_never().unwrap().unwrap();

        let (mut reader, pool, mut handed_out) = (Reader::default(), ReadPool::default(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Some(found) = reader.next_frame(&codec).unwrap() {
                reader.pass(found.len);
                handed_out += 1;
                continue;
            }
            let filled = reader.poll_fill(&mut filter, &pool, &mut cx);
            reader.note_messages(&mut filter);
            if filled.is_pending() {
                break;
            }
        }
        reader.rest(&pool);
        assert_eq!(handed_out, MESSAGES);
        assert_eq!(reader.messages.unwrap().lens.capacity(), 0);
        assert_eq!(filter.bounds().unwrap().lens.capacity(), 0);
    }

    #[test]
    fn of_input_that_is_forgotten_no_message_is_left() {
        let messages = Messages { open: 3, ..Messages::default() };
        let mut reader = Reader {
            buffer: BytesMut::from("abc"),
            messages: Some(Box::new(messages)),
            ..Reader::default()
        };
        reader.recycle(&ReadPool::default());
        let codec = FrameCodec::new(WireFormat::LtvLe, 100);
        assert!(matches!(reader.next_frame(&codec), Ok(None)));
    }
}
