//! WebSocket: messages, close codes, requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use zinxide::framing::{Found, Framing};
use zinxide::testing::{TestClient, within};
use zinxide::{
    CloseReason, Conn, Excess, FrameError, HandshakeError, Inbound, MsgId, OverRate, Scheme,
    Server, Settings, Silence, Subprotocol, Unrouted, Upgrade,
};

use super::support::{ECHO, Watched, at, frame};

const PANIC: u32 = 8;
const NO_ROUTE: u32 = 9;

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

type Client = WebSocketStream<TcpStream>;

fn settings() -> Settings {
    at(&["ws://127.0.0.1:0/game"])
}

/// Asks for a WebSocket at a path, with headers.
async fn ask(
    port: u16,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, Response), Error> {
    let socket = within(TcpStream::connect(("127.0.0.1", port))).await?;
    socket.set_nodelay(true)?;
    let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    within(client_async(request, socket)).await
}

async fn dial(watched: &Watched) -> Client {
    ask(watched.port(0), "/game", &[]).await.unwrap().0
}

/// The status that a request is answered with.
async fn status(port: u16, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    match ask(port, path, headers).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

async fn next(client: &mut Client) -> Message {
    within(client.next()).await.expect("the end").unwrap()
}

async fn echo(client: &mut Client) {
    client.send(Message::binary(frame(ECHO, b"there and back"))).await.unwrap();
    assert_eq!(next(client).await, Message::binary(frame(ECHO, b"there and back")));
}

/// The same, after whatever pongs come.
async fn echo_after_pongs(client: &mut Client) {
    client.send(Message::binary(frame(ECHO, b"x"))).await.unwrap();
    loop {
        match next(client).await {
            Message::Pong(_) => {}
            other => break assert_eq!(other, Message::binary(frame(ECHO, b"x"))),
        }
    }
}

/// The code that the server closes with, after whatever else it sends.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        if let Message::Close(close) = next(client).await {
            // The answer, which the server waits for. It may be gone already.
            let _ = client.flush().await;
            return close.map_or(1005, |close| close.code.into());
        }
    }
}

