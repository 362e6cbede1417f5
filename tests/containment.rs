//! Values of the application whose drop panics: wherever one is dropped, the process, the server, its workers
//! and the other connections go on.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use actix::{Actor, Context, Handler};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::unbounded_channel;
use zinxide::client::{Client, WhenQueueFull};
use zinxide::conn_manager::{Broadcast, Len};
use zinxide::framing::{Found, Framing};
use zinxide::testing::{TestClient, TestServer, accepted, conn, inbound, settings, within};
use zinxide::{
    Endpoint, Frame, FrameError, Heartbeat, Inbound, MsgId, Overflow, Route, SendError, Server,
    Settings,
};

const ECHO: MsgId = 1;
const BAD: MsgId = 2;

/// Payloads of this size are kept as they are until they are written; smaller ones are copied.
const LARGE: usize = 40_000;

/// Makes values whose drop panics, and counts those there are.
#[derive(Clone, Default)]
struct Bads(Arc<AtomicUsize>);

impl Bads {
    fn value(&self) -> Bad {
        self.0.fetch_add(1, SeqCst);
        Bad { of: self.clone(), bytes: Vec::new() }
    }

    fn bytes(&self, len: usize) -> Bytes {
        let mut bad = self.value();
        bad.bytes = vec![7; len];
        Bytes::from_owner(bad)
    }

    fn frame(&self, len: usize) -> Frame {
        Frame::new(BAD, self.bytes(len))
    }

    /// Waits until all are dropped.
    async fn gone(&self) {
        let gone = async {
            while self.0.load(SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(gone).await;
    }
}

struct Bad {
    of: Bads,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Bad {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.of.0.fetch_sub(1, SeqCst);
        panic!("on purpose");
    }
}

/// Panics; returns nothing, so that a function that ends with it is a route function all the same.
fn panic_with(carried: impl Send + 'static) {
    panic_any(carried);
}

/// A server whose connections share a thread, with an echo.
fn server() -> Server {
    Server::new(one_worker()).route_fn(ECHO, async |msg: Inbound| msg)
}

fn one_worker() -> Settings {
    Settings { worker_pool_size: 1, ..settings() }
}

async fn echo(client: &mut TestClient) {
    client.send(ECHO, "there and back").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "there and back")));
}

async fn connect(server: &TestServer) -> TestClient {
    let mut client = TestClient::connect(server.addr()).await;
    echo(&mut client).await;
    client
}

/// A connection that was there before goes on, so do new ones, and the sums are right at the end.
async fn assert_unharmed(server: TestServer, mut neighbour: TestClient) {
    echo(&mut neighbour).await;
    drop(connect(&server).await);
    let handle = server.handle().clone();
    assert!(handle.conn_manager().send(Len).await.is_ok());
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.admitted, stats.workers_lost), (stats.ended, 0));
}

/// Three of them aborted the process.
#[actix::test]
async fn replies_whose_payloads_drop_panics_reach_their_peer() {
    for len in [LARGE, 10] {
        let bads = Bads::default();
        let (of, in_actor) = (bads.clone(), bads.clone());
        let server = server()
            .route_fn(BAD, async move |msg: Inbound| {
                for _ in 0..2 {
                    msg.conn().send_buffered(BAD, of.bytes(len)).unwrap();
                }
                msg.conn().send(BAD, of.bytes(len)).await.unwrap();
                msg.reply(BAD, of.bytes(len));
            })
            .add_route(BAD + 1, Route::actor(move || Replies(in_actor.clone(), len)));
        let server = TestServer::start(server).await;
        let neighbour = connect(&server).await;
        let mut client = connect(&server).await;
        for (route, frames) in [(BAD, 4), (BAD + 1, 1), (BAD, 4)] {
            client.send(route, "").await;
            for _ in 0..frames {
                assert_eq!(client.recv().await.unwrap().payload.len(), len);
            }
        }
        bads.gone().await;
        echo(&mut client).await;
        let stats = server.handle().stats();
        assert_eq!((stats.panics, stats.restarts), (0, 0));
        assert_unharmed(server, neighbour).await;
    }
}

/// A handler actor that replies with such a payload.
struct Replies(Bads, usize);

impl Actor for Replies {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Replies {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.reply(BAD, self.0.bytes(self.1));
    }
}

#[actix::test]
async fn a_return_value_whose_drop_panics_ends_its_connection_at_most() {
    for len in [LARGE, 10] {
        let bads = Bads::default();
        let of = bads.clone();
        let server = server().route_fn(BAD, async move |_: Inbound| of.frame(len));
        let server = TestServer::start(server).await;
        let neighbour = connect(&server).await;
        let mut client = connect(&server).await;
        client.send_bytes(&[0, 0, 0, 0, 2, 0, 0, 0].repeat(3)).await;
        if len == LARGE {
            for _ in 0..3 {
                assert_eq!(client.recv().await.unwrap().payload.len(), len);
            }
        } else {
            // Copied where the function runs, and dropped there.
            assert!(client.recv_to_end().await.len() <= 1);
        }
        bads.gone().await;
        assert_unharmed(server, neighbour).await;
    }
}

