//! G3: the start hook runs once, after admission and before the first message; the stop hook runs
//! exactly once if and only if the start hook ran, after the last message, with the reason.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use actix::{Actor, ActorContext, Context, Handler};
use tokio::sync::{Semaphore, oneshot};
use zinxide::conn_manager::{Get, Ids, Len, Remove};
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, ConnId, Frame, Inbound, Server, ServerHandle, Slow, Unrouted};

use crate::support::{
    Does, Drives, Event, Events, Journal, echo, echo_actor, journal, one_worker, panic_on_purpose,
    round_trip, tuned, whole_frames,
};
use crate::transport::{
    TestClient, begin_frame, connect, dial, half_close, settings, too_large, truncated,
};

/// A server whose hooks are journaled, with one connection that has started.
struct House {
    server: TestServer,
    events: Events,
    client: TestClient,
    id: ConnId,
}

impl House {
    async fn with_one(server: Server) -> Self {
        let (journal, events) = journal();
        Self::journaled(journal.hooks(server), events).await
    }

    async fn journaled(server: Server, mut events: Events) -> Self {
        let server = TestServer::start(server).await;
        let client = connect(server.addr()).await;
        let id = events.started().await;
        Self { server, events, client, id }
    }

    async fn conn(&self) -> Conn {
        self.server.handle().conn_manager().send(Get(self.id)).await.unwrap().unwrap()
    }

    /// The next event is the connection's end, and nothing happens after it.
    async fn ends_as(mut self, why: CloseReason) {
        assert_eq!(self.events.next().await, Event::Stopped(self.id, why));
        self.server.stop().await.unwrap();
        assert_eq!(self.events.rest(), []);
    }
}

#[actix::test]
async fn g3_a_peer_that_closes_ends_as_peer_closed() {
    let mut house = House::with_one(Server::new(settings())).await;
    half_close(&mut house.client).await;
    assert_eq!(house.client.recv().await, None);
    house.ends_as(CloseReason::PeerClosed).await;
}

