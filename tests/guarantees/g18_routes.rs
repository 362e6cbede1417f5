//! G18: one id has one route, and a message without a route has consequences.

use actix::{Actor, Context, Handler};
use zinxide::router::{Lookup, Register};
use zinxide::testing::TestServer;
use zinxide::{CloseReason, Frame, Inbound, Route, RouteError, ServerError, Unrouted};

use crate::support_flow::{ECHO, bytes_of, echo, number, one_worker, server};

struct Ignores;

impl Actor for Ignores {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Ignores {
    type Result = ();

    fn handle(&mut self, _: Inbound, _: &mut Context<Self>) {}
}

#[actix::test]
async fn g18_two_routes_for_one_id_are_an_error_of_the_builder_that_names_the_id() {
    let all: [fn() -> Route; 3] = [
        || Route::actor(|| Ignores),
        || Route::function(async |_: Inbound| {}),
        || Route::to(Ignores.start().recipient()),
    ];
    for first in all {
        for second in all {
            let (server, _hooked) = server(one_worker(|_| {}));
            let server =
                server.add_route(41, first()).add_route(42, first()).add_route(42, second());
            let error = server.bind().await.expect_err("one of them would be lost");
            assert!(matches!(error, ServerError::Route(RouteError::Duplicate(42))), "{error:?}");
            assert_eq!(error.to_string(), "message 42 has a route already");
        }
    }
}

#[actix::test]
async fn g18_registering_an_id_twice_at_run_time_is_an_error_and_changes_nothing() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let router = server.handle().router();
    let register = |id, answer: &'static str| Register {
        id,
        route: Route::function(move |_: Inbound| async move { (1, answer) }),
    };
    assert_eq!(router.send(register(42, "first")).await.unwrap(), Ok(()));
    assert_eq!(router.send(register(42, "second")).await.unwrap(), Err(RouteError::Duplicate(42)));
    // One of the builder's, too.
    let echo_too = router.send(register(ECHO, "second")).await.unwrap();
    assert_eq!(echo_too, Err(RouteError::Duplicate(ECHO)));

    let (mut client, _) = hooked.connect(&server).await;
    client.send(42, "").await;
    assert_eq!(client.recv().await, Some(Frame::new(1, "first")));
    echo(&mut client).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g18_every_id_may_have_a_route() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let ids = [0, 1, u32::MAX / 2, u32::MAX];
    let server =
        ids.into_iter().fold(server, |server, id| server.route_fn(id, async |msg: Inbound| msg));
    let server = TestServer::start(server).await;
    let (mut client, _) = hooked.connect(&server).await;
    for id in ids {
        client.send(id, "x").await;
        assert_eq!(client.recv().await, Some(Frame::new(id, "x")));
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn g18_messages_without_a_route_are_counted_and_ignored() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    let mut frames: Vec<_> = (0..5).map(|n| (7, number(n))).collect();
    // In between of others, which are answered as ever.
    frames.insert(2, (ECHO, b"first".to_vec()));
    frames.push((ECHO, b"last".to_vec()));
    client.send_bytes(&bytes_of(frames)).await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "first")));
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "last")));
    assert_eq!(server.handle().stats().unrouted, 5);
    assert!(!conn.is_closed());
    assert!(server.handle().router().send(Lookup(7)).await.unwrap().is_none());
    server.stop().await.unwrap();
}

#[actix::test]
async fn g18_a_message_without_a_route_closes_its_connection_if_that_is_the_policy() {
    let (server, mut hooked) = server(one_worker(|settings| settings.unrouted = Unrouted::Close));
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let frames = [(ECHO, "before"), (ECHO, "it"), (7, ""), (ECHO, "after"), (7, "")];
    client.send_bytes(&bytes_of(frames.map(|(id, payload)| (id, payload.into())))).await;
    let answers = client.recv_to_end().await;
    assert_eq!(answers, [Frame::new(ECHO, "before"), Frame::new(ECHO, "it")]);
    assert_eq!(hooked.stopped().await, (conn.id(), CloseReason::NoRoute(7)));
    assert_eq!(server.handle().stats().unrouted, 1, "what comes after is not looked at");
    echo(&mut neighbour).await;
    server.stop().await.unwrap();
}
