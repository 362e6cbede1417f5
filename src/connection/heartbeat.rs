//! What is sent to find out whether a peer is still there.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::conn::{CloseReason, Conn, Overflow, SendError, Silence};
use crate::event::Event;
use crate::frame::MsgId;
use crate::unwind::{Guard, contained};

type Payload = Box<dyn Fn(&Conn) -> Bytes + Send + Sync>;
type OnNotAlive = Box<dyn Fn(&Conn) + Send + Sync>;

/// Frames that a server sends to each of its connections in regular intervals, or a client to its server,
/// and what it does about a peer that gives no sign of life: Zinx's `HeartBeatOption`.
///
/// Whatever a peer sends is a sign of life; it need not be an answer to the heartbeat. But it must send
/// something: a peer that is a zinxide server or client needs a route for the heartbeat's id that sends
/// the message back, say, `route_fn(Heartbeat::DEFAULT_ID, async |msg: Inbound| msg)`. A peer is
/// looked at when its next heartbeat is due: one that was silent for too long gets none, and is
/// closed with [`CloseReason::Silent`]. A peer that sends the message back, or anything else with its
/// id, tells how long that takes: [`Conn::rtt`]. Silence does not count while the server does not read, or
/// has a message of the peer to answer.
///
/// ```
/// use std::time::Duration;
/// use zinxide::{Heartbeat, Server, Settings};
///
/// let server = Server::new(Settings::default())
///     .heartbeat(Heartbeat::every(Duration::from_secs(5)).message(99, |_| "still there?"));
/// ```
#[must_use = "a heartbeat is given to a server or a client"]
pub struct Heartbeat {
    pub(crate) interval: Duration,
    pub(crate) alive_within: Duration,
    pub(crate) id: MsgId,
    pub(crate) only_idle: bool,
    payload: Payload,
    on_not_alive: OnNotAlive,
}

impl Heartbeat {
    /// The id of Zinx's heartbeats.
    pub const DEFAULT_ID: MsgId = 99_999;

    /// A heartbeat in this interval, at least 10 ms: with id [`DEFAULT_ID`](Self::DEFAULT_ID) and
    /// without a payload, and for peers that may be silent for three intervals.
    pub fn every(interval: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(10));
        Self {
            interval,
            alive_within: interval.saturating_mul(3),
            id: Self::DEFAULT_ID,
            only_idle: false,
            payload: Box::new(|_| Bytes::new()),
            on_not_alive: Box::new(|conn| conn.close(CloseReason::Silent(Silence::NotAlive))),
        }
    }

    /// What is sent: frames with this id, and a payload made for each.
    ///
    /// `make` runs on the connection's worker, so it must not block. If it panics, that heartbeat is
    /// left out, and a peer that speaks only when it is asked is taken for gone in the end.
    pub fn message<P: Into<Bytes>>(
        mut self,
        id: MsgId,
        make: impl Fn(&Conn) -> P + Send + Sync + 'static,
    ) -> Self {
        self.id = id;
        let make = Guard::new(make);
        self.payload = Box::new(move |conn| make(conn).into());
        self
    }

    /// Leaves the heartbeat out where something else was sent within the interval: it shows as well
    /// that the server is there. Peers that answer are asked less often then.
    pub fn only_when_idle(mut self) -> Self {
        self.only_idle = true;
        self
    }

    /// How long a peer may be silent; three intervals by default, and not less than one: a peer must
    /// have the time to answer.
    pub fn alive_within(mut self, time: Duration) -> Self {
        self.alive_within = time.max(self.interval);
        self
    }

    /// What is done about a peer that is silent for too long, instead of closing it. It is called
    /// again in every interval until the peer says something or is closed.
    ///
    /// It runs on the connection's worker, so it must not block. A panic in it is logged.
    pub fn on_remote_not_alive(mut self, f: impl Fn(&Conn) + Send + Sync + 'static) -> Self {
        let f = Guard::new(f);
        self.on_not_alive = Box::new(move |conn| f(conn));
        self
    }

    /// Sends one. True if it is accepted.
    pub(super) fn beat(&self, conn: &Conn) -> bool {
        // A payload that is not accepted is dropped here, too.
        let sent = contained(|| {
            match conn.send_with(self.id, (self.payload)(conn), Overflow::Refuse) {
                Ok(_) => true,
                // An outbox that is full proves that the peer is not waited for in vain, and has a
                // deadline of its own.
                Err(SendError::Full(_) | SendError::Closed(_)) => false,
                Err(why) => {
                    conn.emit(Event::HeartbeatFailed { conn, why: &why });
                    false
                }
            }
        });
        sent.unwrap_or_else(|| {
            conn.emit(Event::HookPanicked { conn, hook: "the heartbeat's payload" });
            false
        })
    }

    pub(super) fn not_alive(&self, conn: &Conn) {
        conn.emit(Event::NotAlive { conn });
        if contained(|| (self.on_not_alive)(conn)).is_none() {
            conn.emit(Event::HookPanicked { conn, hook: "on_remote_not_alive" });
        }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("interval", &self.interval)
            .field("alive_within", &self.alive_within)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
