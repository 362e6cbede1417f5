//! Peers that nobody knows yet, and peers that never complete what they begin: what they cost others.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{CloseReason, Event, Frame, Inbound, Server, Settings};

const ECHO: u32 = 1;

fn echo(settings: Settings) -> Server {
    Server::new(settings).route_fn(ECHO, async |msg: Inbound| msg)
}

/// A server with an echo, and the words of what happens on it that `pick` picks.
async fn start<T: Send + 'static>(
    server: Server,
    pick: impl Fn(&Event<'_>) -> Option<T> + Send + Sync + 'static,
) -> (TestServer, UnboundedReceiver<T>) {
    let (tell, told) = unbounded_channel();
    let server = server.on_event(move |event| {
        if let Some(picked) = pick(event) {
            // A test that has seen enough listens no more.
            let _ = tell.send(picked);
        }
    });
    (TestServer::start(server).await, told)
}

async fn assert_echoes(client: &mut TestClient) {
    client.send(ECHO, "still here").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "still here")));
}

/// A frame with an echo's id that announces `len` bytes and has only `has` of them.
fn part(len: u32, has: usize) -> Vec<u8> {
    let mut bytes = [len.to_le_bytes(), ECHO.to_le_bytes()].concat();
    bytes.resize(8 + has, 7);
    bytes
}

mod inbound {
    use super::*;

    const BUDGET: usize = 1 << 20;
    const FRAME: usize = 60 * 1024;
    const STRANGERS: usize = 200;
    /// What a connection may hold beside the budget.
    const SHARE: usize = 8 * 1024;

    fn bounded() -> Settings {
        Settings {
            max_packet_size: 64 * 1024,
            max_inbound_bytes: BUDGET,
            frame_deadline_ms: 500,
            worker_pool_size: 1,
            ..settings()
        }
    }

