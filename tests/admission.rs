//! Who is admitted: limits by address, reserved places, networks, and what becomes of the others.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actix::{Actor, Addr};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{advance, pause};
use zinxide::conn_manager::{Add, AddError, Remove, SetMaxConn};
use zinxide::testing::{TestClient, TestServer, conn_from, settings, within};
use zinxide::{
    ConnManager, Frame, FrameCodec, Inbound, Network, Server, Settings, WhenFull, WireFormat,
};

/// A manager that numbers the connections it is asked to admit.
struct Door {
    manager: Addr<ConnManager>,
    settings: Settings,
    next: u64,
}

impl Door {
    fn new(settings: Settings) -> Self {
        Self { manager: ConnManager::new(&settings).start(), settings, next: 1 }
    }

    async fn dial(&mut self, peer: &str) -> Result<usize, AddError> {
        let peer = SocketAddr::new(peer.parse().unwrap(), 1000);
        let conn = conn_from(self.next, peer, &self.settings);
        self.next += 1;
        within(self.manager.send(Add(conn))).await.unwrap()
    }

    async fn leave(&self, id: u64) {
        within(self.manager.send(Remove(id))).await.unwrap().unwrap();
    }
}

fn networks(all: &[&str]) -> Vec<Network> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

#[actix::test]
async fn an_address_may_have_so_many_connections_and_others_are_not_concerned() {
    let mut door = Door::new(Settings { max_conn_per_ip: 2, ..settings() });
    assert_eq!(door.dial("10.0.0.1").await, Ok(1));
    assert_eq!(door.dial("10.0.0.1").await, Ok(2));
    let refused = door.dial("10.0.0.1").await;
    let from = Network::host("10.0.0.1".parse().unwrap());
    assert_eq!(refused, Err(AddError::TooManyOfIp { from, max: 2 }));
    assert_eq!(refused.unwrap_err().to_string(), "2 connections come from 10.0.0.1");
    // The same address in the clothes of IPv6.
    assert!(door.dial("::ffff:10.0.0.1").await.is_err());
    assert_eq!(door.dial("10.0.0.2").await, Ok(3));
    door.leave(1).await;
    assert_eq!(door.dial("10.0.0.1").await, Ok(3));
    assert!(door.dial("10.0.0.1").await.is_err());
}

#[actix::test]
async fn a_network_of_ipv6_counts_as_one_address() {
    let mut door = Door::new(Settings { max_conn_per_ip: 1, ..settings() });
    assert_eq!(door.dial("2001:db8:0:1::1").await, Ok(1));
    let refused = door.dial("2001:db8:0:1:ffff::2").await.unwrap_err();
    assert_eq!(refused.to_string(), "1 connections come from 2001:db8:0:1::/64");
    assert_eq!(door.dial("2001:db8:0:2::1").await, Ok(2));

    let mut door = Door::new(Settings { max_conn_per_ip: 1, ipv6_prefix: 128, ..settings() });
    assert_eq!(door.dial("2001:db8:0:1::1").await, Ok(1));
    assert_eq!(door.dial("2001:db8:0:1::2").await, Ok(2));
    assert!(door.dial("2001:db8:0:1::2").await.is_err());
}

