//! The actor behind one socket: it reads, delivers, writes, and ends.

mod deadlines;
mod handshake;
mod heartbeat;
mod hooks;
mod input;
mod link;
mod liveness;
mod lives;
mod local;
mod meter;
mod reader;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFuture, Addr, AsyncContext, Context, Handler, Message};
use bytes::BytesMut;

use crate::conn::{CloseReason, Conn, Ending, Limits, Slow, TurnEnd, Unsent};
use crate::conn_manager::Registration;
use crate::event::Event;
use crate::transport::{Boxed, Watch};
use crate::turn::Turn;
use deadlines::{Deadlines, Due};
pub(crate) use handshake::{in_turn, is_gone, shake_hands};
pub use heartbeat::Heartbeat;
pub(crate) use hooks::Hooks;
pub use hooks::Watermark;
use input::{Input, Progress};
pub(crate) use link::Link;
pub(crate) use liveness::watch;
pub(crate) use lives::Lives;
use lives::Living;
pub(crate) use local::Local;
pub(crate) use reader::ReadPool;
#[cfg(feature = "ws")]
pub(crate) use reader::Reader;

/// How long a connection whose handler is still at work stays in the table after its socket is
/// closed. Longer than a handler takes that only waits for its turn; a handler that waits for this
/// very removal is not waited for in vain.
const HANDLER_GRACE: Duration = Duration::from_millis(50);

/// How long a peer has to reply to the end, if its protocol has it reply, when its system has
/// acknowledged the end.
const END_REPLY: Duration = Duration::from_secs(1);

/// Ends a connection as [`Conn::stop`] does.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// The actor of one connection. It lives on one worker, owns the socket, and takes only control
/// messages: frames travel past its mailbox, in by its own future, out by the outbox.
#[derive(Debug)]
pub struct Connection {
    link: Rc<Link>,
    local: Rc<Local>,
    /// Where the worker keeps `link` for broadcasts, from `on_conn_start` to the socket's end.
    key: Option<usize>,
    input: Input,
    deadlines: Deadlines,
    /// The peer was sent something since the ending began, or sent something itself.
    talking: bool,
    /// The writing side is shut down.
    shut: bool,
    /// Watches for the acknowledgement of everything, from then on.
    acknowledgement: Option<Watch>,
    /// That is waited for, or the peer's end.
    lingers: bool,
    /// The peer's system has everything, for all that is known.
    confirmed: bool,
    /// The peer has closed its side too.
    parted: bool,
    /// The socket is closed.
    closed: bool,
    /// Its drop takes the connection out of the manager's table.
    registration: Option<Registration>,
    /// The worker's stop waits for its drop.
    living: Living,
    /// `on_conn_start` has been called and `on_conn_stop` has not.
    started: bool,
    /// It is over for the application.
    ended: bool,
    /// The outbox was above its high watermark and has not been below the low one since.
    high: bool,
}

impl Connection {
    /// Starts the actor on this thread, with a connection that was admitted: without a transport, to
    /// end it.
    pub(crate) fn start_on(
        local: Rc<Local>,
        conn: Conn,
        transport: Option<Boxed>,
        registration: Registration,
    ) -> Addr<Self> {
        conn.shared().window.settle();
        let link = Rc::new(Link::new(conn, transport));
        Self {
            link,
            living: local.lives.begin(),
            local,
            key: None,
            input: Input::default(),
            deadlines: Deadlines::default(),
            talking: false,
            shut: false,
            acknowledgement: None,
            lingers: false,
            confirmed: false,
            parted: false,
            closed: false,
            registration: Some(registration),
            started: false,
            ended: false,
            high: false,
        }
        .start()
    }

    fn conn(&self) -> &Conn {
        &self.link.conn
    }

