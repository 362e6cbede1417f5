//! G9: a panic in a handler or hook ends at most the connection or the handler actor it happened
//! in; the actor is started again, and the other connections notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use tokio::sync::Semaphore;
use zinxide::conn_manager::Len;
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, ConnId, Frame, Inbound, Server};

use crate::support::{
    Does, Drives, Event, Events, echo, echo_actor, journal, log_lines, one_worker,
    panic_on_purpose, round_trip, settle,
};
use crate::transport::{TestClient, connect};

/// The route of every test that panics, and one beside it that never does.
const PANICS: u32 = 7;
const ECHO: u32 = 2;

/// A handler actor that panics if the payload says so, else answers how many it has handled.
fn fragile() -> Does<impl FnMut(Inbound) + Unpin + 'static> {
    let mut handled = 0_u32;
    Does(move |message: Inbound| {
        if message.payload() == b"panic" {
            panic_on_purpose();
        }
        handled += 1;
        let id = message.id();
        message.reply(id, handled.to_string());
    })
}

/// One worker with `server`'s routes and an echo: what panics shares its thread with the others.
async fn start(server: impl FnOnce(Server) -> Server) -> (TestServer, Events) {
    let (journal, events) = journal();
    let server = server(journal.hooks(Server::new(one_worker())).route_fn(ECHO, echo));
    (TestServer::start(server).await, events)
}

async fn join(server: &TestServer, events: &mut Events) -> (TestClient, ConnId) {
    let client = connect(server.addr()).await;
    (client, events.started().await)
}

/// What a panic in a handler of a route must leave as it was, whatever the kind of route.
async fn assert_only_its_connection_ends(server: impl FnOnce(Server) -> Server) {
    let (server, mut events) = start(server).await;
    let (mut other, other_id) = join(&server, &mut events).await;
    round_trip(&mut other, ECHO).await;
    for _ in 0..2 {
        let (mut client, id) = join(&server, &mut events).await;
        client.send(PANICS, "panic").await;
        assert_eq!(client.recv().await, None);
        let panicked = CloseReason::HandlerPanicked(PANICS);
        assert_eq!(events.next().await, Event::Stopped(id, panicked));
        round_trip(&mut other, ECHO).await;
    }
    // The panic has cost the thread nothing: it takes new connections, and the route works.
    let (mut late, late_id) = join(&server, &mut events).await;
    round_trip(&mut late, ECHO).await;
    late.send(PANICS, "behave").await;
    assert_eq!(late.recv().await, Some(Frame::new(PANICS, "1")));
    other.send(PANICS, "behave").await;
    assert!(other.recv().await.is_some());
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 2);
    server.stop().await.unwrap();
    let shutdown = |id| Event::Stopped(id, CloseReason::Shutdown);
    let rest = events.rest();
    assert!(rest.len() == 2 && rest.contains(&shutdown(other_id)), "{rest:?}");
    assert!(rest.contains(&shutdown(late_id)), "{rest:?}");
}

#[actix::test]
async fn g9_a_panic_in_an_actor_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| server.route(PANICS, fragile)).await;
}

#[actix::test]
async fn g9_a_panic_in_a_supervised_actor_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| {
        let shared = server.supervised(fragile);
        server.route_to(PANICS, shared)
    })
    .await;
}

/// Panics, or answers, after an await.
async fn fragile_later(message: Inbound) {
    tokio::task::yield_now().await;
    if message.payload() == b"panic" {
        panic_on_purpose();
    }
    message.reply(PANICS, "1");
}

/// A handler actor whose messages are handled by futures of its own context.
struct Inside;

impl Actor for Inside {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Inside {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) -> Self::Result {
        Box::pin(fragile_later(message).into_actor(self))
    }
}

#[actix::test]
async fn g9_a_panic_in_a_future_of_an_actor_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| server.route(PANICS, || Inside)).await;
}

#[actix::test]
async fn g9_a_panic_in_a_future_beside_an_actor_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| server.route(PANICS, || Drives(fragile_later))).await;
}

