//! Peers that send too much: the rates, and what becomes of what is beyond them.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, pause, sleep};
use zinxide::testing::{TestConnection, settings, within};
use zinxide::{CloseReason, Excess, Inbound, OverRate, Server, Settings};

const ECHO: u32 = 1;
const COSTLY: u32 = 2;
const FREE: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// A connection on a clock that stands still unless everybody waits.
struct Peer {
    stream: DuplexStream,
    ends: UnboundedReceiver<CloseReason>,
    connection: TestConnection,
}

fn frame(id: u32, len: usize) -> Vec<u8> {
    let mut bytes = (len as u32).to_le_bytes().to_vec();
    bytes.extend(id.to_le_bytes());
    bytes.resize(8 + len, 7);
    bytes
}

impl Peer {
    async fn new(settings: Settings) -> Self {
        pause();
        let (stream, peer) = duplex(1024 * 1024);
        let (tx, ends) = unbounded_channel();
        let mut server = Server::new(settings)
            .route_cost(COSTLY, 10)
            .route_cost(FREE, 0)
            .on_conn_stop(move |_, why| tx.send(why.clone()).unwrap());
        for id in [ECHO, COSTLY, FREE] {
            server = server.route_fn(id, async |msg: Inbound| msg);
        }
        let connection = TestConnection::start(server, peer).await;
        Self { stream, ends, connection }
    }

    async fn send(&mut self, n: usize, id: u32, len: usize) {
        self.stream.write_all(&frame(id, len).repeat(n)).await.unwrap();
    }

    /// How long `n` echoes take to come.
    async fn echoes(&mut self, n: usize, id: u32, len: usize) -> Duration {
        let began = Instant::now();
        let mut echoed = vec![0; n * (8 + len)];
        within(self.stream.read_exact(&mut echoed)).await.unwrap();
        assert!(echoed == frame(id, len).repeat(n), "other than what was sent");
        began.elapsed()
    }
}

fn messages(per_second: u32, over_rate: OverRate) -> Settings {
    Settings { rate_messages: per_second, over_rate, ..settings() }
}

/// Timers are a little late, never early.
fn assert_takes(is: Duration, wanted: Duration) {
    assert!(is >= wanted && is <= wanted + wanted / 10 + SECOND / 50, "{is:?} for {wanted:?}");
}

#[actix::test]
async fn a_burst_is_free_and_what_is_beyond_it_comes_at_the_rate() {
    let mut peer = Peer::new(messages(100, OverRate::Delay)).await;
    peer.send(300, ECHO, 4).await;
    assert_takes(peer.echoes(100, ECHO, 4).await, Duration::ZERO);
    assert_takes(peer.echoes(200, ECHO, 4).await, 2 * SECOND);
    assert!(peer.connection.stats().rate_delays > 0);
    // The peer makes up for it by being silent, up to one burst.
    sleep(10 * SECOND).await;
    peer.send(150, ECHO, 4).await;
    assert_takes(peer.echoes(100, ECHO, 4).await, Duration::ZERO);
    assert_takes(peer.echoes(50, ECHO, 4).await, SECOND / 2);
    assert!(peer.ends.try_recv().is_err());
}

#[actix::test]
async fn bytes_count_with_their_headers() {
    let mut peer = Peer::new(Settings { rate_bytes: 10_000, ..settings() }).await;
    peer.send(300, ECHO, 92).await;
    assert_takes(peer.echoes(100, ECHO, 92).await, Duration::ZERO);
    assert_takes(peer.echoes(200, ECHO, 92).await, 2 * SECOND);
}

#[actix::test]
async fn the_burst_is_what_the_rate_allows_in_its_time() {
    let mut peer =
        Peer::new(Settings { rate_burst_ms: 100, ..messages(100, OverRate::Delay) }).await;
    peer.send(30, ECHO, 0).await;
    assert_takes(peer.echoes(10, ECHO, 0).await, Duration::ZERO);
    assert_takes(peer.echoes(20, ECHO, 0).await, SECOND / 5);
}

#[actix::test]
async fn a_burst_of_less_than_one_message_is_one_and_the_rate_holds() {
    let mut peer = Peer::new(Settings { rate_burst_ms: 1, ..messages(10, OverRate::Delay) }).await;
    peer.send(31, ECHO, 0).await;
    assert_takes(peer.echoes(1, ECHO, 0).await, Duration::ZERO);
    assert_takes(peer.echoes(30, ECHO, 0).await, 3 * SECOND);
}

