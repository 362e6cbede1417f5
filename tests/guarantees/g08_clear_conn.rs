//! G8: when `ClearConn` answers, every connection that was there is closed and removed, and `Len`
//! says so. It never deadlocks.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use actix::{Actor, ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zinxide::conn_manager::{ClearConn, Get, Ids, Len};
use zinxide::testing::{PATIENCE, TestServer, within};
use zinxide::{CloseReason, Inbound, Server, ServerHandle};

use crate::support::{Event, Events, echo, journal, one_worker, round_trip, tuned};
use crate::transport::{TestClient, connect, dial, leave, settings, write};

/// Makes `n` connections and waits until all have started.
async fn join(server: &TestServer, events: &mut Events, n: usize) -> Vec<TestClient> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(connect(server.addr()).await);
        events.started().await;
    }
    clients
}

/// What a server's own handlers and hooks need to talk to its manager.
#[derive(Clone, Default)]
struct Known(Arc<OnceLock<ServerHandle>>);

impl Known {
    fn handle(&self) -> &ServerHandle {
        self.0.get().expect("the test made it known before it connected")
    }

    async fn start(&self, server: Server) -> TestServer {
        let server = TestServer::start(server).await;
        assert!(self.0.set(server.handle().clone()).is_ok());
        server
    }
}

