//! A WebSocket peer's bytes, to the filter and to tungstenite: both find the same messages, and end with the
//! same close code. Shared by the fuzz target and `tests/fuzz_corpus.rs`.
//!
//! An input says first how it is to be received, and then what:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | choices: 1 to be a client, 2 for a framing that takes any message as a frame, 4 for bytes as they are |
//! | 2 | the largest payload of a frame, little-endian |
//! | 1 | how many lengths follow, modulo 8 |
//! | that many | lengths of the reads, over and over; all at once if there are none |
//! | the rest | what the peer sends, as it is or in [`records`] |
//!
//! # Where they differ by design
//!
//! [`Walk`] finds by headers alone where they do, and that nowhere else:
//!
//! - **Text** is refused with 1003 when it is whole: frames are binary. The library takes it. Both refuse what is not
//!   UTF-8 with 1007, the filter at the first byte that cannot be, the library at the end of its fragment.
//! - **An error of a header is told when the header has come.** The library waits for the payload, except for a
//!   frame that is too long and for an unknown opcode; it gets zeros for a payload here.
//! - **Of several errors of one header** each side names the one that it looks for first: the library the length,
//!   then the opcode, then the mask. The RFC has no order.
//! - **A message of too many headers** is too long for the filter, 1009; the library counts payloads alone.
//! - **A message that is not one frame** ends the connection with 1007, or 1009 if its frame is too large.
//! - **Close codes.** 1014 is registered with IANA since RFC 6455; the library takes it for an error. Of a code
//!   that must not be sent and a reason that is not UTF-8, the filter names the code and the library the reason.
//!
//! The library is laxer than the RFC where it takes a close frame with a reserved code for a valid one: it
//! replies with 1002 all the same, which is what is compared. Neither of them insists on the shortest form of
//! a length (5.2), which the RFC demands of who sends it.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read, Write};

use bytes::BytesMut;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};
use zinxide::framing::{Found, Framing};
use zinxide::testing::{Incoming, read_ws};
use zinxide::{CloseReason, Frame, FrameCodec, FrameError, MsgId, WireFormat};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// The longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

const PROTOCOL: u16 = 1002;
const UNSUPPORTED: u16 = 1003;
const INVALID: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// The id of frames that are any message.
const ANY: MsgId = 7;

#[derive(Debug)]
struct AnyMessage;

impl Framing for AnyMessage {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        Ok(Some(Found { id: ANY, payload: 0..src.len(), len: src.len() }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.extend_from_slice(payload);
    }

    fn overhead(&self) -> usize {
        0
    }
}

struct Input<'a> {
    /// The peer is a client, and masks.
    from_client: bool,
    any_message: bool,
    max_payload: u32,
    lengths: &'a [u8],
    sent: Vec<u8>,
}

impl<'a> Input<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let (&choices, rest) = input.split_first()?;
        let (max_payload, rest) = rest.split_first_chunk()?;
        let (&count, rest) = rest.split_first()?;
        let (lengths, rest) = rest.split_at_checked(usize::from(count % 8))?;
        let from_client = choices & 1 == 0;
        let sent = if choices & 4 == 0 { records(rest, from_client) } else { rest.to_vec() };
        Some(Self {
            from_client,
            any_message: choices & 2 != 0,
            max_payload: u16::from_le_bytes(*max_payload).into(),
            lengths,
            sent,
        })
    }

    fn codec(&self) -> FrameCodec {
        if self.any_message {
            FrameCodec::framed(AnyMessage, self.max_payload)
        } else {
            FrameCodec::new(WireFormat::LtvLe, self.max_payload)
        }
    }

    /// How long a message may be.
    fn largest(&self) -> u64 {
        u64::from(self.max_payload) + if self.any_message { 0 } else { 8 }
    }

    /// The frame that a message is, else the close code.
    fn frame(&self, message: &[u8]) -> Result<Frame, u16> {
        if self.any_message {
            return match message {
                [] => Err(INVALID),
                message => Ok(Frame::new(ANY, message.to_vec())),
            };
        }
        let Some(([a, b, c, d, id @ ..], payload)) = message.split_first_chunk::<8>() else {
            return Err(INVALID);
        };
        match u32::from_le_bytes([*a, *b, *c, *d]) {
            len if len > self.max_payload => Err(TOO_BIG),
            len if len as usize != payload.len() => Err(INVALID),
            _ => Ok(Frame::new(u32::from_le_bytes(*id), payload.to_vec())),
        }
    }

    /// What is sent, in the pieces that reads get of it.
    fn reads(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.sent[..];
        let all_empty = self.lengths.iter().all(|&len| len == 0);
        let mut lengths = self.lengths.iter().cycle();
        std::iter::from_fn(move || {
            let len = if all_empty { rest.len() } else { usize::from(*lengths.next()?) };
            let (read, left) = rest.split_at(len.min(rest.len()));
            let any = !rest.is_empty();
            rest = left;
            any.then_some(read)
        })
    }
}