    /// Works until there is nothing to do. Ready when the connection has ended.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let link = Rc::clone(&self.link);
        let mut turn = Turn::default();
        loop {
            match self.step(&link, &mut turn, cx) {
                Step::Again => {}
                Step::Rest => return Poll::Pending,
                Step::Ended => return Poll::Ready(()),
            }
        }
    }

    /// Reads and delivers, writes, and takes an ending one step further.
    fn step(&mut self, link: &Link, turn: &mut Turn, cx: &mut TaskContext<'_>) -> Step {
        let shared = link.conn.shared();
        let ending = shared.begin_turn(cx.waker(), || self.local.spare_buffer());
        if ending == Some(Ending::Cut) {
            self.close_socket();
        }
        if self.input.is_suspended() && ending == Some(Ending::Flush) && self.handler_is_late() {
            self.input.abandon();
        }
        let input = self.input.run(link, &self.local, ending, turn, cx);
        let written = self.flush(link, ending, cx);
        match (ending, input) {
            (Some(Ending::Drain), Progress::Done) if written => {
                shared.seal();
                return Step::Again;
            }
            (Some(Ending::Flush), _)
                if written && self.is_open() && self.poll_linger(turn, cx).is_ready() =>
            {
                self.close_socket();
                return Step::Again;
            }
            // A handler that is late is not waited for.
            (Some(_), _)
                if !self.is_open() && (input == Progress::Done || self.handler_is_late()) =>
            {
                self.input.abandon();
                self.finish();
                return Step::Ended;
            }
            (_, Progress::Flush) => return Step::Again,
            // What its rate delays has nobody any more to wait for it.
            (None, Progress::Delayed(_)) if link.pulse.is_half_closed() => {
                link.conn.close(CloseReason::PeerClosed);
                return Step::Again;
            }
            (_, Progress::Delayed(wait) | Progress::Paused(wait)) => {
                self.deadlines.set(Due::Rate, wait);
            }
            // Else the first place that is given back wakes the connection; if it is the outbox that
            // leaves none, the socket does.
            (_, Progress::Full) if shared.window.wait_below(shared.in_flight_limit(0)) => {
                return Step::Again;
            }
            _ => {}
        }
        if ending.is_some() {
            self.set_deadlines();
        }
        if link.pulse.is_half_closed() && !self.deadlines.is_set(Due::HalfClosed) {
            self.deadlines.set(Due::HalfClosed, shared.limits.half_closed);
        }
        if self.poll_deadlines(cx).is_ready() {
            self.abandon();
            return Step::Ended;
        }
        if turn.is_over() {
            cx.waker().wake_by_ref();
            return Step::Rest;
        }
        match shared.end_turn(written, ending) {
            TurnEnd::Again => Step::Again,
            TurnEnd::Rest(buffer) => {
                // What was sent since the flush wakes nobody. Later frames do.
                if !written && link.taken.get() && self.is_open() {
                    self.note_unsent();
                }
                self.rest(buffer);
                Step::Rest
            }
        }
    }

    /// Writes what the outbox has. True if that is all of it.
    fn flush(&mut self, link: &Link, ending: Option<Ending>, cx: &mut TaskContext<'_>) -> bool {
        let mut progress = false;
        let flushed = link.poll_flush(&mut progress, cx);
        self.talking |= progress && ending.is_some();
        if progress {
            link.pulse.write(self.local.now());
        }
        match flushed {
            Poll::Ready(Ok(())) => {
                self.deadlines.clear(Due::Write);
                if self.is_open() && (self.high || link.conn.shared().stuck() > 0) {
                    self.note_unsent();
                }
            }
            Poll::Ready(Err(error)) => {
                link.conn.close(CloseReason::of(error));
                self.close_socket();
            }
            Poll::Pending => {
                if progress || !self.deadlines.is_set(Due::Write) {
                    self.deadlines.set(Due::Write, link.conn.shared().limits.write_deadline);
                }
                if link.taken.get() {
                    self.note_unsent();
                }
                return false;
            }
        }
        true
    }

    /// Sees how much the socket has left unwritten.
    fn note_unsent(&mut self) {
        let link = Rc::clone(&self.link);
        let conn = &link.conn;
        let (shared, unsent) = (conn.shared(), conn.unsent());
        shared.set_stuck(unsent.bytes);
        let Limits { high_watermark, low_watermark, .. } = *shared.limits;
        let crossed =
            if self.high { !unsent.exceeds(low_watermark) } else { unsent.exceeds(high_watermark) };
        if crossed {
            self.high = !self.high;
            self.local
                .hooks
                .watermark(conn, if self.high { Watermark::High } else { Watermark::Low });
        }
    }

    fn handler_is_late(&self) -> bool {
        matches!(self.conn().shared().closing(), Some(CloseReason::HandlerLate(_)))
    }

    /// Tells the peer that nothing more comes, and waits until it has received what came before.
    ///
    /// TCP resets a connection that is closed while input comes, which costs the peer what its system
    /// has not received yet. So the socket is closed when the peer has closed its side first, when its system
    /// has acknowledged everything, or when the setting `linger_ms` is over. Where nobody tells what is
    /// acknowledged, a peer that neither spoke nor was written to since the ending began is not waited
    /// for.
    fn poll_linger(&mut self, turn: &mut Turn, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !self.shut {
            ready!(self.link.poll_end(self.why(), cx));
            self.shut = true;
            self.link.read_away();
        }
        if !self.parted {
            let mut heard = 0;
            let read = self.link.poll_discard(&self.local.read_pool, &mut heard, turn, cx);
            self.talking |= heard > 0;
            if self.input.is_delayed() {
                self.input.note_discarded(heard);
            }
            match read {
                Poll::Ready(true) => self.parted = true,
                Poll::Ready(false) => return self.reset(),
                Poll::Pending => {}
            }
        }
        // For one that has closed its side first, or has said that it takes nothing more, nobody watches.
        let closed_first =
            || matches!(self.why(), CloseReason::PeerClosed | CloseReason::PeerClosedWith { .. });
        let is_done = || closed_first() || self.link.is_deaf() || self.link.is_acknowledged();
        if self.parted && (!self.link.taken.get() || is_done()) {
            self.confirmed = true;
            return Poll::Ready(());
        }
        // Most peers have closed their side first, or do so at once.
        if !self.lingers && self.link.taken.get() {
            self.acknowledgement = self.link.acknowledgement(&self.local.acknowledged);
        }
        let acknowledged = self.acknowledgement.as_ref().map(|watch| watch.poll(cx).is_ready());
        if acknowledged == Some(true) && !self.confirmed && self.link.has_failed() {
            return self.reset();
        }
        let first = acknowledged == Some(true) && !std::mem::replace(&mut self.confirmed, true);
        let waits = acknowledged.map_or(self.talking, |acknowledged| !acknowledged);
        if self.parted && acknowledged != Some(false) {
            self.confirmed = true;
            return Poll::Ready(());
        }
        if !(waits || self.link.answers_end()) {
            return Poll::Ready(());
        }
        self.lingers = true;
        let Limits { linger, drain_deadline, .. } = *self.conn().shared().limits;
        let linger = linger.min(drain_deadline * 3 / 5);
        if first {
            self.deadlines.set(Due::Linger, END_REPLY.min(linger));
        } else if !self.deadlines.is_set(Due::Linger) {
            self.deadlines.set(Due::Linger, linger);
        }
        Poll::Pending
    }

    /// The peer reset the connection, with which all is gone that its system had not acknowledged.
    fn reset(&mut self) -> Poll<()> {
        self.lingers = true;
        Poll::Ready(())
    }

    /// An ending that is not over at once gets a deadline.
    fn set_deadlines(&mut self) {
        if !self.deadlines.is_set(Due::End) {
            self.deadlines.set(Due::End, self.conn().shared().limits.drain_deadline);
        }
        if self.closed && self.registration.is_some() && !self.deadlines.is_set(Due::Handlers) {
            self.deadlines.set(Due::Handlers, HANDLER_GRACE);
        }
    }

    /// Does what time demands. Ready when the ending's deadline has passed.
    fn poll_deadlines(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            match ready!(self.deadlines.poll(cx)) {
                Due::End => {
                    if !self.lingers || self.conn().shared().window.unfinished() > 0 {
                        self.conn().cut_short(false);
                    }
                    return Poll::Ready(());
                }
                Due::Write => {
                    self.conn().close(CloseReason::SlowConsumer(Slow::WriteDeadline));
                    self.close_socket();
                }
                Due::HalfClosed => {
                    self.conn().close(CloseReason::PeerClosed);
                    if self.conn().shared().window.in_flight() > 0 {
                        self.conn().cut_short(false);
                    }
                    return Poll::Ready(());
                }
                Due::Linger => self.close_socket(),
                Due::Rate => {}
                Due::Handlers => {
                    // Before the table forgets it, so that a stop misses it at no time.
                    self.living.outlast(&self.link.conn);
                    self.registration = None;
                }
            }
            // The next step goes on from here.
            cx.waker().wake_by_ref();
        }
    }

    fn is_open(&self) -> bool {
        !self.closed
    }

    /// Gives back what an idle connection does not need.
    fn rest(&mut self, outbox: Option<BytesMut>) {
        self.input.rest(&self.link, &self.local);
        for buffer in outbox.into_iter().chain(self.link.reclaim()) {
            self.local.recycle(buffer);
        }
    }

    /// Closes the socket, at whatever point of its life. What the ending still wrote is written.
    fn close_socket(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        if let Some(key) = self.key.take() {
            self.local.remove(key);
        }
        self.acknowledgement = None;
        self.deadlines.clear(Due::Write);
        self.deadlines.clear(Due::Linger);
        let why = self.why();
        let unsent = self.link.close(why);
        let unconfirmed = self.is_unconfirmed(why, unsent);
        let (conn, unhandled) = (&self.link.conn, self.input.unhandled());
        conn.shared().set_stuck(0);
        conn.emit(Event::Closed { conn, why, unsent, unhandled, unconfirmed });
    }

    /// Whether the system holds bytes that the peer's has not acknowledged, for all that is known, when
    /// the socket is closed.
    fn is_unconfirmed(&self, why: &CloseReason, unsent: Unsent) -> bool {
        // Of a socket that failed, the system holds nothing.
        let is_held = self.link.taken.get() && !matches!(why, CloseReason::Io(_));
        // It is full if it did not take what is unsent.
        is_held && !self.confirmed && (unsent.bytes > 0 || self.lingers)
    }

    /// Ends the connection for the application and for the manager.
    fn finish(&mut self) {
        self.ended = true;
        if std::mem::take(&mut self.started) {
            self.local.hooks.stop(self.conn(), self.why());
        }
        self.conn().shared().retire();
        self.conn().shared().properties.end();
        self.registration = None;
    }

    /// Ends without waiting for anything.
    fn abandon(&mut self) {
        self.close_socket();
        self.input.abandon();
        self.finish();
    }

    fn why(&self) -> &CloseReason {
        self.conn().shared().why()
    }
}

