//! The connection manager by messages alone: no server, no sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may panic, too

use std::thread;

use actix::{Actor, Addr};
use zinxide::conn_manager::{
    Add, AddError, Broadcast, ClearConn, ConnNotFound, Get, Ids, Len, Remove,
};
use zinxide::testing::{accepted, conn, settings, within};
use zinxide::{Conn, ConnManager, Connections, Frame, SendError, Settings, WireFormat};

fn settings_for(max_conn: usize) -> Settings {
    let mut settings = settings();
    settings.max_conn = max_conn;
    settings
}

fn start(settings: &Settings) -> (Addr<ConnManager>, Connections) {
    let manager = ConnManager::new(settings);
    let connections = manager.connections();
    (manager.start(), connections)
}

async fn add(manager: &Addr<ConnManager>, conn: &Conn) -> Result<usize, AddError> {
    within(manager.send(Add(conn.clone()))).await.unwrap()
}

/// A manager with connections 1 to `n`.
async fn with(n: u64, settings: &Settings) -> (Addr<ConnManager>, Connections, Vec<Conn>) {
    let (manager, connections) = start(settings);
    let conns: Vec<_> = (1..=n).map(|id| conn(id, settings)).collect();
    for conn in &conns {
        add(&manager, conn).await.unwrap();
    }
    (manager, connections, conns)
}

async fn len(manager: &Addr<ConnManager>) -> usize {
    within(manager.send(Len)).await.unwrap()
}

async fn ids(manager: &Addr<ConnManager>) -> Vec<u64> {
    let mut ids = within(manager.send(Ids)).await.unwrap();
    ids.sort_unstable();
    ids
}

#[actix::test]
async fn add_answers_how_many_there_are() {
    let settings = settings();
    let (manager, _) = start(&settings);
    assert_eq!(len(&manager).await, 0);
    for id in 1..=3 {
        assert_eq!(add(&manager, &conn(id, &settings)).await, Ok(id as usize));
    }
    assert_eq!(len(&manager).await, 3);
    assert_eq!(ids(&manager).await, [1, 2, 3]);
}

#[actix::test]
async fn g2_a_full_manager_refuses_and_names_the_limit() {
    let settings = settings_for(2);
    let (manager, connections, _conns) = with(2, &settings).await;
    let late = conn(3, &settings);
    let refused = add(&manager, &late).await;
    assert_eq!(refused, Err(AddError::Full { max_conn: 2, reserved: 0 }));
    assert_eq!(refused.unwrap_err().to_string(), "the server is full: 2 connections");
    assert_eq!((len(&manager).await, connections.len()), (2, 2));
    assert!(!late.is_closed(), "a refused connection is its owner's to close");
}

#[actix::test]
async fn g2_of_many_adds_at_once_as_many_as_fit_are_admitted() {
    let settings = settings_for(10);
    let (manager, connections) = start(&settings);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (manager, settings) = (manager.clone(), settings.clone());
            thread::spawn(move || {
                let adds = (0..50).map(|n| manager.send(Add(conn(thread * 50 + n, &settings))));
                adds.collect::<Vec<_>>()
            })
        })
        .collect();
    let mut admitted = 0;
    for thread in threads {
        for add in thread.join().unwrap() {
            admitted += usize::from(within(add).await.unwrap().is_ok());
        }
    }
    assert_eq!((admitted, len(&manager).await, connections.ids().len()), (10, 10, 10));
}

#[actix::test]
async fn g2_a_place_that_became_free_is_given_to_the_next() {
    let settings = settings_for(1);
    let (manager, _connections, _conns) = with(1, &settings).await;
    let next = conn(2, &settings);
    assert!(add(&manager, &next).await.is_err());
    assert_eq!(manager.send(Remove(1)).await.unwrap(), Ok(()));
    assert_eq!(add(&manager, &next).await, Ok(1));
}

#[actix::test]
async fn add_refuses_a_connection_that_is_there_and_one_that_is_closed() {
    let settings = settings();
    let (manager, connections, conns) = with(1, &settings).await;
    assert_eq!(add(&manager, &conns[0]).await, Err(AddError::Duplicate(1)));
    let closed = conn(2, &settings);
    closed.stop();
    assert_eq!(add(&manager, &closed).await, Err(AddError::Closed(2)));
    assert_eq!((len(&manager).await, connections.len()), (1, 1));
}

#[actix::test]
async fn get_answers_the_connection_itself() {
    let settings = settings();
    let (manager, connections, conns) = with(3, &settings).await;
    let got = manager.send(Get(2)).await.unwrap().unwrap();
    got.send_buffered(7, "by another handle").unwrap();
    assert_eq!(accepted(&conns[1]), [Frame::new(7, "by another handle")]);
    let read = connections.get(2).unwrap();
    read.send_buffered(8, "by the table").unwrap();
    assert_eq!(accepted(&conns[1]), [Frame::new(8, "by the table")]);
}

