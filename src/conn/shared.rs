//! What a connection's handles and its actor share: the outbox, the window, and the wish to close.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;

use super::limits::{Limits, Overflow, Unsent};
use super::outbox::{Batch, Encoded, Form, Outbox};
use super::properties::Properties;
use super::window::Window;
use super::{CloseReason, ConnId, Ending, SendError};
use crate::codec::envelope::Envelope;
use crate::endpoint::ListenAddr;
use crate::frame::{Frame, MsgId};
use crate::unwind::bury;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ConnId,
    pub(crate) peer_addr: SocketAddr,
    /// Shared by the connections of a listener on one address.
    pub(crate) at: Arc<ListenAddr>,
    /// This side has dialled.
    pub(crate) dialled: bool,
    /// How frames go to the peer.
    pub(crate) envelope: Envelope,
    pub(crate) limits: Arc<Limits>,
    pub(crate) window: Window,
    pub(crate) properties: Properties,
    /// Which worker has the connection.
    worker: AtomicU32,
    /// Why the connection ends; set under the lock. From then on nothing is accepted, unless `draining`.
    closing: OnceLock<CloseReason>,
    /// Why it ends instead, if it was given a last frame while it drained.
    instead: OnceLock<Box<CloseReason>>,
    /// Whether the outbox has frames that the writer has not taken, to be asked without the lock.
    queued: AtomicBool,
    /// Whether a socket stands behind this handle whose end will deregister it.
    attached: AtomicBool,
    /// Frames of this connection were dropped.
    dropped: AtomicBool,
    /// The peer has sent a byte.
    heard: AtomicBool,
    /// What it has sent is a request in plain HTTP, for nothing that is spoken here.
    http: AtomicBool,
    /// It was told that the connection's end is cut short.
    cut_short: AtomicBool,
    /// How long an answer to a heartbeat took, in microseconds; 0 before there is one.
    rtt: AtomicU32,
    /// Bytes that the peer had not taken when it was last written to, as the budget knows it: no more
    /// than 32 bits hold.
    stuck: AtomicU32,
    /// Tasks in `push_when_room`; notified by the connection's writer.
    room: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// The ending lets handlers answer what they have.
    draining: bool,
    /// The ending waits for nothing.
    cut: bool,
    /// One side asks the other not to connect again.
    is_final: bool,
    /// The connection's actor is in its turn or about to be: nobody needs to wake it, because a
    /// turn ends with a look at this state.
    scheduled: bool,
    /// The window has the room that the reader waits for.
    freed: bool,
    /// Somebody awaits `room`.
    awaited: bool,
    /// The task of the connection's actor.
    waker: Option<Waker>,
}

/// How a turn of the connection's actor ends.
#[derive(Debug)]
pub(crate) enum TurnEnd {
    /// There is something to do: take another turn.
    Again,
    /// The actor may rest; here is the buffer of its empty outbox.
    Rest(Option<BytesMut>),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Accepted,
    /// Accepted in place of so many others.
    Displaced(usize),
    Closed,
    Full,
}

impl Pushed {
    fn by(displaced: usize) -> Self {
        if displaced == 0 { Self::Accepted } else { Self::Displaced(displaced) }
    }
}

impl State {
    #[must_use = "the actor must be woken"]
    fn schedule(&mut self) -> Option<Waker> {
        if self.scheduled {
            return None;
        }
        self.scheduled = true;
        self.waker.clone()
    }
}

