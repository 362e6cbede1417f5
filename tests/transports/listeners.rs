//! Several endpoints, one server.

use std::net::TcpListener;

use zinxide::testing::TestClient;
use zinxide::{CloseReason, Frame, Scheme, Server, ServerError};

use super::support::{ECHO, Watched, at, frame};

const TWO: [&str; 2] = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"];

#[actix::test]
async fn a_connection_knows_where_it_came_in() {
    let mut watched = Watched::start(at(&TWO)).await;
    for endpoint in 0..2 {
        let port = watched.port(endpoint);
        let client = TestClient::connect(([127, 0, 0, 1], port).into()).await;
        let conn = watched.started().await;
        assert_eq!((conn.scheme(), conn.local_addr().port()), (Scheme::Tcp, port));
        drop(client);
        assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn endpoints_share_the_limit_the_ids_the_broadcasts_and_clear_conn() {
    let mut settings = at(&TWO);
    settings.max_conn = 2;
    let mut watched = Watched::start(settings).await;
    let addrs: Vec<_> = (0..2).map(|n| ([127, 0, 0, 1], watched.port(n)).into()).collect();
    let (mut one, mut two) =
        (TestClient::connect(addrs[0]).await, TestClient::connect(addrs[1]).await);
    let mut ids = [watched.started().await.id(), watched.started().await.id()];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert_eq!(TestClient::connect(addrs[1]).await.recv().await, None, "the third is refused");

    let handle = watched.server.handle().clone();
    assert_eq!(handle.broadcast((9, "news")).await.unwrap().accepted, 2);
    for client in [&mut one, &mut two] {
        assert_eq!(client.recv().await, Some(Frame::new(9, "news")));
    }
    assert_eq!(handle.clear_conn().await, 2);
    assert_eq!(*watched.hooks.lock().unwrap(), [CloseReason::Cleared, CloseReason::Cleared]);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn an_endpoint_that_is_not_to_be_had_is_named_and_none_is_listened_on() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoints = [format!("tcp://{free}"), format!("tcp://{}", taken.local_addr().unwrap())];
    let settings = at(&[&endpoints[0], &endpoints[1]]);
    let error = Server::new(settings).bind().await.map(drop).unwrap_err();
    assert!(matches!(&error, ServerError::Bind { addr, .. } if *addr == endpoints[1]), "{error}");
    TcpListener::bind(free).expect("the one before it is given back");
}

#[actix::test]
async fn suspend_closes_all_ports_and_resume_opens_all_or_none() {
    let watched = Watched::start(at(&TWO)).await;
    let addrs: Vec<_> = watched.server.handle().listen_addrs().iter().map(|at| at.addr).collect();
    let handle = watched.server.handle().clone();
    handle.suspend().await;
    let squatter = TcpListener::bind(addrs[1]).unwrap();
    assert!(handle.resume().await.is_err(), "the second port is another's");
    drop(TcpListener::bind(addrs[0]).expect("the first one is not listened on, either"));
    drop(squatter);

    handle.resume().await.unwrap();
    for addr in addrs {
        let mut client = TestClient::connect(addr).await;
        client.send_bytes(&frame(ECHO, b"x")).await;
        assert_eq!(client.recv().await, Some(Frame::new(ECHO, "x")));
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_stop_frees_all_ports() {
    let watched = Watched::start(at(&TWO)).await;
    let addrs: Vec<_> = watched.server.handle().listen_addrs().iter().map(|at| at.addr).collect();
    watched.server.stop().await.unwrap();
    for addr in addrs {
        TcpListener::bind(addr).unwrap();
    }
}
