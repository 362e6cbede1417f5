//! Close frames, and what is read after the last word.

use super::cuts::rich;
use super::*;

#[test]
fn a_close_frame_says_why_and_gets_its_own_words_as_the_reply() {
    let with = |code, text: &str| CloseReason::PeerClosedWith { code, text: text.into() };
    let cases = [
        (vec![], CloseReason::PeerClosed),
        (vec![0x03, 0xe8], CloseReason::PeerClosed),
        (vec![0x03, 0xe9], CloseReason::PeerClosed),
        (vec![0x03, 0xea], with(1002, "")),
        ([&[0x0b, 0xb8][..], "drei €".as_bytes()].concat(), with(3000, "drei €")),
        ([&[0x13, 0x87][..], &[b'x'; 123]].concat(), with(4999, &"x".repeat(123))),
    ];
    for (said, why) in cases {
        for begun in [&b""[..], &frame(BINARY, b"begun")] {
            let stream = [begun, &frame(FIN | CLOSE, &said)].concat();
            let mut incoming = Incoming::all(ltv(), &stream);
            assert_eq!(incoming.over(), Some(why.clone()));
            assert!(incoming.door.is_closed());
            assert_eq!(incoming.door.aside(), Some(from_server(CLOSE, &said)));
            assert_eq!(incoming.door.aside(), None);
            assert_eq!(incoming.door.last_words(&CloseReason::Shutdown), None);
        }
    }
}

#[test]
fn a_close_code_is_one_that_may_be_sent() {
    let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
    for code in (0..=5100).chain([0x7fff, 0x8000, 0xffff]) {
        let incoming = Incoming::all(ltv(), &close_frame(code, b"why"));
        let may = registered.contains(&code) || (3000..5000).contains(&code);
        let reserved = FrameError::WebSocket("a close code is reserved");
        assert_eq!(incoming.error(), (!may).then_some(reserved), "{code}");
    }
}

#[test]
fn a_broken_close_frame_gets_an_error_as_the_reply() {
    let half = FrameError::WebSocket("a close frame has half of a code");
    let cases = [
        (vec![3], half, 1002_u16),
        (vec![0x03, 0xed], FrameError::WebSocket("a close code is reserved"), 1002),
        (vec![0x03, 0xe8, 0xff], FrameError::Malformed("a close reason is not UTF-8"), 1007),
        (vec![0x03, 0xe8, 0xe2, 0x82], FrameError::Malformed("a close reason is not UTF-8"), 1007),
    ];
    for (said, error, code) in cases {
        let mut incoming = Incoming::all(ltv(), &frame(FIN | CLOSE, &said));
        assert_eq!(incoming.error(), Some(error));
        assert!(incoming.door.is_closed());
        assert_eq!(incoming.door.aside(), None);
        let words = incoming.door.last_words(&CloseReason::Protocol(error)).unwrap();
        assert_eq!(words[2..4], code.to_be_bytes());
        assert!(incoming.door.is_answered(), "both have sent a close frame");
    }
}

#[test]
fn nothing_is_sent_after_a_close_frame() {
    let mut incoming = Incoming::all(ltv(), &frame(FIN | PING, b"1"));
    let words = incoming.door.last_words(&CloseReason::Shutdown).unwrap();
    assert_eq!(words[..4], [FIN | CLOSE, words.len() as u8 - 2, 0x03, 0xe9]);
    incoming.read(&frame(FIN | PING, b"2"));
    incoming.read(&close_frame(1000, b""));
    assert_eq!(incoming.door.aside(), None);
    assert_eq!(incoming.door.last_words(&CloseReason::Shutdown), None);
}

#[test]
fn the_reply_to_a_close_frame_comes_before_a_pong_that_is_due() {
    let stream = [frame(FIN | PING, b"1"), close_frame(1000, b"bye"), frame(FIN | PING, b"2")];
    let mut incoming = Incoming::all(ltv(), &stream.concat());
    assert_eq!(incoming.door.aside(), Some(from_server(CLOSE, b"\x03\xe8bye")));
    assert_eq!(incoming.door.aside(), None);
}

#[test]
fn why_it_ends_is_told_although_the_reply_was_sent() {
    let mut incoming = Incoming::all(ltv(), &close_frame(1000, b""));
    assert!(incoming.door.aside().is_some());
    assert!(matches!(incoming.door.end(), Some(Ok(0))));
    incoming.door.read_away();
    assert!(reads_on(&incoming));
}

/// Whether there is more to read.
fn reads_on(incoming: &Incoming) -> bool {
    incoming.door.end().is_none()
}

#[test]
fn after_an_error_the_peer_is_read_away_up_to_its_close_frame() {
    let mut incoming = Incoming::all(ltv(), &frame(FIN | TEXT, b"text"));
    assert!(!reads_on(&incoming), "the error comes first");
    incoming.parts(&CloseReason::Protocol(FrameError::Text));
    assert!(reads_on(&incoming));
    for bytes in [frame(FIN | BINARY, &packet(4)), frame(0x7f, &[0; 1000]), rich()[..30].to_vec()] {
        incoming.read(&bytes);
        assert!(incoming.whole.is_empty() && incoming.buffer.is_empty());
        assert!(reads_on(&incoming));
    }
    incoming.read(&rich()[30..]);
    assert!(!reads_on(&incoming));
    assert_eq!(incoming.error(), Some(FrameError::Text), "the first error is the one");
}

