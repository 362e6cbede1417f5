//! Bugs that a review or an attack found. Each test failed before its mend and names the guarantee
//! that was broken.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use zinxide::router::{Dispatch, Register};
use zinxide::testing::{
    TestClient, TestConnection, TestServer, accepted, conn, inbound, settings, within,
};
use zinxide::{Frame, Inbound, Route, Router, Server, Settings};

/// Empty frames of one id.
fn frames(n: usize, id: u32) -> Vec<u8> {
    [0_u32.to_le_bytes(), id.to_le_bytes()].concat().repeat(n)
}

/// Enough answers for a write of their own met the last place of the window: nobody listened for
/// the place to be given back.
#[actix::test]
async fn g12_a_full_window_and_a_full_batch_of_answers_at_once_do_not_stall_a_connection() {
    let stash = Arc::new(Mutex::new(Vec::new()));
    let stashing = Arc::clone(&stash);
    let settings = Settings { max_worker_task_len: 16, ..settings() };
    let server = TestServer::start(Server::new(settings).route_fn(1, move |msg: Inbound| {
        stashing.lock().unwrap().push(msg);
        std::future::ready((1, Bytes::from(vec![0; 4096])))
    }))
    .await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send_bytes(&frames(20, 1)).await;
    for _ in 0..16 {
        client.recv().await.unwrap();
    }
    stash.lock().unwrap().clear();
    for _ in 0..4 {
        client.recv().await.unwrap();
        stash.lock().unwrap().clear();
    }
    server.stop().await.unwrap();
}

/// The bad header could not close a connection that was ending already, which then waited for its
/// deadline.
#[actix::test]
async fn g13_a_bad_header_behind_a_waiting_function_does_not_hold_a_drain_up() {
    let gate = Arc::new(Notify::new());
    let (begun, mut begins) = unbounded_channel();
    let opened = Arc::clone(&gate);
    // Longer than a test waits: only an ending without a deadline passes.
    let settings = Settings { drain_deadline_ms: 3_600_000, ..settings() };
    let server = TestServer::start(Server::new(settings).route_fn(1, move |_: Inbound| {
        begun.send(()).unwrap();
        let gate = Arc::clone(&opened);
        async move { gate.notified().await }
    }))
    .await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send_bytes(&[frames(1, 1), vec![0xff; 8]].concat()).await;
    within(begins.recv()).await;
    let handle = server.handle().clone();
    let stopped = actix_rt::spawn(async move { handle.stop().await });
    tokio::task::yield_now().await;
    while !server.handle().connections().is_empty() {
        gate.notify_one();
        tokio::task::yield_now().await;
    }
    within(stopped).await.unwrap();
}

/// actix skips a message whose answer nobody awaits.
#[actix::test]
async fn g6_what_a_handle_is_asked_is_done_although_nobody_waits_for_the_answer() {
    let server = TestServer::start(Server::new(settings())).await;
    let mut client = TestClient::connect(server.addr()).await;
    while server.handle().broadcast((1, "hello")).await.unwrap().accepted == 0 {}
    drop(server.handle().broadcast((2, "there")));
    while let Frame { id: 1, .. } = client.recv().await.unwrap() {}
    drop(server.handle().clear_conn());
    assert_eq!(client.recv().await, None);
    server.stop().await.unwrap();
}

/// What waited for room in the manager's mailbox was overtaken.
#[actix::test]
async fn g5_broadcasts_arrive_in_the_order_in_which_they_were_asked_for() {
    let server = TestServer::start(Server::new(settings())).await;
    let mut client = TestClient::connect(server.addr()).await;
    while server.handle().broadcast((1000, "")).await.unwrap().accepted == 0 {}
    let asked: Vec<_> = (0..100).map(|n| server.handle().broadcast((n, ""))).collect();
    server.handle().broadcast((100, "")).await.unwrap();
    for report in asked {
        assert_eq!(within(report).await.unwrap().accepted, 1);
    }
    let mut got = Vec::new();
    while got.last() != Some(&100) {
        got.push(client.recv().await.unwrap().id);
    }
    got.retain(|&id| id != 1000);
    assert_eq!(got, (0..=100).collect::<Vec<_>>());
    server.stop().await.unwrap();
}

