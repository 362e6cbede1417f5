//! What lies between a socket and the frames of a connection.
//!
//! A [`Transport`] is a byte stream to a peer that is ready for frames. A [`Layer`] makes one out of
//! another by a handshake: TLS and WebSocket are layers, and a listener has a stack of them, none for
//! plain TCP. Nothing but [`Layers`] knows one from another.

mod layers;
#[cfg(test)]
mod never;
mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "ws")]
pub(crate) mod ws;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use crate::conn::{CloseReason, Conn, HandshakeError, Intake};
use crate::conn_manager::AddError;
use crate::connection::ReadPool;
pub(crate) use layers::Layers;
#[cfg(test)]
pub(crate) use never::Never;
pub(crate) use tcp::{Acknowledged, PeerSide, TcpOptions, Watch, is_over};

/// A byte stream of whole frames to a peer.
///
/// An error that wraps a [`CloseReason`] ends the connection for that reason, and is taken for the end of
/// the input if the reason is one of the peer's; every other error is the socket's.
///
/// The drop of a transport closes it.
pub(crate) trait Transport: Unpin + 'static {
    /// Reads once, behind what `buffer` has, into the room that the caller has made there. Ready with how
    /// many bytes came, 0 at the end of the input. Some of them, or all, may be the transport's own, and not
    /// be in the buffer.
    ///
    /// Until a message is whole, what the buffer has of it must stay at its end.
    fn poll_fill(&mut self, buffer: &mut BytesMut, cx: &mut Context<'_>)
    -> Poll<io::Result<usize>>;

    /// What takes the bytes that are to be sent. Nothing else does.
    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin);

    /// Where messages end in what was read; `None` if the transport has no messages, and frames have to
    /// be found.
    fn bounds(&mut self) -> Option<&mut Bounds> {
        None
    }

    /// What is read from now on is thrown away: the buffer gets none of it.
    fn read_away(&mut self) {}

    /// What the transport has to send of its own. The caller writes it before the next frame begins.
    fn aside(&mut self) -> Option<Bytes> {
        None
    }

    /// The last that is written before the [end](Self::poll_end), behind a whole frame: why it ends. `None`
    /// if there is no word for it, or it was said.
    fn last_words(&mut self, why: &CloseReason) -> Option<Bytes> {
        let _ = why;
        None
    }

    /// Ends the writing side.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.writer()).poll_shutdown(cx)
    }

    /// What it lies on, if it does: where nothing else is said, that is asked.
    fn below(&self) -> Option<&dyn Transport> {
        None
    }

    /// What became of the bytes that were written to it. `None` if the socket has all of them at once: a
    /// transport that returns something else may keep what is written to it until it is flushed.
    fn passed(&self) -> Option<Passed> {
        self.below()?.passed()
    }

    /// The TCP socket under it, if there is one.
    fn socket(&self) -> Option<&TcpStream> {
        self.below()?.socket()
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
        self.below()?.intake()
    }

    /// What has come since this was asked that was not read.
    fn signs(&mut self) -> Signs {
        Signs::default()
    }

    /// What has come since this was asked that is no part of a frame.
    fn take_overhead(&mut self) -> Overhead {
        Overhead::default()
    }

    /// Does not reply to the control frames that have come. Returns how many replies were due.
    fn drop_replies(&mut self) -> usize {
        0
    }
}

/// Where the messages of a transport end.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// How many bytes at the end of the buffer are of a message that is not whole. What is before them is
    /// whole frames.
    pub(crate) open: usize,
    /// How long the messages that became whole are, in order, where a framing has to be asked about each
    /// of them alone.
    pub(crate) lens: VecDeque<usize>,
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

/// What a peer makes the server read that is no part of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overhead {
    /// Bytes of handshakes.
    pub(crate) handshake: u64,
    /// Bytes of headers, padding and control frames.
    pub(crate) bytes: u64,
    /// Control frames that a peer may send any number of.
    pub(crate) controls: u32,
    /// These, and parts of messages: each was some work, and none is a message.
    pub(crate) frames: u32,
}

