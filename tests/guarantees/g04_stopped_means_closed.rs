//! G4: `stop`, `Remove` of a live connection and `ClearConn` close the socket of a silent peer too.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use zinxide::conn_manager::{Get, Remove};
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, ConnId, Server};

use crate::support::{Events, journal, tuned, whole_frames};
use crate::transport::{TestClient, begin_frame, connect, connect_passive, settings};

/// A server with one connection whose peer says nothing.
async fn silent(server: Server) -> (TestServer, Events, TestClient, Conn) {
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(server)).await;
    let client = connect(server.addr()).await;
    let id: ConnId = events.started().await;
    let conn = server.handle().conn_manager().send(Get(id)).await.unwrap().unwrap();
    (server, events, client, conn)
}

/// The other side has closed its socket, not merely its writing half: it answers what it is sent
/// with a reset.
async fn assert_closed(mut client: TestClient) {
    assert_eq!(client.recv().await, None);
    let socket = client.stream().socket();
    let refused = async { while socket.write_all(b"?").await.is_ok() {} };
    within(refused).await;
}

#[actix::test]
async fn g4_stop_closes_the_socket_of_a_silent_peer() {
    let (server, mut events, client, conn) = silent(Server::new(settings())).await;
    conn.stop();
    assert_closed(client).await;
    assert_eq!(events.stopped().await, (conn.id(), CloseReason::Stopped));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g4_remove_closes_the_socket_of_a_silent_peer_before_it_answers() {
    let (server, _events, client, conn) = silent(Server::new(settings())).await;
    within(server.handle().conn_manager().send(Remove(conn.id()))).await.unwrap().unwrap();
    assert!(conn.is_closed());
    assert_closed_already(client);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g4_clear_conn_closes_the_sockets_of_silent_peers_before_it_answers() {
    let (server, mut events, client, _) = silent(Server::new(settings())).await;
    let mut clients = vec![client];
    for _ in 0..20 {
        clients.push(connect(server.addr()).await);
        events.started().await;
    }
    assert_eq!(within(server.handle().clear_conn()).await, 21);
    for client in clients {
        assert_closed_already(client);
    }
    server.stop().await.unwrap();
}

/// Over WebSocket the peer is to answer the server's close frame, which is waited for, and not for ever.
#[actix::test]
async fn g4_a_peer_that_does_not_answer_is_closed_too() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(Server::new(settings()))).await;
    let client = connect_passive(server.addr()).await;
    let id = events.started().await;
    within(server.handle().conn_manager().send(Remove(id))).await.unwrap().unwrap();
    assert_closed_already(client);
    assert_eq!(events.stopped().await, (id, CloseReason::Removed));
    server.stop().await.unwrap();
}

/// Asks the system, not a reactor that may not have heard of it yet.
fn assert_closed_already(mut client: TestClient) {
    let socket = client.stream().socket().as_fd().try_clone_to_owned().unwrap();
    // What the transport said last may stand before the end.
    let read = std::net::TcpStream::from(socket).read_to_end(&mut Vec::new());
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[actix::test]
async fn g4_a_peer_that_fell_silent_inside_a_frame_is_closed_too() {
    for begun in [&b"\x04\0\0"[..], b"\x04\0\0\0\x01\0\0\0pi"] {
        let (server, mut events, mut client, conn) = silent(Server::new(settings())).await;
        begin_frame(&mut client, 12, begun).await;
        within(server.handle().conn_manager().send(Remove(conn.id()))).await.unwrap().unwrap();
        assert_closed(client).await;
        assert_eq!(events.stopped().await, (conn.id(), CloseReason::Removed));
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g4_a_peer_that_does_not_read_is_closed_when_the_drain_deadline_has_passed() {
    for way in 0..3 {
        let settings = tuned(|s| {
            s.max_msg_chan_bytes = 64 << 20;
            s.drain_deadline_ms = 50;
        });
        let (server, mut events, mut client, conn) = silent(Server::new(settings)).await;
        // More than the kernel keeps for a peer that does not read.
        let payload = Bytes::from(vec![0; 64 << 10]);
        for _ in 0..512 {
            conn.send_buffered(1, payload.clone()).unwrap();
        }
        let manager = server.handle().conn_manager();
        match way {
            0 => conn.stop(),
            1 => within(manager.send(Remove(conn.id()))).await.unwrap().unwrap(),
            _ => assert_eq!(within(server.handle().clear_conn()).await, 1),
        }
        let (id, _) = events.stopped().await;
        assert_eq!(id, conn.id());
        assert!(whole_frames(&mut client).await.len() < 512);
        server.stop().await.unwrap();
    }
}