/// They did not count towards the connection's turn.
#[actix::test]
async fn g11_messages_without_a_route_do_not_keep_the_other_tasks_of_the_thread_waiting() {
    const FLOOD: usize = 2_000_000;
    let (mut peer, stream) = tokio::io::duplex(FLOOD * 8);
    tokio::io::AsyncWriteExt::write_all(&mut peer, &frames(FLOOD, 7)).await.unwrap();
    let connection = TestConnection::start(Server::new(settings()), stream).await;
    // A turn is a thousand messages at most, so the flood takes about two thousand of them. The
    // runtime gives the connection up to 61 in a row; without a bound it took two in all.
    let mut turns = 0;
    drop(peer);
    while !connection.conn.is_closed() {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns > 8, "{turns} turns for {FLOOD} messages");
}

/// The payload was dropped under the connection's lock.
#[test]
fn g15_a_payload_may_do_what_it_likes_when_it_is_dropped() {
    struct Owner(zinxide::Conn, [u8; 1]);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.1
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.send_buffered(9, "dropped").unwrap();
        }
    }
    let conn = conn(1, &settings());
    conn.send_buffered(1, Bytes::from_owner(Owner(conn.clone(), [1]))).unwrap();
    let ids: Vec<_> = accepted(&conn).into_iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [1, 9]);
}

/// A drain went on although the connection had been stopped meanwhile.
#[actix::test]
async fn g4_a_stop_during_a_drain_hands_out_no_more_messages() {
    let gate = Arc::new(Notify::new());
    let (begun, mut begins) = unbounded_channel();
    let opened = Arc::clone(&gate);
    let mut n = 0;
    let count = Mutex::new(move || {
        n += 1;
        n
    });
    let server = TestServer::start(Server::new(settings()).route_fn(1, move |msg: Inbound| {
        let n = count.lock().unwrap()();
        begun.send(n).unwrap();
        let gate = Arc::clone(&opened);
        async move {
            match n {
                1 => gate.notified().await,
                _ => msg.conn().stop(),
            }
        }
    }))
    .await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send_bytes(&frames(10, 1)).await;
    within(begins.recv()).await;
    let stopping = server.handle().stop();
    // The drain has reached the connection when the manager answers what was asked after it.
    tokio::task::yield_now().await;
    server.handle().conn_manager().send(zinxide::conn_manager::Len).await.unwrap();
    gate.notify_one();
    within(stopping).await;
    assert_eq!(begins.recv().await, Some(2));
    assert!(begins.try_recv().is_err(), "handled after the stop");
}

/// Properties lived until the connection table let go of the handle, which it may do late, and where
/// a panic in their drop ended the manager.
#[actix::test]
async fn g9_properties_are_dropped_with_their_connection_and_may_panic() {
    struct Bomb(UnboundedSender<()>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            panic!("a property");
        }
    }
    let (dropped, mut drops) = unbounded_channel();
    let server = Server::new(settings())
        .on_conn_start(move |conn| drop(conn.set_property(Bomb(dropped.clone()))));
    let server = TestServer::start(server).await;
    for _ in 0..100 {
        drop(TestClient::connect(server.addr()).await);
        within(drops.recv()).await.unwrap();
    }
    server.handle().clear_conn().await;
    assert_eq!(server.handle().conn_manager().send(zinxide::conn_manager::Len).await, Ok(0));
    server.stop().await.unwrap();
}

/// The worker with the fewest connections was the one that had died.
#[actix::test]
async fn g9_a_worker_that_died_gets_no_more_connections() {
    let server = Server::new(settings())
        .route_fn(1, async |_: Inbound| {
            actix_rt::Arbiter::current().stop();
        })
        .route_fn(2, async |_: Inbound| (2, ""));
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(1, "").await;
    assert_eq!(client.recv().await, None);
    for _ in 0..20 {
        let mut client = TestClient::connect(server.addr()).await;
        client.send(2, "").await;
        assert_eq!(client.recv().await, Some(Frame::new(2, "")));
    }
    server.stop().await.unwrap();
}

/// Each message of that kind made all others of the actor wait twice as long, up to ten seconds.
#[actix::test]
async fn g9_messages_that_kill_a_handler_actor_do_not_make_the_others_wait_for_long() {
    use actix::{Actor, Context, Handler};
    struct Fragile;
    impl Actor for Fragile {
        type Context = Context<Self>;
    }
    impl Handler<Inbound> for Fragile {
        type Result = ();
        fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
            assert!(msg.payload().is_empty(), "on purpose");
            msg.reply(1, "");
        }
    }
    let settings = Settings { worker_pool_size: 1, ..settings() };
    let server = TestServer::start(Server::new(settings).route(1, || Fragile)).await;
    // A pause that doubles would be half an hour after these.
    for _ in 0..16 {
        let mut client = TestClient::connect(server.addr()).await;
        client.send(1, "kill").await;
        assert_eq!(client.recv().await, None);
    }
    let mut client = TestClient::connect(server.addr()).await;
    client.send(1, "").await;
    assert_eq!(client.recv().await, Some(Frame::new(1, "")));
    server.stop().await.unwrap();
}

