use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::{Instant, pause, sleep};

use super::header::{Header, Opcode};
use super::*;
use crate::codec::framing::AnyMessage;
use crate::conn::{CloseReason, Excess, OverRate, Silence};
use crate::inbound::Inbound;
use crate::server::Server;
use crate::settings::Settings;
use crate::testing::{TestConnection, settings, within};
use crate::transport::Plain;

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
const PONG: [u8; 2] = [0x8a, 0];

thread_local! {
    /// How many messages the route 1 has got.
    static HANDLED: Cell<u32> = const { Cell::new(0) };
}

/// One byte of a message that has begun.
const FRAGMENT: [u8; 7] = [0x00, 0x81, 0, 0, 0, 0, 7];
const SECOND: Duration = Duration::from_secs(1);

type Ends = UnboundedReceiver<CloseReason>;

/// A connection on a stream, and why it ends.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    settings: Settings,
) -> (Ends, TestConnection) {
    let codec = FrameCodec::new(settings.wire_format, settings.max_packet_size);
    let below = Box::new(Plain::new(stream));
    let (tell, ends) = unbounded_channel();
    let server = Server::new(settings)
        .route_fn(1, async |msg: Inbound| {
            HANDLED.set(HANDLED.get() + 1);
            msg
        })
        .route_fn(2, async |msg: Inbound| {
            sleep(Duration::from_millis(500)).await;
            msg
        })
        .on_conn_stop(move |_, why| tell.send(why.clone()).unwrap());
    let filter = Box::new(Filter::new(below, Envelope::Message, codec));
    (ends, TestConnection::over_ws(server, filter).await)
}

/// A peer of a connection with an idle deadline of a second.
async fn idle() -> (DuplexStream, Ends, TestConnection) {
    let (peer, stream) = duplex(1024);
    let (ends, connection) = over(stream, Settings { idle_deadline_ms: 1000, ..settings() }).await;
    (peer, ends, connection)
}

/// A peer of a connection with rates; what it sends at once is read at once.
async fn metered(
    (rate_messages, rate_bytes): (u32, u32),
    over_rate: OverRate,
) -> (DuplexStream, Ends, TestConnection) {
    let (peer, stream) = duplex(64 * 1024);
    let settings = Settings { rate_messages, rate_bytes, over_rate, ..settings() };
    let (ends, connection) = over(stream, settings).await;
    (peer, ends, connection)
}

