//! A byte stream of frames, each in a binary message.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::WRITE_BUFFER;
use super::code::{close_frame, reason_of, reason_of_error};
use super::wire::Wire;
use crate::codec::framing::Found;
use crate::codec::{FrameCodec, FrameError};
use crate::conn::{CloseReason, Intake};
use crate::transport::{Passed, Signs, Transport};

/// So many messages are taken before others get their turn, most of which may be pings.
const RUN: usize = 128;

/// What a peer that is in error may still send before its socket is closed under it: enough for a message
/// that was much too long, and not for a flood.
const READ_AWAY: usize = 4 * 1024 * 1024;

/// A WebSocket that is read and written as the frames in its messages.
pub(super) struct Messages {
    stream: WebSocketStream<Wire>,
    /// Of what the peer sends.
    codec: FrameCodec,
    /// Of what it is sent, which has no such limit.
    out_codec: FrameCodec,
    /// What is left of a frame that was read in part.
    incoming: Bytes,
    /// Why nothing more comes.
    over: Option<CloseReason>,
    /// What has been written of a frame.
    outgoing: BytesMut,
    /// What is left of a large frame of which fragments are sent.
    fragments: Bytes,
    /// The first of them is.
    fragmented: bool,
    /// Bytes given to the library since the last flush that was done.
    unflushed: usize,
    /// The library has a pong to send.
    pongs: bool,
    /// The peer is told of the end, or cannot be.
    ended: bool,
    /// The peer has sent a close frame: nothing can be sent any more.
    deaf: bool,
    /// Bytes that were read away after an error.
    read_away: usize,
    /// Something came that was no frame.
    alive: bool,
}

impl Messages {
    pub(super) fn new(stream: WebSocketStream<Wire>, codec: FrameCodec) -> Self {
        Self {
            stream,
            out_codec: codec.unlimited(),
            codec,
            incoming: Bytes::new(),
            over: None,
            outgoing: BytesMut::new(),
            fragments: Bytes::new(),
            fragmented: false,
            unflushed: 0,
            pongs: false,
            ended: false,
            deaf: false,
            read_away: 0,
            alive: false,
        }
    }

    /// Takes the next message, or the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The library would keep a pong for each ping of a peer that does not take them.
        if self.pongs {
            // An error is found by the next read, too.
            let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
            self.pongs = false;
        }
        let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(cx) else {
            let wire = self.stream.get_ref();
            if !wire.ended {
                return Poll::Pending;
            }
            self.over = Some(match wire.marks.part() {
                0 => CloseReason::PeerClosed,
                have => CloseReason::Protocol(FrameError::Truncated { have }),
            });
            return Poll::Ready(());
        };
        match next {
            Some(Ok(Message::Binary(message))) => match whole_frame(&self.codec, &message) {
                Ok(()) => self.incoming = message,
                Err(error) => self.over = Some(CloseReason::Protocol(error)),
            },
            Some(Ok(Message::Text(_))) => {
                self.over = Some(CloseReason::Protocol(FrameError::Text));
            }
            Some(Ok(Message::Close(frame))) => {
                self.over = Some(reason_of(frame.as_ref()));
                self.deaf = true;
            }
            Some(Ok(Message::Ping(_))) => (self.alive, self.pongs) = (true, true),
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => self.alive = true,
            Some(Err(error)) => self.over = Some(reason_of_error(error)),
            None => self.over = Some(CloseReason::PeerClosed),
        }
        Poll::Ready(())
    }

    /// Reads a peer's last bytes away, whatever they are, up to its close frame. The peer is owed
    /// the time to read why it was closed; the library, which has found an error, reads no more.
    fn poll_rest(&mut self, buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.stream.get_mut();
        wire.rest = true;
        if wire.ended || wire.marks.closed() || self.read_away > READ_AWAY {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *wire).poll_read(cx, buf);
        self.read_away += buf.filled().len() - before;
        if wire.ended { Poll::Ready(Ok(())) } else { read }
    }

    /// Gives the library what is written, when it has not much.
    ///
    /// A large frame goes in fragments of its message: the library never gives the memory back that
    /// it needed for the largest.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        loop {
            while !self.fragments.is_empty() {
                if self.unflushed >= WRITE_BUFFER {
                    ready!(self.poll_flush_stream(cx))?;
                }
                let n = self.fragments.len().min(WRITE_BUFFER);
                let last = n == self.fragments.len();
                let data = if self.fragmented { Data::Continue } else { Data::Binary };
                let fragment = self.fragments.split_to(n);
                let fragment = Frame::message(fragment, OpCode::Data(data), last);
                self.unflushed += n;
                self.fragmented = !last;
                self.start_send(Message::Frame(fragment))?;
            }
            let found = self.out_codec.find(&self.outgoing).map_err(io::Error::other)?;
            let Some(Found { len, .. }) = found else { return Poll::Ready(Ok(())) };
            let frame = self.outgoing.split_to(len).freeze();
            if len > WRITE_BUFFER {
                self.fragments = frame;
            } else {
                self.unflushed += len;
                self.start_send(Message::Binary(frame))?;
            }
        }
    }

    fn start_send(&mut self, message: Message) -> io::Result<()> {
        Pin::new(&mut self.stream).start_send(message).map_err(broken)
    }

    fn poll_flush_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(broken)?;
        if self.deaf {
            // The library does not flush what is below it after the peer's close frame.
            ready!(Pin::new(&mut self.stream.get_mut().below).poll_flush(cx))?;
        }
        self.unflushed = 0;
        self.pongs = false;
        Poll::Ready(Ok(()))
    }
}