#[actix::test]
async fn g8_when_it_answers_all_are_closed_and_removed_and_len_says_so() {
    let (journal, mut events) = journal();
    let server = TestServer::start(journal.hooks(Server::new(settings()))).await;
    let manager = server.handle().conn_manager();
    assert_eq!(within(manager.send(ClearConn)).await.unwrap(), 0, "nobody is there");

    let clients = join(&server, &mut events, 200).await;
    let conns = server.handle().connections().all();
    assert_eq!(within(manager.send(ClearConn)).await.unwrap(), 200);
    assert_eq!(server.handle().connections().len(), 0);
    assert!(conns.iter().all(zinxide::Conn::is_closed));
    assert_eq!(manager.send(Len).await.unwrap(), 0);
    assert!(manager.send(Ids).await.unwrap().is_empty());
    for conn in conns {
        assert!(manager.send(Get(conn.id())).await.unwrap().is_err());
    }
    assert_eq!(events.rest().len(), 200, "all stop hooks have run");
    assert_eq!(server.handle().stats().ended, 200);
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn g8_twice_at_once_both_answer_when_all_are_gone() {
    let (journal, mut events) = journal();
    // Nobody is gone before the test opens the gate, however slow its thread is.
    let (gate, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let server = journal
        .hooks(Server::new(one_worker()))
        .on_conn_stop(move |_, _| assert!(opened.lock().unwrap().recv().is_err()));
    let server = TestServer::start(server).await;
    let _clients = join(&server, &mut events, 50).await;
    let handle = server.handle();
    let clears = [handle.clear_conn(), handle.clear_conn(), handle.clear_conn()];
    // The manager replies in order: it has handled them all, and nobody is gone.
    assert_eq!(within(handle.conn_manager().send(Len)).await.unwrap(), 50);
    drop(gate);
    let left = clears.map(async |clear| (clear.await, handle.connections().len()));
    assert_eq!(within(join_all(left)).await, [(50, 0); 3]);
    server.stop().await.unwrap();
}

/// What a handler that awaited `ClearConn` found: how many were cleared, and how many were left.
type Found = (usize, usize);

async fn clear_and_tell(handle: ServerHandle, found: UnboundedSender<Found>) {
    let cleared = handle.clear_conn().await;
    let left = handle.conn_manager().send(Len).await.unwrap();
    found.send((cleared, left)).unwrap();
}

/// A server with connections of which first one and then several at once call `route`, which
/// clears.
async fn assert_clears_from_inside(
    server: &TestServer,
    mut events: Events,
    mut found: UnboundedReceiver<Found>,
    route: u32,
) {
    let mut clients = join(server, &mut events, 20).await;
    clients[7].send(route, "").await;
    assert_eq!(within(found.recv()).await, Some((20, 0)));
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    for _ in 0..20 {
        assert_eq!(events.stopped().await.1, CloseReason::Cleared);
    }

    let mut clients = join(server, &mut events, 20).await;
    for client in &mut clients {
        // The first ones may have cleared this one already.
        let frame = crate::support::encoded([zinxide::Frame::new(route, "")]);
        let _ = write(client.stream(), &frame).await;
    }
    let (_, left) = within(found.recv()).await.unwrap();
    assert_eq!(left, 0);
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    for _ in 0..20 {
        assert_eq!(events.stopped().await.1, CloseReason::Cleared);
    }
}

#[actix::test]
async fn g8_from_inside_a_route_function() {
    for workers in [1, 2] {
        let (journal, events) = journal();
        let (tx, found) = unbounded_channel();
        let known = Known::default();
        let in_handler = known.clone();
        let server = Server::new(tuned(|s| s.worker_pool_size = workers));
        let server = journal
            .hooks(server)
            .route_fn(1, move |_: Inbound| clear_and_tell(in_handler.handle().clone(), tx.clone()));
        let server = known.start(server).await;
        assert_clears_from_inside(&server, events, found, 1).await;
        server.stop().await.unwrap();
    }
}

/// Clears from inside a handler, and does nothing else meanwhile if it is told to wait.
struct Clears {
    known: Known,
    found: UnboundedSender<Found>,
    waits: bool,
}

impl Actor for Clears {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Clears {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, message: Inbound, ctx: &mut Context<Self>) -> Self::Result {
        let clear = clear_and_tell(self.known.handle().clone(), self.found.clone());
        let clear = clear.into_actor(self).map(move |(), _, _| drop(message));
        if self.waits {
            actix::prelude::ContextFutureSpawner::wait(clear, ctx);
            Box::pin(async {}.into_actor(self))
        } else {
            Box::pin(clear)
        }
    }
}

#[actix::test]
async fn g8_from_inside_a_handler_actor() {
    for waits in [false, true] {
        let (journal, events) = journal();
        let (found, rx) = unbounded_channel();
        let known = Known::default();
        let in_handler = known.clone();
        let server = journal.hooks(Server::new(one_worker())).route(1, move || Clears {
            known: in_handler.clone(),
            found: found.clone(),
            waits,
        });
        let server = known.start(server).await;
        assert_clears_from_inside(&server, events, rx, 1).await;
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g8_from_inside_a_shared_actor() {
    for waits in [false, true] {
        let (journal, events) = journal();
        let (found, rx) = unbounded_channel();
        let known = Known::default();
        let shared = Clears { known: known.clone(), found, waits }.start();
        let server = journal.hooks(Server::new(settings())).route_to(1, shared.recipient());
        let server = known.start(server).await;
        assert_clears_from_inside(&server, events, rx, 1).await;
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g8_from_inside_the_start_hook() {
    let (journal, mut events) = journal();
    let known = Known::default();
    let (in_hook, start, stop) = (known.clone(), journal.clone(), journal.clone());
    let server = Server::new(settings())
        .route_fn(1, echo)
        .on_conn_start(move |conn| {
            start.write(Event::Started(conn.id()));
            in_hook.handle().conn_manager().do_send(ClearConn);
        })
        .on_conn_stop(move |conn, why| stop.write(Event::Stopped(conn.id(), why.clone())));
    let server = known.start(server).await;
    let dials = join_all((0..30).map(|_| dial(server.addr()))).await;
    // Those that were cleared before they began have no hooks and are gone all the same.
    for mut client in dials.into_iter().flatten() {
        assert_eq!(client.recv().await, None);
    }
    within(server.handle().clear_conn()).await;
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 0);
    assert_eq!(server.handle().stats().ended, 30);
    server.stop().await.unwrap();
    let (starts, stops): (Vec<_>, Vec<_>) =
        events.rest().into_iter().partition(|event| matches!(event, Event::Started(_)));
    assert!(!starts.is_empty());
    assert_eq!(starts.len(), stops.len());
}

#[actix::test]
async fn g8_from_inside_the_stop_hook() {
    let (journal, mut events) = journal();
    let known = Known::default();
    let (in_hook, start, stop) = (known.clone(), journal.clone(), journal.clone());
    let server = Server::new(settings())
        .on_conn_start(move |conn| start.write(Event::Started(conn.id())))
        .on_conn_stop(move |conn, why| {
            stop.write(Event::Stopped(conn.id(), why.clone()));
            in_hook.handle().conn_manager().do_send(ClearConn);
        });
    let server = known.start(server).await;
    let mut clients = join(&server, &mut events, 30).await;
    leave(clients.remove(0)).await;
    assert_eq!(events.stopped().await.1, CloseReason::PeerClosed);
    for _ in 0..29 {
        assert_eq!(events.stopped().await.1, CloseReason::Cleared);
    }
    within(server.handle().clear_conn()).await;
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g8_while_others_dial_those_that_were_there_are_gone_and_the_table_stays_whole() {
    const DIALLERS: usize = 8;
    const CLEARS: usize = 30;
    let server = TestServer::start(Server::new(settings()).route_fn(1, echo)).await;
    let done = Arc::new(AtomicBool::new(false));
    let addr = server.addr();
    let diallers = (0..DIALLERS).map(|_| {
        let done = Arc::clone(&done);
        actix_rt::spawn(async move {
            let mut dials = 0;
            while !done.load(SeqCst) {
                let client = dial(addr).await;
                dials += 1;
                // Until it is cleared, which may be before its handshake is done; the last ones are
                // ended below.
                if let Ok(mut client) = client {
                    while client.recv().await.is_some() {}
                }
            }
            dials
        })
    });
    let diallers: Vec<_> = diallers.collect();
    let manager = server.handle().conn_manager();
    let mut seen = HashSet::new();
    let mut cleared = 0;
    for _ in 0..CLEARS {
        let mut before = manager.send(Ids).await.unwrap();
        while before.is_empty() {
            before = manager.send(Ids).await.unwrap();
        }
        cleared += within(manager.send(ClearConn)).await.unwrap();
        let after: HashSet<_> = manager.send(Ids).await.unwrap().into_iter().collect();
        assert!(before.iter().all(|id| !after.contains(id)), "{before:?} are gone");
        seen.extend(before);
    }
    done.store(true, SeqCst);
    let ended = join_all(diallers);
    let clears = async {
        loop {
            cleared += manager.send(ClearConn).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let dials: usize = tokio::select! {
        ended = within(ended) => ended.into_iter().map(Result::unwrap).sum(),
        () = clears => unreachable!("it goes on until all diallers have ended"),
    };
    within(manager.send(ClearConn)).await.unwrap();
    assert!(seen.len() <= dials && cleared >= seen.len());
    assert_eq!(manager.send(Len).await.unwrap(), 0);
    let stats = server.handle().stats();
    assert_eq!((stats.admitted, stats.ended), (dials as u64, dials as u64));
    round_trip(&mut connect(addr).await, 1).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g8_a_handler_that_never_ends_does_not_hold_it_up() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| {
        // Longer than the kit waits: nothing here waits for it.
        s.drain_deadline_ms = 10 * PATIENCE.as_millis() as u64;
    });
    let (begun, mut at_work) = unbounded_channel();
    let server = journal.hooks(Server::new(settings)).route_fn(1, move |message: Inbound| {
        begun.send(message.conn().id()).unwrap();
        std::future::pending::<()>()
    });
    let (server, handle) = {
        let server = server.without_signals().bind().await.unwrap();
        let handle = server.handle();
        (actix_rt::spawn(server.serve()), handle)
    };
    let mut client = connect(handle.local_addr()).await;
    events.started().await;
    client.send(1, "").await;
    within(at_work.recv()).await.unwrap();
    assert_eq!(within(handle.clear_conn()).await, 1);
    assert_eq!(handle.conn_manager().send(Len).await.unwrap(), 0);
    assert_eq!(client.recv().await, None);
    server.abort();
    assert_eq!(events.stopped().await.1, CloseReason::Cleared);
}

#[actix::test]
async fn g8_peers_that_do_not_read_hold_it_up_no_longer_than_the_drain_deadline() {
    let (journal, mut events) = journal();
    let settings = tuned(|s| {
        s.max_msg_chan_bytes = 64 << 20;
        s.drain_deadline_ms = 50;
    });
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let _clients = join(&server, &mut events, 3).await;
    let payload = Bytes::from(vec![0; 64 << 10]);
    for conn in server.handle().connections().all() {
        for _ in 0..512 {
            conn.send_buffered(1, payload.clone()).unwrap();
        }
    }
    assert_eq!(within(server.handle().clear_conn()).await, 3);
    assert_eq!(server.handle().conn_manager().send(Len).await.unwrap(), 0);
    server.stop().await.unwrap();
}