/// How many panics a server with this route counts when one message panics.
async fn panics_counted(server: impl FnOnce(Server) -> Server) -> u64 {
    let (server, mut events) = start(server).await;
    let (mut client, id) = join(&server, &mut events).await;
    client.send(PANICS, "panic").await;
    let panicked = CloseReason::HandlerPanicked(PANICS);
    assert_eq!(events.next().await, Event::Stopped(id, panicked));
    let panics = server.handle().stats().panics;
    server.stop().await.unwrap();
    panics
}

#[actix::test]
async fn g9_a_panic_of_an_actor_or_a_function_is_counted_once() {
    assert_eq!(panics_counted(|server| server.route(PANICS, fragile)).await, 1);
    assert_eq!(panics_counted(|server| server.route(PANICS, || Inside)).await, 1);
    let function = |server: Server| server.route_fn(PANICS, fragile_later);
    assert_eq!(panics_counted(function).await, 1);
}

// Fails: the server learns of these panics by the drop of their message alone, which closes the
// connection and does not count.
#[actix::test]
async fn g9_a_panic_that_only_its_message_sees_is_counted_once() {
    assert_eq!(panics_counted(|server| server.route(PANICS, || Drives(fragile_later))).await, 1);
    let shared = fragile().start().recipient();
    assert_eq!(panics_counted(|server| server.route_to(PANICS, shared)).await, 1);
}

#[actix::test]
async fn g9_a_panic_in_a_function_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| {
        server.route_fn(PANICS, async |message: Inbound| {
            if message.payload() == b"panic" {
                panic_on_purpose();
            }
            (PANICS, "1")
        })
    })
    .await;
}

#[actix::test]
async fn g9_a_panic_in_a_function_after_an_await_ends_its_messages_connection_alone() {
    assert_only_its_connection_ends(|server| {
        server.route_fn(PANICS, async |message: Inbound| {
            let payload = message.payload().to_vec();
            drop(message);
            tokio::task::yield_now().await;
            if payload == b"panic" {
                panic_on_purpose();
            }
            (PANICS, "1")
        })
    })
    .await;
}

#[actix::test]
async fn g9_an_actor_that_panicked_is_started_again_as_new_and_that_is_logged() {
    // A route of this test alone, to tell its log lines from others'.
    const ROUTE: u32 = 900_001;
    let mut lines = log_lines();
    let (server, mut events) = start(|server| server.route(ROUTE, fragile)).await;
    let (mut other, _) = join(&server, &mut events).await;
    for handled in ["1", "2"] {
        other.send(ROUTE, "").await;
        assert_eq!(other.recv().await, Some(Frame::new(ROUTE, handled)));
    }
    for death in 0..4 {
        assert_eq!(server.handle().stats().restarts, death);
        let (mut client, id) = join(&server, &mut events).await;
        client.send(ROUTE, "panic").await;
        let panicked = CloseReason::HandlerPanicked(ROUTE);
        assert_eq!(events.next().await, Event::Stopped(id, panicked));
        let line = lines.with(&format!("handler actor of message {ROUTE} panicked")).await;
        assert!(
            line.starts_with("ERROR") && line.ends_with("it is started again at once"),
            "{line}"
        );
    }
    other.send(ROUTE, "").await;
    assert_eq!(other.recv().await, Some(Frame::new(ROUTE, "1")));
    assert_eq!((server.handle().stats().restarts, server.handle().stats().panics), (4, 4));
    server.stop().await.unwrap();
}

/// Handles nothing until the gate is open, then panics or stops if it is told to.
struct Gated(Arc<Semaphore>);

impl Actor for Gated {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Gated {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Context<Self>) {
        match message.payload() {
            b"hold" => {
                let gate = Arc::clone(&self.0);
                ctx.wait(async move { gate.acquire().await.unwrap().forget() }.into_actor(self));
            }
            b"panic" => panic_on_purpose(),
            b"stop" => ctx.stop(),
            _ => {}
        }
        let (id, payload) = (message.id(), message.payload().to_vec());
        message.reply(id, payload);
    }
}

