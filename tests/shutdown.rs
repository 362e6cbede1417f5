//! The phases of a stop, and its report.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Frame, Inbound, Server, Settings, StopReport};

const ECHO: u32 = 1;
const SLOW: u32 = 2;
const NEVER: u32 = 3;
const NOTICE: u32 = 9;

fn server(settings: Settings) -> Server {
    Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route_fn(NEVER, async |_: Inbound| std::future::pending::<()>().await)
        .route_fn(SLOW, async |msg: Inbound| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            msg
        })
}

async fn connect(server: &TestServer) -> TestClient {
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ECHO, "").await;
    client.recv().await.unwrap();
    client
}

#[actix::test]
async fn clients_are_told_and_served_until_the_notice_is_over() {
    let settings = Settings { notice_ms: 300, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, "soon"))).await;
    let (addr, handle) = (server.addr(), server.handle().clone());
    let mut client = connect(&server).await;
    let began = Instant::now();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "soon")));
    assert!(TcpStream::connect(addr).await.is_err(), "the port is free");
    client.send(ECHO, "last words").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "last words")));
    assert_eq!(client.recv().await, None);
    assert!(began.elapsed() >= Duration::from_millis(300));
    drop(client);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.connections, 1);
    assert_eq!(handle.stats().endings.shutdown, 1);
}

#[actix::test]
async fn the_notice_is_over_when_all_have_left() {
    let settings = Settings { notice_ms: 60_000, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, ""))).await;
    let handle = server.handle().clone();
    let mut clients = [connect(&server).await, connect(&server).await];
    let stopping = actix_rt::spawn(server.stop());
    for client in &mut clients {
        assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "")));
    }
    drop(clients);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.took < Duration::from_secs(30));
    let endings = handle.stats().endings;
    assert_eq!((endings.peer_closed + endings.io, endings.shutdown), (2, 0));
}

#[actix::test]
async fn what_was_received_is_answered_and_the_report_is_clean() {
    let server = TestServer::start(server(settings())).await;
    let mut client = connect(&server).await;
    // In one write, so that all have been read when the first is answered.
    client.send_bytes(&b"\x04\0\0\0\x02\0\0\0slow".repeat(3)).await;
    client.recv().await.unwrap();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv_to_end().await.len(), 2);
    drop(client);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.connections, report.cut), (1, 0));
}

#[actix::test]
async fn what_was_cut_is_in_the_report() {
    let (tx, mut stopped) = unbounded_channel();
    let settings = Settings {
        drain_deadline_ms: 100,
        worker_pool_size: 1,
        max_packet_size: 1 << 20,
        max_msg_chan_bytes: 64 << 20,
        ..settings()
    };
    let server = server(settings).on_event(move |event| {
        if let zinxide::Event::Stopped { report, .. } = event {
            tx.send((**report, event.to_string())).unwrap();
        }
    });
    let server = TestServer::start(server).await;
    // One does not read, one has a handler that never ends, with a message behind it.
    let _deaf = connect(&server).await;
    let handle = server.handle().clone();
    let deaf = handle.connections().all().pop().unwrap();
    let mut sent = 0;
    while sent < 32 {
        within(deaf.send(ECHO, vec![0; 1 << 20])).await.unwrap();
        sent += 1;
    }
    let mut hangs = connect(&server).await;
    // In one write, so that both are read before the first is handled.
    hangs.send_bytes(b"\0\0\0\0\x03\0\0\0\x06\0\0\0\x01\0\0\0behind").await;
    let mut fine = connect(&server).await;
    fine.send(ECHO, "").await;
    fine.recv().await.unwrap();

    let report = within(server.stop()).await.unwrap();
    assert!(!report.is_clean());
    assert_eq!((report.connections, report.cut, report.messages_unfinished), (3, 2, 1));
    assert!((1..=32).contains(&report.frames_cut), "{report:?}");
    assert!(report.bytes_cut > 0 && report.bytes_cut <= 32 * ((1 << 20) + 8), "{report:?}");
    let stats = handle.stats();
    assert_eq!((stats.frames_cut, stats.bytes_cut), (report.frames_cut, report.bytes_cut));
    assert_eq!(report.bytes_unhandled, 8 + "behind".len() as u64);
    let (told, words) = within(stopped.recv()).await.unwrap();
    assert_eq!(told, report);
    assert!(words.contains("frames (") && words.contains("3 connections"), "{words}");
}

