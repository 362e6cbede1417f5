//! What a connection finds in the bytes of a WebSocket peer, without a connection: for the fuzz targets.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncWriteExt, duplex};

use crate::codec::envelope::Envelope;
use crate::codec::{FrameCodec, FrameError};
use crate::conn::CloseReason;
use crate::connection::{ReadPool, Reader};
use crate::frame::Frame;
use crate::transport::ws::Filter;
use crate::transport::{Plain, Transport};

/// What came of a peer's bytes.
#[doc(hidden)]
#[derive(Debug)]
pub struct Incoming {
    /// The frames in whole messages.
    pub frames: Vec<Frame>,
    /// What goes back: pongs, and a close frame at the end.
    pub sent: Vec<Bytes>,
    /// Why the connection ends.
    pub why: CloseReason,
}

/// Reads what a client sends, or a server, in these pieces, and then the end of it. After each piece it
/// writes what it has to reply.
#[doc(hidden)]
pub fn read_ws<'a>(
    from_client: bool,
    codec: &FrameCodec,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Incoming {
    let (peer, stream) = duplex(usize::MAX);
    let envelope = if from_client { Envelope::Message } else { Envelope::Masked };
    let below = Box::new(Plain::new(stream));
    let mut filter = Filter::new(below, envelope, codec.clone());
    let (mut reader, pool) = (Reader::default(), ReadPool::default());
    let (mut frames, mut sent) = (Vec::new(), Vec::new());
    let (mut peer, mut pieces) = (Some(peer), pieces);
    let why = loop {
        match (&mut peer, pieces.next()) {
            (Some(peer), Some(piece)) => drop(peer.write_all(piece).now_or_never()),
            _ => peer = None,
        }
        let end = read(&mut reader, &mut filter, &pool, codec, &mut frames);
        sent.extend(std::iter::from_fn(|| filter.aside()));
        if let Some(why) = end {
            break why;
        }
        reader.rest(&pool);
    };
    sent.extend(filter.last_words(&why));
    Incoming { frames, sent, why }
}

/// Reads what has come. Returns why there will be no more, if so.
fn read(
    reader: &mut Reader,
    filter: &mut Filter,
    pool: &ReadPool,
    codec: &FrameCodec,
    frames: &mut Vec<Frame>,
) -> Option<CloseReason> {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match reader.next_frame(codec) {
            Ok(Some(found)) => {
                frames.push(Frame::new(found.id, reader.frames().slice(found.payload)));
                reader.pass(found.len);
                continue;
            }
            Ok(None) => {}
            Err(error) => return Some(CloseReason::Protocol(error)),
        }
        let filled = reader.poll_fill(filter, pool, &mut cx);
        reader.note_messages(filter);
        match filled {
            Poll::Pending => return None,
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(0)) => {
                return Some(match reader.len() {
                    0 => CloseReason::PeerClosed,
                    have => CloseReason::Protocol(FrameError::Truncated { have }),
                });
            }
            Poll::Ready(Err(error)) => return Some(CloseReason::of(error)),
        }
    }
}
