//! G14: accept errors are triaged by cause. The unit tests of the acceptor have the causes one by
//! one; here a peer is gone before it is accepted, and in `processes` one runs out of descriptors.

use zinxide::testing::{TestClient, within};

use crate::support_flow::{echo, one_worker, server};
use crate::transport::connect;

#[actix::test]
async fn g14_dials_that_are_reset_before_they_are_accepted_do_no_harm() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    // Bound and not serving: the system takes the dials, and they are reset in its queue.
    let bound = server.without_signals().bind().await.unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    for _ in 0..20 {
        // Without a handshake, which nobody is there for.
        TestClient::connect(addr).await.reset();
    }
    let served = actix_rt::spawn(bound.serve());
    let mut client = connect(addr).await;
    echo(&mut client).await;
    within(handle.stop()).await;
    within(served).await.unwrap().unwrap();
    // Whoever of them was admitted was told the end, too.
    let (starts, stops) = hooked.rest();
    assert_eq!(starts, stops.len());
}
