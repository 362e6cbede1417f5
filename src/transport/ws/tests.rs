use std::cell::Cell;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{pause, sleep};

use super::*;
use crate::conn::{CloseReason, Silence};
use crate::inbound::Inbound;
use crate::server::Server;
use crate::settings::Settings;
use crate::testing::{TestConnection, settings, within};
use crate::transport::Plain;

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
const PONG: [u8; 2] = [0x8a, 0];

thread_local! {
    /// How many messages the route 1 has got.
    static HANDLED: Cell<u32> = const { Cell::new(0) };
}

/// A peer of a connection with an idle deadline of a second, on a clock that stands still, and why that
/// ends.
async fn idle() -> (DuplexStream, UnboundedReceiver<CloseReason>, TestConnection) {
    pause();
    let (peer, stream) = duplex(1024);
    let settings = Settings { idle_deadline_ms: 1000, ..settings() };
    let codec = FrameCodec::new(settings.wire_format, settings.max_packet_size);
    let below = Box::new(Plain::new(stream));
    let (tell, ends) = unbounded_channel();
    let server = Server::new(settings)
        .route_fn(1, async |msg: Inbound| {
            HANDLED.set(HANDLED.get() + 1);
            msg
        })
        .route_fn(2, async |msg: Inbound| {
            sleep(Duration::from_millis(500)).await;
            msg
        })
        .on_conn_stop(move |_, why| tell.send(why.clone()).unwrap());
    let filter = Box::new(Filter::new(below, BytesMut::new(), Envelope::Message, codec));
    (peer, ends, TestConnection::over_ws(server, filter).await)
}

#[actix::test]
async fn who_sends_a_message_slowly_is_not_idle() {
    let (mut peer, mut ends, _connection) = idle().await;
    let message = [0x82, 0x80 | 9, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, b'x'];
    for byte in message {
        sleep(Duration::from_millis(700)).await;
        peer.write_all(&[byte]).await.unwrap();
    }
    let mut echo = [0; 11];
    within(peer.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, [0x82, 9, 1, 0, 0, 0, 1, 0, 0, 0, b'x']);
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn a_ping_is_a_sign_of_life() {
    let (mut peer, mut ends, _connection) = idle().await;
    for _ in 0..5 {
        sleep(Duration::from_millis(700)).await;
        peer.write_all(&PING).await.unwrap();
        let mut pong = [0; 2];
        within(peer.read_exact(&mut pong)).await.unwrap();
        assert_eq!(pong, PONG);
    }
    assert!(ends.try_recv().is_err());
    assert_eq!(within(ends.recv()).await, Some(CloseReason::Silent(Silence::Idle)));
}

/// What a client sends by a frame with this first byte.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[actix::test]
async fn a_message_that_an_empty_fragment_completes_is_handled_though_a_close_frame_follows() {
    let (mut peer, mut ends, _connection) = idle().await;
    let packet = [1, 0, 0, 0, 1, 0, 0, 0, b'x'];
    peer.write_all(&masked(0x02, &packet)).await.unwrap();
    // A read of its own: the reader has all of the payload when the last header comes.
    tokio::task::yield_now().await;
    let end = [masked(0x80, b""), masked(0x88, &[0x03, 0xe8])].concat();
    peer.write_all(&end).await.unwrap();
    // The echo is lost: a peer that has sent a close frame takes nothing more.
    assert_eq!(within(ends.recv()).await, Some(CloseReason::PeerClosed));
    assert_eq!(HANDLED.get(), 1);
}

#[actix::test]
async fn a_close_frame_that_is_replied_to_while_a_handler_waits_ends_the_connection() {
    let (mut peer, mut ends, _connection) = idle().await;
    let packet = [1, 0, 0, 0, 2, 0, 0, 0, b'x'];
    let stream = [masked(0x82, &packet), masked(0x88, &[0x03, 0xe8])].concat();
    peer.write_all(&stream).await.unwrap();
    let mut reply = Vec::new();
    within(peer.read_to_end(&mut reply)).await.unwrap();
    assert_eq!(reply, [0x88, 2, 0x03, 0xe8]);
    assert_eq!(within(ends.recv()).await, Some(CloseReason::PeerClosed));
}
