//! From bytes received to messages with their handlers: in order, within the window.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::link::{Answers, Link};
use super::local::Local;
use super::meter::Meter;
use super::reader::{NOT_FOUND_AGAIN, Reader};
use crate::codec::FrameError;
use crate::codec::framing::Found;
use crate::conn::{CloseReason, Conn, Ending, Excess, OverRate, PAUSE};
use crate::event::Event;
use crate::frame::MsgId;
use crate::inbound::{self, Parcel};
use crate::router::{Called, Delivered, LocalRoute, Running};
use crate::transport::{Overhead, is_http};
use crate::turn::Turn;
use crate::unwind::contained;

/// How many places of the window the reader takes at once.
const GRANT: u32 = 64;

/// The receiving side of a connection.
///
/// Messages for one route are handed over without waiting in between, up to the window. Before a
/// message goes to another route, the window must be empty: that is what keeps a connection's
/// messages in order across routes.
#[derive(Default)]
pub(crate) struct Input {
    reader: Reader,
    /// Bytes received and given up.
    discarded: usize,
    /// Where the messages in flight are.
    current: Option<Current>,
    /// A route function that waits for something, and the id of its message.
    running: Option<(MsgId, Pin<Box<dyn Running>>)>,
    /// What the peer may send, from its first message on; `None` if nothing is limited.
    meter: Option<Box<Meter>>,
    /// The next message is paid for.
    paid: bool,
    /// The next message waits until it can be paid for.
    delayed: bool,
    told: Told,
}

/// What is logged once a connection.
#[derive(Debug, Default)]
struct Told {
    unrouted: bool,
    over_rate: bool,
}

/// How far the input got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Waits for the socket, a handler, the window, or its next turn.
    Waits,
    /// Waits for room in the window, of which a full outbox leaves less. Nobody has asked to be told
    /// of it: what is written now may make some.
    Full,
    /// Waits for as long as the peer has to make up for what it sent too much.
    Delayed(Duration),
    /// Is not read for this long, because the server holds too much.
    Paused(Duration),
    /// Has enough answers to be written now, and goes on when they are.
    Flush,
    /// The connection ends: nothing is left to hand out, and everything is handled.
    Done,
}

impl Input {
    /// Hands out what there is, reading more while the connection does not end.
    pub(crate) fn run(
        &mut self,
        link: &Link,
        local: &Local,
        ending: Option<Ending>,
        turn: &mut Turn,
        cx: &mut Context<'_>,
    ) -> Progress {
        let conn = &link.conn;
        let window = &conn.shared().window;
        window.disarm();
        link.pulse.stir();
        let progress = inbound::handing_out(|| self.hand_out(link, local, ending, turn, cx));
        window.give_back();
        if progress == Progress::Done {
            if !window.wait_below(1) {
                return Progress::Waits;
            }
            window.disarm();
        }
        progress
    }

    /// Bytes received and not handed to a handler.
    pub(crate) fn unhandled(&self) -> usize {
        self.discarded + self.reader.len()
    }

    /// Whether the next message waits for its rate.
    pub(crate) fn is_delayed(&self) -> bool {
        self.delayed
    }

    /// Counts bytes that were read away after the input's end.
    pub(crate) fn note_discarded(&mut self, bytes: usize) {
        self.discarded += bytes;
    }

    /// Forgets what was received.
    fn discard(&mut self, local: &Local) {
        self.discarded += self.reader.len();
        self.reader.recycle(&local.read_pool);
    }

    /// Gives back what is not needed while nothing comes.
    pub(crate) fn rest(&mut self, link: &Link, local: &Local) {
        self.reader.rest(&local.read_pool);
        link.hold(|| self.reader.held());
    }

    /// Whether a route function waits for something.
    pub(crate) fn is_suspended(&self) -> bool {
        self.running.is_some()
    }

    /// Gives up on everything.
    pub(crate) fn abandon(&mut self) {
        let running = self.running.take();
        // The drop of the application's future may panic; there is nobody left to tell.
        let _ = contained(|| inbound::abandoning(|| drop(running)));
    }

