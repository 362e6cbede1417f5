//! What holds for a whole process (G13, G14, G18): what signals do, what a shortage of descriptors
//! does, what its log has. None of it is the transport's: the same server, behind TCP, will do.

use std::future::pending;

use tokio::net::TcpListener;
use zinxide::testing::{TestClient, settings};
use zinxide::{Frame, Inbound, Server, Settings};

use crate::support_process::Process;

async fn drains_and_ends_well(signal: &str) {
    let mut process = Process::server(&[]);
    let addr = process.addr().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = TestClient::connect(addr).await;
        assert_eq!(client.recv().await, Some(Frame::new(2, "DoConnection BEGIN...")));
        client.send(0, "x").await;
        assert_eq!(client.recv().await, Some(Frame::new(0, "ping...ping...ping")));
        clients.push(client);
    }
    process.signal(signal);
    let status = process.exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    assert_eq!(process.logged("DoConnectionBegin is called"), 10);
    assert_eq!(process.logged("DoConnectionLost is called"), 10);
    TcpListener::bind(addr).await.expect("the port is free");
}

#[actix::test]
async fn g13_sigterm_drains_the_process_and_ends_it_with_exit_code_0() {
    drains_and_ends_well("TERM").await;
}

#[actix::test]
async fn g13_sigint_drains_the_process_and_ends_it_with_exit_code_0() {
    drains_and_ends_well("INT").await;
}

/// A process of its own, whose drain ends neither by itself nor by a deadline.
#[actix::test]
#[ignore = "the child of the tests of a second signal"]
async fn child_whose_handler_never_ends() {
    if !Process::is_child() {
        return;
    }
    let hour = 3_600_000;
    let settings = Settings { drain_deadline_ms: hour, write_deadline_ms: hour, ..settings() };
    let server = Server::new(settings).route_fn(1, async |_: Inbound| {
        eprintln!("handles");
        pending::<()>().await;
    });
    let server = server.route_fn(2, async |msg: Inbound| msg);
    let server = server.bind().await.unwrap();
    eprintln!("listens on {},", server.local_addr());
    std::process::exit(i32::from(server.serve().await.is_err()));
}

async fn ends_at_once(first: &str, second: &str) {
    let child = "processes::child_whose_handler_never_ends";
    let mut process = Process::test(child);
    let addr = process.addr().await;
    let mut asking = TestClient::connect(addr).await;
    asking.send(1, "").await;
    process.logs("handles").await;
    let mut idle = TestClient::connect(addr).await;
    idle.send(2, "").await;
    idle.recv().await;
    process.signal(first);
    assert_eq!(idle.recv().await, None, "the drain has begun");
    process.signal(second);
    let status = process.exited().await;
    assert_eq!(status.code(), Some(1), "{status}");
}

#[actix::test]
async fn g13_a_second_signal_ends_the_process_at_once_with_an_exit_code_other_than_0() {
    ends_at_once("TERM", "TERM").await;
}

#[actix::test]
async fn g13_a_second_signal_may_be_the_other_one() {
    ends_at_once("INT", "TERM").await;
}

#[actix::test]
async fn g14_a_server_out_of_descriptors_backs_off_and_recovers() {
    let mut process = Process::server_with_descriptors(40);
    let addr = process.addr().await;
    // More than it has descriptors for; the system takes the dials all the same.
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(TestClient::connect(addr).await);
    }
    process.logs("accept failed").await;
    // Those that were accepted are served while it backs off.
    let first = &mut crowd[0];
    assert_eq!(first.recv().await.map(|frame| frame.id), Some(2));
    first.send(0, "ping").await;
    assert_eq!(first.recv().await.map(|frame| frame.id), Some(0));

    drop(crowd);
    process.logs("accept works again").await;
    let mut client = TestClient::connect(addr).await;
    assert_eq!(client.recv().await.map(|frame| frame.id), Some(2));
    client.send(1, "").await;
    assert_eq!(client.recv().await.map(|frame| frame.id), Some(1));

    process.signal("TERM");
    let status = process.exited().await;
    assert!(status.success(), "{status}");
    // Told once a shortage. The last one may not be over: accept(2) asks for a descriptor before
    // it looks for a dial, so it also fails when nobody waits.
    let (failed, works) = (process.logged("accept failed"), process.logged("accept works again"));
    assert!((works..=works + 1).contains(&failed), "told {failed} times, {works} shortages over");
}

#[actix::test]
async fn g18_a_message_without_a_route_is_logged_once_a_connection() {
    let mut process = Process::server(&[]);
    let addr = process.addr().await;
    for _ in 0..2 {
        let mut client = TestClient::connect(addr).await;
        client.recv().await.expect("the greeting");
        for _ in 0..3 {
            client.send(77, "").await;
        }
        client.send(0, "").await;
        client.recv().await.expect("the ping");
    }
    process.signal("TERM");
    process.exited().await;
    assert_eq!(process.logged("no route for message 77"), 2);
}
