//! The handle to a connection, and what handle and connection share.

mod budget;
mod close;
mod goodbye;
mod handshakes;
mod intake;
mod limits;
mod outbox;
mod properties;
mod shared;
mod window;

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::endpoint::{ListenAddr, Scheme};
use crate::event::Event;
use crate::frame::{Frame, MsgId};
use crate::unwind::bury;
pub(crate) use budget::Budget;
pub(crate) use close::Ending;
pub use close::{CloseReason, Excess, HandshakeError, Silence, Slow};
#[cfg(feature = "ws")]
pub(crate) use goodbye::beginning;
pub use goodbye::{Goodbye, GoodbyeError};
pub(crate) use handshakes::{Handshakes, Slot};
pub(crate) use intake::{Intake, IntakeBudget, PAUSE};
pub(crate) use limits::{Limits, Patience, Rate, Rates};
pub use limits::{OverRate, Overflow, Unsent};
pub(crate) use outbox::{Batch, Encoded, MAX_SLICES, SHARE_FROM, Source};
pub(crate) use shared::{Pushed, Shared, TurnEnd};

/// The id of a connection; never used twice in a server's life.
pub type ConnId = u64;

/// A handle to one connection: cheap to clone, usable from any thread and after the connection's
/// end.
///
/// Frames do not pass the connection actor's mailbox: sending puts them into the connection's
/// bounded outbox, which its actor writes to the socket. Frames that one task sends leave in the
/// order sent, whichever of the methods it uses. `Ok` means *accepted*, not *received*: what an
/// accepted frame still needs is a peer that reads.
///
/// ```
/// # async fn f(conn: zinxide::Conn) {
/// use zinxide::SendError;
///
/// match conn.send_buffered(7, "news") {
///     Ok(()) => {}
///     Err(SendError::Full(frame)) => {
///         // The peer reads too slowly. Wait for room, drop the frame, or close:
///         let _ = conn.send(frame.id, frame.payload).await;
///     }
///     Err(gone) => log::info!("{conn} did not get it: {gone}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Conn {
    shared: Arc<Shared>,
}

/// Why a frame was not accepted. Each variant gives the frame back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The outbox has no room: `max_msg_chan_len` frames or `max_msg_chan_bytes` bytes are unsent.
    #[error("the outbox is full")]
    Full(Frame),
    /// The connection is closed or about to be; by this very frame, if its policy says so.
    #[error("the connection is closed")]
    Closed(Frame),
    /// The frame alone exceeds `max_msg_chan_bytes`, so that there will never be room for it.
    #[error("the frame is larger than the outbox")]
    TooLarge(Frame),
    /// The [`Framing`](crate::framing::Framing) has no frame for this id and payload.
    #[error("there is no frame for this id and payload")]
    NoFrame(Frame),
}

/// What became of a frame that was sent with an [`Overflow`] policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the frame may have been dropped"]
#[non_exhaustive]
pub enum Sent {
    /// It is accepted.
    Accepted,
    /// It is accepted in place of so many older ones, which were sent with [`Overflow::DropOldest`] and are
    /// dropped.
    InPlaceOf(usize),
    /// It is dropped.
    Dropped,
}

impl SendError {
    /// The frame that was not accepted.
    pub fn into_frame(self) -> Frame {
        match self {
            Self::Full(frame)
            | Self::Closed(frame)
            | Self::TooLarge(frame)
            | Self::NoFrame(frame) => frame,
        }
    }
}

