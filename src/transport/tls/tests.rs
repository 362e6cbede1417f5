//! Tests of what nobody sees from outside: how often the transport below is read, what is kept, and time.

use std::cell::RefCell;
use std::io::{IoSlice, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ServerConfig;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncWrite;

use super::credentials::default_provider;
use super::*;
use crate::codec::FrameError;
use crate::conn::CloseReason;
use crate::transport::Transport;

const MESSAGE: usize = 64 * 1024;

/// Both directions of a connection, as the server's transport and the client's socket.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// What one read takes at most, if it is not 0.
    most: usize,
    reads: usize,
    is_closed: bool,
}

impl Transport for Pipe {
    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        self
    }

    fn poll_fill(&mut self, buffer: &mut BytesMut, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let State { to_server, most, reads, is_closed, .. } = &mut *self.0.borrow_mut();
        if to_server.is_empty() {
            return if *is_closed { Poll::Ready(Ok(0)) } else { Poll::Pending };
        }
        let most = if *most == 0 { usize::MAX } else { *most };
        let n = to_server.len().min(buffer.capacity() - buffer.len()).min(most);
        buffer.extend(to_server.drain(..n));
        *reads += 1;
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().to_client.extend_from_slice(b);
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A server, and the clients that it knows by the version of TLS that they speak: by its own certificate.
fn known(
    test: &str,
) -> (ServerTls, impl Fn(&'static SupportedProtocolVersion) -> Arc<ClientConfig>) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (pair.cert.der().clone(), pair.signing_key.serialize_der());
    let file = std::env::temp_dir().join(format!("zinxide-{test}-{}.pem", std::process::id()));
    std::fs::write(&file, pair.cert.pem() + &pair.signing_key.serialize_pem()).unwrap();
    let path = file.to_str().unwrap();
    let [tls_cert, tls_key, tls_client_ca] = [path; 3].map(str::to_owned);
    let settings = Settings { tls_cert, tls_key, tls_client_ca, ..Settings::default() };
    let server = ServerTls::new(&settings, default_provider()).unwrap();
    std::fs::remove_file(file).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let client = move |version| {
        let config = ClientConfig::builder_with_provider(default_provider());
        let config = config.with_protocol_versions(&[version]).unwrap();
        let config = config.with_root_certificates(roots.clone());
        let key = PrivateKeyDer::try_from(key.clone()).unwrap();
        Arc::new(config.with_client_auth_cert(vec![cert.clone()], key).unwrap())
    };
    (server, client)
}

/// A client, and what has become of the server's handshake with it.
struct Pair {
    pipe: Pipe,
    client: ClientConnection,
    server: Result<Box<Encrypted>, HandshakeError>,
}

impl Pair {
    /// Shakes hands. The client sends `early` along with the last of its handshake.
    fn new(server: &ServerTls, config: &Arc<ClientConfig>, early: &[u8]) -> Self {
        let pipe = Pipe::default();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut accept = Box::pin(server.encrypt(Box::new(pipe.clone())));
        let mut cx = Context::from_waker(Waker::noop());
        let server = loop {
            if !client.is_handshaking() && !early.is_empty() {
                assert_eq!(client.writer().write(early).unwrap(), early.len());
            }
            send(&mut client, &pipe);
            if let Poll::Ready(server) = accept.as_mut().poll(&mut cx) {
                break server;
            }
            receive(&mut client, &pipe);
        };
        receive(&mut client, &pipe);
        Self { pipe, client, server }
    }

    fn server(&mut self) -> &mut Encrypted {
        self.server.as_mut().unwrap()
    }

    /// The client writes this, and it comes.
    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.client.writer().write(rest).unwrap();
            rest = &rest[n..];
            send(&mut self.client, &self.pipe);
        }
    }

    /// What a client of the transport reads with this room, until nothing more is there.
    fn read(&mut self, room: usize) -> (Vec<u8>, Poll<io::Result<usize>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut read, mut vain) = (Vec::new(), 0);
        loop {
            let mut buffer = BytesMut::with_capacity(room);
            match self.server().poll_fill(&mut buffer, &mut cx) {
                Poll::Ready(Ok(n @ 1..)) => assert_eq!(n, buffer.len()),
                // It has yielded if there is more to read.
                Poll::Pending if !self.pipe.0.borrow().to_server.is_empty() => vain += 1,
                end => return (read, end),
            }
            assert!(vain < 100_000);
            read.extend_from_slice(&buffer);
        }
    }

    fn reads(&self) -> usize {
        std::mem::take(&mut self.pipe.0.borrow_mut().reads)
    }
}

