//! The bytes under WebSocket messages, watched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::marks::{MAX_HEADER, Marks};
use crate::codec::FrameError;
use crate::conn::CloseReason;
use crate::transport::Boxed;

/// A transport for the WebSocket library, which is not told of the end of the input after the
/// handshake: it would end the output as well, and answers may be due.
///
/// The library reads on until it has a whole message, however many fragments that has. So it is given no
/// more than a few reads in a turn, and no more bytes of one message than the largest can have.
pub(super) struct Wire {
    pub(super) below: Boxed,
    pub(super) marks: Marks,
    pub(super) ended: bool,
    /// Something has come since this was asked.
    pub(super) come: bool,
    /// What comes is read away, whatever it is.
    pub(super) rest: bool,
    /// How many bytes the largest frame has.
    largest: usize,
    /// Reads since the turn began.
    reads: u32,
}

/// So many reads are a turn.
const TURN: u32 = 16;

/// A masked fragment of a single byte has seven. A message may have so many times the bytes of its frame.
const FRAGMENTED: usize = 8;

impl Wire {
    pub(super) fn new(below: Boxed, marks: Marks, largest: usize) -> Self {
        Self { below, marks, ended: false, come: false, rest: false, largest, reads: 0 }
    }

    pub(super) fn begin_turn(&mut self) {
        self.reads = 0;
    }

    fn check(&self) -> io::Result<()> {
        let most = self.largest.saturating_mul(FRAGMENTED).saturating_add(MAX_HEADER);
        if self.marks.part() <= most {
            return Ok(());
        }
        let why = FrameError::MessageTooLong { max: self.largest };
        Err(io::Error::other(CloseReason::Protocol(why)))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // Not after a read: the library has yet to find the whole messages in it.
        if !self.rest {
            self.check()?;
        }
        if self.reads >= TURN && !self.marks.in_head() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.reads = self.reads.saturating_add(1);
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
        self.come = true;
        Poll::Ready(Ok(()))
    }
}

writes_through!(Wire, below);