/// Frames by the record, most of which are right:
///
/// | bytes | what |
/// |---|---|
/// | 1 | below 192 a usual first byte, by its remainder; else the next byte is the first one |
/// | 1 | flags, see below |
/// | 1 | how long the payload is |
/// | that many | the payload, if there are so many |
///
/// | flag | what |
/// |---|---|
/// | 1, with 2 | the mask is where it must not be, or is missing |
/// | 4, 8 | the length takes two bytes more than it needs, or eight |
/// | 16 | a packet's header is before the payload, |
/// | 32 | which counts the first byte of the payload as the rest of the packet, in later fragments |
/// | 64, with 1 | the frame announces more than there is |
/// | 128 | the payload stands there three hundred times |
fn records(mut rest: &[u8], masked: bool) -> Vec<u8> {
    const USUAL: [u8; 12] = [
        FIN | BINARY,
        FIN | BINARY,
        FIN | BINARY,
        BINARY,
        BINARY,
        CONTINUATION,
        FIN | CONTINUATION,
        FIN | CONTINUATION,
        FIN | PING,
        FIN | PONG,
        FIN | CLOSE,
        FIN | TEXT,
    ];
    let mut sent = Vec::new();
    let mut next = |n: usize| {
        let (taken, left) = rest.split_at(n.min(rest.len()));
        rest = left;
        taken
    };
    while let &[kind] = next(1) {
        let first = match kind {
            ..192 => USUAL[usize::from(kind) % USUAL.len()],
            _ => next(1).first().copied().unwrap_or(kind),
        };
        let flags = next(1).first().copied().unwrap_or_default();
        let len = next(1).first().copied().unwrap_or_default();
        let mut payload = next(len.into()).to_vec();
        if flags & 128 != 0 {
            payload = payload.repeat(300);
        }
        if flags & 16 != 0 {
            let later = if flags & 32 != 0 { payload.first().copied().unwrap_or(0) } else { 0 };
            let packet = payload.len() as u32 + u32::from(later);
            payload.splice(0..0, [packet.to_le_bytes(), [1, 0, 0, 0]].concat());
        }
        let len = payload.len() as u64 + if flags & 65 == 65 { 1 << (flags & 62) } else { 0 };
        let mask = if masked != (flags & 3 == 3) { 0x80 } else { 0 };
        sent.push(first);
        match len {
            0..=125 if flags & 12 == 0 => sent.push(mask | len as u8),
            0..=0xffff if flags & 8 == 0 => {
                sent.push(mask | 126);
                sent.extend((len as u16).to_be_bytes());
            }
            _ => {
                sent.push(mask | 127);
                sent.extend(len.to_be_bytes());
            }
        }
        let key = if mask == 0 { [0; 4] } else { [kind, !flags, 0x5a, len as u8] };
        if mask != 0 {
            sent.extend(key);
        }
        sent.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    sent
}

/// A header by the description in the RFC, and not by the code of the filter.
struct Head {
    first: u8,
    key: Option<[u8; 4]>,
    len: u64,
    /// How long the header is.
    end: usize,
}

impl Head {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Cursor::new(bytes);
        let mut next = |n: usize| {
            let mut field = [0; 8];
            bytes.read_exact(&mut field[8 - n..]).ok().map(|()| u64::from_be_bytes(field))
        };
        let (first, second) = (next(1)? as u8, next(1)?);
        let len = match second & 127 {
            126 => next(2)?,
            127 => next(8)?,
            len => len,
        };
        let key = if second & 128 == 0 { None } else { Some((next(4)? as u32).to_be_bytes()) };
        Some(Self { first, key, len, end: bytes.position() as usize })
    }

    fn fin(&self) -> bool {
        self.first & FIN != 0
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_control(&self) -> bool {
        self.opcode() & 8 != 0
    }

    fn payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let end = usize::try_from(self.len).ok()?.checked_add(self.end)?;
        Some(self.unmask(bytes.get(self.end..end)?))
    }

    fn unmask(&self, payload: &[u8]) -> Vec<u8> {
        let key = self.key.unwrap_or_default();
        payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
    }
}

