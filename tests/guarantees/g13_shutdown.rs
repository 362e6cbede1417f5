//! G13: a stop drains, closes everything, runs the hooks, frees the port; a second signal ends it
//! at once.

use std::future::pending;
use std::sync::{Arc, Mutex};

use actix::{Actor, Context, Handler};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use zinxide::conn_manager::{Add, AddError};
use zinxide::testing::{TestServer, conn, within};
use zinxide::{CloseReason, Frame, Inbound};

use crate::support_flow::{
    Log, MORE_THAN_KERNEL, bytes_of, echo, number, number_of, one_worker, server, until,
    until_settled,
};
use crate::transport::{begin_frame, connect, listen_at, settings};

#[actix::test]
async fn g13_stop_closes_everybody_runs_all_hooks_and_frees_the_port() {
    let (server, mut hooked) = server(one_worker(|settings| settings.worker_pool_size = 3));
    let server = TestServer::start(server).await;
    let (addr, handle) = (server.addr(), server.handle().clone());
    let mut clients = Vec::new();
    for _ in 0..30 {
        let (mut client, _) = hooked.connect(&server).await;
        echo(&mut client).await;
        clients.push(client);
    }
    server.stop().await.expect("a stop is an ordinary end");

    // All hooks have run by now, not soon.
    let (starts, stops) = hooked.rest();
    assert_eq!((starts, stops.len()), (0, 30));
    assert!(stops.iter().all(|(_, why)| *why == CloseReason::Shutdown), "{stops:?}");
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    assert!(handle.connections().is_empty());
    assert_eq!(handle.stats().ended, 30);
    TcpStream::connect(addr).await.expect_err("nobody listens");
    TcpListener::bind(addr).await.expect("the port is free");
}