#[actix::test]
async fn a_message_may_cost_more_than_one_or_nothing() {
    let mut peer = Peer::new(messages(10, OverRate::Delay)).await;
    peer.send(3, COSTLY, 0).await;
    peer.send(1, ECHO, 0).await;
    assert_takes(peer.echoes(1, COSTLY, 0).await, Duration::ZERO);
    assert_takes(peer.echoes(1, COSTLY, 0).await, SECOND);
    assert_takes(peer.echoes(1, COSTLY, 0).await, SECOND);
    assert_takes(peer.echoes(1, ECHO, 0).await, SECOND / 10);
    peer.send(1000, FREE, 0).await;
    assert_takes(peer.echoes(1000, FREE, 0).await, Duration::ZERO);
}

#[actix::test]
async fn a_message_costs_no_more_than_a_whole_burst() {
    let mut peer =
        Peer::new(Settings { rate_burst_ms: 500, ..messages(10, OverRate::Delay) }).await;
    peer.send(3, COSTLY, 0).await;
    assert_takes(peer.echoes(1, COSTLY, 0).await, Duration::ZERO);
    assert_takes(peer.echoes(1, COSTLY, 0).await, SECOND / 2);
    assert_takes(peer.echoes(1, COSTLY, 0).await, SECOND / 2);
}

#[test]
fn a_burst_that_does_not_allow_the_largest_packet_is_an_error() {
    let settings = Settings { rate_bytes: 4103, ..settings() };
    assert!(settings.validate().is_err());
    assert!(Settings { rate_bytes: 4104, ..settings.clone() }.validate().is_ok());
    let short = Settings { rate_bytes: 8208, rate_burst_ms: 499, ..settings.clone() };
    assert!(short.validate().is_err());
    assert!(Settings { rate_burst_ms: 500, ..short }.validate().is_ok());
}

#[actix::test]
async fn what_is_dropped_is_counted_and_the_rest_is_answered() {
    let mut peer = Peer::new(messages(100, OverRate::Drop)).await;
    peer.send(500, ECHO, 0).await;
    peer.send(1, FREE, 0).await;
    assert_takes(peer.echoes(100, ECHO, 0).await, Duration::ZERO);
    assert_takes(peer.echoes(1, FREE, 0).await, Duration::ZERO);
    sleep(SECOND).await;
    peer.send(1, ECHO, 0).await;
    peer.echoes(1, ECHO, 0).await;
    assert!(peer.ends.try_recv().is_err());
    assert_eq!((peer.connection.stats().rate_drops, peer.connection.stats().rate_delays), (400, 0));
}

#[actix::test]
async fn a_peer_over_its_rate_is_closed_when_what_it_may_say_is_answered() {
    let mut peer = Peer::new(messages(100, OverRate::Close)).await;
    peer.send(500, ECHO, 0).await;
    let mut all = Vec::new();
    within(peer.stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), 100 * 8);
    assert_eq!(within(peer.ends.recv()).await, Some(CloseReason::OverRate(Excess::Messages)));
}

#[actix::test]
async fn a_peer_over_its_rate_of_bytes_is_closed_for_that() {
    let mut peer = Peer::new(Settings {
        rate_messages: 0,
        rate_bytes: 99,
        over_rate: OverRate::Close,
        ..settings()
    })
    .await;
    peer.send(2, ECHO, 99).await;
    assert_eq!(within(peer.ends.recv()).await, Some(CloseReason::OverRate(Excess::Bytes)));
}

#[actix::test]
async fn a_delayed_peer_is_neither_silent_nor_in_the_way_of_its_end() {
    let settings = Settings { idle_deadline_ms: 1000, ..messages(1, OverRate::Delay) };
    let mut peer = Peer::new(settings).await;
    peer.send(6, ECHO, 0).await;
    assert_takes(peer.echoes(6, ECHO, 0).await, 5 * SECOND);
    peer.send(60, ECHO, 0).await;
    sleep(2 * SECOND).await;
    let stopped = Instant::now();
    peer.connection.conn.stop();
    assert_eq!(within(peer.ends.recv()).await, Some(CloseReason::Stopped));
    assert!(stopped.elapsed() < SECOND);
}