/// For handles: any thread.
impl Shared {
    pub(crate) fn new(
        id: ConnId,
        peer_addr: SocketAddr,
        at: Arc<ListenAddr>,
        dialled: bool,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            id,
            peer_addr,
            envelope: Envelope::of(&at, dialled),
            at,
            dialled,
            limits,
            window: Window::default(),
            properties: Properties::default(),
            worker: AtomicU32::new(0),
            closing: OnceLock::new(),
            instead: OnceLock::new(),
            queued: AtomicBool::new(false),
            attached: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            http: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            rtt: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
            room: Notify::const_new(),
            state: Mutex::default(),
        }
    }

    /// How frames stand on the wire.
    #[inline]
    pub(crate) fn form(&self) -> Form<'_> {
        Form { codec: &self.limits.codec, envelope: self.envelope }
    }

    /// Puts something into the outbox and has the actor woken.
    #[inline]
    fn queue(&self, mut state: MutexGuard<'_, State>, put: impl FnOnce(&mut Outbox)) {
        put(&mut state.outbox);
        self.queued.store(true, Ordering::Relaxed);
        let waker = state.schedule();
        drop(state);
        wake(waker);
    }

    /// Accepts a frame if there is room for it.
    pub(crate) fn push(&self, frame: Frame) -> Result<Pushed, SendError> {
        let (frame, encoded) = self.limits.encode_unless_plain(self.limits.check(frame)?)?;
        match self.offer(&frame, encoded.as_ref()) {
            Pushed::Closed => Err(SendError::Closed(frame)),
            Pushed::Full => Err(SendError::Full(frame)),
            accepted => {
                bury(frame);
                Ok(accepted)
            }
        }
    }

    /// The same for a frame that was [checked](Limits::check), and encoded unless the format is plain. It
    /// stays the caller's, to be dropped where that may run code of the application.
    pub(crate) fn offer(&self, frame: &Frame, encoded: Option<&Encoded>) -> Pushed {
        let form = self.form();
        self.accept(form.len(self.limits.len_of(frame, encoded)), |outbox| match encoded {
            None => outbox.push(form, frame),
            Some(encoded) => outbox.push_encoded(form, encoded),
        })
    }

    /// Accepts the one answer to a message, room or not: the window bounds how many there can be,
    /// and a reader that finds the outbox full hands out no more.
    pub(crate) fn push_reply(&self, frame: Frame) -> Result<(), SendError> {
        let (frame, encoded) = self.limits.encode_unless_plain(self.limits.check_answer(frame)?)?;
        let state = self.lock();
        if !self.accepts(&state) {
            return Err(SendError::Closed(frame));
        }
        self.queue_reply(state, frame.payload.len(), |outbox, form| match &encoded {
            None => outbox.push(form, &frame),
            Some(encoded) => outbox.push_encoded(form, encoded),
        });
        bury(frame);
        Ok(())
    }

    /// Accepts an answer as [`push_reply`](Self::push_reply) does, with a copy of its payload, which
    /// is a small one. False if the connection is closed, or its frames are not plain.
    #[must_use = "an answer that is not accepted is told of"]
    pub(crate) fn push_reply_copy(&self, id: MsgId, payload: &[u8]) -> bool {
        if !self.limits.codec.is_plain() {
            return false;
        }
        let state = self.lock();
        let accepts = self.accepts(&state);
        if accepts {
            let put = |outbox: &mut Outbox, form: Form<'_>| outbox.push_copy(form, id, payload);
            self.queue_reply(state, payload.len(), put);
        }
        accepts
    }

    #[inline]
    fn queue_reply(
        &self,
        state: MutexGuard<'_, State>,
        len: usize,
        put: impl FnOnce(&mut Outbox, Form<'_>),
    ) {
        self.queue(state, |outbox| {
            // The other messages in flight are likely to be answered, too, before this is written.
            outbox.expect(self.window.in_flight(), len);
            put(outbox, self.form());
        });
    }

    /// Accepts a frame as soon as there is room for it.
    pub(crate) async fn push_when_room(&self, frame: Frame) -> Result<Pushed, SendError> {
        let (frame, encoded) = self.limits.encode_unless_plain(self.limits.check(frame)?)?;
        loop {
            match self.offer(&frame, encoded.as_ref()) {
                Pushed::Closed => return Err(SendError::Closed(frame)),
                Pushed::Full => {
                    let len = self.limits.len_of(&frame, encoded.as_ref());
                    self.room_for(self.form().len(len)).await;
                }
                accepted => {
                    bury(frame);
                    return Ok(accepted);
                }
            }
        }
    }

    /// Done when there is room for a frame of this length, or nothing is accepted any more; from a full
    /// outbox on, when it is half empty. Cancel safe.
    pub(crate) async fn room_for(&self, len: usize) {
        let room = self.room.notified();
        tokio::pin!(room);
        // Listens before it looks, so that room made in between is not missed.
        room.as_mut().enable();
        {
            let mut state = self.lock();
            if !self.accepts(&state) || !state.outbox.lasting().exceeds(self.rest_beside(len)) {
                return;
            }
            state.awaited = true;
        }
        room.await;
    }

    /// Accepts an encoded frame if there is room for it. Later ones may displace it if its policy is
    /// to drop the oldest.
    pub(crate) fn push_encoded(&self, encoded: &Encoded, overflow: Overflow) -> Pushed {
        let form = self.form();
        self.accept(form.len(encoded.bytes().len()), |outbox| match overflow {
            Overflow::DropOldest => outbox.push_droppable(form, encoded),
            _ => outbox.push_encoded(form, encoded),
        })
    }

    /// Has a frame of this length put into the outbox, if that has room for it or can
    /// [make](Outbox::make_room) some.
    fn accept(&self, len: usize, put: impl FnOnce(&mut Outbox)) -> Pushed {
        let mut state = self.lock();
        if !self.accepts(&state) {
            return Pushed::Closed;
        }
        let Some(displaced) = state.outbox.make_room(self.rest_beside(len)) else {
            return Pushed::Full;
        };
        self.queue(state, put);
        Pushed::by(displaced)
    }

    /// How much an outbox may hold that has room for a frame of this length, as an empty one has.
    fn rest_beside(&self, len: usize) -> Unsent {
        let Limits { outbox_frames, outbox_bytes, .. } = *self.limits;
        Unsent { frames: outbox_frames.saturating_sub(1), bytes: outbox_bytes.saturating_sub(len) }
    }

    /// What is accepted and not yet taken by the system.
    pub(crate) fn unsent(&self) -> Unsent {
        self.lock().outbox.unsent()
    }

    /// Remembers that frames were dropped. True if they are the first.
    pub(crate) fn note_dropped(&self) -> bool {
        !self.dropped.swap(true, Ordering::Relaxed)
    }

    /// Whether the peer has sent a byte: of its handshake or, if there is none, of a frame. On a client,
    /// of a frame.
    pub(crate) fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn hear(&self) {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the peer has asked in plain HTTP, for nothing that is spoken here.
    pub(crate) fn asked_http(&self) -> bool {
        self.http.load(Ordering::Relaxed)
    }

    pub(crate) fn set_asked_http(&self, http: bool) {
        self.http.store(http, Ordering::Relaxed);
    }

    /// Remembers that the connection's end is cut short. True if nobody has said so before.
    pub(crate) fn note_cut_short(&self) -> bool {
        !self.cut_short.swap(true, Ordering::Relaxed)
    }

    /// How long the last answer to a heartbeat took.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    pub(crate) fn set_rtt(&self, micros: u32) {
        self.rtt.store(micros.max(1), Ordering::Relaxed);
    }

    /// Bytes that the peer did not take when it was last written to.
    pub(crate) fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed) as usize
    }

    /// Asks the connection to end; the first reason wins, but a later one may hurry the end up.
    /// True if this is the first.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let mut state = self.lock();
        let drains = reason.ending() == Ending::Drain;
        let first = !self.is_ending();
        if first {
            state.draining = drains;
            state.cut = reason.ending() == Ending::Cut;
            self.end_for(reason, &mut state);
        } else if reason.ending() == Ending::Cut && !state.cut {
            state.cut = true;
        } else if drains || !state.draining {
            return false;
        } else {
            state.draining = false;
        }
        let waker = state.schedule();
        let awaited = std::mem::take(&mut state.awaited);
        drop(state);
        if awaited {
            self.room.notify_waiters();
        }
        wake(waker);
        first
    }

    /// Asks a connection that accepts frames to end for this reason, which flushes, with a last frame that
    /// was [checked](Limits::check_answer), and encoded unless the format is plain. False if the connection
    /// accepts none any more.
    ///
    /// Under one lock, so that no frame is accepted behind the last one, and none displaces it.
    pub(crate) fn close_last(
        &self,
        reason: CloseReason,
        last: Option<(&Frame, Option<&Encoded>)>,
    ) -> bool {
        let mut state = self.lock();
        if !self.accepts(&state) {
            return false;
        }
        state.draining = false;
        self.end_for(reason, &mut state);
        let awaited = std::mem::take(&mut state.awaited);
        self.queue(state, |outbox| match last {
            None => {}
            Some((_, Some(encoded))) => outbox.push_encoded(self.form(), encoded),
            Some((frame, None)) => outbox.push(self.form(), frame),
        });
        if awaited {
            self.room.notify_waiters();
        }
        true
    }

    /// The peer has said that the close which follows is final.
    pub(crate) fn expect_final(&self) {
        self.lock().is_final = true;
    }

    /// Whether one side has asked the other not to connect again.
    pub(crate) fn is_final(&self) -> bool {
        self.lock().is_final
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_ending() && !self.accepts(&self.lock())
    }

    /// Whether the connection ends without waiting for anything.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_ending() && self.lock().cut
    }

    /// Whether somebody asked the connection to end.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Why the connection ends, if it does.
    pub(crate) fn closing(&self) -> Option<&CloseReason> {
        self.instead.get().map(|why| &**why).or_else(|| self.closing.get())
    }

    /// The same, when it has ended.
    pub(crate) fn why(&self) -> &CloseReason {
        self.closing().unwrap_or(&CloseReason::WorkerGone)
    }

    fn accepts(&self, state: &State) -> bool {
        !self.is_ending() || state.draining && !state.cut
    }

    fn ending(&self, state: &State) -> Option<Ending> {
        match self.closing()?.ending() {
            _ if state.cut => Some(Ending::Cut),
            Ending::Drain if !state.draining => Some(Ending::Flush),
            ending => Some(ending),
        }
    }

    /// Remembers why the connection ends. What a peer does after its final word is its final close.
    fn end_for(&self, reason: CloseReason, state: &mut State) {
        state.is_final |= reason.is_final();
        let reason = match reason {
            CloseReason::PeerClosed | CloseReason::Io(_) if state.is_final => {
                CloseReason::PeerClosedFinally
            }
            reason => reason,
        };
        if let Err(reason) = self.closing.set(reason) {
            // It accepts nothing more from here on, so that this is the last.
            let _ = self.instead.set(Box::new(reason));
        }
    }

    /// Gives `n` places of the window back.
    #[inline]
    pub(crate) fn leave_window(&self, n: u32) {
        if self.window.leave(n) {
            let mut state = self.lock();
            state.freed = true;
            let waker = state.schedule();
            drop(state);
            wake(waker);
        }
    }

    pub(crate) fn worker(&self) -> usize {
        self.worker.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn set_worker(&self, index: usize) {
        self.worker.store(index as u32, Ordering::Relaxed);
    }

    pub(crate) fn attach(&self) {
        self.attached.store(true, Ordering::Release);
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the application runs under the lock, not even the drop of a payload, and
        // nothing in it panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the connection's actor: its own thread alone.
impl Shared {
    /// Waits for somebody to ask for the end of a connection whose actor is yet to be.
    pub(crate) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if self.is_ending() {
            return Poll::Ready(());
        }
        state.scheduled = false;
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Begins a turn: from now on nobody wakes the actor, since it looks again before it rests.
    pub(crate) fn begin_turn(
        &self,
        waker: &Waker,
        buffer: impl FnOnce() -> Option<BytesMut>,
    ) -> Option<Ending> {
        let mut state = self.lock();
        state.scheduled = true;
        state.freed = false;
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        state.outbox.lend(buffer);
        self.ending(&state)
    }

    /// Ends a turn, unless there is something to do: frames to write while `can_write`, an ending
    /// other than the one `known`, or the room in the window that the reader waits for.
    ///
    /// Whoever brings one of these about does so before it takes the lock to see whether to wake
    /// the actor. So it either finds the turn over and wakes, or is found here.
    pub(crate) fn end_turn(&self, can_write: bool, known: Option<Ending>) -> TurnEnd {
        let mut state = self.lock();
        let pending = state.outbox.has_queued();
        let freed = std::mem::take(&mut state.freed);
        if (can_write && pending) || self.ending(&state) != known || freed {
            return TurnEnd::Again;
        }
        state.scheduled = false;
        TurnEnd::Rest((!pending).then(|| state.outbox.reclaim()))
    }

    /// How many messages may be with handlers now: the window, or what the outbox has room to
    /// answer, if that is less. `direct` answers wait beside the outbox.
    ///
    /// Of two sides that read nothing until the other has read, neither goes on. So a client goes on
    /// reading however much it sends: answers have an outbox of their own beside what `send` may fill.
    pub(crate) fn in_flight_limit(&self, direct: usize) -> u32 {
        let state = self.lock();
        let Limits { window, outbox_frames, outbox_bytes, .. } = *self.limits;
        let sent = Unsent { frames: outbox_frames, bytes: outbox_bytes };
        let beside = if self.dialled { sent } else { Unsent::default() };
        // What may be displaced makes room by itself.
        let Unsent { frames, bytes } = state.outbox.lasting();
        if bytes > beside.bytes.saturating_add(outbox_bytes / 2) {
            return 0;
        }
        let room = beside.frames.saturating_add(outbox_frames).saturating_sub(frames + direct);
        window.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Moves all that is queued into `batch`, which is empty; false if nothing is queued.
    pub(crate) fn next_batch(&self, batch: &mut Batch) -> bool {
        if !self.has_queued() {
            return false;
        }
        let mut state = self.lock();
        // What may be displaced is not all given away: else a peer that stops reading would keep
        // what was the newest when it did.
        let taken = state.outbox.take(batch, self.limits.half_outbox());
        self.queued.store(state.outbox.has_queued(), Ordering::Relaxed);
        taken
    }

    /// The writer could not write `bytes` of what there is.
    pub(crate) fn set_stuck(&self, bytes: usize) {
        let known = self.stuck.load(Ordering::Relaxed);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if known != bytes {
            self.stuck.store(bytes, Ordering::Relaxed);
            self.limits.budget.change(known as usize, bytes as usize);
        }
    }

    /// Whether the outbox has frames that the writer has not taken. What this thread has queued is
    /// always seen; what another thread queues now is seen at the end of the turn.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        self.queued.load(Ordering::Relaxed)
    }

    /// The kernel took `bytes`, which completed `frames`.
    pub(crate) fn written(&self, frames: usize, bytes: usize) {
        let mut state = self.lock();
        state.outbox.written(frames, bytes);
        // Half empty, so that a waiter finds room for more than one frame.
        // What may be displaced is in no waiter's way.
        if state.awaited && !state.outbox.lasting().exceeds(self.limits.half_outbox()) {
            state.awaited = false;
            drop(state);
            self.room.notify_waiters();
        }
    }

    /// Whether what a writer with an empty batch writes has nothing before it.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        !self.has_queued() && !self.is_ending()
    }

    /// The writer holds frames that did not come by way of the outbox, and could not be written.
    pub(crate) fn adopt(&self, frames: usize, bytes: usize) {
        let mut state = self.lock();
        state.outbox.adopt(frames, bytes);
        let waker = state.schedule();
        drop(state);
        wake(waker);
    }

    /// The actor has ended: nobody wakes it any more.
    pub(crate) fn retire(&self) {
        self.lock().waker = None;
    }

    /// Has the actor take a turn.
    pub(crate) fn nudge(&self) {
        let waker = self.lock().schedule();
        wake(waker);
    }

    /// Everything is answered: nothing more is accepted.
    pub(crate) fn seal(&self) {
        self.lock().draining = false;
    }

    /// Closes the outbox for good. Answers what was in it, of which the writer's transport keeps the last
    /// `kept` bytes that it was given.
    pub(crate) fn cut(&self, batch: &Batch, kept: usize) -> Unsent {
        let mut state = self.lock();
        state.draining = false;
        self.closing.get_or_init(|| CloseReason::WorkerGone);
        let outbox = std::mem::take(&mut state.outbox);
        let awaited = std::mem::take(&mut state.awaited);
        drop(state);
        if awaited {
            self.room.notify_waiters();
        }
        // Dropped here and not under the lock: its payloads are the application's.
        let unsent = outbox.unsent();
        drop(outbox);
        let done = batch.frames_written_of_front(self.form(), kept);
        Unsent { frames: unsent.frames.saturating_sub(done), ..unsent }
    }
}

/// For tests: connections without an actor.
impl Shared {
    /// Takes the bytes of all accepted frames.
    pub(crate) fn take_all(&self) -> BytesMut {
        let mut state = self.lock();
        let mut batch = Batch::default();
        let mut outbox = std::mem::take(&mut state.outbox);
        drop(state);
        let all = Unsent { frames: usize::MAX, bytes: usize::MAX };
        outbox.take(&mut batch, all);
        batch.into_bytes()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
