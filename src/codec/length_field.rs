//! Frames described by a length field, as in Netty and Zinx.

use bytes::{BufMut, BytesMut};

use super::FrameError;
use super::framing::{Found, Framing};
use crate::frame::MsgId;

/// Which end of a number comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant byte.
    #[default]
    Big,
    /// The least significant byte.
    Little,
}

/// Frames with a length in their header: Netty's `LengthFieldBasedFrameDecoder`, Zinx's
/// `LengthField`.
///
/// A frame ends `adjustment` bytes after as many as the length field says, counted from the field's
/// end. The first `strip` bytes of it are not part of the payload. On the way out, those bytes are
/// written as [`head`](Self::head) says, with length and id in their places, as far as they are among
/// them: what is not stripped is the application's to write, as it is to read.
///
/// | `offset` | `width` | `adjustment` | `strip` | frame | payload |
/// |---|---|---|---|---|---|
/// | 0 | 2 | 0 | 0 | `000C "HELLO, WORLD"` | all of it |
/// | 0 | 2 | 0 | 2 | `000C "HELLO, WORLD"` | `"HELLO, WORLD"` |
/// | 0 | 2 | -2 | 0 | `000E "HELLO, WORLD"` | all of it |
/// | 2 | 3 | 0 | 0 | `CAFE 00000C "HELLO, WORLD"` | all of it |
/// | 0 | 3 | 2 | 0 | `00000C CAFE "HELLO, WORLD"` | all of it |
/// | 1 | 2 | 1 | 3 | `CA 000C FE "HELLO, WORLD"` | `FE "HELLO, WORLD"` |
/// | 1 | 2 | -3 | 3 | `CA 0010 FE "HELLO, WORLD"` | `FE "HELLO, WORLD"` |
///
/// (The seven cases are those of Netty's documentation of the class.)
///
/// ```
/// use zinxide::framing::LengthField;
/// use zinxide::{Server, Settings};
///
/// // A magic byte, an id of one byte, a length of two.
/// let framing = LengthField::new(2, 2).strip(4).id(1, 1).head([0xca, 0, 0, 0]);
/// let server = Server::new(Settings::default()).framing(framing);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthField {
    length: Field,
    adjustment: i64,
    strip: usize,
    id: Option<Field>,
    head: Vec<u8>,
    order: ByteOrder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    offset: usize,
    width: usize,
}

/// The most that a header may have: more is a mistake.
const LONGEST_HEADER: usize = 64 * 1024;

impl LengthField {
    /// A length field of `width` bytes, `offset` bytes from the beginning of a frame. Nothing is
    /// stripped, and every message has id 0.
    ///
    /// # Panics
    ///
    /// If the width is not from 1 to 8, or the field is not within the first 64 KiB of a frame.
    pub fn new(offset: usize, width: usize) -> Self {
        Self {
            length: Field::new(offset, width, 8),
            adjustment: 0,
            strip: 0,
            id: None,
            head: Vec::new(),
            order: ByteOrder::Big,
        }
    }

    /// What is to be added to the length field to get how many bytes follow it: less than 0 if it
    /// counts bytes before its end.
    pub fn adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// How many bytes at the beginning of a frame are not part of its payload.
    ///
    /// # Panics
    ///
    /// Above 64 KiB.
    pub fn strip(mut self, bytes: usize) -> Self {
        assert!(bytes <= LONGEST_HEADER, "a header of {bytes} bytes");
        self.strip = bytes;
        self
    }

    /// Where the id of the message stands.
    ///
    /// # Panics
    ///
    /// If the width is not from 1 to 4, or the field is not within the first 64 KiB of a frame.
    pub fn id(mut self, offset: usize, width: usize) -> Self {
        self.id = Some(Field::new(offset, width, 4));
        self
    }

    /// What the bytes that are stripped are written as; zeros, where it has none. Length and id are
    /// written over it.
    pub fn head(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.head = bytes.into();
        self
    }

