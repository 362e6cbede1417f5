//! What is written to the log: few lines, whatever peers do, and none of them theirs.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::sync::{Mutex, Once};

use log::Level;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use zinxide::testing::{TestClient, TestConnection, TestServer, settings, within};
use zinxide::{CloseReason, Event, Inbound, Server, Settings, Stats};

const FAILS: u32 = 1;
const ECHO: u32 = 2;

/// The lines of the log from now on, of all tests of this process.
struct Lines(UnboundedReceiver<String>);

static LISTENERS: Mutex<Vec<UnboundedSender<String>>> = Mutex::new(Vec::new());

impl Lines {
    fn listen() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            log::set_logger(&Logger).unwrap();
            log::set_max_level(log::LevelFilter::Debug);
        });
        let (tx, rx) = unbounded_channel();
        LISTENERS.lock().unwrap().push(tx);
        Self(rx)
    }

    /// The next line with `what` in it, which must tell the test's own lines from others'.
    async fn next(&mut self, what: &str) -> String {
        loop {
            let line = within(self.0.recv()).await.unwrap();
            if line.contains(what) {
                return line;
            }
        }
    }

    /// All so far with `what` in them.
    fn so_far(&mut self, what: &str) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.0.try_recv().ok());
        lines.filter(|line| line.contains(what)).collect()
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        LISTENERS.lock().unwrap().retain(|listener| listener.send(line.clone()).is_ok());
    }

    fn flush(&self) {}
}

/// How many lines these stand for: those that were left out are summed up.
fn stand_for(lines: &[String]) -> u64 {
    let of = |line: &String| match line.split_once("... and ") {
        Some((_, rest)) => rest.split(' ').next().unwrap().parse().unwrap(),
        None => 1_u64,
    };
    lines.iter().map(of).sum()
}

/// So many lines of one kind may be written since then.
fn most_since(began: Instant) -> usize {
    // Ten at first; then one a second, and one for those that were left out.
    10 + 2 * (began.elapsed().as_secs() as usize + 2)
}

fn failing(error: &'static str) -> Server {
    Server::new(settings())
        .route_fn(FAILS, async move |_: Inbound| Err::<(), _>(error))
        .route_fn(ECHO, async |msg: Inbound| msg)
}

