//! A server that closes for good, or for a while.

use std::sync::{Arc, Mutex};

use zinxide::client::{ClientState, Outage, RequestError};
use zinxide::testing::within;
use zinxide::{CloseReason, Event, Frame, Goodbye, SendError};

use super::support::{LONG, Peer, client, connected};

/// The last frame of a server that does not want the client back.
const FINAL: u32 = 9;

#[actix::test]
async fn a_client_does_not_come_back_after_a_frame_that_says_so_and_tells_why_it_ends() {
    for reset in [false, true] {
        let peer = Peer::listen();
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        let (tell, mut hooked) = tokio::sync::mpsc::unbounded_channel();
        let client = client(peer.endpoint())
            .final_id(FINAL)
            .on_conn_stop(move |_, why| tell.send(why.clone()).unwrap())
            .on_event(move |event| {
                if let Event::ClientClosed { why, .. } = event {
                    seen.lock().unwrap().push((why.cloned(), event.to_string()));
                }
            });
        let client = within(client.connect()).await.unwrap();
        let mut end = peer.accept().await;
        let asked = async { client.request(1, "asked", 2, LONG).await };
        let closes = async {
            end.recv().await.unwrap();
            end.send(FINAL, "banned").await;
            // A heartbeat, say, which shows that the frame before it has been handled.
            end.send(2, "").await;
        };
        let (answer, ()) = within(async { tokio::join!(asked, closes) }).await;
        answer.unwrap();
        let lost = async { client.request(1, "lost", 2, LONG).await };
        let ends = async {
            end.recv().await.unwrap();
            if reset { end.reset() } else { drop(end) }
        };
        let (lost, ()) = within(async { tokio::join!(lost, ends) }).await;
        let why = CloseReason::PeerClosedFinally;
        assert_eq!(lost, Err(RequestError::Disconnected(why.clone())));
        let state = within(client.wait_for(ClientState::is_closed)).await;
        assert!(
            matches!(&state, ClientState::Closed(Some(Outage::Final(end))) if *end == why),
            "{state:?}"
        );
        assert_eq!(within(hooked.recv()).await, Some(why));
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert!(
            matches!(&told[..], [(Some(Outage::Final(_)), line)]
                if line.ends_with("is closed and does not connect again: closed by the peer for good")),
            "{told:?}"
        );
        let late = client.send(1, "late").await;
        assert_eq!(late, Err(SendError::Closed(Frame::new(1, "late"))));
        assert!(within(client.close()).await.is_empty());
        let stats = client.stats();
        assert_eq!((stats.admitted, stats.endings.peer_closed_finally), (1, 1));
    }
}

#[actix::test]
async fn a_final_frame_counts_also_if_the_client_closes_first() {
    let peer = Peer::listen();
    let client = client(peer.endpoint())
        .final_id(FINAL)
        .route_fn(FINAL, async |msg: zinxide::Inbound| msg.conn().stop());
    let client = within(client.connect()).await.unwrap();
    let mut end = peer.accept().await;
    end.send(FINAL, "").await;
    assert_eq!(end.recv().await, None);
    drop(end);
    let state = within(client.wait_for(ClientState::is_closed)).await;
    assert!(
        matches!(state, ClientState::Closed(Some(Outage::Final(CloseReason::Stopped)))),
        "{state:?}"
    );
}

#[actix::test]
async fn a_frame_with_another_id_and_a_client_that_knows_none_are_no_final_close() {
    for knows in [false, true] {
        let peer = Peer::listen();
        let client = client(peer.endpoint());
        let (client, id) = if knows { (client.final_id(FINAL), 8) } else { (client, FINAL) };
        let client = within(client.connect()).await.unwrap();
        let mut end = peer.accept().await;
        end.send(id, "").await;
        drop(end);
        assert_eq!(connected(&client, 1).await.id(), 2);
    }
}

#[actix::test]
async fn a_clients_own_goodbye_ends_it_if_it_is_final() {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).connect()).await.unwrap();
    let mut end = peer.accept().await;
    let goodbye = |code| Goodbye::new(code, "enough").last_frame((5, "bye"));
    client.conn().unwrap().close_with(goodbye(4500)).unwrap();
    assert_eq!(end.recv_to_end().await, [Frame::new(5, "bye")]);
    drop(end);
    let again = connected(&client, 1).await;
    let mut end = peer.accept().await;
    again.close_with(goodbye(4000)).unwrap();
    assert_eq!(end.recv_to_end().await, [Frame::new(5, "bye")]);
    drop(end);
    let state = within(client.wait_for(ClientState::is_closed)).await;
    assert!(matches!(state, ClientState::Closed(Some(Outage::Final(_)))), "{state:?}");
}
