//! What a connection has accepted to send and the kernel has not taken yet.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::limits::Unsent;
use crate::codec::envelope::{Envelope, MAX_HEADER};
use crate::codec::{FrameCodec, HEADER_LEN};
use crate::frame::{Frame, MsgId};
use crate::unwind::guarded;

/// Payloads from this size on are shared with the writer; smaller ones are copied behind their
/// header, which costs less than a slice of their own in the system call. And a payload that was cut
/// from a read buffer holds all of its 64 KiB, of which it must not be a small part.
pub(crate) const SHARE_FROM: usize = 32 * 1024;

/// A tail of this size is followed by another one: to let it grow on would copy it again and again,
/// and leave holes of many sizes in the heap.
const LARGEST_TAIL: usize = 64 * 1024;

/// What is allocated for frames that are only expected.
const EXPECTED: usize = 16 * 1024;

/// How many slices one vectored write takes.
pub(crate) const MAX_SLICES: usize = 64;

/// How frames of a connection stand on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form<'a> {
    pub(crate) codec: &'a FrameCodec,
    pub(crate) envelope: Envelope,
}

impl Form<'_> {
    /// How long a frame of this length is with what stands around it.
    #[inline]
    pub(crate) fn len(self, frame_len: usize) -> usize {
        self.envelope.header_len(frame_len) + frame_len
    }

    /// Appends a frame of a plain format.
    #[inline(always)]
    fn put(self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        match self.envelope {
            Envelope::None => self.put_bare(id, payload, dst),
            envelope => self.put_in(envelope, id, payload, dst),
        }
    }

    #[inline(always)]
    fn put_bare(self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        self.codec.put_header(id, payload.len(), dst);
        dst.extend_from_slice(payload);
    }

    /// A function of its own, so that the other one stays small enough to be inlined.
    #[inline(never)]
    fn put_in(self, envelope: Envelope, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        let len = HEADER_LEN + payload.len();
        let Some([a, b]) = envelope.short_header(len) else {
            return envelope.put(len, dst, |dst| self.put_bare(id, payload, dst));
        };
        // Both headers at once.
        let [c, d, e, f, g, h, i, j] = self.codec.header(id, payload.len());
        dst.put_slice(&[a, b, c, d, e, f, g, h, i, j]);
        dst.extend_from_slice(payload);
    }

    /// How long the frame whose beginning stands at the front of `bytes` is with what stands around it.
    fn len_at(self, bytes: &[u8]) -> Option<usize> {
        match self.envelope {
            Envelope::None => self.codec.frame_len(bytes),
            envelope => envelope.message_len(bytes),
        }
    }
}

/// A frame as it stands on the wire, encoded once for any number of connections: behind the header of
/// the WebSocket message that it is to some of them.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    message: Bytes,
    header_len: usize,
}

impl Encoded {
    /// The caller has checked that there is a frame for it; `None` if the framing panics, or makes nothing of
    /// it: what has no bytes can neither be written nor counted.
    pub(crate) fn new(codec: &FrameCodec, frame: &Frame) -> Option<Self> {
        let most = MAX_HEADER + codec.overhead() + frame.payload.len();
        let mut bytes = BytesMut::with_capacity(most);
        bytes.put_bytes(0, MAX_HEADER);
        let put = codec.put(frame.id, &frame.payload, &mut bytes);
        let len = bytes.len() - MAX_HEADER;
        if !put || len == 0 {
            return None;
        }
        let header_len = Envelope::put_before(len, bytes.first_chunk_mut()?);
        let message = bytes.freeze().slice(MAX_HEADER - header_len..);
        Some(Self { message, header_len })
    }

    /// What goes to peers that get frames in this envelope, if they all get the same.
    pub(crate) fn alike(&self, envelope: Envelope) -> Option<&[u8]> {
        match envelope {
            Envelope::None => Some(self.bytes()),
            Envelope::Message => Some(&self.message),
            Envelope::Masked => None,
        }
    }

    /// The frame alone.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.message[self.header_len..]
    }

    /// What goes to peers that get frames in this envelope.
    pub(crate) fn enveloped(&self, envelope: Envelope) -> Bytes {
        match envelope {
            Envelope::None => self.message.slice(self.header_len..),
            Envelope::Message => self.message.clone(),
            Envelope::Masked => {
                let frame = self.bytes();
                let len = envelope.header_len(frame.len()) + frame.len();
                let mut masked = BytesMut::with_capacity(len);
                envelope.put(frame.len(), &mut masked, |dst| dst.extend_from_slice(frame));
                masked.freeze()
            }
        }
    }
}

