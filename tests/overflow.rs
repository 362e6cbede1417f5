//! Outboxes that are full: the policies, the watermarks, and the budget of the server.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::time::Duration;

use actix::Actor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;
use zinxide::conn_manager::{Add, Broadcast};
use zinxide::testing::{TestClient, TestConnection, TestServer, accepted, conn, settings, within};
use zinxide::{
    CloseReason, Conn, ConnManager, Frame, Inbound, Overflow, SendError, Sent, Server, Settings,
    Slow, Watermark,
};

const FRAME: usize = 16 * 1024;

fn small_outbox() -> Settings {
    Settings { max_msg_chan_len: 3, ..settings() }
}

fn ids(conn: &Conn) -> Vec<u32> {
    accepted(conn).iter().map(|frame| frame.id).collect()
}

#[test]
fn refuse_gives_the_frame_back_and_nothing_else_happens() {
    let conn = conn(1, &small_outbox());
    for id in 0..3 {
        assert_eq!(conn.send_with(id, "", Overflow::Refuse), Ok(Sent::Accepted));
    }
    let refused = conn.send_with(3, "x", Overflow::Refuse);
    assert_eq!(refused, Err(SendError::Full(Frame::new(3, "x"))));
    assert!(!conn.is_closed());
    assert_eq!(ids(&conn), [0, 1, 2]);
}

#[test]
fn close_gives_the_frame_back_and_closes_the_connection() {
    let conn = conn(1, &small_outbox());
    for id in 0..3 {
        assert_eq!(conn.send_with(id, "", Overflow::Close), Ok(Sent::Accepted));
    }
    let refused = conn.send_with(3, "x", Overflow::Close);
    assert_eq!(refused, Err(SendError::Closed(Frame::new(3, "x"))));
    assert!(conn.is_closed());
}

#[test]
fn drop_newest_drops_the_frame() {
    let conn = conn(1, &small_outbox());
    for id in 0..3 {
        assert_eq!(conn.send_with(id, "", Overflow::DropNewest), Ok(Sent::Accepted));
    }
    assert_eq!(conn.send_with(3, "", Overflow::DropNewest), Ok(Sent::Dropped));
    assert_eq!(ids(&conn), [0, 1, 2]);
    assert_eq!(conn.send_with(4, "", Overflow::DropNewest), Ok(Sent::Accepted));
}

#[test]
fn drop_oldest_keeps_the_newest_in_order() {
    let conn = conn(1, &small_outbox());
    for id in 0..10 {
        let sent = conn.send_with(id, "", Overflow::DropOldest);
        assert_eq!(sent, Ok(if id < 3 { Sent::Accepted } else { Sent::InPlaceOf(1) }));
    }
    assert_eq!(conn.unsent().frames, 3);
    assert_eq!(ids(&conn), [7, 8, 9]);
}

#[test]
fn drop_oldest_makes_room_in_bytes_by_as_many_frames_as_it_takes() {
    let settings = Settings { max_packet_size: 100, max_msg_chan_bytes: 300, ..settings() };
    let conn = conn(1, &settings);
    for id in 0..10 {
        assert_eq!(conn.send_with(id, vec![0; 22], Overflow::DropOldest), Ok(Sent::Accepted));
    }
    // 92 and a header: four frames of 30 are not less.
    let sent = conn.send_with(10, vec![0; 92], Overflow::DropOldest);
    assert_eq!(sent, Ok(Sent::InPlaceOf(4)));
    assert_eq!(conn.unsent().bytes, 6 * 30 + 100);
    assert_eq!(ids(&conn), [4, 5, 6, 7, 8, 9, 10]);
    let never = conn.send_with(11, vec![0; 293], Overflow::DropOldest);
    assert!(matches!(never, Err(SendError::TooLarge(frame)) if frame.payload.len() == 293));
}

