//! What a client reads and writes, whatever the scheme of the server.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_rt::task::JoinHandle;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::TcpStream;

use super::within;
use crate::codec::FrameCodec;
use crate::conn::HandshakeError;
use crate::endpoint::Endpoint;

/// What is read ahead of a test that does not read.
const AHEAD: usize = 64 * 1024;

/// A stream of frames to a server, whatever is spoken there.
///
/// Shutting it down says that no more comes and leaves the other direction open, by TCP's word for
/// that, and TLS's before it. Its drop closes the connection.
///
/// Over WebSocket it answers pings and the server's close frame whether the test reads or not, as
/// browsers do; to that end a task reads up to 64 KiB ahead.
#[derive(Debug)]
pub struct TestStream {
    frames: TestWire,
    wire: TestWire,
    ahead: Option<Ahead>,
    socket: TcpStream,
}

impl TestStream {
    /// Connects. The codec is that of the server's frames, which WebSocket messages are made of. The
    /// certificates of a server with TLS must lead to one in the PEM file `roots`, in which a
    /// self-signed one may stand itself.
    ///
    /// # Errors
    ///
    /// The socket's, and those of the handshakes.
    pub async fn connect(
        endpoint: &Endpoint,
        roots: Option<&Path>,
        codec: &FrameCodec,
    ) -> Result<Self, HandshakeError> {
        let mut stream = Self::connect_passive(endpoint, roots, codec).await?;
        if endpoint.scheme.has_ws() {
            stream.ahead = Some(Ahead::of(stream.frames.clone()));
        }
        Ok(stream)
    }

    /// As [`connect`](Self::connect), without a task that reads ahead: over WebSocket, a peer that does
    /// nothing unless it is told to.
    ///
    /// # Errors
    ///
    /// As those of [`connect`](Self::connect).
    pub async fn connect_passive(
        endpoint: &Endpoint,
        roots: Option<&Path>,
        codec: &FrameCodec,
    ) -> Result<Self, HandshakeError> {
        let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        Self::over(within(socket).await?, endpoint, roots, codec).await
    }

    /// As [`connect_passive`](Self::connect_passive), over a socket that is connected already: one with
    /// options of its own.
    ///
    /// # Errors
    ///
    /// As those of [`connect`](Self::connect).
    pub async fn over(
        socket: TcpStream,
        endpoint: &Endpoint,
        roots: Option<&Path>,
        codec: &FrameCodec,
    ) -> Result<Self, HandshakeError> {
        within(Self::shake_hands(socket, endpoint, roots, codec)).await
    }

    async fn shake_hands(
        stream: TcpStream,
        endpoint: &Endpoint,
        roots: Option<&Path>,
        codec: &FrameCodec,
    ) -> Result<Self, HandshakeError> {
        let stream = stream.into_std()?;
        let socket = TcpStream::from_std(stream.try_clone()?)?;
        let stream = TcpStream::from_std(stream)?;
        let wire = if endpoint.scheme.has_tls() {
            encrypted(endpoint, roots, stream).await?
        } else {
            TestWire::new(stream)
        };
        let frames = if endpoint.scheme.has_ws() {
            messages(endpoint, codec, wire.clone()).await?
        } else {
            wire.clone()
        };
        Ok(Self { frames, wire, ahead: None, socket })
    }

    /// Another handle to the stream, to write while somebody else reads.
    pub fn writer(&self) -> TestWire {
        self.frames.clone()
    }

    /// What lies under WebSocket messages, for bytes that are none. It is the stream itself where there
    /// are no messages.
    pub fn wire(&self) -> TestWire {
        self.wire.clone()
    }

    /// The socket under it all: what is written there is not encrypted, and no message.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        // Zero linger: the system resets the connection instead of closing it in order.
        let _ = self.socket.set_zero_linger();
    }
}

#[cfg(feature = "tls")]
async fn encrypted(
    endpoint: &Endpoint,
    roots: Option<&Path>,
    socket: TcpStream,
) -> Result<TestWire, HandshakeError> {
    use crate::transport::tls;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use std::sync::Arc;
    use tokio_rustls::TlsConnector;

    let failed = |why: String| HandshakeError::Tls(why);
    let roots = match roots {
        Some(file) => tls::roots("roots", file).map_err(|error| failed(error.to_string()))?,
        None => RootCertStore::empty(),
    };
    let config = ClientConfig::builder_with_provider(tls::credentials::default_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(endpoint.host.clone());
    let name = name.map_err(|error| failed(error.to_string()))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    connected.map(TestWire::new).map_err(tls::failed)
}

#[cfg(not(feature = "tls"))]
async fn encrypted(
    _: &Endpoint,
    _: Option<&Path>,
    _: TcpStream,
) -> Result<TestWire, HandshakeError> {
    Err(HandshakeError::Tls("the feature `tls` is off".to_owned()))
}

#[cfg(feature = "ws")]
async fn messages(
    endpoint: &Endpoint,
    codec: &FrameCodec,
    wire: TestWire,
) -> Result<TestWire, HandshakeError> {
    let request = crate::transport::ws::request(endpoint, &[], &[]);
    let request = request.map_err(HandshakeError::WebSocket)?;
    Ok(TestWire::new(super::messages::Messages::connect(request, codec, wire).await?))
}

#[cfg(not(feature = "ws"))]
async fn messages(_: &Endpoint, _: &FrameCodec, _: TestWire) -> Result<TestWire, HandshakeError> {
    Err(HandshakeError::WebSocket("the feature `ws` is off".to_owned()))
}

/// Reads before it is asked to, so that the protocol gets its answers.
#[derive(Debug)]
struct Ahead {
    read: DuplexStream,
    task: JoinHandle<()>,
}

impl Ahead {
    fn of(mut frames: TestWire) -> Self {
        let (read, mut has_read) = duplex(AHEAD);
        let task = actix_rt::spawn(async move {
            let mut bytes = vec![0; 8 * 1024];
            // Whether it is an end or an error is the same to who reads. What came before either is not
            // lost, as it may be by tokio's `copy`.
            while let Ok(n @ 1..) = frames.read(&mut bytes).await {
                if has_read.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
            let _ = has_read.shutdown().await;
        });
        Self { read, task }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AsyncRead for TestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.ahead {
            Some(ahead) => Pin::new(&mut ahead.read).poll_read(cx, buf),
            None => Pin::new(&mut self.frames).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.frames).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_shutdown(cx)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A handle to a byte stream that others hold, too: of a [`TestStream`].
#[derive(Clone)]
pub struct TestWire(Rc<RefCell<dyn Stream>>);

impl TestWire {
    fn new(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Self {
        Self(Rc::new(RefCell::new(stream)))
    }
}

impl AsyncRead for TestWire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf) {
            // A server that closed its side without TLS's word for it.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for TestWire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

impl fmt::Debug for TestWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestWire").finish_non_exhaustive()
    }
}
