//! Requests and their answers.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use zinxide::client::{ClientState, RequestError};
use zinxide::testing::{TestClient, within};
use zinxide::{CloseReason, Frame, Inbound, SendError};

use super::support::{LONG, Peer, Port, client, connected, pair};

const SHORT: Duration = Duration::from_millis(20);

#[actix::test]
async fn answers_go_to_requests_in_their_order_and_other_messages_to_their_routes() {
    let peer = Peer::listen();
    let (tell, told) = mpsc::channel();
    let client = client(peer.endpoint()).route_fn(2, async move |msg: Inbound| {
        tell.send(msg.payload().to_vec()).unwrap();
    });
    let client = within(client.connect()).await.unwrap();
    let mut end = peer.accept().await;
    let server = async {
        end.send(2, "before").await;
        for _ in 0..3 {
            let Frame { payload, .. } = end.recv().await.unwrap();
            end.send(2, payload).await;
        }
        end.send(2, "after").await;
        // Behind all of them.
        end.recv().await.unwrap();
        end.send(3, "").await;
    };
    let requests = async {
        // The message that nobody asked for comes first: it must have come before there is a request.
        let first =
            async { tokio::task::spawn_blocking(move || (told.recv(), told)).await.unwrap() };
        let (before, told) = first.await;
        assert_eq!(before.unwrap(), b"before");
        let (a, b, c) = tokio::join!(
            client.request(1, "a", 2, LONG),
            client.request(1, "b", 2, LONG),
            client.request(1, "c", 2, LONG),
        );
        assert_eq!([a, b, c].map(Result::unwrap), ["a", "b", "c"].map(Bytes::from));
        client.request(1, "last", 3, LONG).await.unwrap();
        assert_eq!(told.recv().unwrap(), b"after");
    };
    within(async { tokio::join!(server, requests) }).await;
}

#[actix::test]
async fn a_late_answer_is_counted_and_not_taken_for_the_next_one() {
    let (client, mut end, _peer) = pair().await;
    assert_eq!(client.request(1, "one", 2, SHORT).await, Err(RequestError::Late));
    let server = async {
        for _ in 0..2 {
            let Frame { payload, .. } = end.recv().await.unwrap();
            end.send(2, payload).await;
        }
    };
    let (two, ()) = tokio::join!(within(client.request(1, "two", 2, LONG)), server);
    assert_eq!(two.unwrap(), "two");
    assert_eq!(client.stats().answers_too_late, 1);
}

#[actix::test]
async fn however_slow_a_server_is_a_request_gets_its_own_answer_or_none() {
    let (client, mut end, _peer) = pair().await;
    let server = actix::spawn(async move {
        // Two requests behind, always.
        let mut behind = VecDeque::new();
        while let Some(Frame { payload, .. }) = end.recv().await {
            let left = if payload == "all" { 0 } else { 2 };
            behind.push_back(payload);
            while behind.len() > left {
                end.send(2, behind.pop_front().unwrap()).await;
            }
        }
    });
    for n in 0..7 {
        let answer = client.request(1, n.to_string(), 2, SHORT).await;
        assert_eq!(answer, Err(RequestError::Late), "{n}");
    }
    let answer = within(client.request(1, "all", 2, LONG)).await;
    assert_eq!(answer.unwrap(), "all");
    assert_eq!(client.stats().answers_too_late, 7);
    drop(client);
    within(server).await.unwrap();
}

/// Answers all requests but the first, until the connection ends.
async fn answer_all_but_the_first(mut end: TestClient) {
    end.recv().await.unwrap();
    while let Some(Frame { payload, .. }) = end.recv().await {
        end.send(2, payload).await;
    }
}

#[actix::test]
async fn an_answer_that_never_comes_costs_eight_further_requests_and_the_connection() {
    let (client, end, peer) = pair().await;
    let server = actix::spawn(answer_all_but_the_first(end));
    for n in 0..8 {
        let answer = client.request(1, n.to_string(), 2, SHORT).await;
        assert_eq!(answer, Err(RequestError::Late), "{n}");
    }
    let eighth = within(client.request(1, "8", 2, LONG)).await;
    assert_eq!(eighth, Err(RequestError::Disconnected(CloseReason::OutOfStep(2))));
    within(server).await.unwrap();
    assert_eq!(client.stats().answers_too_late, 8);

    let mut end = peer.accept().await;
    connected(&client, 1).await;
    assert_eq!(client.stats().endings.out_of_step, 1);
    let server = async {
        let Frame { payload, .. } = end.recv().await.unwrap();
        end.send(2, payload).await;
    };
    let (healed, ()) =
        within(async { tokio::join!(client.request(1, "healed", 2, LONG), server) }).await;
    assert_eq!(healed.unwrap(), "healed");
}

