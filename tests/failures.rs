//! Handlers that hang or die, workers that block or are lost, and who is told.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use actix_rt::Arbiter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, pause, sleep};
use zinxide::testing::{TestClient, TestConnection, TestServer, settings, within};
use zinxide::{
    CloseReason, Event, Frame, Inbound, Server, ServerError, Settings, WhenWorkerLost, WhileDown,
};

const ECHO: u32 = 1;
const HANG: u32 = 2;
const SECOND: Duration = Duration::from_secs(1);

fn frame(id: u32) -> Vec<u8> {
    [0, id].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Keeps the messages it should not answer at once.
#[derive(Default)]
struct Keeper(Vec<Inbound>);

impl Actor for Keeper {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Keeper {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        match msg.id() {
            HANG => self.0.push(msg),
            _ => msg.echo(),
        }
    }
}

/// Connects on a clock that stands still unless everybody waits, and has a handler hang. `busy` is
/// what the peer sends ten times a second meanwhile.
async fn hang(server: Server, busy: Option<u32>) -> (CloseReason, Duration) {
    pause();
    let (mut stream, peer) = duplex(64 * 1024);
    let (tx, mut ends) = unbounded_channel();
    let server = server.on_conn_stop(move |_, why| tx.send(why.clone()).unwrap());
    let connection = TestConnection::start(server, peer).await;
    sleep(SECOND * 5).await;
    stream.write_all(&frame(ECHO)).await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    stream.write_all(&frame(HANG)).await.unwrap();
    let began = Instant::now();
    while let Some(id) = busy
        && !connection.conn.is_closed()
    {
        let _ = stream.write_all(&frame(id)).await;
        sleep(SECOND / 10).await;
    }
    // A peer that talks is listened to for a while when its connection ends.
    let after = busy.map(|_| began.elapsed());
    let why = within(ends.recv()).await.unwrap();
    (why, after.unwrap_or_else(|| began.elapsed()))
}

fn a_second() -> Settings {
    Settings { handler_deadline_ms: 1000, ..settings() }
}

fn assert_late((why, after): (CloseReason, Duration)) {
    assert_eq!(why, CloseReason::HandlerLate(HANG));
    assert!(after >= SECOND && after <= SECOND * 3 / 2, "after {after:?}");
}

#[actix::test]
async fn a_function_that_never_finishes_is_dropped_at_the_deadline() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let server = Server::new(a_second()).route_fn(ECHO, async |msg: Inbound| msg).route_fn(
        HANG,
        async move |_: Inbound| {
            let _guard = Dropped(Arc::clone(&flag));
            std::future::pending::<()>().await;
        },
    );
    assert_late(hang(server, None).await);
    assert!(dropped.load(Ordering::Relaxed));
}

#[actix::test]
async fn an_actor_that_never_finishes_with_a_message_ends_its_connection_at_the_deadline() {
    let route = zinxide::Route::actor(Keeper::default);
    let server = Server::new(a_second()).add_route(ECHO, route.clone()).add_route(HANG, route);
    assert_late(hang(server, None).await);
}

#[actix::test]
async fn what_the_peer_sends_meanwhile_does_not_put_the_deadline_off() {
    let server = Server::new(Settings { max_worker_task_len: 4, ..a_second() })
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route(HANG, Keeper::default);
    assert_late(hang(server, Some(ECHO)).await);
}

#[actix::test]
async fn handlers_that_finish_now_and_then_are_not_late() {
    pause();
    let (mut stream, peer) = duplex(64 * 1024);
    let server = Server::new(a_second()).route_fn(ECHO, async |msg: Inbound| {
        sleep(SECOND * 9 / 10).await;
        msg
    });
    let connection = TestConnection::start(server, peer).await;
    stream.write_all(&frame(ECHO).repeat(20)).await.unwrap();
    within(stream.read_exact(&mut [0; 20 * 8])).await.unwrap();
    assert!(!connection.conn.is_closed());
}

/// What a test wants to know of the events of a server.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Died,
    Dropped,
    Blocked(u32),
    Recovered,
    Lost(usize),
}

fn listen(server: Server) -> (Server, UnboundedReceiver<Told>) {
    let (tx, rx) = unbounded_channel();
    // A test that knows enough listens no more.
    let tell = move |told| tx.send(told).unwrap_or_default();
    let server = server.on_event(move |event| match *event {
        Event::HandlerDied { .. } => tell(Told::Died),
        Event::DroppedWhileDown { .. } => tell(Told::Dropped),
        Event::WorkerBlocked { message, .. } => tell(Told::Blocked(message)),
        Event::WorkerRecovered { .. } => tell(Told::Recovered),
        Event::WorkerLost { worker } => tell(Told::Lost(worker)),
        _ => {}
    });
    (server, rx)
}

