//! The unit of traffic: a message id and its payload.

use bytes::Bytes;

use crate::unwind::guarded;

/// The id of a message on the wire. It names the route on the server; every value is legal.
pub type MsgId = u32;

/// One message, as it stands on the wire behind its header.
///
/// Cloning is cheap: the payload is shared, not copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What the message is.
    pub id: MsgId,
    /// What the message says; may be empty.
    pub payload: Bytes,
}

impl Frame {
    /// A frame with this id and payload.
    pub fn new(id: MsgId, payload: impl Into<Bytes>) -> Self {
        Self { id, payload: payload.into() }
    }

    /// The same, to be kept where its payload's drop must not panic.
    pub(crate) fn guarded(self) -> Self {
        Self { payload: guarded(self.payload), ..self }
    }
}

impl<P: Into<Bytes>> From<(MsgId, P)> for Frame {
    fn from((id, payload): (MsgId, P)) -> Self {
        Self::new(id, payload)
    }
}
