//! Where a peer is in the records that it sends: between two, or inside one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Boxed;

/// Type, version and length.
const HEADER: usize = 5;

/// A transport whose input is followed: rustls does not tell a record that has begun from none at all,
/// and a peer may not take for ever to send one.
pub(super) struct Records {
    pub(super) below: Boxed,
    /// Something has come since this was asked.
    pub(super) come: bool,
    header: [u8; HEADER],
    have: usize,
    /// How much of the record's payload is still to come.
    payload: usize,
    /// How long the payload of the record is in all.
    len: usize,
    /// What was read and not asked for yet.
    ahead: BytesMut,
    /// How many bytes were read and asked for.
    read: u64,
    /// How many bytes the transport below has taken.
    pub(super) taken: u64,
}

impl Records {
    pub(super) fn new(below: Boxed) -> Self {
        Self {
            below,
            come: false,
            header: [0; HEADER],
            have: 0,
            payload: 0,
            len: 0,
            ahead: BytesMut::new(),
            read: 0,
            taken: 0,
        }
    }

    /// Whether a record has begun and is not complete.
    pub(super) fn part(&self) -> bool {
        self.have > 0 || self.payload > 0
    }

    /// How much has come of a record that is not complete.
    pub(super) fn held(&self) -> usize {
        self.begun() + self.ahead.len()
    }

    fn begun(&self) -> usize {
        match self.payload {
            0 => self.have,
            to_come => HEADER + self.len - to_come,
        }
    }

    /// How many bytes were read in complete records.
    pub(super) fn complete(&self) -> u64 {
        self.read - self.begun() as u64
    }

    fn follow(&mut self, mut come: &[u8]) {
        while let Some((&byte, rest)) = come.split_first() {
            if self.payload > 0 {
                let n = come.len().min(self.payload);
                self.payload -= n;
                come = &come[n..];
                continue;
            }
            self.header[self.have] = byte;
            self.have += 1;
            come = rest;
            if self.have == HEADER {
                self.have = 0;
                self.len = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.payload = self.len;
            }
        }
    }
}

impl AsyncRead for Records {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            this.ahead.reserve(buf.remaining());
            if ready!(this.below.poll_fill(&mut this.ahead, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let n = this.ahead.len().min(buf.remaining());
        let come = this.ahead.split_to(n);
        this.follow(&come);
        this.read += n as u64;
        buf.put_slice(&come);
        this.come = true;
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.below).poll_write(cx, buf))?;
        self.taken += n as u64;
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.below).poll_write_vectored(cx, bufs))?;
        self.taken += n as u64;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.below.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}