#[actix::test]
async fn an_address_connects_so_often_and_no_more_whatever_becomes_of_it() {
    pause();
    let limits =
        Settings { rate_connects_per_ip: 2, rate_connects_burst: 3, max_conn: 2, ..settings() };
    let mut door = Door::new(limits);
    assert_eq!(door.dial("10.0.0.1").await, Ok(1));
    assert_eq!(door.dial("10.0.0.1").await, Ok(2));
    assert!(matches!(door.dial("10.0.0.1").await, Err(AddError::Full { .. })), "it pays, too");
    let refused = door.dial("10.0.0.1").await;
    let from = Network::host("10.0.0.1".parse().unwrap());
    assert_eq!(refused, Err(AddError::TooFast { from, per_second: 2 }));
    let words = "10.0.0.1 connects more than 2 times a second";
    assert_eq!(refused.unwrap_err().to_string(), words);
    assert!(matches!(door.dial("10.0.0.2").await, Err(AddError::Full { .. })), "another");
    door.leave(1).await;
    advance(Duration::from_millis(499)).await;
    assert!(matches!(door.dial("10.0.0.1").await, Err(AddError::TooFast { .. })));
    advance(Duration::from_millis(1)).await;
    assert_eq!(door.dial("10.0.0.1").await, Ok(2));
    // One that is denied is not worth a bucket.
    let deny = networks(&["10.0.0.1"]);
    let mut door = Door::new(Settings { rate_connects_per_ip: 1, deny, ..settings() });
    for _ in 0..20 {
        assert!(matches!(door.dial("10.0.0.1").await, Err(AddError::Denied(_))));
    }
}

#[actix::test]
async fn a_network_of_ipv6_has_one_rate() {
    pause();
    let mut door =
        Door::new(Settings { rate_connects_per_ip: 1, rate_connects_burst: 1, ..settings() });
    assert_eq!(door.dial("2001:db8:0:1::1").await, Ok(1));
    let refused = door.dial("2001:db8:0:1:ffff::2").await.unwrap_err();
    assert_eq!(refused.to_string(), "2001:db8:0:1::/64 connects more than 1 times a second");
    assert_eq!(door.dial("2001:db8:0:2::1").await, Ok(2));
}

#[actix::test]
async fn one_that_waits_for_a_place_pays_once() {
    pause();
    let limits = Settings {
        rate_connects_per_ip: 1,
        rate_connects_burst: 2,
        max_conn: 1,
        when_full: WhenFull::Wait,
        ..settings()
    };
    let mut door = Door::new(limits);
    assert_eq!(door.dial("10.0.0.1").await, Ok(1));
    for _ in 0..5 {
        // As the acceptor asks again when a place is taken by another.
        assert!(matches!(door.dial("10.0.0.1").await, Err(AddError::Full { .. })));
    }
    door.leave(1).await;
    assert_eq!(door.dial("10.0.0.1").await, Ok(1));
}

#[actix::test]
async fn the_last_places_are_for_those_they_are_reserved_for() {
    let reserved_for = networks(&["10.1.0.0/16", "::1"]);
    let mut door =
        Door::new(Settings { max_conn: 4, reserved_conn: 2, reserved_for, ..settings() });
    assert_eq!(door.dial("10.0.0.1").await, Ok(1));
    assert_eq!(door.dial("10.1.0.1").await, Ok(2));
    let refused = door.dial("10.0.0.1").await;
    assert_eq!(refused, Err(AddError::Full { max_conn: 4, reserved: 2 }));
    let words = "the server is full: 4 connections, 2 of them reserved";
    assert_eq!(refused.unwrap_err().to_string(), words);
    assert_eq!(door.dial("10.1.0.2").await, Ok(3));
    assert_eq!(door.dial("::1").await, Ok(4));
    let refused = door.dial("::1").await;
    assert_eq!(refused, Err(AddError::Full { max_conn: 4, reserved: 0 }));
}

#[actix::test]
async fn who_is_denied_is_not_admitted_and_who_is_not_allowed_neither() {
    let (allow, deny) = (networks(&["10.0.0.0/8", "2001:db8::/32"]), networks(&["10.1.0.0/16"]));
    let mut door = Door::new(Settings { allow, deny, ..settings() });
    for allowed in ["10.0.0.1", "10.2.255.255", "::ffff:10.2.0.1", "2001:db8::1"] {
        assert!(door.dial(allowed).await.is_ok(), "{allowed}");
    }
    for denied in ["10.1.0.1", "::ffff:10.1.0.1", "11.0.0.1", "127.0.0.1", "2001:db9::1"] {
        let ip = denied.parse::<IpAddr>().unwrap().to_canonical();
        assert_eq!(door.dial(denied).await, Err(AddError::Denied(ip)), "{denied}");
    }
    let mut door = Door::new(Settings { deny: networks(&["::1"]), ..settings() });
    assert!(door.dial("127.0.0.1").await.is_ok(), "without a list all are allowed");
    assert!(door.dial("::1").await.is_err());
}