#[test]
fn drop_oldest_displaces_only_what_was_sent_so() {
    let conn = conn(1, &small_outbox());
    conn.send_buffered(0, "keep").unwrap();
    assert_eq!(conn.send_with(1, "", Overflow::DropOldest), Ok(Sent::Accepted));
    conn.send_buffered(2, "keep").unwrap();
    assert_eq!(conn.send_with(3, "", Overflow::DropOldest), Ok(Sent::InPlaceOf(1)));
    assert_eq!(conn.send_with(4, "", Overflow::DropOldest), Ok(Sent::InPlaceOf(1)));
    // A frame of any policy takes the place of one that may be dropped, and of no other.
    assert_eq!(conn.send_with(5, "", Overflow::Refuse), Ok(Sent::InPlaceOf(1)));
    assert_eq!(conn.send_buffered(6, ""), Err(SendError::Full(Frame::new(6, ""))));
    assert_eq!(ids(&conn), [0, 2, 5]);

    for id in 0..3 {
        conn.send_buffered(id, "keep").unwrap();
    }
    assert_eq!(conn.send_with(9, "", Overflow::DropOldest), Ok(Sent::Dropped));
    assert_eq!(ids(&conn), [0, 1, 2]);
}

#[test]
fn a_closed_connection_gives_the_frame_back_under_every_policy() {
    let conn = conn(1, &settings());
    conn.stop();
    for overflow in [Overflow::Refuse, Overflow::Close, Overflow::DropOldest, Overflow::DropNewest]
    {
        let refused = conn.send_with(1, "x", overflow);
        assert_eq!(refused, Err(SendError::Closed(Frame::new(1, "x"))), "{overflow:?}");
    }
}

#[test]
fn the_setting_is_what_send_buffered_does() {
    for (overflow, last) in [
        (Overflow::Refuse, Err(SendError::Full(Frame::new(3, "")))),
        (Overflow::Close, Err(SendError::Closed(Frame::new(3, "")))),
        (Overflow::DropNewest, Ok(())),
        (Overflow::DropOldest, Ok(())),
    ] {
        let conn = conn(1, &Settings { overflow, ..small_outbox() });
        for id in 0..3 {
            assert_eq!(conn.send_buffered(id, ""), Ok(()));
        }
        assert_eq!(conn.send_buffered(3, ""), last, "{overflow:?}");
        assert_eq!(conn.is_closed(), overflow == Overflow::Close);
        let kept: &[u32] = if overflow == Overflow::DropOldest { &[1, 2, 3] } else { &[0, 1, 2] };
        assert_eq!(ids(&conn), kept, "{overflow:?}");
    }
}

#[actix::test]
async fn a_broadcast_does_to_full_outboxes_what_its_policy_says() {
    for (overflow, counts) in [
        (Overflow::Refuse, (1, 1, 0, 0)),
        (Overflow::DropNewest, (1, 0, 1, 0)),
        (Overflow::DropOldest, (2, 0, 0, 0)),
        (Overflow::Close, (1, 0, 0, 1)),
    ] {
        let settings = Settings { broadcast_overflow: overflow, ..small_outbox() };
        let manager = ConnManager::new(&settings).start();
        let (full, free) = (conn(1, &settings), conn(2, &settings));
        for conn in [&full, &free] {
            manager.send(Add(conn.clone())).await.unwrap().unwrap();
        }
        for id in 0..3 {
            let droppable = overflow == Overflow::DropOldest;
            let policy = if droppable { overflow } else { Overflow::Refuse };
            assert_eq!(full.send_with(id, "", policy), Ok(Sent::Accepted));
        }
        let report = manager.send(Broadcast::new((7, "news"))).await.unwrap().unwrap();
        let counted = (report.accepted, report.refused, report.dropped, report.closed);
        assert_eq!(counted, counts, "{overflow:?}");
        assert_eq!(full.is_closed(), overflow == Overflow::Close);
        assert_eq!(accepted(&free), [Frame::new(7, "news")]);
        let kept: &[u32] = if overflow == Overflow::DropOldest { &[1, 2, 7] } else { &[0, 1, 2] };
        assert_eq!(ids(&full), kept);
        // A broadcast may have a policy of its own.
        for id in 0..3 {
            let _ = full.send_buffered(id, "");
        }
        let broadcast = Broadcast { frame: Frame::new(8, ""), overflow: Some(Overflow::Refuse) };
        let report = manager.send(broadcast).await.unwrap().unwrap();
        assert_eq!((report.refused, report.closed), (usize::from(!full.is_closed()), 0));
    }
}

/// A server whose hook hands out its connections.
async fn served(server: Server) -> (TestServer, UnboundedReceiver<Conn>) {
    let (tx, rx) = unbounded_channel();
    let server = server
        .route_fn(1, async |msg: Inbound| msg)
        .on_conn_start(move |conn| drop(tx.send(conn.clone())));
    (TestServer::start(server).await, rx)
}

