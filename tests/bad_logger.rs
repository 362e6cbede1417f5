//! A logger that panics, in each of its methods, with a value whose drop panics, also while the thread unwinds:
//! it ends nothing. A process of its own, since the logger is the process's.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::panic::panic_any;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use actix::{Actor, Context, Handler};
use zinxide::client::Client;
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Frame, Inbound, Server, Settings};

const ECHO: u32 = 1;
const FAILS: u32 = 2;
const PANICS: u32 = 3;
const DIES: u32 = 4;

/// How often each method of the logger has panicked.
static ENABLED: AtomicUsize = AtomicUsize::new(0);
static LOG: AtomicUsize = AtomicUsize::new(0);

struct BadLogger;

struct Bad;

impl Drop for Bad {
    fn drop(&mut self) {
        panic!("on purpose, again");
    }
}

impl log::Log for BadLogger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        if metadata.level() == log::Level::Debug {
            ENABLED.fetch_add(1, SeqCst);
            panic_any(Bad);
        }
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        LOG.fetch_add(1, SeqCst);
        panic_any(Bad);
    }

    fn flush(&self) {
        panic_any(Bad);
    }
}

fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&BadLogger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// Replies, in vain, while its thread unwinds: that is logged.
struct Replies(Option<Inbound>);

impl Drop for Replies {
    fn drop(&mut self) {
        if let Some(msg) = self.0.take() {
            assert!(std::thread::panicking());
            msg.reply(ECHO, "late");
        }
    }
}

/// Panics; returns nothing, so that a function that ends with it is a route function all the same.
fn panic_on_purpose() {
    panic!("on purpose");
}

/// A handler actor that panics.
struct Dies;

impl Actor for Dies {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Dies {
    type Result = ();

    fn handle(&mut self, _: Inbound, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

async fn echo(client: &mut TestClient) {
    client.send(ECHO, "there and back").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "there and back")));
}

#[actix::test]
async fn a_logger_that_panics_ends_nothing() {
    install();
    let settings = Settings { worker_pool_size: 1, max_conn: 4, ..settings() };
    let server = Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route_fn(FAILS, async |_: Inbound| Err::<(), _>("on purpose"))
        .route_fn(PANICS, async |msg: Inbound| {
            msg.conn().stop();
            let _replies = Replies(Some(msg));
            panic_on_purpose();
        })
        .route(DIES, || Dies)
        .on_conn_start(|_| {})
        .on_event(|_| panic_any(Bad));
    let server = TestServer::start(server).await;
    let mut neighbour = TestClient::connect(server.addr()).await;
    echo(&mut neighbour).await;
    // More than are written, so that some are summed up.
    for _ in 0..30 {
        neighbour.send(FAILS, "").await;
    }
    echo(&mut neighbour).await;
    for message in [PANICS, DIES, 77] {
        let mut client = TestClient::connect(server.addr()).await;
        echo(&mut client).await;
        client.send(message, "").await;
        if message == 77 {
            client.send_bytes(&[0xff; 8]).await;
        }
        assert_eq!(client.recv().await, None);
    }
    echo(&mut neighbour).await;

    let client = Client::builder(server.endpoint()).connect().await.unwrap();
    assert!(within(client.close()).await.is_empty());
    let handle = server.handle().clone();
    handle.suspend().await;
    handle.resume().await.unwrap();
    assert!(server.stop().await.unwrap().is_clean());
    let stats = handle.stats();
    assert_eq!((stats.admitted, stats.ended, stats.handler_errors), (5, 5, 30));
    assert_eq!((stats.replies_dropped, stats.restarts, stats.workers_lost), (1, 1, 0));
    assert!(stats.panics > 30, "the observer's are counted");
    assert!(ENABLED.load(SeqCst) > 0 && LOG.load(SeqCst) > 10);
    assert_eq!(neighbour.recv().await, None);
}
