//! G19: a peer that is gone keeps nothing, in whatever state its connection is.

use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, Frame, Inbound, Server, ServerHandle, Settings, Stats};

use crate::support::{Drives, Event, encoded, journal, tuned};
use crate::transport::{TestClient, connect, connect_narrow, half_close, write};

/// Short ticks, and everything else for longer than a test may take.
fn patient(tune: impl FnOnce(&mut Settings)) -> Settings {
    tuned(|s| {
        s.write_deadline_ms = 3_600_000;
        s.drain_deadline_ms = 3_600_000;
        s.half_closed_ms = 3_600_000;
        s.linger_ms = 3_600_000;
        // Its eighth is a tick.
        s.idle_deadline_ms = 3_600_000;
        s.frame_deadline_ms = 80;
        tune(s);
    })
}

/// Waits until every place is free.
async fn all_places_free(server: &ServerHandle) {
    within(async {
        // An ending is counted when its place is free already.
        let is_counted = || server.stats().ended == server.stats().admitted;
        while !(server.connections().is_empty() && is_counted()) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

const RESET: CloseReason = CloseReason::Io(std::io::ErrorKind::ConnectionReset);

/// A peer far over its rate: what it sent would take minutes.
async fn over_its_rate(client: &mut TestClient, frames: u32) {
    let frames = encoded((0..frames).map(|n| Frame::new(1, n.to_le_bytes().to_vec())));
    within(write(client.stream(), &frames)).await.unwrap();
}

fn slow_rate(s: &mut Settings) {
    s.rate_messages = 10;
}

#[actix::test]
async fn g19_a_peer_over_its_rate_that_resets_gives_its_place_back() {
    let (journal, mut events) = journal();
    let handled = journal.clone();
    let server = Server::new(patient(slow_rate)).route_fn(1, async move |message: Inbound| {
        handled.handled(&message);
    });
    let server = TestServer::start(journal.hooks(server)).await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    over_its_rate(&mut client, 2_000).await;
    for _ in 0..10 {
        assert_eq!(events.next().await, Event::Handled(id, 1));
    }
    client.reset();
    assert_eq!(events.stopped().await, (id, RESET));
    all_places_free(server.handle()).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g19_what_the_rate_of_a_peer_delays_is_dropped_and_counted_when_it_closes_its_side() {
    let (journal, mut events) = journal();
    let server = Server::new(patient(slow_rate)).route_fn(1, async |message: Inbound| message);
    let server = TestServer::start(journal.hooks(server)).await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    const SENT: u32 = 2_000;
    over_its_rate(&mut client, SENT).await;
    half_close(&mut client).await;
    assert_eq!(events.stopped().await, (id, CloseReason::PeerClosed));
    all_places_free(server.handle()).await;
    let mut replies = 0;
    while client.recv().await.is_some() {
        replies += 1;
    }
    // At least what it may send at once, and not what would have taken minutes.
    assert!((10..60).contains(&replies), "{replies}");
    let Stats { rate_drops, bytes_unhandled, frames_cut, .. } = server.handle().stats();
    let frame = 12;
    // What was still in the system's buffer is counted in bytes.
    let dropped = rate_drops + bytes_unhandled / frame;
    assert!(rate_drops > 0 && frames_cut == 0);
    assert_eq!(replies + dropped, u64::from(SENT));
    server.stop().await.unwrap();
}

/// A route function and an actor that wait until the test ends.
fn waits_for_ever(server: Server) -> (Server, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (began, begun) = unbounded_channel();
    let in_actor = began.clone();
    let server = server
        .route_fn(1, async move |message: Inbound| {
            began.send(()).unwrap();
            std::future::pending::<()>().await;
            message
        })
        .route(2, move || {
            let began = in_actor.clone();
            Drives(move |message: Inbound| {
                let began = began.clone();
                async move {
                    began.send(()).unwrap();
                    std::future::pending::<()>().await;
                    drop(message);
                }
            })
        });
    (server, begun)
}

#[actix::test]
async fn g19_a_peer_that_resets_under_a_handler_that_waits_gives_its_place_back() {
    // A function, an actor with one message, and one with a full window.
    for (id, messages) in [(1, 1), (2, 1), (2, 100)] {
        let settings = patient(|s| {
            s.max_worker_task_len = 4;
            // The handlers never end.
            s.drain_deadline_ms = 1_000;
        });
        let (server, mut begun) = waits_for_ever(Server::new(settings));
        let server = TestServer::start(server).await;
        let mut client = connect(server.addr()).await;
        let frames = encoded((0..messages).map(|_| Frame::new(id, "do")));
        within(write(client.stream(), &frames)).await.unwrap();
        within(begun.recv()).await.unwrap();
        assert_eq!(server.handle().connections().len(), 1);
        client.reset();
        all_places_free(server.handle()).await;
        let endings = server.handle().stats().endings;
        assert_eq!(endings.io, 1, "{endings:?}");
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g19_a_peer_that_resets_under_a_full_outbox_gives_its_place_back() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(Server::new(patient(|_| {})))).await;
    let client = connect_narrow(server.addr(), 8 * 1024).await;
    let id = events.started().await;
    let conn: Conn = server.handle().connections().get(id).unwrap();
    while conn.send_buffered(1, vec![0; 60 * 1024]).is_ok() {
        tokio::task::yield_now().await;
    }
    client.reset();
    let (ended, why) = events.stopped().await;
    // A write finds another word for it than a read.
    assert!(ended == id && matches!(why, CloseReason::Io(_)), "{why}");
    all_places_free(server.handle()).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g19_a_peer_that_closed_its_side_gets_the_reply_that_a_handler_is_working_at() {
    let (began, mut begun) = unbounded_channel();
    let release = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let gate = std::sync::Arc::clone(&release);
    let server = Server::new(patient(|_| {})).route_fn(1, async move |message: Inbound| {
        began.send(()).unwrap();
        gate.acquire().await.unwrap().forget();
        message
    });
    let server = TestServer::start(server).await;
    let mut client = connect(server.addr()).await;
    client.send(1, "first").await;
    client.send(1, "second").await;
    within(begun.recv()).await.unwrap();
    half_close(&mut client).await;
    release.add_permits(2);
    assert_eq!(client.recv().await, Some(Frame::new(1, "first")));
    assert_eq!(client.recv().await, Some(Frame::new(1, "second")));
    assert_eq!(client.recv().await, None);
    all_places_free(server.handle()).await;
    assert_eq!(server.handle().stats().endings.peer_closed, 1);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g19_a_peer_that_closed_its_side_is_waited_for_no_longer_than_half_closed_ms() {
    for id in [1, 2] {
        let settings = patient(|s| s.half_closed_ms = 100);
        let (journal, mut events) = journal();
        let (server, mut begun) = waits_for_ever(Server::new(settings));
        let server = TestServer::start(journal.hooks(server)).await;
        let mut client = connect(server.addr()).await;
        client.send(id, "do").await;
        within(begun.recv()).await.unwrap();
        half_close(&mut client).await;
        assert_eq!(events.stopped().await.1, CloseReason::PeerClosed);
        all_places_free(server.handle()).await;
        let Stats { cut_short, messages_unfinished, .. } = server.handle().stats();
        assert_eq!((cut_short, messages_unfinished), (1, 1));
        server.stop().await.unwrap();
    }
}
