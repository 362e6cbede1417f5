//! G7: a header that announces more than `max_packet_size` closes the connection before anything is
//! reserved for it, with the reason and the announced length.

use zinxide::testing::TestServer;
use zinxide::{
    CloseReason, Frame, FrameCodec, FrameError, Inbound, MsgId, Server, Settings, WireFormat,
};

use crate::SCHEME;
use crate::support::{
    Event, Journal, echo, echo_actor, encoded, journal, one_worker, round_trip, settle, tuned,
};
use crate::transport::{before_frame, begin_frame, connect, connect_with, send_raw, settings};

/// A header that is too large is found in it, whatever it came in.
fn too_large(id: MsgId, announced: u32, max: u32) -> CloseReason {
    CloseReason::Protocol(FrameError::TooLarge { id, announced, max })
}

/// A header without its payload, which over WebSocket is a message of its own.
fn alone(header: [u8; 8]) -> Vec<u8> {
    [before_frame(8), header.to_vec()].concat()
}

/// A header in the default wire format.
fn header(id: MsgId, len: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[4..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// A server whose route 1 writes what it handles, and whose route 2 echoes.
fn journaled(journal: &Journal, settings: Settings) -> Server {
    let handler = journal.clone();
    journal.hooks(Server::new(settings)).route_fn(2, echo).route_fn(1, move |message: Inbound| {
        handler.handled(&message);
        echo(message)
    })
}

#[actix::test]
async fn g7_a_header_that_announces_four_gigabytes_closes_the_connection() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journaled(&journal, settings())).await;
    let mut other = connect(server.addr()).await;
    let other_id = events.started().await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    send_raw(&mut client, &alone(header(1, u32::MAX))).await;
    assert_eq!(client.recv().await, None);
    assert_eq!(events.next().await, Event::Stopped(id, too_large(1, u32::MAX, 4096)));
    round_trip(&mut other, 2).await;
    server.stop().await.unwrap();
    assert_eq!(events.rest(), [Event::Stopped(other_id, CloseReason::Shutdown)]);
}

#[actix::test]
async fn g7_a_header_that_arrives_one_byte_at_a_time_closes_the_connection_with_its_last_byte() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journaled(&journal, one_worker())).await;
    let mut pace = connect(server.addr()).await;
    events.started().await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    client.stream().socket().set_nodelay(true).unwrap();
    for byte in alone(header(1, u32::MAX)) {
        assert_eq!(events.rest(), [], "the header is not whole");
        send_raw(&mut client, &[byte]).await;
        settle(&mut pace, 2).await;
    }
    assert_eq!(events.next().await, Event::Stopped(id, too_large(1, u32::MAX, 4096)));
    assert_eq!(client.recv().await, None);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g7_a_payload_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    for limit in [0, 1, 100, 4096, 300_000] {
        let (journal, mut events) = journal();
        let settings = tuned(|s| s.max_packet_size = limit);
        let server = journaled(&journal, settings).route(3, echo_actor);
        let server = TestServer::start(server).await;
        let mut client = connect(server.addr()).await;
        let id = events.started().await;
        let largest = vec![6; limit as usize];
        for route in [2, 3] {
            client.send(route, largest.clone()).await;
            assert!(client.recv().await == Some(Frame::new(route, largest.clone())), "{limit}");
        }
        // The header alone is enough.
        send_raw(&mut client, &alone(header(1, limit + 1))).await;
        assert_eq!(events.next().await, Event::Stopped(id, too_large(1, limit + 1, limit)));
        assert_eq!(client.recv().await, None);
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g7_the_limit_holds_in_the_other_wire_format() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| s.wire_format = WireFormat::TlvBe);
    let server = TestServer::start(journaled(&journal, settings)).await;
    let codec = FrameCodec::new(WireFormat::TlvBe, u32::MAX);
    let mut client = connect_with(server.addr(), codec).await;
    let id = events.started().await;
    client.send(2, vec![1; 4096]).await;
    assert_eq!(client.recv().await, Some(Frame::new(2, vec![1; 4096])));
    send_raw(&mut client, &alone([0, 0, 0, 9, 0xff, 0xff, 0xff, 0xfe])).await;
    assert_eq!(events.next().await, Event::Stopped(id, too_large(9, u32::MAX - 1, 4096)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g7_messages_before_the_header_are_answered_and_none_after_it_is_handled() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journaled(&journal, settings())).await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    let frames = || (0..5).map(|n| encoded([Frame::new(1, vec![n])]));
    let sent = |frame: bytes::BytesMut| [before_frame(frame.len()), frame.to_vec()].concat();
    let mut bytes: Vec<u8> = frames().flat_map(sent).collect();
    bytes.extend(alone(header(1, 4097)));
    bytes.extend(frames().flat_map(sent));
    send_raw(&mut client, &bytes).await;
    assert_eq!(
        client.recv_to_end().await,
        (0..5).map(|n| Frame::new(1, vec![n])).collect::<Vec<_>>()
    );
    for _ in 0..5 {
        assert_eq!(events.next().await, Event::Handled(id, 1));
    }
    assert_eq!(events.next().await, Event::Stopped(id, too_large(1, 4097, 4096)));
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

/// A legal announcement reserves nothing either: two hundred peers that announce a gigabyte each
/// would otherwise show in the address space. The WebSocket library does reserve room there for a
/// message that has begun, and takes no memory for it before its bytes have come.
#[cfg(target_os = "linux")]
#[actix::test]
async fn g7_nothing_is_reserved_for_a_payload_that_has_not_come() {
    const PEERS: usize = 200;
    const ANNOUNCED: u32 = 1 << 30;
    let mut settings = one_worker();
    settings.max_packet_size = ANNOUNCED;
    settings.max_msg_chan_bytes = ANNOUNCED as usize + 8;
    let server = TestServer::start(Server::new(settings).route_fn(1, echo)).await;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut client = connect(server.addr()).await;
        let begun = [&header(1, ANNOUNCED)[..], b"a few bytes of it"].concat();
        begin_frame(&mut client, 8 + ANNOUNCED as usize, &begun).await;
        peers.push(client);
    }
    let mut other = connect(server.addr()).await;
    settle(&mut other, 1).await;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let what = if SCHEME.has_ws() { "VmHWM:" } else { "VmPeak:" };
    let peak = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < (PEERS / 2) << 20, "{what} {kib} KiB");
    server.stop().await.unwrap();
}
