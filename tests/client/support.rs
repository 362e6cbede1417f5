//! A server's end of the wire, by hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use zinxide::client::{Backoff, Client, ClientBuilder};
use zinxide::testing::{TestClient, TestServer, within};
use zinxide::{Conn, Endpoint, Frame, FrameCodec, Settings};

/// Time enough for what must come, and too much for a test that waits for it in vain.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A port that is this test's, whether somebody listens on it or not.
pub(crate) struct Port(TcpSocket);

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self(socket)
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(self.0.local_addr().unwrap())
    }

    /// With hardly any room for dials that are not accepted.
    pub(crate) fn listen_for_none(self) -> (TcpListener, Endpoint) {
        let endpoint = self.endpoint();
        (self.0.listen(0).unwrap(), endpoint)
    }

    pub(crate) fn listen(self) -> Peer {
        Peer(self.0.listen(64).unwrap())
    }
}

/// Where the test is the server.
pub(crate) struct Peer(pub(crate) TcpListener);

impl Peer {
    pub(crate) fn listen() -> Self {
        Port::reserve().listen()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(self.0.local_addr().unwrap())
    }

    /// The next dial.
    pub(crate) async fn accept(&self) -> TestClient {
        let (stream, _) = within(self.0.accept()).await.unwrap();
        TestClient::on(stream, FrameCodec::new(Settings::default().wire_format, u32::MAX))
    }
}

pub(crate) fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint::tcp(addr.ip().to_string(), addr.port())
}

/// A client that dials again at once, or almost.
pub(crate) fn client(endpoint: Endpoint) -> ClientBuilder {
    let backoff = Backoff::default().first(Duration::from_millis(1)).cap(Duration::from_millis(5));
    Client::builder(endpoint).reconnect(backoff)
}

/// A client that is connected, and the other end.
pub(crate) async fn pair() -> (Client, TestClient, Peer) {
    let peer = Peer::listen();
    let client = within(client(peer.endpoint()).connect()).await.unwrap();
    let end = peer.accept().await;
    (client, end, peer)
}

pub(crate) async fn of_server(server: &TestServer) -> Client {
    within(client(endpoint(server.addr())).connect()).await.unwrap()
}

/// Waits for a connection after the one with this id.
pub(crate) async fn connected(client: &Client, after: u64) -> Conn {
    let is = |state: &zinxide::client::ClientState| match state {
        zinxide::client::ClientState::Connected(conn) => conn.id() > after,
        _ => false,
    };
    match within(client.wait_for(is)).await {
        zinxide::client::ClientState::Connected(conn) => conn,
        state => panic!("{state:?}"),
    }
}

pub(crate) async fn disconnected(client: &Client) {
    let is = |state: &zinxide::client::ClientState| {
        matches!(state, zinxide::client::ClientState::Disconnected(_))
    };
    within(client.wait_for(is)).await;
}

/// The payloads as numbers.
pub(crate) fn numbers(frames: &[Frame]) -> Vec<u32> {
    frames
        .iter()
        .map(|frame| std::str::from_utf8(&frame.payload).unwrap().parse().unwrap())
        .collect()
}

/// The next `n` frames, as numbers.
pub(crate) async fn recv_numbers(end: &mut TestClient, n: usize) -> Vec<u32> {
    let mut frames = Vec::new();
    while frames.len() < n {
        frames.push(end.recv().await.unwrap());
    }
    numbers(&frames)
}
