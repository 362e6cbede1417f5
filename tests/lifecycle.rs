//! What a server's parts owe each other when they end otherwise than by plan.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Inbound, Server};

#[actix::test]
async fn a_stop_of_a_server_that_was_dropped_unserved_does_not_wait_for_ever() {
    let server = Server::new(settings()).without_signals().bind().await.unwrap();
    let handle = server.handle();
    drop(server);
    within(handle.stop()).await;
}

#[actix::test]
async fn connections_are_spread_evenly_over_the_workers() {
    let mut settings = settings();
    settings.worker_pool_size = 3;
    let by_thread = Arc::new(Mutex::new(HashMap::new()));
    let count = Arc::clone(&by_thread);
    let server =
        Server::new(settings).route_fn(1, async |msg: Inbound| msg).on_conn_start(move |_| {
            *count.lock().unwrap().entry(thread::current().id()).or_insert(0) += 1;
        });
    let server = TestServer::start(server).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = TestClient::connect(server.addr()).await;
        client.send(1, "here").await;
        client.recv().await;
        clients.push(client);
    }
    let counts: Vec<_> = by_thread.lock().unwrap().values().copied().collect();
    assert_eq!(counts, [10, 10, 10]);
    server.stop().await.unwrap();
}
