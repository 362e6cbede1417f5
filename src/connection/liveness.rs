//! Which connections have been without a sign of life for too long, their peers' or their handlers',
//! and whose heartbeat is due: a look at all connections of a worker in every tick, in place of a timer
//! for each.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::heartbeat::Heartbeat;
use super::link::Link;
use super::local::Local;
use crate::conn::{CloseReason, Conn, Patience, Shared, Silence};
use crate::frame::MsgId;
use crate::transport::PeerSide;

/// How many connections are looked at before the worker's other tasks get their turn.
const RUN: usize = 256;

/// So many heartbeats without an answer are taken for lost. A round trip that takes longer than so many
/// intervals is not measured.
const FORGOTTEN: u8 = 3;

/// A deadline has this many ticks, unless they would be too short or too long.
const TICKS: u32 = 8;
const SHORTEST_TICK: Duration = Duration::from_millis(5);
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// What a worker knows of a connection's silence. Times are ticks of the worker, which may wrap
/// around.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    began: Cell<u32>,
    /// When something came, or the server began to listen again.
    heard: Cell<u32>,
    /// When the frame that is not complete began.
    frame_began: Cell<u32>,
    in_frame: Cell<bool>,
    /// A whole message has come.
    spoke: Cell<bool>,
    /// When something was written.
    wrote: Cell<u32>,
    /// When a message was done, or none was in flight.
    progressed: Cell<u32>,
    /// How many messages were done by then.
    done: Cell<u32>,
    /// The message that was handed out last.
    message: Cell<MsgId>,
    /// When the heartbeat was sent whose round trip is measured, in the worker's microseconds; 0 for
    /// none.
    beat: Cell<u32>,
    /// How many heartbeats before that one have no answer, and how many in all.
    before: Cell<u8>,
    unanswered: Cell<u8>,
    /// The connection waits for its socket, and not for a handler or for room: if nothing comes
    /// now, it is the peer's doing.
    listens: Cell<bool>,
    /// The peer has closed its side.
    half_closed: Cell<bool>,
    /// It is not read, because the server holds too much.
    paused: Cell<bool>,
}

impl Pulse {
    pub(crate) fn begin(&self, now: u32) {
        for since in [&self.began, &self.heard, &self.wrote, &self.progressed] {
            since.set(now);
        }
    }

    /// Something came.
    #[inline]
    pub(crate) fn hear(&self, now: u32) {
        self.heard.set(now);
    }

    /// There is nothing to read now. Since the last time a frame was `completed`, or not; and there
    /// is `part` of one.
    #[inline]
    pub(crate) fn listen(&self, now: u32, completed: bool, part: bool) {
        self.listens.set(true);
        self.follow(now, completed, part);
    }

    /// The same, and what there is to read is not read because the server holds too much.
    pub(crate) fn pause(&self, now: u32, completed: bool, part: bool) {
        self.paused.set(true);
        self.follow(now, completed, part);
    }

    #[inline]
    fn follow(&self, now: u32, completed: bool, part: bool) {
        if completed {
            self.spoke.set(true);
            self.in_frame.set(false);
        }
        if !self.in_frame.replace(part) {
            self.frame_began.set(now);
        }
    }

    /// Something was written.
    #[inline]
    pub(crate) fn write(&self, now: u32) {
        self.wrote.set(now);
    }

    /// Messages with this id are handed out from now on.
    #[inline]
    pub(crate) fn hand_out(&self, message: MsgId) {
        self.message.set(message);
    }

    /// A heartbeat is sent.
    fn ask(&self, micros: u32) {
        if self.unanswered.get() >= FORGOTTEN {
            // Those were not answered and will not be.
            self.unanswered.set(0);
            self.beat.set(0);
        }
        let unanswered = self.unanswered.get();
        if self.beat.get() == 0 {
            self.beat.set(micros.max(1));
            self.before.set(unanswered);
        }
        self.unanswered.set(unanswered + 1);
    }

    /// A message came with the id of heartbeats: the answer to the first that has none.
    pub(crate) fn answered(&self, conn: &Conn, micros: u32) {
        self.unanswered.set(self.unanswered.get().saturating_sub(1));
        match self.before.get().checked_sub(1) {
            Some(before) => self.before.set(before),
            None => {
                let beat = self.beat.take();
                if beat != 0 {
                    conn.shared().set_rtt(micros.wrapping_sub(beat));
                }
            }
        }
    }

    /// The connection has something to do.
    #[inline]
    pub(crate) fn stir(&self) {
        self.listens.set(false);
        self.paused.set(false);
    }

    /// The peer has closed its side. False if that was known.
    pub(crate) fn half_close(&self) -> bool {
        !self.half_closed.replace(true)
    }

