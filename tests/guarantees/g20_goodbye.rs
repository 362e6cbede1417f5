//! G20: a close by the application reaches the peer: its code, its text, and its last frame, whose place
//! is kept; and a client obeys one that is final.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use zinxide::client::{Client, ClientBuilder, ClientState, Outage};
use zinxide::conn_manager::Len;
use zinxide::testing::{TestServer, accepted, conn, within};
use zinxide::{
    CloseReason, Conn, Frame, Goodbye, GoodbyeError, Inbound, MsgId, Overflow, SendError, Server,
};

use crate::support::{poll_once, round_trip, tuned};
use crate::support_flow::{ECHO, Hooked, MORE_THAN_KERNEL, echo, number, one_worker, server};
use crate::transport::{
    TestClient, client, connect, half_close, on_the_wire, seen_by_clients, settings,
};

/// The id of last frames.
const BYE: MsgId = 9;

fn goodbye(code: u16) -> Goodbye {
    Goodbye::new(code, "the text").last_frame((BYE, "bye"))
}

fn bye() -> Frame {
    Frame::new(BYE, "bye")
}

fn app(code: u16) -> CloseReason {
    CloseReason::App { code, text: "the text".into() }
}

/// All frames up to the end of the connection. Then the peer closes its side, which the server waits for.
async fn to_the_end(mut peer: TestClient) -> Vec<Frame> {
    peer.recv_to_end().await
}

/// A server whose connections are closed by their start hook, before anything is written.
async fn closing_at_once(
    settings: zinxide::Settings,
    close: impl Fn(&Conn) + Send + Sync + 'static,
) -> (TestServer, UnboundedReceiver<CloseReason>) {
    let (tell, stops) = unbounded_channel();
    let server = Server::new(settings)
        .on_conn_start(move |conn| close(conn))
        .on_conn_stop(move |_, why| tell.send(why.clone()).unwrap());
    (TestServer::start(server).await, stops)
}

#[actix::test]
async fn g20_what_was_accepted_comes_then_the_last_frame_then_the_close() {
    let (server, mut hooked) = server(settings());
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    let sent: Vec<_> = (0..100).map(|n| Frame::new(1, number(n))).collect();
    for frame in &sent {
        conn.send_buffered(frame.id, frame.payload.clone()).unwrap();
    }
    conn.close_with(goodbye(4001)).unwrap();
    assert!(conn.is_closed());
    let late = conn.send_buffered(1, "late");
    assert_eq!(late, Err(SendError::Closed(Frame::new(1, "late"))));
    assert_eq!(to_the_end(client).await, [sent, vec![bye()]].concat());
    assert_eq!(hooked.stopped().await, (conn.id(), app(4001)));
    let handle = server.handle().clone();
    server.stop().await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.ended, stats.endings.app, stats.frames_cut), (1, 1, 0));
}