#[actix::test]
async fn frames_that_are_cut_with_their_connection_may_panic_when_they_are_dropped() {
    let bads = Bads::default();
    let of = bads.clone();
    let server =
        server().route_fn(BAD, async move |msg: Inbound| {
            for _ in 0..20 {
                let _ = msg.conn().send_buffered(BAD, of.bytes(LARGE));
            }
            for overflow in [Overflow::DropNewest, Overflow::DropOldest, Overflow::Close] {
                while msg.conn().send_with(BAD, of.bytes(LARGE), overflow).is_ok_and(|sent| {
                    sent == zinxide::Sent::Accepted || overflow == Overflow::Close
                }) {}
            }
            assert!(matches!(msg.conn().send_buffered(BAD, "late"), Err(SendError::Closed(_))));
            msg.reply(BAD, of.bytes(10));
        });
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    let mut client = connect(&server).await;
    client.send(BAD, "").await;
    bads.gone().await;
    assert_unharmed(server, neighbour).await;
    drop(client);
}

/// One of them ended the manager, and the server with it.
#[actix::test]
async fn a_broadcast_whose_payloads_drop_panics_reaches_everybody() {
    for len in [LARGE, 10] {
        let bads = Bads::default();
        let server = TestServer::start(server()).await;
        let mut neighbour = connect(&server).await;
        let handle = server.handle();
        within(handle.broadcast(bads.frame(len))).await.unwrap();
        within(handle.broadcast_with(bads.frame(len), Overflow::DropOldest)).await.unwrap();
        // As an actor sends it that has the manager's address.
        let literal = Broadcast { frame: bads.frame(len), overflow: None };
        within(handle.conn_manager().send(literal)).await.unwrap().unwrap();
        for _ in 0..3 {
            assert_eq!(neighbour.recv().await.unwrap().payload.len(), len);
        }
        // Nobody gets these back.
        drop(handle.broadcast(bads.frame(100 << 20)));
        handle.conn_manager().do_send(Broadcast::new(bads.frame(100 << 20)));
        bads.gone().await;
        assert_unharmed(server, neighbour).await;
    }
}

/// One of them ended the server.
#[actix::test]
async fn a_refusal_whose_frames_drop_panics_leaves_the_frame_out() {
    let bads = Bads::default();
    let of = bads.clone();
    let settings = Settings { max_conn: 2, ..one_worker() };
    let server = Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .refusal(move |_| Some(of.frame(10)));
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    let second = connect(&server).await;
    for _ in 0..3 {
        assert_eq!(TestClient::connect(server.addr()).await.recv().await, None);
    }
    assert_eq!(server.handle().stats().refused, 3);
    bads.gone().await;
    let (handle, id) =
        (server.handle(), *server.handle().connections().ids().iter().max().unwrap());
    within(handle.remove(id)).await.unwrap();
    drop(second);
    assert_unharmed(server, neighbour).await;
}

#[actix::test]
async fn a_notice_of_the_stop_and_a_heartbeat_may_have_payloads_whose_drop_panics() {
    let bads = Bads::default();
    let of = bads.clone();
    let heartbeat = Heartbeat::every(Duration::from_millis(10))
        .message(BAD, move |_| of.bytes(3))
        .alive_within(Duration::from_secs(3600));
    let server = server().shutdown_notice(bads.frame(LARGE)).heartbeat(heartbeat);
    let server = TestServer::start(server).await;
    let mut neighbour = connect(&server).await;
    for _ in 0..3 {
        assert_eq!(neighbour.recv().await, Some(Frame::new(BAD, vec![7; 3])));
    }
    let handle = server.handle().clone();
    assert!(server.stop().await.unwrap().is_clean());
    assert!(neighbour.recv_to_end().await.iter().any(|frame| frame.payload.len() == LARGE));
    assert_eq!(handle.stats().panics, 0);
    bads.gone().await;
}

/// A heartbeat that has no frame, or nobody to take it, is dropped with its payload.
#[actix::test]
async fn a_heartbeat_that_is_not_sent_may_have_a_payload_whose_drop_panics() {
    let bads = Bads::default();
    let of = bads.clone();
    let heartbeat = Heartbeat::every(Duration::from_millis(10))
        .message(BAD, move |_| of.bytes(64 << 20))
        .alive_within(Duration::from_secs(3600));
    let (tell, mut told) = unbounded_channel();
    let server = server().heartbeat(heartbeat).on_event(move |event| {
        if matches!(event, zinxide::Event::HeartbeatFailed { .. }) {
            tell.send(()).unwrap();
        }
    });
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    for _ in 0..3 {
        within(told.recv()).await.unwrap();
    }
    assert_unharmed(server, neighbour).await;
}

