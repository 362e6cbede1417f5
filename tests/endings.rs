//! Every connection that is admitted ends once, for one reason, and is counted under it.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use zinxide::conn_manager::Remove;
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Inbound, Server, Settings, Unrouted};

const ECHO: u32 = 1;
const STOP: u32 = 2;
const PANIC: u32 = 3;
const NOWHERE: u32 = 4;

async fn admitted(server: &TestServer) -> TestClient {
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ECHO, "").await;
    client.recv().await.unwrap();
    client
}

#[actix::test]
async fn endings_by_reason_add_up_to_the_admissions() {
    let settings = Settings { unrouted: Unrouted::Close, ..settings() };
    let server = Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route_fn(STOP, async |msg: Inbound| msg.conn().stop())
        .route_fn(PANIC, async |msg: Inbound| assert!(msg.payload() == b"no", "on purpose"));
    let server = TestServer::start(server).await;
    let handle = server.handle().clone();

    for (times, message) in [(5, STOP), (4, PANIC), (3, NOWHERE)] {
        for _ in 0..times {
            let mut client = admitted(&server).await;
            client.send(message, "").await;
            assert_eq!(client.recv().await, None);
        }
    }
    for _ in 0..6 {
        let mut client = admitted(&server).await;
        client.send_bytes(&[0xff; 8]).await;
        assert_eq!(client.recv().await, None);
    }
    for _ in 0..7 {
        drop(admitted(&server).await);
    }
    for _ in 0..8 {
        admitted(&server).await.reset();
    }
    let waiting = [admitted(&server).await, admitted(&server).await];
    let mut removed = admitted(&server).await;
    let id = *handle.connections().ids().iter().max().unwrap();
    within(handle.conn_manager().send(Remove(id))).await.unwrap().unwrap();
    assert_eq!(removed.recv().await, None);

    server.stop().await.unwrap();
    drop(waiting);
    let stats = handle.stats();
    assert_eq!((stats.admitted, stats.ended), (36, 36));
    let endings = stats.endings;
    let by_us = [endings.stopped, endings.handler_panicked, endings.no_route, endings.protocol];
    assert_eq!(by_us, [5, 4, 3, 6]);
    assert_eq!((endings.shutdown, endings.removed), (2, 1));
    // A reset is noticed by reading or by writing.
    assert_eq!(endings.peer_closed + endings.io, 15);
    let all = serde_json::to_value(endings).unwrap();
    let sum: u64 = all.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, 36, "{all}");
}