#[actix::test]
async fn g20_a_goodbye_needs_no_last_frame() {
    let (server, mut hooked) = server(settings());
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    conn.close_with(Goodbye::new(4999, "")).unwrap();
    assert_eq!(to_the_end(client).await, []);
    let app = CloseReason::App { code: 4999, text: "".into() };
    assert_eq!(hooked.stopped().await, (conn.id(), app));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_the_last_frame_has_its_place_in_an_outbox_that_is_full() {
    let frame = on_the_wire(&Frame::new(0, vec![0; 4096])).len();
    for (frames, bytes) in [(4, 1 << 20), (1000, 4 * frame)] {
        for overflow in [Overflow::Refuse, Overflow::DropOldest] {
            let settings = tuned(|s| {
                s.max_msg_chan_len = frames;
                s.max_msg_chan_bytes = bytes;
            });
            let (server, mut stops) = closing_at_once(settings, move |conn| {
                // More than there is room for; of droppable ones the last stay.
                for n in 0..10_u8 {
                    let _ = conn.send_with(n.into(), vec![n; 4096], overflow);
                }
                conn.close_with(goodbye(4001)).unwrap();
            })
            .await;
            let all = to_the_end(connect(server.addr()).await).await;
            let ids: Vec<_> = all.iter().map(|frame| frame.id).collect();
            let kept = if overflow == Overflow::Refuse { [0, 1, 2, 3] } else { [6, 7, 8, 9] };
            assert_eq!(ids, [&kept[..], &[BYE]].concat(), "{overflow:?}, {frames} frames");
            assert_eq!(all.last(), Some(&bye()));
            assert_eq!(within(stops.recv()).await, Some(app(4001)));
            assert_eq!(server.handle().stats().frames_cut, 0);
            server.stop().await.unwrap();
        }
    }
}

#[actix::test]
async fn g20_the_last_frame_may_be_larger_than_the_outbox() {
    let settings = tuned(|s| {
        s.max_packet_size = 100;
        s.max_msg_chan_bytes = 108;
    });
    let large = vec![7; 1 << 20];
    let frame = large.clone();
    let (server, mut stops) = closing_at_once(settings, move |conn| {
        conn.send_buffered(1, "x").unwrap();
        let goodbye = Goodbye::new(4001, "the text").last_frame((BYE, frame.clone()));
        conn.close_with(goodbye).unwrap();
    })
    .await;
    assert_eq!(
        to_the_end(connect(server.addr()).await).await,
        [Frame::new(1, "x"), Frame::new(BYE, large)]
    );
    assert_eq!(within(stops.recv()).await, Some(app(4001)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_a_task_that_waits_for_room_gets_its_frame_back_and_the_last_frame_is_last() {
    let mut settings = settings();
    settings.max_msg_chan_len = 2;
    let conn = conn(1, &settings);
    conn.send_buffered(0, "").unwrap();
    conn.send_buffered(1, "").unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(conn.send(2, "waits"))).collect();
    for send in &mut waiting {
        assert!(poll_once(send.as_mut()).await.is_pending());
    }
    conn.close_with(goodbye(4001)).unwrap();
    for send in waiting {
        assert_eq!(within(send).await, Err(SendError::Closed(Frame::new(2, "waits"))));
    }
    assert_eq!(accepted(&conn), [Frame::new(0, ""), Frame::new(1, ""), bye()]);
}

#[actix::test]
async fn g20_no_frame_overtakes_the_close_however_many_are_being_sent() {
    // What a broadcast finds full it leaves alone: it is not what closes here.
    let settings = tuned(|s| s.broadcast_overflow = Overflow::DropNewest);
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    for _ in 0..10 {
        let (mut client, conn) = hooked.connect(&server).await;
        let mut senders = Vec::new();
        for id in 1..=3 {
            let conn = conn.clone();
            senders.push(actix::spawn(async move { while conn.send(id, "news").await.is_ok() {} }));
        }
        let (handle, closed) = (server.handle().clone(), conn.clone());
        senders.push(actix::spawn(async move {
            while !closed.is_closed() {
                handle.broadcast(Frame::new(4, "to all")).await.unwrap();
            }
        }));
        for _ in 0..100 {
            client.recv().await.unwrap();
        }
        conn.close_with(goodbye(4001)).unwrap();
        assert_eq!(to_the_end(client).await.last(), Some(&bye()));
        for sender in senders {
            within(sender).await.unwrap();
        }
        assert_eq!(hooked.stopped().await, (conn.id(), app(4001)));
    }
    assert_eq!(server.handle().stats().frames_cut, 0);
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_a_handler_says_goodbye_behind_the_answers_before_it() {
    let (server, mut hooked) = server(settings());
    let server = server.route_fn(5, async |msg: Inbound| {
        let last = msg.payload() == b"last";
        if last {
            msg.conn().close_with(goodbye(4001)).unwrap();
        }
        (5, msg.payload().to_vec())
    });
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    for _ in 0..50 {
        client.send(5, "more").await;
    }
    client.send(5, "last").await;
    let mut expected = vec![Frame::new(5, "more"); 50];
    expected.push(bye());
    assert_eq!(to_the_end(client).await, expected);
    assert_eq!(hooked.stopped().await, (conn.id(), app(4001)));
    server.stop().await.unwrap();
}

/// A server with a connection whose function waits at a gate, so that a drain is not over.
async fn drains_for_long() -> (TestServer, Hooked, TestClient, Conn, Gate) {
    let gate = Arc::new(Semaphore::new(0));
    let (entered, inside) = watch::channel(false);
    let (server, mut hooked) = server(one_worker(|_| {}));
    let guard = Arc::clone(&gate);
    let server = server.route_fn(6, async move |_: Inbound| {
        entered.send_replace(true);
        guard.acquire().await.unwrap().forget();
    });
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    client.send(6, "").await;
    within(inside.clone().wait_for(|&inside| inside)).await.unwrap();
    (server, hooked, client, conn, Gate(gate))
}

struct Gate(Arc<Semaphore>);

#[actix::test]
async fn g20_a_goodbye_reaches_the_peer_of_a_server_that_drains() {
    let (server, mut hooked, client, conn, gate) = drains_for_long().await;
    let (mut idle, _) = hooked.connect(&server).await;
    let stop = server.handle().stop();
    let stopping = actix::spawn(stop);
    assert_eq!(idle.recv().await, None, "the drain has begun");
    drop(idle);
    // The manager is done with telling the connections.
    within(server.handle().conn_manager().send(Len)).await.unwrap();
    assert!(!conn.is_closed(), "its function may still answer");

    conn.send_buffered(1, "before").unwrap();
    conn.close_with(goodbye(4001)).unwrap();
    assert_eq!(to_the_end(client).await, [Frame::new(1, "before"), bye()]);
    gate.0.add_permits(1);
    within(stopping).await.unwrap();
    let mut reasons = vec![hooked.stopped().await.1, hooked.stopped().await.1];
    reasons.sort_by_key(|why| *why == app(4001));
    assert_eq!(reasons, [CloseReason::Shutdown, app(4001)]);
    assert!(server.ended().await.unwrap().is_clean());
}

#[actix::test]
async fn g20_a_goodbye_reaches_a_peer_that_has_closed_its_side() {
    let (server, mut hooked, mut client, conn, gate) = drains_for_long().await;
    half_close(&mut client).await;
    conn.close_with(goodbye(4001)).unwrap();
    assert_eq!(to_the_end(client).await, [bye()]);
    gate.0.add_permits(1);
    assert_eq!(hooked.stopped().await, (conn.id(), app(4001)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_the_first_close_wins_and_a_goodbye_that_comes_too_late_comes_back() {
    let (server, mut stops) = closing_at_once(settings(), |conn| {
        conn.stop();
        assert_eq!(conn.close_with(goodbye(4001)), Err(GoodbyeError::Closed(goodbye(4001))));
    })
    .await;
    assert_eq!(to_the_end(connect(server.addr()).await).await, []);
    assert_eq!(within(stops.recv()).await, Some(CloseReason::Stopped));
    server.stop().await.unwrap();

    let (server, mut stops) = closing_at_once(settings(), |conn| {
        conn.close_with(goodbye(4001)).unwrap();
        assert_eq!(conn.close_with(goodbye(4002)), Err(GoodbyeError::Closed(goodbye(4002))));
        conn.stop();
    })
    .await;
    assert_eq!(to_the_end(connect(server.addr()).await).await, [bye()]);
    assert_eq!(within(stops.recv()).await, Some(app(4001)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_of_goodbyes_from_many_threads_one_is_said() {
    let (server, mut hooked) = server(settings());
    let server = TestServer::start(server).await;
    let (client, conn) = hooked.connect(&server).await;
    let threads: Vec<_> = (0..8_u16)
        .map(|n| {
            let conn = conn.clone();
            std::thread::spawn(move || {
                let goodbye = Goodbye::new(4000 + n, "the text").last_frame((n.into(), "bye"));
                conn.close_with(goodbye).is_ok().then_some(n)
            })
        })
        .collect();
    let said: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    let [n] = said[..] else { panic!("{said:?}") };
    assert_eq!(to_the_end(client).await, [Frame::new(n.into(), "bye")]);
    assert_eq!(hooked.stopped().await, (conn.id(), app(4000 + n)));
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_a_last_frame_that_the_peer_does_not_take_in_time_is_counted_as_cut() {
    let settings = tuned(|s| s.drain_deadline_ms = 50);
    let (server, mut hooked) = server(settings);
    let server = TestServer::start(server).await;
    let (_silent, conn) = hooked.connect(&server).await;
    let last = Goodbye::new(4001, "the text").last_frame((BYE, vec![0; MORE_THAN_KERNEL]));
    conn.close_with(last).unwrap();
    assert_eq!(hooked.stopped().await, (conn.id(), app(4001)));
    let stats = server.handle().stats();
    assert!(stats.frames_cut == 1 && stats.bytes_cut > 0, "{stats:?}");
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_codes_of_others_are_an_error_and_close_nothing() {
    let (server, mut hooked) = server(settings());
    let server = TestServer::start(server).await;
    let (mut client, conn) = hooked.connect(&server).await;
    for code in [0, 1000, 1001, 1006, 3999, 5000, u16::MAX] {
        let refused = conn.close_with(goodbye(code));
        assert_eq!(refused.unwrap_err().into_goodbye(), goodbye(code));
    }
    round_trip(&mut client, ECHO).await;
    server.stop().await.unwrap();
}

/// What the hooks of a client of the library are told.
fn watched(builder: ClientBuilder) -> (ClientBuilder, UnboundedReceiver<CloseReason>) {
    let (tell, ends) = unbounded_channel();
    let builder = builder.on_conn_stop(move |_, why| {
        let _ = tell.send(why.clone());
    });
    (builder, ends)
}

#[actix::test]
async fn g20_a_peer_learns_code_and_text_where_the_transport_can_say() {
    // What a close frame has room for, in whole characters.
    let long = "é".repeat(70);
    for (text, said) in [("kicked", "kicked"), ("", ""), (&long, &long[..122])] {
        let (server, mut hooked) = server(settings());
        let server = TestServer::start(server).await;
        let (builder, mut ends) = watched(client(server.addr()));
        let client = within(builder.connect()).await.unwrap();
        let conn = hooked.started().await;
        within(client.request(ECHO, "", ECHO, zinxide::testing::PATIENCE)).await.unwrap();
        conn.close_with(Goodbye::new(4321, text)).unwrap();
        assert_eq!(within(ends.recv()).await, Some(seen_by_clients(4321, said)));
        let (_, why) = hooked.stopped().await;
        assert_eq!(why, CloseReason::App { code: 4321, text: text.into() });
        within(client.close()).await;
        server.stop().await.unwrap();
    }
}

/// A server where a user is on one connection: a later login closes the one before. A login is message
/// 10 with a name, and is answered.
async fn with_users(code: u16) -> TestServer {
    let users = Mutex::new(HashMap::new());
    let server = Server::new(settings()).route_fn(ECHO, async |msg: Inbound| msg);
    let server = server.route_fn(10, async move |msg: Inbound| {
        let before = users.lock().unwrap().insert(msg.payload().to_vec(), msg.conn().clone());
        if let Some(before) = before {
            // It may have left by itself.
            let _ = before.close_with(goodbye(code));
        }
        (11, "welcome")
    });
    TestServer::start(server).await
}

/// A client that logs in on each of its connections.
fn user(server: &TestServer) -> ClientBuilder {
    client(server.addr())
        .final_id(BYE)
        .on_conn_start(|conn| conn.send_buffered(10, "anna").unwrap())
}

/// A client, and its welcomes.
async fn logged_in(builder: ClientBuilder) -> (Client, UnboundedReceiver<()>) {
    let (tell, mut welcomes) = unbounded_channel();
    let builder = builder.route_fn(11, async move |_: Inbound| {
        let _ = tell.send(());
    });
    let client = within(builder.connect()).await.unwrap();
    within(welcomes.recv()).await.unwrap();
    (client, welcomes)
}

#[actix::test]
async fn g20_two_clients_of_one_user_do_not_kick_each_other_for_ever() {
    let server = with_users(4001).await;
    let (tell, mut byes) = unbounded_channel();
    let older = user(&server).route_fn(BYE, async move |mut msg: Inbound| {
        let _ = tell.send(msg.take_payload());
    });
    let (older, mut welcomes) = logged_in(older).await;
    let (newer, _) = logged_in(user(&server)).await;
    let end = within(older.wait_for(ClientState::is_closed)).await;
    match &end {
        ClientState::Closed(Some(Outage::Final(why))) => assert!(why.is_final(), "{why}"),
        state => panic!("{state:?}"),
    }
    assert_eq!(within(byes.recv()).await.unwrap(), "bye", "the frame goes to its route");
    assert!(within(welcomes.recv()).await.is_none(), "it has not logged in again");
    within(newer.request(ECHO, "", ECHO, zinxide::testing::PATIENCE)).await.unwrap();
    assert_eq!(newer.conn().unwrap().id(), 1, "its first connection");
    assert_eq!(server.handle().stats().admitted, 2);
    within(newer.close()).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_a_client_comes_back_after_a_goodbye_that_is_not_final() {
    let (server, mut hooked) = server(settings());
    let server = TestServer::start(server).await;
    let client = within(client(server.addr()).connect()).await.unwrap();
    for id in 2..=4 {
        let conn = hooked.started().await;
        within(client.request(ECHO, "", ECHO, zinxide::testing::PATIENCE)).await.unwrap();
        conn.close_with(goodbye(4500)).unwrap();
        let again =
            |state: &ClientState| matches!(state, ClientState::Connected(conn) if conn.id() == id);
        within(client.wait_for(again)).await;
    }
    assert_eq!(client.stats().connects_failed, 0);
    within(client.close()).await;
    server.stop().await.unwrap();
}

#[actix::test]
async fn g20_a_neighbour_does_not_notice_a_goodbye() {
    let (server, mut hooked) = server(one_worker(|_| {}));
    let server = TestServer::start(server).await;
    let (mut neighbour, _) = hooked.connect(&server).await;
    let (client, conn) = hooked.connect(&server).await;
    conn.close_with(goodbye(4001)).unwrap();
    echo(&mut neighbour).await;
    drop(client);
    echo(&mut neighbour).await;
    server.stop().await.unwrap();
}
