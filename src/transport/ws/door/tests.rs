//! The receiving side of a WebSocket, as RFC 6455 describes it.

mod closing;
mod cuts;
mod errors;

use super::*;
use crate::codec::WireFormat;
use crate::codec::framing::{AnyMessage, Found, Framing};
use crate::frame::MsgId;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// The largest payload of a frame in most of these tests.
const MAX_PAYLOAD: u32 = 300;

fn ltv() -> FrameCodec {
    FrameCodec::new(WireFormat::LtvLe, MAX_PAYLOAD)
}

/// A frame as the codec of [`ltv`] finds it.
fn packet(len: usize) -> Vec<u8> {
    let mut bytes = (len as u32).to_le_bytes().to_vec();
    bytes.extend([7, 0, 0, 0]);
    bytes.extend((0..len).map(|n| n as u8));
    bytes
}

/// A header with a length of its own choice, and a mask if a client sends it.
fn header(first: u8, len: u64, key: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(masked | len as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(key.into_iter().flatten());
    bytes
}

fn frame_by(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, key);
    let key = key.unwrap_or_default();
    bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ key[n % 4]));
    bytes
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_by(first, payload, Some([0x12, 0x34, 0xab, payload.len() as u8]))
}

fn close_frame(code: u16, text: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], text].concat())
}

/// A control frame as a server sends it.
fn from_server(opcode: u8, payload: &[u8]) -> Bytes {
    frame_by(FIN | opcode, payload, None).into()
}

/// A door, and a buffer in which it keeps the rest of a message, as a reader has it.
struct Incoming {
    door: Door,
    buffer: BytesMut,
    /// The bytes of whole messages, one behind the other.
    whole: Vec<u8>,
    lens: Vec<usize>,
    /// Whole messages are taken out of the buffer after each read.
    takes: bool,
}

impl Incoming {
    fn new(codec: FrameCodec) -> Self {
        Self::with(Envelope::Message, codec)
    }

    fn with(envelope: Envelope, codec: FrameCodec) -> Self {
        let (door, buffer) = (Door::new(envelope, codec), BytesMut::new());
        Self { door, buffer, whole: Vec::new(), lens: Vec::new(), takes: true }
    }

    fn read(&mut self, bytes: &[u8]) {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        self.door.take(&mut self.buffer, from);
        let bounds = self.door.bounds();
        assert!(bounds.open <= self.buffer.len());
        self.lens.extend(bounds.lens.drain(..));
        if self.takes {
            let whole = self.buffer.split_to(self.buffer.len() - bounds.open);
            self.whole.extend_from_slice(&whole);
        }
    }

    fn all(codec: FrameCodec, bytes: &[u8]) -> Self {
        let mut incoming = Self::new(codec);
        incoming.read(bytes);
        incoming
    }

    fn over(&self) -> Option<CloseReason> {
        self.door.over.clone()
    }

    fn error(&self) -> Option<FrameError> {
        match self.door.over {
            Some(CloseReason::Protocol(error)) => Some(error),
            _ => None,
        }
    }

    /// The connection ends, for this reason.
    fn parts(&mut self, why: &CloseReason) {
        assert!(self.door.last_words(why).is_some());
        self.door.read_away();
    }

