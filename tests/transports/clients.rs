//! The client library over every transport.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use zinxide::client::{Backoff, Client, ClientBuilder, ClientState, ConnectError};
use zinxide::client::{Tls, WebSocket};
use zinxide::testing::within;
use zinxide::{CloseReason, Endpoint, HandshakeError, Inbound, Scheme, Server, Settings};
use zinxide::{Conn, Subprotocol, Upgrade};

use super::support::{ECHO, Watched};
use super::tls::Files;

const SCHEMES: [&str; 4] = ["tcp", "tls", "ws", "wss"];
const LONG: Duration = Duration::from_secs(20);

/// A server at every endpoint, and what its clients need to trust it.
struct Everywhere {
    watched: Watched,
    files: Files,
}

impl Everywhere {
    async fn start(
        test: &str,
        change: impl FnOnce(&mut Settings),
        with: fn(Server) -> Server,
    ) -> Self {
        let files = Files::new(test);
        let mut settings = files.settings();
        settings.listen = SCHEMES
            .map(|scheme| {
                let path = if scheme.starts_with("ws") { "/game" } else { "" };
                format!("{scheme}://127.0.0.1:0{path}").parse().unwrap()
            })
            .into();
        change(&mut settings);
        Self { watched: Watched::serve(with(Server::new(settings))).await, files }
    }

    fn endpoint(&self, at: usize) -> Endpoint {
        self.watched.server.handle().listen_addrs()[at].endpoint()
    }

    fn client(&self, at: usize) -> ClientBuilder {
        let endpoint = self.endpoint(at);
        let encrypted = endpoint.scheme.has_tls();
        let client = Client::builder(endpoint).no_reconnect();
        if encrypted { client.tls(self.tls()) } else { client }
    }

    fn tls(&self) -> Tls {
        let pem = std::fs::read(self.files.path("cert.pem")).unwrap();
        Tls::new().roots_pem(pem).server_name("localhost")
    }
}

