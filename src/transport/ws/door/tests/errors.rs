//! What breaks the protocol, or is no frame.

use super::*;

/// What a header alone is refused for, between messages and inside one; `None` if it is not.
fn refused(inside: bool, header: &[u8]) -> Option<FrameError> {
    let mut incoming = Incoming::new(ltv());
    if inside {
        incoming.read(&frame(BINARY, &packet(2)[..4]));
    }
    incoming.read(&frame(FIN | PING, b"before"));
    incoming.read(&header[..header.len() - 1]);
    assert_eq!(incoming.over(), None, "an error before the header is there");
    incoming.read(&header[header.len() - 1..]);
    assert_eq!(incoming.whole, b"");
    incoming.error()
}

#[test]
fn every_error_of_a_header_is_told_by_the_header_alone() {
    let key = Some([1, 2, 3, 4]);
    let protocol = |why| Some(FrameError::WebSocket(why));
    for inside in [false, true] {
        for bits in [0x10, 0x20, 0x40, 0x70] {
            for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] {
                let refused = refused(inside, &header(FIN | bits | opcode, 1, key));
                assert_eq!(refused, protocol("reserved bits are not zero"));
            }
        }
        for opcode in (3..=7).chain(11..=15) {
            for fin in [0, FIN] {
                let refused = refused(inside, &header(fin | opcode, 1, key));
                assert_eq!(refused, protocol("an opcode is unknown"), "{opcode}");
            }
        }
        for opcode in [CLOSE, PING, PONG] {
            let fragment = refused(inside, &header(opcode, 1, key));
            assert_eq!(fragment, protocol("a control frame is fragmented"));
            for len in [126, 0xffff, 0x1_0000, u64::MAX] {
                let long = refused(inside, &header(FIN | opcode, len, key));
                assert_eq!(long, protocol("a control frame is too large"));
            }
            assert_eq!(refused(inside, &header(FIN | opcode, 125, key)), None);
        }
        for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] {
            let bare = refused(inside, &header(FIN | opcode, 1, None));
            assert_eq!(bare, protocol("a frame is not masked"));
        }
    }
    for fin in [0, FIN] {
        let lonely = refused(false, &header(fin | CONTINUATION, 1, key));
        assert_eq!(lonely, protocol("there is nothing to continue"));
        assert_eq!(refused(true, &header(fin | CONTINUATION, 1, key)), None);
        for opcode in [TEXT, BINARY] {
            let second = refused(true, &header(fin | opcode, 1, key));
            assert_eq!(second, protocol("a message begins inside another"));
        }
        for opcode in [TEXT, BINARY] {
            assert_eq!(refused(false, &header(fin | opcode, 1, key)), None);
        }
    }
}

#[test]
fn a_client_refuses_what_is_masked() {
    for opcode in [BINARY, TEXT, CLOSE, PING, PONG] {
        let mut incoming = Incoming::with(Envelope::Masked, ltv());
        incoming.read(&frame(FIN | opcode, &packet(1)));
        assert_eq!(incoming.error(), Some(FrameError::WebSocket("a frame is masked")));
    }
}

#[test]
fn a_message_that_would_be_longer_than_the_largest_frame_is_refused_before_it_comes() {
    let (max, key) = (MAX_PAYLOAD as usize + 8, Some([0; 4]));
    let too_long = Some(FrameError::MessageTooLong { max });
    for len in [max as u64 + 1, 0xffff, 0x1_0000, 1 << 63, u64::MAX] {
        for first in [BINARY, FIN | BINARY] {
            assert_eq!(refused(false, &header(first, len, key)), too_long);
        }
    }
    assert_eq!(refused(false, &header(FIN | BINARY, max as u64, key)), None);
    // Four bytes of it have come.
    for first in [CONTINUATION, FIN | CONTINUATION] {
        for len in [max as u64 - 3, u64::MAX] {
            assert_eq!(refused(true, &header(first, len, key)), too_long);
        }
        assert_eq!(refused(true, &header(first, max as u64 - 4, key)), None);
    }
}

#[test]
fn a_message_of_more_headers_than_bytes_is_too_long_at_some_point() {
    let (max, fragment) = (MAX_PAYLOAD as usize + 8, frame(CONTINUATION, b""));
    let mut incoming = Incoming::all(ltv(), &frame(BINARY, b""));
    let mut come = 0;
    while incoming.over().is_none() && come < 100 * max {
        incoming.read(&fragment);
        come += fragment.len();
    }
    assert_eq!(incoming.error(), Some(FrameError::MessageTooLong { max }));

    // A byte a fragment is none too little.
    let mut incoming = Incoming::new(ltv());
    let message = packet(MAX_PAYLOAD as usize);
    for (n, byte) in message.iter().enumerate() {
        let last = if n + 1 == message.len() { FIN } else { 0 };
        incoming.read(&frame(last | if n == 0 { BINARY } else { CONTINUATION }, &[*byte]));
    }
    assert_eq!((incoming.over(), incoming.whole), (None, message));
}

