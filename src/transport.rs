//! What lies between a socket and the frames of a connection.
//!
//! A [`Transport`] is a byte stream to a peer that is ready for frames. A [`Layer`] makes one out of
//! another by a handshake: TLS and WebSocket are layers, and a listener has a stack of them, none for
//! plain TCP. Nothing but [`Layers`] knows one from another.

/// What is written to this type goes to a field of it as it is.
macro_rules! writes_through {
    ($type:ty, $field:tt) => {
        impl tokio::io::AsyncWrite for $type {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_shutdown(cx)
            }
        }
    };
}

pub(crate) use writes_through;

mod layers;
mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "ws")]
pub(crate) mod ws;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::conn::{CloseReason, Conn, HandshakeError, Intake};
use crate::conn_manager::AddError;
pub(crate) use layers::Layers;
pub(crate) use tcp::{Acknowledged, PeerSide, TcpOptions, Watch, is_over};

/// A byte stream of whole frames to a peer.
///
/// Writing may end inside a frame. An error that wraps a [`CloseReason`] ends the connection for that
/// reason, and is taken for the end of the input if the reason is one of the peer's; every other
/// error is the socket's.
///
/// The drop of a transport closes it.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ends the writing side. A transport that has words for it says why.
    fn poll_end(
        mut self: Pin<&mut Self>,
        why: &CloseReason,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = why;
        self.as_mut().poll_shutdown(cx)
    }

    /// Whether peers answer the end of the writing side, so that it is worth while to wait for that.
    fn answers_end(&self) -> bool {
        false
    }

    /// What became of the bytes that were written to it. `None` if the socket has all of them at once: a
    /// transport that returns something else may keep what is written to it until it is flushed.
    fn passed(&self) -> Option<Passed> {
        None
    }

    /// The TCP socket under it, if there is one.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }

    /// Whether the peer has said that it takes nothing more. What is due to it is lost then, and
    /// told of as such; what it sent before is still handled.
    fn is_deaf(&self) -> bool {
        false
    }

    /// Bytes that were read from the socket, and of which none can be read here before more have come.
    fn held(&self) -> usize {
        0
    }

    /// What bounds the reading of the socket, if anything does.
    fn intake(&self) -> Option<Rc<Intake>> {
        None
    }

    /// What has come since this was asked that was not read.
    fn signs(&mut self) -> Signs {
        Signs::default()
    }
}

/// How far what was written to a transport has come. Both numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Bytes that the socket took, those of handshakes and headers included: they grow as the peer
    /// makes progress.
    pub(crate) to_socket: u64,
    /// Of the bytes that were written to this transport, those that the socket took in a form that the
    /// peer can use: of a record or a message that is not complete, none.
    pub(crate) whole: u64,
}

/// What a transport knows of its peer beside the bytes that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signs {
    /// The peer has shown that it is alive.
    pub(crate) alive: bool,
    /// A part of a message has come that cannot be read before the rest has.
    pub(crate) part: bool,
}

/// A transport of any kind.
pub(crate) type Boxed = Box<dyn Transport>;

/// A socket for layers to be put on.
pub(crate) fn below_layers(socket: TcpStream, intake: Option<Rc<Intake>>) -> Boxed {
    Box::new(Plain { intake, ..Plain::counted(socket) })
}

/// A future on one thread.
pub(crate) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A handshake, and what it puts between the peer and the frames.
pub(crate) trait Layer: Send + Sync + 'static {
    /// Shakes hands with the peer of an admitted connection. It is dropped when the connection ends, or
    /// the deadline has passed.
    fn accept<'a>(&'a self, below: Boxed, conn: &'a Conn) -> Local<'a, Result<Boxed, Failed>>;

    /// Tells a peer that it is not admitted, or does what has to be done before it can be told so in a
    /// frame.
    fn refuse<'a>(&'a self, below: Boxed, why: &'a AddError) -> Local<'a, Refused>;

    /// Whether peers that are not admitted are told so although the application has no frame for that.
    fn refuses(&self) -> bool {
        false
    }

    /// Whether it costs much before a peer can be told anything: more than a peer from where nobody may
    /// come is worth.
    fn is_costly(&self) -> bool {
        false
    }
}

/// A handshake that leads to no connection.
pub(crate) struct Failed {
    pub(crate) why: HandshakeError,
    /// Where the peer was told so, and has yet to hear it.
    pub(crate) told: Option<Boxed>,
}

impl<E: Into<HandshakeError>> From<E> for Failed {
    fn from(why: E) -> Self {
        Self { why: why.into(), told: None }
    }
}

/// A peer that is not admitted.
#[allow(dead_code, reason = "which of these there are is the layers' choice")]
pub(crate) enum Refused {
    /// It is not told yet.
    NotYet(Boxed),
    /// It is told.
    Told(Boxed),
    /// It is gone.
    Gone,
}

/// The layers of a listener, from the socket up.
#[derive(Clone, Default)]
pub(crate) struct Stack(Arc<[Arc<dyn Layer>]>);

