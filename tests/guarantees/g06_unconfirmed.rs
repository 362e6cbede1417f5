//! G6, at the end of a connection: what was accepted reaches peers that are behind and speak, or is
//! counted; and nobody waits for a peer whose system has everything.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Frame, Server};

use crate::support::{Event, encoded, journal, tuned};
use crate::transport::{TestClient, connect, connect_narrow, connect_passive, send_raw};

const PEERS: usize = 20;
const PAYLOAD: usize = 60 * 1024;

/// A server with peers each of which was sent three large frames that it has not read.
async fn behind() -> (TestServer, Vec<TestClient>) {
    let (journal, mut events) = journal();
    let settings = tuned(|s| {
        s.drain_deadline_ms = 60_000;
        s.linger_ms = 60_000;
    });
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let mut clients = Vec::new();
    for _ in 0..PEERS {
        clients.push(connect(server.addr()).await);
        let id = events.started().await;
        let conn = server.handle().connections().get(id).unwrap();
        for n in 0..3 {
            conn.send_buffered(n, vec![n as u8; PAYLOAD]).unwrap();
        }
    }
    (server, clients)
}

#[actix::test]
async fn g6_peers_that_are_behind_and_speak_after_a_stop_began_get_all_that_was_accepted() {
    let (server, clients) = behind().await;
    let stopping = server.handle().stop();
    let frame = encoded([Frame::new(7, "late")]);
    let mut reading = Vec::new();
    for mut client in clients {
        // The server may have ended its side by now. One that reset the connection lost what is unread.
        let _ = client.stream().write_all(&frame).await;
        let _ = client.stream().flush().await;
        reading.push(actix_rt::spawn(async move {
            let mut lens = Vec::new();
            while let Some(frame) = client.recv().await {
                lens.push(frame.payload.len());
            }
            lens
        }));
    }
    for peer in reading {
        assert_eq!(within(peer).await.unwrap(), [PAYLOAD; 3]);
    }
    within(stopping).await;
    let report = server.ended().await.unwrap();
    assert_eq!((report.frames_cut, report.unconfirmed, report.cut), (0, 0, 0), "{report}");
}

#[actix::test]
async fn g6_a_connection_whose_peer_acknowledges_not_all_within_the_linger_is_unconfirmed() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| s.linger_ms = 100);
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let _client = connect_narrow(server.addr(), 2048).await;
    let id = events.started().await;
    let conn = server.handle().connections().get(id).unwrap();
    // The system takes a write whole; the peer's takes only the beginning.
    conn.send_buffered(1, vec![0; 12 * 1024]).unwrap();
    conn.stop();
    assert_eq!(events.stopped().await, (id, CloseReason::Stopped));
    let stats = server.handle().stats();
    assert_eq!((stats.unconfirmed, stats.frames_cut), (1, 0));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g6_a_connection_that_is_reset_in_its_linger_with_bytes_on_their_way_is_unconfirmed() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| s.linger_ms = 60_000);
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let client = connect_narrow(server.addr(), 2048).await;
    let id = events.started().await;
    let conn = server.handle().connections().get(id).unwrap();
    conn.send_buffered(1, vec![0; 12 * 1024]).unwrap();
    conn.stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // What it has not read makes its system reset the connection.
    drop(client);
    assert_eq!(events.stopped().await, (id, CloseReason::Stopped));
    let stats = server.handle().stats();
    assert_eq!((stats.unconfirmed, stats.frames_cut), (1, 0));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g6_a_stop_waits_for_no_peer_whose_system_has_everything() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| {
        // Longer than a test may take.
        s.drain_deadline_ms = 3_600_000;
        s.linger_ms = 3_600_000;
    });
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let mut clients = Vec::new();
    for _ in 0..PEERS {
        let mut client = connect_passive(server.addr()).await;
        let id = events.started().await;
        server.handle().connections().get(id).unwrap().send_buffered(1, "tick").unwrap();
        // It has spoken, and keeps its side open.
        send_raw(&mut client, &[]).await;
        clients.push(client);
    }
    let report = server.stop().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(events.rest().iter().all(|event| matches!(event, Event::Stopped(..))));
}
