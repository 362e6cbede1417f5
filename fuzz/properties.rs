//! What must be so for any bytes that a peer sends, however they are cut into reads: for the codec
//! and for a whole connection. Shared by the fuzz targets and `tests/fuzz_corpus.rs`.
//!
//! An input says first how it is to be received, and then what:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | choices: 1 for `tlv-be`, 2 to close at a message without a route, 4 and 8 for the window, 16 and 32 for the outbox, 64 and 128 for the pipe |
//! | 4 | the largest payload allowed, little-endian |
//! | 1 | how many lengths follow, modulo 8 |
//! | that many | lengths of the reads, over and over; all at once if there are none |
//! | the rest | what the peer sends |

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use zinxide::testing::{TestConnection, settings, within};
use zinxide::{
    CloseReason, CodecError, Frame, FrameCodec, FrameError, Inbound, MsgId, Server, Settings,
    Unrouted, WireFormat,
};

/// The routes of a connection: a function, one that waits, an actor, and one that says nothing.
const ECHO: MsgId = 0;
const WAITING: MsgId = 1;
const ACTOR: MsgId = 2;
const SILENT: MsgId = 3;

const HEADER: usize = 8;

struct Input<'a> {
    choices: u8,
    limit: u32,
    lengths: &'a [u8],
    sent: &'a [u8],
}

/// What some bytes are: whole frames, and what is wrong with what comes after them.
struct Meaning {
    frames: Vec<Frame>,
    error: Option<FrameError>,
}

impl<'a> Input<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let (&choices, rest) = input.split_first()?;
        let (limit, rest) = rest.split_first_chunk()?;
        let (&count, rest) = rest.split_first()?;
        let (lengths, sent) = rest.split_at_checked(usize::from(count % 8))?;
        Some(Self { choices, limit: u32::from_le_bytes(*limit), lengths, sent })
    }

    fn wire(&self) -> WireFormat {
        if self.choices & 1 == 0 { WireFormat::LtvLe } else { WireFormat::TlvBe }
    }

    /// A choice of four.
    fn choice(&self, shift: u8) -> usize {
        usize::from(self.choices >> shift & 3)
    }

    /// What is sent, in the pieces that reads get of it.
    fn reads(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.sent;
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

    /// By the description of the formats, and not by the code of the codec.
    fn meaning(&self, limit: u32) -> Meaning {
        let mut frames = Vec::new();
        let mut rest = self.sent;
        let error = loop {
            let Some((header, behind)) = rest.split_first_chunk::<HEADER>() else {
                let have = rest.len();
                break (have > 0).then_some(FrameError::Truncated { have });
            };
            let [a, b, c, d, e, f, g, h] = *header;
            let (id, len) = match self.wire() {
                WireFormat::LtvLe => {
                    (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
                }
                _ => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])),
            };
            if len > limit {
                break Some(FrameError::TooLarge { id, announced: len, max: limit });
            }
            let Some((payload, behind)) = behind.split_at_checked(len as usize) else {
                break Some(FrameError::Truncated { have: rest.len() });
            };
            frames.push(Frame::new(id, payload.to_vec()));
            rest = behind;
        };
        Meaning { frames, error }
    }
}

/// The codec finds the frames and the error that there are, wherever the reads end; makes no room
/// for what has not come; and encodes to what it has decoded.
pub(crate) fn frame_codec(input: &[u8]) {
    let Some(input) = Input::new(input) else { return };
    let Meaning { frames, error } = input.meaning(input.limit);
    let mut codec = FrameCodec::new(input.wire(), input.limit);
    let (mut received, mut decoded) = (BytesMut::new(), Vec::new());
    let mut failed = None;
    for read in input.reads() {
        received.extend_from_slice(read);
        failed = decode_all(&mut received, &mut decoded, |src| codec.decode(src));
        if failed.is_some() {
            break;
        }
    }
    // The end makes an error of a rest, and of an error no other one.
    for _ in 0..2 {
        let at_end = decode_all(&mut received, &mut decoded, |src| codec.decode_eof(src));
        assert!(failed.is_none() || at_end == failed, "{at_end:?} after {failed:?}");
        failed = at_end;
    }
    assert_eq!(failed, error);
    assert!(decoded == frames, "{decoded:?} for {frames:?}");

    let mut encoded = BytesMut::new();
    for frame in decoded {
        assert!(codec.encode(frame, &mut encoded).is_ok());
    }
    let (consumed, left) = input.sent.split_at(encoded.len());
    assert!(encoded == consumed, "encoded to {encoded:?}");
    assert!(left.starts_with(&received), "what is no frame is left as it is");
}