    fn hand_out(
        &mut self,
        link: &Link,
        local: &Local,
        ending: Option<Ending>,
        turn: &mut Turn,
        cx: &mut Context<'_>,
    ) -> Progress {
        let conn = &link.conn;
        let shared = conn.shared();
        if self.poll_running(conn, cx).is_pending() {
            return Progress::Waits;
        }
        if ending > Some(Ending::Drain) {
            return Progress::Done;
        }
        let answers = Answers::new(link, local);
        let codec = &shared.limits.codec;
        let mut has_read = false;
        // A handler may have ended the connection, or hurried its ending up: what comes after is
        // for the next step to see.
        while !shared.is_ending() || ending.is_some() && !conn.is_closed() {
            match self.reader.gather(codec) {
                Ok(true) => {
                    has_read = false;
                    match self.hand_out_frames(&answers, ending, turn, cx) {
                        Some(progress) => return progress,
                        None => continue,
                    }
                }
                Ok(false) if ending.is_some() => return Progress::Done,
                Ok(false) => {}
                Err(error) => return self.end(CloseReason::Protocol(error), link, local, ending),
            }
            if has_read && turn.spend() || turn.is_over() {
                break;
            }
            if self.delayed {
                match self.meter.as_mut().and_then(|meter| meter.owes()) {
                    Some((_, wait)) => return Progress::Delayed(wait),
                    None => self.delayed = false,
                }
            }
            has_read = true;
            match link.poll_fill(&mut self.reader, &local.read_pool, cx) {
                Poll::Pending => return self.listen(link, local, turn),
                Poll::Ready(Ok(1..)) => {
                    shared.hear();
                    link.pulse.hear(local.now());
                    self.fill_meter(link);
                    if link.is_layered {
                        if let Err(progress) = self.charge(link, local, turn) {
                            return progress;
                        }
                        link.reply_aside();
                    }
                }
                Poll::Ready(Ok(0)) => {
                    link.pulse.half_close();
                    let why = match self.reader.len() {
                        0 => CloseReason::PeerClosed,
                        have => CloseReason::Protocol(FrameError::Truncated { have }),
                    };
                    return self.end(why, link, local, ending);
                }
                Poll::Ready(Err(error)) => {
                    return self.end(CloseReason::of(error), link, local, ending);
                }
            }
        }
        Progress::Waits
    }

    /// Hands out the whole frames that there are: `None` when it has. A loop of its own, in which nothing
    /// is read, so that a message finds all that it needs in registers.
    #[inline(never)]
    fn hand_out_frames(
        &mut self,
        answers: &Answers<'_>,
        ending: Option<Ending>,
        turn: &mut Turn,
        cx: &mut Context<'_>,
    ) -> Option<Progress> {
        let (link, local) = (answers.link, answers.local);
        let conn = &link.conn;
        let shared = conn.shared();
        // A server that ends handles what it has received. A peer that leaves gets no more than one
        // that stays.
        let is_metered = self.meter.is_some() && (ending.is_none() || link.pulse.is_half_closed());
        while self.reader.has_frames() {
            if shared.is_ending() && (ending.is_none() || conn.is_closed()) {
                return Some(Progress::Waits);
            }
            let Some(found) = self.reader.frame(&shared.limits.codec) else {
                let why = CloseReason::Protocol(NOT_FOUND_AGAIN);
                return Some(self.end(why, link, local, ending));
            };
            let Found { id, payload: at, len } = found;
            if is_metered && !self.paid {
                match self.pay(id, len, ending, link, local) {
                    Pay::Paid => {}
                    Pay::Later(wait) => return Some(Progress::Delayed(wait)),
                    Pay::Never => {
                        self.pass(len);
                        if turn.spend() {
                            return Some(Progress::Waits);
                        }
                        continue;
                    }
                    Pay::Closed => return Some(Progress::Waits),
                }
            }
            let current = match &self.current {
                Some(current) if current.is(id, local) => current,
                _ => {
                    let Some(next) = Current::find(id, local) else {
                        self.pass(len);
                        self.unrouted(id, link, local);
                        if turn.spend() {
                            return Some(Progress::Waits);
                        }
                        continue;
                    };
                    let other = self.current.as_ref().is_none_or(|current| !next.is_same(current));
                    if other {
                        shared.window.give_back();
                        if !shared.window.wait_below(1) {
                            return Some(Progress::Waits);
                        }
                        shared.window.disarm();
                    }
                    link.pulse.hand_out(id);
                    self.current.insert(next)
                }
            };
            if shared.window.unused() == 0 && grant(conn, link.direct_frames()) == 0 {
                return Some(Progress::Full);
            }
            shared.window.use_one();
            self.reader.pass(len);
            self.paid = false;
            let heartbeat = current.heartbeat;
            if heartbeat {
                link.pulse.answered(conn, local.micros());
            }
            let parcel = Parcel { id, buffer: self.reader.frames(), at, conn };
            match current.route.deliver_parcel(parcel, answers, cx) {
                Delivered::Done => {}
                Delivered::Suspended(call) => {
                    self.running = Some((id, call));
                    return Some(Progress::Waits);
                }
                Delivered::Panicked => conn.handler_panicked(id),
                Delivered::Gone => conn.close(CloseReason::HandlerGone(id)),
                // An answer to a heartbeat has done its work by coming.
                Delivered::Unrouted if heartbeat => {}
                Delivered::Unrouted => self.unrouted(id, link, local),
            }
            if turn.spend() {
                return Some(Progress::Waits);
            }
            if answers.are_enough() {
                return Some(Progress::Flush);
            }
        }
        None
    }

