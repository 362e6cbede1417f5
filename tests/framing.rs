//! Protocols other than the built-in wire formats: described by parameters, or the user's own.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use actix::{Actor, Context, Handler};
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::{Decoder, Encoder};
use zinxide::framing::{ByteOrder, Delimited, Found, Framing, Htlv, LengthField};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{
    CodecError, Frame, FrameCodec, FrameError, Inbound, MsgId, SendError, Server, Settings,
};

const MAX: u32 = 4096;

/// What the decoder makes of these bytes when they come one at a time, which must be the same as when
/// they come at once.
fn decoded(codec: &FrameCodec, bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut slowly = Vec::new();
    let mut buffer = BytesMut::new();
    let mut codec = codec.clone();
    let mut failed = None;
    for &byte in bytes {
        buffer.put_u8(byte);
        match codec.decode(&mut buffer) {
            Ok(frame) => slowly.extend(frame),
            Err(CodecError::Frame(error)) => {
                failed = Some(error);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut at_once = Vec::new();
    let mut buffer = BytesMut::from(bytes);
    let ended = loop {
        match codec.decode(&mut buffer) {
            Ok(Some(frame)) => at_once.push(frame),
            Ok(None) => break None,
            Err(CodecError::Frame(error)) => break Some(error),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(slowly, at_once);
    assert_eq!(failed.is_some(), ended.is_some());
    failed.map_or(Ok(slowly), Err)
}

fn encoded(codec: &FrameCodec, frame: Frame) -> Option<Vec<u8>> {
    let mut bytes = BytesMut::new();
    codec.clone().encode(frame, &mut bytes).ok()?;
    Some(bytes.to_vec())
}

/// These bytes are two frames with this payload, and the payload makes these bytes again.
fn assert_case(framing: LengthField, head: &[u8], payload: &[u8], case: &str) {
    let codec = FrameCodec::framed(framing, MAX);
    let bytes = [head, b"HELLO, WORLD"].concat();
    let frame = Frame::new(0, payload.to_vec());
    let twice = decoded(&codec, &bytes.repeat(2));
    assert_eq!(twice, Ok(vec![frame.clone(), frame.clone()]), "case {case}");
    assert_eq!(encoded(&codec, frame).unwrap(), bytes, "case {case}");
}

#[test]
fn the_seven_cases_of_the_length_field_are_as_netty_and_zinx_document_them() {
    let text = b"HELLO, WORLD";
    let whole = |head: &[u8]| [head, text].concat();
    assert_case(LengthField::new(0, 2), &[0, 12], &whole(&[0, 12]), "1: nothing stripped");
    assert_case(LengthField::new(0, 2).strip(2), &[0, 12], text, "2: header stripped");
    let three = LengthField::new(0, 2).adjustment(-2);
    assert_case(three, &[0, 14], &whole(&[0, 14]), "3: length of the whole message");
    let head = [0xca, 0xfe, 0, 0, 12];
    assert_case(LengthField::new(2, 3), &head, &whole(&head), "4: length at the header's end");
    let head = [0, 0, 12, 0xca, 0xfe];
    let five = LengthField::new(0, 3).adjustment(2);
    assert_case(five, &head, &whole(&head), "5: length at the header's beginning");
    let six = LengthField::new(1, 2).adjustment(1).strip(3).head([0xca]);
    assert_case(six, &[0xca, 0, 12, 0xfe], &whole(&[0xfe]), "6: length in the middle");
    let seven = LengthField::new(1, 2).adjustment(-3).strip(3).head([0xca]);
    assert_case(seven, &[0xca, 0, 16, 0xfe], &whole(&[0xfe]), "7: both");
}

#[test]
fn a_length_field_has_any_width_and_either_byte_order_and_an_id_beside_it() {
    for width in 1..=8 {
        for order in [ByteOrder::Big, ByteOrder::Little] {
            let framing = LengthField::new(3, width).id(0, 3).strip(3 + width).byte_order(order);
            let codec = FrameCodec::framed(framing, MAX);
            let frame = Frame::new(0x0a_0b_0c, "payload");
            let bytes = encoded(&codec, frame.clone()).unwrap();
            let mut head = [vec![0; width - 1], vec![7]].concat();
            let mut id = vec![0x0a, 0x0b, 0x0c];
            if order == ByteOrder::Little {
                head.reverse();
                id.reverse();
            }
            assert_eq!(bytes, [id, head, b"payload".to_vec()].concat());
            assert_eq!(decoded(&codec, &bytes), Ok(vec![frame]));
        }
    }
}

#[test]
fn a_length_field_that_makes_no_sense_is_refused_before_anything_is_read_for_it() {
    let codec = FrameCodec::framed(LengthField::new(0, 8).strip(8), MAX);
    for length in [u64::from(MAX) + 1, u64::from(u32::MAX) + 1, i64::MAX as u64, u64::MAX] {
        let error = decoded(&codec, &length.to_be_bytes()).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { max: MAX, .. }), "{error}");
    }
    let largest = [&u64::from(MAX).to_be_bytes()[..], &[7; MAX as usize]].concat();
    assert_eq!(decoded(&codec, &largest).unwrap()[0].payload.len(), MAX as usize);

    // Shorter than its own header.
    let codec = FrameCodec::framed(LengthField::new(0, 2).adjustment(-2).strip(2), MAX);
    for length in [0_u16, 1] {
        let refused = decoded(&codec, &length.to_be_bytes());
        assert!(matches!(refused, Err(FrameError::Malformed(_))), "{refused:?}");
    }
    assert_eq!(decoded(&codec, &2_u16.to_be_bytes()), Ok(vec![Frame::new(0, "")]));
    for adjustment in [i64::MIN, i64::MAX] {
        let codec = FrameCodec::framed(LengthField::new(0, 8).adjustment(adjustment), MAX);
        assert!(decoded(&codec, &[0xff; 8]).is_err());
        assert!(decoded(&codec, &[0; 8]).is_err());
    }
}

#[test]
fn what_has_no_frame_is_not_sent() {
    let codec = FrameCodec::framed(LengthField::new(1, 1).id(0, 1).strip(2), MAX);
    assert!(encoded(&codec, Frame::new(255, vec![0; 255])).is_some());
    assert!(encoded(&codec, Frame::new(256, "")).is_none());
    assert!(encoded(&codec, Frame::new(1, vec![0; 256])).is_none());
    let without = FrameCodec::framed(LengthField::new(0, 2).strip(2), MAX);
    assert!(encoded(&without, Frame::new(1, "an id that nobody gets")).is_none());
    let lines = FrameCodec::framed(Delimited::lines().id(1), MAX);
    for payload in ["two\nlines", "\n", "return\r"] {
        assert!(encoded(&lines, Frame::new(1, payload)).is_none(), "{payload:?}");
    }
    assert!(encoded(&lines, Frame::new(2, "other id")).is_none());
    let htlv = FrameCodec::framed(Htlv::new(0xa2), MAX);
    assert!(encoded(&htlv, Frame::new(256, "")).is_none());
    assert!(encoded(&htlv, Frame::new(1, vec![0; 256])).is_none());
}

#[test]
fn htlv_is_as_zinx_has_it() {
    // The example of Zinx's documentation, with the checksum that its code makes of it (0xa6 0x87), which
    // is not the one that stands there.
    let bytes = [
        0xa2, 0x10, 0x0e, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11, 0x12,
        0x13, 0x14, 0xa6, 0x87,
    ];
    let codec = FrameCodec::framed(Htlv::new(0xa2), MAX);
    let frame = Frame::new(0x10, bytes[3..17].to_vec());
    assert_eq!(decoded(&codec, &bytes.repeat(3)), Ok(vec![frame.clone(); 3]));
    assert_eq!(encoded(&codec, frame).unwrap(), bytes);
    assert_eq!(encoded(&codec, Frame::new(0, "")).unwrap().len(), 5);

    for at in 0..bytes.len() {
        let mut wrong = bytes;
        wrong[at] ^= 0x40;
        if at == 2 {
            // Another length: the checksum is looked for elsewhere.
            continue;
        }
        assert!(matches!(decoded(&codec, &wrong), Err(FrameError::Malformed(_))), "byte {at}");
    }
    let small = FrameCodec::framed(Htlv::new(0xa2), 13);
    let refused = decoded(&small, &bytes[..3]);
    assert_eq!(refused, Err(FrameError::TooLarge { id: 0x10, announced: 14, max: 13 }));
}

#[test]
fn lines_end_with_a_newline_and_perhaps_a_carriage_return() {
    let codec = FrameCodec::framed(Delimited::lines().id(1), 5);
    let lines = decoded(&codec, b"one\ntwo\r\n\n\r\n\r\r\nfive5\n12345\r\n").unwrap();
    let wanted = ["one", "two", "", "", "\r", "five5", "12345"];
    assert_eq!(lines, wanted.map(|line| Frame::new(1, line)));
    assert_eq!(encoded(&codec, Frame::new(1, "one")).unwrap(), b"one\n");
    for long in [&b"123456\n"[..], b"1234567", b"12345\r\r\n"] {
        assert!(matches!(decoded(&codec, long), Err(FrameError::TooLarge { .. })), "{long:?}");
    }
}

#[test]
fn a_delimiter_may_be_longer_than_a_byte_and_come_in_pieces() {
    let codec = FrameCodec::framed(Delimited::by(b"<end>"), 6);
    let frames = decoded(&codec, b"one<end><end><<end>ab<en<end>123456<end>").unwrap();
    let wanted = ["one", "", "<", "ab<en", "123456"];
    assert_eq!(frames, wanted.map(|text| Frame::new(0, text)));
    assert!(decoded(&codec, b"1234567<end>").is_err());
    assert_eq!(encoded(&codec, Frame::new(0, "x")).unwrap(), b"x<end>");
}

/// Two bytes of head: id and length. Panics when it meets 13.
#[derive(Debug)]
struct Tiny;

impl Framing for Tiny {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        let [id, len, rest @ ..] = src else { return Ok(None) };
        assert!(*id != 13, "on purpose");
        let len = usize::from(*len);
        // 14 lies about where its payload is.
        let payload = if *id == 14 { 0..usize::MAX } else { 2..2 + len };
        Ok((rest.len() >= len).then_some(Found { id: MsgId::from(*id), payload, len: 2 + len }))
    }

    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.put_slice(&[id as u8, payload.len() as u8]);
        assert!(id != 13, "on purpose");
        dst.put_slice(payload);
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        id < 256 && payload.len() < 256
    }

    fn overhead(&self) -> usize {
        2
    }
}

struct Echo;

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Echo {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.echo();
    }
}

