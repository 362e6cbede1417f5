//! The header of a WebSocket frame as it comes (RFC 6455, 5.2).

/// The longest one.
pub(super) const MAX_HEADER: usize = 14;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    /// More of the message that has begun.
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
    /// One of the others.
    Reserved,
}

impl Opcode {
    #[inline]
    fn of(bits: u8) -> Self {
        match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => Self::Reserved,
        }
    }
}

/// A header that is all there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// The frame is the last of its message.
    pub(super) fin: bool,
    /// The bits for extensions, of which there are none.
    pub(super) reserved: u8,
    pub(super) opcode: Opcode,
    /// If the payload is masked.
    pub(super) key: Option<[u8; 4]>,
    /// How long the payload is.
    pub(super) len: u64,
}

impl Header {
    /// Before the first frame.
    pub(super) const NONE: Self =
        Self { fin: true, reserved: 0, opcode: Opcode::Continuation, key: None, len: 0 };

    /// The header at the front of `bytes`, and how long it is; `None` if it is not all there.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let &[first, second, ..] = bytes else { return None };
        let (len, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            len => (u64::from(len), 2),
        };
        let (key, end) = match second & 0x80 {
            0 => (None, at),
            _ => (Some(*bytes.get(at..)?.first_chunk()?), at + 4),
        };
        let header = Self {
            fin: first & 0x80 != 0,
            reserved: first & 0x70,
            opcode: Opcode::of(first & 0x0f),
            key,
            len,
        };
        Some((header, end))
    }

    /// Whether the frame may stand between those of a message.
    #[inline]
    pub(super) fn is_control(&self) -> bool {
        matches!(self.opcode, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}