async fn echo(client: &mut TestClient) {
    client.send(ECHO, "echo").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "echo")));
}

/// Panics on demand, and panics when it is made while it may not live.
struct Mortal;

impl Mortal {
    fn factory(may_live: &Arc<AtomicBool>) -> impl Fn() -> Self + Send + Sync + 'static {
        let may_live = Arc::clone(may_live);
        move || {
            assert!(may_live.load(Ordering::Relaxed), "not yet");
            Self
        }
    }
}

impl Actor for Mortal {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Mortal {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        assert!(msg.payload() != b"die", "on purpose");
        msg.echo();
    }
}

/// A server whose handler actor is dead and stays so while the flag is off.
async fn with_a_dead_actor(
    while_handler_down: WhileDown,
) -> (TestServer, UnboundedReceiver<Told>, Arc<AtomicBool>) {
    let may_live = Arc::new(AtomicBool::new(true));
    let settings = Settings { while_handler_down, worker_pool_size: 1, ..settings() };
    let server = Server::new(settings).route(ECHO, Mortal::factory(&may_live));
    let (server, mut told) = listen(server);
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    echo(&mut client).await;
    may_live.store(false, Ordering::Relaxed);
    client.send(ECHO, "die").await;
    assert_eq!(client.recv().await, None);
    assert_eq!(within(told.recv()).await, Some(Told::Died));
    (server, told, may_live)
}

#[actix::test]
async fn messages_wait_for_a_handler_actor_that_is_down() {
    let (server, _told, may_live) = with_a_dead_actor(WhileDown::Wait).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ECHO, "echo").await;
    may_live.store(true, Ordering::Relaxed);
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "echo")));
    assert_eq!(server.handle().stats().dropped_while_down, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn messages_for_a_handler_actor_that_is_down_may_be_dropped_and_counted() {
    let (server, mut told, may_live) = with_a_dead_actor(WhileDown::Drop).await;
    let mut client = TestClient::connect(server.addr()).await;
    for _ in 0..3 {
        client.send(ECHO, "lost").await;
    }
    let mut dropped = 0;
    while dropped < 3 {
        // It dies again and again meanwhile, and messages may come while it tries to live.
        dropped += usize::from(within(told.recv()).await == Some(Told::Dropped));
    }
    may_live.store(true, Ordering::Relaxed);
    let stats = server.handle().stats();
    assert_eq!((stats.dropped_while_down, stats.endings.handler_gone), (3, 0));
    // The connection is as good as before.
    let answered = async {
        loop {
            client.send(ECHO, "echo").await;
            tokio::select! {
                frame = client.recv() => break frame,
                _ = told.recv() => {}
            }
        }
    };
    assert_eq!(within(answered).await, Some(Frame::new(ECHO, "echo")));
    server.stop().await.unwrap();
}

#[actix::test]
async fn messages_for_a_handler_actor_that_is_down_may_close_their_connections() {
    let (server, _told, _) = with_a_dead_actor(WhileDown::Close).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ECHO, "echo").await;
    assert_eq!(client.recv().await, None);
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    assert_eq!(handle.stats().endings.handler_gone, 1);
}

#[actix::test]
async fn a_handler_that_blocks_its_thread_is_reported_with_its_message() {
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let settings = Settings { handler_deadline_ms: 40, worker_pool_size: 2, ..settings() };
    let server = Server::new(settings).route_fn(ECHO, async |msg: Inbound| msg).route_fn(
        HANG,
        async move |msg: Inbound| {
            let _ = wait.lock().unwrap().recv();
            msg
        },
    );
    let (server, mut told) = listen(server);
    let server = TestServer::start(server).await;
    let mut blocks = TestClient::connect(server.addr()).await;
    echo(&mut blocks).await;
    blocks.send(HANG, "").await;
    assert_eq!(within(told.recv()).await, Some(Told::Blocked(HANG)));
    let mut elsewhere = TestClient::connect(server.addr()).await;
    echo(&mut elsewhere).await;
    drop(free);
    assert_eq!(blocks.recv().await, Some(Frame::new(HANG, "")));
    assert_eq!(within(told.recv()).await, Some(Told::Recovered));
    assert_eq!(server.handle().stats().workers_blocked, 1);
    server.stop().await.unwrap();
}