fn send(client: &mut ClientConnection, pipe: &Pipe) {
    let to_server = &mut pipe.0.borrow_mut().to_server;
    while client.wants_write() {
        client.write_tls(to_server).unwrap();
    }
}

fn receive(client: &mut ClientConnection, pipe: &Pipe) {
    let come = std::mem::take(&mut pipe.0.borrow_mut().to_client);
    let mut come = &come[..];
    while !come.is_empty() {
        client.read_tls(&mut come).unwrap();
        client.process_new_packets().unwrap();
    }
}

/// No two places of it are alike.
fn message() -> Vec<u8> {
    (0..MESSAGE as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_message_of_64_kib_is_one_read_and_leaves_nothing_behind() {
    let (server, client) = known("reads");
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::new(&server, &client(version), b"");
        pair.reads();
        pair.send(&message());
        let (read, end) = pair.read(MESSAGE);
        assert!(end.is_pending());
        assert_eq!(read, message());
        assert_eq!(pair.reads(), 1);
        assert_eq!(pair.server().held(), 0);
        assert!(!pair.server().signs().part);
    }
}

#[test]
fn a_stream_of_records_is_the_same_in_reads_of_every_size() {
    let (server, client) = known("sizes");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    for most in [1, 4, 5, 6, 100, 4096, 16 * 1024 + 22, 50_000] {
        pair.pipe.0.borrow_mut().most = most;
        pair.send(&message());
        pair.client.refresh_traffic_keys().unwrap();
        pair.send(b"by the next key");
        let (read, end) = pair.read(1024);
        assert!(end.is_pending());
        assert_eq!(read, [&message()[..], b"by the next key"].concat(), "{most} bytes a read");
        assert!(!pair.server().signs().part);
    }
}

#[test]
fn a_part_of_a_record_is_held_and_is_seen() {
    let (server, client) = known("part");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    pair.send(b"whole");
    pair.send(&[7; 1000]);
    let cut = pair.pipe.0.borrow_mut().to_server.split_off(5 + 5 + 17 + 300);
    let (read, end) = pair.read(MESSAGE);
    assert!(end.is_pending());
    assert_eq!(read, b"whole");
    assert_eq!(pair.server().held(), 300);
    assert!(pair.server().signs().part && pair.server().signs().part);
    // Its end does not come.
    pair.pipe.0.borrow_mut().is_closed = true;
    assert!(matches!(pair.read(MESSAGE), (read, Poll::Ready(Ok(0))) if read.is_empty()));
    // It comes.
    pair.pipe.0.borrow_mut().to_server.extend(cut);
    assert_eq!(pair.read(MESSAGE).0, [7; 1000]);
    assert_eq!(pair.server().held(), 0);
}

#[test]
fn what_came_behind_the_handshake_is_read_first() {
    let (server, client) = known("early");
    let mut pair = Pair::new(&server, &client(&TLS13), b"early");
    assert_eq!(pair.server().held(), 5);
    pair.send(b" and late");
    assert_eq!(pair.read(MESSAGE).0, b"early and late");
    assert_eq!(pair.server().held(), 0);
}

#[test]
fn what_came_before_a_record_that_makes_no_sense_is_read() {
    let (server, client) = known("nonsense");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    pair.send(b"sense");
    pair.pipe.0.borrow_mut().to_server.extend([23, 3, 3, 0, 20].iter().chain(&[0; 20]));
    let (read, end) = pair.read(MESSAGE);
    assert_eq!(read, b"sense");
    let Poll::Ready(Err(error)) = end else { panic!("{end:?}") };
    let why = CloseReason::of(error);
    assert_eq!(why, CloseReason::Protocol(FrameError::Malformed("a TLS record")));
    let State { to_client, .. } = &*pair.pipe.0.borrow();
    assert!(!to_client.is_empty(), "the alert");
}

#[test]
fn what_came_before_the_peers_end_is_read_and_nothing_behind_it() {
    let (server, client) = known("end");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    pair.send(b"the last");
    pair.client.send_close_notify();
    send(&mut pair.client, &pair.pipe);
    pair.pipe.0.borrow_mut().to_server.extend([0xff; 100]);
    let (read, end) = pair.read(MESSAGE);
    assert_eq!(read, b"the last");
    assert!(matches!(end, Poll::Ready(Ok(0))));
}

#[test]
fn peers_that_send_records_without_content_leave_the_thread_to_others_now_and_then() {
    let (server, client) = known("vain");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    pair.send(&[1; 1000]);
    pair.pipe.0.borrow_mut().most = 1;
    pair.reads();
    let mut buffer = BytesMut::with_capacity(MESSAGE);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pair.server().poll_fill(&mut buffer, &mut cx).is_pending());
    assert!(pair.reads() < 10);
}

