//! Connections that are lost, and the next ones.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zinxide::client::{Backoff, Client, ClientState};
use zinxide::testing::{TestServer, settings, within};
use zinxide::{Event, Frame, Heartbeat, Inbound, Server, Settings};

use super::support::{LONG, Peer, Port, client, connected, disconnected, endpoint, pair};

#[actix::test]
async fn a_client_survives_the_restart_of_its_server() {
    let server = |settings| Server::new(settings).route_fn(1, async |msg: Inbound| msg);
    let first = TestServer::start(server(settings())).await;
    let addr = first.addr();
    let client = within(client(endpoint(addr)).connect()).await.unwrap();
    assert_eq!(client.request(1, "one", 1, LONG).await.unwrap(), "one");
    first.stop().await.unwrap();
    disconnected(&client).await;
    assert!(client.conn().is_none());
    let queued = client.clone();
    let asked = actix::spawn(async move { queued.request(1, "two", 1, LONG).await });
    let again = TestServer::start(server(Settings { tcp_port: addr.port(), ..settings() })).await;
    assert_eq!(within(asked).await.unwrap().unwrap(), "two");
    assert_eq!(connected(&client, 1).await.id(), 2);
    again.stop().await.unwrap();
}

#[actix::test]
async fn what_is_sent_in_between_comes_on_the_next_connection() {
    let (client, end, peer) = pair().await;
    drop(end);
    disconnected(&client).await;
    client.send(1, "in between").await.unwrap();
    let mut end = peer.accept().await;
    assert_eq!(end.recv().await, Some(Frame::new(1, "in between")));
}

#[actix::test]
async fn what_a_connection_had_accepted_is_counted_and_not_sent_again() {
    let (client, end, peer) = pair().await;
    let conn = client.conn().unwrap();
    // Until the system takes no more, and the outbox neither.
    let unsent = loop {
        while client.send_buffered(1, vec![0; 4096]).is_ok() {}
        let before = conn.unsent();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        if conn.unsent() == before {
            break before.frames as u64;
        }
    };
    end.reset();
    let mut end = peer.accept().await;
    connected(&client, 1).await;
    // Of frames that are written together, some were written.
    let cut = client.stats().frames_cut;
    assert!((unsent - 32..=unsent).contains(&cut), "{cut} of {unsent}");
    client.send(2, "after").await.unwrap();
    assert_eq!(end.recv().await, Some(Frame::new(2, "after")));
}

#[actix::test]
async fn a_server_that_does_not_answer_heartbeats_is_left_for_another_try() {
    let peer = Peer::listen();
    let (tell, told) = mpsc::channel();
    let heartbeat = Heartbeat::every(Duration::from_millis(10)).message(99, |_| "there?");
    let builder = client(peer.endpoint())
        .heartbeat(heartbeat)
        .on_conn_stop(move |_, why| tell.send(why.to_string()).unwrap());
    let client = within(builder.connect()).await.unwrap();
    // It reads, and says nothing.
    let mut dead = peer.accept().await;
    assert_eq!(dead.recv().await, Some(Frame::new(99, "there?")));
    while dead.recv().await.is_some() {}
    drop(dead);
    let mut alive = peer.accept().await;
    assert_eq!(told.recv().unwrap(), "the peer is silent: not alive");
    for _ in 0..10 {
        let beat = alive.recv().await.unwrap();
        alive.send(beat.id, beat.payload).await;
    }
    let conn = connected(&client, 1).await;
    assert!(conn.id() == 2 && conn.rtt().is_some());
    assert_eq!(client.stats().unrouted, 0);
}

#[actix::test]
async fn without_reconnection_a_lost_connection_closes_the_client() {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).no_reconnect().connect()).await.unwrap();
    drop(peer.accept().await);
    within(client.wait_for(ClientState::is_closed)).await;
    assert!(client.send_buffered(1, "too late").is_err());

    let port = Port::reserve();
    let client = Client::builder(port.endpoint()).no_reconnect().start().unwrap();
    client.send_buffered(1, "never").unwrap();
    within(client.wait_for(ClientState::is_closed)).await;
    assert_eq!(client.close().await, [Frame::new(1, "never")]);
}

#[actix::test]
async fn a_client_that_gives_up_has_tried_as_often_as_it_was_told() {
    let port = Port::reserve();
    let (tell, told) = mpsc::channel();
    let client = Client::builder(port.endpoint())
        .reconnect(Backoff::default().first(Duration::from_millis(1)).tries(3))
        .on_event(move |event| {
            if let Event::ConnectFailed { pause, .. } = event {
                tell.send(pause.is_some()).unwrap();
            }
        })
        .start()
        .unwrap();
    within(client.wait_for(ClientState::is_closed)).await;
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(client.stats().connects_failed, 4);
}

/// Takes dials and closes them at once, or keeps each for a time. Answers how many there were.
fn accept_all(peer: Peer, keep: Duration) -> Arc<AtomicUsize> {
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    actix::spawn(async move {
        loop {
            let (stream, _) = peer.0.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
            actix::spawn(async move {
                if !keep.is_zero() {
                    sleep(keep).await;
                }
                drop(stream);
            });
        }
    });
    dials
}

#[actix::test]
async fn a_server_that_takes_dials_and_closes_them_is_not_hammered() {
    tokio::time::pause();
    let peer = Peer::listen();
    let endpoint = peer.endpoint();
    let dials = accept_all(peer, Duration::ZERO);
    let _client = Client::builder(endpoint).start().unwrap();
    sleep(Duration::from_secs(60)).await;
    let dials = dials.load(Relaxed);
    // The pauses are at least 50 ms, 100 ms, 200 ms...: ten of them are 51 s.
    assert!((3..=12).contains(&dials), "{dials} dials in a minute");
}

#[actix::test]
async fn a_connection_that_was_up_for_a_while_makes_the_next_pause_a_short_one() {
    tokio::time::pause();
    let peer = Peer::listen();
    let endpoint = peer.endpoint();
    let dials = accept_all(peer, Duration::from_secs(6));
    let client = Client::builder(endpoint).connect().await.unwrap();
    for last in 1..=8 {
        let since = Instant::now();
        connected(&client, last).await;
        let gap = since.elapsed();
        let longest = Duration::from_millis(6_500);
        assert!(gap <= longest, "{gap:?} from connection {last} to the next");
    }
    assert!(dials.load(Relaxed) >= 9);
}
