//! The client library over every transport.

use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use zinxide::client::{Client, ClientBuilder, ConnectError};
use zinxide::testing::within;
use zinxide::{CloseReason, Endpoint, HandshakeError, Inbound, Server, Settings};

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
        let pem = std::fs::read(self.files.path("cert.pem")).unwrap();
        let tls = zinxide::client::Tls::new().roots_pem(pem).server_name("localhost");
        Client::builder(self.endpoint(at)).tls(tls).no_reconnect()
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
        (2, CloseReason::PeerClosedWith(1011)),
        (3, CloseReason::PeerClosedWith(1011)),
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
    let everywhere = Everywhere::start("unknown", |_| {}, |server| server).await;
    for at in [1, 3] {
        let pem = std::fs::read(everywhere.files.path("cert.pem")).unwrap();
        let trusting = zinxide::client::Tls::new().roots_pem(pem);
        for tls in [
            // The roots of the system do not have it, or there are none.
            zinxide::client::Tls::new().server_name("localhost"),
            // It is for another name.
            trusting.clone(),
            trusting.server_name("example.com"),
        ] {
            let builder = Client::builder(everywhere.endpoint(at)).tls(tls);
            let error = within(builder.connect()).await.map(drop).unwrap_err();
            assert!(
                matches!(
                    error,
                    ConnectError::Tls(_) | ConnectError::Handshake(HandshakeError::Tls(_))
                ),
                "{error}"
            );
        }
    }
    let tls = zinxide::client::Tls::new().dangerously_accept_any_certificate();
    let careless = Client::builder(everywhere.endpoint(1)).tls(tls);
    let client = within(careless.connect()).await.unwrap();
    within(client.request(ECHO, "x", ECHO, LONG)).await.unwrap();
    within(client.close()).await;
    everywhere.watched.server.stop().await.unwrap();
}

#[actix::test]
async fn an_answer_that_is_no_websocket_is_a_failed_dial_that_says_why() {
    let everywhere = Everywhere::start(
        "rejected",
        |_| {},
        |server| {
            server.ws_auth(async |request: &zinxide::Upgrade, _: &zinxide::Conn| {
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
        let websocket = zinxide::client::WebSocket::new().header("Authorization", "Bearer secret");
        let client = within(everywhere.client(at).websocket(websocket).connect()).await.unwrap();
        within(client.request(ECHO, "x", ECHO, LONG)).await.unwrap();
        within(client.close()).await;
    }
    // What is spoken there is something else.
    let mut wrong = everywhere.endpoint(0);
    wrong.scheme = zinxide::Scheme::Ws;
    let settings = Settings { handshake_deadline_ms: 500, ..Settings::default() };
    let dial = Client::builder(wrong).settings(settings).connect_deadline(LONG).connect();
    let error = within(dial).await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
    everywhere.watched.server.stop().await.unwrap();
}