/// Sends a message, and returns how long its echo takes to come.
async fn echo(peer: &mut DuplexStream) -> Duration {
    let began = Instant::now();
    peer.write_all(&[0x82, 0x80 | 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).await.unwrap();
    let mut echo = [0; 10];
    within(peer.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, [0x82, 8, 0, 0, 0, 0, 1, 0, 0, 0]);
    began.elapsed()
}

async fn pongs(peer: &mut DuplexStream, n: usize) {
    let mut pongs = vec![0; 2 * n];
    within(peer.read_exact(&mut pongs)).await.unwrap();
    assert_eq!(pongs, PONG.repeat(n));
}

#[actix::test]
async fn who_sends_a_message_slowly_is_not_idle() {
    pause();
    let (mut peer, mut ends, _connection) = idle().await;
    let message = [0x82, 0x80 | 9, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, b'x'];
    for byte in message {
        sleep(Duration::from_millis(700)).await;
        peer.write_all(&[byte]).await.unwrap();
    }
    let mut echo = [0; 11];
    within(peer.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, [0x82, 9, 1, 0, 0, 0, 1, 0, 0, 0, b'x']);
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn a_ping_is_a_sign_of_life() {
    pause();
    let (mut peer, mut ends, _connection) = idle().await;
    for _ in 0..5 {
        sleep(Duration::from_millis(700)).await;
        peer.write_all(&PING).await.unwrap();
        let mut pong = [0; 2];
        within(peer.read_exact(&mut pong)).await.unwrap();
        assert_eq!(pong, PONG);
    }
    assert!(ends.try_recv().is_err());
    assert_eq!(within(ends.recv()).await, Some(CloseReason::Silent(Silence::Idle)));
}

#[actix::test]
async fn what_is_no_payload_counts_as_bytes() {
    pause();
    let kinds: [(&str, &[u8], &[u8]); 4] = [
        ("pings", &[], &PING),
        ("pongs", &[], &[0x8a, 0x80, 0, 0, 0, 0]),
        ("fragments of a byte", &[0x02, 0x80, 0, 0, 0, 0], &FRAGMENT),
        ("empty fragments", &[0x02, 0x80, 0, 0, 0, 0], &[0x00, 0x80, 0, 0, 0, 0]),
    ];
    for (what, first, next) in kinds {
        let (mut peer, mut ends, _connection) = metered((0, 6000), OverRate::Close).await;
        peer.write_all(&[first, &next.repeat(900)].concat()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert!(ends.try_recv().is_err(), "{what}: not more than a burst");
        peer.write_all(&next.repeat(110)).await.unwrap();
        let why = within(ends.recv()).await;
        assert_eq!(why, Some(CloseReason::OverRate(Excess::Bytes)), "{what}");
    }
}

#[actix::test]
async fn pings_and_pongs_count_as_messages_and_fragments_do_not() {
    pause();
    for control in [PING, [0x8a, 0x80, 0, 0, 0, 0]] {
        let (mut peer, mut ends, _connection) = metered((100, 0), OverRate::Close).await;
        peer.write_all(&control.repeat(100)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert!(ends.try_recv().is_err());
        peer.write_all(&control.repeat(2)).await.unwrap();
        let why = within(ends.recv()).await;
        assert_eq!(why, Some(CloseReason::OverRate(Excess::Messages)));
    }
    let (mut peer, mut ends, _connection) = metered((100, 0), OverRate::Close).await;
    let message = [&[0x02, 0x80, 0, 0, 0, 0][..], &FRAGMENT.repeat(4104)].concat();
    peer.write_all(&message).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn what_came_beside_messages_is_paid_for_by_time() {
    pause();
    let (mut peer, mut ends, connection) = metered((100, 0), OverRate::Delay).await;
    // As many as the rate allows delay nothing.
    for _ in 0..20 {
        peer.write_all(&PING.repeat(10)).await.unwrap();
        pongs(&mut peer, 10).await;
        sleep(SECOND / 10).await;
    }
    assert_eq!(connection.stats().rate_delays, 0);
    peer.write_all(&PING.repeat(300)).await.unwrap();
    pongs(&mut peer, 300).await;
    // A burst may be owed, the rest of them not.
    let took = echo(&mut peer).await;
    assert!(took >= 2 * SECOND && took < 2 * SECOND + SECOND / 10, "{took:?}");
    assert_eq!(connection.stats().rate_delays, 1);
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn what_comes_with_too_many_pings_is_dropped_and_they_get_no_pong() {
    pause();
    let (mut peer, mut ends, connection) = metered((100, 0), OverRate::Drop).await;
    let message = [0x82, 0x80 | 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    peer.write_all(&[&PING.repeat(5000)[..], &message].concat()).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(connection.stats().rate_drops, 1);
    assert!(connection.stats().pongs_dropped > 0, "that is told");
    // However many they were, their time is over soon. The next to come is the reply to this one.
    sleep(SECOND).await;
    assert_eq!(echo(&mut peer).await, Duration::ZERO);
    assert_eq!(connection.stats().rate_drops, 1);
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn a_message_of_a_whole_burst_pays_for_itself_alone() {
    pause();
    let (mut peer, mut ends, _connection) = metered((0, 4104), OverRate::Close).await;
    let header = [0x82, 0x80 | 126, 16, 8, 0, 0, 0, 0];
    let frame = [&4096_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &[7; 4096]].concat();
    for _ in 0..3 {
        peer.write_all(&[&header[..], &frame].concat()).await.unwrap();
        let mut echo = vec![0; 4 + frame.len()];
        within(peer.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo[4..], frame);
        // The header has its price, too.
        sleep(SECOND + SECOND / 100).await;
    }
    assert!(ends.try_recv().is_err());
}

#[actix::test]
async fn without_rates_any_number_of_pings_costs_a_kilobyte_of_pongs() {
    pause();
    let (mut peer, mut ends, connection) = metered((0, 0), OverRate::Close).await;
    for _ in 0..20 {
        let last = [0x89, 0x84, 0, 0, 0, 0, b'l', b'a', b's', b't'];
        peer.write_all(&[&PING.repeat(5000)[..], &last].concat()).await.unwrap();
        // The first ones and the last one.
        pongs(&mut peer, 512).await;
        let mut pong = [0; 6];
        within(peer.read_exact(&mut pong)).await.unwrap();
        assert_eq!(pong, *b"\x8a\x04last");
    }
    assert_eq!(echo(&mut peer).await, Duration::ZERO);
    let stats = connection.stats();
    assert_eq!((stats.rate_delays, stats.rate_drops), (0, 0));
    assert!(ends.try_recv().is_err());
}

/// A peer whose pings are always there to read, and who takes everything.
struct Pinging;

impl AsyncRead for Pinging {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buf.remaining() >= PING.len() {
            buf.put_slice(&PING);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pinging {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[actix::test]
async fn pings_without_end_leave_the_others_of_the_thread_their_turn() {
    // A clock that stands still goes on when nobody has anything to do.
    let (mut ends, connection) = over(Pinging, Settings { linger_ms: 50, ..settings() }).await;
    yield_now().await;
    connection.conn.stop();
    assert_eq!(within(ends.recv()).await, Some(CloseReason::Stopped));
}

#[test]
fn a_handshake_that_waits_for_its_request_is_small() {
    fn size<F: Future>(_: impl Fn(&'static mut Boxed, &'static ReadPool) -> F) -> usize {
        size_of::<F>()
    }
    assert!(size(|below, pool| read_head(below, pool, upgrade::parse)) <= 256);
}

/// What a client sends by a frame with this first byte.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[actix::test]
async fn a_message_that_an_empty_fragment_completes_is_handled_though_a_close_frame_follows() {
    let (mut peer, mut ends, _connection) = idle().await;
    let packet = [1, 0, 0, 0, 1, 0, 0, 0, b'x'];
    peer.write_all(&masked(0x02, &packet)).await.unwrap();
    // A read of its own: the reader has all of the payload when the last header comes.
    yield_now().await;
    let end = [masked(0x80, b""), masked(0x88, &[0x03, 0xe8])].concat();
    peer.write_all(&end).await.unwrap();
    // The echo is lost: a peer that has sent a close frame takes nothing more.
    assert_eq!(within(ends.recv()).await, Some(CloseReason::PeerClosed));
    assert_eq!(HANDLED.get(), 1);
}

#[actix::test]
async fn a_close_frame_that_is_replied_to_while_a_handler_waits_ends_the_connection() {
    let (mut peer, mut ends, _connection) = idle().await;
    let packet = [1, 0, 0, 0, 2, 0, 0, 0, b'x'];
    let stream = [masked(0x82, &packet), masked(0x88, &[0x03, 0xe8])].concat();
    peer.write_all(&stream).await.unwrap();
    let mut reply = Vec::new();
    within(peer.read_to_end(&mut reply)).await.unwrap();
    assert_eq!(reply, [0x88, 2, 0x03, 0xe8]);
    assert_eq!(within(ends.recv()).await, Some(CloseReason::PeerClosed));
}

/// The frames of a server, one behind the other: opcodes and payloads. Panics if they do not end with one.
fn frames(mut bytes: &[u8]) -> Vec<(Opcode, &[u8])> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, len) = Header::parse(bytes).unwrap();
        assert!(header.fin && header.reserved == 0 && header.key.is_none());
        let (frame, rest) = bytes.split_at(len + header.len as usize);
        frames.push((header.opcode, &frame[len..]));
        bytes = rest;
    }
    frames
}

#[actix::test]
async fn pongs_stand_between_frames_however_little_the_peer_takes() {
    for pipe in [1, 3, 100, 100_000] {
        let (peer, stream) = duplex(pipe);
        let (mut peer_reads, mut peer_writes) = tokio::io::split(peer);
        let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
        let below = Box::new(Plain::new(stream));
        let codec = FrameCodec::new(settings().wire_format, settings().max_packet_size);
        let filter = Box::new(Filter::new(below, Envelope::Message, codec));
        let _connection = TestConnection::over_ws(server, filter).await;
        let packets: Vec<_> = (0..100_u8)
            .map(|n| [&[n, 0, 0, 0, 1, 0, 0, 0][..], &vec![n; n.into()]].concat())
            .collect();
        let (all, mut has_all) = tokio::sync::oneshot::channel();
        let writes = async {
            for packet in &packets {
                let mut message = masked(0x82, packet);
                message.extend(masked(0x89, &packet[..1]));
                peer_writes.write_all(&message).await.unwrap();
                yield_now().await;
            }
            // A peer that has closed takes nothing more.
            (&mut has_all).await.unwrap();
            peer_writes.write_all(&masked(0x88, b"")).await.unwrap();
        };
        let mut heard = Vec::new();
        let reads = async {
            let (last, mut all) = (packets.last().unwrap(), Some(all));
            while peer_reads.read_buf(&mut heard).await.unwrap() > 0 {
                // One pong may stand behind it.
                let end = &heard[heard.len().saturating_sub(last.len() + 3)..];
                if all.is_some() && end.windows(last.len()).any(|bytes| bytes == last) {
                    all.take().unwrap().send(()).unwrap();
                }
            }
        };
        within(async { tokio::join!(writes, reads) }).await;
        let mut frames = frames(&heard);
        assert_eq!(frames.pop(), Some((Opcode::Close, &b""[..])));
        let (echoes, pongs): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|(opcode, _)| *opcode == Opcode::Binary);
        let echoes: Vec<_> = echoes.into_iter().map(|(_, echo)| echo).collect();
        assert!(echoes == packets, "the echoes are all there, whole");
        assert!(!pongs.is_empty() && pongs.iter().all(|(opcode, _)| *opcode == Opcode::Pong));
        assert!(pongs.is_sorted_by_key(|(_, payload)| payload[0]));
    }
}

#[actix::test]
async fn a_framing_that_takes_any_message_gets_each_of_several_in_a_read() {
    let (mut peer, stream) = duplex(1 << 16);
    let server = Server::new(settings()).framing(AnyMessage).route_fn(1, async |msg: Inbound| msg);
    let below = Box::new(Plain::new(stream));
    let codec = FrameCodec::framed(AnyMessage, 100);
    let filter = Box::new(Filter::new(below, Envelope::Message, codec));
    let _connection = TestConnection::over_ws(server, filter).await;
    let stream = [
        masked(0x82, b"one"),
        masked(0x02, b"t"),
        masked(0x80, b"wo"),
        masked(0x82, b"three"),
        masked(0x02, b"be"),
    ];
    peer.write_all(&stream.concat()).await.unwrap();
    let mut echoes = [0; 17];
    within(peer.read_exact(&mut echoes)).await.unwrap();
    assert_eq!(&echoes, b"\x82\x03one\x82\x03two\x82\x05three");
    peer.write_all(&masked(0x80, b"gun")).await.unwrap();
    let mut last = [0; 7];
    within(peer.read_exact(&mut last)).await.unwrap();
    assert_eq!(&last, b"\x82\x05begun");
}

#[actix::test]
async fn a_pong_and_the_reply_to_a_close_frame_wait_for_one_frame_and_not_for_all_that_is_queued() {
    for (asks, reply) in [(masked(0x89, b""), PONG.to_vec()), (masked(0x88, b""), vec![0x88, 0])] {
        let (mut peer, stream) = duplex(100);
        let (_ends, connection) = over(stream, settings()).await;
        let payload = [7; 1000];
        for _ in 0..100 {
            connection.conn.send_buffered(9, payload.to_vec()).unwrap();
        }
        let mut first = [0; 4];
        within(peer.read_exact(&mut first)).await.unwrap();
        peer.write_all(&asks).await.unwrap();
        // The connection has its turn before more is read.
        for _ in 0..10 {
            yield_now().await;
        }
        let mut rest = vec![0; 8 + payload.len() + reply.len()];
        within(peer.read_exact(&mut rest)).await.unwrap();
        assert_eq!(first, [0x82, 126, 0x03, 0xf0]);
        assert!(rest.ends_with(&[&payload[..], &reply].concat()), "{:?}", &rest[1000..]);
    }
}
