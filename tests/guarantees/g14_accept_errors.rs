//! G14: accept errors are triaged by cause. The unit tests of the acceptor have the causes one by
//! one; here a whole process runs out of descriptors, and a peer is gone before it is accepted.

use zinxide::testing::{TestClient, within};

use crate::support_flow::{echo, one_worker, server};

#[cfg(unix)]
#[actix::test]
async fn g14_a_server_out_of_descriptors_backs_off_and_recovers() {
    use crate::support_flow::Process;

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
async fn g14_dials_that_are_reset_before_they_are_accepted_do_no_harm() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    // Bound and not serving: the system takes the dials, and they are reset in its queue.
    let bound = server.without_signals().bind().await.unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    for _ in 0..20 {
        TestClient::connect(addr).await.reset();
    }
    let served = actix_rt::spawn(bound.serve());
    let mut client = TestClient::connect(addr).await;
    echo(&mut client).await;
    within(handle.stop()).await;
    within(served).await.unwrap().unwrap();
    // Whoever of them was admitted was told the end, too.
    let (starts, stops) = hooked.rest();
    assert_eq!(starts, stops.len());
}
