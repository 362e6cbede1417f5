//! The thread of `main` may be busy with something else: nothing of a server waits for it.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::io::{Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::mpsc;
use std::thread;

use tokio::io::AsyncReadExt;
use zinxide::testing::{PATIENCE, TestClient, TestServer, settings, within};
use zinxide::{CloseReason, Event, Frame, Inbound, Server, ServerHandle, Settings, Slow};

const ECHO: u32 = 1;
const BLOCK: u32 = 2;
const LATER: u32 = 3;

/// A message without a payload, as the default format has it.
fn frame(id: u32) -> Vec<u8> {
    [0, id].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A client that needs no event loop.
struct Plain(TcpStream);

impl Plain {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn echo(&mut self) {
        self.send(ECHO);
        assert_eq!(self.recv(), frame(ECHO));
    }

    fn send(&mut self, id: u32) {
        self.0.write_all(&frame(id)).unwrap();
    }

    fn recv(&mut self) -> Vec<u8> {
        let mut reply = vec![0; 8];
        self.0.read_exact(&mut reply).unwrap();
        reply
    }

    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap_or(0) == 0
    }
}

fn echo_server(settings: Settings) -> Server {
    Server::new(settings).route_fn(ECHO, async |msg: Inbound| msg)
}

/// Runs `f` on another thread, while this one, which has bound and serves, does nothing else.
async fn while_main_is_blocked<R: Send + 'static>(
    server: Server,
    f: impl FnOnce(ServerHandle) -> R + Send + 'static,
) -> (TestServer, R) {
    let server = TestServer::start(server).await;
    let mut first = TestClient::connect(server.addr()).await;
    first.send(ECHO, "").await;
    assert_eq!(first.recv().await, Some(Frame::new(ECHO, "")), "it serves");
    let handle = server.handle().clone();
    let done = thread::spawn(move || f(handle)).join().unwrap();
    (server, done)
}

/// Waits for an answer of the handle on a thread without an actix system.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(within(future))
}

#[actix::test]
async fn peers_connect_and_are_served_while_the_thread_of_main_is_blocked() {
    let (server, ()) = while_main_is_blocked(echo_server(settings()), |handle| {
        for _ in 0..50 {
            Plain::connect(handle.local_addr()).echo();
        }
    })
    .await;
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.admitted, stats.ended), (51, 51));
}