    /// Whether the peer has closed its side.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.get()
    }

    fn verdict(&self, now: u32, limits: &InTicks, shared: &Shared) -> Option<CloseReason> {
        let over = |since: &Cell<u32>, limit: Option<u32>| {
            limit.is_some_and(|limit| is_over(now, since, limit))
        };
        let in_flight = shared.window.in_flight() > 0;
        let done = shared.window.left();
        if self.done.replace(done) != done || !in_flight {
            self.progressed.set(now);
        } else if over(&self.progressed, limits.handler) {
            return Some(CloseReason::HandlerLate(self.message.get()));
        }
        if over(&self.wrote, limits.write_idle) {
            return Some(CloseReason::WriteIdle);
        }
        if self.paused.get() {
            // Silence is not its fault; but it holds what others lack, and may not for ever.
            self.heard.set(now);
            let late = self.in_frame.get() && over(&self.frame_began, limits.frame);
            return late.then_some(CloseReason::InboundFull);
        }
        if !self.listens.get() {
            self.heard.set(now);
            self.frame_began.set(now);
            return None;
        }
        // Whoever waits for an answer need not speak.
        if in_flight {
            self.heard.set(now);
        }
        let silence = if self.in_frame.get() && over(&self.frame_began, limits.frame) {
            Silence::Frame
        } else if !self.spoke.get() && over(&self.began, limits.first_message) {
            Silence::FirstMessage
        } else if over(&self.heard, limits.idle) {
            Silence::Idle
        } else {
            return None;
        };
        Some(CloseReason::Silent(silence))
    }
}

/// Ticks are counted when they begin, so that one more must have begun for `limit` to be over. And one
/// more, since a tick is as long as the process was frozen, and comes before the event loop has looked
/// at the sockets again.
fn is_over(now: u32, since: &Cell<u32>, limit: u32) -> bool {
    now.wrapping_sub(since.get()) > limit.saturating_add(1)
}

/// Sees what became of a peer that nobody reads from now: its connection waits for a handler, for room,
/// for its rate, or for its own end. Whoever reads learns it from the read; so does who has ended its own side,
/// where a peer that has closed the other one looks like one that is gone.
fn look_at_peer(link: &Link) {
    if link.pulse.listens.get() || link.parts.get() {
        return;
    }
    match link.peer_side() {
        PeerSide::Open => {}
        PeerSide::Gone => link.conn.close(CloseReason::Io(io::ErrorKind::ConnectionReset)),
        PeerSide::HalfClosed if link.pulse.half_close() => link.conn.shared().nudge(),
        PeerSide::HalfClosed => {}
    }
}

/// The time that peers have, in ticks.
#[derive(Clone, Copy, Debug)]
struct InTicks {
    first_message: Option<u32>,
    frame: Option<u32>,
    idle: Option<u32>,
    write_idle: Option<u32>,
    handler: Option<u32>,
    /// The interval of heartbeats, and how long a peer may be silent under them.
    heartbeat: Option<(u32, u32)>,
}

fn in_ticks(patience: &Patience, heartbeat: Option<&Heartbeat>) -> (Duration, InTicks) {
    let Patience { first_message, frame, idle, write_idle, handler } = *patience;
    let interval = heartbeat.map(|heartbeat| heartbeat.interval);
    let all = [first_message, frame, idle, write_idle, handler, interval];
    let shortest = all.into_iter().flatten().min().unwrap_or(Duration::MAX);
    let tick = (shortest / TICKS).clamp(SHORTEST_TICK, LONGEST_TICK);
    let ticks = |time: Duration| {
        let ticks = time.as_nanos().div_ceil(tick.as_nanos());
        u32::try_from(ticks).unwrap_or(u32::MAX)
    };
    let in_ticks = InTicks {
        first_message: first_message.map(ticks),
        frame: frame.map(ticks),
        idle: idle.map(ticks),
        write_idle: write_idle.map(ticks),
        handler: handler.map(ticks),
        heartbeat: heartbeat.map(|beat| (ticks(beat.interval), ticks(beat.alive_within))),
    };
    (tick, in_ticks)
}

/// Ends the connections of this thread for which `patience` is at its end or whose peer is gone, and
/// sends heartbeats, from now on and for as long as there is a `local`.
pub(crate) fn watch(local: &Rc<Local>, patience: &Patience) {
    let (tick, limits) = in_ticks(patience, local.hooks.heartbeat.as_ref());
    let local = Rc::downgrade(local);
    actix_rt::spawn(async move {
        let mut clock = interval_at(Instant::now() + tick, tick);
        // A thread that a handler blocked did not listen meanwhile.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let Some(local) = local.upgrade() else { return };
            look(&local, local.tick(), &limits).await;
        }
    });
}

async fn look(local: &Local, now: u32, limits: &InTicks) {
    let mut from = Some(0);
    while let Some(key) = from {
        let (links, next) = local.some_links(key, RUN);
        for link in links {
            look_at_peer(&link);
            if let Some(why) = link.pulse.verdict(now, limits, link.conn.shared()) {
                link.conn.close(why);
            } else if let Some(heartbeat) = &local.hooks.heartbeat
                && let Some((interval, alive)) = limits.heartbeat
                // Not all at once.
                && now.wrapping_add(link.conn.id() as u32).is_multiple_of(interval)
                && !link.conn.is_closed()
            {
                let Link { conn, pulse, .. } = &*link;
                // The heartbeat before this one was written a tick or two after it was due.
                let quiet = || is_over(now.wrapping_add(2), &pulse.wrote, interval);
                if is_over(now, &pulse.heard, alive) {
                    heartbeat.not_alive(conn);
                } else if (!heartbeat.only_idle || quiet()) && heartbeat.beat(conn) {
                    pulse.ask(local.micros());
                }
            }
        }
        from = next;
        if from.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