#[actix::test]
async fn g13_a_stopped_server_admits_nobody() {
    let (server, _hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    // The manager has ended with its server.
    handle.conn_manager().send(Add(conn(1, &settings()))).await.unwrap_err();
    assert!(handle.connections().is_empty());
}

#[actix::test]
async fn g13_a_second_server_has_the_port_as_soon_as_the_first_has_stopped() {
    let mut settings = one_worker(|_| {});
    for _ in 0..3 {
        let (server, mut hooked) = server(settings.clone());
        let server = TestServer::start(server).await;
        listen_at(&mut settings, server.addr());
        let (mut client, _) = hooked.connect(&server).await;
        echo(&mut client).await;
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g13_stop_may_be_called_by_many_and_again() {
    let (server, _hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let handle = server.handle().clone();
    within(async { tokio::join!(handle.stop(), handle.stop(), handle.stop()) }).await;
    within(handle.stop()).await;
    server.ended().await.unwrap();
}

#[actix::test]
async fn g13_stop_before_the_server_serves_ends_it_when_it_does() {
    let (server, _hooked) = server(one_worker(|_| {}));
    let bound = server.without_signals().bind().await.unwrap();
    let handle = bound.handle();
    let stopping = actix_rt::spawn(async move { handle.stop().await });
    within(bound.serve()).await.unwrap();
    within(stopping).await.unwrap();
}

#[actix::test]
async fn g13_stop_of_a_server_that_never_served_is_answered() {
    let (server, _hooked) = server(one_worker(|_| {}));
    let bound = server.without_signals().bind().await.unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    drop(bound);
    within(handle.stop()).await;
    TcpListener::bind(addr).await.expect("the port is free");
}

/// Keeps its messages until they are taken away.
#[derive(Clone, Default)]
struct Keeps(Arc<Mutex<Vec<Inbound>>>);

impl Actor for Keeps {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Keeps {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(msg);
    }
}

#[actix::test]
async fn g13_requests_received_before_the_stop_are_answered() {
    const CLIENTS: usize = 20;
    const REQUESTS: u32 = 64;
    let (gate, begun) = (Arc::new(Notify::new()), Log::default());
    let kept = Keeps::default();
    // A small window, so that most requests wait in the connection when the stop comes.
    let (server, mut hooked) = server(one_worker(|settings| {
        settings.worker_pool_size = 2;
        settings.max_worker_task_len = 4;
    }));
    let server = server
        .route_fn(1, {
            let (gate, begun) = (gate.clone(), begun.clone());
            move |msg: Inbound| {
                let (gate, begun) = (gate.clone(), begun.clone());
                async move {
                    begun.push(());
                    if number_of(msg.payload()) == 0 {
                        gate.notified().await;
                    }
                    (1, msg.payload().to_vec())
                }
            }
        })
        .route(2, {
            let kept = kept.clone();
            move || kept.clone()
        });
    let server = TestServer::start(server).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let (mut client, conn) = hooked.connect(&server).await;
        let id = 1 + (n % 2) as u32;
        // One write, so that whoever has the first request has received them all.
        client.send_bytes(&bytes_of((0..REQUESTS).map(|n| (id, number(n))))).await;
        clients.push((client, id, conn));
    }
    let waits = || begun.len() + kept.0.lock().unwrap().len();
    within(async {
        while waits() < CLIENTS / 2 + CLIENTS / 2 * 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let handle = server.handle().clone();
    let stopping = actix_rt::spawn(server.stop());
    // Nothing is answered before the drain has begun, and a manager that drains says so.
    let nobody = conn(0, &settings());
    nobody.stop();
    within(async {
        let add = || handle.conn_manager().send(Add(nobody.clone()));
        while add().await.unwrap() != Err(AddError::Draining) {}
    })
    .await;
    // A permit for each of them, whether it waits already or not.
    let answer = actix_rt::spawn({
        let kept = kept.clone();
        async move {
            loop {
                gate.notify_one();
                for msg in std::mem::take(&mut *kept.0.lock().unwrap()) {
                    let payload = msg.payload().to_vec();
                    msg.reply(2, payload);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    for (mut client, id, _) in clients {
        let answers = client.recv_to_end().await;
        assert!(answers.into_iter().eq((0..REQUESTS).map(|n| Frame::new(id, number(n)))));
    }
    within(stopping).await.unwrap().unwrap();
    answer.abort();
    let (_, stops) = hooked.rest();
    assert_eq!(stops.len(), CLIENTS);
    assert_eq!(handle.stats().frames_cut, 0);
    assert_eq!(handle.stats().replies_dropped, 0);
}

#[actix::test]
async fn g13_frames_accepted_before_the_stop_are_written() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    let sent: Vec<_> = (0..200).map(|n| Frame::new(n, vec![n as u8; 4096])).collect();
    for frame in &sent {
        conn.send_buffered(frame.id, frame.payload.clone()).unwrap();
    }
    let handle = server.handle().clone();
    let (ended, received) = tokio::join!(server.stop(), client.recv_to_end());
    ended.unwrap();
    assert!(received == sent, "{} of {} frames", received.len(), sent.len());
    assert_eq!(handle.stats().frames_cut, 0);
}

/// Stops a server while a handler of message `id` never ends.
async fn hangs(id: u32) {
    let settings = one_worker(|settings| settings.drain_deadline_ms = 50);
    let (server, mut hooked) = server(settings);
    let (kept, begun) = (Keeps::default(), Log::default());
    let server = server
        .route(1, {
            let kept = kept.clone();
            move || kept.clone()
        })
        .route_to(2, kept.clone().start().recipient())
        .route_fn(3, {
            let begun = begun.clone();
            move |msg: Inbound| {
                begun.push(());
                async move {
                    let _kept = msg;
                    pending::<()>().await;
                }
            }
        });
    let server = TestServer::start(server).await;
    let (mut client, hangs) = hooked.connect(&server).await;
    let (mut idle, other) = hooked.connect(&server).await;
    client.send(id, "").await;
    until(&mut idle, || kept.0.lock().unwrap().len() + begun.len() == 1).await;

    server.stop().await.expect("the deadline is no error");
    assert_eq!((client.recv().await, idle.recv().await), (None, None));
    let (_, mut stops) = hooked.rest();
    stops.sort_by_key(|(id, _)| *id);
    let shutdown = |id| (id, CloseReason::Shutdown);
    assert_eq!(stops, [shutdown(hangs.id()), shutdown(other.id())]);
}

#[actix::test]
async fn g13_the_drain_deadline_bounds_a_handler_actor_that_hangs() {
    hangs(1).await;
}

#[actix::test]
async fn g13_the_drain_deadline_bounds_a_shared_actor_that_hangs() {
    hangs(2).await;
}

#[actix::test]
async fn g13_the_drain_deadline_bounds_a_function_that_hangs() {
    hangs(3).await;
}

#[actix::test]
async fn g13_the_drain_deadline_bounds_a_handler_that_blocks_its_thread() {
    let (server, mut hooked) = server(one_worker(|settings| settings.drain_deadline_ms = 50));
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let server = server.route_fn(1, move |_: Inbound| {
        begun.send(()).unwrap();
        // Until the other end is dropped.
        let _ = blocked.lock().unwrap().recv();
        async {}
    });
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    client.send(1, "").await;
    within(begins.recv()).await.unwrap();
    // Nothing can be done for this connection. The server ends all the same.
    server.stop().await.expect("the deadline is no error");
    drop(release);
    // Its thread finds out that it is over as soon as it can.
    assert_eq!(client.recv().await, None);
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::Shutdown));
}

#[actix::test]
async fn g13_the_drain_deadline_bounds_a_peer_that_does_not_read() {
    let (server, mut hooked) = server(one_worker(|settings| {
        settings.drain_deadline_ms = 50;
        settings.write_deadline_ms = 3_600_000;
    }));
    let server = TestServer::start(server).await;
    let (_silent, silent) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let sent = Log::default();
    let sending = actix_rt::spawn({
        let (conn, sent) = (silent.clone(), sent.clone());
        async move {
            while conn.send(1, vec![0; 64 * 1024]).await.is_ok() {
                sent.push(());
                assert!(sent.len() * 64 * 1024 < MORE_THAN_KERNEL, "accepted without a bound");
            }
        }
    });
    until_settled(&mut neighbour, || sent.len()).await;
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    within(sending).await.unwrap();
    assert_eq!(hooked.stopped().await.1, CloseReason::Shutdown);
    assert!(handle.stats().frames_cut > 0, "what was cut is counted");
}

#[actix::test]
async fn g13_an_idle_peer_does_not_hold_the_stop_up() {
    // So long that only a drain that does not wait for it passes.
    let (server, mut hooked) =
        server(one_worker(|settings| settings.drain_deadline_ms = 3_600_000));
    let server = TestServer::start(server).await;
    let (mut idle, _) = hooked.connect(&server).await;
    let (mut half, _) = hooked.connect(&server).await;
    begin_frame(&mut half, 9, &[1, 0, 0]).await;
    echo(&mut idle).await;
    server.stop().await.unwrap();
    assert_eq!((idle.recv().await, half.recv().await), (None, None));
}

#[actix::test]
async fn g13_dropping_a_serving_server_closes_everything_and_tells_who_waits_for_its_stop() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let bound = server.without_signals().bind().await.unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    let serving = actix_rt::spawn(async move { bound.serve().await });
    let mut client = connect(addr).await;
    let conn = hooked.started().await;
    echo(&mut client).await;
    serving.abort();
    // It is dropped when that is done; a stop before it would find a server that serves, and drain it.
    within(serving).await.unwrap_err();
    within(handle.stop()).await;
    assert_eq!(client.recv().await, None);
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::WorkerGone));
    TcpListener::bind(addr).await.expect("the port is free");
}
