//! What a route function may answer with.

use std::fmt;

use bytes::Bytes;

use crate::conn::Conn;
use crate::event;
use crate::frame::{Frame, MsgId};

/// The answer of a route function: one frame or none.
///
/// | return value | answer |
/// |---|---|
/// | `()` | none |
/// | `(id, payload)` | a frame with this id |
/// | [`Frame`] | that frame |
/// | `Option` of these | none for `None` |
/// | `Result` of these | none for `Err`, which is logged |
pub trait IntoReply {
    /// The frame to send back to `conn`, if any.
    fn into_reply(self, conn: &Conn) -> Option<Frame>;
}

impl IntoReply for () {
    fn into_reply(self, _: &Conn) -> Option<Frame> {
        None
    }
}

impl IntoReply for Frame {
    fn into_reply(self, _: &Conn) -> Option<Frame> {
        Some(self)
    }
}

impl<P: Into<Bytes>> IntoReply for (MsgId, P) {
    fn into_reply(self, _: &Conn) -> Option<Frame> {
        Some(self.into())
    }
}

impl<R: IntoReply> IntoReply for Option<R> {
    fn into_reply(self, conn: &Conn) -> Option<Frame> {
        self?.into_reply(conn)
    }
}

impl<R: IntoReply, E: fmt::Display> IntoReply for Result<R, E> {
    fn into_reply(self, conn: &Conn) -> Option<Frame> {
        match self {
            Ok(reply) => reply.into_reply(conn),
            Err(error) => {
                event::handler_failed(conn, &error);
                None
            }
        }
    }
}
