//! Frames from bytes and bytes from frames, on tokio-util's codec traits.

mod wire;

use std::io;
use std::ops::Range;

use bytes::{Buf, BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::frame::{Frame, MsgId};
pub use wire::WireFormat;
pub(crate) use wire::{HEADER_LEN, Header};

/// The codec of a [`WireFormat`] with a limit on what a peer may send.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCodec {
    wire: WireFormat,
    max_payload: u32,
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
        Self { wire, max_payload }
    }

    /// The layout of the header.
    pub fn wire(&self) -> WireFormat {
        self.wire
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
        let Some(Header { id, len }) = self.whole_frame(src)? else { return Ok(None) };
        src.advance(HEADER_LEN);
        Ok(Some(Frame { id, payload: src.split_to(len as usize).freeze() }))
    }

    /// How long the whole frames at the front of `src` are, all together.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if not even the first one is allowed.
    pub(crate) fn whole_frames(&self, src: &[u8]) -> Result<usize, FrameError> {
        let mut end = 0;
        loop {
            match self.whole_frame(&src[end..]) {
                Ok(Some(header)) => end += HEADER_LEN + header.len as usize,
                Err(error) if end == 0 => return Err(error),
                Ok(None) | Err(_) => return Ok(end),
            }
        }
    }

    /// The id of the frame that begins at `start`, and where its payload is; the limit does not
    /// count.
    #[inline]
    pub(crate) fn frame_at(&self, src: &[u8], start: usize) -> Option<(MsgId, Range<usize>)> {
        let Header { id, len } = self.wire.parse(src.get(start..)?.first_chunk()?);
        let payload = start + HEADER_LEN;
        Some((id, payload..payload + len as usize))
    }

    /// Appends a frame's header to `dst`.
    ///
    /// The caller has checked that `payload_len` fits the header's 32 bits.
    #[inline]
    pub(crate) fn put_header(&self, id: MsgId, payload_len: usize, dst: &mut BytesMut) {
        debug_assert!(u32::try_from(payload_len).is_ok());
        dst.put_slice(&self.wire.header(Header { id, len: payload_len as u32 }));
    }

    /// The length of the frame whose header stands at the front of `src`; the limit does not count.
    pub(crate) fn frame_len(&self, src: &[u8]) -> Option<usize> {
        Some(self.frame_at(src, 0)?.1.end)
    }

    /// The header at the front of `src`, if its frame is there as a whole.
    #[inline]
    fn whole_frame(&self, src: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(bytes) = src.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = self.wire.parse(bytes);
        if header.len > self.max_payload {
            let (id, announced, max) = (header.id, header.len, self.max_payload);
            return Err(FrameError::TooLarge { id, announced, max });
        }
        Ok((src.len() - HEADER_LEN >= header.len as usize).then_some(header))
    }
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

    /// The limit is for what a peer may send; what is sent is bounded by the header's 32 bits.
    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), CodecError> {
        let len = frame.payload.len();
        if u32::try_from(len).is_err() {
            let what = "a payload above 4 GiB has no header";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
        }
        dst.reserve(HEADER_LEN + len);
        self.put_header(frame.id, len, dst);
        dst.put_slice(&frame.payload);
        Ok(())
    }
}
