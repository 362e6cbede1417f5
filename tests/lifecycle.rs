//! What a server's parts owe each other when they end otherwise than by plan.

use zinxide::Server;
use zinxide::testing::{settings, within};

#[actix::test]
async fn a_stop_of_a_server_that_was_dropped_unserved_does_not_wait_for_ever() {
    let server = Server::new(settings()).without_signals().bind().await.unwrap();
    let handle = server.handle();
    drop(server);
    within(handle.stop()).await;
}