fn server() -> Server {
    let settings = Settings { max_packet_size: 255, ..settings() };
    Server::new(settings)
        .framing(Tiny)
        .route(1, || Echo)
        .route_fn(2, async |msg: Inbound| msg)
        .route_fn(3, async |_: Inbound| (13, "no frame"))
}

async fn connect(server: &TestServer) -> TestClient {
    let stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    TestClient::on(stream, FrameCodec::framed(Tiny, 255))
}

#[actix::test]
async fn a_server_speaks_a_protocol_of_the_users_own_in_order_and_whole() {
    let server = TestServer::start(server()).await;
    let mut client = connect(&server).await;
    let frames: Vec<_> =
        (0..2000_u32).map(|n| Frame::new(1 + n % 7 / 4, vec![n as u8; n as usize % 256])).collect();
    let mut bytes = BytesMut::new();
    for frame in &frames {
        FrameCodec::framed(Tiny, 255).encode(frame.clone(), &mut bytes).unwrap();
    }
    let (mut read, mut write) = client.stream().split();
    let mut echoed = vec![0; bytes.len()];
    let both = tokio::join!(write.write_all(&bytes), read.read_exact(&mut echoed));
    both.0.unwrap();
    both.1.unwrap();
    assert!(echoed == bytes, "other than what was sent");
    let report = within(server.handle().broadcast((9, "to all"))).await.unwrap();
    assert_eq!(report.accepted, 1);
    assert_eq!(client.recv().await, Some(Frame::new(9, "to all")));
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_framing_that_panics_or_lies_costs_its_connection_and_no_other() {
    let server = TestServer::start(server()).await;
    let mut other = connect(&server).await;
    for id in [13, 14] {
        let mut client = connect(&server).await;
        client.send_bytes(&[2, 1, b'x', id, 0]).await;
        assert_eq!(client.recv().await, Some(Frame::new(2, "x")), "what came before is answered");
        assert_eq!(client.recv().await, None);
    }
    other.send(2, "still there").await;
    assert_eq!(other.recv().await, Some(Frame::new(2, "still there")));
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    assert_eq!(handle.stats().endings.protocol, 2);
}

#[actix::test]
async fn what_has_no_frame_comes_back_and_an_answer_without_one_is_counted() {
    let server = TestServer::start(server()).await;
    let mut client = connect(&server).await;
    client.send(3, "").await;
    client.send(2, "next").await;
    assert_eq!(client.recv().await, Some(Frame::new(2, "next")));
    assert_eq!(server.handle().stats().replies_dropped, 1);
    let conn = server.handle().connections().all().pop().unwrap();
    for (id, payload) in [(256, vec![]), (1, vec![0; 256]), (13, vec![])] {
        let frame = Frame::new(id, payload.clone());
        assert_eq!(conn.send_buffered(id, payload), Err(SendError::NoFrame(frame.clone())));
        let broadcast = within(server.handle().broadcast(frame.clone())).await;
        assert_eq!(broadcast, Err(SendError::NoFrame(frame)));
    }
    server.stop().await.unwrap();
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::default()
    })]

    #[test]
    fn whatever_comes_a_framing_finds_the_same_however_it_comes(
        (offset, width, adjustment) in (0..6_usize, 1..=8_usize, -9..9_i64),
        (strip, id) in (0..9_usize, 0..6_usize),
        limit in 0..40_u32,
        bytes in proptest::collection::vec(proptest::prop_oneof![0..12_u8, 0..=255_u8], 0..120),
    ) {
        let length = LengthField::new(offset, width).adjustment(adjustment).strip(strip).id(id, 2);
        let little = length.clone().byte_order(ByteOrder::Little);
        for codec in [
            FrameCodec::framed(length, limit),
            FrameCodec::framed(little, limit),
            FrameCodec::framed(Delimited::by(&[1, 2]), limit),
            FrameCodec::framed(Delimited::lines(), limit),
            FrameCodec::framed(Htlv::new(1), limit),
        ] {
            for frame in decoded(&codec, &bytes).unwrap_or_default() {
                // What can be said again means the same.
                if let Some(again) = encoded(&codec, frame.clone()) {
                    assert_eq!(decoded(&codec, &again), Ok(vec![frame]));
                }
            }
        }
    }
}