#[actix::test]
async fn without_reconnection_a_client_ends_with_a_connection_that_is_out_of_step() {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).no_reconnect().connect()).await.unwrap();
    let server = actix::spawn(answer_all_but_the_first(peer.accept().await));
    for _ in 0..8 {
        client.request(1, "", 2, SHORT).await.unwrap_err();
    }
    within(client.request(1, "", 2, LONG)).await.unwrap_err();
    within(client.wait_for(ClientState::is_closed)).await;
    within(server).await.unwrap();
}

#[actix::test]
async fn a_server_that_never_answers_costs_a_bounded_memory_and_then_the_connection() {
    let (client, mut end, peer) = pair().await;
    let server = actix::spawn(async move { while end.recv().await.is_some() {} });
    let mut given_up = 0;
    while client.stats().endings.out_of_step == 0 {
        // Sent at the first look at it, unless there is no connection any more.
        let request = client.request(1, "", 2, LONG);
        let _ = tokio::time::timeout(Duration::ZERO, request).await;
        given_up += 1;
        assert!(given_up <= 2000);
        tokio::task::yield_now().await;
    }
    assert!(given_up > 1024, "{given_up}");
    within(server).await.unwrap();
    peer.accept().await;
    connected(&client, 1).await;
}

#[actix::test]
async fn a_disconnect_fails_the_requests_and_forgets_their_places() {
    let (client, mut end, peer) = pair().await;
    let server = async {
        for _ in 0..2 {
            end.recv().await.unwrap();
        }
        drop(end);
    };
    let both =
        async { tokio::join!(client.request(1, "a", 2, LONG), client.request(1, "b", 2, LONG)) };
    let ((a, b), ()) = within(async { tokio::join!(both, server) }).await;
    let closed = || Err(RequestError::Disconnected(CloseReason::PeerClosed));
    assert_eq!((a, b), (closed(), closed()));

    let mut end = peer.accept().await;
    connected(&client, 1).await;
    let server = async {
        end.recv().await.unwrap();
        end.send(2, "c").await;
    };
    let (c, ()) = within(async { tokio::join!(client.request(1, "c", 2, LONG), server) }).await;
    assert_eq!(c.unwrap(), "c");
}

#[actix::test]
async fn answers_that_came_before_the_server_closed_are_answers() {
    let (client, mut end, _peer) = pair().await;
    let server = async {
        end.recv().await.unwrap();
        end.send(2, "last words").await;
        drop(end);
    };
    let (answer, ()) = within(async { tokio::join!(client.request(1, "", 2, LONG), server) }).await;
    assert_eq!(answer.unwrap(), "last words");
}

#[actix::test]
async fn a_request_without_a_connection_waits_for_one_and_its_deadline_runs() {
    let port = Port::reserve();
    let client = client(port.endpoint()).start().unwrap();
    let late = within(client.request(1, "late", 2, SHORT)).await;
    assert_eq!(late, Err(RequestError::NotSent(Frame::new(1, "late"))));
    // One that nobody waits for any more is not sent, either.
    let given_up = tokio::time::timeout(SHORT, client.request(1, "given up", 2, LONG)).await;
    assert!(given_up.is_err());
    assert_eq!(client.queued().frames, 0);

    let server = async {
        let mut end = port.listen().accept().await;
        assert_eq!(end.recv().await, Some(Frame::new(1, "in time")));
        end.send(2, "answer").await;
        end
    };
    let (answer, _end) = tokio::join!(within(client.request(1, "in time", 2, LONG)), server);
    assert_eq!(answer.unwrap(), "answer");
}

#[actix::test]
async fn a_request_that_can_never_be_sent_is_given_back() {
    let (client, _end, _peer) = pair().await;
    let large = Bytes::from(vec![0; 2 * 1024 * 1024]);
    let refused = within(client.request(1, large.clone(), 2, LONG)).await;
    let expected = RequestError::NotAccepted(SendError::TooLarge(Frame::new(1, large)));
    assert_eq!(refused, Err(expected));
}

#[actix::test]
async fn a_request_that_is_given_up_after_it_was_sent_keeps_its_place() {
    let (client, mut end, _peer) = pair().await;
    let given_up = tokio::time::timeout(SHORT, client.request(1, "one", 2, LONG)).await;
    assert!(given_up.is_err());
    let server = async {
        for answer in ["for nobody", "for two"] {
            end.recv().await.unwrap();
            end.send(2, answer).await;
        }
    };
    let (two, ()) = within(async { tokio::join!(client.request(1, "two", 2, LONG), server) }).await;
    assert_eq!(two.unwrap(), "for two");
}