#[test]
fn the_socket_has_the_whole_of_what_was_written_or_not() {
    let (server, client) = known("written");
    let mut pair = Pair::new(&server, &client(&TLS13), b"");
    let mut cx = Context::from_waker(Waker::noop());
    let before = pair.server().passed().unwrap();
    let (header, payload) = ([9; 8], message());
    let slices = [&header[..], &payload].map(IoSlice::new);
    let written = Pin::new(pair.server()).poll_write_vectored(&mut cx, &slices);
    assert!(matches!(written, Poll::Ready(Ok(n)) if n == 16 * 1024), "one record");
    let passed = pair.server().passed().unwrap();
    let come = pair.pipe.0.borrow().to_client.len();
    assert_eq!(come, 5 + 16 * 1024 + 17);
    assert_eq!(passed.whole - before.whole, 16 * 1024);
    assert_eq!(passed.to_socket - before.to_socket, come as u64);
    receive(&mut pair.client, &pair.pipe);
    let mut read = vec![0; 16 * 1024];
    pair.client.reader().read_exact(&mut read).unwrap();
    assert_eq!(read, [&header[..], &payload].concat()[..16 * 1024]);
}

/// A clock in the year 5138.
#[derive(Debug)]
struct Ahead;

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(100_000_000_000)))
    }
}

#[test]
fn a_session_is_not_resumed_with_a_certificate_that_has_expired_since() {
    let (server, client) = known("expired");
    for version in [&TLS13, &TLS12] {
        let config = client(version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let pair = Pair::new(&server, &config, b"");
            let session = pair.server.as_ref().unwrap().session();
            assert_eq!(session.handshake_kind(), Some(kind));
            assert_eq!(session.peer_certificates().map(<[_]>::len), Some(1));
        }
        let in_use = server.in_use();
        let mut later = ServerConfig::clone(&in_use.config);
        later.time_provider = Arc::new(Ahead);
        let later = Loaded { config: Arc::new(later), clients: in_use.clients.clone() };
        let today = std::mem::replace(&mut server.in_use.write().unwrap().loaded, Arc::new(later));
        let pair = Pair::new(&server, &config, b"");
        assert!(matches!(pair.server, Err(HandshakeError::Certificate(_))));
        server.in_use.write().unwrap().loaded = today;
    }
}
