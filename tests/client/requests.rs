//! Requests and their answers.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use zinxide::client::RequestError;
use zinxide::testing::within;
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
async fn an_answer_that_never_comes_costs_one_further_request() {
    let (client, mut end, _peer) = pair().await;
    assert_eq!(client.request(1, "lost", 2, SHORT).await, Err(RequestError::Late));
    let server = async {
        end.recv().await.unwrap();
        for _ in 0..4 {
            let Frame { payload, .. } = end.recv().await.unwrap();
            end.send(2, payload).await;
        }
    };
    let requests = async {
        assert_eq!(client.request(1, "robbed", 2, SHORT).await, Err(RequestError::Late));
        for payload in ["healed", "and", "well"] {
            assert_eq!(client.request(1, payload, 2, LONG).await.unwrap(), payload);
        }
    };
    within(async { tokio::join!(server, requests) }).await;
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
