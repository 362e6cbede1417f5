//! Frames in WebSocket messages: what stands on the wire, and what is counted of it.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

use super::*;

const ENVELOPES: [Envelope; 3] = [Envelope::None, Envelope::Message, Envelope::Masked];

/// Payloads around each length at which a header grows, or a payload is shared.
const LENS: [usize; 10] =
    [0, 1, 117, 118, 119, SHARE_FROM - 9, SHARE_FROM - 8, SHARE_FROM, 0xfff7, 0xfff8];

/// What a peer has received, without a way back to it.
struct Received(Cursor<Vec<u8>>);

impl Read for Received {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Received {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The frames as the peer finds them, by a library.
fn received(bytes: Vec<u8>, envelope: Envelope) -> Vec<Frame> {
    let role = match envelope {
        Envelope::None => {
            let mut bytes = BytesMut::from(&bytes[..]);
            let frames = std::iter::from_fn(|| codec().next_frame(&mut bytes).unwrap()).collect();
            assert!(bytes.is_empty());
            return frames;
        }
        Envelope::Message => Role::Client,
        Envelope::Masked => Role::Server,
    };
    let end = bytes.len() as u64;
    let mut peer = WebSocket::from_raw_socket(Received(Cursor::new(bytes)), role, None);
    let mut frames = Vec::new();
    while let Ok(Message::Binary(message)) = peer.read() {
        let mut message = BytesMut::from(message);
        frames.push(codec().next_frame(&mut message).unwrap().unwrap());
        assert!(message.is_empty(), "a message is one frame");
    }
    assert_eq!(peer.get_ref().0.position(), end);
    frames
}

/// A queue, and what it was given.
struct Given {
    codec: FrameCodec,
    envelope: Envelope,
    outbox: Outbox,
    frames: Vec<Frame>,
    /// Where on the wire each frame ends.
    ends: Vec<usize>,
}

impl Given {
    fn new(envelope: Envelope) -> Self {
        let (outbox, frames, ends) = (Outbox::default(), Vec::new(), Vec::new());
        Self { codec: codec(), envelope, outbox, frames, ends }
    }

    fn form(&self) -> Form<'_> {
        Form { codec: &self.codec, envelope: self.envelope }
    }

    /// Accepts a frame, in one of the ways there are.
    fn give(&mut self, way: usize, frame: Frame) {
        let form = Form { codec: &self.codec, envelope: self.envelope };
        let encoded = Encoded::new(&self.codec, &frame).unwrap();
        match way % 4 {
            0 => self.outbox.push(form, &frame),
            1 if frame.payload.len() < SHARE_FROM => {
                self.outbox.push_copy(form, frame.id, &frame.payload);
            }
            1 | 2 => self.outbox.push_encoded(form, &encoded),
            _ => self.outbox.push_droppable(form, &encoded),
        }
        let end = self.ends.last().unwrap_or(&0) + form.len(HEADER_LEN + frame.payload.len());
        self.ends.push(end);
        self.frames.push(frame);
    }

    fn end(&self) -> usize {
        *self.ends.last().unwrap_or(&0)
    }