#[actix::test]
async fn the_limit_can_be_changed_and_closes_nobody() {
    let mut door = Door::new(Settings { max_conn: 2, ..settings() });
    for id in 1..=2 {
        assert_eq!(door.dial("10.0.0.1").await, Ok(id));
    }
    assert_eq!(within(door.manager.send(SetMaxConn(1))).await, Ok(2));
    door.leave(1).await;
    let refused = door.dial("10.0.0.1").await;
    assert_eq!(refused, Err(AddError::Full { max_conn: 1, reserved: 0 }));
    assert_eq!(within(door.manager.send(SetMaxConn(3))).await, Ok(1));
    assert_eq!(door.dial("10.0.0.1").await, Ok(2));
    assert_eq!(door.dial("10.0.0.1").await, Ok(3));
    assert!(door.dial("10.0.0.1").await.is_err());
}

fn server(settings: Settings) -> Server {
    Server::new(settings).route_fn(1, async |msg: Inbound| msg)
}

async fn echo(client: &mut TestClient) {
    client.send(1, "echo").await;
    assert_eq!(client.recv().await, Some(Frame::new(1, "echo")));
}

#[actix::test]
async fn the_addresses_of_sockets_are_what_counts() {
    let settings = Settings { max_conn_per_ip: 1, ..settings() };
    let server = TestServer::start(server(settings)).await;
    let dial = async |from: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(server.addr()).await.unwrap();
        TestClient::on(stream, FrameCodec::new(WireFormat::LtvLe, u32::MAX))
    };
    let mut first = dial([127, 0, 0, 1]).await;
    echo(&mut first).await;
    assert_eq!(dial([127, 0, 0, 1]).await.recv().await, None);
    let mut other = dial([127, 0, 0, 2]).await;
    echo(&mut other).await;
    echo(&mut first).await;
    let stats = server.handle().stats();
    assert_eq!((stats.refused, stats.refusals.too_many_of_ip), (1, 1));
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_refused_peer_is_told_why_if_the_application_wants_to() {
    let settings = Settings { max_conn: 1, ..settings() };
    let refusing = server(settings).refusal(|why| Some(Frame::new(9, why.to_string())));
    let server = TestServer::start(refusing).await;
    let mut first = TestClient::connect(server.addr()).await;
    echo(&mut first).await;
    for _ in 0..10 {
        let mut late = TestClient::connect(server.addr()).await;
        // What it says does not cost it the answer.
        let _ = late.stream().try_write(&[0; 100]);
        let frames = late.recv_to_end().await;
        assert_eq!(frames, [Frame::new(9, "the server is full: 1 connections")]);
    }
    assert_eq!(server.handle().stats().refusals.full, 10);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_refusal_that_panics_or_says_nothing_only_closes() {
    for panics in [true, false] {
        let settings = Settings { max_conn: 1, ..settings() };
        let refusing = server(settings).refusal(move |_| {
            assert!(!panics, "on purpose");
            None
        });
        let server = TestServer::start(refusing).await;
        let mut first = TestClient::connect(server.addr()).await;
        echo(&mut first).await;
        assert_eq!(TestClient::connect(server.addr()).await.recv().await, None);
        echo(&mut first).await;
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn a_dial_that_waits_is_served_as_soon_as_there_is_a_place() {
    let (tx, mut parked) = unbounded_channel();
    let settings = Settings { max_conn: 2, when_full: WhenFull::Wait, ..settings() };
    let waiting = server(settings).on_event(move |event| {
        if matches!(event, zinxide::Event::Parked { .. }) {
            tx.send(()).unwrap();
        }
    });
    let server = TestServer::start(waiting).await;
    let mut there = vec![];
    for _ in 0..2 {
        there.push(TestClient::connect(server.addr()).await);
        echo(there.last_mut().unwrap()).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = TestClient::connect(server.addr()).await;
        client.send(1, "early").await;
        waiting.push(client);
    }
    within(parked.recv()).await.unwrap();
    assert_eq!(server.handle().connections().len(), 2);
    // Each that leaves lets one in, in the order they came.
    for mut client in waiting {
        drop(there.remove(0));
        assert_eq!(client.recv().await, Some(Frame::new(1, "early")));
        assert!(server.handle().connections().len() <= 2);
        there.push(client);
    }
    // So does a higher limit.
    let mut one_more = TestClient::connect(server.addr()).await;
    one_more.send(1, "early").await;
    within(parked.recv()).await.unwrap();
    assert_eq!(within(server.handle().set_max_conn(3)).await, 2);
    assert_eq!(one_more.recv().await, Some(Frame::new(1, "early")));
    let stats = server.handle().stats();
    assert_eq!((stats.admitted, stats.refused), (8, 0));
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_stop_refuses_a_dial_that_waits() {
    let (tx, mut parked) = unbounded_channel();
    let settings = Settings { max_conn: 1, when_full: WhenFull::Wait, ..settings() };
    let server = server(settings).on_event(move |event| {
        if matches!(event, zinxide::Event::Parked { .. }) {
            tx.send(()).unwrap();
        }
    });
    let server = TestServer::start(server).await;
    let mut there = TestClient::connect(server.addr()).await;
    echo(&mut there).await;
    let mut waits = TestClient::connect(server.addr()).await;
    within(parked.recv()).await.unwrap();
    let handle = server.handle().clone();
    within(server.stop()).await.unwrap();
    assert_eq!(waits.recv().await, None);
    let stats = handle.stats();
    assert_eq!((stats.refused, stats.refusals.draining), (1, 1));
}

#[actix::test]
async fn a_suspended_server_has_no_port_and_serves_those_it_has() {
    let server = TestServer::start(server(settings())).await;
    let handle = server.handle();
    let mut there = TestClient::connect(server.addr()).await;
    echo(&mut there).await;
    // Dials that the system has taken before are served.
    let mut just_before = Vec::new();
    for _ in 0..100 {
        just_before.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    within(handle.suspend()).await;
    within(handle.suspend()).await;
    assert!(TcpStream::connect(server.addr()).await.is_err());
    echo(&mut there).await;
    for stream in just_before {
        let mut client = TestClient::on(stream, FrameCodec::new(WireFormat::LtvLe, u32::MAX));
        echo(&mut client).await;
    }
    // The port is for somebody else to have.
    let other = tokio::net::TcpListener::bind(server.addr()).await.unwrap();
    assert!(within(handle.resume()).await.is_err());
    drop(other);
    within(handle.resume()).await.unwrap();
    within(handle.resume()).await.unwrap();
    let mut new = TestClient::connect(server.addr()).await;
    echo(&mut new).await;
    echo(&mut there).await;
    let handle = handle.clone();
    server.stop().await.unwrap();
    within(handle.suspend()).await;
    assert!(within(handle.resume()).await.is_err(), "there is nothing to resume");
}

#[actix::test]
async fn a_server_that_is_suspended_or_full_can_be_stopped_and_suspended() {
    let server = TestServer::start(server(Settings {
        max_conn: 1,
        when_full: WhenFull::Wait,
        ..settings()
    }))
    .await;
    let mut there = TestClient::connect(server.addr()).await;
    echo(&mut there).await;
    let mut waits = TestClient::connect(server.addr()).await;
    waits.send(1, "early").await;
    within(server.handle().suspend()).await;
    assert!(TcpStream::connect(server.addr()).await.is_err());
    drop(there);
    assert_eq!(waits.recv().await, Some(Frame::new(1, "early")), "it was there before");
    within(server.stop()).await.unwrap();
    assert_eq!(waits.stream().read(&mut [0]).await.unwrap_or(0), 0);
}

#[actix::test]
async fn a_dial_that_waited_is_served_by_a_worker_that_is_there() {
    let (tx, mut parked) = unbounded_channel();
    let settings = Settings { max_conn: 2, when_full: WhenFull::Wait, ..settings() };
    let server = server(settings)
        .route_fn(2, async |_: Inbound| {
            actix_rt::Arbiter::current().stop();
        })
        .on_event(move |event| {
            if matches!(event, zinxide::Event::Parked { .. }) {
                tx.send(()).unwrap();
            }
        });
    let server = TestServer::start(server).await;
    let mut there =
        [TestClient::connect(server.addr()).await, TestClient::connect(server.addr()).await];
    for client in &mut there {
        echo(client).await;
    }
    let mut waits = TestClient::connect(server.addr()).await;
    within(parked.recv()).await.unwrap();
    waits.send(1, "early").await;
    // What makes a place is the end of a worker.
    there[0].send(2, "").await;
    assert_eq!(waits.recv().await, Some(Frame::new(1, "early")));
    server.stop().await.unwrap();
}

#[actix::test]
async fn dials_that_only_the_system_knows_of_are_served_when_a_server_is_suspended() {
    let server = TestServer::start(server(settings())).await;
    let addr = server.addr();
    for _ in 0..20 {
        // The standard library's, so that the event loop does not turn while it connects.
        let stream = std::net::TcpStream::connect(addr).unwrap();
        let (first, second) = (server.handle().suspend(), server.handle().suspend());
        within(first).await;
        assert!(std::net::TcpStream::connect(addr).is_err(), "done means closed");
        within(second).await;
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let mut client = TestClient::on(stream, FrameCodec::new(WireFormat::LtvLe, u32::MAX));
        echo(&mut client).await;
        within(server.handle().resume()).await.unwrap();
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn suspending_resuming_and_another_limit_are_told_of() {
    let (tx, mut told) = unbounded_channel();
    let server = server(settings()).on_event(move |event| match event {
        zinxide::Event::Suspended { .. }
        | zinxide::Event::Resumed { .. }
        | zinxide::Event::MaxConnChanged { .. } => tx.send(event.to_string()).unwrap(),
        _ => {}
    });
    let server = TestServer::start(server).await;
    let (handle, addr) = (server.handle().clone(), server.addr());
    within(handle.suspend()).await;
    within(handle.resume()).await.unwrap();
    assert_eq!(within(handle.set_max_conn(5)).await, settings().max_conn);
    let mut next = async || within(told.recv()).await.unwrap();
    assert_eq!(next().await, format!("suspended: {addr} is not listened on"));
    assert_eq!(next().await, format!("resumed: {addr} is listened on"));
    assert_eq!(next().await, "max_conn was 12000 and is 5");
    server.stop().await.unwrap();
}

#[actix::test]
async fn an_id_that_is_taken_is_not_forgotten_with_the_one_that_was_refused() {
    let settings = settings();
    let server = TestServer::start(server(settings.clone())).await;
    let manager = server.handle().conn_manager();
    let first = conn_from(1, ([127, 0, 0, 1], 1).into(), &settings);
    within(manager.send(Add(first))).await.unwrap().unwrap();
    assert_eq!(TestClient::connect(server.addr()).await.recv().await, None, "a duplicate");
    let mut next = TestClient::connect(server.addr()).await;
    echo(&mut next).await;
    assert_eq!(server.handle().connections().len(), 2);
    server.stop().await.unwrap();
}

#[test]
fn a_network_of_ipv4_may_be_written_as_one_of_ipv6() {
    let network: Network = "::ffff:10.0.0.0/104".parse().unwrap();
    assert_eq!(network, "10.0.0.0/8".parse().unwrap());
    assert!(network.contains("10.9.9.9".parse().unwrap()));
    assert!(network.contains("::ffff:10.9.9.9".parse().unwrap()));
}
