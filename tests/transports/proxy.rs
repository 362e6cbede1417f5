//! The PROXY protocol: who is behind a balancer.

use std::net::SocketAddr;

use zinxide::testing::TestClient;
use zinxide::{Frame, Settings};

use super::support::{ECHO, Watched, at, frame};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of version 2 for the same addresses, with something a balancer adds (a no-op).
fn v2() -> Vec<u8> {
    let addresses = [203, 0, 113, 7, 192, 0, 2, 1, 0x0f, 0xa0, 0x01, 0xbb];
    [SIGNATURE, &[0x21, 0x11, 0, 16], &addresses, &[4, 0, 1, 0]].concat()
}

fn v2_local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

fn behind_balancers() -> Settings {
    let mut settings = at(&["tcp://127.0.0.1:0"]);
    settings.proxy_from = vec!["127.0.0.1".parse().unwrap()];
    settings
}

/// Sends these bytes and an echo behind them. Answers who the server takes the peer for.
async fn introduced(watched: &mut Watched, header: &[u8]) -> SocketAddr {
    let mut client = TestClient::connect(watched.server.addr()).await;
    client.send_bytes(&[header, &frame(ECHO, b"x")].concat()).await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "x")));
    watched.started().await.peer_addr()
}

#[actix::test]
async fn a_peer_is_who_the_balancer_says() {
    let mut watched = Watched::start(behind_balancers()).await;
    let peer: SocketAddr = "203.0.113.7:4000".parse().unwrap();
    for header in [V1.to_vec(), v2()] {
        assert_eq!(introduced(&mut watched, &header).await, peer);
    }
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n";
    assert_eq!(introduced(&mut watched, six).await, "[2001:db8::7]:4000".parse().unwrap());
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn the_connection_knows_which_address_its_peer_dialled() {
    let mut watched = Watched::start(behind_balancers()).await;
    let mut client = TestClient::connect(watched.server.addr()).await;
    client.send_bytes(V1).await;
    assert_eq!(watched.started().await.local_addr(), "192.0.2.1:443".parse().unwrap());
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_balancer_that_speaks_for_itself_keeps_its_address() {
    let mut watched = Watched::start(behind_balancers()).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), b"PROXY UNKNOWN a b\r\n".to_vec(), v2_local()] {
        assert!(introduced(&mut watched, &header).await.ip().is_loopback());
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_header_may_come_a_byte_at_a_time() {
    let mut watched = Watched::start(behind_balancers()).await;
    for header in [V1.to_vec(), v2()] {
        let mut client = TestClient::connect(watched.server.addr()).await;
        client.stream().set_nodelay(true).unwrap();
        for byte in [&header[..], &frame(ECHO, b"x")].concat() {
            client.send_bytes(&[byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.recv().await, Some(Frame::new(ECHO, "x")));
        assert_eq!(watched.started().await.peer_addr().port(), 4000);
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn limits_and_lists_are_for_the_peer_and_not_for_the_balancer() {
    let mut settings = behind_balancers();
    settings.max_conn_per_ip = 1;
    settings.deny = vec!["198.51.100.0/24".parse().unwrap()];
    let mut watched = Watched::start(settings).await;
    let mut first = TestClient::connect(watched.server.addr()).await;
    first.send_bytes(V1).await;
    watched.started().await;
    for header in [V1, b"PROXY TCP4 198.51.100.1 192.0.2.1 4000 443\r\n"] {
        let mut client = TestClient::connect(watched.server.addr()).await;
        client.send_bytes(header).await;
        assert_eq!(client.recv().await, None);
    }
    let other = b"PROXY TCP4 203.0.113.8 192.0.2.1 4000 443\r\n";
    introduced(&mut watched, other).await;
    let refusals = watched.server.handle().stats().refusals;
    assert_eq!((refusals.too_many_of_ip, refusals.denied), (1, 1));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_is_no_balancer_cannot_pretend_to_be_another() {
    let mut settings = behind_balancers();
    settings.proxy_from = vec!["192.0.2.0/24".parse().unwrap()];
    let mut watched = Watched::start(settings).await;
    assert!(introduced(&mut watched, b"").await.ip().is_loopback());
    let mut liar = TestClient::connect(watched.server.addr()).await;
    liar.send_bytes(V1).await;
    assert_eq!(liar.recv().await, None, "what it sends is no frame");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_balancer_without_a_good_header_is_refused_and_told_of() {
    let watched = Watched::start(behind_balancers()).await;
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let huge = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let short = [SIGNATURE, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat();
    let version = [SIGNATURE, &[0x31, 0x11, 0, 0]].concat();
    let mut datagrams = v2();
    datagrams[13] = 0x12;
    let bad = [
        frame(ECHO, b"no header").as_slice(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 99999\r\n",
        b"PROXY TCP4 nobody 192.0.2.1 4000 443\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &long,
        &huge,
        &short,
        &version,
        &datagrams,
    ]
    .map(<[u8]>::to_vec);
    for header in &bad {
        let mut client = TestClient::connect(watched.server.addr()).await;
        client.send_bytes(header).await;
        assert_eq!(client.recv().await, None);
    }
    let stats = watched.server.handle().stats();
    assert_eq!(stats.refusals.no_proxy_header, bad.len() as u64);
    assert_eq!((stats.admitted, stats.refused), (0, bad.len() as u64));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn balancers_that_say_nothing_hold_nobody_up_and_not_for_ever() {
    let mut settings = behind_balancers();
    settings.handshake_deadline_ms = 300;
    let mut watched = Watched::start(settings).await;
    let mut silent = TestClient::connect(watched.server.addr()).await;
    let mut halfway = TestClient::connect(watched.server.addr()).await;
    halfway.send_bytes(&V1[..20]).await;
    introduced(&mut watched, V1).await;
    assert_eq!(silent.recv().await, None);
    assert_eq!(halfway.recv().await, None);
    assert_eq!(watched.server.handle().stats().refusals.no_proxy_header, 2);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn the_header_counts_against_the_deadline_of_all_handshakes() {
    let mut settings = behind_balancers();
    settings.handshake_deadline_ms = 400;
    settings.listen = vec!["tcp://127.0.0.1:0".parse().unwrap()];
    let watched = Watched::start(settings).await;
    let mut client = TestClient::connect(watched.server.addr()).await;
    let began = std::time::Instant::now();
    client.send_bytes(&V1[..20]).await;
    assert_eq!(client.recv().await, None);
    assert!(began.elapsed() >= std::time::Duration::from_millis(400), "not before it is over");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_balancer_that_only_looks_whether_the_port_is_there_is_not_refused() {
    let mut watched = Watched::start(behind_balancers()).await;
    drop(TestClient::connect(watched.server.addr()).await);
    introduced(&mut watched, V1).await;
    assert_eq!(watched.server.handle().stats().refused, 0);
    watched.server.stop().await.unwrap();
}
