//! G5: one writer: frames never interleave, and frames of one task leave in the order sent, `send`
//! and `send_buffered` mixed as it likes.

use std::collections::HashMap;

use actix_rt::Arbiter;
use futures_util::future::join_all;
use tokio::sync::mpsc::unbounded_channel;
use zinxide::conn_manager::Get;
use zinxide::testing::{TestServer, within};
use zinxide::{Conn, Frame, Inbound, MsgId, SendError, Server};

use crate::support::{echo, encoded, journal, one_worker, tuned};
use crate::transport::{TestClient, client_and_writer, connect, settings, write};

/// Payload sizes on both sides of every boundary that the writer may have: none at all, copied
/// ones, shared ones, ones larger than a socket takes at once.
const SIZES: [usize; 9] = [0, 1, 60, 4_083, 4_091, 4_092, 4_200, 9_000, 70_000];

/// The frame that is `n`th in its series: it says so, and every byte of it is known.
fn nth(series: MsgId, n: u32) -> Frame {
    let fill = (series.wrapping_mul(31) ^ n) as u8;
    let mut payload = n.to_le_bytes().to_vec();
    payload.resize(4 + SIZES[(series + n) as usize % SIZES.len()], fill);
    Frame::new(series, payload)
}

/// Reads until `per_series` frames of each of the `series` have come, each whole and in its order.
async fn assert_in_order(client: &mut TestClient, series: &[MsgId], per_series: u32) {
    let mut next: HashMap<MsgId, u32> = series.iter().map(|id| (*id, 0)).collect();
    for _ in 0..series.len() as u32 * per_series {
        let frame = client.recv().await.expect("the connection lasts");
        let n = next.get_mut(&frame.id).unwrap_or_else(|| panic!("no series {}", frame.id));
        assert!(frame == nth(frame.id, *n), "frame {n} of series {} was due", frame.id);
        *n += 1;
    }
    assert!(next.values().all(|n| *n == per_series), "{next:?}");
}