/// What comes after a step.
enum Step {
    Again,
    Rest,
    Ended,
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Ended before it began, by a ClearConn or in its handshake: the application never hears of it.
        if !self.conn().is_closed() && self.link.is_connected() {
            self.started = true;
            self.local.hooks.start(&self.link.conn);
            self.key = Some(self.local.add(Rc::clone(&self.link)));
        }
        ctx.spawn(Life);
    }

    /// The actor stops here without having ended only when its thread is torn down, which is no
    /// time for waiting.
    fn stopped(&mut self, _: &mut Context<Self>) {
        let shared = self.conn().shared();
        // Else nothing was under way that could come to nothing. A connection that lingers has done all that
        // it could, and says for itself whether that was confirmed.
        let is_under_way = shared.is_ending() && !self.lingers || shared.window.unfinished() > 0;
        if !self.ended && is_under_way {
            self.conn().cut_short(true);
        }
        self.abandon();
    }
}

impl Handler<Stop> for Connection {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) {
        self.conn().stop();
    }
}

/// Drives the connection inside its actor.
struct Life;

impl ActorFuture<Connection> for Life {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        connection: &mut Connection,
        ctx: &mut Context<Connection>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        ready!(connection.poll(cx));
        ctx.stop();
        Poll::Ready(())
    }
}
