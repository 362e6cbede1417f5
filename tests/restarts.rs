//! When actors that died are started again, and what that costs those who had nothing to do with it.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use tokio::io::duplex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, pause};
use zinxide::router::{Dispatch, Register};
use zinxide::testing::{TestConnection, conn, inbound, settings, within};
use zinxide::{Event, Inbound, Route, Router, Server};

const ID: u32 = 7;

/// What an actor does with a message or at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Nothing,
    Panics,
    Stops,
    /// Panics in a future, after the message is done.
    PanicsInAFuture,
    PanicsOnATimer,
}

/// Dies by the messages `die`, as it is told, and says which others it got.
struct Mortal {
    at_its_start: Does,
    of_a_message: Does,
    got: UnboundedSender<Instant>,
}

impl Mortal {
    fn does(what: Does, ctx: &mut Context<Self>) {
        match what {
            Does::Nothing => {}
            Does::Panics => panic!("on purpose"),
            Does::Stops => ctx.stop(),
            Does::PanicsInAFuture => {
                let later = actix::fut::wrap_future(async { tokio::task::yield_now().await });
                ctx.spawn(actix::ActorFutureExt::map(later, |(), _, _| panic!("on purpose")));
            }
            Does::PanicsOnATimer => {
                ctx.run_later(Duration::from_nanos(1), |_, _| panic!("on purpose"));
            }
        }
    }
}

impl Actor for Mortal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        Self::does(self.at_its_start, ctx);
    }
}

impl Handler<Inbound> for Mortal {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Context<Self>) {
        match message.payload() {
            b"die" => Self::does(self.of_a_message, ctx),
            _ => drop(self.got.send(Instant::now())),
        }
    }
}

/// A router with a handler actor that dies of messages in this way.
struct House {
    router: Addr<Router>,
    got: tokio::sync::mpsc::UnboundedReceiver<Instant>,
    conns: u64,
}

impl House {
    /// The clock stands still.
    async fn new(of_a_message: Does) -> Self {
        let (tell, got) = unbounded_channel();
        let router = Router::new().start();
        let route = Route::actor(move || Mortal {
            at_its_start: Does::Nothing,
            of_a_message,
            got: tell.clone(),
        });
        router.send(Register { id: ID, route }).await.unwrap().unwrap();
        Self { router, got, conns: 0 }
    }

    /// Messages that kill, each on a connection of its own.
    fn poison(&mut self, count: u64) {
        (0..count).for_each(|_| self.send("die"));
    }

    fn send(&mut self, payload: &'static str) {
        self.conns += 1;
        let conn = conn(self.conns, &settings());
        self.router.do_send(Dispatch(inbound(&conn, ID, payload)));
    }

    /// How long an honest message waits that is sent now.
    async fn waits(&mut self) -> Duration {
        let began = Instant::now();
        self.send("live");
        within(self.got.recv()).await.unwrap() - began
    }
}

#[actix::test]
async fn nobody_waits_for_an_actor_that_ten_messages_of_others_killed() {
    pause();
    for way in [Does::Panics, Does::Stops, Does::PanicsInAFuture] {
        let mut house = House::new(way).await;
        house.poison(10);
        assert!(house.waits().await < Duration::from_millis(1), "{way:?}");
    }
}

#[actix::test]
async fn ten_deaths_of_messages_a_second_cost_nobody_a_pause_however_long_that_goes_on() {
    pause();
    let mut house = House::new(Does::Panics).await;
    for _ in 0..5 {
        house.poison(10);
        assert!(house.waits().await < Duration::from_millis(1));
        tokio::time::sleep(Duration::from_millis(1001)).await;
    }
}

#[actix::test]
async fn an_actor_that_messages_kill_more_than_ten_times_a_second_is_started_again_after_pauses() {
    pause();
    let mut house = House::new(Does::Panics).await;
    house.poison(13);
    let waited = house.waits().await;
    let expected = Duration::from_millis(10 + 20 + 40);
    assert!(waited >= expected && waited < expected + Duration::from_millis(10), "{waited:?}");
    // The longest of these pauses is bounded, lest others wait for what a peer does.
    house.poison(5);
    let waited = house.waits().await;
    assert!(waited <= 5 * Duration::from_millis(102), "{waited:?}");
}

/// The first pauses of an actor that gets no message and dies in this way, or of one whose factory
/// panics. The clock stands still.
async fn pauses(way: Option<Does>) -> Vec<Duration> {
    let (tell, mut told) = unbounded_channel();
    let server = Server::new(settings())
        .route(ID, move || {
            let Some(at_its_start) = way else { panic!("on purpose") };
            Mortal { at_its_start, of_a_message: Does::Nothing, got: unbounded_channel().0 }
        })
        .on_event(move |event| {
            if let Event::HandlerDied { pause, .. } = event {
                let _ = tell.send(*pause);
            }
        });
    let (_stream, peer) = duplex(64);
    let _connection = TestConnection::start(server, peer).await;
    let mut pauses = Vec::new();
    while pauses.len() < 12 {
        pauses.push(within(told.recv()).await.unwrap());
    }
    pauses
}

#[actix::test]
async fn an_actor_that_dies_before_it_gets_a_message_is_started_again_after_pauses_that_grow() {
    pause();
    let grown: Vec<_> =
        (0..12).map(|n| Duration::from_millis(10 << n).min(Duration::from_secs(10))).collect();
    for way in [Does::Panics, Does::Stops, Does::PanicsInAFuture, Does::PanicsOnATimer] {
        assert_eq!(pauses(Some(way)).await, grown, "{way:?}");
    }
    assert_eq!(pauses(None).await, grown);
}