#[actix::test]
async fn a_flood_of_errors_is_a_few_lines_a_second_that_tell_how_many_there_were() {
    const ERRORS: u64 = 20_000;
    let mut lines = Lines::listen();
    let server = TestServer::start(failing("flood of errors")).await;
    let began = Instant::now();
    let mut client = TestClient::connect(server.addr()).await;
    let message = [0, FAILS, 0, 0].map(u32::to_le_bytes);
    client.send_bytes(&message[..2].concat().repeat(ERRORS as usize)).await;
    client.send(ECHO, "").await;
    client.recv().await.unwrap();
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    assert_eq!(handle.stats().handler_errors, ERRORS);
    let lines = lines.so_far("flood of errors");
    assert!((11..=most_since(began)).contains(&lines.len()), "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with("WARN zinxide ")), "{lines:#?}");
    assert_eq!(stand_for(&lines), ERRORS, "{lines:#?}");
}

/// What an observer was told, whatever the log says.
#[actix::test]
async fn an_observer_is_told_of_all_that_the_log_leaves_out() {
    let (tell, mut told) = unbounded_channel();
    let server = failing("all told").on_event(move |event| {
        if matches!(event, Event::HandlerFailed { .. }) {
            tell.send(()).unwrap();
        }
    });
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send_bytes(&[0, 0, 0, 0, FAILS as u8, 0, 0, 0].repeat(1000)).await;
    for _ in 0..1000 {
        within(told.recv()).await.unwrap();
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn what_was_left_out_is_said_a_second_later_though_nothing_else_happens() {
    let mut lines = Lines::listen();
    let (mut peer, end) = tokio::io::duplex(64 * 1024);
    let connection = TestConnection::start(failing("and then silence"), end).await;
    tokio::time::pause();
    let began = Instant::now();
    let message = [0, 0, 0, 0, FAILS as u8, 0, 0, 0].repeat(25);
    tokio::io::AsyncWriteExt::write_all(&mut peer, &message).await.unwrap();
    for _ in 0..10 {
        let line = lines.next("and then silence").await;
        assert!(!line.contains("... and "), "{line}");
    }
    let line = lines.next("and then silence").await;
    assert!(line.contains("... and 15 more in the last second like: connection 1 "), "{line}");
    assert_eq!(began.elapsed().as_millis() / 100, 10);
    drop(connection);
}

#[actix::test]
async fn a_flood_of_connections_is_a_few_lines_of_each_kind() {
    const PEERS: usize = 300;
    let mut lines = Lines::listen();
    let settings = Settings { max_conn: 5, ..settings() };
    let server = TestServer::start(Server::new(settings).on_conn_start(|_| {})).await;
    let port = format!("from {}", server.addr().ip());
    let began = Instant::now();
    for _ in 0..PEERS {
        let mut client = TestClient::connect(server.addr()).await;
        // Breaks the protocol, if it is not refused.
        let _ = within(tokio::io::AsyncWriteExt::write_all(client.stream(), &[0xff; 8])).await;
        client.recv().await;
    }
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!(stats.admitted + stats.refused, PEERS as u64);
    // Other tests' connections are among them, but not many.
    let all = lines.so_far(&port);
    for part in [" added, ", " removed, ", "on_conn_start", "closed: protocol error", "refused: "] {
        let lines: Vec<_> = all.iter().filter(|line| line.contains(part)).cloned().collect();
        assert!(lines.len() <= most_since(began) + 30, "{part}: {lines:#?}");
    }
}

#[actix::test]
async fn what_a_peer_says_is_escaped_and_cut() {
    let mut lines = Lines::listen();
    let server = Server::new(settings()).route_fn(FAILS, async move |msg: Inbound| {
        Err::<(), _>(String::from_utf8_lossy(msg.payload()).into_owned())
    });
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    let says = "says this\r\nERROR zinxide all is lost\u{1b}[2J\u{202e}\u{2066}";
    client.send(FAILS, format!("{says}{}", "!".repeat(2000))).await;
    let line = lines.next("says this").await;
    let escaped = r"says this\r\nERROR zinxide all is lost\u{1b}[2J\u{202e}\u{2066}!!!";
    assert!(line.contains(escaped) && line.len() < 600, "{line}");
    assert!(!line.contains(char::is_control), "{line}");
    server.stop().await.unwrap();
}

#[actix::test]
async fn an_error_whose_text_panics_costs_its_line() {
    struct Panics;
    impl std::fmt::Display for Panics {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("so far and no further")?;
            panic!("on purpose");
        }
    }
    let mut lines = Lines::listen();
    let server = Server::new(settings())
        .route_fn(FAILS, async |_: Inbound| Err::<(), _>(Panics))
        .route_fn(ECHO, async |msg: Inbound| msg);
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(FAILS, "").await;
    let line = lines.next("so far and no further").await;
    assert!(line.ends_with("[its text panicked]"), "{line}");
    client.send(ECHO, "").await;
    client.recv().await.unwrap();
    assert_eq!(server.handle().stats().handler_errors, 1);
    server.stop().await.unwrap();
}

/// A server, and at which level each connection's closing is logged.
struct Closings {
    server: TestServer,
    levels: UnboundedReceiver<(Level, CloseReason)>,
}

impl Closings {
    async fn start(settings: Settings) -> Self {
        let (tell, levels) = unbounded_channel();
        let server = Server::new(settings)
            .route_fn(ECHO, async |msg: Inbound| msg)
            .on_conn_start(|conn| drop(conn.send_buffered(3, "welcome")))
            .on_event(move |event| {
                if let Event::Closed { why, .. } = event {
                    tell.send((event.level().unwrap(), (*why).clone())).unwrap();
                } else if matches!(event, Event::Admitted { .. } | Event::Removed { .. }) {
                    assert_eq!(event.level(), Some(Level::Debug));
                }
            });
        Self { server: TestServer::start(server).await, levels }
    }

    async fn next(&mut self) -> (Level, CloseReason) {
        within(self.levels.recv()).await.unwrap()
    }

    async fn stop(self) -> Stats {
        let handle = self.server.handle().clone();
        self.server.stop().await.unwrap();
        handle.stats()
    }
}

#[actix::test]
async fn a_peer_that_says_nothing_and_leaves_is_debug_and_counted() {
    let mut closings = Closings::start(settings()).await;
    drop(TcpStream::connect(closings.server.addr()).await.unwrap());
    assert_eq!(closings.next().await.0, Level::Debug);
    TestClient::connect(closings.server.addr()).await.reset();
    assert_eq!(closings.next().await.0, Level::Debug);

    let mut client = TestClient::connect(closings.server.addr()).await;
    client.send(ECHO, "").await;
    // What is left unread makes a reset of the close.
    for _ in 0..2 {
        client.recv().await.unwrap();
    }
    drop(client);
    assert_eq!(closings.next().await, (Level::Info, CloseReason::PeerClosed));
    let mut client = TestClient::connect(closings.server.addr()).await;
    client.recv().await.unwrap();
    client.send_bytes(&[1, 0]).await;
    drop(client);
    assert_eq!(closings.next().await.0, Level::Warn);
    let _stays = TestClient::connect(closings.server.addr()).await.recv().await;
    let stats = closings.stop().await;
    assert!((2..=3).contains(&stats.left_unspoken), "{stats:?}");
    assert_eq!((stats.plain_http, stats.admitted), (0, 5));
}

#[actix::test]
async fn a_health_check_of_a_port_for_frames_is_debug_and_counted() {
    for wire_format in [zinxide::WireFormat::LtvLe, zinxide::WireFormat::TlvBe] {
        let mut closings = Closings::start(Settings { wire_format, ..settings() }).await;
        for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.0\r\n\r\n"] {
            let mut client = TestClient::connect(closings.server.addr()).await;
            client.send_bytes(request.as_bytes()).await;
            let (level, why) = closings.next().await;
            assert!(matches!(why, CloseReason::Protocol(_)), "{why}");
            assert_eq!(level, Level::Debug);
        }
        assert_eq!(closings.stop().await.plain_http, 2);
    }
}

#[actix::test]
async fn a_peer_that_is_closed_because_it_says_nothing_is_debug_and_counted() {
    let settings = Settings { first_message_deadline_ms: 50, ..settings() };
    let mut closings = Closings::start(settings).await;
    let _silent = TcpStream::connect(closings.server.addr()).await.unwrap();
    let (level, why) = closings.next().await;
    assert!(matches!(why, CloseReason::Silent(_)), "{why}");
    assert_eq!((level, closings.stop().await.left_unspoken), (Level::Debug, 1));
}

#[cfg(feature = "ws")]
#[actix::test]
async fn a_health_check_of_a_websocket_port_is_debug_and_counted_and_a_bad_request_is_not() {
    let listen = vec!["ws://127.0.0.1:0/game".parse().unwrap()];
    let settings = Settings { listen, handshake_deadline_ms: 300, ..settings() };
    let mut closings = Closings::start(settings).await;
    let addr = closings.server.addr();
    let ask = async |request: &str| {
        let mut client = TestClient::connect(addr).await;
        client.send_bytes(request.as_bytes()).await;
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(client.stream(), &mut answer);
        within(read).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /game HTTP/1.0\r\n\r\n",
        "HEAD /game HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
        "POST /game HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET nowhere\r\n\r\n",
    ] {
        assert!(ask(request).await.starts_with("HTTP/1.1 4") || request.contains("1.0"));
        assert_eq!(closings.next().await.0, Level::Debug, "{request}");
    }
    let request =
        "GET /other HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(ask(request).await.starts_with("HTTP/1.1 404"));
    assert_eq!(closings.next().await.0, Level::Warn);
    drop(TcpStream::connect(addr).await.unwrap());
    assert_eq!(closings.next().await.0, Level::Debug);
    let _silent = TcpStream::connect(addr).await.unwrap();
    assert_eq!(closings.next().await.0, Level::Debug);
    let stats = closings.stop().await;
    assert_eq!((stats.plain_http, stats.left_unspoken), (6, 2));
    let handshakes = stats.handshakes;
    assert_eq!((handshakes.http, handshakes.peer_closed, handshakes.late), (7, 1, 1));
    assert_eq!(stats.endings.handshake, 9);
}
