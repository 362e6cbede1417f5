//! The server under attack. It is a process of its own, so that its memory is.
//!
//! Its first line on stdout is its address; it answers each line `stats` on stdin with a line of
//! JSON, and the end of stdin with a drain and a last such line.

use std::alloc::System;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::thread;

use actix::{Actor, Context, Handler};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use zinxide::{Frame, Inbound, MsgId, Route, Server, ServerHandle, Settings};

/// Counts the bytes that are allocated and not freed. The resident set alone cannot show that nothing
/// leaks: how much of the freed memory it still contains is the decision of the allocator.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Echoed by a function.
pub(crate) const BY_FUNCTION: MsgId = 1;
/// Echoed by an actor.
pub(crate) const BY_ACTOR: MsgId = 2;
/// Sent to every connection, also to those that never read.
pub(crate) const NEWS: MsgId = 3;

pub(crate) const MAX_PACKET: u32 = 4096;

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

/// Limits that the hostile can reach and the honest do not.
fn settings(patience_ms: u64) -> Settings {
    Settings {
        name: "soak".to_owned(),
        tcp_port: 0,
        max_conn: 2000,
        max_packet_size: MAX_PACKET,
        // However many cores there are, lest another machine be another test.
        worker_pool_size: 2,
        max_worker_task_len: 64,
        max_msg_chan_len: 64,
        max_msg_chan_bytes: 64 * 1024,
        write_deadline_ms: patience_ms,
        frame_deadline_ms: patience_ms,
        first_message_deadline_ms: patience_ms * 3 / 2,
        ..Settings::default()
    }
}

pub(crate) async fn serve(patience_ms: u64) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let server = Server::new(settings(patience_ms))
        .route_fn(BY_FUNCTION, async |msg: Inbound| msg)
        .route(BY_ACTOR, || Echo)
        .route_with(NEWS, |server| {
            let server = server.clone();
            Route::function(async move |mut msg: Inbound| {
                server.broadcast(Frame::new(NEWS, msg.take_payload())).await.map(drop)
            })
        })
        .bind()
        .await?;
    let handle = server.handle();
    writeln!(io::stdout(), "{}", handle.local_addr())?;
    thread::spawn({
        let handle = handle.clone();
        move || obey(&handle)
    });
    server.serve().await?;
    tell(&handle)?;
    Ok(())
}

/// Blocks its thread: nothing of tokio's reads stdin without one.
fn obey(handle: &ServerHandle) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if line == "stats" && tell(handle).is_err() {
            break;
        }
    }
    drop(handle.stop());
}

fn tell(handle: &ServerHandle) -> io::Result<()> {
    let connected = handle.connections().len();
    let heap = HEAP.stats();
    let live = heap.bytes_allocated.saturating_sub(heap.bytes_deallocated);
    let state =
        serde_json::json!({ "connected": connected, "live": live, "stats": handle.stats() });
    writeln!(io::stdout(), "{state}")
}