/// The queue of a connection's unsent frames, counted in frames and bytes.
///
/// A frame that may be displaced by later ones has a segment of its own.
///
/// The counts include the batch that the writer has taken and not yet written, so that they are
/// the whole of what the connection holds.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queued: Batch,
    unsent: Unsent,
    /// How much of `queued` may be displaced.
    droppable: Unsent,
}

impl Outbox {
    /// What is accepted and not yet given to the kernel.
    pub(crate) fn unsent(&self) -> Unsent {
        self.unsent
    }

    /// The same without what may be displaced.
    pub(crate) fn lasting(&self) -> Unsent {
        Unsent {
            frames: self.unsent.frames - self.droppable.frames,
            bytes: self.unsent.bytes - self.droppable.bytes,
        }
    }

    /// Whether something waits that the writer has not taken yet.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Takes `frame` by reference, lest its payload be dropped here: that may run code of the
    /// application, and this is called under a lock.
    pub(crate) fn push(&mut self, form: Form<'_>, frame: &Frame) {
        self.adopt(1, form.len(HEADER_LEN + frame.payload.len()));
        self.queued.push(form, frame);
    }

    /// As [`push`](Self::push), for a payload smaller than [`SHARE_FROM`].
    #[inline]
    pub(crate) fn push_copy(&mut self, form: Form<'_>, id: MsgId, payload: &[u8]) {
        self.adopt(1, form.len(HEADER_LEN + payload.len()));
        self.queued.push_copy(form, id, payload);
    }

    pub(crate) fn push_encoded(&mut self, form: Form<'_>, encoded: &Encoded) {
        let bytes = encoded.enveloped(form.envelope);
        self.adopt(1, bytes.len());
        self.queued.push_encoded(bytes);
    }

    /// As [`push_encoded`](Self::push_encoded), for a frame that [`make_room`](Self::make_room) may
    /// drop.
    pub(crate) fn push_droppable(&mut self, form: Form<'_>, encoded: &Encoded) {
        let bytes = encoded.enveloped(form.envelope);
        self.adopt(1, bytes.len());
        self.droppable.frames += 1;
        self.droppable.bytes += bytes.len();
        self.queued.seal();
        let segment = Segment { bytes, frames: 1, kind: Kind::Droppable };
        self.queued.segments.push_back(segment);
    }

    /// Drops the oldest of the frames that may be dropped until no more than `rest` is left. Answers
    /// how many; `None`, with nothing dropped, if all of them are not enough.
    pub(crate) fn make_room(&mut self, rest: Unsent) -> Option<usize> {
        if self.lasting().exceeds(rest) {
            return None;
        }
        let Self { queued, unsent, droppable } = self;
        let mut dropped = 0;
        while unsent.exceeds(rest) {
            let oldest = queued.segments.iter().position(|segment| segment.kind == Kind::Droppable);
            let segment = queued.segments.remove(oldest?)?;
            for count in [&mut *unsent, &mut *droppable] {
                count.frames -= segment.frames;
                count.bytes -= segment.bytes.len();
            }
            dropped += segment.frames;
        }
        Some(dropped)
    }

    /// Moves what is queued into `batch`, which is empty; false if nothing is queued. If something
    /// of it may be displaced, only about as much as `most` from its front.
    pub(crate) fn take(&mut self, batch: &mut Batch, most: Unsent) -> bool {
        debug_assert!(batch.is_empty());
        if self.droppable == Unsent::default() {
            std::mem::swap(&mut self.queued, batch);
            return !batch.is_empty();
        }
        let mut taken = Unsent::default();
        while let Some(segment) = self.queued.segments.pop_front() {
            if segment.kind == Kind::Droppable {
                self.droppable.frames -= segment.frames;
                self.droppable.bytes -= segment.bytes.len();
            }
            taken.frames += segment.frames;
            taken.bytes += segment.bytes.len();
            batch.segments.push_back(segment);
            let enough = taken.frames >= most.frames || taken.bytes >= most.bytes;
            if enough || batch.segments.len() == MAX_SLICES {
                break;
            }
        }
        true
    }

    /// The kernel has taken `bytes`, which completed `frames`.
    pub(crate) fn written(&mut self, frames: usize, bytes: usize) {
        self.unsent.frames -= frames;
        self.unsent.bytes -= bytes;
    }

    /// Counts what the writer holds without having taken it from here.
    #[inline]
    pub(crate) fn adopt(&mut self, frames: usize, bytes: usize) {
        self.unsent.frames += frames;
        self.unsent.bytes += bytes;
    }

    /// Lends a buffer to encode into, unless there is one.
    pub(crate) fn lend(&mut self, buffer: impl FnOnce() -> Option<BytesMut>) {
        self.queued.lend(buffer);
    }