/// Where what is sent stops to make sense.
#[derive(Debug)]
enum Stop {
    /// At its end, so many bytes after the beginning of a frame or a message that is not whole.
    End { inside: usize },
    /// At the frame that begins here.
    Header { at: usize, codes: Codes },
    /// Behind a message that is no frame.
    Message { end: usize, code: u16 },
    /// Behind a text, or where it cannot be one any more: within a fragment that is not whole?
    Text { end: usize, code: u16, is_whole: bool },
    /// Behind a close frame.
    Close { end: usize, said: Vec<u8> },
}

/// The close codes for a header: those that the library knows of, too, and the others.
#[derive(Debug, Default)]
struct Codes {
    common: BTreeSet<u16>,
    ours: BTreeSet<u16>,
}

/// What is sent up to there.
struct Walk {
    frames: Vec<Frame>,
    messages: Vec<Vec<u8>>,
    pings: Vec<Vec<u8>>,
    stop: Stop,
}

impl Walk {
    fn new(input: &Input<'_>) -> Self {
        let (mut frames, mut messages, mut pings) = (Vec::new(), Vec::new(), Vec::new());
        // The message that has begun, and how many bytes its whole frames have.
        let (mut message, mut begun) = (Vec::new(), 0);
        let mut is_text = false;
        let mut at = 0;
        let stop = loop {
            let rest = &input.sent[at..];
            let Some(head) = Head::new(rest) else {
                break Stop::End { inside: begun + rest.len() };
            };
            let codes = codes(&head, input, begun, message.len() as u64);
            if !(codes.common.is_empty() && codes.ours.is_empty()) {
                break Stop::Header { at, codes };
            }
            is_text |= head.opcode() == TEXT;
            let Some(mut payload) = head.payload(rest) else {
                if is_text && !head.is_control() {
                    let text = [&message[..], &head.unmask(&rest[head.end..])].concat();
                    if is_broken(&text) {
                        let end = input.sent.len();
                        break Stop::Text { end, code: INVALID, is_whole: false };
                    }
                }
                break Stop::End { inside: begun + rest.len() };
            };
            at += head.end + payload.len();
            match head.opcode() {
                CLOSE => break Stop::Close { end: at, said: payload },
                PING => pings.push(payload),
                PONG => {}
                _ => {
                    begun += head.end + payload.len();
                    message.append(&mut payload);
                    if is_text && (head.fin() || is_broken(&message)) {
                        let is_utf8 = std::str::from_utf8(&message).is_ok();
                        let code = if is_utf8 { UNSUPPORTED } else { INVALID };
                        break Stop::Text { end: at, code, is_whole: true };
                    }
                    if head.fin() {
                        begun = 0;
                        match input.frame(&message) {
                            Ok(frame) => frames.push(frame),
                            Err(code) => break Stop::Message { end: at, code },
                        }
                        messages.push(std::mem::take(&mut message));
                    }
                }
            }
        };
        Self { frames, messages, pings, stop }
    }
}

/// Whether this is no text, whatever follows.
fn is_broken(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_err_and(|error| error.error_len().is_some())
}