    /// The byte order of length and id; big-endian, if this is not called.
    pub fn byte_order(mut self, order: ByteOrder) -> Self {
        self.order = order;
        self
    }

    /// What the length field of a frame with so much payload says, if it can.
    fn length_for(&self, payload: usize) -> Option<u64> {
        let rest = (self.strip + payload) as i64 - self.length.end() as i64;
        let length = u64::try_from(rest.checked_sub(self.adjustment)?).ok()?;
        self.length.holds(length).then_some(length)
    }
}

impl Field {
    fn new(offset: usize, width: usize, widest: usize) -> Self {
        assert!((1..=widest).contains(&width), "a field of {width} bytes");
        assert!(offset < LONGEST_HEADER, "a field at {offset}");
        Self { offset, width }
    }

    fn end(self) -> usize {
        self.offset + self.width
    }

    fn holds(self, number: u64) -> bool {
        self.width == 8 || number >> (8 * self.width) == 0
    }

    fn read(self, src: &[u8], order: ByteOrder) -> Option<u64> {
        let bytes = src.get(self.offset..self.end())?;
        let add = |number, byte: &u8| number << 8 | u64::from(*byte);
        Some(match order {
            ByteOrder::Big => bytes.iter().fold(0, add),
            ByteOrder::Little => bytes.iter().rev().fold(0, add),
        })
    }

    fn write(self, number: u64, dst: &mut [u8], order: ByteOrder) {
        let Some(place) = dst.get_mut(self.offset..self.end()) else { return };
        match order {
            ByteOrder::Big => place.copy_from_slice(&number.to_be_bytes()[8 - self.width..]),
            ByteOrder::Little => place.copy_from_slice(&number.to_le_bytes()[..self.width]),
        }
    }
}

impl Framing for LengthField {
    fn find(&self, src: &[u8], max_payload: u32) -> Result<Option<Found>, FrameError> {
        let Some(length) = self.length.read(src, self.order) else { return Ok(None) };
        let id = match self.id.map(|id| id.read(src, self.order)) {
            None => Some(0),
            Some(id) => id.map(|id| id as MsgId),
        };
        let end = self.length.end();
        let id_end = self.id.map_or(0, Field::end);
        let len = i128::from(length) + i128::from(self.adjustment) + end as i128;
        if len < self.strip.max(end).max(id_end) as i128 {
            return Err(FrameError::Malformed("the length is less than that of the header"));
        }
        let payload = len - self.strip as i128;
        if payload > i128::from(max_payload) {
            let announced = u32::try_from(payload).unwrap_or(u32::MAX);
            let id = id.unwrap_or_default();
            return Err(FrameError::TooLarge { id, announced, max: max_payload });
        }
        // It is no larger than what 32 bits hold and the header.
        let len = len as usize;
        let found = id.filter(|_| src.len() >= len);
        Ok(found.map(|id| Found { id, payload: self.strip..len, len }))
    }

    fn put(&self, id: MsgId, payload: &[u8], dst: &mut BytesMut) {
        let begin = dst.len();
        let given = self.head.len().min(self.strip);
        dst.put_slice(&self.head[..given]);
        dst.put_bytes(0, self.strip - given);
        let head = &mut dst[begin..];
        if let Some(field) = self.id {
            field.write(id.into(), head, self.order);
        }
        self.length.write(self.length_for(payload.len()).unwrap_or_default(), head, self.order);
        dst.put_slice(payload);
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        let id_end = self.id.map_or(0, Field::end);
        let has_header = self.strip + payload.len() >= self.length.end().max(id_end);
        // A field of the payload is the application's to write; one that is only half there is nobody's.
        let fits = |field: Field, holds: bool| {
            field.offset >= self.strip || field.end() <= self.strip && holds
        };
        let id_fits = self.id.map_or(id == 0, |field| fits(field, field.holds(id.into())));
        let length_fits = fits(self.length, self.length_for(payload.len()).is_some());
        has_header && id_fits && length_fits
    }

    fn overhead(&self) -> usize {
        self.strip
    }
}