#[actix::test]
async fn properties_whose_drop_panics_are_all_dropped_with_their_connection() {
    struct One(#[expect(dead_code)] Bad);
    struct Other(#[expect(dead_code)] Bad);
    let bads = Bads::default();
    let of = bads.clone();
    let server = server().on_conn_start(move |conn| {
        conn.set_property(of.value());
        conn.set_property(One(of.value()));
        conn.set_property(Other(of.value()));
    });
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    for _ in 0..3 {
        drop(connect(&server).await);
    }
    assert_unharmed(server, neighbour).await;
    bads.gone().await;

    // A connection that never had an actor.
    let without = conn(1, &settings());
    without.set_property(bads.value());
    without.set_property(One(bads.value()));
    drop(without);
    bads.gone().await;
}

/// A framing that is dropped with the last connection.
#[derive(Debug)]
struct BadFraming(Bad);

impl std::fmt::Debug for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bad")
    }
}

impl Framing for BadFraming {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        let [id, len, rest @ ..] = src else { return Ok(None) };
        let len = usize::from(*len);
        let found = Found { id: MsgId::from(*id), payload: 2..2 + len, len: 2 + len };
        Ok((rest.len() >= len).then_some(found))
    }

    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.extend_from_slice(&[id as u8, payload.len() as u8]);
        dst.extend_from_slice(payload);
    }

    fn overhead(&self) -> usize {
        assert!(self.0.bytes.is_empty());
        2
    }
}

#[actix::test]
async fn what_hooks_routes_and_framings_have_captured_may_panic_when_it_is_dropped() {
    let bads = Bads::default();
    let bad = || bads.value();
    // Each keeps one, whatever else it does.
    macro_rules! keeps {
        (|$($arg:ident),*| $does:expr) => {{
            let kept = bad();
            move |$($arg),*| {
                let _ = &kept;
                $does
            }
        }};
    }
    let function = || {
        let kept = bad();
        async move |msg: Inbound| {
            let _ = &kept;
            msg
        }
    };
    let heartbeat = || {
        Heartbeat::every(Duration::from_secs(3600))
            .message(9, keeps!(|_conn| "beat"))
            .on_remote_not_alive(keeps!(|_conn| ()))
    };
    let built = || {
        let server = Server::new(one_worker())
            .framing(BadFraming(bad()))
            .on_conn_start(keeps!(|_conn| ()))
            .on_conn_stop(keeps!(|_conn, _why| ()))
            .on_watermark(keeps!(|_conn, _mark| ()))
            .on_event(keeps!(|_event| ()))
            .refusal(keeps!(|_why| None))
            .heartbeat(heartbeat());
        let server = (3..6).fold(server, |server, id| server.route_fn(id, function()));
        #[cfg(feature = "ws")]
        let server = {
            let kept = bad();
            server.ws_auth(async move |_: &zinxide::Upgrade, _: &zinxide::Conn| {
                let _ = &kept;
                true
            })
        };
        let (kept, of) = (bad(), bads.clone());
        let server = server.route(6, move || {
            let _ = &kept;
            Replies(of.clone(), 0)
        });
        let of = function();
        server.route_with(7, move |_| Route::function(of))
    };
    // Never bound, never served, served.
    drop(built());
    bads.gone().await;
    drop(built().bind().await.unwrap());
    bads.gone().await;
    let server = TestServer::start(built()).await;
    let codec = || zinxide::FrameCodec::framed(BadFraming(bad()), 255);
    let stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let mut client = TestClient::on(stream, codec());
    for id in 3..8 {
        client.send(id, "").await;
        client.recv().await.unwrap();
    }
    let handle = server.handle().clone();
    handle.register(8, Route::function(function())).await.unwrap();
    handle.unregister(8).await.unwrap();
    assert!(server.stop().await.unwrap().is_clean());
    drop((client, handle));
    bads.gone().await;
}

#[actix::test]
async fn a_panic_may_carry_a_value_whose_drop_panics() {
    let bads = Bads::default();
    let of = bads.clone();
    let server = server().route_fn(BAD, async move |_: Inbound| {
        panic_with(of.value());
    });
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    for _ in 0..3 {
        let mut client = connect(&server).await;
        client.send(BAD, "").await;
        assert_eq!(client.recv().await, None);
    }
    bads.gone().await;
    let handle = server.handle().clone();
    assert_unharmed(server, neighbour).await;
    let stats = handle.stats();
    assert_eq!((stats.panics, stats.endings.handler_panicked), (3, 3));
}

