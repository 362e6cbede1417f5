//! The actor behind one socket: it reads, delivers, writes, and ends.

mod hooks;
mod input;
mod link;
mod local;
mod reader;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFuture, Addr, AsyncContext, Context, Handler, Message};
use bytes::BytesMut;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::conn::{CloseReason, Conn, Ending, Slow, TurnEnd};
use crate::conn_manager::Registration;
use crate::event;
use crate::transport::Transport;
use crate::turn::Turn;
pub(crate) use hooks::Hooks;
use input::{Input, Progress};
pub(crate) use link::Link;
pub(crate) use local::Local;

/// How long a connection whose handler is still at work stays in the table after its socket is
/// closed. Longer than a handler takes that only waits for its turn; a handler that waits for this
/// very removal is not waited for in vain.
const HANDLER_GRACE: Duration = Duration::from_millis(50);

/// How long a peer in the middle of a talk is waited for to close its side.
const LINGER: Duration = Duration::from_secs(1);

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
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the peer takes nothing of what is to be written.
    stalled: Option<Instant>,
    /// When an ending is over at the latest.
    deadline: Option<Instant>,
    /// The peer was sent something since the ending began, or sent something itself.
    talking: bool,
    /// The writing side is shut down.
    shut: bool,
    /// Until when the peer may take to close its side.
    linger: Option<Instant>,
    /// When the socket was closed.
    closed: Option<Instant>,
    /// Its drop takes the connection out of the manager's table.
    registration: Option<Registration>,
    /// `on_conn_start` has been called and `on_conn_stop` has not.
    started: bool,
}

impl Connection {
    /// Starts the actor on this thread, with a connection that was admitted.
    pub(crate) fn start_on(
        local: Rc<Local>,
        conn: Conn,
        transport: Box<dyn Transport>,
        registration: Registration,
    ) -> Addr<Self> {
        conn.shared().window.settle();
        let link = Rc::new(Link::new(conn, transport));
        Self {
            link,
            local,
            key: None,
            input: Input::default(),
            timer: None,
            stalled: None,
            deadline: None,
            talking: false,
            shut: false,
            linger: None,
            closed: None,
            registration: Some(registration),
            started: false,
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
        if ending.is_some() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + shared.limits.drain_deadline);
        }
        if ending == Some(Ending::Cut) {
            self.close_socket();
        }
        let input = self.input.run(link, &self.local, ending, turn, cx);
        let written = self.flush(link, cx);
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
            (Some(_), Progress::Done) if !self.is_open() => {
                self.finish();
                return Step::Ended;
            }
            // The outbox was full, and now it is not.
            (_, Progress::OutboxFull) if shared.allowance() > 0 => return Step::Again,
            _ => {}
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
                self.rest(buffer);
                Step::Rest
            }
        }
    }

    /// Writes what the outbox has. True if that is all of it.
    fn flush(&mut self, link: &Link, cx: &mut TaskContext<'_>) -> bool {
        let mut progress = false;
        let flushed = link.poll_flush(&mut progress, cx);
        self.talking |= progress && self.deadline.is_some();
        match flushed {
            Poll::Ready(Ok(())) => self.stalled = None,
            Poll::Ready(Err(error)) => {
                link.conn.close(CloseReason::Io(error.kind()));
                self.close_socket();
            }
            Poll::Pending => {
                if progress || self.stalled.is_none() {
                    self.stalled = Some(Instant::now());
                }
                return false;
            }
        }
        true
    }

    /// Tells the peer that nothing more comes, and waits until it has taken what came before.
    ///
    /// TCP resets a connection that is closed while input comes, which costs the peer answers that
    /// it has not got yet. So a peer in the middle of a talk is listened to until it closes its
    /// side, or for as long as [`LINGER`]. A silent one is not waited for.
    fn poll_linger(&mut self, turn: &mut Turn, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !self.shut {
            ready!(self.link.poll_shutdown(cx));
            self.shut = true;
        }
        let ended =
            self.link.poll_discard(&self.local.read_pool, &mut self.talking, turn, cx).is_ready();
        if ended || !self.talking {
            return Poll::Ready(());
        }
        self.linger.get_or_insert_with(|| Instant::now() + LINGER);
        Poll::Pending
    }

    /// Does what time demands. Ready when the ending's deadline has passed.
    fn poll_deadlines(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        while let Some(due) = self.due() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(());
            }
            if self.write_deadline().is_some_and(|deadline| deadline <= now) {
                self.conn().close(CloseReason::SlowConsumer(Slow::WriteDeadline));
                self.close_socket();
                cx.waker().wake_by_ref();
            }
            if self.linger.is_some_and(|deadline| deadline <= now) {
                self.close_socket();
                cx.waker().wake_by_ref();
            }
            if self.grace().is_some_and(|deadline| deadline <= now) {
                self.registration = None;
            }
        }
        self.timer = None;
        Poll::Pending
    }

    /// The next moment at which something is due. A connection that is well has none, and no timer.
    fn due(&self) -> Option<Instant> {
        let all = [self.deadline, self.write_deadline(), self.linger, self.grace()];
        all.into_iter().flatten().min()
    }

    fn write_deadline(&self) -> Option<Instant> {
        Some(self.stalled? + self.conn().shared().limits.write_deadline)
    }

    fn grace(&self) -> Option<Instant> {
        self.registration.as_ref()?;
        Some(self.closed? + HANDLER_GRACE)
    }

    fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Gives back what an idle connection does not need.
    fn rest(&mut self, outbox: Option<BytesMut>) {
        self.input.rest(&self.local);
        for buffer in outbox.into_iter().chain(self.link.reclaim()) {
            self.local.recycle(buffer);
        }
    }

    /// Closes the socket, at whatever point of its life. What the ending still wrote is written.
    fn close_socket(&mut self) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(Instant::now());
        self.stalled = None;
        self.linger = None;
        if let Some(key) = self.key.take() {
            self.local.remove(key);
        }
        let cut = self.link.close();
        event::closed(self.conn(), &self.why(), cut, self.input.unhandled());
    }

    /// Ends the connection for the application and for the manager.
    fn finish(&mut self) {
        if std::mem::take(&mut self.started) {
            self.local.hooks.stop(self.conn(), &self.why());
        }
        self.conn().shared().retire();
        self.registration = None;
    }

    /// Ends without waiting for anything.
    fn abandon(&mut self) {
        self.close_socket();
        self.input.abandon();
        self.finish();
    }

    fn why(&self) -> CloseReason {
        self.conn().shared().closing().unwrap_or(CloseReason::WorkerGone)
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
        // Ended before it began, by a ClearConn, say: the application never hears of it.
        if !self.conn().is_closed() {
            self.started = true;
            self.local.hooks.start(&self.link.conn);
            self.key = Some(self.local.add(Rc::clone(&self.link)));
        }
        ctx.spawn(Life);
    }

    /// The actor stops here without having ended only when its thread is torn down, which is no
    /// time for waiting.
    fn stopped(&mut self, _: &mut Context<Self>) {
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
