//! G11: one connection's messages are handled in the order they came, across all routes.

use std::sync::{Arc, Mutex};

use actix::{Actor, Arbiter, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use actix::{ActorFutureExt, Recipient};
use tokio::sync::Notify;
use tokio::task::yield_now;
use zinxide::testing::{TestServer, within};
use zinxide::{Inbound, MsgId};

use crate::support_flow::{Log, bytes_of, echo, number, number_of, one_worker, server, until};
use crate::transport::connect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin(u32),
    End(u32),
}
use Step::{Begin, End};

/// Handles a message with its context stopped for a while, so that it takes several turns.
struct Waits(Log<Step>);

impl Actor for Waits {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Waits {
    type Result = ();

    fn handle(&mut self, msg: Inbound, ctx: &mut Context<Self>) {
        let n = number_of(msg.payload());
        self.0.push(Begin(n));
        let later = async { yield_now().await }.into_actor(self).map(move |(), actor, _| {
            actor.0.push(End(n));
            msg.reply(0, number(n));
        });
        ctx.wait(later);
    }
}

/// Handles messages at once.
struct AtOnce(Log<Step>);

impl Actor for AtOnce {
    type Context = Context<Self>;
}

impl Handler<Inbound> for AtOnce {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        let n = number_of(msg.payload());
        self.0.push(Begin(n));
        self.0.push(End(n));
        msg.reply(0, number(n));
    }
}

/// Answers a future, which actix runs beside those of other messages.
struct Beside(Log<Step>);

impl Actor for Beside {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Beside {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) -> Self::Result {
        let n = number_of(msg.payload());
        let log = self.0.clone();
        log.push(Begin(n));
        Box::pin(async move {
            yield_now().await;
            log.push(End(n));
            msg.reply(0, number(n));
        })
    }
}

async fn waits(log: Log<Step>, msg: Inbound) -> (MsgId, Vec<u8>) {
    let n = number_of(msg.payload());
    log.push(Begin(n));
    for _ in 0..n % 4 {
        yield_now().await;
    }
    log.push(End(n));
    (0, number(n))
}

/// One after the other, none before the one before is done.
fn in_order(count: u32) -> Vec<Step> {
    (0..count).flat_map(|n| [Begin(n), End(n)]).collect()
}

fn elsewhere<A>(make: impl FnOnce() -> A + Send + 'static) -> Recipient<Inbound>
where
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    A::start_in_arbiter(&Arbiter::new().handle(), move |_| make()).recipient()
}

/// Has messages with these ids handled, numbered from 0, and answers what happened.
async fn handled(ids: impl Iterator<Item = MsgId>, a_write: usize) -> Vec<Step> {
    let ids: Vec<_> = ids.collect();
    let count = ids.len() as u32;
    let log = Log::default();
    let of = || log.clone();
    let (one, two, three, four, five) = (of(), of(), of(), of(), of());
    let (server, _hooked) = server(one_worker(|settings| settings.max_worker_task_len = 16));
    let server = server
        .route(1, move || AtOnce(one.clone()))
        .route(2, move || Waits(two.clone()))
        .route_to(3, elsewhere(move || AtOnce(three)))
        .route_to(4, Waits(four).start().recipient())
        .route_fn(5, move |msg| waits(five.clone(), msg))
        .route(6, {
            let log = of();
            move || Beside(log.clone())
        });
    let server = TestServer::start(server).await;
    let mut client = connect(server.addr()).await;
    let numbered: Vec<_> = (0..count).map(|n| (ids[n as usize], number(n))).collect();
    for some in numbered.chunks(a_write) {
        client.send_bytes(&bytes_of(some.to_vec())).await;
    }
    for n in 0..count {
        let answer = client.recv().await.expect("an answer to each");
        assert_eq!(number_of(&answer.payload), n, "answers leave in the order of the messages");
    }
    server.stop().await.unwrap();
    log.take()
}

/// Looks random, is the same on every run.
fn shuffled(ids: &[MsgId], count: usize) -> impl Iterator<Item = MsgId> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ids[(state >> 33) as usize % ids.len()]
    })
    .take(count)
}

