#[cfg(feature = "ws")]
mod envelopes;

use std::io::IoSlice;

use super::*;
use crate::codec::WireFormat;

const CODECS: [WireFormat; 2] = [WireFormat::LtvLe, WireFormat::TlvBe];

const ALL: Unsent = Unsent { frames: usize::MAX, bytes: usize::MAX };

fn codec() -> FrameCodec {
    FrameCodec::new(WireFormat::LtvLe, u32::MAX)
}

fn bare(codec: &FrameCodec) -> Form<'_> {
    Form { codec, envelope: Envelope::None }
}

fn frame(id: u32, len: usize) -> Frame {
    Frame::new(id, vec![id as u8; len])
}

fn wire(codec: &FrameCodec, frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| Encoded::new(codec, frame).unwrap().bytes().to_vec()).collect()
}

/// What the next system call would be offered.
fn offered(batch: &Batch) -> Vec<u8> {
    match batch.contiguous() {
        Some(bytes) => bytes.to_vec(),
        None => {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = batch.slices(&mut slices);
            let mut bytes = Vec::new();
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            bytes
        }
    }
}

/// A kernel that takes what it likes, the same on every run.
struct Whim(u64);

impl Whim {
    fn up_to(&mut self, max: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (self.0 >> 33) as usize % max
    }
}

#[test]
fn g10_the_outbox_counts_frames_and_bytes_with_their_headers() {
    let (codec, mut outbox) = (codec(), Outbox::default());
    outbox.push(bare(&codec), &frame(1, 0));
    outbox.push(bare(&codec), &frame(2, SHARE_FROM));
    outbox.push_encoded(bare(&codec), &Encoded::new(&codec, &frame(3, 10)).unwrap());
    assert_eq!(
        (outbox.unsent().frames, outbox.unsent().bytes),
        (3, 3 * HEADER_LEN + SHARE_FROM + 10)
    );
    assert!(outbox.has_queued());
}

#[test]
fn g10_the_counts_include_what_the_writer_has_taken_and_not_written() {
    let (codec, mut outbox, mut batch) = (codec(), Outbox::default(), Batch::default());
    outbox.push(bare(&codec), &frame(1, 10));
    assert!(outbox.take(&mut batch, ALL));
    assert!(!outbox.has_queued());
    outbox.push(bare(&codec), &frame(2, 10));
    assert_eq!((outbox.unsent().frames, outbox.unsent().bytes), (2, 2 * (HEADER_LEN + 10)));

    let frames = batch.advance(HEADER_LEN + 10);
    outbox.written(frames, HEADER_LEN + 10);
    assert_eq!((outbox.unsent().frames, outbox.unsent().bytes), (1, HEADER_LEN + 10));
}

#[test]
fn g10_bytes_fall_with_each_partial_write_and_frames_when_their_segment_is_done() {
    let (codec, mut outbox, mut batch) = (codec(), Outbox::default(), Batch::default());
    outbox.push(bare(&codec), &frame(1, SHARE_FROM));
    outbox.take(&mut batch, ALL);
    for (n, left) in [(HEADER_LEN, 1), (SHARE_FROM - 1, 1), (1, 0)] {
        let frames = batch.advance(n);
        outbox.written(frames, n);
        assert_eq!(outbox.unsent().frames, left);
    }
    assert_eq!(outbox.unsent().bytes, 0);
    assert!(batch.is_empty());
}

