//! What stands around a frame on its way out: nothing, or the header of a WebSocket message.

#[cfg(feature = "ws")]
use bytes::Bytes;
use bytes::{BufMut, BytesMut};

use crate::endpoint::ListenAddr;

/// The longest header of a message that is not masked.
pub(crate) const MAX_HEADER: usize = 10;

/// The bit of the first byte that says that a frame is the last of its message.
const FIN: u8 = 0x80;

/// The first byte of a binary message of one frame.
const FIN_BINARY: u8 = FIN | 2;

/// The bit of the second byte that says that a payload is masked.
const MASKED: u8 = 0x80;

/// How frames go to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// As they are.
    #[default]
    None,
    /// Each in a binary message, as servers send them.
    Message,
    /// The same as clients send them: masked, by a key that cannot be predicted.
    Masked,
}

impl Envelope {
    /// How frames go out at this endpoint, of the side that listens there or of the one that connects.
    pub(crate) fn of(at: &ListenAddr, connects: bool) -> Self {
        match (at.scheme.has_ws(), connects) {
            (false, _) => Self::None,
            (true, false) => Self::Message,
            (true, true) => Self::Masked,
        }
    }

    /// How long the header of a message with a frame of this length is.
    #[inline]
    pub(crate) fn header_len(self, frame_len: usize) -> usize {
        let plain = match frame_len {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => MAX_HEADER,
        };
        match self {
            Self::None => 0,
            Self::Message => plain,
            Self::Masked => plain + 4,
        }
    }

    /// The header of a message with a frame of this length, if it is one of the shortest.
    #[inline]
    pub(crate) fn short_header(self, frame_len: usize) -> Option<[u8; 2]> {
        let is_short = self == Self::Message && frame_len <= 125;
        is_short.then_some([FIN_BINARY, frame_len as u8])
    }

    /// Appends a frame of this length, which `put` appends, in its envelope.
    #[inline]
    pub(crate) fn put(self, frame_len: usize, dst: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
        match self {
            Self::None => put(dst),
            Self::Message => {
                put_header(frame_len, 0, &mut *dst);
                put(dst);
            }
            Self::Masked => {
                let key = key();
                put_header(frame_len, MASKED, &mut *dst);
                dst.put_slice(&key);
                let begin = dst.len();
                put(dst);
                mask(&mut dst[begin..], key);
            }
        }
    }

    /// Appends a control frame with this opcode, whose payload is no longer than 125 bytes.
    #[cfg(feature = "ws")]
    pub(crate) fn put_control(self, opcode: u8, payload: &[u8], dst: &mut BytesMut) {
        debug_assert!(payload.len() <= 125);
        let begin = dst.len();
        self.put(payload.len(), dst, |dst| dst.put_slice(payload));
        dst[begin] = FIN | opcode;
    }

    /// The same frame by itself.
    #[cfg(feature = "ws")]
    pub(crate) fn control(self, opcode: u8, payload: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(6 + payload.len());
        self.put_control(opcode, payload, &mut frame);
        frame.freeze()
    }

    /// Writes the header of a message that is not masked to the end of `room`, which is before its frame.
    /// Returns how long it is.
    pub(crate) fn put_before(frame_len: usize, room: &mut [u8; MAX_HEADER]) -> usize {
        let len = Self::Message.header_len(frame_len);
        put_header(frame_len, 0, &mut room[MAX_HEADER - len..]);
        len
    }

    /// How long the message is whose header stands at the front of `bytes`; `None` if the header is not
    /// all there, or there is no envelope.
    pub(crate) fn message_len(self, bytes: &[u8]) -> Option<usize> {
        let len = match (self, *bytes.get(1)? & !MASKED) {
            (Self::None, _) => return None,
            (_, 126) => usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
            (_, 127) => {
                usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?
            }
            (_, len) => usize::from(len),
        };
        Some(self.header_len(len) + len)
    }
}

