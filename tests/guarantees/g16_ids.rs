//! G16: connection ids are never reused in a server's life.

use std::collections::HashSet;

use zinxide::conn_manager::{ConnNotFound, Get, Ids, Remove};
use zinxide::testing::TestServer;

use crate::support_flow::{echo, one_worker, server};
use crate::transport::{assert_refused, connect};

#[actix::test]
async fn g16_ids_grow_with_each_connection_though_places_are_reused() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let mut last = None;
    for _ in 0..50 {
        let (client, conn) = hooked.connect(&server).await;
        assert!(Some(conn.id()) > last, "{} after {last:?}", conn.id());
        last = Some(conn.id());
        drop(client);
        hooked.stopped().await;
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn g16_connections_at_once_on_several_workers_have_ids_of_their_own() {
    let (server, mut hooked) = server(one_worker(|settings| settings.worker_pool_size = 4));
    let server = TestServer::start(server).await;
    let dials = (0..100).map(|_| connect(server.addr()));
    let clients = futures_util::future::join_all(dials).await;
    let mut ids = HashSet::new();
    for _ in &clients {
        assert!(ids.insert(hooked.started().await.id()));
    }
    let known = server.handle().conn_manager().send(Ids).await.unwrap();
    assert_eq!(known.into_iter().collect::<HashSet<_>>(), ids);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g16_an_id_is_not_reused_after_clear_conn_or_a_refusal() {
    let (server, mut hooked) = server(one_worker(|settings| settings.max_conn = 1));
    let server = TestServer::start(server).await;
    let (_first, one) = hooked.connect(&server).await;
    assert_refused(server.addr()).await;
    assert_eq!(server.handle().clear_conn().await, 1);
    let (_second, two) = hooked.connect(&server).await;
    assert!(two.id() > one.id());
    server.stop().await.unwrap();
}

#[actix::test]
async fn g16_an_id_that_is_gone_is_answered_with_conn_not_found() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let manager = server.handle().conn_manager();
    let (_gone, conn) = hooked.connect(&server).await;
    let (mut stays, other) = hooked.connect(&server).await;
    let id = conn.id();
    assert_eq!(manager.send(Get(id)).await.unwrap().map(|conn| conn.id()), Ok(id));
    assert_eq!(manager.send(Remove(id)).await.unwrap(), Ok(()));

    let missing = manager.send(Get(id)).await.unwrap().map(|conn| conn.id());
    assert_eq!(missing, Err(ConnNotFound(id)));
    assert_eq!(ConnNotFound(id).to_string(), format!("no connection {id}"));
    assert_eq!(manager.send(Remove(id)).await.unwrap(), Err(ConnNotFound(id)));
    assert!(server.handle().connections().get(id).is_none());
    // Nor is it anybody else's.
    assert_eq!(manager.send(Ids).await.unwrap(), [other.id()]);
    echo(&mut stays).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g16_an_id_that_never_was_is_answered_with_conn_not_found() {
    let (server, _hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let manager = server.handle().conn_manager();
    for id in [0, 1, u64::MAX] {
        let missing = manager.send(Get(id)).await.unwrap().map(|conn| conn.id());
        assert_eq!(missing, Err(ConnNotFound(id)));
    }
    server.stop().await.unwrap();
}