#[test]
fn g5_frames_leave_whole_and_in_order_however_little_the_kernel_takes() {
    // Around the size from which payloads are shared, and enough of them for several calls.
    let lens = [0, 1, 100, SHARE_FROM - HEADER_LEN - 1, SHARE_FROM - HEADER_LEN, SHARE_FROM - 1];
    let lens: Vec<_> = lens.into_iter().chain([SHARE_FROM, SHARE_FROM + 1, 20_000, 0, 5]).collect();
    for (round, format) in CODECS.into_iter().cycle().take(6).enumerate() {
        let codec = FrameCodec::new(format, u32::MAX);
        let mut whim = Whim(round as u64);
        let most = [1_000_000, 499, 5000][round % 3];
        let (mut outbox, mut batch) = (Outbox::default(), Batch::default());
        let (mut accepted, mut stream) = (Vec::new(), Vec::new());
        // Where on the wire each frame ends.
        let mut ends = Vec::new();
        for id in 0..60 {
            let frame = frame(id, lens[whim.up_to(lens.len()) - 1]);
            accepted.extend_from_slice(Encoded::new(&codec, &frame).unwrap().bytes());
            ends.push(accepted.len());
            if whim.up_to(2) == 1 {
                outbox.push(bare(&codec), &frame);
            } else {
                outbox.push_encoded(bare(&codec), &Encoded::new(&codec, &frame).unwrap());
            }
            // The writer is slower than those who send, and then catches up.
            while (id == 59 || whim.up_to(3) == 1)
                && (!batch.is_empty() || outbox.take(&mut batch, ALL))
            {
                let offer = offered(&batch);
                assert!(!offer.is_empty(), "a batch that is not empty has something to write");
                let n = whim.up_to(most).min(offer.len());
                stream.extend_from_slice(&offer[..n]);
                let done = batch.advance(n);
                outbox.written(done, n);

                assert_eq!(outbox.unsent().bytes, accepted.len() - stream.len());
                let left = ends.iter().filter(|&&end| end > stream.len()).count();
                assert_eq!(
                    outbox.unsent().frames - batch.frames_written_of_front(bare(&codec), 0),
                    left
                );
            }
        }
        assert!(stream == accepted, "the bytes on the wire are those of the frames");
        assert_eq!((outbox.unsent().frames, outbox.unsent().bytes), (0, 0));
    }
}

#[test]
fn g6_frames_written_of_front_counts_whole_frames_of_a_run_alone() {
    let (codec, mut outbox, mut batch) = (codec(), Outbox::default(), Batch::default());
    for id in 0..3 {
        outbox.push(bare(&codec), &frame(id, 2));
    }
    outbox.take(&mut batch, ALL);
    let each = HEADER_LEN + 2;
    for written in 1..3 * each {
        assert_eq!(batch.advance(1), 0, "counted when the whole run is written");
        assert_eq!(
            batch.frames_written_of_front(bare(&codec), 0),
            written / each,
            "{written} bytes"
        );
        assert_eq!(
            batch.frames_written_of_front(bare(&codec), 1),
            (written - 1) / each,
            "one kept"
        );
    }
    assert_eq!(batch.advance(1), 3);
    assert_eq!(batch.frames_written_of_front(bare(&codec), 0), 0);
}

#[test]
fn g6_a_header_whose_payload_follows_in_a_segment_of_its_own_is_no_written_frame() {
    let (codec, mut outbox, mut batch) = (codec(), Outbox::default(), Batch::default());
    outbox.push(bare(&codec), &frame(1, 2));
    // Zeros, which would be empty frames one after the other if they were taken for headers.
    outbox.push(bare(&codec), &frame(0, SHARE_FROM));
    outbox.take(&mut batch, ALL);
    // All but the last byte of the second frame's header.
    batch.advance(HEADER_LEN + 2 + HEADER_LEN - 1);
    assert_eq!(batch.frames_written_of_front(bare(&codec), 0), 1);
    assert_eq!(batch.advance(1), 1, "the run is written, the first frame with it");
    batch.advance(SHARE_FROM - 1);
    assert_eq!(batch.frames_written_of_front(bare(&codec), 0), 0);
    assert_eq!(batch.advance(1), 1);
}

#[test]
fn g6_the_rest_of_a_frame_written_past_the_queue_is_counted_and_written() {
    let (codec, mut outbox) = (codec(), Outbox::default());
    let frame = frame(1, 100);
    let encoded = Encoded::new(&codec, &frame).unwrap();
    let mut batch = Batch::rest_of(encoded.enveloped(Envelope::None), 30);
    outbox.adopt(1, encoded.bytes().len() - 30);
    assert_eq!((outbox.unsent().frames, outbox.unsent().bytes), (1, HEADER_LEN + 100 - 30));
    assert_eq!(batch.frames_written_of_front(bare(&codec), 0), 0);
    assert_eq!(offered(&batch), wire(&codec, &[frame])[30..]);
    let frames = batch.advance(HEADER_LEN + 100 - 30);
    outbox.written(frames, HEADER_LEN + 100 - 30);
    assert_eq!((outbox.unsent().frames, outbox.unsent().bytes), (0, 0));
}