    /// Everything that has come is read.
    #[inline]
    fn listen(&mut self, link: &Link, local: &Local, turn: &mut Turn) -> Progress {
        let mut part = self.reader.len() > 0;
        if link.is_layered {
            if let Err(progress) = self.charge(link, local, turn) {
                return progress;
            }
            let signs = link.signs();
            if signs.alive {
                link.pulse.hear(local.now());
            }
            part |= signs.part;
        }
        let completed = self.reader.take_completed();
        if link.must_pause() {
            link.pulse.pause(local.now(), completed, part);
            return Progress::Paused(PAUSE);
        }
        link.pulse.listen(local.now(), completed, part);
        Progress::Waits
    }

    /// Ends the input, and the connection with it.
    #[cold]
    fn end(
        &mut self,
        why: CloseReason,
        link: &Link,
        local: &Local,
        ending: Option<Ending>,
    ) -> Progress {
        if matches!(why, CloseReason::Protocol(_)) && is_http(self.reader.remainder()) {
            link.conn.shared().set_asked_http(true);
        }
        link.conn.close(why);
        self.discard(local);
        // An ending that is under way does not change by this: the input is at its end.
        if ending.is_some() { Progress::Done } else { Progress::Waits }
    }

    fn pass(&mut self, len: usize) {
        self.reader.pass(len);
        self.paid = false;
    }

    /// Something was read: the peer has what it was given in the meantime.
    #[inline(always)]
    fn fill_meter(&mut self, link: &Link) {
        match &mut self.meter {
            Some(meter) => meter.fill(),
            None => self.meter = Meter::new(&link.conn.shared().limits.rates),
        }
    }

    /// Has the peer pay for its next message.
    fn pay(
        &mut self,
        message: MsgId,
        len: usize,
        ending: Option<Ending>,
        link: &Link,
        local: &Local,
    ) -> Pay {
        let conn = &link.conn;
        let rates = &conn.shared().limits.rates;
        let Some(meter) = &mut self.meter else { return Pay::Paid };
        let Err((excess, wait)) = meter.pay(message, len, rates) else {
            (self.paid, self.delayed) = (true, false);
            return Pay::Paid;
        };
        let over = if ending.is_some() { OverRate::Drop } else { rates.over };
        match over {
            OverRate::Delay => {
                self.delay(excess, conn);
                Pay::Later(wait)
            }
            OverRate::Drop => {
                let first = !std::mem::replace(&mut self.told.over_rate, true);
                conn.emit(Event::RateDropped { conn, excess, message, first });
                Pay::Never
            }
            OverRate::Close => {
                conn.close(CloseReason::OverRate(excess));
                self.discard(local);
                Pay::Closed
            }
        }
    }