/// What sends while its thread unwinds.
struct LastWords(Inbound, Bads);

impl Drop for LastWords {
    fn drop(&mut self) {
        let Self(msg, bads) = self;
        for len in [10, LARGE] {
            let _ = msg.conn().send_buffered(BAD, bads.bytes(len));
            let _ = msg.conn().send_with(BAD, bads.bytes(len), Overflow::DropOldest);
        }
        msg.conn().stop();
        inbound(msg.conn(), BAD, bads.bytes(10)).reply(BAD, bads.bytes(10));
    }
}

#[actix::test]
async fn what_is_sent_while_a_handler_panics_may_panic_when_it_is_dropped() {
    let bads = Bads::default();
    let of = bads.clone();
    let server = server().route_fn(BAD, async move |msg: Inbound| {
        let _last_words = LastWords(msg, of.clone());
        panic_with("on purpose");
    });
    let server = TestServer::start(server).await;
    let neighbour = connect(&server).await;
    let mut client = connect(&server).await;
    client.send(BAD, "").await;
    assert_eq!(client.recv_to_end().await.len(), 4);
    bads.gone().await;
    assert_unharmed(server, neighbour).await;
}

#[actix::test]
async fn frames_in_the_offline_queue_of_a_client_may_panic_when_they_are_dropped() {
    let bads = Bads::default();
    let nowhere = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = nowhere.local_addr().unwrap().port();
    drop(nowhere);
    let client = Client::builder(Endpoint::tcp("127.0.0.1", port))
        .offline_queue(4, 1 << 20, WhenQueueFull::DropOldest)
        .start()
        .unwrap();
    for _ in 0..8 {
        client.send_buffered(BAD, bads.bytes(10)).unwrap();
    }
    for _ in 0..2 {
        let asked = client.request(BAD, bads.bytes(LARGE), 3, Duration::from_millis(1));
        // The one that gets it back drops it.
        std::mem::forget(asked.await.unwrap_err());
    }
    bads.0.fetch_sub(2, SeqCst);
    // Nobody takes what is left.
    drop(within(client.close()));
    drop(client);
    bads.gone().await;
}

#[actix::test]
async fn what_a_client_was_given_may_panic_when_it_is_dropped() {
    let bads = Bads::default();
    let bad = || bads.value();
    let built = |endpoint: &Endpoint| {
        let (start, stop, event, function) = (bad(), bad(), bad(), bad());
        let client = Client::builder(endpoint.clone())
            .on_conn_start(move |_| assert!(start.bytes.is_empty()))
            .on_conn_stop(move |_, _| assert!(stop.bytes.is_empty()))
            .on_event(move |_| assert!(event.bytes.is_empty()))
            .framing(BadFraming(bad()))
            .route_fn(9, async move |msg: Inbound| {
                assert!(function.bytes.is_empty());
                msg
            });
        #[cfg(feature = "ws")]
        let client = {
            let headers = bad();
            let ws = zinxide::client::WebSocket::new().headers_with(move || {
                assert!(headers.bytes.is_empty());
                Vec::new()
            });
            client.websocket(ws)
        };
        client
    };
    #[cfg(feature = "ws")]
    let listen: Vec<Endpoint> = vec!["ws://127.0.0.1:0/".parse().unwrap()];
    #[cfg(not(feature = "ws"))]
    let listen = Vec::new();
    let settings = Settings { listen, ..one_worker() };
    let server = Server::new(settings)
        .framing(BadFraming(bad()))
        .route_fn(ECHO, async |msg: Inbound| (BAD, msg.payload().to_vec()));
    let server = TestServer::start(server).await;
    drop(built(&server.endpoint()));
    let client = built(&server.endpoint()).connect().await.unwrap();
    let asked = client.request(ECHO, bads.bytes(10), BAD, Duration::from_secs(30));
    assert_eq!(asked.await.unwrap(), [7; 10][..]);
    assert!(within(client.close()).await.is_empty());
    drop(client);
    server.stop().await.unwrap();
    bads.gone().await;
}

#[test]
fn a_connection_without_an_actor_may_be_dropped_with_frames_whose_drop_panics() {
    let bads = Bads::default();
    let full = conn(1, &settings());
    for _ in 0..3 {
        full.send_buffered(BAD, bads.bytes(LARGE)).unwrap();
    }
    assert_eq!(bads.0.load(SeqCst), 3);
    drop(full);
    assert_eq!(bads.0.load(SeqCst), 0);
    let full = conn(1, &settings());
    full.send_buffered(BAD, bads.bytes(LARGE)).unwrap();
    assert_eq!(accepted(&full).len(), 1);
    assert_eq!(bads.0.load(SeqCst), 0);
}
