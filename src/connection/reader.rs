//! Bytes from the socket to frames, in memory that an idle connection does not keep.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use crate::codec::{FrameCodec, FrameError};
use crate::frame::Frame;
use crate::transport::Transport;

/// What one read takes at most.
const CHUNK: usize = 64 * 1024;

/// Less room than this is not worth a read.
const LEAST_ROOM: usize = 16 * 1024;

/// The read buffer of a worker: lent to the connection that reads, whole again when the payloads
/// cut from it are dropped.
#[derive(Debug, Default)]
pub(crate) struct ReadPool(RefCell<Option<BytesMut>>);

impl ReadPool {
    fn take(&self) -> Option<BytesMut> {
        self.0.take()
    }

    fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut kept = self.0.borrow_mut();
        // A rest that was put aside is no match for a chunk.
        if kept.as_ref().is_none_or(|kept| kept.capacity() <= buffer.capacity()) {
            *kept = Some(buffer);
        }
    }
}

/// The part of a connection's input that is not yet a frame.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
}

impl Reader {
    /// Bytes received that are not a frame yet.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    #[inline]
    pub(crate) fn next_frame(&mut self, codec: &FrameCodec) -> Result<Option<Frame>, FrameError> {
        codec.next_frame(&mut self.buffer)
    }

    /// Reads once. Ready with how many bytes came, 0 at the end of the stream.
    ///
    /// The buffer grows with what has come, never with what a header announces.
    pub(crate) fn poll_fill(
        &mut self,
        transport: &mut dyn Transport,
        pool: &ReadPool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < LEAST_ROOM
            && let Some(mut chunk) = pool.take()
        {
            chunk.extend_from_slice(&self.buffer);
            self.buffer = chunk;
        }
        if self.buffer.capacity() - self.buffer.len() < LEAST_ROOM {
            // Allocates only if payloads cut from this buffer are still in use.
            self.buffer.reserve(self.buffer.len().max(CHUNK));
        }
        poll_read_buf(Pin::new(transport), cx, &mut self.buffer)
    }

    /// Gives back what is not needed while nothing comes.
    pub(crate) fn rest(&mut self, pool: &ReadPool) {
        if self.buffer.len() < LEAST_ROOM && self.buffer.capacity() > self.buffer.len() {
            let rest = match &self.buffer[..] {
                [] => BytesMut::new(),
                rest => BytesMut::from(rest),
            };
            pool.give(std::mem::replace(&mut self.buffer, rest));
        }
    }

    /// Forgets the input.
    pub(crate) fn recycle(&mut self, pool: &ReadPool) {
        pool.give(std::mem::take(&mut self.buffer));
    }
}
