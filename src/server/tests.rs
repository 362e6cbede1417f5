use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;

use super::*;
use crate::testing::{TestClient, settings, within};

#[actix::test]
async fn g14_a_dead_listener_drains_the_server_and_ends_it_with_an_error() {
    let (stopped, stops) = mpsc::channel();
    let server = Server::new(settings())
        .route_fn(1, async |msg: Inbound| msg)
        .on_conn_stop(move |_, why| stopped.send(why.clone()).unwrap());
    let bound = server.without_signals().bind().await.unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    // The same socket by another descriptor. It is no stream, but shutdown(2) takes any socket,
    // and accept(2) fails for good on one that is shut down.
    let listener = TcpStream::from(bound.listeners[0].socket.as_fd().try_clone_to_owned().unwrap());
    let served = actix_rt::spawn(bound.serve());
    let mut client = TestClient::connect(addr).await;
    client.send(1, "x").await;
    assert!(client.recv().await.is_some());

    listener.shutdown(Shutdown::Both).unwrap();
    let ended = within(served).await.unwrap();
    assert!(matches!(ended, Err(ServerError::Accept(_))), "{ended:?}");
    assert_eq!(client.recv().await, None);
    assert_eq!(stops.try_recv(), Ok(CloseReason::Shutdown));
    within(handle.stop()).await;
}

#[actix::test]
async fn the_routes_of_a_server_are_published_to_its_workers_once() {
    let settings = Settings { worker_pool_size: 1, ..settings() };
    let server = (0..10_000).fold(Server::new(settings).without_signals(), |server, id| {
        server.route_fn(id, async |_: Inbound| {})
    });
    let bound = server.bind().await.unwrap();
    let placement = bound.workers.placement();
    let worker = &placement.least_loaded().unwrap().addr;
    assert_eq!(worker.send(worker::RouteChanges).await.unwrap(), 1);
}
