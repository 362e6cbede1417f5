//! The end of a client.

use std::sync::mpsc;

use actix::System;
use zinxide::client::{Client, ClientState, RequestError};
use zinxide::testing::{TestServer, settings, within};
use zinxide::{CloseReason, Frame, Inbound, SendError, Server};

use super::support::{LONG, Peer, Port, client, of_server, pair, recv_numbers};

#[actix::test]
async fn close_writes_what_was_accepted() {
    let (client, mut end, _peer) = pair().await;
    for number in 0..1000 {
        client.send_buffered(1, number.to_string()).unwrap();
    }
    let received = async {
        let received = recv_numbers(&mut end, 1000).await;
        assert_eq!(end.recv().await, None);
        received
    };
    let (left, received) = within(async { tokio::join!(client.close(), received) }).await;
    assert_eq!((left, received), (Vec::new(), (0..1000).collect()));
    assert!(client.state().is_closed() && client.conn().is_none());
    let late = client.send(1, "late").await;
    assert_eq!(late, Err(SendError::Closed(Frame::new(1, "late"))));
    assert_eq!(client.stats().frames_cut, 0);
    assert!(within(client.close()).await.is_empty(), "a second close is harmless");
}

#[actix::test]
async fn close_without_a_connection_answers_what_is_queued() {
    let port = Port::reserve();
    let client = client(port.endpoint()).start().unwrap();
    client.send(1, "one").await.unwrap();
    let asked = async { client.request(2, "asked", 3, LONG).await };
    let close = async {
        client.send_buffered(1, "two").unwrap();
        client.close().await
    };
    let (asked, left) = within(async { tokio::join!(biased; asked, close) }).await;
    assert_eq!(left, [Frame::new(1, "one"), Frame::new(1, "two")]);
    let closed = SendError::Closed(Frame::new(2, "asked"));
    assert_eq!(asked, Err(RequestError::NotAccepted(closed)));
    assert_eq!(client.stats().queue_left, 3);
    assert!(client.close().await.is_empty(), "they are answered once");
}

#[actix::test]
async fn close_fails_requests_that_have_no_answer() {
    let (client, mut end, _peer) = pair().await;
    let asked = async { client.request(1, "asked", 2, LONG).await };
    let close = async {
        end.recv().await.unwrap();
        let close = client.close();
        assert_eq!(end.recv().await, None);
        drop(end);
        close.await
    };
    let (asked, _) = within(async { tokio::join!(asked, close) }).await;
    assert_eq!(asked, Err(RequestError::Disconnected(CloseReason::Stopped)));
}

#[actix::test]
async fn the_drop_of_the_last_handle_closes_the_client_and_writes_what_was_accepted() {
    let peer = Peer::listen();
    let (tell, told) = mpsc::channel();
    let client =
        client(peer.endpoint()).on_conn_stop(move |_, why| tell.send(why.clone()).unwrap());
    let client = within(client.connect()).await.unwrap();
    let mut end = peer.accept().await;
    let other = client.clone();
    drop(client);
    other.send_buffered(1, "last").unwrap();
    drop(other);
    assert_eq!(end.recv_to_end().await, [Frame::new(1, "last")]);
    drop(end);
    within(async {
        while told.try_recv() != Ok(CloseReason::Stopped) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[actix::test]
async fn a_connect_that_nobody_waits_for_any_more_leaves_no_client() {
    let peer = Peer::listen();
    let mut connect = Box::pin(client(peer.endpoint()).connect());
    // Far enough to have dialled.
    let polled = tokio::select! {
        biased;
        connected = &mut connect => Some(connected),
        () = tokio::task::yield_now() => None,
    };
    drop((polled, connect));
    let mut end = match tokio::time::timeout(LONG / 100, peer.0.accept()).await {
        Ok(dialled) => dialled.unwrap().0,
        // It had not dialled yet, and never did.
        Err(_) => return,
    };
    let mut rest = Vec::new();
    within(tokio::io::AsyncReadExt::read_to_end(&mut end, &mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[actix::test]
async fn a_handle_works_on_a_thread_without_actix_and_without_timers() {
    fn assert_everywhere<T: Send + Sync + 'static>(_: &T) {}
    let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
    let server = TestServer::start(server).await;
    let client = of_server(&server).await;
    assert_everywhere(&client);
    let elsewhere = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            client.send(1, "nobody waits for this").await.unwrap();
            let answer = client.request(1, "ask", 1, LONG).await.unwrap();
            let late = client.request(1, "ask", 2, std::time::Duration::ZERO).await;
            client.close().await;
            (answer, late)
        })
    };
    let (answer, late) = within(tokio::task::spawn_blocking(elsewhere)).await.unwrap();
    assert!(!answer.is_empty() && late == Err(RequestError::Late));
    server.stop().await.unwrap();
}

#[test]
fn a_client_whose_system_has_ended_is_closed() {
    let system = System::new();
    let (client, _peer) = system.block_on(async {
        let peer = Peer::listen();
        let client = within(client(peer.endpoint()).connect()).await.unwrap();
        (client, peer)
    });
    let asking = client.clone();
    let ask = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(asking.request(1, "", 2, LONG))
    });
    system.block_on(async {
        let conn = client.conn().unwrap();
        // It has been sent when the system has taken it.
        while client.stats().admitted == 0 || conn.unsent().frames > 0 {
            tokio::task::yield_now().await;
        }
    });
    drop(system);
    let asked = ask.join().unwrap();
    assert!(
        matches!(
            asked,
            Err(RequestError::Disconnected(CloseReason::WorkerGone) | RequestError::NotAccepted(_))
        ),
        "{asked:?}"
    );
    assert!(matches!(client.state(), ClientState::Closed(_)));
    assert!(matches!(client.send_buffered(1, ""), Err(SendError::Closed(_))));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(Client::close(&client)).is_empty());
}

#[actix::test]
async fn a_client_runs_on_the_arbiter_where_it_is_started() {
    let peer = Peer::listen();
    let builder = client(peer.endpoint())
        .route_fn(1, async |_: Inbound| (2, format!("{:?}", std::thread::current().id())));
    let arbiter = actix::Arbiter::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        let id = format!("{:?}", std::thread::current().id());
        let _ = tell.send((builder.start().unwrap(), id));
    });
    let (client, id) = within(told).await.unwrap();
    let mut end = peer.accept().await;
    end.send(1, "where?").await;
    assert_eq!(end.recv().await, Some(Frame::new(2, id)));
    // Its end is the client's, however it comes.
    arbiter.stop();
    within(client.wait_for(ClientState::is_closed)).await;
    assert_eq!(end.recv().await, None);
    assert!(client.send_buffered(1, "").is_err());
}

#[actix::test]
async fn a_client_closes_while_a_function_of_wait_for_takes_its_time_and_looks_at_the_state() {
    let (client, _end, _peer) = pair().await;
    let (look, looked) = mpsc::channel();
    let watched = client.clone();
    let thread = std::thread::spawn(move || {
        System::new().block_on(watched.wait_for(|_| {
            look.send(()).unwrap();
            while !watched.state().is_closed() {
                std::thread::yield_now();
            }
            true
        }))
    });
    within(tokio::task::spawn_blocking(move || looked.recv())).await.unwrap().unwrap();
    within(client.close()).await;
    let state = within(tokio::task::spawn_blocking(move || thread.join())).await.unwrap().unwrap();
    assert!(!state.is_closed(), "it was another one when the function was asked");
}