/// Sends a series, mixing the ways to send.
async fn send_series(conn: &Conn, series: MsgId, frames: u32) {
    for n in 0..frames {
        let Frame { id, payload } = nth(series, n);
        if (series + n).is_multiple_of(3) {
            conn.send(id, payload).await.unwrap();
            continue;
        }
        match conn.send_buffered(id, payload) {
            Ok(()) => {}
            Err(SendError::Full(frame)) => conn.send(frame.id, frame.payload).await.unwrap(),
            Err(gone) => panic!("{gone}"),
        }
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[actix::test]
async fn g5_frames_of_many_tasks_on_many_threads_arrive_whole_and_in_the_order_of_each() {
    const TASKS: u32 = 12;
    const FRAMES: u32 = 150;
    let (journal, mut events) = journal();
    let settings = tuned(|s| s.max_msg_chan_len = 20);
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    let conn = server.handle().conn_manager().send(Get(id)).await.unwrap().unwrap();

    let arbiters = [Arbiter::new(), Arbiter::new()];
    let (tx, mut done) = unbounded_channel();
    for series in 0..TASKS {
        let (conn, tx) = (conn.clone(), tx.clone());
        let task = async move {
            send_series(&conn, series, FRAMES).await;
            tx.send(()).unwrap();
        };
        match arbiters.get(series as usize % 3) {
            Some(arbiter) => assert!(arbiter.spawn(task)),
            None => drop(actix_rt::spawn(task)),
        }
    }
    drop(tx);
    let series: Vec<_> = (0..TASKS).collect();
    assert_in_order(&mut client, &series, FRAMES).await;
    for _ in 0..TASKS {
        within(done.recv()).await.expect("every task sent all of its series");
    }
    conn.stop();
    assert_eq!(client.recv().await, None, "nothing but these frames was written");
    for arbiter in arbiters {
        arbiter.stop();
        arbiter.join().unwrap();
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn g5_tasks_on_the_connections_own_thread_and_answers_are_written_by_one_writer_too() {
    const TASKS: u32 = 6;
    const FRAMES: u32 = 100;
    let mut settings = one_worker();
    settings.max_msg_chan_len = 50;
    settings.max_packet_size = 100_000;
    let server = Server::new(settings).route_fn(100, echo).route_fn(1, async |message: Inbound| {
        for series in 0..TASKS {
            let conn = message.conn().clone();
            actix_rt::spawn(async move { send_series(&conn, series, FRAMES).await });
        }
    });
    let server = TestServer::start(server).await;
    let (mut client, mut writer) = client_and_writer(server.addr()).await;
    // Requests whose answers, in order, are a series as well.
    let requests = encoded((0..FRAMES).map(|n| nth(100, n)));
    client.send(1, "").await;
    let sent = actix_rt::spawn(async move { write(&mut writer, &requests).await });
    let series: Vec<_> = (0..TASKS).chain([100]).collect();
    assert_in_order(&mut client, &series, FRAMES).await;
    within(sent).await.unwrap().unwrap();
    server.stop().await.unwrap();
}

#[actix::test]
async fn g5_an_awaiting_send_is_not_overtaken_by_a_buffered_one_of_its_task() {
    const ROUNDS: u32 = 1_000;
    let server = Server::new(settings()).route_fn(1, async |message: Inbound| {
        for n in 0..ROUNDS {
            let conn = message.conn();
            conn.send(2, (2 * n).to_le_bytes().to_vec()).await.unwrap();
            if let Err(SendError::Full(frame)) =
                conn.send_buffered(2, (2 * n + 1).to_le_bytes().to_vec())
            {
                conn.send(frame.id, frame.payload).await.unwrap();
            }
        }
    });
    let server = TestServer::start(server).await;
    let mut client = connect(server.addr()).await;
    client.send(1, "").await;
    for n in 0..2 * ROUNDS {
        assert_eq!(client.recv().await, Some(Frame::new(2, n.to_le_bytes().to_vec())));
    }
    server.stop().await.unwrap();
}

#[actix::test]
async fn g5_broadcasts_do_not_cut_into_frames_that_are_half_written() {
    const FRAMES: u32 = 300;
    const TASKS: u32 = 3;
    let (journal, mut events) = journal();
    // Room for all of it: a broadcast closes a connection whose outbox is full.
    let settings = tuned(|s| {
        s.max_msg_chan_len = 10_000;
        s.max_msg_chan_bytes = 256 << 20;
    });
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let mut clients =
        [connect(server.addr()).await, connect(server.addr()).await, connect(server.addr()).await];
    let mut conns = Vec::new();
    for _ in &clients {
        let id = events.started().await;
        conns.push(server.handle().conn_manager().send(Get(id)).await.unwrap().unwrap());
    }
    let sends = conns
        .iter()
        .flat_map(|conn| (0..TASKS).map(move |series| send_series(conn, series, FRAMES)));
    // A backlog first, so that nearly every broadcast finds a frame half written.
    within(join_all(sends)).await;
    let handle = server.handle().clone();
    let broadcasts = actix_rt::spawn(async move {
        for n in 0..FRAMES {
            let report = handle.broadcast(nth(50, n)).await.unwrap();
            assert_eq!((report.accepted, report.refused), (3, 0));
        }
    });
    let series: Vec<_> = (0..TASKS).chain([50]).collect();
    join_all(clients.iter_mut().map(|client| assert_in_order(client, &series, FRAMES))).await;
    within(broadcasts).await.unwrap();
    server.stop().await.unwrap();
}

#[actix::test]
async fn g5_a_broadcast_that_the_socket_takes_in_part_is_finished_before_anything_else() {
    const FRAMES: u32 = 60;
    let (journal, mut events) = journal();
    let settings = tuned(|s| s.max_msg_chan_bytes = 256 << 20);
    let server = TestServer::start(journal.hooks(Server::new(settings))).await;
    let mut client = connect(server.addr()).await;
    let id = events.started().await;
    let conn = server.handle().conn_manager().send(Get(id)).await.unwrap().unwrap();
    // More than the kernel keeps for a peer that does not read: one of these is the first that it
    // does not take whole, with nothing queued before it.
    let large = |n: u32| Frame::new(50, vec![n as u8; 500_000]);
    for n in 0..FRAMES {
        assert_eq!(server.handle().broadcast(large(n)).await.unwrap().accepted, 1);
    }
    conn.send_buffered(51, "the last").unwrap();
    for n in 0..FRAMES {
        assert!(client.recv().await == Some(large(n)), "broadcast {n}");
    }
    assert_eq!(client.recv().await, Some(Frame::new(51, "the last")));
    server.stop().await.unwrap();
}
