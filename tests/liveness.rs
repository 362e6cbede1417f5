//! Silent peers: what is waited for, for how long, and what is not held against them.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, pause, sleep};
use zinxide::testing::{TestClient, TestConnection, TestServer, settings, within};
use zinxide::{CloseReason, Heartbeat, Inbound, Server, Settings, Silence, Unrouted};

const SECOND: Duration = Duration::from_secs(1);
const ECHO: [u8; 8] = [0, 0, 0, 0, 1, 0, 0, 0];

/// A connection on a clock that stands still unless everybody waits.
struct Peer {
    stream: DuplexStream,
    began: Instant,
    ends: UnboundedReceiver<(Instant, CloseReason)>,
    connection: TestConnection,
}

impl Peer {
    async fn new(settings: Settings) -> Self {
        Self::of(Server::new(settings)).await
    }

    async fn of(server: Server) -> Self {
        pause();
        let (stream, peer) = duplex(1024);
        let (tx, ends) = unbounded_channel();
        let server = server
            .route_fn(1, async |msg: Inbound| msg)
            .route_fn(2, async |msg: Inbound| {
                sleep(10 * SECOND).await;
                msg
            })
            .on_conn_stop(move |_, why| tx.send((Instant::now(), why.clone())).unwrap());
        let connection = TestConnection::start(server, peer).await;
        Self { stream, began: Instant::now(), ends, connection }
    }

    async fn echo(&mut self) {
        self.stream.write_all(&ECHO).await.unwrap();
        self.stream.read_exact(&mut [0; 8]).await.unwrap();
    }

    /// It ends as silent, a second after `since`, and not much later.
    async fn ends(self, since: Instant, silence: Silence) {
        self.ends_for(since, CloseReason::Silent(silence)).await;
    }

    async fn ends_for(mut self, since: Instant, reason: CloseReason) {
        let (at, why) = within(self.ends.recv()).await.unwrap();
        assert_eq!(why, reason);
        let after = at - since;
        assert!(after >= SECOND && after <= SECOND * 5 / 4 + SECOND / 100, "after {after:?}");
    }

    fn lives(&mut self) {
        assert_eq!(self.ends.try_recv().ok(), None);
    }
}

fn first_message() -> Settings {
    Settings { first_message_deadline_ms: 1000, ..settings() }
}

fn frame() -> Settings {
    Settings { frame_deadline_ms: 1000, ..settings() }
}

fn idle() -> Settings {
    Settings { idle_deadline_ms: 1000, ..settings() }
}

#[actix::test]
async fn a_peer_that_says_nothing_is_closed_at_the_first_message_deadline() {
    let peer = Peer::new(first_message()).await;
    let began = peer.began;
    peer.ends(began, Silence::FirstMessage).await;
}

#[actix::test]
async fn a_peer_that_says_less_than_a_message_is_closed_at_the_first_message_deadline() {
    let mut peer = Peer::new(first_message()).await;
    let began = peer.began;
    for _ in 0..7 {
        peer.stream.write_all(&[0]).await.unwrap();
        sleep(SECOND / 10).await;
    }
    peer.ends(began, Silence::FirstMessage).await;
}

#[actix::test]
async fn a_peer_that_has_said_something_may_be_silent_after_it() {
    let mut peer = Peer::new(first_message()).await;
    sleep(SECOND * 9 / 10).await;
    peer.echo().await;
    sleep(1000 * SECOND).await;
    peer.lives();
    peer.echo().await;
}

#[actix::test]
async fn a_frame_that_comes_a_byte_at_a_time_is_closed_at_the_frame_deadline() {
    let mut peer = Peer::new(frame()).await;
    sleep(5 * SECOND).await;
    peer.echo().await;
    sleep(5 * SECOND).await;
    peer.lives();
    let began = Instant::now();
    for _ in 0..6 {
        peer.stream.write_all(&[9]).await.unwrap();
        sleep(SECOND / 10).await;
    }
    peer.ends(began, Silence::Frame).await;
}

#[actix::test]
async fn frames_that_are_completed_in_time_may_come_in_pieces_for_ever() {
    let mut peer = Peer::new(frame()).await;
    // Every piece ends in the middle of a frame.
    peer.stream.write_all(&ECHO[..4]).await.unwrap();
    for _ in 0..100 {
        sleep(SECOND / 2).await;
        peer.stream.write_all(&[&ECHO[4..], &ECHO[..4]].concat()).await.unwrap();
        peer.stream.read_exact(&mut [0; 8]).await.unwrap();
    }
    peer.lives();
}

#[actix::test]
async fn a_frame_is_not_late_while_the_server_does_not_read_it() {
    let mut peer = Peer::new(frame()).await;
    // The function of the first message takes ten seconds.
    peer.stream.write_all(&[0, 0, 0, 0, 2, 0, 0, 0]).await.unwrap();
    peer.stream.write_all(&ECHO[..4]).await.unwrap();
    peer.stream.read_exact(&mut [0; 8]).await.unwrap();
    sleep(SECOND / 2).await;
    peer.stream.write_all(&ECHO[4..]).await.unwrap();
    peer.stream.read_exact(&mut [0; 8]).await.unwrap();
    peer.lives();
}