/// A handler fills the outbox while it takes the last place of the window. The wish for a place was
/// made by the room before the outbox was written, and never came true.
#[actix::test]
async fn g12_a_full_outbox_and_a_full_window_at_once_do_not_stall_a_connection() {
    for (window, outbox, sent, freed) in [(4, 4, 4, 4), (10, 12, 9, 3)] {
        let settings = Settings {
            max_worker_task_len: window,
            max_msg_chan_len: outbox,
            worker_pool_size: 1,
            ..settings()
        };
        let (kept, mut keeps) = unbounded_channel();
        let mut handled = 0;
        let handler = Mutex::new(move |msg: Inbound| {
            handled += 1;
            if handled == window {
                (0..sent).for_each(|_| msg.conn().send_buffered(2, "x").unwrap());
            }
            kept.send(msg).unwrap();
        });
        let server = Server::new(settings)
            .route_fn(1, move |msg: Inbound| {
                handler.lock().unwrap()(msg);
                std::future::ready(())
            })
            .route_fn(2, async |msg: Inbound| msg);
        let server = TestServer::start(server).await;
        let mut client = TestClient::connect(server.addr()).await;
        client.send_bytes(&frames(window as usize + 1, 1)).await;
        for _ in 0..sent {
            client.recv().await.unwrap();
        }
        // When the neighbour is answered, the connection has gone to rest.
        let mut neighbour = TestClient::connect(server.addr()).await;
        neighbour.send(2, "").await;
        neighbour.recv().await.unwrap();
        let mut places = Vec::new();
        for _ in 0..window {
            places.push(within(keeps.recv()).await.unwrap());
        }
        places.truncate(window as usize - freed);
        within(keeps.recv()).await.expect("the message behind a full window");
        drop(places);
        server.stop().await.unwrap();
    }
}

struct Taker;

impl Actor for Taker {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Taker {
    type Result = ();

    fn handle(&mut self, _: Inbound, _: &mut Context<Self>) {}
}

/// What an application gave a connection, and what drops a message when it is dropped itself.
struct Property {
    kept: Mutex<Option<Inbound>>,
    dropped: UnboundedSender<bool>,
}

impl Drop for Property {
    fn drop(&mut self) {
        let kept = self.kept.lock().unwrap().take();
        let panics = catch_unwind(AssertUnwindSafe(|| drop(kept))).is_err();
        self.dropped.send(panics).unwrap();
    }
}

/// The last handle to a connection was dropped while the stock of message bodies was borrowed.
#[actix::test]
async fn g9_a_property_that_drops_a_message_does_not_panic_where_messages_are_put_back() {
    let router = Router::new().start();
    let route = Register { id: 1, route: Route::actor(|| Taker) };
    within(router.send(route)).await.unwrap().unwrap();
    let (dropped, mut drops) = unbounded_channel();
    let (one, other) = (conn(1, &settings()), conn(2, &settings()));
    one.set_property(Property { kept: Mutex::new(Some(inbound(&other, 1, ""))), dropped });
    let message = inbound(&one, 1, "");
    drop(one);
    within(router.send(Dispatch(message))).await.unwrap().unwrap();
    assert_eq!(within(drops.recv()).await, Some(false), "no panic");
}

/// A payload of the application's own, which looks at the connection when it is dropped.
struct Nosy(Vec<u8>, zinxide::Conn);

impl AsRef<[u8]> for Nosy {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _ = self.1.unsent();
    }
}

/// Payloads that were cut were dropped under the lock of the connection that they asked something.
#[actix::test]
async fn payloads_that_are_cut_may_use_their_connection_when_they_are_dropped() {
    let (_stream, peer) = tokio::io::duplex(64);
    let connection = TestConnection::start(Server::new(settings()), peer).await;
    let conn = &connection.conn;
    for _ in 0..2 {
        let payload = Bytes::from_owner(Nosy(vec![0; 40_000], conn.clone()));
        conn.send_buffered(1, payload).unwrap();
        // The second one is queued behind the first, which the writer has.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    while conn.send_with(1, vec![0; 1 << 19], zinxide::Overflow::Close).is_ok() {}
    let cut = async {
        while connection.actor.connected() {
            tokio::task::yield_now().await;
        }
    };
    within(cut).await;
    assert_eq!(conn.unsent().frames, 0);
}
