//! G10: a peer that does not read costs only itself.

use actix::{Actor, Context, Handler};
use zinxide::conn_manager::{Add, Broadcast};
use zinxide::testing::{TestServer, accepted, conn, within};
use zinxide::{CloseReason, ConnManager, Frame, Inbound, SendError, Slow};

use crate::support_flow::{
    Log, MORE_THAN_KERNEL, bytes_of, echo, number, one_worker, server, until_settled,
};
use crate::transport::{connect, settings, write};

/// What a frame's header takes on the wire.
const HEADER: usize = 8;

#[actix::test]
async fn g10_the_outbox_takes_its_frames_and_gives_the_next_one_back() {
    let mut settings = settings();
    settings.max_msg_chan_len = 3;
    let conn = conn(1, &settings);
    for n in 0..3 {
        assert_eq!(conn.send_buffered(n, "x"), Ok(()));
    }
    assert_eq!(conn.send_buffered(3, "y"), Err(SendError::Full(Frame::new(3, "y"))));
    assert_eq!(accepted(&conn).len(), 3);
    assert!(!conn.is_closed(), "being full is no reason to close");
    assert_eq!(conn.send_buffered(3, "y"), Ok(()), "there is room again");
}

#[actix::test]
async fn g10_the_outbox_takes_its_bytes_headers_included_and_gives_the_next_one_back() {
    let mut settings = settings();
    settings.max_packet_size = 100;
    settings.max_msg_chan_bytes = 2 * (HEADER + 100);
    let conn = conn(1, &settings);
    assert_eq!(conn.send_buffered(1, vec![1; 100]), Ok(()));
    let large = Frame::new(2, vec![2; 101]);
    assert_eq!(conn.send_buffered(2, vec![2; 101]), Err(SendError::Full(large)));
    assert_eq!(conn.send_buffered(3, vec![3; 100]), Ok(()), "to the last byte");
    assert_eq!(conn.send_buffered(4, ""), Err(SendError::Full(Frame::new(4, ""))));
}

#[actix::test]
async fn g10_a_frame_that_never_fits_the_outbox_is_given_back_at_once() {
    let mut settings = settings();
    settings.max_packet_size = 100;
    settings.max_msg_chan_bytes = HEADER + 100;
    let conn = conn(1, &settings);
    let frame = Frame::new(1, vec![1; 101]);
    assert_eq!(conn.send(1, vec![1; 101]).await, Err(SendError::TooLarge(frame)));
}

#[actix::test]
async fn g10_a_broadcast_overflow_closes_the_full_connection_and_no_other() {
    let mut settings = settings();
    settings.max_msg_chan_len = 2;
    let manager = ConnManager::new(&settings).start();
    let (full, free) = (conn(1, &settings), conn(2, &settings));
    for conn in [&full, &free] {
        manager.send(Add(conn.clone())).await.unwrap().unwrap();
    }
    full.send_buffered(0, "").unwrap();
    full.send_buffered(0, "").unwrap();

    let report = manager.send(Broadcast::new((7, "news"))).await.unwrap().unwrap();
    assert_eq!((report.accepted, report.closed), (1, 1));
    assert!(full.is_closed() && !free.is_closed());
    assert_eq!(accepted(&free), [Frame::new(7, "news")]);
}

#[actix::test]
async fn g10_a_peer_that_does_not_read_is_closed_by_the_write_deadline_within_its_bounds() {
    let settings = one_worker(|settings| {
        settings.write_deadline_ms = 50;
        settings.max_msg_chan_len = 8;
        settings.max_msg_chan_bytes = 256 * 1024;
    });
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let (_silent, conn) = hooked.connect(&server).await;

    let mut sent = 0;
    let refused = loop {
        match within(conn.send(1, vec![0; 16 * 1024])).await {
            Ok(()) => sent += 16 * 1024,
            Err(refused) => break refused,
        }
        assert!(sent < MORE_THAN_KERNEL, "accepted without a bound");
    };
    assert!(matches!(refused, SendError::Closed(_)), "{refused}");
    let (_, why) = hooked.stopped().await;
    assert_eq!(why, CloseReason::SlowConsumer(Slow::WriteDeadline));
    // What the connection still held is what was cut.
    let cut = server.handle().stats().frames_cut;
    assert!((1..=8).contains(&cut), "{cut} frames were held");
    server.stop().await.unwrap();
}

/// Answers each message.
struct Answers;

impl Actor for Answers {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Answers {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.reply(1, vec![0; 4096]);
    }
}

