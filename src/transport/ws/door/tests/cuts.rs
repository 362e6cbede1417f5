//! However the bytes are cut into reads, the same comes of them.

use proptest::prelude::*;

use super::*;

/// A bit of everything that may come, and a close frame.
pub(super) fn rich() -> Vec<u8> {
    let (small, large) = (packet(3), packet(270));
    [
        frame(FIN | BINARY, &small),
        frame(FIN | PING, b""),
        frame(FIN | BINARY, &packet(0)),
        frame(FIN | BINARY, &large),
        frame(BINARY, b""),
        frame(CONTINUATION, &large[..130]),
        frame(FIN | PING, &[b'p'; 125]),
        frame(CONTINUATION, &large[130..131]),
        frame(FIN | PONG, b"unasked"),
        frame(CONTINUATION, &large[131..]),
        frame(FIN | CONTINUATION, b""),
        frame(FIN | BINARY, &small),
        frame(FIN | PING, b"last"),
        close_frame(4000, "au revoir à tous".as_bytes()),
        frame(FIN | BINARY, &small),
    ]
    .concat()
}

/// Streams that end in each of the ways there are.
fn streams() -> Vec<Vec<u8>> {
    let rich = rich();
    let begun = [frame(BINARY, &packet(9)[..4]), frame(FIN | PING, b"?")].concat();
    let whole = frame(FIN | BINARY, &packet(9));
    vec![
        rich.clone(),
        [&whole, &begun, &frame(FIN | BINARY, b"inside")[..], &rich].concat(),
        [&whole, &begun, &frame(FIN | CONTINUATION, b"garbage")[..], &rich].concat(),
        [&whole, &begun, &frame(FIN | TEXT, b"text")[..], &rich].concat(),
        [&whole, &begun, &frame(FIN | CONTINUATION, &[0; 400])[..], &rich].concat(),
        [&whole, &begun, &close_frame(1005, b"")[..], &rich].concat(),
        [&whole, &begun[..]].concat(),
        [&whole, &begun, &frame(CONTINUATION, b"abc")[..9]].concat(),
        [&whole, &frame(FIN | PING, b"not all")[..9]].concat(),
    ]
}

#[test]
fn nothing_depends_on_where_reads_end() {
    for framed in [false, true] {
        let codec = || if framed { FrameCodec::framed(AnyMessage, 308) } else { ltv() };
        for stream in streams() {
            let expected = Incoming::all(codec(), &stream).outcome();
            for cut in 0..=stream.len() {
                for takes in [true, false] {
                    let mut incoming = Incoming { takes, ..Incoming::new(codec()) };
                    incoming.read(&stream[..cut]);
                    incoming.read(&stream[cut..]);
                    assert_eq!(incoming.outcome(), expected, "cut at {cut}");
                }
            }
            for takes in [true, false] {
                let mut incoming = Incoming { takes, ..Incoming::new(codec()) };
                stream.iter().for_each(|byte| incoming.read(&[*byte]));
                assert_eq!(incoming.outcome(), expected, "byte by byte");
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_depends_on_how_many_reads_there_are(
        of in 0..streams().len(),
        takes: bool,
        pieces in proptest::collection::vec(0..90_usize, 1..40),
    ) {
        let stream = &streams()[of];
        let mut incoming = Incoming { takes, ..Incoming::new(ltv()) };
        let mut rest = &stream[..];
        for len in pieces {
            let (read, behind) = rest.split_at(len.min(rest.len()));
            incoming.read(read);
            rest = behind;
        }
        incoming.read(rest);
        prop_assert_eq!(incoming.outcome(), Incoming::all(ltv(), stream).outcome());
    }
}

#[test]
fn what_has_come_of_a_message_stays_at_the_end_of_the_buffer() {
    let message = packet(40);
    let stream = [
        frame(BINARY, &message[..10]),
        frame(FIN | PING, b"ping"),
        frame(FIN | CONTINUATION, &message[10..]),
    ];
    let mut incoming = Incoming::new(ltv());
    for byte in stream.concat() {
        incoming.read(&[byte]);
        assert_eq!(incoming.door.bounds().open, incoming.buffer.len());
        assert!(message.starts_with(&incoming.buffer));
    }
    assert!(incoming.buffer.is_empty());
    assert_eq!(incoming.whole, message);
}