#[actix::test]
async fn g9_messages_that_waited_behind_a_panic_are_handled_after_the_restart() {
    let gate = Arc::new(Semaphore::new(0));
    let for_actor = Arc::clone(&gate);
    let (server, mut events) =
        start(|server| server.route(PANICS, move || Gated(Arc::clone(&for_actor)))).await;
    let (mut pace, _) = join(&server, &mut events).await;
    let (mut bad, bad_id) = join(&server, &mut events).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(join(&server, &mut events).await.0);
    }
    // Holds the actor, queues the panic, then the messages of the others behind it.
    others[0].send(PANICS, "hold").await;
    settle(&mut pace, ECHO).await;
    bad.send(PANICS, "panic").await;
    settle(&mut pace, ECHO).await;
    for other in &mut others {
        for n in ["a", "b", "c"] {
            other.send(PANICS, n).await;
        }
    }
    settle(&mut pace, ECHO).await;
    assert_eq!((events.rest(), server.handle().stats().restarts), (vec![], 0));
    gate.add_permits(1);

    assert_eq!(others[0].recv().await, Some(Frame::new(PANICS, "hold")));
    assert_eq!(bad.recv().await, None);
    for other in &mut others {
        for n in ["a", "b", "c"] {
            assert_eq!(other.recv().await, Some(Frame::new(PANICS, n)));
        }
    }
    assert_eq!(server.handle().stats().restarts, 1);
    // The socket may be waited for a moment longer than its peer sees.
    let panicked = CloseReason::HandlerPanicked(PANICS);
    assert_eq!(events.stopped().await, (bad_id, panicked));
    assert_eq!(events.rest(), []);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g9_a_worker_whose_factory_panics_tries_again() {
    let made = Arc::new(AtomicU32::new(0));
    let (server, mut events) = start(|server| {
        server.route(PANICS, move || {
            if made.fetch_add(1, SeqCst) < 2 {
                panic_on_purpose();
            }
            echo_actor()
        })
    })
    .await;
    let (mut client, _) = join(&server, &mut events).await;
    round_trip(&mut client, ECHO).await;
    round_trip(&mut client, PANICS).await;
    assert_eq!(server.handle().stats().restarts, 2);
    server.stop().await.unwrap();
}

/// Keeps its messages until it is told to die.
#[derive(Default)]
struct Hoarder(Vec<Inbound>);

impl Actor for Hoarder {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Hoarder {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Context<Self>) {
        match message.payload() {
            b"panic" => panic_on_purpose(),
            b"stop" => ctx.stop(),
            b"echo" => message.reply(PANICS, "echo"),
            _ => self.0.push(message),
        }
    }
}

#[actix::test]
async fn g9_messages_that_an_actor_kept_and_took_with_it_are_told_apart() {
    for (end, ends_as) in
        [("panic", CloseReason::HandlerPanicked(PANICS)), ("stop", CloseReason::Shutdown)]
    {
        let (server, mut events) = start(|server| server.route(PANICS, Hoarder::default)).await;
        let (mut pace, _) = join(&server, &mut events).await;
        let (mut kept, kept_id) = join(&server, &mut events).await;
        let (mut last, last_id) = join(&server, &mut events).await;
        kept.send(PANICS, "keep").await;
        settle(&mut pace, ECHO).await;
        last.send(PANICS, end).await;
        assert_eq!(kept.recv().await, None);
        pace.send(PANICS, "echo").await;
        assert_eq!(pace.recv().await, Some(Frame::new(PANICS, "echo")));
        assert_eq!(server.handle().stats().restarts, 1);
        server.stop().await.unwrap();
        let rest = events.rest();
        assert!(rest.contains(&Event::Stopped(last_id, ends_as)), "{rest:?}");
        let gone = Event::Stopped(kept_id, CloseReason::HandlerGone(PANICS));
        assert!(rest.contains(&gone), "{rest:?}");
    }
}