    /// Expects about `n` frames like this one: one allocation for all of them.
    pub(crate) fn expect(&mut self, n: u32, payload_len: usize) {
        let wanted = (n as usize).saturating_mul(HEADER_LEN + payload_len).min(EXPECTED);
        self.queued.lend(|| Some(BytesMut::with_capacity(wanted)));
    }

    /// Takes the buffer of an empty queue away, so that an idle connection holds none.
    pub(crate) fn reclaim(&mut self) -> BytesMut {
        self.queued.reclaim()
    }
}

/// Bytes of whole frames on their way out: shared segments, then a tail of small frames.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    segments: VecDeque<Segment>,
    tail: BytesMut,
    /// How much of the front (the first segment, else the tail) is written.
    written: usize,
    tail_frames: u32,
    /// Something of it is written.
    begun: bool,
    pub(crate) source: Source,
}

/// Where a batch comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// From an outbox, whose counts include it until it is written.
    #[default]
    Outbox,
    /// From route functions: it is either written at once or counted in the outbox.
    Direct,
    /// From the transport. It is counted nowhere.
    Aside,
}

#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    /// How many frames end in this segment.
    frames: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A run of small frames, which begins with a header.
    Run,
    /// One payload or one encoded frame.
    Shared,
    /// One encoded frame that may be dropped while it is queued.
    Droppable,
}

impl Batch {
    /// A batch of one encoded frame of which the first `written` bytes are gone already.
    pub(crate) fn rest_of(bytes: Bytes, written: usize) -> Self {
        let segment = Segment { bytes, frames: 1, kind: Kind::Shared };
        let (segments, begun) = (VecDeque::from([segment]), written > 0);
        Self { segments, written, begun, ..Self::default() }
    }

    /// A batch of what is no frame.
    pub(crate) fn aside(bytes: Bytes) -> Self {
        let segment = Segment { bytes, frames: 0, kind: Kind::Shared };
        let (segments, source) = (VecDeque::from([segment]), Source::Aside);
        Self { segments, source, ..Self::default() }
    }

    pub(crate) fn push(&mut self, form: Form<'_>, frame: &Frame) {
        let Form { codec, envelope } = form;
        let (id, len) = (frame.id, frame.payload.len());
        if len < SHARE_FROM {
            self.push_copy(form, id, &frame.payload);
        } else if envelope == Envelope::Masked {
            let mut masked = BytesMut::with_capacity(form.len(HEADER_LEN + len));
            form.put(id, &frame.payload, &mut masked);
            self.push_shared(masked.freeze());
        } else {
            // The payload follows its headers.
            envelope
                .put(HEADER_LEN + len, self.small_tail(), |tail| codec.put_header(id, len, tail));
            // From here on it is dropped among others, and on whatever way the connection ends.
            self.push_shared(guarded(frame.payload.clone()));
        }
    }

    /// Pushes a frame with a copy of its payload, which is a small one.
    #[inline(always)]
    pub(crate) fn push_copy(&mut self, form: Form<'_>, id: MsgId, payload: &[u8]) {
        debug_assert!(payload.len() < SHARE_FROM);
        form.put(id, payload, self.small_tail());
        self.tail_frames += 1;
    }

    fn push_encoded(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_FROM {
            self.small_tail().extend_from_slice(&bytes);
            self.tail_frames += 1;
        } else {
            self.push_shared(bytes);
        }
    }

    /// The tail, not too large to grow.
    #[inline]
    fn small_tail(&mut self) -> &mut BytesMut {
        if self.tail.len() >= LARGEST_TAIL {
            self.seal();
        }
        &mut self.tail
    }

    /// Lends a buffer to encode into, unless there is one.
    pub(crate) fn lend(&mut self, buffer: impl FnOnce() -> Option<BytesMut>) {
        if self.tail.capacity() == 0
            && let Some(buffer) = buffer()
        {
            self.tail = buffer;
        }
    }

    /// How many frames and bytes of it are to be written.
    pub(crate) fn size(&self) -> (usize, usize) {
        let frames: usize = self.segments.iter().map(|segment| segment.frames).sum();
        let bytes: usize = self.segments.iter().map(|segment| segment.bytes.len()).sum();
        (frames + self.tail_frames as usize, bytes + self.tail.len() - self.written)
    }

    /// How many bytes of small frames are at its end.
    #[inline]
    pub(crate) fn tail_len(&self) -> usize {
        self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_empty()
    }

    /// The bytes of a batch without shared segments, else `None`.
    pub(crate) fn contiguous(&self) -> Option<&[u8]> {
        self.segments.is_empty().then(|| &self.tail[self.written..])
    }

