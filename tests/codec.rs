//! The wire formats: their golden bytes, and what a codec does with less or more than a frame.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may panic, too

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_util::codec::{Decoder, Encoder, Framed};
use zinxide::{CodecError, Frame, FrameCodec, FrameError, WireFormat};

const HEADER: usize = 8;
const MAX: u32 = 4096;
const FORMATS: [WireFormat; 2] = [WireFormat::LtvLe, WireFormat::TlvBe];

fn codec(format: WireFormat) -> FrameCodec {
    FrameCodec::new(format, MAX)
}

/// The bytes that stand for a frame, by the description of each format.
fn golden() -> Vec<(WireFormat, Frame, &'static [u8])> {
    use WireFormat::{LtvLe, TlvBe};
    vec![
        (LtvLe, Frame::new(0, "ping"), b"\x04\x00\x00\x00\x00\x00\x00\x00ping"),
        (
            LtvLe,
            Frame::new(2, "DoConnection BEGIN..."),
            b"\x15\x00\x00\x00\x02\x00\x00\x00\x44\x6f\x43\x6f\x6e\x6e\x65\x63\x74\x69\x6f\x6e\x20\x42\x45\x47\x49\x4e\x2e\x2e\x2e",
        ),
        (LtvLe, Frame::new(305_419_896, ""), b"\x00\x00\x00\x00\x78\x56\x34\x12"),
        (LtvLe, Frame::new(u32::MAX, ""), b"\x00\x00\x00\x00\xff\xff\xff\xff"),
        (TlvBe, Frame::new(1, "ping"), b"\x00\x00\x00\x01\x00\x00\x00\x04ping"),
        (TlvBe, Frame::new(305_419_896, ""), b"\x12\x34\x56\x78\x00\x00\x00\x00"),
        (TlvBe, Frame::new(u32::MAX, ""), b"\xff\xff\xff\xff\x00\x00\x00\x00"),
    ]
}

fn encoded(format: WireFormat, frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        codec(format).encode(frame.clone(), &mut bytes).unwrap();
    }
    bytes
}

fn frame_error<T: std::fmt::Debug>(result: Result<T, CodecError>) -> FrameError {
    match result {
        Err(CodecError::Frame(error)) => error,
        other => panic!("no frame error: {other:?}"),
    }
}

#[test]
fn frames_encode_to_the_golden_bytes() {
    for (format, frame, bytes) in golden() {
        assert_eq!(encoded(format, std::slice::from_ref(&frame)), bytes, "{format:?} {frame:?}");
    }
}

#[test]
fn the_golden_bytes_decode_to_their_frames() {
    for (format, frame, bytes) in golden() {
        let mut bytes = BytesMut::from(bytes);
        assert_eq!(codec(format).decode(&mut bytes).unwrap(), Some(frame), "{format:?}");
        assert!(bytes.is_empty());
    }
}

#[test]
fn zinx_v09s_format_is_the_default() {
    assert_eq!(WireFormat::default(), WireFormat::LtvLe);
    assert_eq!(codec(WireFormat::TlvBe).wire(), Some(WireFormat::TlvBe));
}

#[test]
fn a_frame_cut_anywhere_is_waited_for_and_then_whole() {
    for (format, frame, bytes) in golden() {
        for cut in 0..bytes.len() {
            let mut codec = codec(format);
            let mut received = BytesMut::from(&bytes[..cut]);
            assert_eq!(codec.decode(&mut received).unwrap(), None, "{format:?} {cut}");
            assert_eq!(received, bytes[..cut], "what has come is kept");
            received.extend_from_slice(&bytes[cut..]);
            assert_eq!(codec.decode(&mut received).unwrap(), Some(frame.clone()));
            assert!(received.is_empty());
        }
    }
}

#[test]
fn frames_that_come_byte_by_byte_are_whole_and_in_order() {
    let frames = [Frame::new(1, "one"), Frame::new(2, ""), Frame::new(3, vec![3; 300])];
    for format in FORMATS {
        let (mut received, mut decoded) = (BytesMut::new(), Vec::new());
        for byte in encoded(format, &frames) {
            received.extend_from_slice(&[byte]);
            decoded.extend(codec(format).decode(&mut received).unwrap());
        }
        assert_eq!(decoded, frames);
    }
}

#[test]
fn several_frames_in_one_buffer_are_taken_one_by_one() {
    let frames = [Frame::new(7, "a"), Frame::new(7, ""), Frame::new(0, "ccc"), Frame::new(9, "")];
    for format in FORMATS {
        let mut received = encoded(format, &frames);
        // And the start of another one.
        received.extend_from_slice(&[1, 0, 0]);
        for frame in &frames {
            assert_eq!(codec(format).next_frame(&mut received), Ok(Some(frame.clone())));
        }
        assert_eq!(codec(format).next_frame(&mut received), Ok(None));
        assert_eq!(received, [1, 0, 0][..]);
    }
}

#[test]
fn an_empty_payload_is_a_frame() {
    for format in FORMATS {
        let mut received = encoded(format, &[Frame::new(5, "")]);
        assert_eq!(received.len(), HEADER);
        let frame = codec(format).decode(&mut received).unwrap();
        assert_eq!(frame, Some(Frame::new(5, Bytes::new())));
    }
}

