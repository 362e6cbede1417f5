//! The frames of many meters and controllers: head, type, length, value and a checksum.

use bytes::{BufMut, BytesMut};
use crc::{CRC_16_MODBUS, Crc};

use super::FrameError;
use super::framing::{Found, Framing};
use crate::frame::MsgId;

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
const HEADER: usize = 3;
const CHECKSUM: usize = 2;

/// HTLV with a CRC-16, as in Zinx's `HtlvCrcDecoder`: a byte that begins every frame, a byte of type,
/// which is the id, a byte of length, the payload, and the CRC-16/MODBUS of all that, low byte first.
///
/// A frame with another head or a wrong checksum is a protocol error: where the next one would begin
/// cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Htlv {
    head: u8,
}

impl Htlv {
    /// Frames that begin with this byte.
    pub fn new(head: u8) -> Self {
        Self { head }
    }
}

impl Framing for Htlv {
    fn find(&self, src: &[u8], max_payload: u32) -> Result<Option<Found>, FrameError> {
        if src.first().is_some_and(|&head| head != self.head) {
            return Err(FrameError::Malformed("the head is another"));
        }
        let &[_, id, value, ..] = src else { return Ok(None) };
        let (id, announced) = (id.into(), value.into());
        if announced > max_payload {
            return Err(FrameError::TooLarge { id, announced, max: max_payload });
        }
        let end = HEADER + usize::from(value);
        let Some(&[low, high]) = src.get(end..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        if CRC.checksum(&src[..end]) != u16::from_le_bytes([low, high]) {
            return Err(FrameError::Malformed("the checksum is another"));
        }
        Ok(Some(Found { id, payload: HEADER..end, len: end + CHECKSUM }))
    }

    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        let begin = dst.len();
        dst.put_slice(&[self.head, id as u8, payload.len() as u8]);
        dst.put_slice(payload);
        let checksum = CRC.checksum(&dst[begin..]);
        dst.put_u16_le(checksum);
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        u8::try_from(id).is_ok() && u8::try_from(payload.len()).is_ok()
    }

    fn overhead(&self) -> usize {
        HEADER + CHECKSUM
    }
}