#[actix::test]
async fn g11_messages_for_one_handler_actor_are_handled_in_order() {
    let log = handled(std::iter::repeat_n(1, 500), 500).await;
    assert_eq!(log, in_order(500));
}

#[actix::test]
async fn g11_messages_for_one_handler_actor_that_waits_are_handled_in_order() {
    let log = handled(std::iter::repeat_n(2, 200), 200).await;
    assert_eq!(log, in_order(200));
}

#[actix::test]
async fn g11_messages_for_one_shared_actor_elsewhere_are_handled_in_order() {
    let log = handled(std::iter::repeat_n(3, 500), 500).await;
    assert_eq!(log, in_order(500));
}

#[actix::test]
async fn g11_messages_for_a_function_that_waits_are_handled_in_order() {
    let log = handled(std::iter::repeat_n(5, 500), 500).await;
    assert_eq!(log, in_order(500));
}

#[actix::test]
async fn g11_messages_for_all_kinds_of_routes_mixed_are_handled_in_order() {
    let log = handled(shuffled(&[1, 2, 3, 4, 5], 1000), 1000).await;
    assert_eq!(log, in_order(1000));
}

#[actix::test]
async fn g11_messages_that_come_a_few_at_a_time_are_handled_in_order() {
    let log = handled(shuffled(&[1, 2, 3, 4, 5], 500), 3).await;
    assert_eq!(log, in_order(500));
}

#[actix::test]
async fn g11_a_message_for_another_route_waits_for_a_handlers_future() {
    let others = shuffled(&[1, 2, 3, 4, 5], 200);
    let log = handled(others.flat_map(|other| [6, other]), 400).await;
    assert_eq!(log, in_order(400));
}

/// Keeps each message until it is told otherwise.
struct Held(Arc<Mutex<Vec<Inbound>>>);

impl Actor for Held {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Held {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(msg);
    }
}

#[actix::test]
async fn g11_a_message_for_another_route_waits_until_the_one_before_is_dropped() {
    let held = Arc::<Mutex<Vec<Inbound>>>::default();
    let log = Log::default();
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = server
        .route(1, {
            let held = held.clone();
            move || Held(held.clone())
        })
        .route_fn(5, {
            let log = log.clone();
            move |msg| waits(log.clone(), msg)
        });
    let server = TestServer::start(server).await;
    let (mut client, _) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;

    client.send_bytes(&bytes_of([(1, number(0)), (1, number(1)), (5, number(2))])).await;
    until(&mut neighbour, || held.lock().unwrap().len() == 2).await;
    held.lock().unwrap().pop();
    for _ in 0..50 {
        echo(&mut neighbour).await;
    }
    assert_eq!(log.all(), [], "one message is still with the handler before");

    held.lock().unwrap().clear();
    assert_eq!(client.recv().await.map(|answer| number_of(&answer.payload)), Some(2));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g11_connections_do_not_wait_for_each_other() {
    let gate = Arc::new(Notify::new());
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = server.route_fn(1, {
        let gate = gate.clone();
        move |msg: Inbound| {
            let gate = gate.clone();
            async move {
                if number_of(msg.payload()) == 0 {
                    gate.notified().await;
                }
                (1, msg.payload().to_vec())
            }
        }
    });
    let server = TestServer::start(server).await;
    let (mut waits, _) = hooked.connect(&server).await;
    let (mut passes, _) = hooked.connect(&server).await;
    waits.send_bytes(&bytes_of([(1, number(0)), (1, number(1))])).await;
    // The same worker and the same route, while the first connection's message is with it.
    for n in 1..50 {
        passes.send(1, number(n)).await;
        assert_eq!(passes.recv().await.map(|answer| number_of(&answer.payload)), Some(n));
    }
    gate.notify_one();
    for n in 0..2 {
        let answer = within(waits.recv()).await;
        assert_eq!(answer.map(|answer| number_of(&answer.payload)), Some(n));
    }
    server.stop().await.unwrap();
}
