//! The router by messages, alone and under a server that runs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may panic, too

use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient, WrapFuture};
use tokio::sync::{Notify, mpsc};
use zinxide::router::{Dispatch, Lookup, Register, Unregister};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{CloseReason, Frame, Inbound, MsgId, Route, RouteError, Router, Server, Settings};

fn one_worker() -> Settings {
    let mut settings = settings();
    settings.worker_pool_size = 1;
    settings
}

async fn register(router: &Addr<Router>, id: MsgId, route: Route) -> Result<(), RouteError> {
    within(router.send(Register { id, route })).await.unwrap()
}

async fn unregister(router: &Addr<Router>, id: MsgId) -> Result<(), RouteError> {
    within(router.send(Unregister(id))).await.unwrap()
}

async fn kind(router: &Addr<Router>, id: MsgId) -> Option<&'static str> {
    within(router.send(Lookup(id))).await.unwrap().map(|route| route.kind())
}

async fn dispatch(router: &Addr<Router>, message: Inbound) -> Result<(), RouteError> {
    within(router.send(Dispatch(message))).await.unwrap()
}

/// Answers with id 1 and this text.
struct Says(&'static str);

impl Actor for Says {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Says {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.reply(1, self.0);
    }
}

fn says(text: &'static str) -> Recipient<Inbound> {
    Says(text).start().recipient()
}

/// A function that answers with id 1 and this text.
fn text(text: &'static str) -> Route {
    Route::function(move |_: Inbound| async move { (1, text) })
}

async fn asked(client: &mut TestClient, id: MsgId) -> String {
    client.send(id, "").await;
    let answer = client.recv().await.expect("the connection is open");
    assert_eq!(answer.id, 1);
    String::from_utf8(answer.payload.to_vec()).unwrap()
}

/// A server whose messages of id 7 come to the test, and a client of it.
async fn caught() -> (TestServer, TestClient, mpsc::UnboundedReceiver<Inbound>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let server = Server::new(one_worker()).route_fn(7, move |msg: Inbound| {
        let _ = tx.send(msg);
        async {}
    });
    let server = TestServer::start(server.route_fn(1, async |_: Inbound| (1, "echo"))).await;
    let client = TestClient::connect(server.addr()).await;
    (server, client, rx)
}

#[actix::test]
async fn lookup_answers_what_was_registered_until_it_is_unregistered() {
    let router = Router::new().start();
    assert_eq!(kind(&router, 1).await, None);
    assert_eq!(register(&router, 1, Route::actor(|| Says("actor"))).await, Ok(()));
    assert_eq!(register(&router, 2, Route::to(says("shared"))).await, Ok(()));
    assert_eq!(register(&router, 3, text("function")).await, Ok(()));
    assert_eq!(kind(&router, 1).await, Some("handler actor"));
    assert_eq!(kind(&router, 2).await, Some("recipient"));
    assert_eq!(kind(&router, 3).await, Some("function"));

    assert_eq!(unregister(&router, 2).await, Ok(()));
    assert_eq!((kind(&router, 1).await.is_some(), kind(&router, 2).await), (true, None));
}

#[actix::test]
async fn g18_registering_an_id_twice_is_an_error_that_names_it() {
    let router = Router::new().start();
    assert_eq!(register(&router, 42, text("first")).await, Ok(()));
    let twice = register(&router, 42, Route::to(says("second"))).await;
    assert_eq!(twice, Err(RouteError::Duplicate(42)));
    assert_eq!(twice.unwrap_err().to_string(), "message 42 has a route already");
    assert_eq!(kind(&router, 42).await, Some("function"), "the first one stays");
}

#[actix::test]
async fn unregistering_what_has_no_route_is_an_error_that_names_it() {
    let router = Router::new().start();
    let none = unregister(&router, 42).await;
    assert_eq!(none, Err(RouteError::NoRoute(42)));
    assert_eq!(none.unwrap_err().to_string(), "message 42 has no route");
}

#[actix::test]
async fn an_id_can_be_registered_again_after_it_was_unregistered() {
    let router = Router::new().start();
    for route in [text("first"), Route::actor(|| Says("second"))] {
        assert_eq!(register(&router, 42, route).await, Ok(()));
        assert_eq!(unregister(&router, 42).await, Ok(()));
    }
}

#[actix::test]
async fn a_route_that_was_looked_up_can_be_registered_elsewhere() {
    let (one, two) = (Router::new().start(), Router::new().start());
    register(&one, 1, text("shared by both")).await.unwrap();
    let route = one.send(Lookup(1)).await.unwrap().unwrap();
    assert_eq!(register(&two, 9, route).await, Ok(()));
    assert_eq!(kind(&two, 9).await, Some("function"));
}

#[actix::test]
async fn a_router_on_its_own_delivers_what_is_dispatched_to_every_kind_of_route() {
    let (server, mut client, mut caught) = caught().await;
    let waits = Route::function(async |_: Inbound| {
        tokio::task::yield_now().await;
        (1, "waits")
    });
    for (route, answer) in [
        (Route::actor(|| Says("actor")), "actor"),
        (Route::to(says("shared")), "shared"),
        (text("function"), "function"),
        (waits, "waits"),
    ] {
        let router = Router::new().start();
        register(&router, 7, route).await.unwrap();
        client.send(7, "").await;
        let message = within(caught.recv()).await.unwrap();
        assert_eq!(dispatch(&router, message).await, Ok(()));
        assert_eq!(client.recv().await, Some(Frame::new(1, answer)));
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn dispatching_what_has_no_route_is_an_error_and_the_connection_goes_on() {
    let (server, mut client, mut caught) = caught().await;
    let router = Router::new().start();
    client.send(7, "").await;
    let message = within(caught.recv()).await.unwrap();
    assert_eq!(dispatch(&router, message).await, Err(RouteError::NoRoute(7)));
    // Another route gets its turn only when the message is gone.
    assert_eq!(asked(&mut client, 1).await, "echo");
    server.stop().await.unwrap();
}

#[actix::test]
async fn dispatching_to_an_actor_that_is_gone_closes_the_connection_as_handler_gone() {
    let (tx, mut caught) = mpsc::unbounded_channel();
    let (stopped, mut stops) = mpsc::unbounded_channel();
    let server = Server::new(one_worker())
        .route_fn(7, move |msg: Inbound| {
            let _ = tx.send(msg);
            async {}
        })
        .on_conn_stop(move |_, why| {
            let _ = stopped.send(why.clone());
        });
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    let router = Router::new().start();
    let gone = {
        let actor = Stops.start();
        within(actor.send(Die)).await.unwrap();
        within(async {
            while actor.connected() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        actor.recipient()
    };
    register(&router, 7, Route::to(gone)).await.unwrap();
    client.send(7, "").await;
    let message = within(caught.recv()).await.unwrap();
    assert_eq!(dispatch(&router, message).await, Ok(()));
    assert_eq!(client.recv().await, None);
    assert_eq!(within(stops.recv()).await, Some(CloseReason::HandlerGone(7)));
    server.stop().await.unwrap();
}

struct Stops;

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Die;

impl Actor for Stops {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Stops {
    type Result = ();

    fn handle(&mut self, _: Inbound, _: &mut Context<Self>) {}
}

impl Handler<Die> for Stops {
    type Result = ();

    fn handle(&mut self, _: Die, ctx: &mut Context<Self>) {
        actix::ActorContext::stop(ctx);
    }
}

/// Sends a message back to the router the first time it sees it, and says whether it came back to
/// the same thread.
struct Bounces(Arc<Mutex<Option<Addr<Router>>>>);

impl Actor for Bounces {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Bounces {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        let here = thread::current().id();
        if let Some(before) = msg.conn().remove_property::<ThreadId>() {
            return msg.reply(1, if *before == here { "bounced" } else { "strayed" });
        }
        msg.conn().set_property(here);
        let router = self.0.lock().unwrap();
        router.as_ref().expect("set before the first message").do_send(Dispatch(msg));
    }
}

#[actix::test]
async fn a_servers_router_delivers_what_a_handler_dispatches_on_the_connections_worker() {
    let router = Arc::default();
    let server = Server::new(settings()).route(7, {
        let router = Arc::clone(&router);
        move || Bounces(Arc::clone(&router))
    });
    let server = TestServer::start(server).await;
    *router.lock().unwrap() = Some(server.handle().router().clone());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(TestClient::connect(server.addr()).await);
    }
    for _ in 0..10 {
        for client in &mut clients {
            assert_eq!(asked(client, 7).await, "bounced");
        }
    }
    server.stop().await.unwrap();
    router.lock().unwrap().take();
}

#[actix::test]
async fn a_message_dispatched_after_its_route_was_replaced_takes_the_new_one() {
    let (server, mut client, mut caught) = caught().await;
    let router = server.handle().router();
    client.send(7, "").await;
    let message = within(caught.recv()).await.unwrap();
    assert_eq!(unregister(router, 7).await, Ok(()));
    assert_eq!(register(router, 7, text("the new one")).await, Ok(()));
    assert_eq!(dispatch(router, message).await, Ok(()));
    assert_eq!(client.recv().await, Some(Frame::new(1, "the new one")));
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_route_registered_while_the_server_runs_is_known_to_all_workers_when_it_is_answered() {
    let mut settings = settings();
    settings.worker_pool_size = 3;
    let server = TestServer::start(Server::new(settings)).await;
    let router = server.handle().router();
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(TestClient::connect(server.addr()).await);
    }
    for (id, route) in
        [(10, Route::actor(|| Says("late"))), (11, Route::to(says("late"))), (12, text("late"))]
    {
        assert_eq!(register(router, id, route).await, Ok(()));
        for client in &mut clients {
            assert_eq!(asked(client, id).await, "late");
        }
    }
    assert_eq!(server.handle().stats().unrouted, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_route_unregistered_while_the_server_runs_is_unknown_to_all_workers_when_it_is_answered()
{
    let mut settings = settings();
    settings.worker_pool_size = 3;
    let server = Server::new(settings).add_route(10, text("old")).add_route(11, text("stays"));
    let server = TestServer::start(server).await;
    let router = server.handle().router();
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(TestClient::connect(server.addr()).await);
    }
    for client in &mut clients {
        assert_eq!(asked(client, 10).await, "old");
    }
    assert_eq!(unregister(router, 10).await, Ok(()));
    for client in &mut clients {
        client.send(10, "").await;
        assert_eq!(asked(client, 11).await, "stays", "nothing comes for the one before");
    }
    assert_eq!(server.handle().stats().unrouted, 6);

    assert_eq!(register(router, 10, text("new")).await, Ok(()));
    for client in &mut clients {
        assert_eq!(asked(client, 10).await, "new");
    }
    server.stop().await.unwrap();
}

/// Waits for the gate with each message.
struct Gated(Arc<Notify>, mpsc::UnboundedSender<()>);

impl Actor for Gated {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Gated {
    type Result = ();

    fn handle(&mut self, msg: Inbound, ctx: &mut Context<Self>) {
        let _ = self.1.send(());
        let gate = Arc::clone(&self.0);
        let passed = async move { gate.notified().await }.into_actor(self);
        ctx.wait(passed.map(move |(), _, _| {
            let payload = msg.payload().to_vec();
            msg.reply(1, payload);
        }));
    }
}

#[actix::test]
async fn what_was_handed_over_before_a_route_was_unregistered_is_still_handled() {
    let (gate, (begun, mut begins)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let server = Server::new(one_worker()).route(10, {
        let gate = Arc::clone(&gate);
        move || Gated(Arc::clone(&gate), begun.clone())
    });
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    let codec = &mut zinxide::FrameCodec::new(zinxide::WireFormat::LtvLe, 100);
    let mut bytes = bytes::BytesMut::new();
    for n in 0..6_u8 {
        tokio_util::codec::Encoder::encode(codec, Frame::new(10, vec![n]), &mut bytes).unwrap();
    }
    // One write, hence one run: when the first is begun, all are with the actor.
    client.send_bytes(&bytes).await;
    within(begins.recv()).await.unwrap();
    assert_eq!(unregister(server.handle().router(), 10).await, Ok(()));
    for n in 0..6_u8 {
        gate.notify_one();
        assert_eq!(client.recv().await, Some(Frame::new(1, vec![n])));
    }
    server.stop().await.unwrap();
}

/// Counts its messages, and says when it has ended.
struct Counts(u8, mpsc::UnboundedSender<()>);

impl Actor for Counts {
    type Context = Context<Self>;
}

impl Drop for Counts {
    fn drop(&mut self) {
        let _ = self.1.send(());
    }
}

impl Handler<Inbound> for Counts {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        self.0 += 1;
        msg.reply(1, vec![self.0]);
    }
}

#[actix::test]
async fn a_handler_actor_lives_until_its_own_route_is_unregistered() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let server = Server::new(one_worker()).route(10, move || Counts(0, ended.clone()));
    let server = TestServer::start(server).await;
    let router = server.handle().router();
    let mut client = TestClient::connect(server.addr()).await;
    for n in 1..=3_u8 {
        client.send(10, "").await;
        assert_eq!(client.recv().await, Some(Frame::new(1, vec![n])), "it is still the same");
        assert_eq!(register(router, 11, text("another")).await, Ok(()));
        assert_eq!(unregister(router, 11).await, Ok(()));
    }
    assert!(ends.try_recv().is_err());
    assert_eq!(unregister(router, 10).await, Ok(()));
    assert_eq!(within(ends.recv()).await, Some(()), "nobody can reach it any more");
    assert_eq!(server.handle().stats().restarts, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn traffic_goes_on_while_routes_come_and_go() {
    let server = Server::new(settings())
        .route(20, || Says("actor"))
        .add_route(21, text("function"))
        .route_to(22, says("shared"));
    let server = TestServer::start(server).await;
    let router = server.handle().router().clone();
    let changing = actix_rt::spawn(async move {
        for _ in 0..100 {
            assert_eq!(register(&router, 99, text("comes and goes")).await, Ok(()));
            assert_eq!(unregister(&router, 99).await, Ok(()));
        }
    });
    let mut client = TestClient::connect(server.addr()).await;
    let mut rounds = 0;
    while !changing.is_finished() || rounds < 10 {
        assert_eq!(asked(&mut client, 20).await, "actor");
        assert_eq!(asked(&mut client, 21).await, "function");
        assert_eq!(asked(&mut client, 22).await, "shared");
        rounds += 1;
    }
    within(changing).await.unwrap();
    server.stop().await.unwrap();
}

/// Sends every message back.
struct Mirror;

impl Actor for Mirror {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Mirror {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.echo();
    }
}

#[actix::test]
async fn a_message_that_is_its_own_answer_comes_back_as_it_came_whatever_its_size() {
    let settings = Settings { max_packet_size: 64 * 1024, ..one_worker() };
    let server = Server::new(settings)
        .route_fn(7, async |msg: Inbound| msg)
        .route(8, || Mirror)
        .route_to(9, Mirror.start().recipient());
    let server = TestServer::start(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    // Empty, copied, and shared with the writer; alone and one after the other.
    let sizes = [0, 1, 100, 4096, 32 * 1024 - 1, 32 * 1024, 40_000];
    let frames: Vec<_> = [7, 8, 9, 7, 9, 8]
        .into_iter()
        .flat_map(|id| sizes.map(|size| Frame::new(id, vec![size as u8; size])))
        .collect();
    for frame in &frames {
        client.send(frame.id, frame.payload.clone()).await;
    }
    for frame in &frames {
        assert_eq!(&client.recv().await.unwrap(), frame);
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_message_can_be_kept_longer_than_its_read_and_read_on_another_thread() {
    let (server, mut client, mut caught) = caught().await;
    for n in 0..3 {
        client.send(7, format!("kept {n}")).await;
    }
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(within(caught.recv()).await.unwrap());
    }
    // The read buffer is filled again meanwhile.
    for _ in 0..3 {
        client.send(7, vec![b'x'; 4000]).await;
        drop(within(caught.recv()).await);
    }
    client.reset();
    let read = move || kept.iter().map(|msg| msg.payload().to_vec()).collect();
    let kept: Vec<_> = thread::spawn(read).join().unwrap();
    assert_eq!(kept, [b"kept 0", b"kept 1", b"kept 2"]);
    server.stop().await.unwrap();
}