#[actix::test]
async fn g3_a_peer_that_resets_ends_as_io() {
    let House { server, mut events, client, id } = House::with_one(Server::new(settings())).await;
    client.reset();
    let reset = CloseReason::Io(ErrorKind::ConnectionReset);
    assert_eq!(events.next().await, Event::Stopped(id, reset));
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g3_a_stream_that_ends_inside_a_frame_ends_as_protocol() {
    let mut house = House::with_one(Server::new(settings())).await;
    begin_frame(&mut house.client, 12, &[4, 0, 0]).await;
    half_close(&mut house.client).await;
    house.ends_as(truncated(12, &[4, 0, 0])).await;
}

#[actix::test]
async fn g3_an_oversized_frame_ends_as_protocol() {
    let mut house = House::with_one(Server::new(tuned(|s| s.max_packet_size = 10))).await;
    house.client.send(5, vec![0; 11]).await;
    house.ends_as(too_large(5, 11, 10)).await;
}

#[actix::test]
async fn g3_stop_from_outside_ends_as_stopped() {
    let house = House::with_one(Server::new(settings())).await;
    house.conn().await.stop();
    house.ends_as(CloseReason::Stopped).await;
}

#[actix::test]
async fn g3_stop_in_a_function_and_in_an_actor_ends_as_stopped() {
    for id in [1, 2] {
        let server = Server::new(settings())
            .route_fn(1, async |message: Inbound| message.conn().stop())
            .route(2, || Does(|message: Inbound| message.conn().stop()));
        let mut house = House::with_one(server).await;
        house.client.send(id, "").await;
        house.ends_as(CloseReason::Stopped).await;
    }
}

#[actix::test]
async fn g3_remove_ends_as_removed() {
    let house = House::with_one(Server::new(settings())).await;
    let remove = house.server.handle().conn_manager().send(Remove(house.id));
    within(remove).await.unwrap().unwrap();
    house.ends_as(CloseReason::Removed).await;
}

#[actix::test]
async fn g3_clear_conn_ends_as_cleared() {
    let house = House::with_one(Server::new(settings())).await;
    assert_eq!(within(house.server.handle().clear_conn()).await, 1);
    house.ends_as(CloseReason::Cleared).await;
}

#[actix::test]
async fn g3_the_servers_stop_ends_as_shutdown() {
    let House { server, mut events, id, client: _client } =
        House::with_one(Server::new(settings())).await;
    server.stop().await.unwrap();
    assert_eq!(events.rest(), [Event::Stopped(id, CloseReason::Shutdown)]);
}

#[actix::test]
async fn g3_a_panic_in_an_actor_ends_as_handler_panicked() {
    let server = Server::new(settings()).route(7, || Does(|_: Inbound| panic_on_purpose()));
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_a_future_of_an_actor_ends_as_handler_panicked() {
    let server = Server::new(settings()).route(7, || {
        Drives(async |message: Inbound| {
            tokio::task::yield_now().await;
            panic_on_purpose();
            drop(message);
        })
    });
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_a_shared_actor_ends_as_handler_panicked() {
    let shared = Does(|_: Inbound| panic_on_purpose()).start();
    let mut house = House::with_one(Server::new(settings()).route_to(7, shared.recipient())).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_a_function_before_its_first_await_ends_as_handler_panicked() {
    let server = Server::new(settings()).route_fn(7, async |message: Inbound| {
        panic_on_purpose();
        tokio::task::yield_now().await;
        drop(message);
    });
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_a_function_after_an_await_ends_as_handler_panicked() {
    let server = Server::new(settings()).route_fn(7, async |message: Inbound| {
        drop(message);
        tokio::task::yield_now().await;
        panic_on_purpose();
    });
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_a_function_that_makes_no_future_ends_as_handler_panicked() {
    fn never(message: &Inbound) -> std::future::Ready<()> {
        panic!("on purpose, with message {}", message.id());
    }
    let server = Server::new(settings()).route_fn(7, |message: Inbound| never(&message));
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerPanicked(7)).await;
}

#[actix::test]
async fn g3_a_panic_in_the_start_hook_ends_as_hook_panicked_and_handles_no_message() {
    let (journal, mut events) = journal();
    let (handler, stop) = (journal.clone(), journal.clone());
    let server = Server::new(settings())
        .route_fn(1, move |message: Inbound| {
            handler.handled(&message);
            async {}
        })
        .on_conn_start(move |conn| {
            journal.write(Event::Started(conn.id()));
            panic!("on purpose");
        })
        .on_conn_stop(move |conn, why| stop.write(Event::Stopped(conn.id(), why.clone())));
    let server = TestServer::start(server).await;
    let mut client = connect(server.addr()).await;
    client.send(1, "").await;
    let id = events.started().await;
    assert_eq!(events.next().await, Event::Stopped(id, CloseReason::HookPanicked));
    assert_eq!(client.recv().await, None);
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g3_a_panic_in_the_stop_hook_does_not_make_it_run_again() {
    let (journal, events) = journal();
    let start = journal.clone();
    let server = Server::new(settings())
        .on_conn_start(move |conn| start.write(Event::Started(conn.id())))
        .on_conn_stop(move |conn, why| {
            journal.write(Event::Stopped(conn.id(), why.clone()));
            panic!("on purpose");
        });
    let house = House::journaled(server, events).await;
    house.conn().await.stop();
    house.ends_as(CloseReason::Stopped).await;
}

#[actix::test]
async fn g3_a_peer_that_takes_nothing_ends_as_slow_consumer() {
    let server = Server::new(tuned(|s| {
        s.write_deadline_ms = 50;
        s.max_msg_chan_bytes = 64 << 20;
    }));
    let mut house = House::with_one(server).await;
    // More than the kernel keeps for a peer that does not read.
    let payload = bytes::Bytes::from(vec![0; 64 << 10]);
    let conn = house.conn().await;
    for _ in 0..512 {
        conn.send_buffered(1, payload.clone()).unwrap();
    }
    assert_eq!(
        house.events.next().await,
        Event::Stopped(house.id, CloseReason::SlowConsumer(Slow::WriteDeadline))
    );
    house.server.stop().await.unwrap();
    assert_eq!(house.events.rest(), []);
    assert!(whole_frames(&mut house.client).await.len() < 512);
}

#[actix::test]
async fn g3_a_broadcast_to_a_full_outbox_ends_as_slow_consumer() {
    let server = Server::new(tuned(|s| s.max_msg_chan_bytes = 64 << 10));
    let mut house = House::with_one(server).await;
    let payload = bytes::Bytes::from(vec![0; 60 << 10]);
    while house.server.handle().broadcast((1, payload.clone())).await.unwrap().closed == 0 {}
    assert_eq!(
        house.events.next().await,
        Event::Stopped(house.id, CloseReason::SlowConsumer(Slow::OutboxFull))
    );
    house.server.stop().await.unwrap();
    assert_eq!(house.events.rest(), []);
}

#[actix::test]
async fn g3_a_message_without_a_route_ends_as_no_route_if_the_policy_is_to_close() {
    let mut house = House::with_one(Server::new(tuned(|s| s.unrouted = Unrouted::Close))).await;
    house.client.send(404, "").await;
    house.ends_as(CloseReason::NoRoute(404)).await;
}

#[actix::test]
async fn g3_a_message_for_a_dead_shared_actor_ends_as_handler_gone() {
    let shared = Does(|_: Inbound| panic_on_purpose()).start();
    let server = Server::new(settings()).route_to(7, shared.recipient());
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    assert_eq!(house.client.recv().await, None);
    assert_eq!(
        house.events.next().await,
        Event::Stopped(house.id, CloseReason::HandlerPanicked(7))
    );
    house.client = connect(house.server.addr()).await;
    house.id = house.events.started().await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerGone(7)).await;
}

/// Keeps its message and stops.
#[derive(Default)]
struct Hoarder(Vec<Inbound>);

impl Actor for Hoarder {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Hoarder {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Context<Self>) {
        self.0.push(message);
        ctx.stop();
    }
}

#[actix::test]
async fn g3_a_message_that_died_with_its_actor_ends_as_handler_gone() {
    let server = Server::new(settings()).route(7, Hoarder::default);
    let mut house = House::with_one(server).await;
    house.client.send(7, "").await;
    house.ends_as(CloseReason::HandlerGone(7)).await;
}

#[actix::test]
async fn g3_a_server_that_is_dropped_ends_its_connections_as_worker_gone() {
    let (journal, mut events) = journal();
    let server = journal.hooks(Server::new(settings())).without_signals().bind().await.unwrap();
    let addr = server.local_addr();
    let served = actix_rt::spawn(server.serve());
    let mut client = connect(addr).await;
    let id = events.started().await;
    served.abort();
    assert_eq!(events.next().await, Event::Stopped(id, CloseReason::WorkerGone));
    assert_eq!(client.recv().await, None);
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g3_the_first_reason_wins_and_the_hook_runs_once() {
    let house = House::with_one(Server::new(settings())).await;
    let conn = house.conn().await;
    conn.stop();
    conn.stop();
    let manager = house.server.handle().conn_manager().clone();
    // Whether it is still there is a race; both answers are right.
    let _ = within(manager.send(Remove(house.id))).await.unwrap();
    within(house.server.handle().clear_conn()).await;
    conn.stop();
    house.ends_as(CloseReason::Stopped).await;
}

#[actix::test]
async fn g3_the_start_hook_runs_after_admission() {
    let handle = Arc::new(OnceLock::<ServerHandle>::new());
    let known = Arc::clone(&handle);
    let (tx, rx) = oneshot::channel();
    let tx = Mutex::new(Some(tx));
    let server = Server::new(settings()).on_conn_start(move |conn| {
        let connections = known.get().unwrap().connections();
        let found = connections.get(conn.id()).is_some();
        tx.lock().unwrap().take().unwrap().send((found, connections.len())).unwrap();
    });
    // Bound and not serving yet: nobody is admitted before the handle is known.
    let server = server.without_signals().bind().await.unwrap();
    handle.set(server.handle()).unwrap();
    let served = actix_rt::spawn(server.serve());
    let handle = handle.get().unwrap();
    let _client = connect(handle.local_addr()).await;
    assert_eq!(within(rx).await.unwrap(), (true, 1));
    handle.stop().await;
    within(served).await.unwrap().unwrap();
}

/// One route of each kind, all of which write what they handle.
fn routes_of_all_kinds(journal: &Journal) -> Server {
    let handle = |journal: &Journal| {
        let journal = journal.clone();
        move |message: Inbound| journal.handled(&message)
    };
    let of_workers = journal.clone();
    let of_function = journal.clone();
    journal
        .hooks(Server::new(settings()))
        .route(1, move || Does(handle(&of_workers)))
        .route_fn(2, move |message: Inbound| {
            of_function.handled(&message);
            async {}
        })
        .route_to(3, Does(handle(journal)).start().recipient())
}

#[actix::test]
async fn g3_start_comes_before_the_first_message_and_stop_after_the_last() {
    let (journal, mut events) = journal();
    let server = TestServer::start(routes_of_all_kinds(&journal)).await;
    for route in [1, 2, 3] {
        for round in 0..20 {
            // All of it is there when the connection is admitted, or has shaken hands.
            let mut client = connect(server.addr()).await;
            let frames = (0..10).map(|_| Frame::new(route, "now"));
            client.send_bytes(&crate::support::encoded(frames)).await;
            half_close(&mut client).await;
            let id = events.started().await;
            for _ in 0..10 {
                assert_eq!(events.next().await, Event::Handled(id, route), "round {round}");
            }
            assert_eq!(events.next().await, Event::Stopped(id, CloseReason::PeerClosed));
        }
    }
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g3_the_stop_hook_waits_for_a_message_that_is_still_with_its_handler() {
    for route in [1, 2, 3] {
        let (journal, events) = journal();
        let gate = Arc::new(Semaphore::new(0));
        let work = {
            let (journal, gate) = (journal.clone(), Arc::clone(&gate));
            move |message: Inbound| {
                let (journal, gate) = (journal.clone(), Arc::clone(&gate));
                async move {
                    message.conn().send_buffered(9, "begun").unwrap();
                    gate.acquire().await.unwrap().forget();
                    journal.handled(&message);
                }
            }
        };
        let actor = || {
            let work = work.clone();
            move || {
                let work = work.clone();
                Drives(work)
            }
        };
        let server = journal
            .hooks(Server::new(settings()))
            .route(1, actor())
            .route_fn(2, work.clone())
            .route_to(3, actor()().start().recipient());
        let mut house = House::journaled(server, events).await;
        house.client.send(route, "").await;
        assert_eq!(house.client.recv().await, Some(Frame::new(9, "begun")));

        // Answered although the handler is still at work, which is when a hook that did not wait
        // would have run.
        let remove = house.server.handle().conn_manager().send(Remove(house.id));
        within(remove).await.unwrap().unwrap();
        assert_eq!(house.client.recv().await, None);
        assert_eq!(house.events.rest(), []);
        gate.add_permits(1);
        assert_eq!(house.events.next().await, Event::Handled(house.id, route));
        house.ends_as(CloseReason::Removed).await;
    }
}

#[actix::test]
async fn g3_a_connection_whose_start_hook_stops_it_handles_nothing_and_has_a_stop_hook() {
    let (journal, mut events) = journal();
    let (handler, stop) = (journal.clone(), journal.clone());
    let server = Server::new(settings())
        .route_fn(1, move |message: Inbound| {
            handler.handled(&message);
            async {}
        })
        .on_conn_start(move |conn| {
            journal.write(Event::Started(conn.id()));
            conn.send_buffered(9, "not today").unwrap();
            conn.stop();
        })
        .on_conn_stop(move |conn, why| stop.write(Event::Stopped(conn.id(), why.clone())));
    let server = TestServer::start(server).await;
    let mut client = connect(server.addr()).await;
    client.send(1, "").await;
    assert_eq!(client.recv_to_end().await, [Frame::new(9, "not today")]);
    let id = events.started().await;
    assert_eq!(events.next().await, Event::Stopped(id, CloseReason::Stopped));
    server.stop().await.unwrap();
    assert_eq!(events.rest(), []);
}

#[actix::test]
async fn g3_a_connection_that_ended_before_its_worker_began_it_has_no_hooks() {
    let (journal, mut events) = journal();
    let (begun_tx, begun) = oneshot::channel();
    let (release, hold) = mpsc::channel::<()>();
    let (begun_tx, hold) = (Mutex::new(Some(begun_tx)), Mutex::new(hold));
    let server = journal.hooks(Server::new(one_worker())).route_fn(1, move |_: Inbound| {
        begun_tx.lock().unwrap().take().unwrap().send(()).unwrap();
        // Blocks the only worker, so that what is admitted now is not begun.
        let _ = hold.lock().unwrap().recv();
        async {}
    });
    let server = TestServer::start(server).await;
    let manager = server.handle().conn_manager();
    let mut first = connect(server.addr()).await;
    let first_id = events.started().await;
    first.send(1, "").await;
    within(begun).await.unwrap();

    // Who shakes hands has to wait for that, too.
    let second = actix_rt::spawn(dial(server.addr()));
    let admitted = async {
        loop {
            let ids = manager.send(Ids).await.unwrap();
            match ids.into_iter().find(|id| *id != first_id) {
                Some(id) => return id,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let second_id = within(admitted).await;
    let conn = manager.send(Get(second_id)).await.unwrap().unwrap();
    let removed = manager.send(Remove(second_id));
    manager.send(Len).await.unwrap();
    assert!(conn.is_closed());
    release.send(()).unwrap();
    within(removed).await.unwrap().unwrap();
    if let Ok(mut second) = second.await.unwrap() {
        assert_eq!(second.recv().await, None);
    }
    server.stop().await.unwrap();
    assert_eq!(events.rest(), [Event::Stopped(first_id, CloseReason::Shutdown)]);
}

#[actix::test]
async fn g3_every_connection_of_many_that_end_in_different_ways_has_one_start_and_one_stop() {
    const CLIENTS: usize = 300;
    let (journal, mut events) = journal();
    let server = journal
        .hooks(Server::new(tuned(|s| s.max_packet_size = 64)))
        .route(1, echo_actor)
        .route_fn(2, echo)
        .route_fn(3, async |message: Inbound| message.conn().stop())
        .route_fn(4, async |_: Inbound| panic_on_purpose());
    let server = TestServer::start(server).await;
    let addr = server.addr();
    let clients = (0..CLIENTS).map(|n| {
        actix_rt::spawn(async move {
            let mut client = connect(addr).await;
            round_trip(&mut client, 1 + n as u32 % 2).await;
            match n % 6 {
                0 => drop(client),
                1 => client.reset(),
                2 => client.send(3, "").await,
                3 => client.send(4, "").await,
                4 => client.send(1, vec![0; 65]).await,
                _ => return Some(client),
            }
            None
        })
    });
    let clients = futures_util::future::join_all(clients).await;
    within(server.handle().clear_conn()).await;
    server.stop().await.unwrap();
    drop(clients);

    let mut lives = HashMap::<ConnId, (u32, u32)>::new();
    for event in events.rest() {
        match event {
            Event::Started(id) => lives.entry(id).or_default().0 += 1,
            Event::Stopped(id, _) => {
                let life = lives.entry(id).or_default();
                assert_eq!(life.0, 1, "connection {id} stopped before it started");
                life.1 += 1;
            }
            Event::Handled(..) => {}
        }
    }
    assert_eq!(lives.len(), CLIENTS);
    assert!(lives.values().all(|life| *life == (1, 1)), "{lives:?}");
}