    /// The counts are right when this much is written.
    fn assert_counts(&self, batch: &Batch, written: usize) {
        let unsent = self.outbox.unsent();
        let (frames, bytes) = (unsent.frames, unsent.bytes);
        assert_eq!(bytes, self.end() - written);
        let left = self.ends.iter().filter(|&&end| end > written).count();
        let frames = frames - batch.frames_written_of_front(self.form(), 0);
        assert_eq!(frames, left, "{:?}, {written} bytes written", self.envelope);
    }
}

#[test]
fn g5_frames_in_messages_leave_whole_and_in_order_however_little_the_kernel_takes() {
    for (round, envelope) in ENVELOPES.into_iter().cycle().take(9).enumerate() {
        let most = [1_000_000, 499, 5000][round / 3];
        let (mut given, mut batch, mut stream) = (Given::new(envelope), Batch::default(), vec![]);
        let mut whim = Whim(round as u64);
        for id in 0..60 {
            let len = LENS[whim.up_to(LENS.len()) - 1];
            given.give(whim.up_to(4), frame(id, len));
            while (id == 59 || whim.up_to(3) == 1)
                && (!batch.is_empty() || given.outbox.take(&mut batch, ALL))
            {
                let offer = offered(&batch);
                let n = whim.up_to(most).min(offer.len());
                stream.extend_from_slice(&offer[..n]);
                let done = batch.advance(n);
                given.outbox.written(done, n);
                given.assert_counts(&batch, stream.len());
            }
        }
        assert_eq!(stream.len(), given.end());
        assert!(received(stream, envelope) == given.frames, "{envelope:?}");
        assert_eq!(given.outbox.unsent(), Unsent::default());
    }
}

#[test]
fn g6_a_frame_in_a_message_counts_as_sent_from_its_last_byte_on() {
    for envelope in ENVELOPES {
        for ways in [[0; 6], [1; 6], [2; 6], [3; 6], [0, 1, 2, 3, 2, 0]] {
            let (mut given, mut batch) = (Given::new(envelope), Batch::default());
            for (way, len) in ways.into_iter().zip([0, 117, 118, SHARE_FROM, 0, 5]) {
                given.give(way, frame(3, len));
            }
            let mut written = 0;
            while !batch.is_empty() || given.outbox.take(&mut batch, ALL) {
                given.assert_counts(&batch, written);
                let done = batch.advance(1);
                given.outbox.written(done, 1);
                written += 1;
            }
            assert_eq!(written, given.end());
        }
    }
}

#[test]
fn a_frame_that_is_encoded_once_is_the_same_to_everybody() {
    for len in LENS.into_iter().chain([100_000]) {
        let frame = frame(5, len);
        let encoded = Encoded::new(&codec(), &frame).unwrap();
        for envelope in ENVELOPES {
            let bytes = encoded.enveloped(envelope);
            assert_eq!(bytes.len(), envelope.header_len(HEADER_LEN + len) + HEADER_LEN + len);
            match encoded.alike(envelope) {
                Some(alike) => assert!(alike == bytes, "{len} bytes in {envelope:?}"),
                None => assert_eq!(envelope, Envelope::Masked),
            }
            assert!(received(bytes.into(), envelope) == [frame.clone()]);
        }
        assert!(encoded.enveloped(Envelope::None) == encoded.bytes());
    }
}

#[test]
fn masked_frames_have_keys_of_their_own() {
    let (mut given, mut batch) = (Given::new(Envelope::Masked), Batch::default());
    for way in 0..3 {
        given.give(way, frame(0, 8));
    }
    given.outbox.take(&mut batch, ALL);
    let bytes = offered(&batch);
    let keys: std::collections::HashSet<_> = bytes.chunks(22).map(|frame| &frame[2..6]).collect();
    assert_eq!(keys.len(), 3, "by chance once in a billion times");
}

#[test]
fn g10_droppable_frames_in_messages_are_counted_with_their_headers() {
    for envelope in ENVELOPES {
        let mut given = Given::new(envelope);
        for way in [3, 0, 3, 3] {
            given.give(way, frame(1, 200));
        }
        let each = given.form().len(HEADER_LEN + 200);
        assert_eq!(given.outbox.lasting(), Unsent { frames: 1, bytes: each });
        assert_eq!(given.outbox.make_room(Unsent { frames: 9, bytes: 2 * each }), Some(2));
        assert_eq!(given.outbox.unsent(), Unsent { frames: 2, bytes: 2 * each });
        assert_eq!(given.outbox.make_room(Unsent { frames: 9, bytes: each - 1 }), None);
    }
}

#[test]
fn a_batch_is_begun_from_its_first_byte_to_its_last() {
    let (mut given, mut batch) = (Given::new(Envelope::Message), Batch::default());
    // The batch and the queue have each other's buffer from turn to turn.
    for ways in [&[0][..], &[2, 1], &[3], &[0, 3, 0], &[1]] {
        for len in [0, 10, SHARE_FROM] {
            assert!(!batch.is_begun());
            ways.iter().for_each(|&way| given.give(way, frame(1, len)));
            while given.outbox.take(&mut batch, ALL) {
                let (_, bytes) = batch.size();
                for n in 0..bytes {
                    assert_eq!(batch.is_begun(), n > 0, "{n} of {bytes} bytes");
                    let done = batch.advance(1);
                    given.outbox.written(done, 1);
                }
                assert!(batch.is_empty() && !batch.is_begun());
            }
        }
    }
}

#[test]
fn the_rest_of_a_frame_is_a_batch_that_is_begun() {
    let encoded = Encoded::new(&codec(), &frame(1, 10)).unwrap().enveloped(Envelope::Message);
    let mut batch = Batch::rest_of(encoded.clone(), 3);
    assert!(batch.is_begun(), "what is written before it is written into the frame");
    assert_eq!(batch.advance(encoded.len() - 3), 1);
    assert!(!batch.is_begun());
}

#[test]
fn what_is_no_frame_counts_as_none_and_the_batch_is_the_outboxs_again() {
    let (mut given, pong) = (Given::new(Envelope::Message), Bytes::from_static(&[0x8a, 0]));
    let mut batch = Batch::aside(pong.clone());
    assert_eq!((batch.size(), batch.source), ((0, 2), Source::Aside));
    assert_eq!(offered(&batch), pong);
    assert_eq!(batch.frames_written_of_front(given.form(), 0), 0);
    assert_eq!((batch.advance(1), batch.is_begun()), (0, true));
    assert_eq!((batch.size(), batch.source), ((0, 1), Source::Aside));
    assert_eq!((batch.advance(1), batch.is_begun()), (0, false));
    assert_eq!((batch.size(), batch.source), ((0, 0), Source::Outbox));
    given.give(0, frame(1, 1));
    assert!(given.outbox.take(&mut batch, ALL));
    assert_eq!((batch.source, batch.is_begun()), (Source::Outbox, false));
}

#[test]
fn a_payload_that_is_shared_takes_no_memory_beside_itself() {
    let codec = codec();
    for envelope in [Envelope::None, Envelope::Message] {
        let mut batch = Batch::default();
        batch.push(Form { codec: &codec, envelope }, &Frame::new(1, vec![0; 1 << 20]));
        assert!(batch.tail.capacity() < 1024, "{envelope:?}: {}", batch.tail.capacity());
    }
}

#[test]
fn a_batch_is_split_behind_the_frame_of_which_something_is_written() {
    for envelope in [Envelope::Message, Envelope::Masked] {
        // Of each way, small and shared ones, next to each other.
        let lens = [5, 200, SHARE_FROM, 3, 0, SHARE_FROM + 1, SHARE_FROM, 130, 7];
        let mut at = 0;
        loop {
            let mut given = Given::new(envelope);
            for (n, len) in lens.into_iter().enumerate() {
                given.give(n % 2, frame(n as u32, len));
            }
            let ends = given.ends.clone();
            let mut batch = Batch::default();
            assert!(given.outbox.take(&mut batch, ALL));
            let all = offered(&batch);
            if at == all.len() {
                break;
            }
            let done = batch.advance(at);
            let rest = batch.split_behind_frame(given.form());
            let (kept, behind) = (offered(&batch), offered(&rest));
            assert!([&all[..at], &kept, &behind].concat() == all, "nothing is lost: {at}");
            let end = at + kept.len();
            assert!(end == at || ends.contains(&end), "at a frame's end: {at}");
            let begun =
                ends.iter().filter(|&&frame_end| frame_end > at && frame_end <= end).count();
            assert!(begun <= 1, "one frame at most: {begun} at {at}");
            // Small ones count as written when their run is.
            let frames = done + batch.size().0 + rest.size().0;
            assert_eq!(frames, lens.len(), "{at}");
            at += if at.is_multiple_of(SHARE_FROM) || at < 400 { 1 } else { 97 };
            at = at.min(all.len());
        }
    }
}
