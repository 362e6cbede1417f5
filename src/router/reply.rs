//! What a route function may answer with.

use std::fmt;

use bytes::Bytes;

use crate::conn::Conn;
use crate::event::Event;
use crate::frame::{Frame, MsgId};
use crate::inbound::Inbound;

/// The answer of a route function: one frame or none.
///
/// | return value | answer |
/// |---|---|
/// | `()` | none |
/// | `(id, payload)` | a frame with this id |
/// | [`Frame`] | that frame |
/// | [`Inbound`] | the message itself, as it is |
/// | `Option` of these | none for `None` |
/// | `Result` of these | none for `Err`, which is logged |
pub trait IntoReply {
    /// What to send back to `conn`, if anything.
    fn into_reply(self, conn: &Conn) -> Option<Reply>;
}

/// One frame to answer with: made from a [`Frame`], or from an [`Inbound`] to be sent back.
#[derive(Debug)]
pub struct Reply(pub(crate) Answer);

/// A message that is sent back is not made a frame, which would have to share its payload.
#[derive(Debug)]
pub(crate) enum Answer {
    Frame(Frame),
    Echo(Inbound),
}

impl From<Frame> for Reply {
    fn from(frame: Frame) -> Self {
        Self(Answer::Frame(frame))
    }
}

impl From<Inbound> for Reply {
    fn from(message: Inbound) -> Self {
        Self(Answer::Echo(message))
    }
}

/// Where the answers of route functions go.
pub(crate) trait Replies {
    fn conn(&self) -> &Conn;

    fn reply(&self, reply: Reply);
}

impl Replies for Conn {
    fn conn(&self) -> &Conn {
        self
    }

    fn reply(&self, Reply(answer): Reply) {
        match answer {
            Answer::Frame(frame) => Conn::reply(self, frame),
            Answer::Echo(message) => message.echo(),
        }
    }
}

impl IntoReply for () {
    fn into_reply(self, _: &Conn) -> Option<Reply> {
        None
    }
}

impl IntoReply for Frame {
    fn into_reply(self, _: &Conn) -> Option<Reply> {
        Some(self.into())
    }
}

impl IntoReply for Inbound {
    #[inline]
    fn into_reply(self, _: &Conn) -> Option<Reply> {
        Some(self.into())
    }
}

impl<P: Into<Bytes>> IntoReply for (MsgId, P) {
    fn into_reply(self, _: &Conn) -> Option<Reply> {
        Some(Frame::from(self).into())
    }
}

impl<R: IntoReply> IntoReply for Option<R> {
    fn into_reply(self, conn: &Conn) -> Option<Reply> {
        self?.into_reply(conn)
    }
}

impl<R: IntoReply, E: fmt::Display> IntoReply for Result<R, E> {
    fn into_reply(self, conn: &Conn) -> Option<Reply> {
        match self {
            Ok(reply) => reply.into_reply(conn),
            Err(error) => {
                conn.emit(Event::HandlerFailed { conn, error: format_args!("{error}") });
                None
            }
        }
    }
}