    /// The front of the batch as slices for a vectored write.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let segments = self.segments.iter().map(|segment| &segment.bytes[..]);
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let mut skip = self.written;
        let mut count = 0;
        for (slot, bytes) in slices.iter_mut().zip(segments.chain(tail)) {
            *slot = IoSlice::new(&bytes[std::mem::take(&mut skip)..]);
            count += 1;
        }
        count
    }

    /// Whether it is written in part: what is written next may be inside a frame.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun && !self.is_empty()
    }

    /// Takes off all that is behind the frame of which something is written, so that something else can
    /// stand between them. The frames are in messages.
    pub(crate) fn split_behind_frame(&mut self, form: Form<'_>) -> Self {
        self.seal();
        let mut whole = 0;
        if let Some(front) = self.segments.front_mut() {
            let (mut end, mut frames) = (0, 0);
            if front.kind == Kind::Run {
                while end < self.written
                    && let Some(len) = form.len_at(&front.bytes[end..])
                {
                    (end, frames) = (end + len, frames + 1);
                }
            } else {
                // What is not written of it may be behind a header that is.
                end = front.bytes.len();
            }
            whole = match end.cmp(&front.bytes.len()) {
                Ordering::Less if end == 0 => 0,
                Ordering::Less => {
                    let bytes = front.bytes.split_off(end);
                    let behind = Segment { bytes, frames: front.frames - frames, ..*front };
                    front.frames = frames;
                    self.segments.insert(1, behind);
                    1
                }
                Ordering::Equal => 1,
                // Its payload is the next segment.
                Ordering::Greater => 2,
            };
        }
        let whole = whole.min(self.segments.len());
        Self { segments: self.segments.split_off(whole), ..Self::default() }
    }

    /// The kernel took `n` bytes. Answers how many frames that completed.
    pub(crate) fn advance(&mut self, mut n: usize) -> usize {
        self.begun = true;
        let mut frames = 0;
        while let Some(front) = self.segments.front() {
            let rest = front.bytes.len() - self.written;
            if n < rest {
                self.written += n;
                return frames;
            }
            n -= rest;
            frames += front.frames;
            self.written = 0;
            self.segments.pop_front();
        }
        self.written += n;
        if self.written == self.tail.len() {
            frames += std::mem::take(&mut self.tail_frames) as usize;
            self.tail.clear();
            self.written = 0;
            (self.begun, self.source) = (false, Source::Outbox);
        }
        frames
    }

    /// Takes the spare memory of an empty batch away.
    pub(crate) fn reclaim(&mut self) -> BytesMut {
        debug_assert!(self.is_empty());
        // Most turns write no segment, and the drop of a queue costs more than the look.
        if self.segments.capacity() > 0 {
            self.segments = VecDeque::new();
        }
        std::mem::take(&mut self.tail)
    }

    /// How many frames at the front are wholly written although their segment is not: what the
    /// counts of the outbox do not know, since they fall when a segment is done. The last `kept` bytes of
    /// what was written do not count: somebody keeps them.
    pub(crate) fn frames_written_of_front(&self, form: Form<'_>, kept: usize) -> usize {
        let written = self.written.saturating_sub(kept);
        let front = match self.segments.front() {
            Some(Segment { kind: Kind::Run, bytes, .. }) => &bytes[..],
            Some(_) => return 0,
            None => &self.tail[..],
        };
        let mut rest = front;
        let mut done = 0;
        while let Some(frame_len) = form.len_at(rest) {
            // A shared payload follows in a segment of its own.
            if front.len() - rest.len() + frame_len > written.min(front.len()) {
                break;
            }
            done += 1;
            rest.advance(frame_len);
        }
        done
    }

    /// All of it in one piece.
    pub(crate) fn into_bytes(self) -> BytesMut {
        let mut bytes = BytesMut::new();
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.bytes);
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }

    fn push_shared(&mut self, bytes: Bytes) {
        self.seal();
        self.segments.push_back(Segment { bytes, frames: 1, kind: Kind::Shared });
    }

    /// Makes a segment of the tail.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let frames = std::mem::take(&mut self.tail_frames) as usize;
            // A few bytes must not hold a buffer that was made for many.
            let bytes = if self.tail.len() < self.tail.capacity() / 2 {
                let bytes = Bytes::copy_from_slice(&self.tail);
                self.tail.clear();
                bytes
            } else {
                std::mem::take(&mut self.tail).freeze()
            };
            self.segments.push_back(Segment { bytes, frames, kind: Kind::Run });
        }
    }
}

#[cfg(test)]
mod tests;
