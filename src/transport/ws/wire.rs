//! The bytes under WebSocket messages, watched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::marks::Marks;
use crate::transport::Boxed;

/// A transport for the WebSocket library, which is not told of the end of the input after the
/// handshake: it would end the output as well, and answers may be due.
pub(super) struct Wire {
    pub(super) below: Boxed,
    pub(super) marks: Marks,
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn new(below: Boxed, marks: Marks) -> Self {
        Self { below, marks, ended: false }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.ended {
            ready!(Pin::new(&mut self.below).poll_read(cx, buf))?;
        }
        let come = &buf.filled()[before..];
        if come.is_empty() {
            self.ended = true;
            let handshake = self.marks.in_head();
            return if handshake { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        self.marks.follow(come);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.below).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}