#[actix::test]
async fn g16_get_and_remove_of_an_id_that_is_gone_or_never_was_answer_conn_not_found() {
    let (manager, connections, _conns) = with(1, &settings()).await;
    manager.send(Remove(1)).await.unwrap().unwrap();
    for id in [1, 2] {
        assert_eq!(manager.send(Get(id)).await.unwrap().err(), Some(ConnNotFound(id)));
        assert_eq!(manager.send(Remove(id)).await.unwrap(), Err(ConnNotFound(id)));
        assert!(connections.get(id).is_none());
    }
}

#[actix::test]
async fn g4_remove_closes_the_connection_and_no_other() {
    let (manager, connections, conns) = with(3, &settings()).await;
    assert_eq!(within(manager.send(Remove(2))).await.unwrap(), Ok(()));
    let closed: Vec<_> = conns.iter().map(Conn::is_closed).collect();
    assert_eq!(closed, [false, true, false]);
    assert_eq!(ids(&manager).await, [1, 3]);
    assert_eq!((connections.len(), connections.all().len()), (2, 2));
}

#[actix::test]
async fn g8_clear_conn_closes_and_removes_all_and_says_how_many() {
    let (manager, connections, conns) = with(5, &settings()).await;
    assert_eq!(within(manager.send(ClearConn)).await.unwrap(), 5);
    assert_eq!((len(&manager).await, connections.len()), (0, 0));
    assert!(connections.is_empty());
    assert!(conns.iter().all(Conn::is_closed));
    assert_eq!(within(manager.send(ClearConn)).await.unwrap(), 0);
}

#[actix::test]
async fn g8_clear_conn_twice_at_once_is_answered_twice() {
    let (manager, _connections, _conns) = with(5, &settings()).await;
    let (first, second) = (manager.send(ClearConn), manager.send(ClearConn));
    let (first, second) = within(async { tokio::join!(first, second) }).await;
    assert_eq!(first.unwrap() + second.unwrap(), 5, "each connection is cleared once");
    assert_eq!(len(&manager).await, 0);
}

#[actix::test]
async fn g8_after_clear_conn_new_connections_are_admitted() {
    let settings = settings_for(2);
    let (manager, _connections, _conns) = with(2, &settings).await;
    manager.send(ClearConn).await.unwrap();
    assert_eq!(add(&manager, &conn(3, &settings)).await, Ok(1));
}

#[actix::test]
async fn a_broadcast_reaches_every_connection_in_order() {
    let (manager, _connections, conns) = with(3, &settings()).await;
    let news = [Frame::new(1, "first"), Frame::new(2, ""), Frame::new(3, vec![9; 10_000])];
    for frame in &news {
        let report = manager.send(Broadcast::new(frame.clone())).await.unwrap().unwrap();
        assert_eq!((report.accepted, report.closed), (3, 0));
    }
    for conn in &conns {
        assert_eq!(accepted(conn), news);
    }
}

#[actix::test]
async fn a_broadcast_speaks_the_wire_format_of_the_settings() {
    let mut settings = settings();
    settings.wire_format = WireFormat::TlvBe;
    let (manager, _connections, conns) = with(1, &settings).await;
    manager.send(Broadcast::new(Frame::new(1, "news"))).await.unwrap().unwrap();
    // Read back as the connection's format, which is the same.
    assert_eq!(accepted(&conns[0]), [Frame::new(1, "news")]);
}

#[actix::test]
async fn a_broadcast_to_nobody_is_accepted_by_nobody() {
    let (manager, _) = start(&settings());
    let report = manager.send(Broadcast::new(Frame::new(1, "news"))).await.unwrap().unwrap();
    assert_eq!((report.accepted, report.closed), (0, 0));
}

#[actix::test]
async fn a_broadcast_passes_over_connections_that_are_closed() {
    let (manager, _connections, conns) = with(2, &settings()).await;
    conns[0].stop();
    let report = manager.send(Broadcast::new(Frame::new(1, "news"))).await.unwrap().unwrap();
    assert_eq!((report.accepted, report.closed), (1, 0), "closed is not slow");
    assert_eq!(accepted(&conns[0]), []);
}

#[actix::test]
async fn g6_a_broadcast_that_no_outbox_could_ever_take_comes_back_and_closes_nobody() {
    let mut settings = settings();
    settings.max_packet_size = 10;
    settings.max_msg_chan_bytes = 18;
    let (manager, _connections, conns) = with(2, &settings).await;
    let frame = Frame::new(1, vec![0; 11]);
    let refused = manager.send(Broadcast::new(frame.clone())).await.unwrap();
    assert_eq!(refused, Err(SendError::TooLarge(frame)));
    assert!(!conns.iter().any(Conn::is_closed));
}

#[actix::test]
async fn g1_two_managers_share_nothing() {
    let settings = settings_for(1);
    let (one, _, conns) = with(1, &settings).await;
    let (two, connections) = start(&settings);
    assert_eq!(add(&two, &conn(1, &settings)).await, Ok(1), "the same id, a limit of its own");
    one.send(ClearConn).await.unwrap();
    assert!(conns[0].is_closed());
    assert!(!connections.get(1).unwrap().is_closed());
}