#[test]
fn one_write_takes_at_most_as_many_slices_as_there_are() {
    let (codec, mut outbox, mut batch) = (codec(), Outbox::default(), Batch::default());
    let frames: Vec<_> = (0..MAX_SLICES as u32).map(|id| frame(id, SHARE_FROM)).collect();
    for frame in &frames {
        outbox.push(bare(&codec), frame);
    }
    outbox.take(&mut batch, ALL);
    let offer = offered(&batch);
    assert_eq!(offer.len(), MAX_SLICES / 2 * (HEADER_LEN + SHARE_FROM));
    assert_eq!(offer, wire(&codec, &frames)[..offer.len()]);
}

#[test]
fn a_lent_buffer_is_used_and_given_back() {
    let (codec, mut outbox) = (codec(), Outbox::default());
    let mut pool = vec![BytesMut::with_capacity(1000)];
    outbox.lend(|| pool.pop());
    assert!(pool.is_empty());
    outbox.push(bare(&codec), &frame(1, 2));
    let mut batch = Batch::default();
    outbox.take(&mut batch, ALL);
    assert_eq!(batch.advance(HEADER_LEN + 2), 1);
    assert!(batch.reclaim().capacity() >= 1000 - HEADER_LEN - 2);
    assert_eq!(outbox.reclaim().capacity(), 0);
}

#[test]
fn g10_a_few_bytes_between_droppable_frames_hold_no_buffer_that_was_made_for_many() {
    let (codec, mut outbox) = (codec(), Outbox::default());
    let encoded = Encoded::new(&codec, &frame(7, 4)).unwrap();
    for _ in 0..500 {
        outbox.lend(|| Some(BytesMut::with_capacity(64 * 1024)));
        outbox.push(bare(&codec), &frame(1, 4));
        outbox.push_droppable(bare(&codec), &encoded);
    }
    let counted = outbox.unsent().bytes;
    let segments = std::mem::take(&mut outbox.queued.segments).into_iter();
    let runs = segments.filter(|segment| segment.kind == Kind::Run);
    let held: usize =
        runs.map(|run| run.bytes.try_into_mut().map_or(0, |bytes| bytes.capacity())).sum();
    assert!(held <= 2 * counted, "{held} bytes held for {counted}");
}

#[test]
fn g6_frames_are_dropped_and_written_in_any_mixture_and_the_counts_are_right() {
    let codec = codec();
    let droppable = Encoded::new(&codec, &frame(9, 20)).unwrap();
    let mut outbox = Outbox::default();
    let mut batch = Batch::default();
    let mut random = 12345_u32;
    let mut sent = Unsent::default();
    for _ in 0..20_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match random >> 29 {
            0 | 1 => outbox.push(bare(&codec), &frame(1, random as usize >> 8 & 63)),
            2 => outbox.push(bare(&codec), &frame(2, SHARE_FROM)),
            3 | 4 => outbox.push_droppable(bare(&codec), &droppable),
            5 => drop(outbox.make_room(Unsent { frames: 10, bytes: 2 * SHARE_FROM })),
            _ => {
                let most = Unsent { frames: 4, bytes: SHARE_FROM };
                if !batch.is_empty() || outbox.take(&mut batch, most) {
                    let (_, bytes) = batch.size();
                    let n = bytes.min(1 + (random as usize >> 10 & 0xffff));
                    let frames = batch.advance(n);
                    outbox.written(frames, n);
                    sent.frames += frames;
                }
            }
        }
    }
    assert!(sent.frames > 1000);
    while !batch.is_empty() || outbox.take(&mut batch, ALL) {
        let (_, bytes) = batch.size();
        let frames = batch.advance(bytes);
        outbox.written(frames, bytes);
    }
    assert_eq!(outbox.unsent(), Unsent::default());
    assert_eq!(outbox.lasting(), Unsent::default());
}
