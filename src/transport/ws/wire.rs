//! The bytes under WebSocket messages, watched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::marks::{MAX_HEADER, Marks};
use crate::codec::FrameError;
use crate::conn::CloseReason;
use crate::transport::{Boxed, Passed};

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
    sent: Sent,
}

/// What of the messages to the peer the socket has.
struct Sent {
    /// Where the output is, as the transport below was given it.
    marks: Marks,
    /// How many bytes that was given.
    given: u64,
    /// How much of that it had when this began.
    from: u64,
    /// Payload bytes of the messages that the socket has whole.
    whole: u64,
}

impl Sent {
    fn new(below: &Boxed, marks: Marks) -> Self {
        Self { marks, given: 0, from: whole_of(below), whole: 0 }
    }

    /// What the transport below keeps is at most a record, and none of that counts.
    fn settle(&mut self, below: &Boxed) {
        if whole_of(below) - self.from >= self.given {
            self.whole = self.marks.whole();
        }
    }
}

fn whole_of(below: &Boxed) -> u64 {
    below.passed().map_or(u64::MAX, |passed| passed.whole)
}

/// So many reads are a turn.
const TURN: u32 = 16;

/// A masked fragment of a single byte has seven. A message may have so many times the bytes of its frame.
const FRAGMENTED: usize = 8;

impl Wire {
    /// `marks` says where the input is, `sent` where the output is.
    pub(super) fn new(below: Boxed, marks: Marks, sent: Marks, largest: usize) -> Self {
        let sent = Sent::new(&below, sent);
        Self { below, marks, ended: false, come: false, rest: false, largest, reads: 0, sent }
    }

    /// How far messages have come: payload bytes that the socket has in whole messages.
    pub(super) fn passed(&self) -> Option<Passed> {
        let below = self.below.passed()?;
        Some(Passed { whole: self.sent.whole, ..below })
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

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { below, sent, .. } = &mut *self;
        let written = Pin::new(&mut *below).poll_write(cx, buf);
        // What was given before this may be whole now, even if nothing more is taken.
        sent.settle(below);
        let n = ready!(written)?;
        sent.marks.follow(&buf[..n]);
        sent.given += n as u64;
        sent.settle(below);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { below, sent, .. } = &mut *self;
        let flushed = Pin::new(&mut *below).poll_flush(cx);
        sent.settle(below);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}