#[actix::test]
async fn a_handle_is_answered_while_the_thread_of_main_is_blocked() {
    let settings = Settings { max_conn: 5, ..settings() };
    let (server, ()) = while_main_is_blocked(echo_server(settings), |handle| {
        let addr = handle.local_addr();
        let mut peer = Plain::connect(addr);
        peer.echo();
        assert!(wait(handle.broadcast((7, ""))).unwrap().accepted > 0);
        assert_eq!(peer.recv(), frame(7));
        assert_eq!(wait(handle.set_max_conn(6)), 5);
        let later = zinxide::Route::function(async |msg: Inbound| msg);
        wait(handle.register(LATER, later)).unwrap();
        peer.send(LATER);
        assert_eq!(peer.recv(), frame(LATER));
        wait(handle.unregister(LATER)).unwrap();
        wait(handle.suspend());
        assert!(TcpStream::connect(addr).is_err());
        wait(handle.resume()).unwrap();
        Plain::connect(addr).echo();
        assert!(wait(handle.clear_conn()) > 0);
        assert!(peer.is_closed());
    })
    .await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_stop_drains_to_its_end_while_the_thread_of_main_is_blocked() {
    let (server, ()) = while_main_is_blocked(echo_server(settings()), |handle| {
        let mut peer = Plain::connect(handle.local_addr());
        peer.echo();
        wait(handle.stop());
        assert!(peer.is_closed());
        TcpListener::bind(handle.local_addr()).expect("the port is free");
    })
    .await;
    let report = server.ended().await.unwrap();
    assert!(report.is_clean(), "{report}");
}

#[actix::test]
async fn a_blocked_worker_is_reported_while_the_thread_of_main_is_blocked() {
    let (free, blocked) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let blocked = std::sync::Mutex::new(blocked);
    let settings = Settings { handler_deadline_ms: 40, worker_pool_size: 2, ..settings() };
    let server = echo_server(settings)
        .route_fn(BLOCK, async move |_: Inbound| {
            let _ = blocked.lock().unwrap().recv();
        })
        .on_event(move |event| {
            if let Event::WorkerBlocked { message, .. } = event {
                // Nobody listens when the right one was told of.
                let _ = tell.send(*message);
            }
        });
    let (server, message) = while_main_is_blocked(server, move |handle| {
        let mut peer = Plain::connect(handle.local_addr());
        peer.send(BLOCK);
        // On a busy machine another worker may be slow, which looks the same.
        let message = iter::repeat_with(|| told.recv_timeout(PATIENCE))
            .find(|message| message.is_err() || *message == Ok(BLOCK));
        drop(free);
        message
    })
    .await;
    assert_eq!(message, Some(Ok(BLOCK)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn the_budget_of_bytes_is_kept_while_the_thread_of_main_is_blocked() {
    let (tell, told) = mpsc::channel();
    let settings = Settings { max_unsent_bytes: 64 * 1024, ..settings() };
    let server = echo_server(settings).on_event(move |event| {
        if let Event::Closed { why, .. } = event {
            // Nobody listens when the others are closed.
            let _ = tell.send((*why).clone());
        }
    });
    let (server, why) = while_main_is_blocked(server, move |handle| {
        // The first one of these does not read.
        let mut deaf = Plain::connect(handle.local_addr());
        deaf.echo();
        let conn = handle.connections().all().into_iter().max_by_key(zinxide::Conn::id).unwrap();
        while !conn.is_closed() {
            let _ = conn.send_buffered(9, vec![0; 32 * 1024]);
            thread::yield_now();
        }
        told.recv_timeout(PATIENCE)
    })
    .await;
    assert_eq!(why, Ok(CloseReason::SlowConsumer(Slow::OverBudget)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn the_port_is_free_when_the_drop_of_a_serving_server_returns() {
    for _ in 0..20 {
        let bound = echo_server(settings()).without_signals().bind().await.unwrap();
        let (addr, handle) = (bound.local_addr(), bound.handle());
        let mut client = TestClient::connect(addr).await;
        {
            let mut serving = pin!(bound.serve());
            client.send(ECHO, "").await;
            let echoed = tokio::select! {
                _ = &mut serving => panic!("it ends"),
                echoed = client.recv() => echoed,
            };
            assert_eq!(echoed, Some(Frame::new(ECHO, "")));
        }
        TcpListener::bind(addr).expect("the port is free");
        within(handle.stop()).await;
        assert_eq!(client.stream().read(&mut [0]).await.unwrap_or(0), 0, "closed");
        let stats = || handle.stats();
        within(async {
            while stats().ended < stats().admitted {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[actix::test]
async fn nothing_of_the_application_runs_on_the_thread_that_accepts_but_what_says_so() {
    let name = || thread::current().name().unwrap_or_default().to_owned();
    let (tx, on) = mpsc::channel();
    let (of_refusal, of_hook) = (tx.clone(), tx.clone());
    let of_route = tx;
    let settings = Settings { max_conn: 1, ..settings() };
    let server = echo_server(settings)
        .route_with(LATER, move |_| {
            of_route.send(("route", name())).unwrap();
            zinxide::Route::function(async |msg: Inbound| msg)
        })
        .on_conn_start(move |_| of_hook.send(("hook", name())).unwrap())
        .refusal(move |_| {
            of_refusal.send(("refusal", name())).unwrap();
            None
        });
    let server = TestServer::start(server).await;
    let mut first = TestClient::connect(server.addr()).await;
    first.send(ECHO, "").await;
    assert!(first.recv().await.is_some());
    assert_eq!(TestClient::connect(server.addr()).await.recv().await, None);
    server.stop().await.unwrap();
    let on: Vec<_> = on.iter().collect();
    let main = name();
    assert_eq!(on[0], ("route", main.clone()));
    assert_eq!(on[1].0, "hook");
    assert!(on[1].1 != main && on[1].1 != "zinxide-accept", "{on:?}");
    assert_eq!(on[2], ("refusal", "zinxide-accept".to_owned()));
}