#[actix::test]
async fn an_idle_peer_is_closed_at_the_idle_deadline() {
    let mut peer = Peer::new(idle()).await;
    for _ in 0..10 {
        sleep(SECOND * 9 / 10).await;
        peer.echo().await;
    }
    let last = Instant::now();
    peer.ends(last, Silence::Idle).await;
}

#[actix::test]
async fn a_peer_that_waits_for_an_answer_is_not_idle() {
    let mut peer = Peer::new(idle()).await;
    peer.stream.write_all(&[0, 0, 0, 0, 2, 0, 0, 0]).await.unwrap();
    peer.stream.read_exact(&mut [0; 8]).await.unwrap();
    assert!(peer.began.elapsed() >= 10 * SECOND);
    peer.lives();
    let answered = Instant::now();
    peer.ends(answered, Silence::Idle).await;
}

#[actix::test]
async fn without_deadlines_a_peer_may_be_silent_for_ever() {
    let mut peer = Peer::new(Settings { frame_deadline_ms: 0, ..settings() }).await;
    peer.stream.write_all(&ECHO[..4]).await.unwrap();
    sleep(100_000 * SECOND).await;
    peer.lives();
    peer.stream.write_all(&ECHO[4..]).await.unwrap();
    peer.stream.read_exact(&mut [0; 8]).await.unwrap();
}

fn heartbeat() -> Heartbeat {
    Heartbeat::every(SECOND).message(7, |conn| format!("{}?", conn.id()))
}

/// The heartbeat of connection 1.
const BEAT: [u8; 10] = [2, 0, 0, 0, 7, 0, 0, 0, b'1', b'?'];

#[actix::test]
async fn heartbeats_come_in_their_interval_as_long_as_the_peer_says_anything() {
    let server = Server::new(settings()).heartbeat(heartbeat().alive_within(2 * SECOND));
    let mut peer = Peer::of(server).await;
    let mut last = None;
    for _ in 0..20 {
        let mut beat = [0; 10];
        peer.stream.read_exact(&mut beat).await.unwrap();
        assert_eq!(beat, BEAT);
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            assert_eq!(now - last, SECOND);
        }
        // A message, or a part of one.
        peer.stream.write_all(&BEAT[..3]).await.unwrap();
        peer.stream.write_all(&BEAT[3..]).await.unwrap();
    }
    peer.lives();
}

#[actix::test]
async fn a_peer_without_a_sign_of_life_is_closed_when_its_next_heartbeat_is_due() {
    let server = Server::new(settings()).heartbeat(heartbeat().alive_within(3 * SECOND));
    let mut peer = Peer::of(server).await;
    let mut beats = Vec::new();
    peer.stream.read_to_end(&mut beats).await.unwrap();
    assert_eq!(beats, BEAT.repeat(3));
    let (_, why) = within(peer.ends.recv()).await.unwrap();
    assert_eq!(why, CloseReason::Silent(Silence::NotAlive));
}

#[actix::test]
async fn what_is_done_about_a_peer_without_a_sign_of_life_can_be_chosen_and_may_panic() {
    let (tx, mut told) = unbounded_channel();
    let heartbeat = heartbeat().alive_within(SECOND).on_remote_not_alive(move |conn| {
        tx.send(conn.id()).unwrap();
        panic!("on purpose");
    });
    let mut peer = Peer::of(Server::new(settings()).heartbeat(heartbeat)).await;
    // Again in every interval.
    for _ in 0..3 {
        assert_eq!(within(told.recv()).await, Some(1));
    }
    peer.lives();
    peer.stream.read_exact(&mut [0; 10]).await.unwrap();
    peer.echo().await;
}

#[actix::test]
async fn a_peer_is_asked_before_it_is_given_up_however_little_patience_there_is() {
    let server = Server::new(settings()).heartbeat(heartbeat().alive_within(SECOND / 10));
    let mut peer = Peer::of(server).await;
    for _ in 0..10 {
        peer.stream.read_exact(&mut [0; 10]).await.unwrap();
        peer.stream.write_all(&BEAT).await.unwrap();
    }
    peer.lives();
}

#[actix::test]
async fn a_heartbeat_that_panics_is_left_out() {
    let panics = Heartbeat::every(SECOND).message(7, |_| -> Vec<u8> { panic!("on purpose") });
    let mut peer =
        Peer::of(Server::new(settings()).heartbeat(panics.alive_within(9 * SECOND))).await;
    sleep(5 * SECOND).await;
    peer.lives();
    peer.echo().await;
}

