//! What the suite runs over. The same tests are compiled for each transport, and here is what they say
//! the same things with on each.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use zinxide::client::{Backoff, Client, ClientBuilder};
use zinxide::testing::{TestStream, TestWire, within};
use zinxide::{
    CloseReason, Endpoint, Frame, FrameCodec, FrameError, HandshakeError, MsgId, Scheme, Settings,
};

use crate::SCHEME;

/// A client of these servers.
pub(crate) type TestClient = zinxide::testing::TestClient<TestStream>;

/// The kit's settings, for a server that speaks [`SCHEME`].
pub(crate) fn settings() -> Settings {
    let mut settings = zinxide::testing::settings();
    listen_at(&mut settings, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    if SCHEME.has_tls() {
        let file = CERTIFICATE.to_str().expect("a path that is text");
        (settings.tls_cert, settings.tls_key) = (file.to_owned(), file.to_owned());
    }
    settings
}

/// Changes where a server listens.
pub(crate) fn listen_at(settings: &mut Settings, addr: SocketAddr) {
    settings.listen = vec![endpoint(addr)];
}

fn endpoint(addr: SocketAddr) -> Endpoint {
    format!("{SCHEME}://{addr}").parse().expect("an address makes an endpoint")
}

/// A certificate that is its own root, and its key. A server wants files, and there is nobody to remove
/// them when the last test has ended: so one is made for all runs, by the first that comes.
static CERTIFICATE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("guarantees.pem");
    if file.exists() {
        return file;
    }
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let own = folder.join(format!("guarantees-{}.pem", std::process::id()));
    fs::write(&own, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    // Whole, or not at all; another process may have been faster, and its file is as good.
    let _ = fs::hard_link(&own, &file);
    fs::remove_file(&own).unwrap();
    file
});

/// The codec of a client: the default wire format, no limit.
pub(crate) fn codec() -> FrameCodec {
    FrameCodec::new(Settings::default().wire_format, u32::MAX)
}

pub(crate) async fn connect(addr: SocketAddr) -> TestClient {
    connect_with(addr, codec()).await
}

pub(crate) async fn connect_with(addr: SocketAddr, codec: FrameCodec) -> TestClient {
    let dialled = TestStream::connect(&endpoint(addr), Some(&CERTIFICATE), &codec).await;
    TestClient::on(dialled.unwrap_or_else(|error| panic!("cannot connect: {error}")), codec)
}

/// A client that may not get as far as its first frame.
pub(crate) async fn dial(addr: SocketAddr) -> Result<TestClient, HandshakeError> {
    let stream = TestStream::connect(&endpoint(addr), Some(&CERTIFICATE), &codec()).await?;
    Ok(TestClient::on(stream, codec()))
}

/// A client that answers not even the words that belong to the transport alone.
pub(crate) async fn connect_passive(addr: SocketAddr) -> TestClient {
    let dialled = TestStream::connect_passive(&endpoint(addr), Some(&CERTIFICATE), &codec()).await;
    TestClient::on(dialled.unwrap_or_else(|error| panic!("cannot connect: {error}")), codec())
}

/// As [`connect_passive`], with a receive buffer of about so many bytes: its system acknowledges no more
/// than that before the client reads.
pub(crate) async fn connect_narrow(addr: SocketAddr, bytes: u32) -> TestClient {
    let socket = TcpSocket::new_v4().unwrap();
    // Before it is connected, since a window that was announced is not taken back.
    socket.set_recv_buffer_size(bytes).unwrap();
    let socket = within(socket.connect(addr)).await.unwrap();
    let stream = TestStream::over(socket, &endpoint(addr), Some(&CERTIFICATE), &codec()).await;
    TestClient::on(stream.unwrap_or_else(|error| panic!("cannot connect: {error}")), codec())
}

/// A client of the library, which connects again at once, or almost.
pub(crate) fn client(addr: SocketAddr) -> ClientBuilder {
    let backoff = Backoff::default().first(Duration::from_millis(1)).cap(Duration::from_millis(5));
    let client = Client::builder(endpoint(addr)).reconnect(backoff);
    #[cfg(feature = "tls")]
    if SCHEME.has_tls() {
        return client.tls(zinxide::client::Tls::new().roots_pem(fs::read(&*CERTIFICATE).unwrap()));
    }
    client
}

