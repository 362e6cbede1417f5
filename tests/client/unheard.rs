//! Servers that take a connection and end it before they have sent anything: a full one, perhaps.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep};
use zinxide::client::{Backoff, Client, ClientState, Outage};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Event, Inbound, Server, Settings};

use super::support::{LONG, Peer, client, connected, endpoint};

/// Waits until there is no connection, and returns why.
async fn outage(client: &Client) -> Outage {
    match within(client.wait_for(|state| matches!(state, ClientState::Disconnected(_)))).await {
        ClientState::Disconnected(outage) => outage,
        state => panic!("{state:?}"),
    }
}

const SAYS: &str = "the server closed the connection before it sent anything";

#[actix::test]
async fn a_connection_that_a_silent_server_ends_is_a_failed_attempt() {
    let ends: [fn(TestClient); 2] = [drop, |end| end.reset()];
    for end in ends {
        let peer = Peer::listen();
        let failed = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&failed);
        let (tell, mut started) = unbounded_channel();
        let client = client(peer.endpoint())
            .on_conn_start(move |conn| tell.send(conn.id()).unwrap())
            .on_event(move |event| {
                if let Event::ConnectFailed { .. } = event {
                    seen.lock().unwrap().push(event.to_string());
                }
            });
        // The first attempt of `connect` is over when the socket is connected.
        let client = within(client.connect()).await.unwrap();
        for id in 1..=3 {
            let other = peer.accept().await;
            // A dial that is reset before that has failed by itself.
            assert_eq!(within(started.recv()).await, Some(id));
            end(other);
        }
        let last = peer.accept().await;
        let conn = connected(&client, 3).await;
        assert_eq!((conn.id(), client.stats().connects_failed), (4, 3));
        let failed = std::mem::take(&mut *failed.lock().unwrap());
        assert!(failed.len() == 3 && failed.iter().all(|line| line.contains(SAYS)), "{failed:?}");
        end(last);
        let outage = outage(&client).await;
        assert!(
            matches!(&outage, Outage::Failed(why) if why.to_string().contains(SAYS)),
            "{outage:?}"
        );
    }
}

#[actix::test]
async fn a_connection_on_which_the_server_has_sent_a_byte_is_not() {
    for said in [&[2, 0, 0, 0, 7, 0, 0, 0, 1, 2][..], &[1][..]] {
        let peer = Peer::listen();
        let client = within(client(peer.endpoint()).connect()).await.unwrap();
        let mut end = peer.accept().await;
        end.send_bytes(said).await;
        drop(end);
        let outage = outage(&client).await;
        assert!(matches!(outage, Outage::Ended(_)), "{outage:?}");
        assert_eq!(client.stats().connects_failed, 0);
    }
}

#[actix::test]
async fn the_clients_own_stop_is_no_failed_attempt_although_the_server_was_silent() {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).connect()).await.unwrap();
    client.conn().unwrap().stop();
    connected(&client, 1).await;
    assert_eq!(client.stats().connects_failed, 0);
}

#[actix::test]
async fn the_pauses_grow_while_a_full_server_closes_and_tries_come_to_an_end() {
    let server = Server::new(Settings { max_conn: 1, ..settings() });
    let server = TestServer::start(server.route_fn(1, async |msg: Inbound| msg)).await;
    let first = within(client(endpoint(server.addr())).connect()).await.unwrap();
    within(first.request(1, "", 1, LONG)).await.unwrap();

    let pauses = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&pauses);
    let refused = Client::builder(endpoint(server.addr()))
        .reconnect(Backoff::default().first(Duration::from_millis(2)).tries(4))
        .on_event(move |event| {
            if let Event::ConnectFailed { pause, .. } = event {
                seen.lock().unwrap().push(*pause);
            }
        })
        .start()
        .unwrap();
    let end = within(refused.wait_for(ClientState::is_closed)).await;
    let pauses = std::mem::take(&mut *pauses.lock().unwrap());
    // Each is between a half and the whole of 2, 4, 8, 16 ms.
    let grow = pauses[..4].windows(2).all(|two| two[0] <= two[1]);
    assert!(pauses.len() == 5 && grow && pauses[4].is_none(), "{pauses:?}");
    assert!(
        matches!(&end, ClientState::Closed(Some(Outage::Failed(why))) if why.to_string().contains(SAYS)),
        "{end:?}"
    );
    assert_eq!(refused.stats().connects_failed, 5);
    within(first.request(1, "", 1, LONG)).await.unwrap();
    server.stop().await.unwrap();
}

/// One that only takes what it is sent may be silent for as long as it likes.
#[actix::test]
async fn a_silent_connection_that_was_up_for_a_while_makes_the_next_pause_a_short_one() {
    tokio::time::pause();
    let peer = Peer::listen();
    let client = Client::builder(peer.endpoint()).connect().await.unwrap();
    for last in 1..=8 {
        let end = peer.accept().await;
        sleep(Duration::from_secs(6)).await;
        drop(end);
        let since = Instant::now();
        connected(&client, last).await;
        assert!(since.elapsed() <= Duration::from_millis(500), "{:?}", since.elapsed());
    }
    assert_eq!(client.stats().connects_failed, 8);
}