/// A message is one frame, no less and no more.
fn whole_frame(codec: &FrameCodec, message: &[u8]) -> Result<(), FrameError> {
    match codec.find(message)? {
        Some(found) if found.len == message.len() => Ok(()),
        _ => Err(FrameError::NotOneFrame { have: message.len() }),
    }
}

impl Transport for Messages {
    fn poll_end(
        mut self: Pin<&mut Self>,
        why: &CloseReason,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.ended, true) {
            let close = Message::Close(Some(close_frame(why)));
            // A peer that closed first has its answer already.
            let _ = self.start_send(close);
        }
        // The socket is closed when the peer has answered, which it is waited for.
        self.poll_flush_stream(cx)
    }

    fn answers_end(&self) -> bool {
        true
    }

    fn passed(&self) -> Option<Passed> {
        self.stream.get_ref().passed()
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.stream.get_ref().below.socket()
    }

    fn is_deaf(&self) -> bool {
        self.deaf
    }

    fn held(&self) -> usize {
        let wire = self.stream.get_ref();
        wire.marks.part() + wire.below.held()
    }

    fn intake(&self) -> Option<Rc<Intake>> {
        self.stream.get_ref().below.intake()
    }

    fn signs(&mut self) -> Signs {
        let wire = self.stream.get_mut();
        let begun = wire.below.signs().part || wire.marks.part() > 0;
        let come = std::mem::take(&mut wire.come);
        let part = self.over.is_none() && begun;
        Signs { alive: std::mem::take(&mut self.alive) || come, part }
    }
}

impl AsyncRead for Messages {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.get_mut().begin_turn();
        let before = buf.filled().len();
        let mut waits = false;
        for _ in 0..RUN {
            let n = self.incoming.len().min(buf.remaining());
            buf.put_slice(&self.incoming[..n]);
            self.incoming.advance(n);
            if buf.remaining() == 0 || self.over.is_some() {
                break;
            }
            if self.poll_message(cx).is_pending() {
                waits = true;
                break;
            }
        }
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        match &self.over {
            Some(CloseReason::PeerClosed) => Poll::Ready(Ok(())),
            Some(CloseReason::Protocol(_)) if self.ended => self.poll_rest(buf, cx),
            Some(why) => Poll::Ready(Err(io::Error::other(why.clone()))),
            None => {
                if !waits {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Messages {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if self.unflushed >= WRITE_BUFFER {
            ready!(self.poll_flush_stream(cx))?;
        }
        let taken = buf.len().min(WRITE_BUFFER);
        self.outgoing.extend_from_slice(&buf[..taken]);
        // What has to wait for a flush goes on with it.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.outgoing.is_empty() {
            // An idle connection holds no memory for it.
            self.outgoing = BytesMut::new();
        }
        self.poll_flush_stream(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.get_mut().below).poll_shutdown(cx)
    }
}

/// Why writing failed: a peer that has sent a close frame takes no more.
fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}
