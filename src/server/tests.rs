use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;

use actix::Message;

use super::*;
use crate::testing::{TestClient, TestServer, settings, within};

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
    let listener =
        TcpStream::from(bound.course.listeners[0].socket.as_fd().try_clone_to_owned().unwrap());
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
    let placement = bound.course.workers.placement();
    let worker = &placement.least_loaded().unwrap().addr;
    assert_eq!(worker.send(worker::RouteChanges).await.unwrap(), 1);
}

/// Ends the actor that gets it.
#[derive(Message)]
#[rtype(result = "()")]
struct Panics;

impl Handler<Panics> for ConnManager {
    type Result = ();

    fn handle(&mut self, _: Panics, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

impl Handler<Panics> for Router {
    type Result = ();

    fn handle(&mut self, _: Panics, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

/// Whether a server drains and ends with the right error when this panics on the thread that accepts.
async fn drains_when(panics: impl FnOnce(&ServerHandle)) {
    let (stopped, stops) = mpsc::channel();
    let server = Server::new(settings())
        .route_fn(1, async |msg: Inbound| {
            // What was received is answered.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            msg
        })
        .on_conn_stop(move |_, why| stopped.send(why.clone()).unwrap());
    let server = TestServer::start(server).await;
    let (addr, handle) = (server.addr(), server.handle().clone());
    let mut client = TestClient::connect(addr).await;
    client.send(1, "x").await;
    assert!(client.recv().await.is_some());
    panics(&handle);
    assert_eq!(client.recv().await, None);
    let ended = server.ended().await;
    assert!(matches!(ended, Err(ServerError::AcceptPanicked)), "{ended:?}");
    assert_eq!(stops.try_recv(), Ok(CloseReason::Shutdown));
    within(handle.stop()).await;
    TcpListener::bind(addr).expect("the port is free");
}

#[actix::test]
async fn a_manager_that_panics_drains_the_server_and_ends_it_with_an_error() {
    drains_when(|handle| handle.conn_manager().do_send(Panics)).await;
}

#[actix::test]
async fn a_router_that_panics_drains_the_server_and_ends_it_with_an_error() {
    drains_when(|handle| handle.router().do_send(Panics)).await;
}