#[actix::test]
async fn requests_are_answered_over_every_transport() {
    let mut everywhere = Everywhere::start("requests", |_| {}, |server| server).await;
    for (at, scheme) in SCHEMES.into_iter().enumerate() {
        let client = within(everywhere.client(at).connect()).await.unwrap();
        let conn = everywhere.watched.started().await;
        assert_eq!(conn.scheme().as_str(), scheme);
        assert_eq!(client.conn().unwrap().scheme().as_str(), scheme);
        let answer = within(client.request(ECHO, "hello", ECHO, LONG)).await.unwrap();
        assert_eq!(answer, "hello");
        within(client.close()).await;
        assert_eq!(everywhere.watched.removed().await, CloseReason::PeerClosed);
    }
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn many_frames_of_all_sizes_come_back_whole_and_in_order() {
    let change = |settings: &mut Settings| {
        settings.max_packet_size = 1 << 20;
        settings.max_msg_chan_bytes = 4 << 20;
    };
    let everywhere = Everywhere::start("sizes", change, |server| server).await;
    let sizes = (0..3000_usize).map(|n| match n % 500 {
        0 => 1 << 20,
        100 => 70_000,
        200 => 33_000,
        n => n,
    });
    let sizes: Vec<_> = sizes.collect();
    for at in 0..SCHEMES.len() {
        let (tell, mut echoes) = unbounded_channel();
        let mut settings = everywhere.files.settings();
        change(&mut settings);
        let client = everywhere
            .client(at)
            .settings(settings)
            .route_fn(ECHO, async move |mut msg: Inbound| tell.send(msg.take_payload()).unwrap())
            .connect();
        let client = within(client).await.unwrap();
        let sender = client.clone();
        let frames = sizes.clone();
        let sending = actix::spawn(async move {
            for (n, size) in frames.into_iter().enumerate() {
                sender.send(ECHO, vec![n as u8; size]).await.unwrap();
            }
        });
        for (n, &size) in sizes.iter().enumerate() {
            let echo = within(echoes.recv()).await.unwrap();
            assert_eq!((echo.len(), echo.iter().all(|&byte| byte == n as u8)), (size, true), "{n}");
        }
        sending.await.unwrap();
        assert_eq!(client.stats().frames_cut, 0);
        within(client.close()).await;
    }
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_client_learns_why_the_server_closed_where_the_transport_can_say() {
    for (at, ended) in [
        (0, CloseReason::PeerClosed),
        (1, CloseReason::PeerClosed),
        (
            2,
            CloseReason::PeerClosedWith {
                code: 1011,
                text: "the handler of message 1 panicked".into(),
            },
        ),
        (
            3,
            CloseReason::PeerClosedWith {
                code: 1011,
                text: "the handler of message 1 panicked".into(),
            },
        ),
    ] {
        let everywhere = Everywhere::start(
            &format!("why-{at}"),
            |_| {},
            |server| server.route_fn(1, async |_: Inbound| -> () { panic!("on purpose") }),
        )
        .await;
        let (tell, mut ends) = unbounded_channel();
        let builder = everywhere.client(at).on_conn_stop(move |_, why| {
            tell.send(why.clone()).unwrap();
        });
        let client = within(builder.connect()).await.unwrap();
        client.send(1, "").await.unwrap();
        assert_eq!(within(ends.recv()).await, Some(ended));
        everywhere.watched.server.stop().await.unwrap();
    }
}

#[actix::test]
async fn a_server_with_a_certificate_that_nobody_vouches_for_is_not_talked_to() {
    let mut everywhere = Everywhere::start("unknown", |_| {}, |server| server).await;
    for at in [1, 3] {
        let pem = std::fs::read(everywhere.files.path("cert.pem")).unwrap();
        let trusting = Tls::new().roots_pem(pem);
        for tls in [
            // The roots of the system do not have it, or there are none.
            Tls::new().server_name("localhost"),
            // It is for another name.
            trusting.clone(),
            trusting.server_name("example.com"),
        ] {
            let builder = Client::builder(everywhere.endpoint(at)).tls(tls);
            let error = within(builder.connect()).await.map(drop).unwrap_err();
            assert!(
                matches!(
                    error,
                    ConnectError::Tls(_) | ConnectError::Handshake(HandshakeError::Certificate(_))
                ),
                "{error}"
            );
        }
    }
    let tls = Tls::new().dangerously_accept_any_certificate();
    let server = &mut everywhere.watched;
    let why = within(server.removed()).await;
    let refused =
        |why: &CloseReason| matches!(why, CloseReason::Handshake(HandshakeError::Certificate(_)));
    assert!(refused(&why), "the server hears of it: {why}");
    let careless = Client::builder(everywhere.endpoint(1)).tls(tls);
    let client = within(careless.connect()).await.unwrap();
    within(client.request(ECHO, "x", ECHO, LONG)).await.unwrap();
    within(client.close()).await;
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_server_that_speaks_no_tls_is_not_taken_for_one_that_is_not_trusted() {
    let everywhere = Everywhere::start("no-tls", |_| {}, |server| server).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = format!("tls://127.0.0.1:{port}").parse().unwrap();
    let dial = Client::builder(endpoint).tls(everywhere.tls()).connect();
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"220 mail.example.com\r\n").await.unwrap();
        socket
    };
    let (dialled, _socket) = within(async { tokio::join!(dial, server) }).await;
    let error = dialled.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(HandshakeError::Tls(_))), "{error}");
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn an_answer_to_the_upgrade_may_come_in_many_pieces() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
    actix::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut request = vec![0; 4096];
        let n = socket.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..n]).into_owned();
        let key = request.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
        });
        let accept = derive_accept_key(key.unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{}\
             Sec-WebSocket-Accept: {accept}\r\n\r\n",
            "Some-Header: and its value\r\n".repeat(30)
        );
        for line in answer.split_inclusive('\n') {
            socket.write_all(line.as_bytes()).await.unwrap();
            // The client reads this one before the next is there.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        // Until the client has had enough.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let client = within(Client::builder(endpoint).no_reconnect().connect()).await.unwrap();
    within(client.close()).await;
}

