//! G10, who makes progress: a peer that reads slowly lives, one that reads nothing is closed, and what
//! counts is what the peer took and not what the system did.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::interval;
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, Slow};

use crate::support_flow::{one_worker, server};
use crate::transport::connect_narrow;

/// The receive buffer of a peer that the tests do not wait long for: the system tells of what it read
/// in steps of a part of it.
const NARROW: u32 = 8 * 1024;

/// Sends as much as there is room for, until the connection ends. Returns how much was accepted.
async fn send_on(conn: Conn) -> usize {
    let mut accepted = 0;
    while conn.send(1, vec![0; 60 * 1024]).await.is_ok() {
        accepted += 60 * 1024;
    }
    accepted
}

#[actix::test]
async fn g10_a_peer_that_reads_slowly_and_evenly_is_not_closed_however_much_is_unsent() {
    let deadline = Duration::from_millis(1_000);
    let settings = one_worker(|settings| {
        settings.write_deadline_ms = deadline.as_millis() as u64;
        settings.drain_deadline_ms = 50;
    });
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let mut client = connect_narrow(server.addr(), NARROW).await;
    let conn = hooked.started().await;
    let sending = actix_rt::spawn(send_on(conn.clone()));

    // For three deadlines, never a tenth of one without a byte.
    let mut pace = interval(deadline / 50);
    let mut chunk = vec![0; 6 * 1024];
    for _ in 0..3 * 50 {
        pace.tick().await;
        assert!(within(client.stream().read(&mut chunk)).await.unwrap() > 0);
    }
    assert!(!conn.is_closed(), "{:?}", server.handle().stats().endings);
    assert!(conn.unsent().bytes > 0, "the peer was never behind");
    server.stop().await.unwrap();
    within(sending).await.unwrap();
}

#[actix::test]
async fn g10_a_peer_that_reads_nothing_any_more_is_closed_by_the_write_deadline() {
    let settings = one_worker(|settings| settings.write_deadline_ms = 500);
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let mut client = connect_narrow(server.addr(), NARROW).await;
    let conn = hooked.started().await;
    let sending = actix_rt::spawn(send_on(conn));
    let mut read = vec![0; 256 * 1024];
    within(client.stream().read_exact(&mut read)).await.unwrap();
    let (_, why) = hooked.stopped().await;
    assert_eq!(why, CloseReason::SlowConsumer(Slow::WriteDeadline));
    let accepted = within(sending).await.unwrap();
    let stats = server.handle().stats();
    assert_eq!(stats.unconfirmed, 1, "the system held some of it");
    // What is unsent is all but what was read and what the systems hold, which is not much.
    let (unsent, held) = (stats.bytes_cut as usize, 512 * 1024);
    assert!(accepted < read.len() + unsent + held, "{unsent} unsent of {accepted}");
    server.stop().await.unwrap();
}