    /// All that can be seen of it: nothing of that may depend on where reads end.
    fn outcome(mut self) -> Outcome {
        if !self.takes {
            let whole = self.buffer.len() - self.door.bounds().open;
            self.whole = self.buffer.split_to(whole).to_vec();
        }
        Outcome {
            rest: self.buffer.to_vec(),
            over: self.over(),
            inside: self.door.part,
            held: self.door.held(),
            is_closed: self.door.is_closed(),
            sent: self.door.aside(),
            whole: self.whole,
            lens: self.lens,
        }
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    whole: Vec<u8>,
    lens: Vec<usize>,
    rest: Vec<u8>,
    over: Option<CloseReason>,
    inside: usize,
    held: usize,
    is_closed: bool,
    sent: Option<Bytes>,
}

#[test]
fn a_door_is_plain_data_that_may_move_to_another_thread() {
    fn assert_data<T: Send + 'static>() {}
    assert_data::<Door>();
}

#[test]
fn a_message_of_any_length_is_unmasked_and_handed_out_as_one_frame() {
    for len in [1, 2, 3, 4, 5, 125, 126, 127, 0xffff, 0x1_0000] {
        let payload: Vec<_> = (0..len).map(|n| n as u8).collect();
        for envelope in [Envelope::Message, Envelope::Masked] {
            let key = (envelope == Envelope::Message).then_some([9, 8, 7, 6]);
            let codec = FrameCodec::framed(AnyMessage, 0x1_0000);
            let mut incoming = Incoming::with(envelope, codec);
            incoming.read(&frame_by(FIN | BINARY, &payload, key));
            assert_eq!((incoming.over(), &incoming.lens), (None, &vec![len]), "{envelope:?}");
            assert!(incoming.whole == payload, "{len} bytes to {envelope:?}");
        }
    }
}

#[test]
fn an_empty_message_is_no_frame() {
    let nothing = frame(FIN | BINARY, b"");
    for codec in [ltv(), FrameCodec::framed(AnyMessage, 10)] {
        let incoming = Incoming::all(codec, &nothing);
        assert_eq!(incoming.error(), Some(FrameError::NotOneFrame { have: 0 }));
    }
}

#[test]
fn several_messages_a_read_stand_one_behind_the_other() {
    let lens = [0, 1, 117, 118, 300, 0];
    let bytes: Vec<_> = lens.iter().flat_map(|&len| frame(FIN | BINARY, &packet(len))).collect();
    let incoming = Incoming::all(ltv(), &bytes);
    assert_eq!(incoming.over(), None);
    assert!(incoming.whole == lens.map(packet).concat());
    assert!(incoming.lens.is_empty(), "a plain format tells its frames apart");

    let bytes: Vec<_> = lens.iter().flat_map(|&len| frame(FIN | BINARY, &packet(len))).collect();
    let incoming = Incoming::all(FrameCodec::framed(AnyMessage, 1000), &bytes);
    assert!(incoming.whole == lens.map(packet).concat());
    assert_eq!(incoming.lens, lens.map(|len| 8 + len));
}

#[test]
fn fragments_are_put_together_and_control_frames_between_them_are_not() {
    let message = packet(20);
    let bytes = [
        frame(BINARY, &message[..5]),
        frame(FIN | PING, b"between"),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, &[0xff; 125]),
        frame(CONTINUATION, &message[5..11]),
        frame(FIN | CONTINUATION, &message[11..]),
    ];
    let mut incoming = Incoming::all(ltv(), &bytes.concat());
    assert_eq!((incoming.over(), incoming.whole), (None, message));
    assert_eq!(incoming.door.aside(), Some(from_server(PONG, b"between")));
}

#[test]
fn each_ping_is_answered_in_order_and_behind_a_frame() {
    let mut incoming = Incoming::new(ltv());
    incoming.read(&[frame(FIN | PING, b"1"), frame(FIN | PING, b"2")].concat());
    incoming.read(&frame(FIN | PONG, b"no ping"));
    incoming.read(&frame(FIN | PING, &[3; 125])[..100]);
    let both = [from_server(PONG, b"1"), from_server(PONG, b"2")].concat();
    assert_eq!(incoming.door.aside(), Some(both.into()));
    assert_eq!(incoming.door.aside(), None);
    incoming.read(&frame(FIN | PING, &[3; 125])[100..]);
    assert_eq!(incoming.door.aside(), Some(from_server(PONG, &[3; 125])));
    assert_eq!(incoming.door.aside(), None);
}

#[test]
fn of_pings_that_nobody_reads_the_replies_to_the_first_and_to_the_latest_are_due() {
    let mut incoming = Incoming::new(ltv());
    for n in 0..1000_u32 {
        incoming.read(&frame(FIN | PING, &n.to_be_bytes()));
    }
    let due = incoming.door.aside().unwrap();
    assert!(due.len() < 2 * PONGS, "{}", due.len());
    assert!(due.starts_with(&from_server(PONG, &0_u32.to_be_bytes())));
    assert!(due.ends_with(&from_server(PONG, &999_u32.to_be_bytes())));
}

#[test]
fn a_client_masks_its_control_frames() {
    let mut incoming = Incoming::with(Envelope::Masked, ltv());
    incoming.read(&frame_by(FIN | PING, b"ping", None));
    let pong = incoming.door.aside().unwrap();
    let (header, len) = Header::parse(&pong).unwrap();
    let mut payload = pong[len..].to_vec();
    mask(&mut payload, header.key.unwrap());
    assert_eq!((header.opcode, &payload[..]), (Opcode::Pong, &b"ping"[..]));
}

#[test]
fn what_is_held_beside_the_buffer_is_a_header_or_a_control_frame() {
    let ping = frame(FIN | PING, &[1; 125]);
    let mut incoming = Incoming::all(ltv(), &ping[..4]);
    assert_eq!(incoming.door.held(), 4);
    incoming.read(&ping[4..100]);
    assert_eq!(incoming.door.held(), 94);
    incoming.read(&ping[100..]);
    assert_eq!(incoming.door.held(), 0);
}