    /// Has the peer pay for what was read beside its messages. An error if nothing more is to be read for
    /// now.
    fn charge(&mut self, link: &Link, local: &Local, turn: &mut Turn) -> Result<(), Progress> {
        let overhead = link.take_overhead();
        if overhead == Overhead::default() {
            return Ok(());
        }
        turn.spend_all(overhead.frames);
        if self.meter.is_none() {
            self.fill_meter(link);
        }
        let Some(meter) = &mut self.meter else { return Ok(()) };
        meter.charge(overhead);
        let Some((excess, wait)) = meter.owes() else { return Ok(()) };
        let conn = &link.conn;
        match conn.shared().limits.rates.over {
            OverRate::Delay => {
                self.delay(excess, conn);
                Err(Progress::Delayed(wait))
            }
            OverRate::Drop => {
                meter.forgive();
                let pongs = link.drop_replies();
                if pongs > 0 {
                    let first = !std::mem::replace(&mut self.told.over_rate, true);
                    conn.emit(Event::PongsDropped { conn, excess, pongs, first });
                }
                Ok(())
            }
            OverRate::Close => {
                conn.close(CloseReason::OverRate(excess));
                self.discard(local);
                Err(Progress::Waits)
            }
        }
    }

    fn delay(&mut self, excess: Excess, conn: &Conn) {
        if !std::mem::replace(&mut self.delayed, true) {
            let first = !std::mem::replace(&mut self.told.over_rate, true);
            conn.emit(Event::RateDelayed { conn, excess, first });
        }
    }

    fn unrouted(&mut self, id: MsgId, link: &Link, local: &Local) {
        let conn = &link.conn;
        // An answer to a heartbeat has done its work by coming.
        if local.is_heartbeat(id) {
            link.pulse.answered(conn, local.micros());
            return;
        }
        let first = !std::mem::replace(&mut self.told.unrouted, true);
        conn.emit(Event::Unrouted { conn, message: id, first });
        if conn.shared().limits.close_unrouted {
            conn.close(CloseReason::NoRoute(id));
            self.discard(local);
        }
    }

    fn poll_running(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Poll<()> {
        let Some((id, call)) = self.running.take() else { return Poll::Ready(()) };
        match call.proceed(conn, cx) {
            Called::Done => {}
            Called::Suspended(call) => {
                self.running = Some((id, call));
                return Poll::Pending;
            }
            Called::Panicked => conn.handler_panicked(id),
        }
        Poll::Ready(())
    }
}

/// Whether a message is within what its peer may send.
enum Pay {
    Paid,
    Later(Duration),
    /// The message is dropped.
    Never,
    /// The connection is closed for it.
    Closed,
}

/// Takes places of the window, as many as may be answered.
fn grant(conn: &Conn, direct: usize) -> u32 {
    let shared = conn.shared();
    let limit = shared.in_flight_limit(direct);
    let granted = limit.saturating_sub(shared.window.in_flight()).min(GRANT);
    shared.window.reserve(granted);
    granted
}

/// The route that a connection's messages go to at present.
struct Current {
    id: MsgId,
    /// The version of the table that `route` is from.
    version: u64,
    route: Rc<dyn LocalRoute>,
    /// The id is that of heartbeats.
    heartbeat: bool,
}

impl Current {
    fn find(id: MsgId, local: &Local) -> Option<Self> {
        let route = local.routes.get(id)?;
        let heartbeat = local.is_heartbeat(id);
        Some(Self { id, version: local.routes.version(), route, heartbeat })
    }

    /// Whether messages may follow each other without waiting in between.
    fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.route, &other.route)
    }

    #[inline]
    fn is(&self, id: MsgId, local: &Local) -> bool {
        self.id == id && self.version == local.routes.version()
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("reader", &self.reader).finish_non_exhaustive()
    }
}
