//! What is sent while there is no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use zinxide::client::{ClientState, RequestError, WhenQueueFull};
use zinxide::testing::within;
use zinxide::{Frame, SendError, Settings};

use super::support::{LONG, Peer, Port, client, connected, numbers, recv_numbers};

#[actix::test]
async fn what_is_sent_before_there_is_a_server_is_sent_first_and_in_order() {
    let port = Port::reserve();
    let client = client(port.endpoint())
        .on_conn_start(|conn| conn.send_buffered(0, "0").unwrap())
        .start()
        .unwrap();
    assert!(matches!(client.state(), ClientState::Connecting | ClientState::Disconnected(_)));
    client.send(1, "1").await.unwrap();
    client.send_buffered(1, "2").unwrap();
    let asked = async { client.request(1, "3", 9, LONG).await };
    let rest = async {
        // It is queued when it has been polled once, before this.
        client.send_buffered(1, "4").unwrap();
        let mut end = port.listen().accept().await;
        assert_eq!(recv_numbers(&mut end, 5).await, [0, 1, 2, 3, 4]);
        end.send(9, "answer").await;
        end
    };
    let (answer, _end) = within(async { tokio::join!(biased; asked, rest) }).await;
    assert_eq!(answer.unwrap(), "answer");
}

#[actix::test]
async fn a_full_queue_gives_frames_back_and_senders_wait() {
    for (frames, bytes) in [(2, 1000), (1000, 18)] {
        let port = Port::reserve();
        let client = client(port.endpoint())
            .offline_queue(frames, bytes, WhenQueueFull::Refuse)
            .start()
            .unwrap();
        client.send_buffered(1, "1").unwrap();
        client.send_buffered(1, "2").unwrap();
        let refused = client.send_buffered(1, "3");
        assert_eq!(refused, Err(SendError::Full(Frame::new(1, "3"))));
        assert_eq!((client.queued().frames, client.queued().bytes), (2, 18));
        let sent = async {
            client.send(1, "3").await.unwrap();
            client.send(1, "4").await.unwrap();
        };
        let received = async {
            let mut end = port.listen().accept().await;
            recv_numbers(&mut end, 4).await
        };
        let ((), received) = within(async { tokio::join!(sent, received) }).await;
        assert_eq!(received, [1, 2, 3, 4]);
        assert_eq!(client.stats().queue_dropped, 0);
    }
}

#[actix::test]
async fn a_full_queue_drops_the_oldest_or_the_newest_and_counts_them() {
    let cases = [(WhenQueueFull::DropOldest, [4, 5, 6]), (WhenQueueFull::DropNewest, [1, 2, 3])];
    for (policy, kept) in cases {
        let port = Port::reserve();
        let client = client(port.endpoint()).offline_queue(3, 1000, policy).start().unwrap();
        for number in 1..=6 {
            client.send_buffered(1, number.to_string()).unwrap();
        }
        assert_eq!(client.stats().queue_dropped, 3);
        let mut end = port.listen().accept().await;
        assert_eq!(recv_numbers(&mut end, 3).await, kept, "{policy:?}");
    }
}

#[actix::test]
async fn a_request_that_is_displaced_is_given_back() {
    let port = Port::reserve();
    let client =
        client(port.endpoint()).offline_queue(1, 1000, WhenQueueFull::DropOldest).start().unwrap();
    let asked = async { client.request(1, "asked", 2, LONG).await };
    let later = async { client.send_buffered(1, "later") };
    let (asked, later) = within(async { tokio::join!(biased; asked, later) }).await;
    assert_eq!(asked, Err(RequestError::Displaced(Frame::new(1, "asked"))));
    assert_eq!(later, Ok(()));
    assert_eq!(client.stats().queue_dropped, 1);
}

#[actix::test]
async fn a_queue_larger_than_the_outbox_is_sent_in_order_with_what_comes_meanwhile() {
    let port = Port::reserve();
    let settings = Settings { max_msg_chan_len: 2, ..Settings::default() };
    let client = client(port.endpoint())
        .settings(settings)
        .offline_queue(100, 10_000, WhenQueueFull::Refuse)
        .start()
        .unwrap();
    for number in 0..100 {
        client.send_buffered(1, number.to_string()).unwrap();
    }
    let sent = async {
        for number in 100..300 {
            client.send(1, number.to_string()).await.unwrap();
        }
    };
    let received = async {
        let mut end = port.listen().accept().await;
        recv_numbers(&mut end, 300).await
    };
    let ((), received) = within(async { tokio::join!(sent, received) }).await;
    assert_eq!(received, (0..300).collect::<Vec<_>>());
}

#[actix::test]
async fn frames_come_in_order_and_none_is_lost_silently_however_often_the_connection_ends() {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).connect()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let sender = {
        let (client, done) = (client.clone(), Arc::clone(&done));
        actix::spawn(async move {
            let mut accepted = 0;
            let mut number = 0;
            while !done.load(Relaxed) {
                let payload = number.to_string();
                let sent = match number % 3 {
                    0 => client.send_buffered(1, payload).is_ok(),
                    1 => client.send(1, payload).await.is_ok(),
                    _ => !matches!(
                        client.request(1, payload, 2, Duration::from_millis(1)).await,
                        Err(RequestError::NotSent(_) | RequestError::NotAccepted(_))
                    ),
                };
                accepted += u64::from(sent);
                number += 1;
                tokio::task::yield_now().await;
            }
            accepted
        })
    };
    let (tell, mut received) = tokio::sync::mpsc::unbounded_channel();
    actix::spawn(async move {
        loop {
            let frames = peer.accept().await.recv_to_end().await;
            if tell.send(frames).is_err() {
                return;
            }
        }
    });
    // The client ends its connections itself, so that the peer gets all that the system took.
    let mut last = 0;
    for _ in 0..20 {
        let conn = connected(&client, last).await;
        last = conn.id();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        conn.stop();
    }
    done.store(true, Relaxed);
    let accepted = within(sender).await.unwrap();
    let left = within(client.close()).await;
    let stats = client.stats();
    let mut frames = Vec::new();
    for _ in 0..stats.admitted {
        frames.extend(within(received.recv()).await.unwrap());
    }
    let numbers = numbers(&frames);
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice");
    assert_eq!(numbers.len() as u64 + stats.frames_cut + left.len() as u64, accepted);
    assert!(stats.admitted >= 20 && numbers.len() > 100, "{} of {accepted}", numbers.len());
}

#[actix::test]
async fn a_payload_whose_drop_panics_does_no_harm_to_the_client() {
    struct Dangerous;
    impl AsRef<[u8]> for Dangerous {
        fn as_ref(&self) -> &[u8] {
            b"1"
        }
    }
    impl Drop for Dangerous {
        fn drop(&mut self) {
            panic!("of the test");
        }
    }
    let port = Port::reserve();
    let client = client(port.endpoint()).start().unwrap();
    client.send_buffered(1, bytes::Bytes::from_owner(Dangerous)).unwrap();
    client.send_buffered(1, "2").unwrap();
    let mut end = port.listen().accept().await;
    assert_eq!(recv_numbers(&mut end, 2).await, [1, 2]);
    assert!(within(client.close()).await.is_empty());
}