#[actix::test]
async fn an_answer_that_is_no_websocket_is_a_failed_dial_that_says_why() {
    let everywhere = Everywhere::start(
        "rejected",
        |_| {},
        |server| {
            server.ws_auth(async |request: &Upgrade, _: &Conn| {
                request.header("authorization") == Some("Bearer secret")
            })
        },
    )
    .await;
    for at in [2, 3] {
        let error = within(everywhere.client(at).connect()).await.map(drop).unwrap_err();
        match error {
            ConnectError::Handshake(HandshakeError::Http { status: 401, why }) => {
                assert_eq!(why, "not authorized");
            }
            error => panic!("{error}"),
        }
        let websocket = WebSocket::new().header("Authorization", "Bearer secret");
        let client = within(everywhere.client(at).websocket(websocket).connect()).await.unwrap();
        within(client.request(ECHO, "x", ECHO, LONG)).await.unwrap();
        within(client.close()).await;
    }
    // What is spoken there is something else.
    let mut wrong = everywhere.endpoint(0);
    wrong.scheme = Scheme::Ws;
    let settings = Settings { handshake_deadline_ms: 500, ..Settings::default() };
    let dial = Client::builder(wrong).settings(settings).connect_deadline(LONG).connect();
    let error = within(dial).await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_response_that_is_cut_is_a_server_that_is_gone_and_one_that_makes_no_sense_is_no_websocket()
 {
    let good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let long = format!("{good}X: {}", "x".repeat(20_000));
    for (response, is_cut) in [
        ("", true),
        (good, true),
        (&long, false),
        ("SSH-2.0-none\r\n", false),
        (&format!("{good}\r\n"), false),
        (&format!("{good}Sec-WebSocket-Accept: another\r\n\r\n"), false),
        ("HTTP/1.0 101 Switching Protocols\r\n\r\n", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            socket.write_all(response.as_bytes()).await.unwrap();
        };
        let client = Client::builder(format!("ws://127.0.0.1:{port}").parse().unwrap());
        let (dialled, ()) = tokio::join!(within(client.connect()), server);
        match dialled.map(drop).unwrap_err() {
            ConnectError::Handshake(HandshakeError::PeerClosed) if is_cut => {}
            ConnectError::Handshake(HandshakeError::WebSocket(_)) if !is_cut => {}
            error => panic!("{response:?}: {error}"),
        }
    }
}

#[actix::test]
async fn a_response_with_an_extension_that_was_not_offered_or_that_is_too_long_is_no_websocket() {
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

    for (header, is_good) in [
        ("X: y".to_owned(), true),
        ("Sec-WebSocket-Extensions: permessage-deflate".to_owned(), false),
        (format!("X: {}", "y".repeat(20_000)), false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = header.clone();
        let server = actix::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            let request = String::from_utf8(request).unwrap();
            let key = request.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
            });
            let accept = derive_accept_key(key.unwrap().as_bytes());
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n{sent}\r\n\r\n"
            );
            socket.write_all(response.as_bytes()).await.unwrap();
            // Until the client has had enough. A reset is as good.
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let endpoint = format!("ws://127.0.0.1:{port}").parse().unwrap();
        match within(Client::builder(endpoint).no_reconnect().connect()).await {
            Ok(client) => {
                assert!(is_good, "{header}");
                within(client.close()).await;
            }
            Err(ConnectError::Handshake(HandshakeError::WebSocket(_))) if !is_good => {}
            Err(error) => panic!("{header}: {error}"),
        }
        within(server).await.unwrap();
    }
}

#[actix::test]
async fn what_a_server_says_of_a_refusal_is_one_line_that_steers_no_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let body = "no\n[ERROR] the database is gone\x1b[2J";
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        socket
    };
    let endpoint: Endpoint = format!("ws://127.0.0.1:{port}").parse().unwrap();
    let dial = Client::builder(endpoint).connect();
    let (dialled, _socket) = within(async { tokio::join!(dial, server) }).await;
    let error = dialled.map(drop).unwrap_err().to_string();
    assert!(error.contains("no") && !error.contains(char::is_control), "{error:?}");
}

#[actix::test]
async fn a_part_that_means_nothing_at_its_endpoint_is_an_error_and_not_left_out() {
    let start = |url: &str, with: fn(ClientBuilder) -> ClientBuilder| {
        let error = with(Client::builder(url.parse().unwrap())).start().map(drop).unwrap_err();
        match error {
            ConnectError::Unused { scheme, part } => (scheme, part),
            error => panic!("{error}"),
        }
    };
    let tls: fn(ClientBuilder) -> ClientBuilder = |client| client.tls(Tls::new());
    let ws: fn(ClientBuilder) -> ClientBuilder = |client| client.websocket(WebSocket::new());
    assert_eq!(start("tcp://localhost:1", tls), (Scheme::Tcp, "tls"));
    assert_eq!(start("ws://localhost:1", tls), (Scheme::Ws, "tls"));
    assert_eq!(start("tcp://localhost:1", ws), (Scheme::Tcp, "websocket"));
    assert_eq!(start("tls://localhost:1", ws), (Scheme::Tls, "websocket"));
}