#[test]
fn what_comes_behind_the_peers_close_frame_is_read_away() {
    let broken = [frame(FIN | TEXT, b"text"), close_frame(1000, b"")].concat();
    for closing in [close_frame(1000, b""), close_frame(1005, b""), broken] {
        let mut incoming = Incoming::all(ltv(), &closing);
        assert!(!reads_on(&incoming), "why it ends comes first");
        let why = incoming.over().unwrap();
        incoming.parts(&why);
        assert!(incoming.door.is_answered());
        for _ in 0..3 {
            assert!(reads_on(&incoming), "the reset of unread bytes would take the reply away");
            incoming.read(&rich());
            assert!(incoming.whole.is_empty() && incoming.buffer.is_empty());
        }
        incoming.door.end_input();
        assert!(!reads_on(&incoming));
        assert_eq!(incoming.over(), Some(why));
    }
}

#[test]
fn a_flood_is_not_read_away_for_ever() {
    let mut incoming = Incoming::all(ltv(), &frame(FIN | TEXT, b"text"));
    incoming.parts(&CloseReason::Protocol(FrameError::Text));
    let flood = frame(FIN | BINARY, &vec![0; 1 << 20]);
    let reads = (0..100).take_while(|_| {
        incoming.read(&flood);
        reads_on(&incoming)
    });
    assert_eq!(reads.count(), READ_AWAY / flood.len());
}

#[test]
fn who_was_closed_may_end_a_large_message_and_not_send_small_frames_for_ever() {
    let mut incoming = Incoming::new(ltv());
    incoming.parts(&CloseReason::Shutdown);
    let large = frame(FIN | BINARY, &vec![1; READ_AWAY]);
    for _ in 0..3 {
        incoming.read(&large);
        assert!(incoming.door.end().is_none());
    }
    let flood = frame(FIN | PING, b"").repeat(1000);
    let mut reads = 0;
    while incoming.door.end().is_none() {
        incoming.read(&flood);
        reads += 1;
    }
    assert!(reads * 1000 <= READ_AWAY / FRAME_AWAY + 1000, "{reads}");
    assert!(matches!(incoming.door.end(), Some(Ok(0))));
    assert!(incoming.door.pongs.is_empty(), "they would not be sent");
}

#[test]
fn who_has_closed_first_reads_up_to_the_peers_close_frame() {
    let mut incoming = Incoming::new(ltv());
    incoming.parts(&CloseReason::Removed);
    incoming.read(&frame(FIN | BINARY, b"of no interest"));
    assert!(reads_on(&incoming) && incoming.buffer.is_empty());
    incoming.read(&close_frame(1000, b""));
    assert!(matches!(incoming.door.end(), Some(Ok(0))));
}

#[test]
fn an_end_between_messages_is_the_peers_and_one_inside_tells_how_much_had_come() {
    let truncated = |have| CloseReason::Protocol(FrameError::Truncated { have });
    let whole = frame(FIN | BINARY, &packet(200));
    let begun = frame(BINARY, b"begun");
    let ping = frame(FIN | PING, b"ping");
    let last = frame(FIN | CONTINUATION, b"more");
    let cases = [
        (vec![], CloseReason::PeerClosed),
        (whole.clone(), CloseReason::PeerClosed),
        (ping.clone(), CloseReason::PeerClosed),
        ([&whole[..], &whole[..1]].concat(), truncated(1)),
        ([&whole[..], &whole[..7]].concat(), truncated(7)),
        ([&whole[..], &whole[..8]].concat(), truncated(8)),
        ([&whole[..], &whole[..100]].concat(), truncated(100)),
        ([&whole[..], &ping[..3]].concat(), truncated(3)),
        ([&whole[..], &begun].concat(), truncated(begun.len())),
        ([&begun[..], &ping].concat(), truncated(begun.len())),
        ([&begun[..], &ping[..8]].concat(), truncated(begun.len() + 8)),
        ([&begun[..], &ping, &last[..3]].concat(), truncated(begun.len() + 3)),
        ([&begun[..], &ping, &last[..9]].concat(), truncated(begun.len() + 9)),
    ];
    for (stream, why) in cases {
        let mut at_once = Incoming::all(ltv(), &stream);
        assert_eq!(at_once.door.is_inside(), why != CloseReason::PeerClosed);
        at_once.door.end_input();
        assert_eq!(at_once.over(), Some(why.clone()), "{stream:?}");
        let mut by_bytes = Incoming::new(ltv());
        stream.iter().for_each(|byte| by_bytes.read(&[*byte]));
        by_bytes.door.end_input();
        assert_eq!(by_bytes.over(), Some(why), "{stream:?}");
        assert!(at_once.door.end().is_some() && by_bytes.door.end().is_some());
    }
}

#[test]
fn an_end_after_an_error_changes_nothing() {
    let mut incoming = Incoming::all(ltv(), &[frame(FIN | TEXT, b"text"), vec![0x82]].concat());
    incoming.door.end_input();
    assert_eq!(incoming.error(), Some(FrameError::Text));
}