    #[actix::test]
    async fn half_frames_of_many_peers_are_bounded_and_end_while_whole_messages_pass() {
        let most = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&most);
        let (server, mut ends) = start(echo(bounded()), move |event| match event {
            Event::ReadingPaused { held, .. } => {
                let mut most = seen.lock().unwrap();
                *most = (*most).max(*held);
                None
            }
            Event::Removed { why, .. } => Some((*why).clone()),
            _ => None,
        })
        .await;
        let mut honest = TestClient::connect(server.addr()).await;
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            let mut stranger = TcpStream::connect(server.addr()).await.unwrap();
            // Not all of it is read, so it may have to wait.
            let half = part(64 * 1024, FRAME);
            strangers.push(actix::spawn(async move {
                let _ = stranger.write_all(&half).await;
                stranger
            }));
            assert_echoes(&mut honest).await;
            assert!(server.handle().inbound_bytes() <= BUDGET + STRANGERS * SHARE);
        }
        for _ in 0..STRANGERS {
            let why = within(ends.recv()).await.unwrap();
            let by_deadline = matches!(why, CloseReason::InboundFull | CloseReason::Silent(_));
            assert!(by_deadline, "{why}");
        }
        assert_echoes(&mut honest).await;
        let stats = server.handle().stats();
        assert!(stats.reading_pauses > 0 && stats.endings.inbound_full > 0, "{stats:?}");
        assert!(*most.lock().unwrap() <= BUDGET + STRANGERS * SHARE);
        assert_eq!(server.handle().inbound_bytes(), 0, "the memory came back");
        // One that is large and whole passes, too.
        honest.send(ECHO, vec![1; FRAME]).await;
        assert_eq!(honest.recv().await.unwrap().payload.len(), FRAME);
        drop(strangers);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn a_large_message_that_had_to_wait_is_read_when_others_have_gone() {
        let settings = Settings { frame_deadline_ms: 60_000, ..bounded() };
        let (server, mut pauses) = start(echo(settings), |event| {
            matches!(event, Event::ReadingPaused { .. }).then_some(())
        })
        .await;
        let mut holders = Vec::new();
        for _ in 0..BUDGET / FRAME + 2 {
            let mut holder = TcpStream::connect(server.addr()).await.unwrap();
            holder.write_all(&part(64 * 1024, FRAME)).await.unwrap();
            holders.push(holder);
        }
        within(pauses.recv()).await.unwrap();
        let mut honest = TestClient::connect(server.addr()).await;
        honest.send(ECHO, vec![1; FRAME]).await;
        // The holders have sent a part each and nothing more, and are heard when they go.
        drop(holders);
        assert_eq!(honest.recv().await.unwrap().payload.len(), FRAME);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn a_message_that_came_whole_is_handled_although_its_peer_closed_its_side_unread() {
        let settings = Settings {
            frame_deadline_ms: 60_000,
            half_closed_ms: 60_000,
            // Its eighth is a tick.
            handler_deadline_ms: 400,
            rate_messages: 10,
            ..bounded()
        };
        let (server, mut events) = start(echo(settings), |event| match event {
            Event::ReadingPaused { .. } => Some(None),
            Event::Removed { why, .. } => Some(Some((*why).clone())),
            _ => None,
        })
        .await;
        let mut delayed = TcpStream::connect(server.addr()).await.unwrap();
        delayed.write_all(&part(0, 0).repeat(200)).await.unwrap();
        let mut holders = Vec::new();
        for _ in 0..BUDGET / FRAME + 2 {
            let mut holder = TcpStream::connect(server.addr()).await.unwrap();
            holder.write_all(&part(64 * 1024, FRAME)).await.unwrap();
            holders.push(holder);
        }
        assert_eq!(within(events.recv()).await, Some(None));
        while events.try_recv().is_ok() {}
        let mut honest = TcpStream::connect(server.addr()).await.unwrap();
        honest.write_all(&part(FRAME as u32, FRAME)).await.unwrap();
        assert_eq!(within(events.recv()).await, Some(None));
        honest.shutdown().await.unwrap();
        // Whoever looks at the one has looked at the other.
        delayed.shutdown().await.unwrap();
        let ended = async {
            loop {
                if let Some(why) = events.recv().await.unwrap() {
                    return why;
                }
            }
        };
        assert_eq!(within(ended).await, CloseReason::PeerClosed);
        drop(holders);
        let mut reply = Vec::new();
        within(honest.read_to_end(&mut reply)).await.unwrap();
        assert_eq!(reply.len(), 8 + FRAME);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn without_a_bound_nothing_is_counted() {
        let (server, _) = start(echo(settings()), |_| None::<()>).await;
        let mut stranger = TestClient::connect(server.addr()).await;
        stranger.send_bytes(&part(4000, 2000)).await;
        let mut honest = TestClient::connect(server.addr()).await;
        assert_echoes(&mut honest).await;
        assert_eq!(server.handle().inbound_bytes(), 0);
        server.stop().await.unwrap();
    }
}

#[cfg(feature = "ws")]
mod handshakes {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;

    use tokio::net::TcpSocket;
    use zinxide::testing::TestStream;
    use zinxide::{FrameCodec, HandshakeError, WireFormat};

    use super::*;

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn at(endpoints: &[&str], settings: Settings) -> Settings {
        let listen = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        Settings { listen, worker_pool_size: 1, ..settings }
    }

    async fn upgrade(from: &str, server: &TestServer) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.addr()).await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        stream
    }

    /// The status of the reply; `None` if the connection is closed.
    async fn status(stream: &mut TcpStream) -> Option<String> {
        let mut head = [0; 12];
        within(stream.read_exact(&mut head)).await.ok()?;
        Some(String::from_utf8_lossy(&head[9..]).into_owned())
    }

    #[actix::test]
    async fn expensive_steps_of_strangers_come_one_at_a_time_and_who_is_ready_is_served_in_between()
    {
        const STEP: Duration = Duration::from_millis(2);
        const STRANGERS: usize = 60;
        let steps = Arc::new(AtomicUsize::new(0));
        let (counted, known) = (Arc::clone(&steps), Arc::clone(&steps));
        // How many steps there had been is the reply.
        let server = Server::new(at(&["tcp://127.0.0.1:0", "ws://127.0.0.1:0"], settings()))
            .route_fn(ECHO, async move |_: Inbound| (ECHO, known.load(Relaxed).to_string()))
            .ws_auth(async move |_, _| {
                counted.fetch_add(1, Relaxed);
                std::thread::sleep(STEP);
                true
            });
        let (server, _) = start(server, |_| None::<()>).await;
        let mut honest = TestClient::connect(server.addr()).await;
        honest.send(ECHO, "").await;
        honest.recv().await.unwrap();
        let ws = server.handle().listen_addrs()[1].addr;
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            let mut stranger = TcpStream::connect(ws).await.unwrap();
            stranger.write_all(REQUEST.as_bytes()).await.unwrap();
            strangers.push(stranger);
        }
        let mut waited_for = Vec::new();
        while steps.load(Relaxed) < STRANGERS {
            let before = steps.load(Relaxed);
            honest.send(ECHO, "").await;
            let reply = honest.recv().await.unwrap();
            let then: usize = std::str::from_utf8(&reply.payload).unwrap().parse().unwrap();
            waited_for.push(then - before);
        }
        // This thread may have lost the processor before it sent: so most of them, and not all.
        waited_for.sort_unstable();
        let median = waited_for[waited_for.len() / 2];
        assert!(median <= 2, "a message waited for so many steps: {waited_for:?}");
        drop((honest, strangers));
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn beyond_the_bound_the_others_wait_in_the_systems_queue() {
        let bound = Settings { max_handshakes: 2, ..settings() };
        let (server, mut waits) = start(echo(at(&["ws://127.0.0.1:0"], bound)), |event| {
            matches!(event, Event::HandshakesFull { .. }).then_some(())
        })
        .await;
        let silent = TcpStream::connect(server.addr()).await.unwrap();
        let other = TcpStream::connect(server.addr()).await.unwrap();
        let mut honest = upgrade("127.0.0.1", &server).await;
        within(waits.recv()).await.unwrap();
        assert_eq!(server.handle().connections().len(), 2, "the third is not admitted yet");
        assert_eq!(server.handle().stats().handshake_waits, 1);
        drop(silent);
        assert_eq!(status(&mut honest).await.as_deref(), Some("101"));
        drop((other, honest));
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn who_keeps_others_waiting_is_given_up_before_its_deadline() {
        let bound = Settings { max_handshakes: 1, handshake_deadline_ms: 1000, ..settings() };
        let (server, mut ends) =
            start(echo(at(&["ws://127.0.0.1:0"], bound)), |event| match event {
                Event::Removed { why, .. } => Some((*why).clone()),
                _ => None,
            })
            .await;
        let _silent = TcpStream::connect(server.addr()).await.unwrap();
        let mut honest = upgrade("127.0.0.1", &server).await;
        assert_eq!(status(&mut honest).await.as_deref(), Some("101"));
        let why = within(ends.recv()).await.unwrap();
        assert_eq!(why, CloseReason::Handshake(HandshakeError::Late));
        drop(honest);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn a_server_that_stops_does_not_wait_for_who_waits_for_a_handshake() {
        let bound = Settings { max_handshakes: 1, ..settings() };
        let (server, mut waits) = start(echo(at(&["ws://127.0.0.1:0"], bound)), |event| {
            matches!(event, Event::HandshakesFull { .. }).then_some(())
        })
        .await;
        let _silent = TcpStream::connect(server.addr()).await.unwrap();
        let _waits = upgrade("127.0.0.1", &server).await;
        within(waits.recv()).await.unwrap();
        let handle = server.handle().clone();
        server.stop().await.unwrap();
        let stats = handle.stats();
        assert_eq!((stats.admitted, stats.ended, stats.refusals.draining), (1, 1, 1));
    }

    #[actix::test]
    async fn of_one_address_the_later_ones_wait_and_nobody_waits_for_them() {
        let bound = Settings { max_handshakes_per_ip: 1, ..settings() };
        let (server, mut admitted) = start(echo(at(&["ws://127.0.0.1:0"], bound)), |event| {
            matches!(event, Event::Admitted { .. }).then_some(())
        })
        .await;
        let silent = TcpStream::connect(server.addr()).await.unwrap();
        let mut second = upgrade("127.0.0.1", &server).await;
        for _ in 0..2 {
            within(admitted.recv()).await.unwrap();
        }
        let mut other = upgrade("127.0.0.2", &server).await;
        assert_eq!(status(&mut other).await.as_deref(), Some("101"));
        let nothing = second.try_read(&mut [0]);
        assert!(nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        drop(silent);
        assert_eq!(status(&mut second).await.as_deref(), Some("101"));
        drop((second, other));
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn who_connects_too_often_is_refused_by_a_status_that_says_so() {
        let slow = Settings { rate_connects_per_ip: 1, rate_connects_burst: 3, ..settings() };
        let (server, _) = start(echo(at(&["ws://127.0.0.1:0"], slow)), |_| None::<()>).await;
        let mut replies = Vec::new();
        for _ in 0..20 {
            let mut stranger = upgrade("127.0.0.1", &server).await;
            replies.extend(status(&mut stranger).await);
        }
        let count = |wanted: &str| replies.iter().filter(|status| *status == wanted).count() as u64;
        assert!(count("101") >= 3 && count("429") > 0, "{replies:?}");
        assert_eq!(count("101") + count("429"), 20);
        let stats = server.handle().stats();
        assert_eq!((stats.refusals.too_fast, stats.refused), (count("429"), count("429")));
        let mut other = upgrade("127.0.0.2", &server).await;
        assert_eq!(status(&mut other).await.as_deref(), Some("101"));
        drop(other);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn half_requests_and_half_messages_count_and_a_handshake_has_the_smaller_share() {
        const BUDGET: usize = 128 * 1024;
        let bound = Settings {
            max_packet_size: 64 * 1024,
            max_inbound_bytes: BUDGET,
            handshake_deadline_ms: 500,
            frame_deadline_ms: 500,
            ..settings()
        };
        let (server, mut ends) =
            start(echo(at(&["ws://127.0.0.1:0"], bound)), |event| match event {
                Event::Removed { why, .. } => Some((*why).clone()),
                _ => None,
            })
            .await;
        let codec = FrameCodec::new(WireFormat::LtvLe, u32::MAX);
        let mut honest = TestClient::on(
            TestStream::connect(&server.endpoint(), None, &codec).await.unwrap(),
            codec.clone(),
        );
        let head = [&REQUEST.as_bytes()[..REQUEST.len() - 2], b"X: ", &[b'x'; 14 * 1024]].concat();
        // Half of a message of 60,000 bytes.
        let message = [&[0x82, 0xfe, 0xea, 0x60, 0, 0, 0, 0][..], &[7; 50_000]].concat();
        let mut strangers = Vec::new();
        for n in 0..40 {
            let mut stranger = if n % 2 == 0 {
                let mut stranger = TcpStream::connect(server.addr()).await.unwrap();
                stranger.write_all(&head).await.unwrap();
                stranger
            } else {
                let mut stranger = upgrade("127.0.0.1", &server).await;
                assert_eq!(status(&mut stranger).await.as_deref(), Some("101"));
                stranger
            };
            let message = message.clone();
            strangers.push(actix::spawn(async move {
                if n % 2 == 1 {
                    let _ = stranger.write_all(&message).await;
                }
                stranger
            }));
            honest.send(ECHO, "x").await;
            assert_eq!(honest.recv().await, Some(Frame::new(ECHO, "x")));
            let held = server.handle().inbound_bytes();
            assert!(held <= BUDGET + 20 * (8 + 4) * 1024 + 64 * 1024, "{held}");
        }
        for _ in 0..40 {
            let why = within(ends.recv()).await.unwrap();
            let late = CloseReason::Handshake(HandshakeError::Late);
            let by_deadline = matches!(why, CloseReason::InboundFull | CloseReason::Silent(_));
            assert!(by_deadline || why == late, "{why}");
        }
        assert_eq!(server.handle().inbound_bytes(), 0);
        drop(strangers);
        server.stop().await.unwrap();
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::fs;
    use std::path::{Path, PathBuf};

    use zinxide::HandshakeError;

    use super::*;

    fn encrypted(settings: Settings) -> Settings {
        let cert = |file: &str| -> PathBuf { Path::new(env!("CARGO_TARGET_TMPDIR")).join(file) };
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let id = std::process::id();
        let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
        let files = ["cert", "key"].map(|kind| cert(&format!("strangers-{id}-{name}-{kind}.pem")));
        fs::write(&files[0], pair.cert.pem()).unwrap();
        fs::write(&files[1], pair.signing_key.serialize_pem()).unwrap();
        let [cert, key] = files.map(|file| file.display().to_string());
        let listen = vec!["tls://127.0.0.1:0".parse().unwrap()];
        Settings { listen, tls_cert: cert, tls_key: key, worker_pool_size: 1, ..settings }
    }

    #[actix::test]
    async fn who_connects_too_often_is_not_worth_a_handshake() {
        let slow = Settings {
            rate_connects_per_ip: 1,
            rate_connects_burst: 1,
            handshake_deadline_ms: 600_000,
            ..settings()
        };
        let server = echo(encrypted(slow)).refusal(|why| Some(Frame::new(9, why.to_string())));
        let (server, mut refused) = start(server, |event| match event {
            Event::Refused { why, .. } => Some(why.to_string()),
            _ => None,
        })
        .await;
        // The first is admitted, and waited for; how many it takes depends on how fast they come.
        let (tell, mut closed) = unbounded_channel();
        let why = loop {
            let mut stranger = TcpStream::connect(server.addr()).await.unwrap();
            let tell = tell.clone();
            actix::spawn(async move {
                let mut reply = Vec::new();
                let _ = stranger.read_to_end(&mut reply).await;
                let _ = tell.send(reply);
            });
            if let Ok(why) = refused.try_recv() {
                break why;
            }
        };
        assert_eq!(why, "127.0.0.1 connects more than 1 times a second");
        // At once, and not when the deadline for a hello has passed.
        assert_eq!(within(closed.recv()).await, Some(Vec::new()));
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn who_leaves_while_it_waits_for_its_handshake_gives_its_place_back() {
        let bound =
            Settings { max_handshakes_per_ip: 1, handshake_deadline_ms: 600_000, ..settings() };
        let (server, mut events) = start(echo(encrypted(bound)), |event| match event {
            Event::Admitted { .. } => Some(None),
            Event::Removed { why, .. } => Some(Some((*why).clone())),
            _ => None,
        })
        .await;
        let _silent = TcpStream::connect(server.addr()).await.unwrap();
        assert_eq!(within(events.recv()).await, Some(None));
        let second = TcpStream::connect(server.addr()).await.unwrap();
        assert_eq!(within(events.recv()).await, Some(None));
        drop(second);
        let why = CloseReason::Handshake(HandshakeError::PeerClosed);
        assert_eq!(within(events.recv()).await, Some(Some(why)));
        assert_eq!(server.handle().connections().len(), 1);
        server.stop().await.unwrap();
    }

    #[actix::test]
    async fn half_hellos_are_bounded_before_anybody_is_known() {
        const BUDGET: usize = 64 * 1024;
        const STRANGERS: usize = 40;
        let bound =
            Settings { max_inbound_bytes: BUDGET, handshake_deadline_ms: 500, ..settings() };
        let (server, mut ends) = start(echo(encrypted(bound)), |event| match event {
            Event::Removed { why, .. } => Some((*why).clone()),
            _ => None,
        })
        .await;
        // A hello of 60,000 bytes in records of 16,000, of which the last does not come.
        let mut hello = Vec::new();
        let body = [&[1, 0, 0xea, 0x60][..], &[0; 48_000 - 4]].concat();
        for part in body.chunks(16_000) {
            hello.extend([&[22, 3, 1, 0x3e, 0x80][..], part].concat());
        }
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            let mut stranger = TcpStream::connect(server.addr()).await.unwrap();
            let hello = hello.clone();
            strangers.push(actix::spawn(async move {
                let _ = stranger.write_all(&hello).await;
                stranger
            }));
            tokio::task::yield_now().await;
            let held = server.handle().inbound_bytes();
            assert!(held <= BUDGET + STRANGERS * 5 * 1024, "{held}");
        }
        for _ in 0..STRANGERS {
            let why = within(ends.recv()).await.unwrap();
            assert_eq!(why, CloseReason::Handshake(HandshakeError::Late));
            let held = server.handle().inbound_bytes();
            assert!(held <= BUDGET + STRANGERS * 5 * 1024, "{held}");
        }
        assert!(server.handle().stats().reading_pauses > 0);
        assert_eq!(server.handle().inbound_bytes(), 0);
        server.stop().await.unwrap();
    }
}

#[cfg(feature = "proxy")]
mod proxy {
    use super::*;

    #[actix::test]
    async fn behind_a_balancer_the_rate_is_that_of_the_address_it_names() {
        let slow = Settings {
            rate_connects_per_ip: 1,
            rate_connects_burst: 1,
            proxy_from: vec!["127.0.0.1".parse().unwrap()],
            ..settings()
        };
        let (server, mut admitted) = start(echo(slow), |event| match event {
            Event::Admitted { conn, .. } => Some(Ok(conn.peer_addr().ip().to_string())),
            Event::Refused { why, .. } => Some(Err(why.to_string())),
            _ => None,
        })
        .await;
        for n in 0..20 {
            let mut stream = TcpStream::connect(server.addr()).await.unwrap();
            let header = format!("PROXY TCP4 10.0.0.{n} 10.1.0.1 1000 2000\r\n");
            stream.write_all(header.as_bytes()).await.unwrap();
            assert_eq!(within(admitted.recv()).await, Some(Ok(format!("10.0.0.{n}"))));
        }
        server.stop().await.unwrap();
    }
}
