//! A transport in TLS: rustls between the reader's buffer and what lies below.
//!
//! rustls is driven here, and not by tokio-rustls, whose stream reads 4 KiB at a time and returns one record a
//! call. Here one read takes as much as has come, and all of it is decrypted at once: nothing is left in
//! between that a connection would have to keep.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::{Connection, Error as RustlsError};
use tokio::io::AsyncWrite;

use super::records::Records;
use super::rustls_error;
use crate::codec::FrameError;
use crate::conn::CloseReason;
use crate::transport::{Boxed, Overhead, Passed, Signs, Transport};

/// What one read takes at most: a message of 64 KiB, in its records.
const CHUNK: usize = 68 * 1024;

/// The most plaintext that a record has, RFC 8446, 5.1.
const RECORD: usize = 16 * 1024;

thread_local! {
    /// What is read into by all connections of a thread. Between two reads nothing is in it: rustls keeps what
    /// has come of a record that is not complete.
    static WIRE: Cell<BytesMut> = Cell::default();
}

/// A transport in TLS.
///
/// What is written makes one record at a time, and no other before the socket has all of it. So what
/// the peer cannot use of what was written is known to the byte: the record that is not complete.
pub(super) struct Encrypted {
    below: Boxed,
    session: Connection,
    records: Records,
    /// Something has come since this was asked.
    come: bool,
    /// Bytes of complete records that were not for the reader, since this was asked.
    overhead: Overhead,
    /// What came behind the handshake.
    early: BytesMut,
    /// What comes is thrown away.
    away: bool,
    /// Nothing more is read: the peer has said so, or what it sent makes no sense.
    end: Option<Result<(), RustlsError>>,
    /// Bytes that were written.
    given: u64,
    passed: Passed,
}

impl Encrypted {
    /// Shakes hands.
    pub(super) async fn shake_hands(
        below: Boxed,
        session: impl Into<Connection>,
    ) -> io::Result<Box<Self>> {
        let mut session: Connection = session.into();
        // One record at a time: it is written when nothing else waits.
        session.set_buffer_limit(Some(RECORD));
        let mut new = Box::new(Self {
            below,
            session,
            records: Records::default(),
            come: false,
            overhead: Overhead::default(),
            early: BytesMut::new(),
            away: false,
            end: None,
            given: 0,
            passed: Passed::default(),
        });
        poll_fn(|cx| new.poll_shake_hands(cx)).await?;
        new.overhead = Overhead { handshake: new.overhead.bytes, ..Overhead::default() };
        Ok(new)
    }

    /// What the handshake has led to.
    pub(super) fn session(&self) -> &Connection {
        &self.session
    }

    fn poll_shake_hands(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What the peer did wrong says more than that it does not take the alert.
            if !matches!(self.end, Some(Err(_))) {
                ready!(self.poll_flush_records(cx))?;
                if !self.session.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut early = BytesMut::new();
            if ready!(self.poll_read(&mut early, cx))?.is_none() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // Only the read that ends the handshake can bring any.
            self.early = early;
        }
    }