/// A peer that asks without end and reads no answer.
async fn asks_and_does_not_read(id: u32) {
    let settings = one_worker(|settings| {
        settings.write_deadline_ms = 50;
        settings.max_msg_chan_len = 8;
        settings.max_worker_task_len = 64;
    });
    let (server, mut hooked) = server(settings);
    let server = server
        .route(1, || Answers)
        .route_fn(2, async |_: Inbound| (2, vec![0; 4096]))
        .route_to(3, Answers.start().recipient());
    let server = TestServer::start(server).await;
    let (mut silent, _) = hooked.connect(&server).await;

    let asking = actix_rt::spawn(async move {
        let questions = bytes_of((0..1000).map(|n| (id, number(n))));
        let mut sent = 0;
        loop {
            write(silent.stream(), &questions).await?;
            sent += questions.len();
            assert!(sent < MORE_THAN_KERNEL, "reads without a bound");
        }
        #[allow(unreachable_code)]
        Ok::<(), std::io::Error>(())
    });
    let (_, why) = hooked.stopped().await;
    assert_eq!(why, CloseReason::SlowConsumer(Slow::WriteDeadline));
    let cut = server.handle().stats().frames_cut;
    assert!((1..=8).contains(&cut), "{cut} answers were held");
    within(asking).await.unwrap().expect_err("the connection is closed");
    server.stop().await.unwrap();
}

#[actix::test]
async fn g10_answers_of_a_handler_actor_to_a_peer_that_does_not_read_are_bounded() {
    asks_and_does_not_read(1).await;
}

#[actix::test]
async fn g10_answers_of_a_route_function_to_a_peer_that_does_not_read_are_bounded() {
    asks_and_does_not_read(2).await;
}

#[actix::test]
async fn g10_answers_of_a_shared_actor_to_a_peer_that_does_not_read_are_bounded() {
    asks_and_does_not_read(3).await;
}

#[actix::test]
async fn g10_a_broadcast_that_a_peer_does_not_read_closes_it_and_misses_nobody_else() {
    let settings = one_worker(|settings| {
        settings.max_msg_chan_len = 8;
        // The overflow is to find it out, not the clock.
        settings.write_deadline_ms = 3_600_000;
    });
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let (_silent, slow) = hooked.connect(&server).await;
    let (mut reader, _) = hooked.connect(&server).await;

    let mut sent = 0;
    for n in 0.. {
        let news = Frame::new(n, vec![n as u8; 64 * 1024]);
        let report = server.handle().broadcast(news.clone()).await.unwrap();
        assert_eq!(reader.recv().await, Some(news), "the neighbour misses nothing");
        if report.closed > 0 {
            assert_eq!((report.accepted, report.closed), (1, 1));
            break;
        }
        assert_eq!(report.accepted, 2);
        sent += 64 * 1024;
        assert!(sent < MORE_THAN_KERNEL, "accepted without a bound");
    }
    let overflow = CloseReason::SlowConsumer(Slow::OutboxFull);
    assert_eq!(hooked.stopped().await, (slow.id(), overflow));
    let cut = server.handle().stats().frames_cut;
    assert!((1..=8).contains(&cut), "{cut} frames were held");

    let report = server.handle().broadcast((0, "after")).await.unwrap();
    assert_eq!((report.accepted, report.closed), (1, 0));
    assert_eq!(reader.recv().await, Some(Frame::new(0, "after")));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g10_nobody_waits_for_a_peer_that_does_not_read() {
    let settings = one_worker(|settings| {
        settings.max_msg_chan_len = 8;
        settings.write_deadline_ms = 3_600_000;
        settings.drain_deadline_ms = 50;
    });
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let (_silent, slow) = hooked.connect(&server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;

    // Somebody waits for room in the slow connection's outbox all the time.
    let sent = Log::default();
    let sending = {
        let (slow, sent) = (slow.clone(), sent.clone());
        actix_rt::spawn(async move {
            while slow.send(1, vec![0; 64 * 1024]).await.is_ok() {
                sent.push(());
                assert!(sent.len() * 64 * 1024 < MORE_THAN_KERNEL, "accepted without a bound");
            }
        })
    };
    // Settled by the neighbour's echoes, each of which would hang if it waited for the slow one.
    until_settled(&mut neighbour, || sent.len()).await;
    assert!(sent.len() > 0);
    assert!(!slow.is_closed());
    // Who waits is told when half of the outbox is free, so there may be room for a few.
    let full = (0..=8).find_map(|_| slow.send_buffered(1, vec![0; 64 * 1024]).err());
    assert!(matches!(full, Some(SendError::Full(_))), "{full:?}");
    let mut late = connect(server.addr()).await;
    echo(&mut late).await;

    slow.stop();
    within(sending).await.unwrap();
    assert_eq!(hooked.stopped().await, (slow.id(), CloseReason::Stopped));
    echo(&mut neighbour).await;
    server.stop().await.unwrap();
}
