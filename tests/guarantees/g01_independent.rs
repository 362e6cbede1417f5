//! G1: servers in one process are independent: limits, routes, settings, ids.

use zinxide::conn_manager::{Get, Len, Remove};
use zinxide::router::{Lookup, Register};
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Frame, FrameCodec, Inbound, Route, Server, WireFormat};

use crate::support::{Event, echo, journal, round_trip, tuned};
use crate::transport::{assert_refused, connect, connect_with, settings};

#[actix::test]
async fn g1_each_server_has_a_limit_and_a_count_of_its_own() {
    let small = Server::new(tuned(|s| s.max_conn = 1)).route_fn(1, echo);
    let large = Server::new(tuned(|s| s.max_conn = 3)).route_fn(1, echo);
    let (small, large) = (TestServer::start(small).await, TestServer::start(large).await);

    let mut only = connect(small.addr()).await;
    round_trip(&mut only, 1).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = connect(large.addr()).await;
        round_trip(&mut client, 1).await;
        others.push(client);
    }
    assert_refused(small.addr()).await;

    assert_eq!((small.handle().stats().admitted, small.handle().stats().refused), (1, 1));
    assert_eq!((large.handle().stats().admitted, large.handle().stats().refused), (3, 0));
    assert_eq!(small.handle().conn_manager().send(Len).await.unwrap(), 1);
    assert_eq!(large.handle().conn_manager().send(Len).await.unwrap(), 3);
    small.stop().await.unwrap();
    large.stop().await.unwrap();
}

#[actix::test]
async fn g1_each_server_has_routes_of_its_own() {
    let a = Server::new(settings()).route_fn(1, async |_: Inbound| (1, "a"));
    let b = Server::new(settings()).route_fn(1, async |_: Inbound| (1, "b"));
    let (a, b) = (TestServer::start(a).await, TestServer::start(b).await);
    let late = Register { id: 2, route: Route::function(async |_: Inbound| (2, "late a")) };
    within(a.handle().router().send(late)).await.unwrap().unwrap();

    let mut of_a = connect(a.addr()).await;
    let mut of_b = connect(b.addr()).await;
    of_a.send(1, "").await;
    of_b.send(1, "").await;
    assert_eq!(of_a.recv().await, Some(Frame::new(1, "a")));
    assert_eq!(of_b.recv().await, Some(Frame::new(1, "b")));
    of_a.send(2, "").await;
    of_b.send(2, "").await;
    of_b.send(1, "").await;
    assert_eq!(of_a.recv().await, Some(Frame::new(2, "late a")));
    assert_eq!(of_b.recv().await, Some(Frame::new(1, "b")), "2 has no route here");

    assert!(b.handle().router().send(Lookup(2)).await.unwrap().is_none());
    assert_eq!((a.handle().stats().unrouted, b.handle().stats().unrouted), (0, 1));
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[actix::test]
async fn g1_each_server_obeys_its_own_settings() {
    let (a_journal, mut a_events) = journal();
    let (b_journal, mut b_events) = journal();
    let tight = tuned(|s| s.max_packet_size = 4);
    let big_endian = tuned(|s| {
        s.max_packet_size = 5;
        s.wire_format = WireFormat::TlvBe;
    });
    let a = TestServer::start(a_journal.hooks(Server::new(tight).route_fn(1, echo))).await;
    let b = TestServer::start(b_journal.hooks(Server::new(big_endian).route_fn(1, echo))).await;

    let mut of_a = connect(a.addr()).await;
    let mut of_b = connect_with(b.addr(), FrameCodec::new(WireFormat::TlvBe, u32::MAX)).await;
    of_b.send(1, "12345").await;
    assert_eq!(of_b.recv().await, Some(Frame::new(1, "12345")));
    of_a.send(1, "1234").await;
    assert_eq!(of_a.recv().await, Some(Frame::new(1, "1234")));
    of_a.send(1, "12345").await;
    assert_eq!(of_a.recv().await, None);
    let (_, why) = a_events.stopped().await;
    assert!(matches!(why, CloseReason::Protocol(_)), "{why}");

    // Hooks are a server's own, too.
    let id = b_events.started().await;
    assert_eq!(b_events.rest(), []);
    b.stop().await.unwrap();
    assert_eq!(b_events.rest(), [Event::Stopped(id, CloseReason::Shutdown)]);
    a.stop().await.unwrap();
}

#[actix::test]
async fn g1_each_server_numbers_its_connections_by_itself() {
    let (a_journal, mut a_events) = journal();
    let (b_journal, mut b_events) = journal();
    let a = a_journal.hooks(Server::new(settings()).route_fn(1, echo));
    let b = b_journal.hooks(Server::new(settings()).route_fn(1, echo));
    let (a, b) = (TestServer::start(a).await, TestServer::start(b).await);

    let mut of_a = connect(a.addr()).await;
    let id = a_events.started().await;
    let mut of_b = connect(b.addr()).await;
    assert_eq!(b_events.started().await, id, "both servers begin with the same id");

    within(a.handle().conn_manager().send(Remove(id))).await.unwrap().unwrap();
    assert_eq!(of_a.recv().await, None);
    assert!(a.handle().conn_manager().send(Get(id)).await.unwrap().is_err());
    let conn = b.handle().conn_manager().send(Get(id)).await.unwrap().unwrap();
    assert_eq!(conn.local_addr(), b.addr());
    round_trip(&mut of_b, 1).await;
    assert_eq!(b_events.rest(), []);
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[actix::test]
async fn g1_clearing_and_stopping_one_server_leaves_the_other_alone() {
    let a = TestServer::start(Server::new(settings()).route_fn(1, echo)).await;
    let b = TestServer::start(Server::new(settings()).route_fn(1, echo)).await;
    let mut of_a = connect(a.addr()).await;
    let mut of_b = connect(b.addr()).await;
    round_trip(&mut of_a, 1).await;
    round_trip(&mut of_b, 1).await;

    assert_eq!(within(a.handle().clear_conn()).await, 1);
    round_trip(&mut of_b, 1).await;
    a.handle().broadcast((7, "for a")).await.unwrap();
    a.stop().await.unwrap();
    round_trip(&mut of_b, 1).await;
    round_trip(&mut connect(b.addr()).await, 1).await;
    b.stop().await.unwrap();
}