/// Sends bytes past the WebSocket, and answers all that comes back.
async fn raw(port: u16, bytes: &[u8]) -> String {
    let mut socket = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    within(socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[actix::test]
async fn a_binary_message_carries_a_frame_each_way() {
    let mut watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    assert_eq!(watched.started().await.scheme(), Scheme::Ws);
    for payload in [&b""[..], b"x", &[7; 125], &[7; 126], &[7; 4096]] {
        client.send(Message::binary(frame(ECHO, payload))).await.unwrap();
        assert_eq!(next(&mut client).await, Message::binary(frame(ECHO, payload)));
    }
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_hundred_frames_written_at_once_are_a_hundred_messages() {
    let mut watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    let conn = watched.started().await;
    for n in 0..100_u8 {
        conn.send_buffered(1, vec![n; 1000]).unwrap();
    }
    // Larger than what is shared instead of copied, and than what the transport keeps.
    conn.send_buffered(2, vec![7; 100_000]).unwrap();
    for n in 0..100_u8 {
        assert_eq!(next(&mut client).await, Message::binary(frame(1, &[n; 1000])));
    }
    assert_eq!(next(&mut client).await, Message::binary(frame(2, &[7; 100_000])));
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_message_in_fragments_is_one_frame() {
    let watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    let whole = frame(ECHO, b"in pieces");
    let piece = |bytes: &[u8], data, last| {
        Message::Frame(WsFrame::message(bytes.to_vec(), OpCode::Data(data), last))
    };
    client.send(piece(&whole[..3], Data::Binary, false)).await.unwrap();
    client.send(Message::Ping("between".into())).await.unwrap();
    client.send(piece(&[], Data::Continue, false)).await.unwrap();
    client.send(piece(&whole[3..], Data::Continue, true)).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong("between".into()));
    assert_eq!(next(&mut client).await, Message::binary(whole));
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn what_is_not_one_frame_in_a_binary_message_is_refused_with_a_code_that_says_why() {
    let mut watched = Watched::start(settings()).await;
    let one = frame(ECHO, b"x");
    let announced = [5000_u32.to_le_bytes(), ECHO.to_le_bytes()].concat();
    for (message, code, why) in [
        (Message::text("x"), 1003, FrameError::Text),
        (Message::binary(vec![]), 1007, FrameError::NotOneFrame { have: 0 }),
        (Message::binary(one[..8].to_vec()), 1007, FrameError::NotOneFrame { have: 8 }),
        (Message::binary([&one[..], &one].concat()), 1007, FrameError::NotOneFrame { have: 18 }),
        (
            Message::binary(announced),
            1009,
            FrameError::TooLarge { id: ECHO, announced: 5000, max: 4096 },
        ),
        (Message::binary(vec![0; 5000]), 1009, FrameError::MessageTooLong { max: 4104 }),
        (
            Message::Frame(WsFrame::message(vec![], OpCode::Data(Data::Continue), true)),
            1002,
            FrameError::WebSocket("there is nothing to continue"),
        ),
    ] {
        let mut client = dial(&watched).await;
        // What came before is answered.
        client.feed(Message::binary(one.clone())).await.unwrap();
        client.send(message).await.unwrap();
        assert_eq!(next(&mut client).await, Message::binary(one.clone()));
        assert_eq!(close_code(&mut client).await, code, "{why}");
        assert_eq!(watched.removed().await, CloseReason::Protocol(why));
    }
    let mut client = dial(&watched).await;
    client.get_mut().write_all(&[0x82, 1, 7]).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1002);
    let why = FrameError::WebSocket("a frame is not masked");
    assert_eq!(watched.removed().await, CloseReason::Protocol(why));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_still_sends_is_told_why_it_was_closed() {
    let mut watched = Watched::start(settings()).await;
    for _ in 0..10 {
        let mut client = dial(&watched).await;
        watched.started().await;
        // More than is read with its beginning, and more than the kernel holds unread.
        let socket = client.get_mut();
        let header = [&[0x82, 0xff][..], &(1_u64 << 20).to_be_bytes(), &[0; 4]].concat();
        socket.write_all(&header).await.unwrap();
        for _ in 0..256 {
            socket.write_all(&[0; 4096]).await.expect("it is read to its end");
            tokio::task::yield_now().await;
        }
        assert_eq!(close_code(&mut client).await, 1009);
        // In order, after its own close frame, and not by a reset.
        let read = within(client.get_mut().read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0)), "{read:?}");
        watched.removed().await;
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn frames_before_a_message_that_is_too_long_are_handled() {
    let watched = Watched::start(Settings { max_packet_size: 100, ..settings() }).await;
    let mut client = dial(&watched).await;
    let good = frame(ECHO, b"x");
    let all = [&[0x82, 0x80 | 9, 0, 0, 0, 0][..], &good, &[0x82, 0x80 | 126, 8, 0], &[0; 2052]];
    client.get_mut().write_all(&all.concat()).await.unwrap();
    assert_eq!(next(&mut client).await, Message::binary(good));
    assert_eq!(close_code(&mut client).await, 1009);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_close_frame_is_answered_behind_the_frame_that_is_being_written() {
    const BIG: u32 = 5;
    const LEN: usize = 16 << 20;
    let settings = Settings { max_msg_chan_bytes: 64 << 20, ..settings() };
    let server = Server::new(settings).route_fn(BIG, async |_: Inbound| (BIG, vec![1; LEN]));
    let mut watched = Watched::serve(server).await;
    let mut client = dial(&watched).await;
    let conn = watched.started().await;
    client.send(Message::binary(frame(BIG, b"x"))).await.unwrap();
    // The kernel has not room for all of it.
    let mut header = [0; 10];
    within(client.get_mut().read_exact(&mut header)).await.unwrap();
    assert_eq!(conn.unsent().frames, 1);
    // What is behind it is lost.
    conn.send_buffered(ECHO, "late").unwrap();
    client.get_mut().write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]).await.unwrap();
    let mut rest = Vec::new();
    within(client.get_mut().read_to_end(&mut rest)).await.unwrap();
    assert_eq!((rest.len(), &rest[8 + LEN..]), (8 + LEN + 4, &[0x88, 2, 3, 0xe8][..]));
    watched.removed().await;
    assert_eq!(watched.server.handle().stats().frames_cut, 1);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn every_end_has_its_close_code() {
    let settings = Settings { unrouted: Unrouted::Close, ..settings() };
    let server =
        Server::new(settings).route_fn(PANIC, async |_: Inbound| -> () { panic!("on purpose") });
    let mut watched = Watched::serve(server).await;
    let handle = watched.server.handle().clone();

    for (id, code) in [(PANIC, 1011), (NO_ROUTE, 1008)] {
        let mut client = dial(&watched).await;
        watched.started().await;
        client.send(Message::binary(frame(id, b""))).await.unwrap();
        assert_eq!(close_code(&mut client).await, code);
    }
    let mut client = dial(&watched).await;
    watched.started().await.stop();
    assert_eq!(close_code(&mut client).await, 1000);
    let mut client = dial(&watched).await;
    watched.started().await;
    actix::spawn(handle.clear_conn());
    assert_eq!(close_code(&mut client).await, 1000);
    let mut client = dial(&watched).await;
    watched.started().await;
    let stopped = actix::spawn(watched.server.stop());
    match next(&mut client).await {
        Message::Close(Some(CloseFrame { code, reason })) => {
            assert_eq!((code, reason.as_str()), (CloseCode::Away, "the server shuts down"));
        }
        other => panic!("{other:?}"),
    }
    // The library answers the close frame, which ends the connection.
    assert!(within(client.next()).await.is_none());
    assert!(stopped.await.unwrap().unwrap().is_clean());
}

#[actix::test]
async fn a_peers_close_code_and_text_are_its_reason() {
    let mut watched = Watched::start(settings()).await;
    let with = |code| CloseReason::PeerClosedWith { code, text: "bye".into() };
    for (code, why) in [
        (Some(CloseCode::Normal), CloseReason::PeerClosed),
        (Some(CloseCode::Away), CloseReason::PeerClosed),
        (None, CloseReason::PeerClosed),
        (Some(CloseCode::Error), with(1011)),
        (Some(CloseCode::Library(4001)), with(4001)),
    ] {
        let mut client = dial(&watched).await;
        let close = code.map(|code| CloseFrame { code, reason: "bye".into() });
        within(client.close(close)).await.unwrap();
        let answered = close_code(&mut client).await;
        assert_eq!(answered, code.map_or(1005, u16::from), "it is answered as it is");
        assert_eq!(watched.removed().await, why);
    }
    let mut client = dial(&watched).await;
    client.get_mut().shutdown().await.unwrap();
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    let mut client = dial(&watched).await;
    client.get_mut().write_all(&[0x82, 0x85, 1, 2, 3, 4, 5]).await.unwrap();
    client.get_mut().shutdown().await.unwrap();
    let cut = FrameError::Truncated { have: 7 };
    assert_eq!(watched.removed().await, CloseReason::Protocol(cut));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn what_comes_behind_a_close_frame_is_read_away_and_the_end_is_no_reset() {
    let mut watched = Watched::start(settings()).await;
    let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
    let message = [&[0x82, 0x80 | 126, 4, 0, 0, 0, 0, 0][..], &[7; 1024]].concat();
    for later in [false, true] {
        let mut client = dial(&watched).await;
        let socket = client.get_mut();
        let mut end = Vec::new();
        if later {
            socket.write_all(&close).await.unwrap();
            end.resize(4, 0);
            within(socket.read_exact(&mut end)).await.unwrap();
            socket.write_all(&message.repeat(1000)).await.expect("it is read");
        } else {
            socket.write_all(&[&close[..], &message.repeat(1000)].concat()).await.unwrap();
        }
        socket.shutdown().await.unwrap();
        within(socket.read_to_end(&mut end)).await.expect("no reset");
        assert_eq!(end, [0x88, 2, 0x03, 0xe8], "the reply, and nothing else");
        assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_sends_for_ever_behind_its_close_frame_is_cut() {
    // The bytes are what ends it.
    let settings = Settings { linger_ms: 60_000, drain_deadline_ms: 100_000, ..settings() };
    let mut watched = Watched::start(settings).await;
    let mut client = dial(&watched).await;
    let flood = actix::spawn(async move {
        let socket = client.get_mut();
        socket.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        let pings = PING.repeat(10_000);
        let mut sent = 0;
        while socket.write_all(&pings).await.is_ok() {
            sent += pings.len();
        }
        sent
    });
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    let sent = within(flood).await.unwrap();
    assert!(sent > 1 << 20, "{sent} bytes: a large message may be on its way");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_resets_inside_a_message_ends_as_one_that_resets_between_two() {
    let mut watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    watched.started().await;
    client.get_mut().write_all(&[0x02, 0x80 | 1, 0, 0, 0, 0, 1]).await.unwrap();
    // The message has been read when there is a pong.
    client.get_mut().write_all(&PING).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong("".into()));
    client.get_ref().set_zero_linger().unwrap();
    drop(client);
    let why = watched.removed().await;
    assert!(matches!(why, CloseReason::Io(_)), "{why}");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn answers_reach_a_peer_that_closed_its_socket_without_a_close_frame() {
    let watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    for _ in 0..100 {
        client.feed(Message::binary(frame(ECHO, b"x"))).await.unwrap();
    }
    client.flush().await.unwrap();
    client.get_mut().shutdown().await.unwrap();
    for _ in 0..100 {
        assert_eq!(next(&mut client).await, Message::binary(frame(ECHO, b"x")));
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn what_a_peer_sent_before_its_close_frame_is_handled_and_its_answers_count_as_cut() {
    const SLOW: u32 = 5;
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let server = Server::new(settings()).route_fn(SLOW, async move |msg: Inbound| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        count.fetch_add(1, Relaxed);
        msg
    });
    let mut watched = Watched::serve(server).await;
    let mut client = dial(&watched).await;
    for _ in 0..100 {
        client.feed(Message::binary(frame(SLOW, b"x"))).await.unwrap();
    }
    within(client.close(None)).await.unwrap();
    let mut answers = 0;
    while let Some(Ok(message)) = within(client.next()).await {
        answers += u64::from(message.is_binary());
    }
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    assert_eq!(handled.load(Relaxed), 100);
    let stats = watched.server.handle().stats();
    assert_eq!((answers + stats.frames_cut, stats.bytes_unhandled), (100, 0));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_message_of_endless_fragments_is_too_long_and_holds_no_neighbour_up() {
    let mut watched = Watched::start(Settings { worker_pool_size: 1, ..settings() }).await;
    let mut neighbour = dial(&watched).await;
    let mut client = dial(&watched).await;
    let flood = actix::spawn(async move {
        let mut fragments = vec![0x02, 0x80, 0, 0, 0, 0];
        fragments.extend([0x00, 0x80, 0, 0, 0, 0].repeat(20_000));
        // Until the server has had enough.
        while client.get_mut().write_all(&fragments).await.is_ok() {}
    });
    for _ in 0..10 {
        echo(&mut neighbour).await;
    }
    let too_long = FrameError::MessageTooLong { max: 4104 };
    assert_eq!(watched.removed().await, CloseReason::Protocol(too_long));
    flood.await.unwrap();
    drop(neighbour);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_frame_in_fragments_of_a_byte_is_not_too_long() {
    let watched = Watched::start(settings()).await;
    let mut client = dial(&watched).await;
    let whole = frame(ECHO, &[7; 4096]);
    let last = whole.len() - 1;
    for (at, &byte) in whole.iter().enumerate() {
        let data = if at == 0 { Data::Binary } else { Data::Continue };
        let piece = WsFrame::message(vec![byte], OpCode::Data(data), at == last);
        client.feed(Message::Frame(piece)).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(next(&mut client).await, Message::binary(whole));
    drop(client);
    watched.server.stop().await.unwrap();
}

/// Takes any message as one frame.
#[derive(Debug)]
struct Any;

impl Framing for Any {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        Ok(Some(Found { id: ECHO, payload: 0..src.len(), len: src.len() }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.extend_from_slice(payload);
    }

    fn overhead(&self) -> usize {
        0
    }
}

#[actix::test]
async fn a_framing_is_asked_about_one_message_at_a_time() {
    let watched = Watched::serve(Server::new(settings()).framing(Any)).await;
    let mut client = dial(&watched).await;
    let lens = [1, 7, 200, 4000, 3];
    for len in lens {
        client.feed(Message::binary(vec![len as u8; len])).await.unwrap();
    }
    client.flush().await.unwrap();
    for len in lens {
        assert_eq!(next(&mut client).await, Message::binary(vec![len as u8; len]));
    }
    client.send(Message::binary(Vec::new())).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1007, "no frame is empty");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_begins_a_message_and_does_not_end_it_is_closed() {
    let settings = Settings { frame_deadline_ms: 200, ..settings() };
    let mut watched = Watched::start(settings).await;
    let whole = [&[0x82, 0x80 | 9, 0, 0, 0, 0][..], &frame(ECHO, b"x")].concat();
    let in_fragments = [0x02, 0x81, 0, 0, 0, 0, 1];
    for begun in [
        &whole[..1],
        &whole[..10],
        &[&whole[..], &whole[..10]].concat(),
        &in_fragments,
        // A ping between fragments ends no message.
        &[&in_fragments[..], &[0x89, 0x80, 0, 0, 0, 0]].concat(),
    ] {
        let mut client = dial(&watched).await;
        client.get_mut().write_all(begun).await.unwrap();
        assert_eq!(close_code(&mut client).await, 1008);
        // Its answer stands inside the message that it has begun, where nobody sees it.
        drop(client);
        assert_eq!(watched.removed().await, CloseReason::Silent(Silence::Frame));
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_flood_of_pings_holds_no_neighbour_up_and_is_bounded_by_what_the_peer_reads() {
    let settings = Settings { worker_pool_size: 1, write_deadline_ms: 300, ..settings() };
    let mut watched = Watched::start(settings).await;
    let mut neighbour = dial(&watched).await;
    let client = dial(&watched).await;
    let flood = actix::spawn(async move {
        let mut client = client;
        let pings = [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4].repeat(10_000);
        // Pongs are not read: at last the server takes no more, and closes.
        while client.get_mut().write_all(&pings).await.is_ok() {}
    });
    for _ in 0..100 {
        echo(&mut neighbour).await;
    }
    // Or all pongs that it is owed are the last one's, which the kernel has room for.
    flood.abort();
    let _ = flood.await;
    let why = watched.removed().await;
    assert!(
        matches!(why, CloseReason::PeerClosed | CloseReason::Io(_) | CloseReason::SlowConsumer(_))
            || matches!(why, CloseReason::Protocol(FrameError::Truncated { .. })),
        "{why}"
    );
    echo(&mut neighbour).await;
    drop(neighbour);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_handshake_counts_as_bytes_and_costs_half_a_burst_at_most() {
    const BURST: usize = 8000;
    // Next to nothing is paid for while the test runs.
    let settings = Settings {
        rate_bytes: BURST as u32 / 100,
        rate_burst_ms: 100_000,
        over_rate: OverRate::Close,
        ..settings()
    };
    let mut watched = Watched::start(settings).await;
    for (cookie, pings) in [(2500, 6100), (6000, 5000)] {
        let value = "a".repeat(cookie);
        let asked = ask(watched.port(0), "/game", &[("cookie", &value)]).await;
        let (mut client, _) = asked.unwrap();
        // A burst would have room for them alone.
        assert!(pings < BURST);
        client.get_mut().write_all(&PING.repeat(pings / PING.len())).await.unwrap();
        assert_eq!(close_code(&mut client).await, 1008);
        assert_eq!(watched.removed().await, CloseReason::OverRate(Excess::Bytes));
    }
    let value = "a".repeat(12_000);
    let (mut client, _) = ask(watched.port(0), "/game", &[("cookie", &value)]).await.unwrap();
    client.get_mut().write_all(&PING.repeat(500)).await.unwrap();
    echo_after_pongs(&mut client).await;
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_request_is_answered_by_what_is_wrong_with_it() {
    let mut watched = Watched::start(settings()).await;
    let port = watched.port(0);
    assert_eq!(status(port, "/game?room=1", &[]).await, 101);
    let start = |answer: &str| answer.lines().next().unwrap_or_default().to_owned();
    let long = format!("GET /game HTTP/1.1\r\nA: {}", "a".repeat(20_000));
    let mut refused = 0;
    for (request, answer, says) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found", "content-length"),
        ("GET /game HTTP/1.1\r\n\r\n", "HTTP/1.1 426 Upgrade Required", "upgrade: websocket"),
        ("POST /game HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed", "allow: GET"),
        ("GET /game HTTP/1.0\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported", ""),
        ("\u{0}\u{1}", "HTTP/1.1 400 Bad Request", ""),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large", ""),
    ] {
        let all = raw(port, request.as_bytes()).await;
        assert_eq!(start(&all), answer);
        assert!(all.contains(says), "{all}");
        refused += 1;
    }
    assert_eq!(status(port, "/other", &[]).await, 404);
    assert_eq!(status(port, "/game", &[("sec-websocket-version", "12")]).await, 426);
    assert_eq!(status(port, "/game", &[("sec-websocket-key", "x")]).await, 400);
    refused += 3;
    let handshakes = async {
        let mut seen = 0;
        while seen < refused {
            seen += u32::from(matches!(
                watched.removed().await,
                CloseReason::Handshake(HandshakeError::Http { .. })
            ));
        }
    };
    within(handshakes).await;
    assert_eq!(watched.server.handle().stats().endings.handshake, u64::from(refused));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_request_is_read_as_http_has_it() {
    let watched = Watched::start(settings()).await;
    let port = watched.port(0);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    for (headers, status) in [
        (
            "Host: a\r\nConnection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c, WebSocket",
            101,
        ),
        ("Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c", 426),
        ("Connection: Upgrade\r\nUpgrade: websocket", 400),
        ("Host: a\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: websocket", 400),
    ] {
        let request = format!("GET /game HTTP/1.1\r\n{headers}\r\n{key}{version}\r\n");
        let mut socket = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        within(socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{headers}");
    }
    let twice = format!(
        "GET /game HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}{key}{version}\r\n"
    );
    assert!(raw(port, twice.as_bytes()).await.starts_with("HTTP/1.1 400"));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn who_is_turned_away_holds_no_place() {
    let server = Server::new(Settings { max_conn: 1, ..settings() });
    let server = server.ws_auth(async |request: &Upgrade, _: &Conn| request.query().is_some());
    let mut watched = Watched::serve(server).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut socket = within(TcpStream::connect(("127.0.0.1", watched.port(0)))).await.unwrap();
        socket.write_all(b"GET /game HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        within(socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 426");
        // It is told, and stays.
        held.push(socket);
        watched.removed().await;
    }
    let (mut client, _) = ask(watched.port(0), "/game?in", &[]).await.unwrap();
    echo(&mut client).await;
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn any_path_will_do_at_an_endpoint_without_one() {
    let watched = Watched::start(at(&["ws://127.0.0.1:0"])).await;
    for path in ["", "/", "/any?x"] {
        assert_eq!(status(watched.port(0), path, &[]).await, 101);
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_page_of_another_origin_may_not_connect() {
    let settings = Settings { ws_origins: vec!["https://Example.com".into()], ..settings() };
    let watched = Watched::start(settings).await;
    for (origin, answer) in [
        ("https://example.com", 101),
        ("http://example.com", 403),
        ("https://example.com.evil.org", 403),
        ("null", 403),
    ] {
        assert_eq!(status(watched.port(0), "/game", &[("origin", origin)]).await, answer);
    }
    let two = "GET /game HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
               Origin: https://example.com\r\nOrigin: https://evil.org\r\n\r\n";
    assert!(raw(watched.port(0), two.as_bytes()).await.starts_with("HTTP/1.1 400"));
    assert_eq!(status(watched.port(0), "/game", &[]).await, 101, "no browser");
    watched.server.stop().await.unwrap();
}

/// Who a connection says it is.
struct User(String);

#[actix::test]
async fn who_is_not_authorized_gets_401_and_who_is_can_be_remembered() {
    let server = Server::new(settings()).ws_auth(async |request: &Upgrade, conn: &Conn| {
        tokio::task::yield_now().await;
        assert_ne!(request.query(), Some("panic"));
        let Some(user) = request.header("Authorization") else { return false };
        conn.set_property(User(format!("{user} of {}", request.path())));
        user == "ann"
    });
    let mut watched = Watched::serve(server).await;
    let port = watched.port(0);
    assert_eq!(status(port, "/game", &[]).await, 401);
    assert_eq!(status(port, "/game", &[("authorization", "bob")]).await, 401);
    assert_eq!(status(port, "/game?panic", &[]).await, 500);
    let (mut client, _) = ask(port, "/game", &[("authorization", "ann")]).await.unwrap();
    assert_eq!(watched.started().await.property::<User>().unwrap().0, "ann of /game");
    echo(&mut client).await;
    let why = HandshakeError::Http { status: 401, why: "not authorized".into() };
    assert_eq!(watched.removed().await, CloseReason::Handshake(why));
    drop(client);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn the_best_subprotocol_that_both_know_is_spoken() {
    let known = vec!["v2".into(), "v1".into()];
    let settings = Settings { ws_subprotocols: known, ..settings() };
    let mut watched = Watched::start(settings).await;
    let port = watched.port(0);
    for (offered, spoken) in [("v1, v2", Some("v2")), ("v0,v1", Some("v1")), ("v0", None)] {
        // This client does not go on without an answer to its offer.
        let asked = ask(port, "/game", &[("sec-websocket-protocol", offered)]).await;
        let conn = watched.started().await;
        let property = conn.property::<Subprotocol>();
        assert_eq!(property.as_ref().map(|known| known.as_str()), spoken);
        match (asked, spoken) {
            (Ok((_, response)), Some(spoken)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], spoken);
            }
            (asked, _) => assert!(asked.is_err()),
        }
    }
    assert_eq!(status(port, "/game", &[]).await, 101);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_is_not_admitted_is_answered_before_the_upgrade() {
    let mut watched = Watched::start(Settings { max_conn: 1, ..settings() }).await;
    let mut first = dial(&watched).await;
    watched.started().await;
    match ask(watched.port(0), "/game", &[]).await.map(drop) {
        Err(Error::Http(response)) => {
            assert_eq!(response.status().as_u16(), 503);
            let body = response.body().as_deref().unwrap_or_default();
            assert_eq!(body, b"the server is full: 1 connections");
        }
        other => panic!("{other:?}"),
    }
    echo(&mut first).await;
    drop(first);
    watched.server.stop().await.unwrap();

    let mut watched = Watched::start(Settings { max_conn_per_ip: 1, ..settings() }).await;
    let first = dial(&watched).await;
    watched.started().await;
    assert_eq!(status(watched.port(0), "/game", &[]).await, 429);
    drop(first);
    watched.server.stop().await.unwrap();

    let deny = vec!["127.0.0.0/8".parse().unwrap()];
    let watched = Watched::start(Settings { deny, ..settings() }).await;
    assert_eq!(status(watched.port(0), "/game", &[]).await, 403);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_request_has_a_deadline() {
    let settings = Settings { handshake_deadline_ms: 300, ..settings() };
    let mut watched = Watched::start(settings).await;
    let mut silent = TestClient::connect(watched.server.addr()).await;
    silent.send_bytes(b"GET /game HTTP/1.1\r\n").await;
    assert_eq!(watched.removed().await, CloseReason::Handshake(HandshakeError::Late));
    assert_eq!(silent.recv().await, None);
    assert!(watched.hooks.lock().unwrap().is_empty());
    watched.server.stop().await.unwrap();
}
