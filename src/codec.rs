//! Frames from bytes and bytes from frames, on tokio-util's codec traits.

mod delimited;
pub(crate) mod envelope;
pub(crate) mod framing;
mod htlv;
mod length_field;
mod wire;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::frame::{Frame, MsgId};
use crate::unwind::{Guard, contained};
pub use delimited::Delimited;
use framing::{Found, Framing};
pub use htlv::Htlv;
pub use length_field::{ByteOrder, LengthField};
pub use wire::WireFormat;
pub(crate) use wire::{HEADER_LEN, Header};

/// The codec of a [`WireFormat`], or of another [`Framing`], with a limit on what
/// a peer may send.
///
/// Use it with [`tokio_util::codec::Framed`] to write a client.
///
/// # Security
///
/// A header that announces more than the limit is refused before any room is made for its
/// payload, and room is made only for bytes that have arrived: an announcement alone costs nothing.
///
/// ```
/// use bytes::BytesMut;
/// use tokio_util::codec::{Decoder, Encoder};
/// use zinxide::{Frame, FrameCodec, WireFormat};
///
/// let mut codec = FrameCodec::new(WireFormat::LtvLe, 4096);
/// let mut bytes = BytesMut::new();
/// codec.encode(Frame::new(0, "ping"), &mut bytes)?;
/// assert_eq!(&bytes[..], b"\x04\0\0\0\0\0\0\0ping");
/// assert_eq!(codec.decode(&mut bytes)?, Some(Frame::new(0, "ping")));
/// # Ok::<(), zinxide::CodecError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FrameCodec {
    /// The layout of the header, unless there is a framing.
    wire: WireFormat,
    max_payload: u32,
    framing: Option<Arc<dyn Framing>>,
    /// How many bytes a frame has beside its payload, at most.
    overhead: usize,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A header announces a payload above the limit. Nothing was reserved for it.
    #[error("message {id} announces {announced} bytes of payload, the limit is {max}")]
    TooLarge {
        /// The message id of the header.
        id: MsgId,
        /// The payload length of the header, in bytes.
        announced: u32,
        /// The limit it exceeds, in bytes.
        max: u32,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, {have} bytes after its start")]
    Truncated {
        /// How many bytes of the frame had come, its header included.
        have: usize,
    },
    /// A WebSocket message has more bytes than the largest frame; it was not read.
    #[error("a message is longer than the largest frame, {max} bytes")]
    MessageTooLong {
        /// How many bytes that has.
        max: usize,
    },
    /// A WebSocket message of this many bytes is no frame, or is more than one.
    #[error("a message of {have} bytes is not one frame")]
    NotOneFrame {
        /// How many bytes it has.
        have: usize,
    },
    /// A WebSocket message is text. Frames come in binary messages.
    #[error("a message is text")]
    Text,
    /// The peer breaks the WebSocket protocol.
    #[error("the WebSocket protocol: {0}")]
    WebSocket(&'static str),
    /// The bytes make no sense to the [`Framing`].
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// What [`FrameCodec`] fails with as a tokio-util codec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameCodec {
    /// A codec that refuses payloads above `max_payload` bytes when decoding.
    pub fn new(wire: WireFormat, max_payload: u32) -> Self {
        Self { wire, max_payload, framing: None, overhead: HEADER_LEN }
    }

    /// The layout of the header; `None` for another framing.
    pub fn wire(&self) -> Option<WireFormat> {
        self.is_plain().then_some(self.wire)
    }

    /// A codec of another framing, which refuses payloads above `max_payload` bytes when decoding.
    pub fn framed(framing: impl Framing, max_payload: u32) -> Self {
        Self::shared(Arc::new(Guard::new(framing)), max_payload)
    }

    pub(crate) fn shared(framing: Arc<dyn Framing>, max_payload: u32) -> Self {
        let overhead = contained(|| framing.overhead()).unwrap_or_default();
        Self { wire: WireFormat::default(), max_payload, framing: Some(framing), overhead }
    }

    /// The same without a limit.
    pub(crate) fn unlimited(&self) -> Self {
        Self { max_payload: u32::MAX, ..self.clone() }
    }

    /// How long a frame from a peer may be.
    #[cfg(feature = "ws")]
    pub(crate) fn largest_frame(&self) -> usize {
        (self.max_payload as usize).saturating_add(self.overhead)
    }

    /// Whether frames are a header that this crate knows and a payload, so that they can be written
    /// apart.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.framing.is_none()
    }

    /// How many bytes a frame has beside its payload, at most.
    #[inline]
    pub(crate) fn overhead(&self) -> usize {
        self.overhead
    }

    /// Whether there is a frame for this.
    pub(crate) fn can_put(&self, frame: &Frame) -> bool {
        let Frame { id, payload } = frame;
        match &self.framing {
            None => u32::try_from(payload.len()).is_ok(),
            Some(framing) => contained(|| framing.can_put(*id, payload)).unwrap_or(false),
        }
    }

    /// Appends a frame that [can be put](Self::can_put). False, and nothing appended, if the framing
    /// panics.
    #[must_use = "a frame may be missing"]
    pub(crate) fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) -> bool {
        match &self.framing {
            None => {
                dst.reserve(HEADER_LEN + payload.len());
                self.put_header(id, payload.len(), dst);
                dst.put_slice(payload);
                true
            }
            Some(framing) => {
                let begin = dst.len();
                let put = contained(|| framing.put(id, payload, dst)).is_some();
                if !put {
                    // No frame rather than a part of one.
                    dst.truncate(begin);
                }
                put
            }
        }
    }

    /// Takes the next whole frame off the front of `src`, if there is one.
    ///
    /// The payload is cut out of `src`, not copied.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] as soon as a header says so. `src` is left as it is: there is no
    /// way to find the next frame.
    #[inline]
    pub fn next_frame(&self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(Found { id, payload, len }) = self.find(src)? else { return Ok(None) };
        let mut frame = src.split_to(len);
        frame.truncate(payload.end);
        frame.advance(payload.start);
        Ok(Some(Frame { id, payload: frame.freeze() }))
    }

    /// How long the whole frames at the front of `src` are, all together.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if not even the first one is allowed.
    pub(crate) fn whole_frames(&self, src: &[u8]) -> Result<usize, FrameError> {
        let mut end = 0;
        loop {
            match self.find(&src[end..]) {
                Ok(Some(found)) => end += found.len,
                Err(error) if end == 0 => return Err(error),
                Ok(None) | Err(_) => return Ok(end),
            }
        }
    }

    /// The frame that begins at `start` of what is known to be whole frames; of the built-in formats, the
    /// limit does not count.
    #[inline]
    pub(crate) fn frame_at(&self, src: &[u8], start: usize) -> Option<Found> {
        match &self.framing {
            None => self.plain_frame_at(src, start),
            Some(_) => {
                let found = self.find(src.get(start..)?).ok()??;
                Some(found.behind(start))
            }
        }
    }

    /// As [`frame_at`](Self::frame_at), of a built-in format.
    #[inline]
    pub(crate) fn plain_frame_at(&self, src: &[u8], start: usize) -> Option<Found> {
        let header = src.get(start..)?.first_chunk()?;
        Some(self.wire.parse(header).found().behind(start))
    }

    /// Appends a frame's header to `dst`.
    ///
    /// The caller has checked that `payload_len` fits the header's 32 bits.
    #[inline]
    pub(crate) fn put_header(&self, id: MsgId, payload_len: usize, dst: &mut BytesMut) {
        dst.put_slice(&self.header(id, payload_len));
    }

    /// The header of a frame of a built-in format, on the same condition.
    #[inline]
    pub(crate) fn header(&self, id: MsgId, payload_len: usize) -> [u8; HEADER_LEN] {
        debug_assert!(u32::try_from(payload_len).is_ok());
        self.wire.header(Header { id, len: payload_len as u32 })
    }

    /// The length of the frame whose header stands at the front of `src`; the limit does not count.
    pub(crate) fn frame_len(&self, src: &[u8]) -> Option<usize> {
        Some(self.frame_at(src, 0)?.len)
    }

    /// The frame at the front of `src`, if it is there as a whole.
    #[inline]
    pub(crate) fn find(&self, src: &[u8]) -> Result<Option<Found>, FrameError> {
        if let Some(framing) = &self.framing {
            let most = (self.max_payload as usize).saturating_add(self.overhead + SLACK);
            return find_by(&**framing, src, self.max_payload, most);
        }
        let Some(bytes) = src.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = self.wire.parse(bytes);
        if header.len > self.max_payload {
            let (id, announced, max) = (header.id, header.len, self.max_payload);
            return Err(FrameError::TooLarge { id, announced, max });
        }
        let found = header.found();
        Ok((src.len() >= found.len).then_some(found))
    }
}