#[inline(always)]
fn put_header(len: usize, masked: u8, mut dst: impl BufMut) {
    match len {
        0..=125 => dst.put_slice(&[FIN_BINARY, masked | len as u8]),
        126..=0xffff => {
            let [high, low] = (len as u16).to_be_bytes();
            dst.put_slice(&[FIN_BINARY, masked | 126, high, low]);
        }
        _ => {
            dst.put_slice(&[FIN_BINARY, masked | 127]);
            dst.put_u64(len as u64);
        }
    }
}

/// Masks a payload, or unmasks it.
#[inline]
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4]) {
    let word = u32::from_ne_bytes(key);
    let pair = u64::from(word) << 32 | u64::from(word);
    let (pairs, rest) = payload.as_chunks_mut::<8>();
    for bytes in pairs {
        *bytes = (u64::from_ne_bytes(*bytes) ^ pair).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(pair.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// A key for one message.
#[cfg(feature = "ws")]
fn key() -> [u8; 4] {
    rand::random()
}

/// Nobody connects by WebSocket.
#[cfg(not(feature = "ws"))]
fn key() -> [u8; 4] {
    [0; 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_message_is_as_long_as_it_says_and_says_how_long_the_message_is() {
        for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 70_000] {
            for envelope in [Envelope::Message, Envelope::Masked] {
                let mut bytes = BytesMut::new();
                envelope.put(len, &mut bytes, |dst| dst.put_bytes(7, len));
                assert_eq!(bytes.len(), envelope.header_len(len) + len);
                assert_eq!(envelope.message_len(&bytes), Some(bytes.len()));
                assert_eq!(envelope.message_len(&bytes[..1]), None);
            }
            let mut bytes = BytesMut::new();
            Envelope::None.put(len, &mut bytes, |dst| dst.put_bytes(7, len));
            assert_eq!((bytes.len(), Envelope::None.header_len(len)), (len, 0));
        }
    }

    #[test]
    fn the_length_of_a_message_is_known_when_its_header_is_there_and_not_before() {
        for (len, header) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10)] {
            for envelope in [Envelope::Message, Envelope::Masked] {
                let mut bytes = BytesMut::new();
                envelope.put(len, &mut bytes, |dst| dst.put_bytes(7, len));
                // The key tells nothing of the length.
                for have in 0..bytes.len().min(20) {
                    let whole = (have >= header).then_some(bytes.len());
                    assert_eq!(envelope.message_len(&bytes[..have]), whole, "{have} of {len}");
                }
            }
        }
        assert_eq!(Envelope::None.message_len(&[0x82, 0]), None);
    }

    #[test]
    fn a_header_before_a_frame_is_the_one_of_its_message() {
        for len in [0, 125, 126, 0xffff, 0x1_0000] {
            let mut bytes = BytesMut::new();
            Envelope::Message.put(len, &mut bytes, |_| {});
            let mut room = [0; MAX_HEADER];
            let header_len = Envelope::put_before(len, &mut room);
            assert_eq!(room[MAX_HEADER - header_len..], bytes);
        }
    }

    #[cfg(feature = "ws")]
    #[test]
    fn a_control_frame_is_a_single_one_with_its_opcode() {
        assert_eq!(&Envelope::Message.control(10, b"")[..], [0x8a, 0]);
        assert_eq!(&Envelope::Message.control(8, b"hi")[..], b"\x88\x02hi");
        let longest = Envelope::Masked.control(9, &[b'x'; 125]);
        let (header, payload) = longest.split_at(6);
        assert_eq!(header[..2], [0x89, 0x80 | 125]);
        assert!(payload.iter().zip(header[2..].iter().cycle()).all(|(a, key)| a ^ key == b'x'));
    }

    #[test]
    fn what_is_masked_twice_is_as_it_was() {
        for len in 0..20 {
            let bytes: Vec<u8> = (0..len).collect();
            let mut masked = bytes.clone();
            mask(&mut masked, [0x80, 1, 2, 0xff]);
            assert!(
                masked
                    .iter()
                    .zip(&bytes)
                    .enumerate()
                    .all(|(n, (a, b))| a ^ b == [0x80, 1, 2, 0xff][n % 4])
            );
            mask(&mut masked, [0x80, 1, 2, 0xff]);
            assert_eq!(masked, bytes);
        }
    }
}
