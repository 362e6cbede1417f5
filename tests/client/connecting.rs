//! The first connection, and what is served on it.

use std::sync::mpsc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use zinxide::client::{Client, ConnectError};
use zinxide::testing::{TestServer, settings, within};
use zinxide::{CloseReason, Endpoint, Frame, Inbound, RouteError, Server, Settings};

use super::support::{LONG, Peer, Port, client, endpoint, of_server, pair};

#[actix::test]
async fn an_address_where_nobody_listens_is_a_dial_error_that_names_it() {
    let port = Port::reserve();
    let at = port.endpoint();
    let error = within(Client::builder(at.clone()).connect()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Dial { addr, .. } if addr.port() == at.port), "{error}");
}

#[actix::test]
async fn a_host_without_an_address_is_an_error_that_names_it() {
    let nowhere = Endpoint::tcp("no-such-host.invalid", 7);
    let error = within(Client::builder(nowhere).connect()).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Resolve { host, .. } if host == "no-such-host.invalid"),
        "{error}"
    );
}

#[actix::test]
async fn what_cannot_be_started_says_why() {
    let builder = || Client::builder(Endpoint::tcp("127.0.0.1", 1));
    let settings = Settings { max_msg_chan_len: 0, ..Settings::default() };
    let error = builder().settings(settings).start().unwrap_err();
    assert!(matches!(error, ConnectError::Settings(_)), "{error}");
    let twice = builder().route_fn(7, async |_: Inbound| ()).route_fn(7, async |_: Inbound| ());
    let error = twice.start().unwrap_err();
    assert!(matches!(error, ConnectError::Route(RouteError::Duplicate(7))), "{error}");
    for (url, feature, there) in [
        ("tls://localhost:1", "tls", cfg!(feature = "tls")),
        ("ws://localhost:1", "ws", cfg!(feature = "ws")),
    ] {
        let started = Client::builder(url.parse().unwrap()).no_reconnect().start();
        let missing =
            matches!(started, Err(ConnectError::NoFeature { feature: f, .. }) if f == feature);
        assert_eq!(missing, !there, "{url}");
    }
}

#[test]
fn without_an_actix_system_there_is_no_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Client::builder(Endpoint::tcp("127.0.0.1", 1)).connect());
    assert!(matches!(error, Err(ConnectError::NoSystem)));
}

#[cfg(target_os = "linux")]
#[actix::test]
async fn a_dial_has_a_deadline() {
    let (_listener, at) = Port::reserve().listen_for_none();
    // Beyond those that the system keeps, dials get no answer.
    let mut kept = Vec::new();
    let short = Duration::from_millis(50);
    let dial = || tokio::net::TcpStream::connect((at.host.as_str(), at.port));
    while let Ok(dialled) = tokio::time::timeout(short, dial()).await {
        kept.push(dialled.unwrap());
    }
    let dialled = Client::builder(at).connect_deadline(short).connect();
    let error = within(dialled).await.unwrap_err();
    assert!(matches!(error, ConnectError::Late), "{error}");
}

#[actix::test]
async fn a_first_connection_that_ends_before_it_is_up_is_an_error() {
    let peer = Peer::listen();
    let builder = client(peer.endpoint()).on_conn_start(|_| panic!("of the test"));
    let error = within(builder.connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Ended(CloseReason::HookPanicked)), "{error}");
}

#[actix::test]
async fn all_addresses_of_a_host_are_tried() {
    let peer = Peer::listen();
    let port = peer.endpoint().port;
    // On most machines ::1 comes first, where nobody listens.
    within(client(Endpoint::tcp("localhost", port)).connect()).await.unwrap();
}

struct Doubling;

impl Actor for Doubling {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Doubling {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        let twice = msg.payload().repeat(2);
        msg.reply(10, twice);
    }
}

#[actix::test]
async fn routes_and_hooks_are_as_on_a_server() {
    let peer = Peer::listen();
    let (tell, told) = mpsc::channel();
    let stopped = tell.clone();
    let client = client(peer.endpoint())
        .route(1, || Doubling)
        .route_to(2, Doubling.start().recipient())
        .route_fn(3, async |msg: Inbound| msg)
        .route_others(zinxide::Route::function(async |msg: Inbound| (11, msg.payload().to_vec())))
        .on_conn_start(move |conn| {
            tell.send("start".to_owned()).unwrap();
            conn.send_buffered(0, "hello").unwrap();
        })
        .on_conn_stop(move |_, why| stopped.send(format!("stop: {why}")).unwrap());
    let client = within(client.connect()).await.unwrap();
    assert_eq!(told.try_recv().unwrap(), "start");
    let mut end = peer.accept().await;
    assert_eq!(end.recv().await, Some(Frame::new(0, "hello")));
    for (id, answer) in [(1, (10, "abab")), (2, (10, "abab")), (3, (3, "ab")), (4, (11, "ab"))] {
        end.send(id, "ab").await;
        assert_eq!(end.recv().await, Some(Frame::from(answer)));
    }
    assert_eq!(client.stats().admitted, 1);
    within(client.close()).await;
    assert_eq!(told.try_recv().unwrap(), "stop: stopped");
    assert_eq!((client.stats().ended, client.stats().endings.stopped), (1, 1));
}

#[actix::test]
async fn a_message_without_a_route_is_counted_or_closes_the_connection_as_the_settings_say() {
    let (client, mut end, _peer) = pair().await;
    end.send(5, "?").await;
    end.send(5, "?").await;
    // The answer comes behind them.
    let asked = client.request(1, "", 2, LONG);
    let answered = async {
        end.recv().await.unwrap();
        end.send(2, "").await;
    };
    let (answer, ()) = tokio::join!(within(asked), answered);
    answer.unwrap();
    assert_eq!(client.stats().unrouted, 2);
}

#[actix::test]
async fn a_client_and_a_server_of_the_crate_understand_each_other() {
    let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
    let server = TestServer::start(server).await;
    let client = of_server(&server).await;
    for size in [0, 1, 4096] {
        let payload = vec![7; size];
        let answer = within(client.request(1, payload.clone(), 1, LONG)).await.unwrap();
        assert_eq!(answer, payload);
    }
    assert_eq!(client.endpoint(), &endpoint(server.addr()));
    server.stop().await.unwrap();
}

#[cfg(feature = "tls")]
#[actix::test]
async fn certificates_that_make_no_sense_are_an_error_that_says_which() {
    use zinxide::client::Tls;

    let start =
        |tls| Client::builder("tls://localhost:1".parse().unwrap()).tls(tls).no_reconnect().start();
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    for (tls, expected) in [
        (Tls::new().roots_pem("no certificate"), "the roots"),
        (Tls::new().roots_pem(key.clone()), "the roots"),
        (Tls::new().roots_pem(chain.clone()).client_certificate_pem(chain.clone(), "?"), "key"),
        (
            Tls::new().roots_pem(chain.clone()).client_certificate_pem("?", key.clone()),
            "the client's certificate",
        ),
    ] {
        let error = start(tls).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConnectError::Tls(_)) && text.contains(expected), "{text}");
    }
    let tls = Tls::new().roots_pem(chain.clone()).client_certificate_pem(chain, key.clone());
    assert!(!format!("{tls:?}").contains(&key));
    start(tls).unwrap();
    start(Tls::new().dangerously_accept_any_certificate()).unwrap();
}
