//! Actors of an application that are started again when they die, behind addresses that stay valid.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::any::type_name;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use actix::{
    Actor, ActorContext, Addr, Arbiter, AsyncContext, Context, Handler, MailboxError, Message,
    Running, WrapFuture,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, pause};
use zinxide::router::{SupervisedAddr, supervise, supervise_on};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{Event, Frame, Inbound, Server, Settings, WhileDown};

const ID: u32 = 7;

/// What its tests are told of a world, in order.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Started(thread::ThreadId),
    Dropped,
    Ticked,
}

/// Counts what it is asked.
struct World {
    asked: u32,
    kept: Vec<Inbound>,
    tell: UnboundedSender<Told>,
}

impl World {
    fn new(tell: &UnboundedSender<Told>) -> Self {
        Self { asked: 0, kept: Vec::new(), tell: tell.clone() }
    }
}

impl Actor for World {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        let _ = self.tell.send(Told::Started(thread::current().id()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.tell.send(Told::Dropped);
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Ask;

/// Asks how many messages it keeps.
#[derive(Message)]
#[rtype(result = "usize")]
struct Kept;

#[derive(Message)]
#[rtype(result = "()")]
enum Do {
    Panic,
    Stop,
    Tick,
    Wait(Arc<Notify>),
}

#[derive(Message)]
#[rtype(result = "Option<Addr<World>>")]
struct WhoAreYou;

impl Handler<Ask> for World {
    type Result = u32;

    fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> u32 {
        self.asked += 1;
        self.asked
    }
}

impl Handler<Kept> for World {
    type Result = usize;

    fn handle(&mut self, _: Kept, _: &mut Context<Self>) -> usize {
        self.kept.len()
    }
}

impl Handler<Do> for World {
    type Result = ();

    fn handle(&mut self, what: Do, ctx: &mut Context<Self>) {
        match what {
            Do::Panic => panic!("on purpose"),
            Do::Stop => ctx.stop(),
            Do::Tick => {
                ctx.run_interval(Duration::from_millis(1), |world, _| {
                    let _ = world.tell.send(Told::Ticked);
                });
            }
            Do::Wait(until) => {
                ctx.wait(async move { until.notified().await }.into_actor(self));
            }
        }
    }
}

impl Handler<WhoAreYou> for World {
    type Result = Option<Addr<World>>;

    fn handle(&mut self, _: WhoAreYou, ctx: &mut Context<Self>) -> Option<Addr<Self>> {
        Some(ctx.address())
    }
}

impl Handler<Inbound> for World {
    type Result = ();

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) {
        match message.payload() {
            b"panic" => panic!("on purpose"),
            b"keep" => self.kept.push(message),
            _ => message.echo(),
        }
    }
}

fn world() -> (SupervisedAddr<World>, UnboundedReceiver<Told>) {
    let (tell, told) = unbounded_channel();
    (supervise(move || World::new(&tell)), told)
}

async fn asked(world: &Addr<World>) -> u32 {
    within(world.send(Ask)).await.unwrap()
}

#[actix::test]
async fn an_address_stays_valid_and_what_was_sent_to_it_is_handled_by_the_next_actor() {
    let (world, _told) = world();
    let from_inside = within(world.addr().send(WhoAreYou)).await.unwrap().unwrap();
    assert_eq!((asked(world.addr()).await, asked(&from_inside).await), (1, 2));
    for ends in [|| Do::Panic, || Do::Stop] {
        let addr = world.addr();
        // All of this is in the mailbox before the actor has its turn.
        let (before, death) = (addr.send(Ask), addr.send(ends()));
        let (first, second) = (addr.send(Ask), from_inside.send(Ask));
        assert!(within(before).await.is_ok());
        assert_eq!(
            within(death).await,
            if matches!(ends(), Do::Stop) { Ok(()) } else { Err(MailboxError::Closed) }
        );
        assert_eq!((within(first).await, within(second).await), (Ok(1), Ok(2)));
        assert!(addr.connected() && from_inside.connected());
    }
    assert_eq!(from_inside, *world.addr());
}

#[actix::test]
async fn started_runs_again_and_what_the_dead_actor_had_spawned_is_gone() {
    pause();
    let (world, mut told) = world();
    let here = thread::current().id();
    assert_eq!(within(told.recv()).await, Some(Told::Started(here)));
    world.addr().do_send(Do::Tick);
    assert_eq!(within(told.recv()).await, Some(Told::Ticked));
    world.addr().do_send(Do::Panic);
    let mut rest = Vec::new();
    while rest.last() != Some(&Told::Started(here)) {
        rest.push(within(told.recv()).await.unwrap());
    }
    assert_eq!(rest.iter().filter(|told| **told == Told::Dropped).count(), 1);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(asked(world.addr()).await, 1);
    assert!(told.try_recv().is_err(), "the interval ticks on");
}

#[actix::test]
async fn an_actor_that_waits_gets_nothing_until_it_goes_on() {
    let (world, _told) = world();
    let until = Arc::new(Notify::new());
    world.addr().do_send(Do::Wait(Arc::clone(&until)));
    let answer = world.addr().send(Ask);
    tokio::pin!(answer);
    for _ in 0..10 {
        tokio::select! {
            biased;
            answered = &mut answer => panic!("{answered:?} while it waits"),
            () = tokio::task::yield_now() => {}
        }
    }
    until.notify_one();
    assert_eq!(within(answer).await, Ok(1));
}

#[actix::test]
async fn nobody_waits_for_an_actor_that_ten_messages_killed() {
    pause();
    let (world, _told) = world();
    let began = Instant::now();
    (0..10).for_each(|_| world.addr().do_send(Do::Panic));
    assert_eq!(asked(world.addr()).await, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    (0..2).for_each(|_| world.addr().do_send(Do::Panic));
    assert_eq!(asked(world.addr()).await, 1);
    assert!(began.elapsed() >= Duration::from_millis(30));
}

#[actix::test]
async fn an_actor_ends_when_nobody_has_its_address_and_all_is_handled() {
    let (world, mut told) = world();
    let addr = world.addr().clone();
    drop(world);
    addr.do_send(Do::Panic);
    let answer = addr.send(Ask);
    drop(addr);
    assert_eq!(within(answer).await, Ok(1));
    assert!(matches!(within(told.recv()).await, Some(Told::Started(_))));
    assert_eq!(within(told.recv()).await, Some(Told::Dropped));
    assert!(matches!(within(told.recv()).await, Some(Told::Started(_))));
    assert_eq!(within(told.recv()).await, Some(Told::Dropped));
    assert_eq!(within(told.recv()).await, None, "nor is there another one: the factory is gone");
}

/// Gives its address away when it is about to end, the first time.
struct Lingers(Option<UnboundedSender<Addr<Lingers>>>);

impl Actor for Lingers {
    type Context = Context<Self>;

    fn stopping(&mut self, ctx: &mut Context<Self>) -> Running {
        match self.0.take() {
            Some(give) => {
                let _ = give.send(ctx.address());
                Running::Continue
            }
            None => Running::Stop,
        }
    }
}

impl Handler<Ask> for Lingers {
    type Result = u32;

    fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> u32 {
        42
    }
}

#[actix::test]
async fn an_actor_that_gives_its_address_away_at_its_end_goes_on() {
    let (give, mut given) = unbounded_channel();
    let mut give = Some(give);
    drop(supervise(move || Lingers(give.take())));
    let addr = within(given.recv()).await.unwrap();
    assert_eq!(within(addr.send(Ask)).await, Ok(42));
}

#[actix::test]
async fn an_actor_runs_on_the_arbiter_that_it_was_given_and_ends_with_it() {
    let (tell, mut told) = unbounded_channel();
    let arbiter = Arbiter::new();
    let world = supervise_on(&arbiter.handle(), move || World::new(&tell));
    let Some(Told::Started(first)) = within(told.recv()).await else { panic!("not started") };
    assert_ne!(first, thread::current().id());
    world.addr().do_send(Do::Panic);
    assert_eq!(within(told.recv()).await, Some(Told::Dropped));
    assert_eq!(within(told.recv()).await, Some(Told::Started(first)), "it stays there");
    assert_eq!(asked(world.addr()).await, 1);

    arbiter.stop();
    assert_eq!(within(told.recv()).await, Some(Told::Dropped));
    assert_eq!(within(told.recv()).await, None);
    assert!(!world.addr().connected());
    let nowhere = supervise_on(&arbiter.handle(), || World::new(&unbounded_channel().0));
    arbiter.join().unwrap();
    assert_eq!(within(nowhere.addr().send(Ask)).await, Err(MailboxError::Closed));
}

/// What a test wants to know of the events of a server.
#[derive(Debug, PartialEq, Eq)]
enum Happened {
    Died(String, Option<u32>, bool),
    Dropped,
    Gone(u32),
}

fn listen(server: Server) -> (Server, UnboundedReceiver<Happened>) {
    let (tx, rx) = unbounded_channel();
    let server = server.on_event(move |event| {
        let happened = match *event {
            Event::HandlerDied { actor, message, panicked, .. } => {
                Happened::Died(actor.to_owned(), message, panicked)
            }
            Event::DroppedWhileDown { .. } => Happened::Dropped,
            Event::SharedActorGone { message } => Happened::Gone(message),
            _ => return,
        };
        // A test that knows enough listens no more.
        let _ = tx.send(happened);
    });
    (server, rx)
}

fn died(panicked: bool) -> Option<Happened> {
    Some(Happened::Died(type_name::<World>().to_owned(), None, panicked))
}

async fn echo(client: &mut TestClient) {
    client.send(ID, "echo").await;
    assert_eq!(client.recv().await, Some(Frame::new(ID, "echo")));
}

#[actix::test]
async fn the_death_of_an_actor_is_an_event_of_the_server_that_it_was_made_for_or_that_routes_to_it()
{
    let (server, mut happened) = listen(Server::new(settings()));
    let (tell, _told) = unbounded_channel();
    let make = move || World::new(&tell);
    // It has no route.
    let made_for_it = server.supervised(make.clone());
    let routed = supervise(make.clone());
    let server = TestServer::start(server.route_to(ID, &routed)).await;
    let by_handle = server.handle().supervised(make);
    for (death, world) in [&made_for_it, &routed, &by_handle].into_iter().enumerate() {
        assert_eq!(server.handle().stats().restarts, death as u64);
        world.addr().do_send(Do::Panic);
        assert_eq!(within(happened.recv()).await, died(true));
    }
    routed.addr().do_send(Do::Stop);
    assert_eq!(within(happened.recv()).await, died(false));
    echo(&mut TestClient::connect(server.addr()).await).await;
    assert_eq!(server.handle().stats().shared_actors_gone, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_message_that_kills_closes_its_connection_and_one_that_was_kept_its_own() {
    let (server, _happened) = listen(Server::new(settings()));
    let (tell, _told) = unbounded_channel();
    let world = server.supervised_on(&Arbiter::new().handle(), move || World::new(&tell));
    let server = TestServer::start(server.route_to(ID, &world)).await;
    let mut stays = TestClient::connect(server.addr()).await;
    let mut kept = TestClient::connect(server.addr()).await;
    let mut kills = TestClient::connect(server.addr()).await;
    echo(&mut stays).await;
    kept.send(ID, "keep").await;
    while within(world.addr().send(Kept)).await != Ok(1) {}
    kills.send(ID, "panic").await;
    assert_eq!((kills.recv().await, kept.recv().await), (None, None));
    echo(&mut stays).await;
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    let endings = stats.endings;
    assert_eq!((endings.handler_panicked, endings.handler_gone, stats.restarts), (1, 1, 1));
}

/// A server with a supervised actor that is dead and stays so while the flag is off.
async fn with_a_dead_actor(
    while_handler_down: WhileDown,
) -> (TestServer, UnboundedReceiver<Happened>, SupervisedAddr<World>, Arc<AtomicBool>) {
    let may_live = Arc::new(AtomicBool::new(true));
    let settings = Settings { while_handler_down, worker_pool_size: 1, ..settings() };
    let (server, mut happened) = listen(Server::new(settings));
    let (lives, (tell, _told)) = (Arc::clone(&may_live), unbounded_channel());
    let world = server.supervised(move || {
        assert!(lives.load(Ordering::Relaxed), "not yet");
        World::new(&tell)
    });
    let server = TestServer::start(server.route_to(ID, &world)).await;
    let mut client = TestClient::connect(server.addr()).await;
    echo(&mut client).await;
    may_live.store(false, Ordering::Relaxed);
    client.send(ID, "panic").await;
    assert_eq!(client.recv().await, None);
    // The second death, of the factory, is the first one with a pause.
    for _ in 0..2 {
        assert_eq!(within(happened.recv()).await, died(true));
    }
    (server, happened, world, may_live)
}

#[actix::test]
async fn messages_wait_for_a_supervised_actor_that_is_down() {
    let (server, _happened, world, may_live) = with_a_dead_actor(WhileDown::Wait).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ID, "echo").await;
    let answer = world.addr().send(Ask);
    may_live.store(true, Ordering::Relaxed);
    assert_eq!(client.recv().await, Some(Frame::new(ID, "echo")));
    assert_eq!(within(answer).await, Ok(1));
    server.stop().await.unwrap();
}

#[actix::test]
async fn messages_by_a_route_to_a_supervised_actor_that_is_down_may_be_dropped_and_others_wait() {
    let (server, mut happened, world, may_live) = with_a_dead_actor(WhileDown::Drop).await;
    let mut client = TestClient::connect(server.addr()).await;
    let answer = world.addr().send(Ask);
    let mut dropped = 0;
    while dropped < 3 {
        client.send(ID, "lost").await;
        while within(happened.recv()).await != Some(Happened::Dropped) {}
        dropped += 1;
    }
    may_live.store(true, Ordering::Relaxed);
    assert_eq!(within(answer).await, Ok(1));
    echo(&mut client).await;
    let stats = server.handle().stats();
    assert_eq!((stats.dropped_while_down, stats.endings.handler_gone), (3, 0));
    server.stop().await.unwrap();
}

#[actix::test]
async fn messages_by_a_route_to_a_supervised_actor_that_is_down_may_close_their_connections() {
    let (server, _happened, _world, _) = with_a_dead_actor(WhileDown::Close).await;
    let mut client = TestClient::connect(server.addr()).await;
    client.send(ID, "echo").await;
    assert_eq!(client.recv().await, None);
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.endings.handler_gone, stats.shared_actors_gone), (1, 0));
}

#[actix::test]
async fn a_supervised_actor_whose_thread_has_ended_is_gone_and_that_is_told_once() {
    let arbiter = Arbiter::new();
    let (server, mut happened) = listen(Server::new(settings()));
    let (tell, mut told) = unbounded_channel();
    let world = server.supervised_on(&arbiter.handle(), move || World::new(&tell));
    let server = TestServer::start(server.route_to(ID, world)).await;
    assert!(matches!(within(told.recv()).await, Some(Told::Started(_))));
    arbiter.stop();
    arbiter.join().unwrap();
    for _ in 0..4 {
        let mut client = TestClient::connect(server.addr()).await;
        client.send(ID, "late").await;
        assert_eq!(client.recv().await, None);
    }
    assert_eq!(within(happened.recv()).await, Some(Happened::Gone(ID)));
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.endings.handler_gone, stats.shared_actors_gone), (4, 1));
}
