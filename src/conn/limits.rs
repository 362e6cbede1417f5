//! The settings that a connection obeys, checked and in the units it works with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::SendError;
use super::budget::Budget;
use super::handshakes::Handshakes;
use super::intake::IntakeBudget;
use super::outbox::Encoded;
use crate::codec::FrameCodec;
use crate::event::Events;
use crate::frame::{Frame, MsgId};

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) codec: FrameCodec,
    /// How many messages may be with handlers at once.
    pub(crate) window: u32,
    pub(crate) outbox_frames: usize,
    pub(crate) outbox_bytes: usize,
    /// For frames whose sender does not say.
    pub(crate) overflow: Overflow,
    /// The same for broadcasts.
    pub(crate) broadcast_overflow: Overflow,
    pub(crate) high_watermark: Unsent,
    pub(crate) low_watermark: Unsent,
    /// Of all connections together.
    pub(crate) budget: Arc<Budget>,
    /// The same for what is received; `None` if that has no bound.
    pub(crate) intake: Option<Arc<IntakeBudget>>,
    /// Until the first frame can come.
    pub(crate) handshake_deadline: Duration,
    pub(crate) handshakes: Arc<Handshakes>,
    /// How many peers, of all that are told why they are turned away, are waited for to hear it.
    pub(crate) lingering: Arc<Semaphore>,
    pub(crate) write_deadline: Duration,
    pub(crate) drain_deadline: Duration,
    /// From the end of the output to the peer's end, or its system's acknowledgement.
    pub(crate) linger: Duration,
    /// From a peer's end of its output to the end of its connection.
    pub(crate) half_closed: Duration,
    pub(crate) patience: Patience,
    pub(crate) rates: Rates,
    /// What becomes of a connection that sends a message without a route.
    pub(crate) close_unrouted: bool,
    pub(crate) events: Arc<Events>,
}

/// For how long something may not happen; `None` is for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// From its connection to its first whole message.
    pub(crate) first_message: Option<Duration>,
    /// From the beginning of a frame to its end.
    pub(crate) frame: Option<Duration>,
    /// Between two pieces of input.
    pub(crate) idle: Option<Duration>,
    /// Between two pieces of output.
    pub(crate) write_idle: Option<Duration>,
    /// With a message in flight and none done.
    pub(crate) handler: Option<Duration>,
}

/// How much a peer may send in the long run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) messages: Option<Rate>,
    pub(crate) bytes: Option<Rate>,
    pub(crate) over: OverRate,
    /// How many messages a message of this id counts for, if not one.
    pub(crate) costs: FxHashMap<MsgId, u32>,
}

/// So much a second, and so much at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

/// What becomes of a frame for which the outbox has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overflow {
    /// It is given back: [`SendError::Full`].
    #[default]
    Refuse,
    /// It is given back in [`SendError::Closed`], and the connection is
    /// closed as [`SlowConsumer`](crate::CloseReason::SlowConsumer).
    Close,
    /// From now on it may be displaced by any later frame, as long as the writer has not taken it: the
    /// oldest of such frames are dropped and counted when there is no room. If that is not room enough,
    /// this one is dropped.
    ///
    /// For what only the newest of is worth anything: positions, scores. Frames that were sent with
    /// another policy, and answers, are never displaced.
    DropOldest,
    /// It is dropped and counted.
    DropNewest,
}

/// What becomes of a message with which a peer has sent too much.
///
/// A peer has also sent too much that sends many pings, pongs, headers of fragments, or TLS records of a few
/// bytes. Then what is said here of a message is true of those that come with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OverRate {
    /// It is handled later, and nothing is read from the peer meanwhile.
    #[default]
    Delay,
    /// It is dropped and counted. Pings that come with too much get no pong.
    Drop,
    /// The connection is closed with [`CloseReason::OverRate`](crate::CloseReason::OverRate).
    Close,
}

/// Frames and bytes that were accepted for sending and that the system has not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// How many frames, the one that is partly taken among them.
    pub frames: usize,
    /// How many bytes, headers included.
    pub bytes: usize,
}

impl Unsent {
    /// Whether either number is larger than that of `other`.
    pub(crate) fn exceeds(self, other: Self) -> bool {
        self.frames > other.frames || self.bytes > other.bytes
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |n: usize| if n == 1 { "" } else { "s" };
        let Self { frames, bytes } = *self;
        write!(f, "{frames} frame{} ({bytes} byte{})", s(frames), s(bytes))
    }
}

impl Limits {
    /// Half of what an outbox has room for.
    pub(crate) fn half_outbox(&self) -> Unsent {
        Unsent { frames: self.outbox_frames / 2, bytes: self.outbox_bytes / 2 }
    }

    /// Gives a frame back that can never be sent: there is none for its id and payload, or an empty
    /// outbox has no room for it.
    pub(crate) fn check(&self, frame: Frame) -> Result<Frame, SendError> {
        let frame = self.check_answer(frame)?;
        if self.codec.overhead() + frame.payload.len() > self.outbox_bytes {
            return Err(SendError::TooLarge(frame));
        }
        Ok(frame)
    }

    /// The same for an answer, for which there is always room.
    pub(crate) fn check_answer(&self, frame: Frame) -> Result<Frame, SendError> {
        if self.codec.can_put(&frame) {
            Ok(frame)
        } else if self.codec.is_plain() {
            Err(SendError::TooLarge(frame))
        } else {
            Err(SendError::NoFrame(frame))
        }
    }

    /// Encodes a frame that was [checked](Self::check) where a framing does that: it is the application's,
    /// and must not run under a lock.
    pub(crate) fn encode_unless_plain(
        &self,
        frame: Frame,
    ) -> Result<(Frame, Option<Encoded>), SendError> {
        if self.codec.is_plain() {
            return Ok((frame, None));
        }
        self.encode(frame).map(|(frame, encoded)| (frame, Some(encoded)))
    }

    /// How long such a frame is on the wire.
    pub(crate) fn len_of(&self, frame: &Frame, encoded: Option<&Encoded>) -> usize {
        encoded.map_or(self.codec.overhead() + frame.payload.len(), |encoded| encoded.bytes().len())
    }

    /// Encodes a frame that was [checked](Self::check).
    pub(crate) fn encode(&self, frame: Frame) -> Result<(Frame, Encoded), SendError> {
        match Encoded::new(&self.codec, &frame) {
            Some(encoded) => Ok((frame, encoded)),
            None => Err(SendError::NoFrame(frame)),
        }
    }
}