/// How a connection of a client of the library ends when the server closes it with this code and text:
/// a stream has no words for them.
pub(crate) fn seen_by_clients(code: u16, text: &str) -> CloseReason {
    match SCHEME.has_ws() {
        true => CloseReason::PeerClosedWith { code, text: text.into() },
        false => CloseReason::PeerClosed,
    }
}

/// A dial that the server closes. If there is a handshake, it fails, and over WebSocket the peer is told
/// why.
pub(crate) async fn assert_refused(addr: SocketAddr) {
    match dial(addr).await {
        Ok(mut client) => {
            assert!(!SCHEME.has_ws(), "there is a WebSocket");
            assert_eq!(client.recv().await, None);
        }
        Err(HandshakeError::Http { status, why }) => {
            assert!(SCHEME.has_ws() && status == 503, "{status} {why}");
        }
        Err(HandshakeError::PeerClosed | HandshakeError::Io(_)) if SCHEME == Scheme::Tls => {}
        Err(other) => panic!("{other}"),
    }
}

/// A client and a second handle to its stream, to write while the client reads.
pub(crate) async fn client_and_writer(addr: SocketAddr) -> (TestClient, TestWire) {
    let mut client = connect(addr).await;
    let writer = client.stream().writer();
    (client, writer)
}

/// Writes all of this, and sees it on its way: what lies between may keep some of it else.
pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Closes the client's side, between two frames or inside one, and leaves the server's open.
pub(crate) async fn half_close(client: &mut TestClient) {
    within(client.stream().shutdown()).await.unwrap();
}

/// Leaves in order. A mere drop resets the connection if there is something to read, as there is after a
/// handshake of TLS.
pub(crate) async fn leave(mut client: TestClient) {
    half_close(&mut client).await;
    while client.recv().await.is_some() {}
}

/// What stands before a frame of `len` bytes: nothing in a stream of frames, and the header of its
/// message over WebSocket.
pub(crate) fn before_frame(len: usize) -> Vec<u8> {
    if !SCHEME.has_ws() {
        return Vec::new();
    }
    // A binary message in one piece, masked with zeros, which leaves bytes as they are.
    let mask = [0; 4];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => [&[0x82, 0x80 | len][..], &mask].concat(),
        (_, Ok(len)) => [&[0x82, 0xfe][..], &len.to_be_bytes(), &mask].concat(),
        _ => [&[0x82, 0xff][..], &(len as u64).to_be_bytes(), &mask].concat(),
    }
}

/// Sends bytes as they are, which need not be whole frames; over WebSocket, nor messages.
pub(crate) async fn send_raw(client: &mut TestClient, bytes: &[u8]) {
    within(write(&mut client.stream().wire(), bytes)).await.unwrap();
}

/// Begins a frame that would have `len` bytes.
pub(crate) async fn begin_frame(client: &mut TestClient, len: usize, begun: &[u8]) {
    send_raw(client, &[&before_frame(len), begun].concat()).await;
}

/// How a connection ends whose peer closes its side inside a frame that would have `len` bytes.
pub(crate) fn truncated(len: usize, begun: &[u8]) -> CloseReason {
    let have = before_frame(len).len() + begun.len();
    CloseReason::Protocol(FrameError::Truncated { have })
}

/// How a connection ends whose peer sends a whole frame that is too large. Over WebSocket its message is
/// what is too large, before any of the frame is looked at.
pub(crate) fn too_large(id: MsgId, announced: u32, max: u32) -> CloseReason {
    const HEADER: usize = 8;
    CloseReason::Protocol(if SCHEME.has_ws() {
        FrameError::MessageTooLong { max: max as usize + HEADER }
    } else {
        FrameError::TooLarge { id, announced, max }
    })
}

/// What a server sends of a frame.
pub(crate) fn on_the_wire(frame: &Frame) -> Vec<u8> {
    let frame = crate::support::encoded([frame.clone()]);
    let mut header = before_frame(frame.len());
    if !header.is_empty() {
        // A server does not mask.
        header.truncate(header.len() - 4);
        header[1] &= 0x7f;
    }
    [&header[..], &frame].concat()
}

/// The bytes that come from a server, as they are before anybody looks for frames or messages.
pub(crate) fn bytes_from(client: &mut TestClient) -> TestWire {
    client.stream().wire()
}