#[actix::test]
async fn g9_a_panic_in_a_shared_actor_ends_its_messages_connection_and_tells_those_that_come_later()
{
    let shared = fragile().start();
    let (server, mut events) = start(|server| server.route_to(PANICS, shared.recipient())).await;
    let (mut other, _) = join(&server, &mut events).await;
    let (mut bad, bad_id) = join(&server, &mut events).await;
    other.send(PANICS, "behave").await;
    assert_eq!(other.recv().await, Some(Frame::new(PANICS, "1")));
    bad.send(PANICS, "panic").await;
    assert_eq!(bad.recv().await, None);
    let panicked = CloseReason::HandlerPanicked(PANICS);
    assert_eq!(events.next().await, Event::Stopped(bad_id, panicked));
    round_trip(&mut other, ECHO).await;

    let (mut late, late_id) = join(&server, &mut events).await;
    late.send(PANICS, "behave").await;
    assert_eq!(late.recv().await, None);
    let gone = CloseReason::HandlerGone(PANICS);
    assert_eq!(events.next().await, Event::Stopped(late_id, gone));
    round_trip(&mut other, ECHO).await;
    server.stop().await.unwrap();
}

/// Queues a message behind one that ends a shared actor. Answers how the two connections end.
async fn ends_in_the_mailbox(last: &'static str) -> [CloseReason; 2] {
    let gate = Arc::new(Semaphore::new(0));
    let shared = Gated(Arc::clone(&gate)).start();
    let (server, mut events) = start(|server| server.route_to(PANICS, shared.recipient())).await;
    let (mut pace, _) = join(&server, &mut events).await;
    let (mut ending, ending_id) = join(&server, &mut events).await;
    let (mut waiting, waiting_id) = join(&server, &mut events).await;
    pace.send(PANICS, "hold").await;
    assert_eq!(pace.recv().await, Some(Frame::new(PANICS, "hold")));
    ending.send(PANICS, last).await;
    settle(&mut pace, ECHO).await;
    waiting.send(PANICS, "a").await;
    settle(&mut pace, ECHO).await;
    gate.add_permits(1);

    let mut reasons = [CloseReason::Shutdown, CloseReason::Shutdown];
    assert_eq!(waiting.recv().await, None);
    for _ in 0..if last == "panic" { 2 } else { 1 } {
        let (id, why) = events.stopped().await;
        assert!(id == ending_id || id == waiting_id);
        reasons[usize::from(id == waiting_id)] = why;
    }
    round_trip(&mut pace, ECHO).await;
    server.stop().await.unwrap();
    reasons
}

// Fails: tokio drops the actor and its mailbox while the panic unwinds, so that the messages of
// others in it take themselves for the one that panicked.
#[actix::test]
async fn g9_messages_in_the_mailbox_of_a_shared_actor_that_panicked_are_told_apart() {
    let ends = ends_in_the_mailbox("panic").await;
    let panicked = CloseReason::HandlerPanicked(PANICS);
    assert_eq!(ends, [panicked, CloseReason::HandlerGone(PANICS)]);
}

// Fails: the mailbox drops its messages, and a message dropped unhandled on an actor's orderly end
// is not to be told from one that was handled.
#[actix::test]
async fn g9_messages_in_the_mailbox_of_a_shared_actor_that_stopped_are_told() {
    let ends = ends_in_the_mailbox("stop").await;
    assert_eq!(ends, [CloseReason::Shutdown, CloseReason::HandlerGone(PANICS)]);
}

