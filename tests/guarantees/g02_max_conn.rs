//! G2: never more than `max_conn` connections are admitted; a refused one is closed at once,
//! counted and logged, and its hooks do not run.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use actix::Actor;
use actix_rt::Arbiter;
use futures_util::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use zinxide::conn_manager::{Add, AddError, Len, Remove};
use zinxide::testing::{TestServer, conn, within};
use zinxide::{CloseReason, ConnManager, Frame, MsgId, Server};

use crate::SCHEME;
use crate::support::{Event, echo, journal, log_lines, raise_descriptor_limit, round_trip, tuned};
use crate::transport::{assert_refused, connect, dial};

/// What a start hook sends, so that a client knows that it was admitted.
const HELLO: MsgId = 9;

fn full_from(max_conn: usize) -> Server {
    Server::new(tuned(|s| s.max_conn = max_conn)).route_fn(1, echo)
}

#[actix::test]
async fn g2_never_more_than_max_conn_are_admitted_under_two_thousand_dials() {
    const DIALS: usize = 2_000;
    const MAX: usize = 50;
    raise_descriptor_limit();
    let (tx, mut hooked) = unbounded_channel();
    let stops = tx.clone();
    let server = full_from(MAX)
        .on_conn_start(move |conn| {
            conn.send_buffered(HELLO, "hello").unwrap();
            tx.send((conn.id(), true)).unwrap();
        })
        .on_conn_stop(move |conn, _| stops.send((conn.id(), false)).unwrap());
    let server = TestServer::start(server).await;

    let addr = server.addr();
    let dials = (0..DIALS).map(|_| {
        actix_rt::spawn(async move {
            let mut client = dial(addr).await.ok()?;
            client.recv().await.map(|_| client)
        })
    });
    let clients: Vec<_> = join_all(dials).await.into_iter().map(Result::unwrap).collect();

    let greeted = clients.iter().flatten().count();
    assert_eq!(greeted, MAX, "all places are taken, and no more");
    let stats = server.handle().stats();
    assert_eq!((stats.admitted, stats.refused, stats.ended), (MAX as u64, (DIALS - MAX) as u64, 0));
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), MAX);
    server.stop().await.unwrap();
    let mut hooks = [0, 0];
    while let Ok((_, start)) = hooked.try_recv() {
        hooks[usize::from(!start)] += 1;
    }
    assert_eq!(hooks, [MAX, MAX], "no hook ran for a refused connection");
}

#[actix::test]
async fn g2_never_more_than_max_conn_are_there_while_connections_come_and_go() {
    const MAX: usize = 5;
    const DIALLERS: usize = 12;
    const DIALS: usize = 60;
    let (live, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (live_at_stop, peak_of_all) = (Arc::clone(&live), Arc::clone(&peak));
    let server = full_from(MAX)
        .on_conn_start(move |conn| {
            peak.fetch_max(live.fetch_add(1, SeqCst) + 1, SeqCst);
            conn.send_buffered(HELLO, "hello").unwrap();
        })
        .on_conn_stop(move |_, _| {
            live_at_stop.fetch_sub(1, SeqCst);
        });
    let server = TestServer::start(server).await;

    let addr = server.addr();
    let diallers = (0..DIALLERS).map(|_| {
        actix_rt::spawn(async move {
            let mut greeted = 0;
            for _ in 0..DIALS {
                if let Ok(mut client) = dial(addr).await {
                    greeted += usize::from(client.recv().await.is_some());
                }
            }
            greeted
        })
    });
    let greeted: usize = join_all(diallers).await.into_iter().map(Result::unwrap).sum();
    let stats = server.handle().stats();
    assert_eq!(stats.admitted, greeted as u64);
    assert_eq!(stats.admitted + stats.refused, (DIALLERS * DIALS) as u64);
    assert!(peak_of_all.load(SeqCst) <= MAX, "{} at once", peak_of_all.load(SeqCst));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g2_adds_from_many_threads_at_once_never_pass_the_limit() {
    const MAX: usize = 100;
    let settings = tuned(|s| s.max_conn = MAX);
    let manager = ConnManager::new(&settings).start();
    let (tx, mut answers) = unbounded_channel();
    let arbiters: Vec<_> = (0..4).map(|_| Arbiter::new()).collect();
    for (thread, arbiter) in arbiters.iter().enumerate() {
        let (manager, settings, tx) = (manager.clone(), settings.clone(), tx.clone());
        arbiter.spawn(async move {
            let first = thread as u64 * 1_000;
            let adds = (first..first + MAX as u64).map(|id| manager.send(Add(conn(id, &settings))));
            for answer in join_all(adds).await {
                tx.send(answer.unwrap()).unwrap();
            }
        });
    }
    drop(tx);
    let mut admitted = Vec::new();
    while let Some(answer) = within(answers.recv()).await {
        match answer {
            Ok(len) => admitted.push(len),
            Err(why) => assert_eq!(why, AddError::Full { max_conn: MAX, reserved: 0 }),
        }
    }
    admitted.sort_unstable();
    assert_eq!(admitted, (1..=MAX).collect::<Vec<_>>(), "each place is given once");
    assert_eq!(manager.send(Len).await.unwrap(), MAX);
    for arbiter in arbiters {
        arbiter.stop();
        arbiter.join().unwrap();
    }
}

#[actix::test]
async fn g2_a_refused_dial_is_closed_at_once_counted_and_logged_and_has_no_hooks() {
    let mut lines = log_lines();
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(full_from(1))).await;
    let mut admitted = connect(server.addr()).await;
    let id = events.started().await;

    // One that says nothing, nor shakes hands if there is somebody to shake hands with.
    let mut silent = TcpStream::connect(server.addr()).await.unwrap();
    let peer = silent.local_addr().unwrap();
    // Whole: a peer of another test may have had this port before.
    let says = format!("connection from {peer} refused: the server is full: 1 connections");
    let line = lines.with(&says).await;
    assert!(line.starts_with("WARN zinxide "), "{line}");
    if !SCHEME.has_ws() {
        // Over WebSocket it is waited for, to be told why.
        assert_eq!(within(silent.read_u8()).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    // One that talks at once is refused just so: nothing it says is handled.
    if let Ok(mut eager) = dial(server.addr()).await {
        eager.send(1, "let me in").await;
        assert_eq!(eager.recv().await, None);
    }

    assert_eq!((server.handle().stats().admitted, server.handle().stats().refused), (1, 2));
    round_trip(&mut admitted, 1).await;
    server.stop().await.unwrap();
    assert_eq!(events.rest(), [Event::Stopped(id, CloseReason::Shutdown)]);
}

#[actix::test]
async fn g2_a_place_that_was_given_back_is_given_again() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(full_from(2))).await;
    let _first = connect(server.addr()).await;
    let id = events.started().await;
    let _second = connect(server.addr()).await;
    events.started().await;
    assert_refused(server.addr()).await;

    within(server.handle().conn_manager().send(Remove(id))).await.unwrap().unwrap();
    let mut third = connect(server.addr()).await;
    third.send(1, "in").await;
    assert_eq!(third.recv().await, Some(Frame::new(1, "in")));
    // Full again.
    assert_refused(server.addr()).await;
    assert_eq!((server.handle().stats().admitted, server.handle().stats().refused), (3, 2));
    server.stop().await.unwrap();
}
