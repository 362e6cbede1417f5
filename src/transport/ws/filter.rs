//! A WebSocket as a transport: a [`Door`] between the reader's buffer and what lies below.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::door::Door;
use crate::codec::FrameCodec;
use crate::codec::envelope::Envelope;
use crate::conn::CloseReason;
use crate::transport::{Bounds, Boxed, Overhead, Signs, Transport};

/// Frames go out as they are written: their envelopes are the codec's.
pub(crate) struct Filter {
    below: Boxed,
    door: Door,
    /// What came behind the handshake.
    rest: Vec<u8>,
}

impl Filter {
    pub(crate) fn new(below: Boxed, envelope: Envelope, codec: FrameCodec) -> Self {
        Self { below, door: Door::new(envelope, codec), rest: Vec::new() }
    }

    /// The peer's part of the handshake was `len` bytes long, and `rest` came behind it.
    pub(super) fn behind_handshake(mut self, len: usize, rest: Vec<u8>) -> Self {
        self.door.note_handshake(len);
        self.rest = rest;
        self
    }
}

impl Transport for Filter {
    fn poll_fill(
        &mut self,
        buffer: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Self { below, door, rest, .. } = self;
        if let Some(end) = door.end() {
            return Poll::Ready(end);
        }
        let from = buffer.len();
        let n = if rest.is_empty() {
            ready!(below.poll_fill(buffer, cx))?
        } else {
            let rest = std::mem::take(rest);
            buffer.extend_from_slice(&rest);
            rest.len()
        };
        match n {
            0 => door.end_input(),
            _ => door.take(buffer, from),
        }
        Poll::Ready(match door.end() {
            // There is no whole message to be handed out before.
            Some(end) if buffer.len() <= door.bounds().open => end,
            _ => Ok(n),
        })
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        self.below.writer()
    }

    fn bounds(&mut self) -> Option<&mut Bounds> {
        Some(self.door.bounds())
    }

    fn read_away(&mut self) {
        self.door.read_away();
        self.below.read_away();
    }

    fn aside(&mut self) -> Option<Bytes> {
        self.door.aside()
    }

    fn last_words(&mut self, why: &CloseReason) -> Option<Bytes> {
        self.door.last_words(why)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_answered = self.door.is_answered();
        let below = Pin::new(self.below.writer());
        // The server closes the socket when both have sent a close frame. A peer that has not yet is waited
        // for, and may have something to send before it.
        if is_answered { below.poll_shutdown(cx) } else { below.poll_flush(cx) }
    }

    fn below(&self) -> Option<&dyn Transport> {
        Some(&*self.below)
    }

    fn is_deaf(&self) -> bool {
        self.door.is_closed()
    }

    fn held(&self) -> usize {
        self.door.held() + self.below.held()
    }

    fn signs(&mut self) -> Signs {
        let below = self.below.signs();
        Signs { part: below.part || self.door.is_inside(), ..below }
    }

    fn take_overhead(&mut self) -> Overhead {
        let (below, own) = (self.below.take_overhead(), self.door.take_overhead());
        let handshake = below.handshake + own.handshake;
        Overhead { handshake, bytes: below.bytes + own.bytes, ..own }
    }

    fn drop_replies(&mut self) -> usize {
        self.door.drop_pongs()
    }
}