#[test]
fn control_frames_between_fragments_do_not_make_a_message_longer() {
    let message = packet(10);
    let mut incoming = Incoming::all(ltv(), &frame(BINARY, &message[..10]));
    for _ in 0..1000 {
        incoming.read(&frame(FIN | PING, &[0; 125]));
    }
    incoming.read(&frame(CONTINUATION, &message[10..11]));
    incoming.read(&frame(FIN | CONTINUATION, &message[11..]));
    assert_eq!((incoming.over(), incoming.whole), (None, message));
}

#[test]
fn a_message_is_one_frame_no_less_and_no_more() {
    let cases = [
        (packet(5)[..12].to_vec(), FrameError::NotOneFrame { have: 12 }),
        (packet(5)[..7].to_vec(), FrameError::NotOneFrame { have: 7 }),
        ([packet(5), packet(0)].concat(), FrameError::NotOneFrame { have: 21 }),
        ([packet(5), vec![0]].concat(), FrameError::NotOneFrame { have: 14 }),
        (
            vec![0x2d, 1, 0, 0, 5, 0, 0, 0],
            FrameError::TooLarge { id: 5, announced: 301, max: MAX_PAYLOAD },
        ),
    ];
    for (message, error) in cases {
        let incoming = Incoming::all(ltv(), &frame(FIN | BINARY, &message));
        assert_eq!((incoming.error(), incoming.whole), (Some(error), vec![]));
        let (begin, end) = message.split_at(3);
        let fragments = [frame(BINARY, begin), frame(FIN | CONTINUATION, end)].concat();
        let incoming = Incoming::all(ltv(), &fragments);
        assert_eq!((incoming.error(), incoming.whole), (Some(error), vec![]));
    }
}

#[test]
fn a_framing_is_asked_about_each_message_alone() {
    #[derive(Debug)]
    struct HalfOfAll;
    impl Framing for HalfOfAll {
        fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
            match src {
                [b'!', ..] => Err(FrameError::Malformed("!")),
                [b'?', ..] => Ok(None),
                _ => {
                    let len = src.len().div_ceil(2);
                    Ok(Some(Found { id: 1, payload: 0..len, len }))
                }
            }
        }

        fn put(&self, _: MsgId, _: &[u8], _: &mut BytesMut) {}

        fn overhead(&self) -> usize {
            0
        }
    }
    let cases = [
        (&b"x"[..], None),
        (b"xy", Some(FrameError::NotOneFrame { have: 2 })),
        (b"?", Some(FrameError::NotOneFrame { have: 1 })),
        (b"!", Some(FrameError::Malformed("!"))),
    ];
    for (message, error) in cases {
        let codec = FrameCodec::framed(HalfOfAll, 10);
        assert_eq!(Incoming::all(codec, &frame(FIN | BINARY, message)).error(), error);
    }
}

#[test]
fn what_came_before_an_error_is_handed_out_and_nothing_of_what_is_broken() {
    let before = [packet(5), packet(0)];
    let good: Vec<_> = before.iter().flat_map(|packet| frame(FIN | BINARY, packet)).collect();
    let broken = [
        frame(FIN | TEXT, b"text"),
        frame(FIN | BINARY, b"no frame"),
        [frame(BINARY, b"begun"), frame(FIN | BINARY, b"inside")].concat(),
        [frame(BINARY, b"begun"), close_frame(1000, b"")].concat(),
        [frame(BINARY, b"begun"), frame(FIN | CONTINUATION, &[0; 500])].concat(),
        frame(FIN | BINARY, &[0; 500]),
    ];
    for broken in broken {
        let incoming = Incoming::all(ltv(), &[&good, &broken, &good[..]].concat());
        assert!(incoming.over().is_some());
        assert_eq!(incoming.whole, before.concat());
        assert!(incoming.buffer.is_empty(), "{:?} is left", incoming.buffer);
    }
}

#[test]
fn a_text_is_refused_when_it_is_whole_and_what_is_no_text_at_its_first_byte_that_is_none() {
    let not_utf8 = Some(FrameError::Malformed("it is not UTF-8"));
    let text = "κόσμε".as_bytes();
    for cut in 0..=text.len() {
        let mut incoming = Incoming::new(ltv());
        incoming.read(&frame(TEXT, &text[..cut]));
        incoming.read(&frame(FIN | PING, b""));
        assert_eq!(incoming.error(), None);
        incoming.read(&frame(FIN | CONTINUATION, &text[cut..]));
        assert_eq!((incoming.error(), incoming.whole), (Some(FrameError::Text), Vec::new()));
    }
    for broken in [&b"ok\xff"[..], b"\xed\xa0\x80"] {
        let mut incoming = Incoming::new(ltv());
        let all = frame(FIN | TEXT, &[broken, b"and more"].concat());
        incoming.read(&all[..6 + broken.len()]);
        assert_eq!(incoming.error(), not_utf8);
        // Whatever follows is no news.
        incoming.read(&all[6 + broken.len()..]);
        incoming.read(&[frame(TEXT, &[0xff; 20]), frame(FIN | CONTINUATION, b"x")].concat());
        assert_eq!(incoming.error(), not_utf8);
    }
    let mut incoming = Incoming::new(ltv());
    incoming.read(&frame(FIN | TEXT, b"half \xce"));
    assert_eq!(incoming.error(), not_utf8);
}