#[actix::test]
async fn what_no_dial_could_mend_is_found_before_the_first_one() {
    let ws = |ws| Client::builder("ws://localhost:1".parse().unwrap()).websocket(ws).start();
    for bad in [
        WebSocket::new().header("no name", "x"),
        WebSocket::new().header("X-Token", "two\nlines"),
        WebSocket::new().header("Upgrade", "h2c"),
        WebSocket::new().subprotocol("two words"),
    ] {
        let error = ws(bad).map(drop).unwrap_err();
        assert!(matches!(error, ConnectError::WebSocket(_)), "{error}");
    }
    let careless = Tls::new().dangerously_accept_any_certificate();
    for bad in [careless.server_name("no name"), Tls::new().roots_pem("no certificate")] {
        let client = Client::builder("tls://localhost:1".parse().unwrap()).tls(bad);
        let error = client.start().map(drop).unwrap_err();
        assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    }
}

#[actix::test]
async fn the_subprotocol_that_the_server_has_chosen_is_a_property_of_the_clients_connection() {
    let known = |settings: &mut Settings| settings.ws_subprotocols = vec!["v2".into(), "v1".into()];
    let everywhere = Everywhere::start("subprotocol", known, |server| server).await;
    for at in [2, 3] {
        let connect = |ws| within(everywhere.client(at).websocket(ws).connect());
        let spoken = |client: &Client| client.conn().unwrap().property::<Subprotocol>();
        let offers = WebSocket::new().subprotocol("v0").subprotocol("v1").subprotocol("v2");
        let client = connect(offers).await.unwrap();
        assert_eq!(spoken(&client).unwrap().as_str(), "v2");
        let silent = connect(WebSocket::new()).await.unwrap();
        assert_eq!(spoken(&silent), None);
        let error = connect(WebSocket::new().subprotocol("v0")).await.map(drop).unwrap_err();
        assert!(
            matches!(error, ConnectError::Handshake(HandshakeError::WebSocket(_))),
            "a server that chooses none of them: {error}"
        );
    }
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn headers_are_made_anew_for_each_dial_and_a_panic_or_a_bad_one_is_a_failed_dial() {
    let everywhere = Everywhere::start(
        "headers",
        |_| {},
        |server| {
            let last = Mutex::new(0);
            server.ws_auth(async move |request: &Upgrade, _: &Conn| {
                let token: u32 = request.header("x-token").unwrap().parse().unwrap();
                // None is good twice.
                request.header("x-fixed") == Some("yes")
                    && std::mem::replace(&mut *last.lock().unwrap(), token) < token
            })
        },
    )
    .await;
    let dials = Mutex::new(0);
    let ws = WebSocket::new().header("X-Fixed", "yes").headers_with(move || {
        let mut dials = dials.lock().unwrap();
        *dials += 1;
        let (dial, token) = (*dials, format!("{dials}"));
        drop(dials);
        match dial {
            2 => panic!("of the test"),
            3 => vec![("no name".to_owned(), token)],
            _ => vec![("X-Token".to_owned(), token)],
        }
    });
    let (tell, mut failures) = unbounded_channel();
    let backoff = Backoff::default().first(Duration::from_millis(1)).cap(Duration::from_millis(5));
    let client = everywhere.client(2).websocket(ws).reconnect(backoff).on_event(move |event| {
        if let zinxide::Event::ConnectFailed { why, .. } = event {
            tell.send(why.to_string()).unwrap();
        }
    });
    let client = within(client.connect()).await.unwrap();
    client.conn().unwrap().stop();
    for says in ["panicked", "no name"] {
        let why = within(failures.recv()).await.unwrap();
        assert!(why.contains(says), "{why}");
    }
    let again =
        |state: &ClientState| matches!(state, ClientState::Connected(conn) if conn.id() == 2);
    within(client.wait_for(again)).await;
    within(client.request(ECHO, "x", ECHO, LONG)).await.unwrap();
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_is_closed_over_tls_has_the_end_in_words_of_tls_too() {
    let files = Files::new("wss-end");
    let listen = vec!["wss://127.0.0.1:0".parse().unwrap()];
    let watched = Watched::start(Settings { listen, ..files.settings() }).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Behind it, a text, which is refused.
    let refused = [0x81, 0x80, 0, 0, 0, 0];
    stream.write_all(&[request.as_bytes(), &refused].concat()).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(2).any(|code| code == 1003_u16.to_be_bytes()) {
        assert_ne!(within(stream.read_buf(&mut read)).await.unwrap(), 0);
    }
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xeb]).await.unwrap();
    // Without close_notify it would be an error.
    within(stream.read_to_end(&mut read)).await.unwrap();
}