/// What is wrong with a header, of a message of which so much has come.
fn codes(head: &Head, input: &Input<'_>, begun: usize, have: u64) -> Codes {
    let Codes { mut common, mut ours } = Codes::default();
    let (max, inside) = (input.largest(), begun > 0);
    let broken = match head.opcode() {
        CONTINUATION => !inside,
        TEXT | BINARY => inside,
        CLOSE | PING | PONG => !head.fin() || head.len > MAX_CONTROL,
        _ => true,
    };
    if broken || head.first & 0x70 != 0 || head.key.is_some() != input.from_client {
        common.insert(PROTOCOL);
    }
    if !head.is_control() && head.len > max - have || head.len > max.max(MAX_CONTROL) {
        common.insert(TOO_BIG);
    }
    if !head.is_control() && (begun + head.end) as u64 > 8 * max + 14 {
        ours.insert(TOO_BIG);
    }
    Codes { common, ours }
}

/// What the library makes of some bytes, and their end.
#[derive(Debug)]
struct Oracle {
    messages: Vec<Vec<u8>>,
    pings: Vec<Vec<u8>>,
    end: OracleEnd,
}

#[derive(Debug, PartialEq)]
enum OracleEnd {
    /// The bytes' own.
    Eof,
    /// An error, for which this is the close code.
    Failed(u16),
    /// A close frame, to which this is the reply.
    Closed(Vec<u8>),
    /// A text.
    Text,
}

/// Both directions of a socket.
struct Socket {
    received: Cursor<Vec<u8>>,
    sent: Vec<u8>,
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.received.read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sent.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Oracle {
    fn new(input: &Input<'_>, bytes: Vec<u8>) -> Self {
        let max = input.largest() as usize;
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .max_message_size(Some(max))
            .max_frame_size(Some(max.max(MAX_CONTROL as usize)))
            .accept_unmasked_frames(false);
        let role = if input.from_client { Role::Server } else { Role::Client };
        let socket = Socket { received: Cursor::new(bytes), sent: Vec::new() };
        let mut library = WebSocket::from_raw_socket(socket, role, Some(config));
        let (mut messages, mut pings) = (Vec::new(), Vec::new());
        let end = loop {
            match library.read() {
                Ok(Message::Binary(message)) => messages.push(message.to_vec()),
                Ok(Message::Ping(ping)) => pings.push(ping.to_vec()),
                Ok(Message::Pong(_)) => {}
                Ok(Message::Close(_)) => {
                    // The server's side has the socket closed next, which it says by an error.
                    let _ = library.flush();
                    let (opcode, reply) = frames_of(&library.get_ref().sent).pop().unwrap();
                    assert_eq!(opcode, CLOSE);
                    break OracleEnd::Closed(reply);
                }
                Ok(Message::Text(_)) => break OracleEnd::Text,
                Ok(other) => panic!("{other:?} is none of what it gets"),
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    break OracleEnd::Eof;
                }
                Err(Error::Protocol(_)) => break OracleEnd::Failed(PROTOCOL),
                Err(Error::Capacity(_)) => break OracleEnd::Failed(TOO_BIG),
                Err(Error::Utf8(_)) => break OracleEnd::Failed(INVALID),
                Err(other) => panic!("{other}"),
            }
        };
        Self { messages, pings, end }
    }
}

/// Opcodes and payloads.
fn frames_of(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let head = Head::new(bytes).unwrap();
        let payload = head.payload(bytes).unwrap();
        bytes = &bytes[head.end + payload.len()..];
        frames.push((head.opcode(), payload));
    }
    frames
}

/// The code of a close frame.
fn code_of(said: &[u8]) -> Option<u16> {
    said.first_chunk().copied().map(u16::from_be_bytes)
}