/// Sends until the socket takes no more and so many frames, or all that there is room for, are unsent.
/// A hundred echoes of a neighbour on the same worker are more turns than the kernel needs to take
/// what it will take.
async fn fill(conn: &Conn, frames: usize, neighbour: &mut TestClient) -> u32 {
    let mut sent = 0;
    loop {
        while conn.unsent().frames < frames && conn.send_buffered(sent, vec![0; FRAME]).is_ok() {
            sent += 1;
        }
        let unsent = conn.unsent();
        for _ in 0..100 {
            neighbour.send(1, "").await;
            neighbour.recv().await.unwrap();
        }
        if conn.unsent() == unsent {
            return sent;
        }
    }
}

#[actix::test]
async fn a_peer_that_reads_late_gets_the_newest_frames_and_the_dropped_ones_are_counted() {
    let settings = Settings {
        max_msg_chan_len: 8,
        max_msg_chan_bytes: 8 * (FRAME + 8),
        worker_pool_size: 1,
        ..settings()
    };
    let (server, mut conns) = served(Server::new(settings)).await;
    let mut client = TestClient::connect(server.addr()).await;
    let conn = within(conns.recv()).await.unwrap();
    let mut dropped = 0;
    let mut last = 0;
    // More than the kernel takes: from then on every frame displaces another.
    while dropped < 100 {
        match conn.send_with(last, vec![0; FRAME], Overflow::DropOldest).unwrap() {
            Sent::InPlaceOf(frames) => dropped += frames as u64,
            Sent::Accepted => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
        last += 1;
    }
    conn.stop();
    let received: Vec<u32> = client.recv_to_end().await.iter().map(|frame| frame.id).collect();
    assert!(received.is_sorted_by(|a, b| a < b), "in order, none twice: {received:?}");
    assert_eq!(received.last(), Some(&(last - 1)), "the newest");
    assert_eq!(received.len() as u64 + dropped, u64::from(last));
    let stats = server.handle().stats();
    assert_eq!((stats.oldest_dropped, stats.newest_dropped), (dropped, 0));
    drop(client);
    server.stop().await.unwrap();
}

#[actix::test]
async fn the_watermarks_are_told_of_when_they_are_crossed_up_and_down_in_turn() {
    let (tx, mut marks) = unbounded_channel();
    let settings = Settings {
        max_msg_chan_len: 100,
        max_msg_chan_bytes: 100 * (FRAME + 8),
        high_watermark_percent: 50,
        low_watermark_percent: 10,
        worker_pool_size: 1,
        ..settings()
    };
    let server = Server::new(settings)
        .on_watermark(move |conn, mark| tx.send((mark, conn.unsent().frames)).unwrap());
    let (server, mut conns) = served(server).await;
    let mut client = TestClient::connect(server.addr()).await;
    let conn = within(conns.recv()).await.unwrap();

    // A burst that the socket takes is no reason to worry.
    for id in 0..60 {
        conn.send_buffered(id, "small").unwrap();
    }
    for _ in 0..60 {
        client.recv().await.unwrap();
    }
    assert!(marks.try_recv().is_err());

    let mut neighbour = TestClient::connect(server.addr()).await;
    let sent = fill(&conn, 100, &mut neighbour).await;
    for _ in 0..sent {
        client.recv().await.unwrap();
    }
    // The kernel may have taken some more when its buffers grew: up and down once more.
    let mut highs = 0;
    loop {
        let (mark, frames) = within(marks.recv()).await.unwrap();
        assert!(mark == Watermark::High && frames > 50, "{mark:?} {frames}");
        highs += 1;
        let (mark, frames) = within(marks.recv()).await.unwrap();
        assert!(mark == Watermark::Low && frames <= 10, "{mark:?} {frames}");
        if marks.is_empty() {
            break;
        }
    }
    assert_eq!(server.handle().stats().high_watermarks, highs);
    assert_eq!(server.handle().unsent_bytes(), 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_connection_that_ends_above_its_high_watermark_is_not_told_to_be_below_the_low_one() {
    let (tx, mut marks) = unbounded_channel();
    let (ended, mut ends) = unbounded_channel();
    let settings = Settings { max_msg_chan_len: 8, worker_pool_size: 1, ..settings() };
    let server = Server::new(settings)
        .on_watermark(move |conn, mark| tx.send((mark, conn.is_closed())).unwrap())
        .on_conn_stop(move |_, _| ended.send(()).unwrap());
    let (server, mut conns) = served(server).await;
    let deaf = TestClient::connect(server.addr()).await;
    let conn = within(conns.recv()).await.unwrap();
    let mut neighbour = TestClient::connect(server.addr()).await;
    fill(&conn, 8, &mut neighbour).await;
    assert_eq!(within(marks.recv()).await, Some((Watermark::High, false)));
    deaf.reset();
    within(ends.recv()).await.unwrap();
    // Before the end the kernel may take more, late: that is another matter.
    assert!(marks.try_recv() != Ok((Watermark::Low, true)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn beyond_the_budget_of_the_server_the_worst_is_closed_and_no_other() {
    let (tx, mut ends) = unbounded_channel();
    let settings = Settings {
        max_packet_size: FRAME as u32,
        max_msg_chan_bytes: 64 * (FRAME + 8),
        max_unsent_bytes: 96 * (FRAME + 8),
        write_deadline_ms: 600_000,
        drain_deadline_ms: 100,
        worker_pool_size: 1,
        ..settings()
    };
    let server = Server::new(settings)
        .on_conn_stop(move |conn, why| drop(tx.send((conn.id(), why.clone()))));
    let (server, mut conns) = served(server).await;
    let mut clients = Vec::new();
    let mut all = Vec::new();
    for _ in 0..4 {
        clients.push(TestClient::connect(server.addr()).await);
        all.push(within(conns.recv()).await.unwrap());
    }
    let mut neighbour = clients.pop().unwrap();
    fill(&all[0], 60, &mut neighbour).await;
    fill(&all[1], 20, &mut neighbour).await;
    assert!(ends.try_recv().is_err(), "within the budget");
    // Beyond it by one that takes less than the first.
    fill(&all[2], 30, &mut neighbour).await;
    let (id, why) = within(ends.recv()).await.unwrap();
    assert_eq!((id, why), (all[0].id(), CloseReason::SlowConsumer(Slow::OverBudget)));
    neighbour.send(1, "unharmed").await;
    assert_eq!(neighbour.recv().await, Some(Frame::new(1, "unharmed")));
    assert!(!all[1].is_closed() && !all[2].is_closed());
    assert!(server.handle().unsent_bytes() <= 96 * (FRAME + 8));
    server.handle().clear_conn().await;
    assert_eq!(server.handle().unsent_bytes(), 0, "what is closed holds nothing");
    server.stop().await.unwrap();
}

#[actix::test]
async fn newcomers_who_read_are_neither_shed_nor_above_a_watermark() {
    const GREETING: usize = 100_000;
    let (tx, mut told) = unbounded_channel();
    let settings = Settings { max_unsent_bytes: 1 << 20, ..settings() };
    let server = Server::new(settings)
        .route_fn(1, async |msg: Inbound| msg)
        .on_conn_start(|conn| conn.send_buffered(9, vec![0; GREETING]).unwrap())
        .on_watermark(move |_, mark| tx.send(mark).unwrap());
    let server = TestServer::start(server).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(TestClient::connect(server.addr()).await);
    }
    for client in &mut clients {
        assert_eq!(client.recv().await.map(|frame| frame.payload.len()), Some(GREETING));
    }
    assert!(told.try_recv().is_err());
    assert_eq!(server.handle().stats().endings.slow_consumer, 0);
    drop(clients);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_closes_its_side_is_not_beyond_the_budget() {
    const BUDGET: usize = 64 * (FRAME + 8);
    let (tx, mut ends) = unbounded_channel();
    let settings = Settings {
        max_packet_size: FRAME as u32,
        max_msg_chan_bytes: 64 * (FRAME + 8),
        max_unsent_bytes: BUDGET,
        write_deadline_ms: 600_000,
        drain_deadline_ms: 600_000,
        worker_pool_size: 1,
        ..settings()
    };
    let server = Server::new(settings).on_conn_stop(move |_, _| tx.send(()).unwrap_or_default());
    let (server, mut conns) = served(server).await;
    let mut neighbour = TestClient::connect(server.addr()).await;
    within(conns.recv()).await.unwrap();
    let mut deaf = Vec::new();
    for _ in 0..6 {
        let mut client = TestClient::connect(server.addr()).await;
        let conn = within(conns.recv()).await.unwrap();
        fill(&conn, 40, &mut neighbour).await;
        client.stream().shutdown().await.unwrap();
        // The server sees it before it has answered so much.
        for _ in 0..100 {
            neighbour.send(1, "").await;
            neighbour.recv().await.unwrap();
        }
        deaf.push(client);
    }
    // One of 40 frames is within the budget, two are not.
    for _ in 0..5 {
        within(ends.recv()).await.unwrap();
    }
    assert!(server.handle().unsent_bytes() <= BUDGET);
    neighbour.send(1, "unharmed").await;
    assert_eq!(neighbour.recv().await, Some(Frame::new(1, "unharmed")));
    drop(deaf);
    server.stop().await.unwrap();
}

#[actix::test]
async fn a_stream_of_droppable_frames_is_in_nobodys_way() {
    tokio::time::pause();
    let (mut stream, peer) = tokio::io::duplex(1024);
    let (tx, mut handled) = unbounded_channel();
    let settings = Settings { max_packet_size: 100, max_msg_chan_len: 64, ..settings() };
    let server = Server::new(settings).route_fn(1, async move |_: Inbound| tx.send(()).unwrap());
    let connection = TestConnection::start(server, peer).await;
    // Twice what the peer takes.
    let (positions, tick) = (connection.conn.clone(), Duration::from_millis(10));
    let stream_of_positions = actix_rt::spawn(async move {
        loop {
            for _ in 0..20 {
                let _ = positions.send_with(7, vec![0; 100], Overflow::DropOldest);
            }
            sleep(tick).await;
        }
    });
    let mut received = [0; 1080];
    for tick_no in 0..300 {
        stream.read_exact(&mut received).await.unwrap();
        if tick_no == 100 {
            assert!(connection.conn.unsent().frames > 50, "full to the brim");
            stream.write_all(&[0, 0, 0, 0, 1, 0, 0, 0]).await.unwrap();
            assert_eq!(connection.conn.send_buffered(8, "important"), Ok(()));
        }
        sleep(tick).await;
    }
    assert!(handled.try_recv().is_ok(), "what the peer says is heard");
    stream_of_positions.abort();
}

#[actix::test]
async fn half_of_an_outbox_of_large_droppable_frames_stays_within_reach() {
    const LARGE: usize = 60 * 1024;
    let (_stream, peer) = tokio::io::duplex(1024);
    let connection = TestConnection::start(Server::new(settings()), peer).await;
    let conn = &connection.conn;
    let mut last = 0;
    while conn.unsent().bytes + LARGE + 8 <= 1 << 20 {
        assert_eq!(conn.send_with(last, vec![0; LARGE], Overflow::DropOldest), Ok(Sent::Accepted));
        last += 1;
    }
    // The writer takes what it takes.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        let sent = conn.send_with(last, vec![0; LARGE], Overflow::DropOldest);
        assert_eq!(sent, Ok(Sent::InPlaceOf(1)));
    }
}

#[actix::test]
async fn peers_that_get_nothing_but_broadcasts_are_not_beyond_the_budget() {
    const BUDGET: usize = 64 * (FRAME + 8);
    let (tx, mut ends) = unbounded_channel();
    let settings = Settings { max_unsent_bytes: BUDGET, write_deadline_ms: 600_000, ..settings() };
    let server = Server::new(Settings { max_msg_chan_bytes: 2 * BUDGET, ..settings })
        .on_conn_stop(move |_, why| tx.send(why.clone()).unwrap_or_default());
    let (server, mut conns) = served(server).await;
    let _deaf = TestClient::connect(server.addr()).await;
    within(conns.recv()).await.unwrap();
    let closed = async {
        loop {
            server
                .handle()
                .broadcast_with((9, vec![0; FRAME]), Overflow::DropNewest)
                .await
                .unwrap();
            if let Ok(why) = ends.try_recv() {
                break why;
            }
        }
    };
    assert_eq!(within(closed).await, CloseReason::SlowConsumer(Slow::OverBudget));
    assert!(server.handle().stats().high_watermarks > 0 || server.handle().unsent_bytes() == 0);
    server.stop().await.unwrap();
}
