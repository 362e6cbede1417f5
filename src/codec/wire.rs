//! The header layouts: where the length and the id stand, and in which byte order.

use serde::{Deserialize, Serialize};

use super::framing::Found;
use crate::frame::MsgId;

/// Both layouts have two 32-bit fields.
pub(crate) const HEADER_LEN: usize = 8;

/// How a frame's header is laid out. Lengths count the payload alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WireFormat {
    /// `u32` length, `u32` id, both little-endian: Zinx V0.9.
    #[default]
    LtvLe,
    /// `u32` id, `u32` length, both big-endian: the default of Zinx 1.x.
    TlvBe,
}

/// A header's two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: MsgId,
    /// Payload length in bytes.
    pub(crate) len: u32,
}

impl Header {
    /// The frame that begins with it.
    #[inline]
    pub(crate) fn found(self) -> Found {
        let len = HEADER_LEN + self.len as usize;
        Found { id: self.id, payload: HEADER_LEN..len, len }
    }
}

impl WireFormat {
    #[inline]
    pub(crate) fn parse(self, bytes: &[u8; HEADER_LEN]) -> Header {
        let [a, b, c, d, e, f, g, h] = *bytes;
        match self {
            Self::LtvLe => Header {
                len: u32::from_le_bytes([a, b, c, d]),
                id: u32::from_le_bytes([e, f, g, h]),
            },
            Self::TlvBe => Header {
                id: u32::from_be_bytes([a, b, c, d]),
                len: u32::from_be_bytes([e, f, g, h]),
            },
        }
    }

    #[inline]
    pub(crate) fn header(self, Header { id, len }: Header) -> [u8; HEADER_LEN] {
        let ([a, b, c, d], [e, f, g, h]) = match self {
            Self::LtvLe => (len.to_le_bytes(), id.to_le_bytes()),
            Self::TlvBe => (id.to_be_bytes(), len.to_be_bytes()),
        };
        [a, b, c, d, e, f, g, h]
    }
}