/// The filter and the library find the same in what is sent, but where they differ by design.
pub(crate) fn websocket(input: &[u8]) {
    let Some(input) = Input::new(input) else { return };
    let walk = Walk::new(&input);
    let Incoming { frames, sent, why } = read_ws(input.from_client, &input.codec(), input.reads());
    assert!(frames == walk.frames, "{frames:?} instead of {:?}", walk.frames);
    let mut sent: Vec<_> = sent.iter().flat_map(|bytes| frames_of(bytes)).collect();
    let (opcode, last) = sent.pop().unwrap();
    assert_eq!(opcode, CLOSE, "the last is a close frame");
    let code = code_of(&last);
    assert_pongs(&sent, &walk);

    let Walk { mut messages, pings, stop, .. } = walk;
    let up_to = |end: usize| input.sent[..end].to_vec();
    let oracle = match &stop {
        Stop::End { inside } => {
            assert_eq!(
                why,
                match inside {
                    0 => CloseReason::PeerClosed,
                    &have => CloseReason::Protocol(FrameError::Truncated { have }),
                }
            );
            let oracle = Oracle::new(&input, up_to(input.sent.len()));
            assert_eq!(oracle.end, OracleEnd::Eof);
            oracle
        }
        Stop::Header { at, codes: Codes { common, ours } } => {
            let code = code.unwrap();
            assert!(common.contains(&code) || ours.contains(&code), "{code} for {stop:?}");
            assert!(matches!(why, CloseReason::Protocol(_)));
            if common.is_empty() {
                let oracle = Oracle::new(&input, up_to(*at));
                assert_eq!(oracle.end, OracleEnd::Eof);
                oracle
            } else {
                let head = Head::new(&input.sent[*at..]).unwrap();
                let mut bytes = up_to(at + head.end);
                if head.len <= input.largest().max(MAX_CONTROL) {
                    bytes.resize(bytes.len() + head.len as usize, 0);
                }
                let oracle = Oracle::new(&input, bytes);
                let OracleEnd::Failed(code) = oracle.end else {
                    panic!("the library has {:?} for {stop:?}", oracle.end)
                };
                assert!(common.contains(&code), "the library has {code} for {stop:?}");
                oracle
            }
        }
        Stop::Message { end, code: expected } => {
            assert_eq!(code, Some(*expected));
            let mut oracle = Oracle::new(&input, up_to(*end));
            assert_eq!(oracle.end, OracleEnd::Eof);
            messages.extend(oracle.messages.pop());
            let not_one = messages.pop().unwrap();
            assert_eq!(input.frame(&not_one), Err(*expected));
            oracle
        }
        &Stop::Text { end, code: expected, is_whole } => {
            assert_eq!(code, Some(expected));
            let oracle = Oracle::new(&input, up_to(end));
            let expected = match expected {
                UNSUPPORTED => OracleEnd::Text,
                // It waits for the rest of the fragment.
                _ if !is_whole => OracleEnd::Eof,
                invalid => OracleEnd::Failed(invalid),
            };
            assert_eq!(oracle.end, expected);
            oracle
        }
        Stop::Close { end, said } => {
            let oracle = Oracle::new(&input, up_to(*end));
            let is_text = said.get(2..).is_none_or(|text| std::str::from_utf8(text).is_ok());
            match &oracle.end {
                // A code that RFC 6455 did not have yet.
                OracleEnd::Closed(_) if code_of(said) == Some(1014) => assert_eq!(last, *said),
                // The library has words of its own for an error.
                OracleEnd::Closed(reply) if reply != said => assert_eq!(code, code_of(reply)),
                OracleEnd::Closed(_) => assert_eq!(last, *said, "it gets its own words"),
                OracleEnd::Failed(INVALID) if !is_text && code == Some(PROTOCOL) => {
                    let code = code_of(said).unwrap();
                    assert!(!matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "{code}");
                }
                OracleEnd::Failed(expected) => assert_eq!(code, Some(*expected)),
                other => panic!("the library has {other:?} for the close frame {said:?}"),
            }
            oracle
        }
    };
    assert!(oracle.messages == messages, "{:?} instead of {messages:?}", oracle.messages);
    assert_eq!(oracle.pings, pings);
}

/// Each pong is for a ping, in their order, and the latest has one.
fn assert_pongs(sent: &[(u8, Vec<u8>)], walk: &Walk) {
    let mut pings = walk.pings.iter();
    for (opcode, payload) in sent {
        assert_eq!(*opcode, PONG);
        assert!(pings.any(|ping| ping == payload), "{payload:?} is no ping");
    }
    if !matches!(walk.stop, Stop::Close { .. }) {
        assert_eq!(sent.last().map(|(_, payload)| payload), walk.pings.last());
    }
}