/// A server with two workers and a route that ends the worker it runs on.
async fn with_a_way_to_end_workers(
    when_worker_lost: WhenWorkerLost,
) -> (TestServer, UnboundedReceiver<Told>) {
    let settings = Settings { when_worker_lost, worker_pool_size: 2, ..settings() };
    let server = Server::new(settings).route_fn(ECHO, async |msg: Inbound| msg).route_fn(
        HANG,
        async |_: Inbound| {
            Arbiter::current().stop();
        },
    );
    let (server, told) = listen(server);
    (TestServer::start(server).await, told)
}

#[actix::test]
async fn a_server_that_loses_a_worker_goes_on_with_the_others_until_none_is_left() {
    let (server, mut told) = with_a_way_to_end_workers(WhenWorkerLost::GoOn).await;
    let mut first = TestClient::connect(server.addr()).await;
    let mut second = TestClient::connect(server.addr()).await;
    echo(&mut first).await;
    echo(&mut second).await;
    first.send(HANG, "").await;
    assert_eq!(first.recv().await, None, "it ends with its worker");
    assert!(matches!(within(told.recv()).await, Some(Told::Lost(_))));
    echo(&mut second).await;
    for _ in 0..5 {
        echo(&mut TestClient::connect(server.addr()).await).await;
    }
    let handle = server.handle().clone();
    let stats = handle.stats();
    assert_eq!((stats.workers_lost, stats.endings.worker_gone), (1, 1));
    assert!(within(handle.broadcast((7, "news"))).await.unwrap().accepted > 0);
    assert_eq!(second.recv().await, Some(Frame::new(7, "news")));

    second.send(HANG, "").await;
    let ended = server.ended().await;
    assert!(matches!(ended, Err(ServerError::WorkerLost { .. })), "{ended:?}");
    let stats = handle.stats();
    assert_eq!((stats.workers_lost, stats.admitted), (2, stats.ended));
}

#[actix::test]
async fn a_server_may_stop_when_it_loses_a_worker() {
    let (server, _told) = with_a_way_to_end_workers(WhenWorkerLost::Stop).await;
    let mut first = TestClient::connect(server.addr()).await;
    let mut second = TestClient::connect(server.addr()).await;
    echo(&mut first).await;
    echo(&mut second).await;
    first.send(HANG, "").await;
    let handle = server.handle().clone();
    let ended = server.ended().await;
    assert!(matches!(ended, Err(ServerError::WorkerLost { .. })), "{ended:?}");
    assert_eq!(second.recv().await, None, "drained");
    let endings = handle.stats().endings;
    assert_eq!((endings.worker_gone, endings.shutdown), (1, 1));
}

#[actix::test]
async fn an_observer_sees_what_is_counted_and_may_panic() {
    let (tx, mut seen) = unbounded_channel();
    let server =
        Server::new(settings()).route_fn(ECHO, async |msg: Inbound| msg).on_event(move |event| {
            tx.send(format!("{event}")).unwrap();
            panic!("on purpose");
        });
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    echo(&mut client).await;
    client.send(HANG, "").await;
    drop(client);
    let mut events = Vec::new();
    while !events.last().is_some_and(|last: &String| last.contains("removed, 0 connected")) {
        events.push(within(seen.recv()).await.unwrap());
    }
    for part in ["listens on", "added, 1 connected", "no route for message 2", "closed by the peer"]
    {
        assert!(events.iter().any(|event| event.contains(part)), "{part}: {events:#?}");
    }
    let report = server.stop().await.unwrap();
    assert!(report.is_clean());
}

#[actix::test]
async fn a_thread_that_is_late_is_not_blocked() {
    let settings = Settings { handler_deadline_ms: 5_000, worker_pool_size: 1, ..settings() };
    let server = Server::new(settings).route_fn(ECHO, async |msg: Inbound| {
        thread::sleep(Duration::from_millis(5));
        msg
    });
    let (server, mut told) = listen(server);
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    for _ in 0..20 {
        echo(&mut client).await;
    }
    assert!(told.try_recv().is_err());
    server.stop().await.unwrap();
}

#[actix::test]
async fn workers_that_end_together_are_all_told_of() {
    for _ in 0..10 {
        let (server, _told) = with_a_way_to_end_workers(WhenWorkerLost::GoOn).await;
        let mut clients =
            [TestClient::connect(server.addr()).await, TestClient::connect(server.addr()).await];
        for client in &mut clients {
            echo(client).await;
        }
        for client in &mut clients {
            client.send(HANG, "").await;
        }
        let handle = server.handle().clone();
        let ended = server.ended().await;
        assert!(matches!(ended, Err(ServerError::WorkerLost { .. })), "{ended:?}");
        let stats = handle.stats();
        assert_eq!((stats.workers_lost, stats.admitted, stats.ended), (2, 2, 2));
    }
}