#[test]
fn a_payload_with_whose_end_a_delimiter_would_begin_has_no_frame() {
    let ends = FrameCodec::framed(Delimited::by(b"\r\n\r\n"), MAX);
    assert!(encoded(&ends, Frame::new(0, "x\r\n")).is_none());
    assert!(encoded(&ends, Frame::new(0, "x\r")).is_some());
    let twins = FrameCodec::framed(Delimited::by(b"aa"), MAX);
    assert!(encoded(&twins, Frame::new(0, "ba")).is_none());
    assert!(encoded(&twins, Frame::new(0, "ab")).is_some());
}

#[actix::test]
async fn what_has_no_bytes_is_no_frame_and_takes_no_place() {
    let settings = settings();
    let server = Server::new(settings)
        .framing(LengthField::new(0, 4))
        .route_fn(0, async |_: Inbound| (0, ""));
    let server = TestServer::start(server).await;
    let stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let mut client = TestClient::on(stream, FrameCodec::framed(LengthField::new(0, 4), MAX));
    for _ in 0..2000 {
        client.send_bytes(&[0, 0, 0, 0]).await;
    }
    let conn = loop {
        if server.handle().stats().replies_dropped == 2000 {
            break server.handle().connections().all().pop().unwrap();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(conn.unsent().frames, 0);
    assert_eq!(conn.send_buffered(0, ""), Err(SendError::NoFrame(Frame::new(0, ""))));
    assert_eq!(conn.send_buffered(0, &b"\0\0\0\x01!"[..]), Ok(()));
    assert_eq!(client.recv().await, Some(Frame::new(0, &b"\0\0\0\x01!"[..])));
    server.stop().await.unwrap();
}

/// Frames end before a `#`, which it must see to find them; or it never finds one.
#[derive(Debug)]
struct LooksAhead(bool);

impl Framing for LooksAhead {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        let end = src.iter().skip(1).position(|&byte| byte == b'#').filter(|_| self.0);
        Ok(end.map(|end| Found { id: 2, payload: 1..end + 1, len: end + 1 }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.put_slice(payload);
    }

    fn overhead(&self) -> usize {
        panic!("on purpose")
    }
}

#[actix::test]
async fn a_framing_that_looks_ahead_or_finds_nothing_costs_its_connection_and_no_memory() {
    for finds in [true, false] {
        let server =
            Server::new(settings()).framing(LooksAhead(finds)).route_fn(2, async |_: Inbound| ());
        let server = TestServer::start(server).await;
        let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        let flood = vec![b'#'; 1024];
        // What comes after the end is read away for a while, and not kept.
        while stream.write_all(&flood).await.is_ok() && server.handle().stats().ended == 0 {}
        let report = within(server.handle().broadcast((2, "to nobody"))).await.unwrap();
        assert_eq!(report.accepted, 0, "the manager lives");
        let handle = server.handle().clone();
        server.stop().await.unwrap();
        let stats = handle.stats();
        assert_eq!(stats.endings.protocol, 1);
        assert!(stats.bytes_unhandled < 1 << 20, "{} bytes were kept", stats.bytes_unhandled);
    }
}
