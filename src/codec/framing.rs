//! What a protocol of the user's own has to say.

use std::fmt;
use std::ops::Range;

use bytes::BytesMut;

use super::FrameError;
use crate::frame::MsgId;
use crate::unwind::Guard;

/// How frames stand on the wire, for protocols other than the built-in
/// [`WireFormat`](crate::WireFormat)s: give one to [`Server::framing`](crate::Server::framing), and
/// to [`FrameCodec::framed`](crate::FrameCodec::framed) for a client.
///
/// [`LengthField`](crate::framing::LengthField), [`Delimited`](crate::framing::Delimited) and
/// [`Htlv`](crate::framing::Htlv) are such, and cover most.
///
/// A panic in [`find`](Self::find) ends the connection as a protocol error; with one in the other methods
/// there is no frame.
///
/// A protocol whose frames are an id, a length, both of one byte, and a payload:
///
/// ```
/// use bytes::{BufMut, BytesMut};
/// use tokio_util::codec::{Decoder, Encoder};
/// use zinxide::framing::{Found, Framing};
/// use zinxide::{Frame, FrameCodec, FrameError, MsgId};
///
/// #[derive(Debug)]
/// struct Tiny;
///
/// impl Framing for Tiny {
///     fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
///         let [id, len, rest @ ..] = src else { return Ok(None) };
///         let (id, len) = (MsgId::from(*id), usize::from(*len));
///         Ok((rest.len() >= len).then_some(Found { id, payload: 2..2 + len, len: 2 + len }))
///     }
///
///     fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
///         dst.put_slice(&[id as u8, payload.len() as u8]);
///         dst.put_slice(payload);
///     }
///
///     fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
///         id < 256 && payload.len() < 256
///     }
///
///     fn overhead(&self) -> usize {
///         2
///     }
/// }
///
/// let mut codec = FrameCodec::framed(Tiny, 255);
/// let mut bytes = BytesMut::new();
/// codec.encode(Frame::new(7, "hi"), &mut bytes)?;
/// assert_eq!(&bytes[..], b"\x07\x02hi");
/// assert_eq!(codec.decode(&mut bytes)?, Some(Frame::new(7, "hi")));
/// # Ok::<(), zinxide::CodecError>(())
/// ```
pub trait Framing: fmt::Debug + Send + Sync + 'static {
    /// Finds the frame at the front of what has come; `None` if it is not there as a whole.
    ///
    /// It is asked again with the same bytes, with more of them when they come, and with none behind the
    /// frames it has found, and must answer the same each time: a frame must not depend on what follows
    /// it. What it leaves unfound beyond the largest frame is a protocol error. Over WebSocket it is asked
    /// about one whole message at a time, which must be a frame, no less and no more: `src` is that message.
    ///
    /// # Errors
    ///
    /// [`FrameError`], as soon as it is clear that there will be no frame, or one with a payload above
    /// `max_payload` bytes.
    fn find(&self, src: &[u8], max_payload: u32) -> Result<Option<Found>, FrameError>;

    /// Appends a frame to `dst`.
    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut);

    /// Whether there is a frame for this id and payload. What cannot be framed comes back as
    /// [`SendError::NoFrame`](crate::SendError::NoFrame).
    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        let _ = (id, payload);
        true
    }

    /// How many bytes a frame has beside its payload, at most.
    fn overhead(&self) -> usize;
}

/// A framing of the application, which is dropped with the last connection that keeps it.
impl<F: Framing> Framing for Guard<F> {
    fn find(&self, src: &[u8], max_payload: u32) -> Result<Option<Found>, FrameError> {
        (**self).find(src, max_payload)
    }

    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        (**self).put(id, payload, dst);
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        (**self).can_put(id, payload)
    }

    fn overhead(&self) -> usize {
        (**self).overhead()
    }
}

/// A frame in what was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: MsgId,
    /// Where its payload is.
    pub payload: Range<usize>,
    /// How long it is: the next one begins there. Not before the end of the payload, and not 0.
    pub len: usize,
}

impl Found {
    /// The same frame behind so many other bytes.
    #[inline]
    pub(crate) fn behind(self, start: usize) -> Self {
        let Self { id, payload, len } = self;
        Self { id, payload: start + payload.start..start + payload.end, len }
    }
}

/// For tests: takes any message as one frame, with the id 1.
#[cfg(all(test, feature = "ws"))]
#[derive(Debug)]
pub(crate) struct AnyMessage;

#[cfg(all(test, feature = "ws"))]
impl Framing for AnyMessage {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        Ok(Some(Found { id: 1, payload: 0..src.len(), len: src.len() }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.extend_from_slice(payload);
    }

    fn overhead(&self) -> usize {
        0
    }
}
