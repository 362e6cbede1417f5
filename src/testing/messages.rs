//! Frames in WebSocket messages as a byte stream, by a library that is not the server's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::stream::TestWire;
use crate::codec::FrameCodec;
use crate::conn::HandshakeError;

/// A client's side.
pub(super) struct Messages {
    stream: WebSocketStream<TestWire>,
    codec: FrameCodec,
    /// What is left of a message that was read in part.
    incoming: Bytes,
    /// What was written of a frame.
    outgoing: BytesMut,
    wire: TestWire,
    is_over: bool,
}

impl Messages {
    pub(super) async fn connect(
        request: Request<()>,
        codec: &FrameCodec,
        wire: TestWire,
    ) -> Result<Self, HandshakeError> {
        match client_async(request, wire.clone()).await {
            Ok((stream, _)) => Ok(Self {
                stream,
                codec: codec.unlimited(),
                incoming: Bytes::new(),
                outgoing: BytesMut::new(),
                wire,
                is_over: false,
            }),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                let why = String::from_utf8_lossy(body).into_owned();
                Err(HandshakeError::Http { status: response.status().as_u16(), why })
            }
            Err(Error::Io(error)) => Err(error.into()),
            Err(error) => Err(HandshakeError::WebSocket(error.to_string())),
        }
    }

    /// Sends the whole frames of what was written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(found) = self.codec.find(&self.outgoing).map_err(io::Error::other)? {
            ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(broken)?;
            let frame = self.outgoing.split_to(found.len).freeze();
            Pin::new(&mut self.stream).start_send(Message::Binary(frame)).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}

impl AsyncRead for Messages {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.incoming.is_empty() {
            if this.is_over {
                // The reply to a close frame. A server that is gone does not wait for it.
                let _ = ready!(Pin::new(&mut this.stream).poll_flush(cx));
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.stream).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => this.incoming = message,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                None
                | Some(Ok(Message::Close(_)))
                | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    this.is_over = true;
                }
                Some(Ok(message)) => {
                    let text = message.into_text().unwrap_or_else(|_| Utf8Bytes::from_static(""));
                    return Poll::Ready(Err(io::Error::other(format!("it is no frame: {text}"))));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let n = this.incoming.len().min(buf.remaining());
        buf.put_slice(&this.incoming[..n]);
        this.incoming.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Messages {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        self.outgoing.extend_from_slice(buf);
        // What has to wait goes on with the next write, or the flush.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