impl Stack {
    pub(crate) fn new(layers: Vec<Arc<dyn Layer>>) -> Self {
        Self(layers.into())
    }

    /// Frames travel on the bare socket, without a handshake.
    pub(crate) fn is_bare(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether peers that are not admitted are told so in any case.
    pub(crate) fn refuses(&self) -> bool {
        self.0.iter().any(|layer| layer.refuses())
    }

    /// Whether it costs much before a peer can be told anything.
    pub(crate) fn is_costly(&self) -> bool {
        self.0.iter().any(|layer| layer.is_costly())
    }

    /// Shakes hands, layer by layer.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        intake: Option<Rc<Intake>>,
        conn: &Conn,
    ) -> Result<Boxed, Failed> {
        listen(&socket, conn).await?;
        let mut transport = below_layers(socket, intake.clone());
        for layer in &*self.0 {
            transport = layer.accept(transport, conn).await?;
            if let Some(intake) = &intake {
                // The layer has made use of what came.
                intake.hold(0);
            }
        }
        Ok(transport)
    }

    /// Tells a peer that it is not admitted: in `frame`, if no layer has other words for it. Answers where
    /// it has yet to hear it.
    pub(crate) async fn refuse(
        &self,
        socket: TcpStream,
        intake: Option<Rc<Intake>>,
        why: &AddError,
        frame: Option<&[u8]>,
    ) -> Option<Boxed> {
        let mut transport = below_layers(socket, intake);
        for layer in &*self.0 {
            transport = match layer.refuse(transport, why).await {
                Refused::NotYet(transport) => transport,
                Refused::Told(transport) => return Some(transport),
                Refused::Gone => return None,
            };
        }
        transport.write_all(frame?).await.ok()?;
        transport.flush().await.ok()?;
        Some(transport)
    }
}

/// The pause between two looks at a socket that nobody reads.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until a peer has reset its connection, for those who do not read from it meanwhile; `look`
/// returns its [`PeerSide`]. Cancel safe.
pub(crate) async fn gone(look: impl Fn() -> PeerSide) {
    loop {
        tokio::time::sleep(LOOK).await;
        if look() == PeerSide::Gone {
            return;
        }
    }
}

/// The methods of HTTP, as far as requests tell them apart by.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    b"PRI ",
];

/// Whether this begins as a request in plain HTTP does.
pub(crate) fn is_http(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method))
}

/// Looks at the first bytes of a peer, which stay unread: whether there are any, and are plain HTTP.
async fn listen(socket: &TcpStream, conn: &Conn) -> Result<(), HandshakeError> {
    let mut first = [0; 8];
    let n = socket.peek(&mut first).await?;
    if n == 0 {
        return Err(HandshakeError::PeerClosed);
    }
    conn.shared().hear();
    conn.shared().set_asked_http(is_http(&first[..n]));
    Ok(())
}

/// What a peer may still send without the system resetting the connection under the last word to it.
const READ_AWAY: u64 = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Closes a connection after the last word to its peer: when the peer has closed its side, or after a
/// second.
pub(crate) async fn part(mut transport: Boxed) {
    if let Some(intake) = transport.intake() {
        intake.discard();
    }
    let heard = async {
        transport.shutdown().await?;
        tokio::io::copy(&mut transport.take(READ_AWAY), &mut tokio::io::sink()).await
    };
    // A peer that is gone, or stays, was told as well as could be.
    let _ = timeout(LINGER, heard).await;
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stack").field(&self.0.len()).finish()
    }
}

/// A stream that is a transport as it is: a socket, or what a test has in its place.
pub(crate) struct Plain<S> {
    stream: S,
    /// How many bytes it has taken, if there are layers above it, from where that is not seen.
    taken: Option<u64>,
    /// What bounds the reading, if anything does.
    intake: Option<Rc<Intake>>,
}

impl<S> Plain<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, taken: None, intake: None }
    }

    /// The same, with a bound for what is read.
    pub(crate) fn bounded(stream: S, intake: Option<Rc<Intake>>) -> Self {
        Self { stream, taken: None, intake }
    }

    fn counted(stream: S) -> Self {
        Self { stream, taken: Some(0), intake: None }
    }

    fn count(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(taken), Poll::Ready(Ok(n))) = (&mut self.taken, &wrote) {
            *taken += *n as u64;
        }
        wrote
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Transport for Plain<S> {
    fn passed(&self) -> Option<Passed> {
        self.taken.map(|taken| Passed { to_socket: taken, whole: taken })
    }

    fn socket(&self) -> Option<&TcpStream> {
        (&self.stream as &dyn Any).downcast_ref()
    }

    fn intake(&self) -> Option<Rc<Intake>> {
        self.intake.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, intake, .. } = &mut *self;
        match intake {
            None => Pin::new(stream).poll_read(cx, buf),
            Some(intake) => intake.poll_read(buf, |buf| Pin::new(stream).poll_read(cx, buf)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