    /// Reads once, and decrypts what came into `buffer`. Ready with how many bytes that gave, `None` at the end
    /// of the input.
    fn poll_read(
        &mut self,
        buffer: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<usize>>> {
        match &self.end {
            Some(Ok(())) if !self.away => return Poll::Ready(Ok(None)),
            Some(Err(error)) if !self.away => {
                let error = io::Error::new(io::ErrorKind::InvalidData, error.clone());
                // The peer is told what it did wrong if the socket takes that now.
                let _ = self.poll_flush_records(cx);
                return Poll::Ready(Err(error));
            }
            _ => {}
        }
        let mut wire = WIRE.take();
        wire.reserve(CHUNK);
        let read = self.below.poll_fill(&mut wire, cx).map(|read| match read? {
            // Without TLS's word for it. Whether a frame was cut is seen in the frames, as on a bare socket.
            0 => Ok(None),
            // The reset of a socket that has unread bytes would take the last replies from the peer.
            n if self.end.is_some() => Ok(Some(n)),
            _ => self.decrypt(&wire, buffer).map(Some),
        });
        wire.clear();
        WIRE.set(wire);
        read
    }

    /// Decrypts what came into `buffer`. Returns how many bytes that gave.
    fn decrypt(&mut self, mut wire: &[u8], buffer: &mut BytesMut) -> io::Result<usize> {
        self.come = true;
        let (from, come) = (buffer.len(), self.records.held() + wire.len());
        self.records.follow(wire);
        let complete = come - self.records.held();
        // rustls takes a part at a time, and nothing behind the peer's last word.
        while !wire.is_empty() && self.end.is_none() {
            self.session.read_tls(&mut wire)?;
            match self.session.process_new_packets() {
                Ok(state) if state.peer_has_closed() => self.end = Some(Ok(())),
                Ok(_) => {}
                Err(error) => self.end = Some(Err(error)),
            }
            // What came before an error was sent in order, and is handled.
            let mut plain = self.session.reader();
            while let Ok(chunk @ [_, ..]) = plain.fill_buf() {
                let n = chunk.len();
                buffer.extend_from_slice(chunk);
                plain.consume(n);
            }
        }
        // Its memory for large records it gives back when it is about to read again.
        let _ = self.session.read_tls(&mut io::empty());
        let plain = buffer.len() - from;
        self.overhead.bytes += complete.saturating_sub(plain) as u64;
        Ok(plain)
    }

    /// Writes the records that there are. Ready when the transport below has all of them.
    fn poll_flush_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut below = Below { writer: self.below.writer(), cx };
            match self.session.write_tls(&mut below) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.passed.to_socket += n as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.passed.whole = self.given;
        Poll::Ready(Ok(()))
    }
}

impl Transport for Encrypted {
    fn poll_fill(
        &mut self,
        buffer: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            buffer.extend_from_slice(&early);
            return Poll::Ready(Ok(early.len()));
        }
        match ready!(self.poll_read(buffer, cx)) {
            // A part of a record, or one of TLS's own: nothing that the reader may take for input. More may have
            // come, but the other tasks of the thread have their turn first.
            Ok(Some(0)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(read) => Poll::Ready(Ok(read.unwrap_or(0))),
            Err(error) => Poll::Ready(Err(match rustls_error(&error) {
                // What the peer says of what it got is not about what it sent.
                None | Some(RustlsError::AlertReceived(_)) => error,
                Some(_) => {
                    io::Error::other(CloseReason::Protocol(FrameError::Malformed("a TLS record")))
                }
            })),
        }
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        self
    }

    fn read_away(&mut self) {
        self.away = true;
        self.below.read_away();
    }

    fn passed(&self) -> Option<Passed> {
        Some(self.passed)
    }

    fn below(&self) -> Option<&dyn Transport> {
        Some(&*self.below)
    }

    fn held(&self) -> usize {
        self.records.held() + self.early.len() + self.below.held()
    }

    fn signs(&mut self) -> Signs {
        Signs { alive: std::mem::take(&mut self.come), part: self.records.held() > 0 }
    }

    fn take_overhead(&mut self) -> Overhead {
        std::mem::take(&mut self.overhead)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush_records(cx))?;
        let n = self.session.writer().write_vectored(bufs)?;
        self.given += n as u64;
        // What is not taken now is written by the next call.
        match self.poll_flush_records(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(n)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_records(cx))?;
        Pin::new(self.below.writer()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sent once, however often this is called.
        self.session.send_close_notify();
        ready!(self.poll_flush_records(cx))?;
        match ready!(Pin::new(self.below.writer()).poll_shutdown(cx)) {
            // The peer has reset the connection: there is nothing left to shut down.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

/// What rustls writes to: its "not now" is an error.
struct Below<'a, 'b> {
    writer: &'a mut (dyn AsyncWrite + Unpin),
    cx: &'a mut Context<'b>,
}

impl Write for Below<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.writer).poll_write_vectored(self.cx, bufs) {
            Poll::Ready(wrote) => wrote,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// It asks for none.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