impl Conn {
    pub(crate) fn new(
        id: ConnId,
        peer_addr: SocketAddr,
        at: Arc<ListenAddr>,
        limits: Arc<Limits>,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(id, peer_addr, at, false, limits)) }
    }

    /// A connection to a server.
    pub(crate) fn dialled(
        id: ConnId,
        server: SocketAddr,
        at: Arc<ListenAddr>,
        limits: Arc<Limits>,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(id, server, at, true, limits)) }
    }

    /// The connection's id.
    pub fn id(&self) -> ConnId {
        self.shared.id
    }

    /// The address of the peer; behind a balancer of `proxy_from`, that of the peer behind it. On a
    /// [client](crate::client), the address of the server.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.peer_addr
    }

    /// The address of the server that the peer connected to; behind a balancer of `proxy_from`, that
    /// which the balancer did. On a [client](crate::client), its own address.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.at.addr
    }

    /// What the peer speaks: that of the endpoint it connected to, or, on a [client](crate::client), that
    /// was dialled.
    pub fn scheme(&self) -> Scheme {
        self.shared.at.scheme
    }

    /// Accepts a frame for sending if the outbox has room, else as soon as it is half empty again.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], [`SendError::TooLarge`] and [`SendError::NoFrame`]; never
    /// [`SendError::Full`].
    ///
    /// # Cancel safety
    ///
    /// A future dropped before it is done has accepted nothing: the frame is dropped with it.
    pub async fn send(&self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let pushed = self.shared.push_when_room(Frame::new(id, payload)).await?;
        self.settle(pushed, Overflow::Refuse);
        Ok(())
    }

    /// Accepts a frame for sending if the outbox has room; never waits. What becomes of it if there
    /// is none says the setting `overflow`: by default, it is given back.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the frame in it. Never [`SendError::Full`], if the setting is to drop: then `Ok`
    /// may mean dropped, and [`send_with`](Self::send_with) tells.
    pub fn send_buffered(&self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_with(id, payload, self.shared.limits.overflow).map(|_| ())
    }

    /// As [`send_buffered`](Self::send_buffered), with a policy of its own for the case that the
    /// outbox has no room.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], [`SendError::TooLarge`] and [`SendError::NoFrame`]; [`SendError::Full`] only
    /// with [`Overflow::Refuse`].
    pub fn send_with(
        &self,
        id: MsgId,
        payload: impl Into<Bytes>,
        overflow: Overflow,
    ) -> Result<Sent, SendError> {
        let frame = Frame::new(id, payload);
        let (pushed, frame) = if overflow == Overflow::DropOldest {
            let limits = &self.shared.limits;
            let (frame, encoded) = limits.encode(limits.check(frame)?)?;
            (self.shared.push_encoded(&encoded, overflow), frame)
        } else {
            match self.shared.push(frame) {
                Ok(pushed) => (pushed, Frame::default()),
                Err(SendError::Full(frame)) => (Pushed::Full, frame),
                Err(error) => return Err(error),
            }
        };
        match self.settle(pushed, overflow) {
            Some(sent) => {
                bury(frame);
                Ok(sent)
            }
            None if overflow == Overflow::Refuse => Err(SendError::Full(frame)),
            None => Err(SendError::Closed(frame)),
        }
    }

    /// Does what the policy says about a frame that was pushed. `None` if the frame is to be given
    /// back.
    pub(crate) fn settle(&self, pushed: Pushed, overflow: Overflow) -> Option<Sent> {
        match pushed {
            Pushed::Accepted => Some(Sent::Accepted),
            Pushed::Displaced(frames) => {
                self.dropped(Overflow::DropOldest, frames);
                Some(Sent::InPlaceOf(frames))
            }
            Pushed::Closed => None,
            Pushed::Full => match overflow {
                Overflow::Refuse => None,
                Overflow::Close => {
                    self.close(CloseReason::SlowConsumer(Slow::OutboxFull));
                    None
                }
                Overflow::DropOldest | Overflow::DropNewest => {
                    self.dropped(Overflow::DropNewest, 1);
                    Some(Sent::Dropped)
                }
            },
        }
    }

    fn dropped(&self, overflow: Overflow, frames: usize) {
        let first = self.shared.note_dropped();
        self.emit(Event::FramesDropped { conn: self, overflow, frames, first });
    }

    /// What was accepted for sending and the system has not taken yet.
    pub fn unsent(&self) -> Unsent {
        self.shared.unsent()
    }

    /// How long the peer took to answer the last heartbeat that it answered: the time of the round
    /// trip, and of whatever either side did before. `None` before that, and without a
    /// [`Heartbeat`](crate::Heartbeat).
    pub fn rtt(&self) -> Option<Duration> {
        self.shared.rtt()
    }

    /// Closes the connection: no new frames are accepted from now on, those accepted are written
    /// within the drain deadline, then the socket is closed, also under a silent peer.
    ///
    /// Does nothing if the connection is closed or closing already. Safe to call from a handler
    /// or hook of this very connection. [`close_with`](Self::close_with) says why, and has a last frame.
    pub fn stop(&self) {
        self.close(CloseReason::Stopped);
    }

    /// Whether the connection accepts no frames any more: it is closed or about to be.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Remembers `value` for this connection, as the one of its type. Answers the one before.
    ///
    /// Properties are dropped when the connection has ended, after `on_conn_stop`; from then on
    /// nothing is remembered.
    pub fn set_property<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        self.shared.properties.set(value)
    }

    /// The value of type `T` remembered for this connection.
    pub fn property<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.shared.properties.get()
    }

    /// Forgets the value of type `T`. Answers it.
    pub fn remove_property<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.shared.properties.remove()
    }

    /// Asks the connection to end, for a reason; the first reason wins.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.shared.close(reason);
    }

    /// The function that handled this message panicked, perhaps after it was done with the
    /// message, whose drop would else have told.
    pub(crate) fn handler_panicked(&self, id: MsgId) {
        if self.shared.close(CloseReason::HandlerPanicked(id)) {
            self.emit(Event::HandlerPanicked { conn: self, message: id });
        }
    }

    /// Sends the one answer to a message, room or not.
    pub(crate) fn reply(&self, frame: Frame) {
        if let Err(refused) = self.shared.push_reply(frame) {
            self.emit(Event::ReplyDropped { conn: self, why: &refused });
            bury(refused);
        }
    }

    /// Reports, once, that the connection's end is not waited for any longer: because the drain
    /// deadline passed, or because its worker ended under it.
    pub(crate) fn cut_short(&self, worker_ended: bool) {
        if self.shared.note_cut_short() {
            let messages = self.shared.window.unfinished();
            self.emit(Event::CutShort { conn: self, messages, worker_ended });
        }
    }

    /// Reports an event of this connection.
    pub(crate) fn emit(&self, event: Event<'_>) {
        self.shared.limits.events.emit(event);
    }

    /// Whether both are handles to one connection.
    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which_way = if self.shared.dialled { "to" } else { "from" };
        write!(f, "connection {} {which_way} {}", self.id(), self.peer_addr())
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id())
            .field("peer_addr", &self.peer_addr())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
