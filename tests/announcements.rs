//! What a peer announces costs nothing before it comes: memory grows with what has come.
//!
//! One test only, because the allocator counts what the whole process does.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::alloc::System;
use std::path::PathBuf;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::unbounded_channel;
use zinxide::testing::{TestServer, TestStream, settings, within};
use zinxide::{FrameCodec, Inbound, Server, Settings};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PEERS: usize = 200;

/// What a peer may cost that has sent a header: the buffer that rustls begins with, and a little. The largest
/// packet is 200 times as large.
const EACH: isize = 5 * 1024;

const LARGE: u32 = 1024 * 1024;

const ECHO: u32 = 1;

/// Where a header is sent.
#[derive(Clone, Copy, Debug)]
enum Level {
    /// Under everything: on the socket.
    Socket,
    /// Under WebSocket messages.
    Wire,
}

struct Case {
    scheme: &'static str,
    level: Level,
    what: &'static str,
    header: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let case = |scheme, level, what, header: &[u8]| {
        let header = header.to_vec();
        Case { scheme, level, what, header }
    };
    let frame = [LARGE.to_le_bytes(), ECHO.to_le_bytes()].concat();
    let message = [&[0x82, 0xff][..], &u64::from(LARGE + 8).to_be_bytes(), &[0; 4]].concat();
    let mut cases = vec![case("tcp", Level::Socket, "a frame", &frame)];
    if cfg!(feature = "ws") {
        cases.push(case("ws", Level::Wire, "a message", &message));
        cases.push(case("ws", Level::Wire, "a frame", &[&message[..], &frame].concat()));
    }
    if cfg!(feature = "tls") {
        cases.push(case("tls", Level::Wire, "a frame", &frame));
        cases.push(case("tls", Level::Socket, "a record", &[23, 3, 3, 0x40, 0]));
    }
    if cfg!(all(feature = "tls", feature = "ws")) {
        cases.push(case("wss", Level::Wire, "a message", &message));
        cases.push(case("wss", Level::Wire, "a frame", &[&message[..], &frame].concat()));
    }
    cases
}

/// A certificate that is its own root, and its key.
fn certificate() -> PathBuf {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("announcements-{}.pem", std::process::id()));
    std::fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    file
}

/// When this is done, the worker has been to every socket that was ready before.
async fn echo_twice(honest: &mut TestStream) {
    let frame = [0_u32.to_le_bytes(), ECHO.to_le_bytes()].concat();
    for _ in 0..2 {
        honest.write_all(&frame).await.unwrap();
        honest.flush().await.unwrap();
        within(honest.read_exact(&mut [0; 8])).await.unwrap();
    }
}

#[actix::test]
async fn a_header_makes_nobody_keep_memory_for_what_it_announces() {
    let file = certificate();
    let codec = FrameCodec::new(Settings::default().wire_format, u32::MAX);
    for Case { scheme, level, what, header } in cases() {
        let mut settings = Settings {
            listen: vec![format!("{scheme}://127.0.0.1:0").parse().unwrap()],
            max_packet_size: LARGE,
            max_msg_chan_bytes: 2 * LARGE as usize,
            worker_pool_size: 1,
            ..settings()
        };
        if ["tls", "wss"].contains(&scheme) {
            settings.tls_cert = file.to_str().unwrap().to_owned();
            settings.tls_key.clone_from(&settings.tls_cert);
        }
        let (tell, mut started) = unbounded_channel();
        let server = Server::new(settings)
            .on_conn_start(move |_| tell.send(()).unwrap())
            .route_fn(ECHO, async |msg: Inbound| msg);
        let server = TestServer::start(server).await;
        let endpoint = server.endpoint();
        let connect = || TestStream::connect_passive(&endpoint, Some(&file), &codec);
        let mut honest = connect().await.unwrap();
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            peers.push(connect().await.unwrap());
        }
        // A socket is connected before the server has taken it.
        for _ in 0..=PEERS {
            within(started.recv()).await.unwrap();
        }
        echo_twice(&mut honest).await;
        let region = Region::new(ALLOCATOR);
        for peer in &mut peers {
            match level {
                Level::Socket => peer.socket().write_all(&header).await.unwrap(),
                Level::Wire => {
                    let mut wire = peer.wire();
                    wire.write_all(&header).await.unwrap();
                    wire.flush().await.unwrap();
                }
            }
        }
        echo_twice(&mut honest).await;
        let change = region.change();
        let each =
            (change.bytes_allocated as isize - change.bytes_deallocated as isize) / PEERS as isize;
        println!("{scheme}: {each} bytes for a peer that has sent the header of {what}");
        assert!(each < EACH, "{scheme}: {each} bytes for the header of {what}");
        assert_eq!(server.handle().connections().len(), PEERS + 1, "somebody was closed");
        drop((honest, peers));
        server.stop().await.unwrap();
    }
    std::fs::remove_file(file).unwrap();
}
