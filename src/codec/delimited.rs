//! Frames that end with a delimiter: lines, first of all.

use bytes::{BufMut, BytesMut};
use memchr::memmem::Finder;

use super::FrameError;
use super::framing::{Found, Framing};
use crate::frame::MsgId;

/// Frames that end with a delimiter, which is not part of the payload.
///
/// All messages have one id, [`id`](Self::id). A payload that contains the delimiter, or with whose end
/// another one would begin, has no frame.
///
/// What has come of a frame is searched again at every read, so keep `max_packet_size` moderate (tens of
/// kilobytes): a peer that sends a long frame byte by byte has each byte cost a look at all before it.
///
/// ```
/// use zinxide::framing::Delimited;
/// use zinxide::{Inbound, Server, Settings};
///
/// let server = Server::new(Settings::default())
///     .framing(Delimited::lines().id(1))
///     .route_fn(1, async |line: Inbound| line);
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    delimiter: Finder<'static>,
    /// A carriage return before the delimiter belongs to it.
    lines: bool,
    id: MsgId,
}

impl Delimited {
    /// Frames that end with these bytes.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn by(delimiter: &[u8]) -> Self {
        assert!(!delimiter.is_empty(), "an empty delimiter");
        Self { delimiter: Finder::new(delimiter).into_owned(), lines: false, id: 0 }
    }

    /// Lines: they end with `\n` or `\r\n`, and are sent with `\n`.
    pub fn lines() -> Self {
        Self { lines: true, ..Self::by(b"\n") }
    }

    /// The id of all messages; 0, if this is not called.
    pub fn id(mut self, id: MsgId) -> Self {
        self.id = id;
        self
    }
}

impl Framing for Delimited {
    fn find(&self, src: &[u8], max_payload: u32) -> Result<Option<Found>, FrameError> {
        let id = self.id;
        let end = self.delimiter.find(src);
        let mut payload = end.unwrap_or(src.len());
        let delimiter = self.delimiter.needle().len();
        // A part of the delimiter may have come.
        let surely = if end.is_some() { payload } else { (payload + 1).saturating_sub(delimiter) };
        let cr = usize::from(self.lines && src[..payload].last() == Some(&b'\r'));
        if surely.saturating_sub(cr) > max_payload as usize {
            let announced = u32::try_from(surely).unwrap_or(u32::MAX);
            return Err(FrameError::TooLarge { id, announced, max: max_payload });
        }
        let Some(end) = end else { return Ok(None) };
        payload -= cr;
        Ok(Some(Found { id, payload: 0..payload, len: end + delimiter }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.put_slice(payload);
        dst.put_slice(self.delimiter.needle());
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        let needle = self.delimiter.needle();
        let ends_in_cr = self.lines && payload.last() == Some(&b'\r');
        // The end of the payload and the beginning of the delimiter may make one, too.
        let end = &payload[payload.len().saturating_sub(needle.len() - 1)..];
        let seam = [end, needle].concat();
        id == self.id
            && !ends_in_cr
            && self.delimiter.find(payload).is_none()
            && self.delimiter.find(&seam) == Some(end.len())
    }

    fn overhead(&self) -> usize {
        self.delimiter.needle().len()
    }
}