/// A transport of any kind.
pub(crate) type Boxed = Box<dyn Transport>;

/// A future on one thread.
pub(crate) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A peer's connection, or why it is not admitted.
pub(crate) type Peer<'a> = Result<&'a Conn, &'a AddError>;

/// A handshake, and what it puts between the peer and the frames. It may read by a buffer of the worker's.
pub(crate) trait Layer: Send + Sync + 'static {
    /// Shakes hands with a peer. One that is not admitted is told so, if the layer has words for that; else the
    /// handshake is what has to be done before a frame can say it. It is dropped when the connection ends, or the
    /// deadline has passed.
    fn shake_hands<'a>(
        &'a self,
        below: Boxed,
        peer: Peer<'a>,
        pool: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>>;

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
    pub(crate) async fn shake_hands(
        &self,
        socket: TcpStream,
        intake: Option<Rc<Intake>>,
        peer: Peer<'_>,
        pool: &ReadPool,
    ) -> Result<Boxed, Failed> {
        if let Ok(conn) = peer {
            listen(&socket, conn).await?;
        }
        let mut transport = Box::new(Plain::bounded(socket, intake.clone())) as Boxed;
        for layer in &*self.0 {
            transport = layer.shake_hands(transport, peer, pool).await?;
            if let Some(intake) = &intake {
                // The layer has made use of what came.
                intake.hold(0);
            }
        }
        Ok(transport)
    }

    /// Tells a peer that it is not admitted: in `frame`, if no layer has other words for it. Returns where
    /// it has yet to hear it.
    pub(crate) async fn refuse(
        &self,
        socket: TcpStream,
        intake: Option<Rc<Intake>>,
        why: &AddError,
        frame: Option<&[u8]>,
        pool: &ReadPool,
    ) -> Option<Boxed> {
        let mut transport = match self.shake_hands(socket, intake, Err(why), pool).await {
            Ok(transport) => transport,
            Err(failed) => return failed.told,
        };
        send(&mut transport, frame?).await.ok()?;
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
const READ_AWAY: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Closes a connection after the last word to its peer: when the peer has closed its side, or after a
/// second.
pub(crate) async fn part(mut transport: Boxed) {
    if let Some(intake) = transport.intake() {
        intake.discard();
    }
    let heard = async {
        transport.writer().shutdown().await?;
        let (mut heard, mut away) = (0, BytesMut::new());
        while heard < READ_AWAY {
            away.clear();
            away.reserve(1024);
            heard += match poll_fn(|cx| transport.poll_fill(&mut away, cx)).await? {
                0 => break,
                n => n,
            };
        }
        Ok::<_, io::Error>(())
    };
    // A peer that is gone, or stays, was told as well as could be.
    let _ = timeout(LINGER, heard).await;
}

/// Sends bytes, and sees them written.
pub(crate) async fn send(transport: &mut Boxed, bytes: &[u8]) -> io::Result<()> {
    transport.writer().write_all(bytes).await?;
    transport.writer().flush().await
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stack").field(&self.0.len()).finish()
    }
}

/// A stream that is a transport as it is: a socket, or what a test has in its place.
pub(crate) struct Plain<S> {
    stream: S,
    /// What bounds the reading, if anything does.
    intake: Option<Rc<Intake>>,
}

impl<S> Plain<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, intake: None }
    }

    /// The same, with a bound for what is read.
    pub(crate) fn bounded(stream: S, intake: Option<Rc<Intake>>) -> Self {
        Self { stream, intake }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Transport for Plain<S> {
    fn poll_fill(
        &mut self,
        buffer: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(self), cx, buffer)
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        &mut self.stream
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
        let Self { stream, intake } = &mut *self;
        match intake {
            None => Pin::new(stream).poll_read(cx, buf),
            Some(intake) => intake.poll_read(buf, |buf| Pin::new(stream).poll_read(cx, buf)),
        }
    }
}