/// Decodes what there is. Answers what is wrong with the rest.
fn decode_all(
    received: &mut BytesMut,
    decoded: &mut Vec<Frame>,
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<Frame>, CodecError>,
) -> Option<FrameError> {
    loop {
        let (had, room) = (received.len(), received.capacity());
        let result = decode(received);
        assert!(received.capacity() <= room, "room is made for what has not come");
        match result {
            Ok(Some(frame)) => {
                assert_eq!(received.len() + HEADER + frame.payload.len(), had);
                decoded.push(frame);
            }
            Ok(None) => {
                assert_eq!(received.len(), had);
                return None;
            }
            Err(CodecError::Frame(error)) => {
                assert_eq!(received.len(), had);
                return Some(error);
            }
            Err(other) => panic!("there is no stream that could fail: {other}"),
        }
    }
}

/// A connection answers the messages that there are, in order, and ends for the reason that the
/// bytes give, once.
pub(crate) fn connection(input: &[u8]) {
    let Some(input) = Input::new(input) else { return };
    actix_rt::System::new().block_on(within(converse(&input)));
}

async fn converse(input: &Input<'_>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let settings = input.settings();
    let (answers, why) = expected(input.meaning(settings.max_packet_size), settings.unrouted);
    let (stopped, mut stops) = tokio::sync::mpsc::unbounded_channel();
    let started = stopped.clone();
    let server = Server::new(settings)
        .route_fn(ECHO, async |message: Inbound| message)
        .route_fn(WAITING, async |mut message: Inbound| {
            tokio::task::yield_now().await;
            (message.id(), message.take_payload())
        })
        .route(ACTOR, || Echo)
        .route_fn(SILENT, async |message: Inbound| drop(message))
        .on_conn_start(move |_| drop(started.send(None)))
        .on_conn_stop(move |_, why| drop(stopped.send(Some(why.clone()))));
    let (peer, stream) = tokio::io::duplex(1 << (4 * input.choice(6)));
    let connection = TestConnection::start(server, stream).await;

    let (mut ear, mut mouth) = tokio::io::split(peer);
    let says = async {
        for read in input.reads() {
            // An error means that the connection has ended before.
            if mouth.write_all(read).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = mouth.shutdown().await;
    };
    let mut heard = BytesMut::new();
    let hears = async { while let Ok(1..) = ear.read_buf(&mut heard).await {} };
    tokio::join!(says, hears);

    assert_eq!(stops.recv().await, Some(None), "the start hook is the first to run");
    assert_eq!(stops.recv().await, Some(Some(why)));
    let codec = FrameCodec::new(input.wire(), u32::MAX);
    for answer in answers {
        assert_eq!(codec.next_frame(&mut heard), Ok(Some(answer)));
    }
    assert!(heard.is_empty(), "{heard:?} is no answer");
    assert!(connection.conn.is_closed() && stops.try_recv().is_err(), "it ends once");
}

impl Input<'_> {
    /// Scarce, so that a few bytes are enough for back-pressure.
    fn settings(&self) -> Settings {
        let max_packet_size = self.limit % (1 << 16);
        Settings {
            wire_format: self.wire(),
            unrouted: if self.choices & 2 == 0 { Unrouted::Ignore } else { Unrouted::Close },
            max_packet_size,
            max_worker_task_len: 1 << self.choice(2),
            max_msg_chan_len: 1 << self.choice(4),
            max_msg_chan_bytes: max_packet_size as usize + HEADER,
            // No deadline excuses what is lost.
            drain_deadline_ms: 3_600_000,
            write_deadline_ms: 3_600_000,
            frame_deadline_ms: 0,
            ..settings()
        }
    }
}

/// What is answered, and why the connection ends.
fn expected(meaning: Meaning, unrouted: Unrouted) -> (Vec<Frame>, CloseReason) {
    let mut answers = Vec::new();
    for frame in meaning.frames {
        match frame.id {
            ECHO | WAITING | ACTOR => answers.push(frame),
            SILENT => {}
            id if unrouted == Unrouted::Close => return (answers, CloseReason::NoRoute(id)),
            _ => {}
        }
    }
    (answers, meaning.error.map_or(CloseReason::PeerClosed, CloseReason::Protocol))
}

struct Echo;

impl actix::Actor for Echo {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Inbound> for Echo {
    type Result = ();

    fn handle(&mut self, message: Inbound, _: &mut actix::Context<Self>) {
        message.echo();
    }
}
