//! Heap allocations: a change that makes the path of a message slower, or a connection larger, is
//! seen here without asking a clock.
//!
//! One test only, because the allocator counts what the whole process does.

#![allow(clippy::unwrap_used)] // a client in a function of its own

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use actix::{Actor, Context, Handler};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use zinxide::testing::{TestServer, settings};
use zinxide::{Inbound, Server};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BY_FUNCTION: u32 = 1;
const BY_ACTOR: u32 = 2;
const BURST: u32 = 3;
const BY_SHARE: u32 = 4;

/// A burst of small frames, about as much as an outbox takes by default.
const BURST_FRAMES: usize = 1000;
const BURST_PAYLOAD: usize = 1000;

/// Connections beside the one that ends; their sockets are two lines each in the system's table,
/// 150 bytes a line.
const OTHERS: usize = 400;
const ENDING_BYTES: usize = 100 * 1024;

/// Messages written at once, and how often.
const DEPTH: usize = 64;
const ROUNDS: usize = 500;
const FRAME: usize = 8 + 64;

struct Echo;

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Echo {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.echo();
    }
}

/// A client that allocates nothing once it runs. Answers allocations per message.
fn allocations_per_message(addr: SocketAddr, id: u32) -> f64 {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut frame = [b'x'; FRAME];
    frame[..4].copy_from_slice(&64_u32.to_le_bytes());
    frame[4..8].copy_from_slice(&id.to_le_bytes());
    let request = frame.repeat(DEPTH);
    let mut answer = vec![0; request.len()];
    let mut exchange = |rounds| {
        for _ in 0..rounds {
            stream.write_all(&request).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert!(answer == request, "not an echo");
        }
    };
    exchange(50);
    let region = Region::new(ALLOCATOR);
    exchange(ROUNDS);
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / (ROUNDS * DEPTH) as f64
}

/// Has the server fill an outbox before anything of it is read. Answers how many bytes of heap
/// are left of it when it is empty again.
fn left_of_a_burst(addr: SocketAddr) -> isize {
    let mut stream = TcpStream::connect(addr).unwrap();
    let mut frame = [0; 8];
    frame[4..].copy_from_slice(&BURST.to_le_bytes());
    let mut burst = vec![0; BURST_FRAMES * (8 + BURST_PAYLOAD)];
    let echo = |stream: &mut TcpStream| {
        stream.write_all(&[0, 0, 0, 0, 1, 0, 0, 0]).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
    };
    echo(&mut stream);
    let region = Region::new(ALLOCATOR);
    stream.write_all(&frame).unwrap();
    stream.read_exact(&mut burst).unwrap();
    // When this is answered, the connection has had the time to give back what the burst took.
    echo(&mut stream);
    let change = region.change();
    assert!(change.bytes_allocated > BURST_FRAMES * BURST_PAYLOAD, "nothing was queued");
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

/// A client that has had a reply, and keeps its connection.
fn greeted(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(&[0, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    stream
}

/// Two connected sockets for each of [`OTHERS`].
fn sockets() -> Vec<(TcpStream, TcpStream)> {
    rlimit::increase_nofile_limit(2 * OTHERS as u64 + 200).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let pair = |_| (TcpStream::connect(addr).unwrap(), listener.accept().unwrap().0);
    (0..OTHERS).map(pair).collect()
}

#[actix::test]
async fn messages_cost_next_to_no_allocations_and_bursts_and_other_sockets_no_memory() {
    let mut settings = settings();
    settings.worker_pool_size = 1;
    let server = Server::new(settings)
        .route_fn(BY_FUNCTION, async |msg: Inbound| msg)
        .route(BY_ACTOR, || Echo)
        .route_fn(BY_SHARE, async |mut msg: Inbound| (BY_SHARE, msg.take_payload()))
        .route_fn(BURST, async |msg: Inbound| {
            for _ in 0..BURST_FRAMES {
                msg.conn().send_buffered(BURST, &[0; BURST_PAYLOAD][..]).unwrap();
            }
        });
    let server = TestServer::start(server).await;
    let addr = server.addr();
    let measure = move |id| tokio::task::spawn_blocking(move || allocations_per_message(addr, id));

    // The read buffer and the bodies of messages are used again and again.
    let function = measure(BY_FUNCTION).await.unwrap();
    assert!(function < 0.001, "{function} allocations a message with a route function");

    // A payload that is taken out shares the read buffer.
    let share = measure(BY_SHARE).await.unwrap();
    assert!(share < 0.001, "{share} allocations a message whose payload is taken");

    // The outbox of a connection that answers between two turns of its own is allocated for each
    // batch, not for each message.
    let actor = measure(BY_ACTOR).await.unwrap();
    assert!(actor < 4.0 / DEPTH as f64, "{actor} allocations a message with a handler actor");

    // A connection that once had a megabyte in its outbox is small again when that is empty.
    let left = tokio::task::spawn_blocking(move || left_of_a_burst(addr)).await.unwrap();
    // A worker keeps a few buffers of up to 64 KiB for whoever writes next.
    assert!(left < 300 * 1024, "{left} bytes are left of a burst");

    // A peer that keeps its side open: the server asks the system what of it is acknowledged, and
    // the system replies with a line for each socket of the machine.
    let peer = tokio::task::spawn_blocking(move || greeted(addr)).await.unwrap();
    let others = sockets();
    let region = Region::new(ALLOCATOR);
    server.stop().await.unwrap();
    let allocated = region.change().bytes_allocated;
    assert!(allocated < ENDING_BYTES, "{allocated} bytes for the end of one connection");
    drop((peer, others));
}