#[actix::test]
async fn a_dial_during_the_stop_is_not_admitted() {
    let settings = Settings { notice_ms: 200, ..settings() };
    let server = TestServer::start(server(settings).shutdown_notice((NOTICE, ""))).await;
    let mut client = connect(&server).await;
    let handle = server.handle().clone();
    let stopping = actix_rt::spawn(server.stop());
    assert_eq!(client.recv().await, Some(Frame::new(NOTICE, "")));
    let late = zinxide::testing::conn(99, &zinxide::testing::settings());
    let refused = handle.conn_manager().send(zinxide::conn_manager::Add(late)).await.unwrap();
    assert_eq!(refused, Err(zinxide::conn_manager::AddError::Draining));
    drop(client);
    within(stopping).await.unwrap().unwrap();
}

#[actix::test]
async fn a_notice_is_not_waited_for_longer_than_its_time_whatever_the_workers_do() {
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (tx, mut blocked) = unbounded_channel();
    let settings =
        Settings { worker_pool_size: 1, drain_deadline_ms: 100, notice_ms: 100, ..settings() };
    let server =
        server(settings).shutdown_notice((NOTICE, "")).route_fn(4, async move |_: Inbound| {
            tx.send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
        });
    let server = TestServer::start(server).await;
    let mut client = connect(&server).await;
    client.send(4, "").await;
    within(blocked.recv()).await.unwrap();
    let report = within(server.stop()).await.unwrap();
    assert_eq!((report.cut, report.workers_stuck), (1, 1));
    assert!(!report.is_clean());
    drop(free);
}

#[actix::test]
async fn a_notice_that_no_outbox_can_take_is_an_error_at_once() {
    let frame = Frame::new(NOTICE, vec![0; 2 << 20]);
    let server = server(settings()).shutdown_notice(frame.clone());
    let Err(error) = server.bind().await else { panic!("it starts") };
    assert!(matches!(error, zinxide::ServerError::Notice(given) if given == frame));
}

#[actix::test]
async fn nothing_is_left_of_a_server_that_has_ended() {
    let alive = Arc::new(());
    let observer = Arc::clone(&alive);
    let server = server(settings()).on_event(move |_| {
        let _ = &observer;
    });
    let server = TestServer::start(server).await;
    drop(connect(&server).await);
    server.stop().await.unwrap();
    // The actors of this thread end when it has nothing else to do.
    let gone = async {
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

/// Stops a server whose handler ends its own connection and then works on for this long. Answers the
/// report, and whether the handler got to its end.
async fn stop_while_a_handler_works(settings: Settings, time: Duration) -> (StopReport, bool) {
    let (tx, mut steps) = unbounded_channel();
    let done = tx.clone();
    let server = server(settings).route_fn(4, async move |msg: Inbound| {
        msg.conn().stop();
        tx.send("works").unwrap();
        tokio::time::sleep(time).await;
        done.send("done").unwrap();
    });
    let server = TestServer::start(server).await;
    let mut client = connect(&server).await;
    client.send(4, "").await;
    assert_eq!(within(steps.recv()).await, Some("works"));
    assert_eq!(client.recv().await, None);
    drop(client);
    let report = server.stop().await.unwrap();
    (report, steps.try_recv() == Ok("done"))
}

#[actix::test]
async fn a_stop_waits_for_handlers_whose_connections_are_gone_already() {
    let time = Duration::from_millis(300);
    let (report, done) = stop_while_a_handler_works(settings(), time).await;
    assert!(done);
    assert!(report.is_clean(), "{report}");
}

#[actix::test]
async fn a_handler_that_outlasts_the_deadline_without_its_connection_is_in_the_report() {
    let settings = Settings { drain_deadline_ms: 200, ..settings() };
    let (report, done) = stop_while_a_handler_works(settings, Duration::from_secs(3600)).await;
    assert!(!done);
    assert_eq!((report.cut, report.messages_unfinished), (1, 1), "{report:?}");
}