#[actix::test]
async fn heartbeats_only_when_idle_are_left_out_while_something_else_is_sent() {
    let server = Server::new(settings()).heartbeat(heartbeat().only_when_idle());
    let mut peer = Peer::of(server).await;
    for _ in 0..50 {
        peer.echo().await;
        sleep(SECOND / 10).await;
    }
    // A heartbeat would have come before the answer.
    let quiet = Instant::now();
    for _ in 0..3 {
        let mut beat = [0; 10];
        peer.stream.read_exact(&mut beat).await.unwrap();
        assert_eq!(beat, BEAT);
        peer.stream.write_all(&BEAT).await.unwrap();
    }
    assert!(quiet.elapsed() <= 4 * SECOND, "in every interval: {:?}", quiet.elapsed());
    peer.lives();
}

async fn answers_tell_how_long_a_round_trip_takes(server: Server) {
    let mut peer = Peer::of(server.heartbeat(heartbeat())).await;
    assert_eq!(peer.connection.conn.rtt(), None);
    for ms in [30, 200, 1] {
        peer.stream.read_exact(&mut [0; 10]).await.unwrap();
        sleep(Duration::from_millis(ms)).await;
        // The second one answers nothing.
        peer.stream.write_all(&BEAT.repeat(2)).await.unwrap();
        peer.echo().await;
        let rtt = peer.connection.conn.rtt().unwrap().as_millis();
        assert!((u128::from(ms)..=u128::from(ms) + 2).contains(&rtt), "{rtt} for {ms}");
    }
}

#[actix::test]
async fn answers_to_heartbeats_without_a_route_tell_how_long_a_round_trip_takes() {
    answers_tell_how_long_a_round_trip_takes(Server::new(settings())).await;
}

#[actix::test]
async fn answers_to_heartbeats_with_a_route_tell_how_long_a_round_trip_takes() {
    let routed = Server::new(settings()).route_fn(7, async |_: Inbound| ());
    answers_tell_how_long_a_round_trip_takes(routed).await;
}

#[actix::test]
async fn a_connection_to_which_nothing_is_written_is_closed_at_the_write_idle_deadline() {
    let mut peer = Peer::new(Settings { write_idle_deadline_ms: 1000, ..settings() }).await;
    for _ in 0..50 {
        peer.echo().await;
        sleep(SECOND / 10).await;
    }
    peer.lives();
    // What the peer says does not count.
    let since = Instant::now() - SECOND / 10;
    for _ in 0..8 {
        peer.stream.write_all(&[0, 0, 0, 0, 9, 0, 0, 0]).await.unwrap();
        sleep(SECOND / 10).await;
    }
    peer.ends_for(since, CloseReason::WriteIdle).await;
}

#[actix::test]
async fn answers_to_heartbeats_need_no_route() {
    let settings = Settings { unrouted: Unrouted::Close, ..settings() };
    let server = Server::new(settings).route_fn(1, async |msg: Inbound| msg).heartbeat(heartbeat());
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(7, "1!").await;
    client.send(1, "still there").await;
    assert_eq!(client.recv().await.unwrap().id, 1);
    assert_eq!(server.handle().stats().unrouted, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn the_workers_of_a_server_keep_the_deadlines_of_their_connections() {
    let settings = Settings { idle_deadline_ms: 50, worker_pool_size: 2, ..settings() };
    let server = TestServer::start(Server::new(settings)).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(TestClient::connect(server.addr()).await);
    }
    for client in &mut clients {
        assert_eq!(client.recv().await, None, "closed");
    }
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    assert_eq!((handle.stats().ended, handle.stats().endings.silent), (300, 300));
}

#[actix::test]
async fn a_round_trip_may_take_longer_than_the_interval() {
    let mut peer =
        Peer::of(Server::new(settings()).heartbeat(heartbeat().alive_within(9 * SECOND))).await;
    let (mut read, mut write) = tokio::io::split(peer.stream);
    let (tx, mut beats) = unbounded_channel();
    actix_rt::spawn(async move {
        while read.read_exact(&mut [0; 10]).await.is_ok() {
            tx.send(Instant::now()).unwrap();
        }
    });
    for _ in 0..10 {
        let beat = within(beats.recv()).await.unwrap();
        tokio::time::sleep_until(beat + SECOND * 3 / 2).await;
        write.write_all(&BEAT).await.unwrap();
    }
    sleep(SECOND / 100).await;
    let rtt = peer.connection.conn.rtt().unwrap();
    assert!(rtt >= SECOND * 3 / 2 && rtt < SECOND * 8 / 5, "{rtt:?}");
    assert!(peer.ends.try_recv().is_err());
}

#[actix::test]
async fn heartbeats_that_were_not_answered_do_not_falsify_the_round_trips_after_them() {
    let mut peer =
        Peer::of(Server::new(settings()).heartbeat(heartbeat().alive_within(9 * SECOND))).await;
    for _ in 0..3 {
        peer.stream.read_exact(&mut [0; 10]).await.unwrap();
    }
    for _ in 0..5 {
        peer.stream.read_exact(&mut [0; 10]).await.unwrap();
        peer.stream.write_all(&BEAT).await.unwrap();
        peer.echo().await;
    }
    let rtt = peer.connection.conn.rtt().unwrap();
    assert!(rtt < SECOND / 100, "{rtt:?}");
}
