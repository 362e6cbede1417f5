//! G15: a handle outlives its connection harmlessly.

use std::thread;

use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, Frame, SendError};

use crate::support_flow::{echo, one_worker, server};
use crate::transport::leave;

fn assert_harmless(conn: &Conn) {
    let closed = |payload: &'static str| Err(SendError::Closed(Frame::new(1, payload)));
    assert!(conn.is_closed());
    assert_eq!(conn.send_buffered(1, "a"), closed("a"));
    conn.stop();
    conn.stop();
    assert_eq!(conn.send_buffered(1, "b"), closed("b"));
}

#[actix::test]
async fn g15_after_the_peer_closed_sending_answers_closed_and_stop_does_nothing() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    let peer = conn.peer_addr();
    leave(client).await;
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::PeerClosed));

    assert_harmless(&conn);
    let sent = within(conn.send(1, "c")).await;
    assert_eq!(sent, Err(SendError::Closed(Frame::new(1, "c"))));
    assert_eq!((conn.peer_addr(), conn.local_addr()), (peer, server.addr()));
    // Neither hook is called again, and the server goes on.
    let (mut other, _) = hooked.connect(&server).await;
    echo(&mut other).await;
    assert_eq!(hooked.rest(), (0, vec![]));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g15_after_stop_sending_answers_closed_at_once() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    conn.stop();
    assert_harmless(&conn);
    assert_eq!(client.recv().await, None);
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::Stopped));
    assert_harmless(&conn);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g15_a_send_that_waits_for_room_is_answered_closed_when_its_connection_ends() {
    let settings = one_worker(|settings| settings.max_msg_chan_len = 1);
    let conn = zinxide::testing::conn(1, &settings);
    conn.send_buffered(1, "fills it").unwrap();
    let waiting = {
        let conn = conn.clone();
        actix_rt::spawn(async move { conn.send(2, "waits").await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    conn.stop();
    let answered = within(waiting).await.unwrap();
    assert_eq!(answered, Err(SendError::Closed(Frame::new(2, "waits"))));
}

#[actix::test]
async fn g15_a_handle_outlives_its_server_on_any_thread() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let handle = server.handle().clone();
    let (_client, conn) = hooked.connect(&server).await;
    server.stop().await.unwrap();
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::Shutdown));

    thread::spawn(move || assert_harmless(&conn)).join().unwrap();
    assert_eq!(hooked.rest(), (0, vec![]));
    // The server's handle, too.
    within(handle.stop()).await;
    assert_eq!(within(handle.clear_conn()).await, 0);
    assert_eq!(within(handle.broadcast((1, "x"))).await.unwrap().accepted, 0);
    assert!(handle.connections().is_empty());
}

#[actix::test]
async fn g15_stopping_a_dead_connection_does_not_touch_the_one_that_came_after_it() {
    let (server, mut hooked) = server(one_worker(|settings| settings.max_conn = 1));
    let server = TestServer::start(server).await;
    let (client, old) = hooked.connect(&server).await;
    drop(client);
    hooked.stopped().await;
    // The place in the table is free a moment after the hook.
    within(async {
        while !server.handle().connections().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut client, new) = hooked.connect(&server).await;
    assert_harmless(&old);
    echo(&mut client).await;
    assert!(!new.is_closed());
    server.stop().await.unwrap();
}
