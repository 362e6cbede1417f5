//! G12: a slow handler stops its connection's reading, never the worker, and holds at most the
//! window.

use std::sync::{Arc, Mutex};

use actix::{Actor, Arbiter, Context, Handler};
use tokio::sync::Notify;
use zinxide::testing::{TestServer, within};
use zinxide::{Inbound, MsgId, Server};

use crate::support_flow::{
    Hooked, Log, MORE_THAN_KERNEL, bytes_of, echo, number, number_of, one_worker, server, until,
    until_settled,
};
use crate::transport::{TestClient, write};

const WINDOW: u32 = 8;

/// Messages that a handler has and is not done with.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<Inbound>>>);

impl Shelf {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn take(&self) -> Vec<Inbound> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Puts its messages on the shelf.
struct Shelves(Shelf);

impl Actor for Shelves {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Shelves {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        self.0.0.lock().unwrap().push(msg);
    }
}

const HERE: MsgId = 1;
const ELSEWHERE: MsgId = 2;

fn shelving() -> (Server, Hooked, Shelf) {
    let shelf = Shelf::default();
    let (server, hooked) = server(one_worker(|settings| settings.max_worker_task_len = WINDOW));
    let (here, elsewhere) = (shelf.clone(), shelf.clone());
    let elsewhere = Shelves::start_in_arbiter(&Arbiter::new().handle(), |_| Shelves(elsewhere));
    let server = server
        .route(HERE, move || Shelves(here.clone()))
        .route_to(ELSEWHERE, elsewhere.recipient());
    (server, hooked, shelf)
}

/// Writes more than the kernel holds, counting what TCP takes: not finished while it takes no more.
fn write_more_than_the_kernel_holds(
    mut client: TestClient,
    id: MsgId,
    writes: Log<()>,
) -> actix_rt::task::JoinHandle<()> {
    let bytes = bytes_of([(id, vec![0; 4096]), (id, vec![0; 4096])]);
    actix_rt::spawn(async move {
        while writes.len() * bytes.len() < MORE_THAN_KERNEL
            && write(client.stream(), &bytes).await.is_ok()
        {
            writes.push(());
        }
    })
}

async fn holds_at_most_the_window(id: MsgId) {
    let (server, mut hooked, shelf) = shelving();
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let writes = Log::default();
    let writing = write_more_than_the_kernel_holds(client, id, writes.clone());

    // Settled by echoes of the same worker, each of which would hang if the worker stood still.
    until(&mut neighbour, || shelf.len() >= WINDOW as usize).await;
    let first = until_settled(&mut neighbour, || writes.len()).await;
    assert_eq!(shelf.len(), WINDOW as usize);
    assert!(!writing.is_finished(), "the client waits, TCP takes no more");

    // Some more come for what is done. What is kept still counts.
    let mut kept = shelf.take();
    kept.truncate(2);
    until(&mut neighbour, || shelf.len() > 0).await;
    until_settled(&mut neighbour, || shelf.len()).await;
    let in_flight = shelf.len() + kept.len();
    assert!(in_flight <= WINDOW as usize, "{in_flight} at once");

    // Back-pressure ends where it began: room in the window is room on the wire.
    kept.clear();
    until(&mut neighbour, || {
        assert!(shelf.take().len() <= WINDOW as usize);
        writes.len() > first
    })
    .await;

    conn.stop();
    shelf.take();
    within(writing).await.unwrap();
    server.stop().await.unwrap();
}

#[actix::test]
async fn g12_a_slow_handler_stops_its_connections_reading_and_holds_at_most_the_window() {
    holds_at_most_the_window(HERE).await;
}

#[actix::test]
async fn g12_a_slow_shared_actor_stops_its_connections_reading_and_holds_at_most_the_window() {
    holds_at_most_the_window(ELSEWHERE).await;
}

/// The reader once waited for half of the window it had seen, which messages that are kept for
/// long can hold back for ever.
#[actix::test]
async fn g12_one_place_given_back_is_one_message_more_whatever_else_is_kept() {
    for id in [HERE, ELSEWHERE] {
        let (server, mut hooked, shelf) = shelving();
        let server = TestServer::start(server).await;
        let (mut client, conn) = hooked.connect(&server).await;
        let (mut neighbour, _) = hooked.connect(&server).await;
        client
            .send_bytes(&bytes_of((0..2 * WINDOW).map(|n| (id, n.to_string().into_bytes()))))
            .await;
        let mut kept = Vec::new();
        for n in 0..=WINDOW as usize {
            while shelf.len() + kept.len() < WINDOW as usize {
                echo(&mut neighbour).await;
            }
            kept.append(&mut shelf.take());
            assert_eq!(kept.len(), WINDOW as usize, "after {n} were given back");
            drop(kept.pop());
        }
        conn.stop();
        kept.clear();
        server.stop().await.unwrap();
    }
}

#[actix::test]
async fn g12_a_slow_function_stops_its_connections_reading_and_holds_one_message() {
    let (gate, calls) = (Arc::new(Notify::new()), Log::default());
    let (server, mut hooked) = server(one_worker(|settings| settings.max_worker_task_len = WINDOW));
    let server = server.route_fn(1, {
        let (gate, calls) = (gate.clone(), calls.clone());
        move |_: Inbound| {
            calls.push(());
            let gate = gate.clone();
            async move { gate.notified().await }
        }
    });
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let writes = Log::default();
    let writing = write_more_than_the_kernel_holds(client, 1, writes.clone());

    until_settled(&mut neighbour, || writes.len()).await;
    assert_eq!(calls.len(), 1);
    gate.notify_one();
    until(&mut neighbour, || calls.len() > 1).await;
    until_settled(&mut neighbour, || writes.len()).await;
    assert_eq!(calls.len(), 2);

    conn.stop();
    gate.notify_one();
    within(writing).await.unwrap();
    server.stop().await.unwrap();
}

#[actix::test]
async fn g12_each_connection_has_a_window_of_its_own() {
    let (server, mut hooked, shelf) = shelving();
    let server = TestServer::start(server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (mut client, _) = hooked.connect(&server).await;
        client.send_bytes(&bytes_of((0..3 * WINDOW).map(|n| (HERE, number(n))))).await;
        clients.push(client);
    }
    until(&mut neighbour, || shelf.len() >= 3 * WINDOW as usize).await;
    until_settled(&mut neighbour, || shelf.len()).await;
    assert_eq!(shelf.len(), 3 * WINDOW as usize);
    shelf.take();
    server.handle().clear_conn().await;
    shelf.take();
    server.stop().await.unwrap();
}

#[actix::test]
async fn g12_nothing_is_lost_or_turned_round_by_a_window_that_is_full_all_the_time() {
    let (server, mut hooked, shelf) = shelving();
    let server = TestServer::start(server).await;
    let (mut client, _) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    for id in [HERE, ELSEWHERE] {
        client.send_bytes(&bytes_of((0..200).map(|n| (id, number(n))))).await;
        let mut numbers = Vec::new();
        while numbers.len() < 200 {
            until(&mut neighbour, || shelf.len() > 0).await;
            let some = shelf.take();
            assert!(some.len() <= WINDOW as usize);
            numbers.extend(some.iter().map(|msg| number_of(msg.payload())));
        }
        assert!(numbers.into_iter().eq(0..200));
    }
    server.stop().await.unwrap();
}
