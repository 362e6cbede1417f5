//! The client.

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Encoder;

use super::{TestStream, within};
use crate::codec::FrameCodec;
use crate::endpoint::Endpoint;
use crate::frame::{Frame, MsgId};
use crate::settings::Settings;

/// A client that speaks frames, and bytes where a test must break the rules.
#[derive(Debug)]
pub struct TestClient<S = TcpStream> {
    stream: S,
    received: BytesMut,
    codec: FrameCodec,
}

/// The codec of a client: a server may send what it likes.
fn codec() -> FrameCodec {
    FrameCodec::new(Settings::default().wire_format, u32::MAX)
}

impl TestClient {
    /// Connects, with the default wire format.
    pub async fn connect(addr: SocketAddr) -> Self {
        match within(TcpStream::connect(addr)).await {
            Ok(stream) => Self::on(stream, codec()),
            Err(error) => panic!("cannot connect to {addr}: {error}"),
        }
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        // Zero linger: the system resets the connection instead of closing it in order.
        let _ = self.stream.set_zero_linger();
    }
}

impl TestClient<TestStream> {
    /// Connects to an endpoint of any scheme, with the default wire format. What the `roots` of a server
    /// with TLS are says [`TestStream::connect`].
    ///
    /// ```
    /// # use zinxide::testing::{TestClient, TestServer, settings};
    /// # use zinxide::{Frame, Inbound, Server};
    /// # #[actix::main]
    /// # async fn main() {
    /// # let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
    /// # let server = TestServer::start(server).await;
    /// let mut client = TestClient::connect_to(&server.endpoint(), None).await;
    /// client.send(1, "hello").await;
    /// # assert_eq!(client.recv().await, Some(Frame::new(1, "hello")));
    /// # server.stop().await.unwrap();
    /// # }
    /// ```
    pub async fn connect_to(endpoint: &Endpoint, roots: Option<&Path>) -> Self {
        let codec = codec();
        match TestStream::connect(endpoint, roots, &codec).await {
            Ok(stream) => Self::on(stream, codec),
            Err(error) => panic!("cannot connect to {endpoint}: {error}"),
        }
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        self.stream.reset();
    }
}

impl<S> TestClient<S> {
    /// A client on a stream that is connected already.
    pub fn on(stream: S, codec: FrameCodec) -> Self {
        Self { stream, received: BytesMut::new(), codec }
    }

    /// The stream, for what the kit has no word for.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncWrite + Unpin> TestClient<S> {
    /// Sends a frame; panics if the connection is closed.
    pub async fn send(&mut self, id: MsgId, payload: impl Into<Bytes>) {
        let mut bytes = BytesMut::new();
        let encoded = self.codec.encode(Frame::new(id, payload), &mut bytes);
        assert!(encoded.is_ok(), "the frame cannot be encoded");
        self.send_bytes(&bytes).await;
    }

    /// Sends bytes as they are; panics if the connection is closed. Over WebSocket they are frames,
    /// each of which is sent when it is whole: [`TestStream::wire`] takes any bytes.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        if let Err(error) = within(sent).await {
            panic!("cannot send: {error}");
        }
    }
}

impl<S: AsyncRead + Unpin> TestClient<S> {
    /// The next frame, or `None` when the connection is closed or reset.
    pub async fn recv(&mut self) -> Option<Frame> {
        loop {
            match self.codec.next_frame(&mut self.received) {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => panic!("the server broke the protocol: {error}"),
            }
            match within(self.stream.read_buf(&mut self.received)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.received.is_empty() => return None,
                Ok(0) | Err(_) => panic!("closed inside a frame: {:?}", self.received),
            }
        }
    }

    /// All frames up to the end of the connection, which must come.
    pub async fn recv_to_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.recv().await {
            frames.push(frame);
        }
        frames
    }
}