/// What a framing may leave unfound beyond its largest frame: it need not be exact.
const SLACK: usize = 1024;

/// Asks a framing that may be wrong.
fn find_by(
    framing: &dyn Framing,
    src: &[u8],
    max_payload: u32,
    most: usize,
) -> Result<Option<Found>, FrameError> {
    if src.is_empty() {
        return Ok(None);
    }
    let Some(found) = contained(|| framing.find(src, max_payload)) else {
        return Err(FrameError::Malformed("the framing panicked"));
    };
    let Some(found) = found? else {
        if src.len() > most {
            let announced = u32::try_from(src.len()).unwrap_or(u32::MAX);
            return Err(FrameError::TooLarge { id: 0, announced, max: max_payload });
        }
        return Ok(None);
    };
    let Found { id, payload: Range { start, end }, len } = found;
    if len == 0 || len > src.len() || start > end || end > len {
        return Err(FrameError::Malformed("the framing found what is not there"));
    }
    let announced = u32::try_from(end - start).unwrap_or(u32::MAX);
    if announced > max_payload {
        return Err(FrameError::TooLarge { id, announced, max: max_payload });
    }
    Ok(Some(found))
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        Ok(self.next_frame(src)?)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match self.next_frame(src)? {
            None if !src.is_empty() => Err(FrameError::Truncated { have: src.len() }.into()),
            frame => Ok(frame),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = CodecError;

    /// The limit is for what a peer may send; what is sent is bounded by what has a frame: 32 bits of
    /// length.
    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), CodecError> {
        if !self.can_put(&frame) || !self.put(frame.id, &frame.payload, dst) {
            let what = "there is no frame for this id and payload";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
        }
        Ok(())
    }
}