#[actix::test]
async fn g9_a_panic_in_the_start_hook_ends_its_connection_alone() {
    let (journal, mut events) = journal();
    let (start, stop) = (journal.clone(), journal);
    let server = Server::new(one_worker())
        .route_fn(ECHO, echo)
        .on_conn_start(move |conn| {
            start.write(Event::Started(conn.id()));
            if conn.id() == 2 {
                panic_on_purpose();
            }
        })
        .on_conn_stop(move |conn, why| stop.write(Event::Stopped(conn.id(), why.clone())));
    let server = TestServer::start(server).await;
    let (mut first, first_id) = join(&server, &mut events).await;
    let (mut second, second_id) = join(&server, &mut events).await;
    assert_eq!((first_id, second_id), (1, 2));
    assert_eq!(second.recv().await, None);
    assert_eq!(events.next().await, Event::Stopped(2, CloseReason::HookPanicked));
    round_trip(&mut first, ECHO).await;
    let (mut third, _) = join(&server, &mut events).await;
    round_trip(&mut third, ECHO).await;
    assert_eq!(server.handle().stats().panics, 1);
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 2);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g9_a_panic_in_the_stop_hook_leaves_no_trace_in_the_table() {
    let server =
        Server::new(one_worker()).route_fn(ECHO, echo).on_conn_stop(|_, _| panic_on_purpose());
    let server = TestServer::start(server).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = connect(server.addr()).await;
        round_trip(&mut client, ECHO).await;
        clients.push(client);
    }
    let mut last = connect(server.addr()).await;
    round_trip(&mut last, ECHO).await;
    assert_eq!(within(server.handle().clear_conn()).await, 6);
    assert_eq!(last.recv().await, None);
    let stats = server.handle().stats();
    assert_eq!((stats.panics, stats.ended), (6, 6));
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 0);
    round_trip(&mut connect(server.addr()).await, ECHO).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g9_a_server_whose_every_message_panics_serves_on_and_stops_in_order() {
    let function = async |_: Inbound| panic_on_purpose();
    let (server, mut events) = start(|server| server.route_fn(PANICS, function)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connect(server.addr()).await;
        client.send(PANICS, "panic").await;
        clients.push(client);
    }
    for _ in &clients {
        assert_eq!(events.stopped().await.1, CloseReason::HandlerPanicked(PANICS));
    }
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g9_the_death_of_a_shared_actor_is_told_and_counted_once() {
    // A route of this test alone, to tell its log lines from others'.
    const ROUTE: u32 = 900_002;
    let mut lines = log_lines();
    let gate = Arc::new(Semaphore::new(0));
    let shared = Gated(Arc::clone(&gate)).start();
    let (told, deaths) = std::sync::mpsc::channel();
    let (server, mut events) = start(|server| {
        server.route_to(ROUTE, shared.recipient()).on_event(move |event| {
            if let zinxide::Event::SharedActorGone { message, .. } = event {
                let _ = told.send(*message);
            }
        })
    })
    .await;
    let (mut pace, _) = join(&server, &mut events).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(join(&server, &mut events).await.0);
    }
    pace.send(ROUTE, "hold").await;
    assert_eq!(pace.recv().await, Some(Frame::new(ROUTE, "hold")));
    // Behind the one that kills it, some wait in its mailbox.
    for (client, payload) in clients.iter_mut().zip(["panic", "a", "b"]) {
        client.send(ROUTE, payload).await;
        settle(&mut pace, ECHO).await;
    }
    assert_eq!(server.handle().stats().shared_actors_gone, 0);
    gate.add_permits(1);
    for client in &mut clients[..3] {
        assert_eq!(client.recv().await, None);
    }
    // Others find it gone.
    for client in &mut clients[3..] {
        client.send(ROUTE, "late").await;
        assert_eq!(client.recv().await, None);
    }
    let line = lines.with(&format!("the actor behind message {ROUTE} is gone")).await;
    assert!(line.starts_with("ERROR"), "{line}");
    round_trip(&mut pace, ECHO).await;
    assert_eq!(server.handle().stats().shared_actors_gone, 1);
    server.stop().await.unwrap();
    assert_eq!(deaths.try_iter().collect::<Vec<_>>(), [ROUTE]);
}