#[test]
fn a_payload_as_large_as_the_limit_is_a_frame_and_one_byte_more_is_not() {
    for format in FORMATS {
        let largest = Frame::new(5, vec![1; MAX as usize]);
        let mut received = encoded(format, std::slice::from_ref(&largest));
        assert_eq!(codec(format).decode(&mut received).unwrap(), Some(largest));

        let mut received = encoded(format, &[Frame::new(5, vec![1; MAX as usize + 1])]);
        let error = frame_error(codec(format).decode(&mut received));
        assert_eq!(error, FrameError::TooLarge { id: 5, announced: MAX + 1, max: MAX });
    }
}

#[test]
fn g7_a_payload_above_the_limit_is_refused_by_its_header_alone_and_nothing_is_reserved() {
    for format in FORMATS {
        for announced in [MAX + 1, u32::MAX] {
            let (len, id) = (announced, 3_u32);
            let header = match format {
                WireFormat::LtvLe => [len.to_le_bytes(), id.to_le_bytes()].concat(),
                _ => [id.to_be_bytes(), len.to_be_bytes()].concat(),
            };
            let mut received = BytesMut::from(&header[..]);
            let room = received.capacity();
            let error = frame_error(codec(format).decode(&mut received));
            assert_eq!(error, FrameError::TooLarge { id, announced, max: MAX });
            let text =
                format!("message 3 announces {announced} bytes of payload, the limit is 4096");
            assert_eq!(error.to_string(), text);
            assert_eq!((&received[..], received.capacity()), (&header[..], room));
        }
    }
}

#[test]
fn g7_a_payload_within_the_limit_has_nothing_reserved_for_it_before_it_comes() {
    for format in FORMATS {
        let whole = encoded(format, &[Frame::new(5, vec![1; MAX as usize])]);
        let mut received = BytesMut::from(&whole[..HEADER]);
        let room = received.capacity();
        assert_eq!(codec(format).decode(&mut received).unwrap(), None);
        assert_eq!(received.capacity(), room);
    }
}

#[test]
fn a_frame_before_one_that_is_too_large_is_still_taken() {
    for format in FORMATS {
        let large = Frame::new(2, vec![0; MAX as usize + 1]);
        let mut received = encoded(format, &[Frame::new(1, "fine"), large]);
        assert_eq!(codec(format).decode(&mut received).unwrap(), Some(Frame::new(1, "fine")));
        for _ in 0..2 {
            let error = frame_error(codec(format).decode(&mut received));
            assert!(matches!(error, FrameError::TooLarge { id: 2, .. }), "it stays an error");
        }
    }
}

#[test]
fn a_limit_of_nothing_allows_empty_payloads() {
    let mut codec = FrameCodec::new(WireFormat::LtvLe, 0);
    let mut received = encoded(WireFormat::LtvLe, &[Frame::new(1, ""), Frame::new(2, "x")]);
    assert_eq!(codec.decode(&mut received).unwrap(), Some(Frame::new(1, "")));
    let error = frame_error(codec.decode(&mut received));
    assert_eq!(error, FrameError::TooLarge { id: 2, announced: 1, max: 0 });
}

#[test]
fn what_is_sent_is_not_limited() {
    let mut bytes = BytesMut::new();
    let frame = Frame::new(1, vec![0; MAX as usize + 1]);
    codec(WireFormat::LtvLe).encode(frame, &mut bytes).unwrap();
    assert_eq!(bytes.len(), HEADER + MAX as usize + 1);
}

#[test]
fn the_end_of_the_stream_inside_a_frame_is_truncated_wherever_it_is() {
    for (format, frame, bytes) in golden() {
        // From 1: nothing at all is an end between two frames. Up to 7 is inside the header.
        for cut in 1..bytes.len() {
            let mut received = BytesMut::from(&bytes[..cut]);
            let error = frame_error(codec(format).decode_eof(&mut received));
            assert_eq!(error, FrameError::Truncated { have: cut }, "{format:?} {frame:?}");
            let text = format!("the stream ended inside a frame, {cut} bytes after its start");
            assert_eq!(error.to_string(), text);
        }
    }
}

#[test]
fn the_end_of_the_stream_between_two_frames_is_no_error() {
    for format in FORMATS {
        assert_eq!(codec(format).decode_eof(&mut BytesMut::new()).unwrap(), None);
        let mut received = encoded(format, &[Frame::new(1, "last")]);
        let mut codec = codec(format);
        assert_eq!(codec.decode_eof(&mut received).unwrap(), Some(Frame::new(1, "last")));
        assert_eq!(codec.decode_eof(&mut received).unwrap(), None);
    }
}

#[test]
fn the_end_of_the_stream_after_a_header_that_is_too_large_is_too_large() {
    let mut received = encoded(WireFormat::LtvLe, &[Frame::new(1, vec![0; MAX as usize + 1])]);
    received.truncate(HEADER);
    let error = frame_error(codec(WireFormat::LtvLe).decode_eof(&mut received));
    assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
}

#[actix::test]
async fn both_ends_of_a_framed_stream_understand_each_other() {
    for format in FORMATS {
        let (here, there) = tokio::io::duplex(64);
        let (mut here, mut there) =
            (Framed::new(here, codec(format)), Framed::new(there, codec(format)));
        let frames: Vec<_> =
            (0..50).map(|id| Frame::new(id, vec![id as u8; 7 * id as usize])).collect();
        let sending = {
            let frames = frames.clone();
            actix_rt::spawn(async move {
                for frame in frames {
                    here.send(frame).await.unwrap();
                }
            })
        };
        for frame in frames {
            assert_eq!(there.next().await.unwrap().unwrap(), frame);
        }
        sending.await.unwrap();
        assert!(there.next().await.is_none());
    }
}
