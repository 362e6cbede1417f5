//! The socket of a connection, where both the connection and its worker's broadcasts can write.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;

use super::liveness::Pulse;
use super::local::Local;
use super::reader::{ReadPool, Reader};

use crate::conn::{
    Batch, CloseReason, Conn, Encoded, Intake, MAX_SLICES, Overflow, Pushed, SHARE_FROM, Shared,
    Source, Unsent,
};
use crate::router::{Answer, Replies, Reply};
use crate::transport::{Acknowledged, Boxed, Overhead, Passed, PeerSide, Signs, Watch, is_over};
use crate::turn::Turn;

/// So many bytes of answers are written before more messages are handled.
const FLUSH_FROM: usize = 64 * 1024;

/// So many bytes are written to a transport that keeps them before it is asked to let go of them.
const KEPT: usize = 16 * 1024;

/// A connection as its worker sees it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) conn: Conn,
    pub(crate) pulse: Pulse,
    /// The socket has taken something. Before that it looks full even if it is not: tokio asks the system
    /// first.
    pub(crate) taken: Cell<bool>,
    /// There is something between the frames and the socket.
    pub(crate) is_layered: bool,
    /// What lies there has messages: it has an end of its own, which the peer answers.
    has_messages: bool,
    io: RefCell<Io>,
}

struct Io {
    transport: Option<Boxed>,
    /// What bounds the reading, if anything does.
    intake: Option<Rc<Intake>>,
    /// There is something between the frames and the socket.
    layered: bool,
    /// The transport may keep what is written for itself until it is flushed.
    keeps: bool,
    /// What it keeps.
    kept: Kept,
    /// What the peer would not take any more.
    lost: Unsent,
    /// Frames on their way out: nothing else is written before them.
    batch: Batch,
    /// What is written next, the last first: a control frame that stands between frames of a batch, and the
    /// rest of that.
    parked: Vec<Batch>,
}

/// What a transport was given and the socket has not in a form that the peer can use: still unsent.
#[derive(Debug, Default)]
struct Kept {
    /// Frames that ended in what was given since nothing was kept.
    frames: usize,
    bytes: usize,
    /// Bytes before these that are no frames.
    aside: usize,
    /// The transport's own count of what is not kept any more.
    whole: u64,
}

impl Kept {
    fn give(&mut self, frames: usize, bytes: usize) {
        self.frames += frames;
        self.bytes += bytes;
    }

    /// The transport was given what is no frame. It takes that only when the socket has what came before.
    fn give_aside(&mut self, bytes: usize, transport: &Boxed, shared: &Shared) {
        self.aside += bytes - self.settle(transport, shared).min(bytes);
    }

    /// Counts what the socket has by now as written. Returns how many bytes it has beside.
    fn settle(&mut self, transport: &Boxed, shared: &Shared) -> usize {
        let Some(Passed { whole, .. }) = transport.passed() else { return 0 };
        let come = usize::try_from(whole - self.whole).unwrap_or(usize::MAX);
        self.whole = whole;
        let aside = come.min(self.aside);
        self.aside -= aside;
        let bytes = (come - aside).min(self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            let frames = if self.bytes == 0 { std::mem::take(&mut self.frames) } else { 0 };
            shared.written(frames, bytes);
        }
        come - aside - bytes
    }
}

impl Link {
    /// Without a transport, if the connection ends before it begins.
    pub(crate) fn new(conn: Conn, mut transport: Option<Boxed>) -> Self {
        let passed = transport.as_ref().and_then(|transport| transport.passed());
        let kept = Kept { whole: passed.unwrap_or_default().whole, ..Kept::default() };
        let (keeps, lost) = (passed.is_some(), Unsent::default());
        let has_messages = transport.as_mut().is_some_and(|transport| transport.bounds().is_some());
        let layered = keeps || has_messages;
        let intake = transport.as_ref().and_then(|transport| transport.intake());
        let (batch, parked) = (Batch::default(), Vec::new());
        let io = Io { transport, intake, layered, keeps, kept, lost, batch, parked };
        let (pulse, taken) = (Pulse::default(), Cell::new(false));
        Self { conn, pulse, taken, is_layered: layered, has_messages, io: RefCell::new(io) }
    }

    /// Whether there is a transport.
    pub(crate) fn is_connected(&self) -> bool {
        self.io.borrow().transport.is_some()
    }

    /// Reads once into `reader`; 0 bytes if the socket is closed.
    pub(crate) fn poll_fill(
        &self,
        reader: &mut Reader,
        pool: &ReadPool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Io { transport, intake, layered, .. } = &mut *self.io.borrow_mut();
        let Some(transport) = transport else { return Poll::Ready(Ok(0)) };
        if let Some(intake) = intake {
            intake.admit(reader.len() + transport.held());
        }
        let filled = reader.poll_fill(&mut **transport, pool, cx);
        if *layered {
            reader.note_messages(&mut **transport);
        }
        filled
    }

    /// Has the transport reply to what came before the messages that were read with it are answered.
    #[inline]
    pub(crate) fn reply_aside(&self) {
        if let Io { layered: true, transport: Some(transport), batch, .. } =
            &mut *self.io.borrow_mut()
            && batch.is_empty()
            && let Some(bytes) = transport.aside()
        {
            *batch = Batch::aside(bytes);
        }
    }

    /// Reports that the connection rests with so much input beside what the transport has.
    #[inline]
    pub(crate) fn hold(&self, input: impl FnOnce() -> usize) {
        if let Io { transport: Some(transport), intake: Some(intake), .. } = &*self.io.borrow() {
            intake.hold(input() + transport.held());
        }
    }

    /// Whether the socket was not read because the server holds too much.
    #[inline]
    pub(crate) fn must_pause(&self) -> bool {
        self.io.borrow().intake.as_ref().is_some_and(|intake| intake.take_refused())
    }

    /// Writes the outbox. Ready when it is empty. `progress` is set if the kernel took anything.
    pub(crate) fn poll_flush(
        &self,
        progress: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let flushed = self.io.borrow_mut().poll_flush(self.conn.shared(), progress, cx);
        if *progress {
            self.taken.set(true);
        }
        flushed
    }

    /// Accepts the answer of a route function, in the turn that ends with a flush. It need not
    /// pass the outbox, and its lock, unless something is queued there before it. True if enough
    /// answers wait to be worth a system call of their own.
    #[inline]
    fn reply(&self, reply: Reply, local: &Local) -> bool {
        let (id, payload) = match &reply.0 {
            Answer::Frame(frame) => (frame.id, &frame.payload[..]),
            Answer::Echo(message) => (message.id(), message.payload()),
        };
        let shared = self.conn.shared();
        let Io { batch, .. } = &mut *self.io.borrow_mut();
        let next = batch.source == Source::Direct || batch.is_empty();
        let plain = shared.limits.codec.is_plain();
        if !next || !shared.is_clear() || !plain || payload.len() >= SHARE_FROM {
            Replies::reply(&self.conn, reply);
            return false;
        }
        batch.source = Source::Direct;
        batch.lend(|| local.spare_buffer());
        batch.push_copy(shared.form(), id, payload);
        batch.tail_len() >= FLUSH_FROM
    }

    /// Takes the writer's spare buffer away, if it writes nothing.
    pub(crate) fn reclaim(&self) -> Option<BytesMut> {
        let batch = &mut self.io.borrow_mut().batch;
        batch.is_empty().then(|| batch.reclaim())
    }

    /// Sends an encoded frame: straight to the socket if nothing is before it, which saves the
    /// connection a turn, else by way of the outbox.
    pub(crate) fn send_encoded(&self, encoded: &Encoded, overflow: Overflow) -> Pushed {
        let shared = self.conn.shared();
        let Ok(mut io) = self.io.try_borrow_mut() else {
            return shared.push_encoded(encoded, overflow);
        };
        let Io { transport: Some(transport), layered, keeps, batch, .. } = &mut *io else {
            return Pushed::Closed;
        };
        // Of what a transport keeps, only the connection knows how to see it written.
        let busy = *keeps || !batch.is_empty() || !shared.is_clear();
        let Some(bytes) = encoded.alike(shared.envelope) else {
            return shared.push_encoded(encoded, overflow);
        };
        if busy || *layered && transport.is_deaf() {
            return shared.push_encoded(encoded, overflow);
        }
        // Whatever is left is written by the connection, which registers its own waker for that.
        let mut nobody = Context::from_waker(Waker::noop());
        let written = Pin::new(transport.writer()).poll_write(&mut nobody, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.taken.set(true);
        }
        match written {
            Poll::Ready(Ok(n)) if n == bytes.len() => {}
            Poll::Ready(Ok(n)) => {
                *batch = Batch::rest_of(encoded.enveloped(shared.envelope), n);
                shared.adopt(1, bytes.len() - n);
            }
            Poll::Pending => return shared.push_encoded(encoded, overflow),
            // The connection meets the error when it writes.
            Poll::Ready(Err(_)) => return shared.push_encoded(encoded, overflow),
        }
        Pushed::Accepted
    }

    /// What has become of the peer, as far as the socket knows without being read.
    pub(crate) fn peer_side(&self) -> PeerSide {
        // Borrowed only while somebody reads or writes, and learns the same.
        let Ok(io) = self.io.try_borrow() else { return PeerSide::Open };
        let socket = io.transport.as_ref().and_then(|transport| transport.socket());
        socket.map_or(PeerSide::Open, PeerSide::of)
    }

    /// Watches for the acknowledgement of what was written, if anything was; `None` where that cannot
    /// be told.
    pub(crate) fn acknowledgement(&self, of: &Acknowledged) -> Option<Watch> {
        let io = self.io.borrow();
        of.watch(io.transport.as_ref()?.socket()?)
    }

    /// Whether it is known without a [`Watch`] that the peer has acknowledged everything, the end included.
    pub(crate) fn is_acknowledged(&self) -> bool {
        let io = self.io.borrow();
        let socket = io.transport.as_ref().and_then(|transport| transport.socket());
        socket.is_none_or(is_over)
    }

    /// Whether the connection has failed, and nobody was told so far.
    pub(crate) fn has_failed(&self) -> bool {
        let io = self.io.borrow();
        let socket = io.transport.as_ref().and_then(|transport| transport.socket());
        socket.is_some_and(|socket| !matches!(socket.take_error(), Ok(None)))
    }

    /// How many answers are to be written without having passed the outbox.
    pub(crate) fn direct_frames(&self) -> usize {
        let io = self.io.borrow();
        if io.batch.source == Source::Direct { io.batch.size().0 } else { 0 }
    }

    /// Ends the writing side, for this reason. All frames were written, and are the peer's to read.
    pub(crate) fn poll_end(&self, why: &CloseReason, cx: &mut Context<'_>) -> Poll<()> {
        let io = &mut *self.io.borrow_mut();
        let Some(transport) = &mut io.transport else { return Poll::Ready(()) };
        if io.batch.is_empty()
            && let Some(words) = transport.last_words(why)
        {
            io.batch = Batch::aside(words);
        }
        let ended = match ready!(io.poll_flush(self.conn.shared(), &mut false, cx)) {
            Ok(()) => io.transport.as_mut().map(|transport| transport.poll_end(cx)),
            Err(_) => None,
        };
        // An error here means that the peer is gone already.
        ended.map_or(Poll::Ready(()), |ended| ended.map(drop))
    }

    /// Whether the peer answers the end of the writing side.
    pub(crate) fn answers_end(&self) -> bool {
        self.has_messages && self.is_connected()
    }

    /// Whether the peer has said that it takes nothing more.
    pub(crate) fn is_deaf(&self) -> bool {
        let io = self.io.borrow();
        io.layered && io.transport.as_ref().is_some_and(|transport| transport.is_deaf())
    }

    /// What has come that was not read.
    #[inline]
    pub(crate) fn signs(&self) -> Signs {
        match &mut *self.io.borrow_mut() {
            Io { layered: true, transport: Some(transport), .. } => transport.signs(),
            _ => Signs::default(),
        }
    }

    /// What has come since this was asked that is no part of a frame.
    #[inline]
    pub(crate) fn take_overhead(&self) -> Overhead {
        match &mut *self.io.borrow_mut() {
            Io { layered: true, transport: Some(transport), .. } => transport.take_overhead(),
            _ => Overhead::default(),
        }
    }

    /// Does not reply to the control frames that have come. Returns how many replies were due.
    pub(crate) fn drop_replies(&self) -> usize {
        self.io.borrow_mut().transport.as_mut().map_or(0, |transport| transport.drop_replies())
    }

    /// The peer is read to its end from now on, whatever the server holds: nothing of it is kept.
    pub(crate) fn read_away(&self) {
        self.pulse.read_away();
        let Io { transport, intake, .. } = &mut *self.io.borrow_mut();
        if let Some(transport) = transport {
            transport.read_away();
        }
        if let Some(intake) = intake.take() {
            intake.discard();
        }
    }

    /// Reads the peer's last bytes away, and adds their number to `heard`. Ready when there are no more
    /// to come, with false if that is because the socket failed.
    pub(crate) fn poll_discard(
        &self,
        pool: &ReadPool,
        heard: &mut usize,
        turn: &mut Turn,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let mut last = Reader::default();
        while !turn.spend() {
            let read = self.poll_fill(&mut last, pool, cx);
            last.recycle(pool);
            match ready!(read) {
                Ok(n @ 1..) => *heard += n,
                Ok(0) => return Poll::Ready(true),
                // A transport that ends for another reason has been told of the peer's end, or took
                // offence at what it said.
                Err(error) => {
                    let failed = matches!(CloseReason::of(error), CloseReason::Io(_));
                    return Poll::Ready(!failed);
                }
            }
        }
        Poll::Pending
    }

    /// Closes the socket. Answers what was not written.
    pub(crate) fn close(&self, why: &CloseReason) -> Unsent {
        let Io { transport, intake, layered, kept, lost, batch, parked, .. } =
            &mut *self.io.borrow_mut();
        *intake = None;
        if let Some(mut transport) = transport.take()
            && *layered
        {
            // Its last words, unless it is inside a frame or has had them; they are not waited for.
            let mut nobody = Context::from_waker(Waker::noop());
            if batch.is_empty()
                && let Some(words) = transport.last_words(why)
            {
                let _ = Pin::new(transport.writer()).poll_write(&mut nobody, &words);
            }
            // Nor is the peer's close frame, any more.
            let _ = Pin::new(transport.writer()).poll_shutdown(&mut nobody);
        }
        count(batch, self.conn.shared());
        let cut = self.conn.shared().cut(batch, std::mem::take(kept).bytes);
        *batch = Batch::default();
        parked.clear();
        Unsent { frames: cut.frames + lost.frames, bytes: cut.bytes + lost.bytes }
    }
}

impl Io {
    /// Writes the outbox. Ready when the system has all of it. `progress` is set if it took anything.
    #[inline(always)]
    fn poll_flush(
        &mut self,
        shared: &Shared,
        progress: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.keeps {
            return self.poll_write_all(shared, progress, cx);
        }
        if self.batch.source == Source::Direct {
            count(&mut self.batch, shared);
        }
        let before = self.to_socket();
        let flushed = self.poll_flush_kept(shared, cx);
        if let Some(transport) = &self.transport {
            self.kept.settle(transport, shared);
        }
        *progress |= self.to_socket() != before;
        flushed
    }

    fn to_socket(&self) -> Option<u64> {
        Some(self.transport.as_ref()?.passed()?.to_socket)
    }

    /// Sees to it that there is something in the batch; false if there is nothing to write.
    #[inline]
    fn next_batch(&mut self, shared: &Shared) -> bool {
        if self.layered {
            self.step_aside(shared);
        }
        !self.batch.is_empty() || shared.next_batch(&mut self.batch)
    }

    /// Puts what the transport has to send of its own behind the frame that is being written, and gives up
    /// on what the peer would not take.
    fn step_aside(&mut self, shared: &Shared) {
        let Self { transport: Some(transport), lost, batch, parked, .. } = self else { return };
        let is_deaf = transport.is_deaf();
        if is_deaf {
            parked.retain(|parked| {
                let is_aside = parked.source == Source::Aside;
                if !is_aside {
                    give_up(lost, parked, shared);
                }
                is_aside
            });
        }
        if batch.source != Source::Aside && parked.is_empty() {
            let bytes = transport.aside();
            if is_deaf || bytes.is_some() {
                let mut rest = match batch.is_begun() {
                    true => batch.split_behind_frame(shared.form()),
                    false => std::mem::take(batch),
                };
                if is_deaf {
                    give_up(lost, &rest, shared);
                    give_up_queued(lost, shared);
                } else if !rest.is_empty() {
                    count(&mut rest, shared);
                    parked.push(rest);
                }
                parked.extend(bytes.map(Batch::aside));
            }
        }
        if batch.is_empty()
            && let Some(next) = parked.pop()
        {
            *batch = next;
        }
    }

    /// Writes until the outbox is empty.
    fn poll_write_all(
        &mut self,
        shared: &Shared,
        progress: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.next_batch(shared) {
            let Self { transport: Some(transport), batch, .. } = self else { break };
            let source = batch.source;
            let wrote = poll_write(transport, batch, cx);
            let frames = match wrote {
                Poll::Ready(Ok(n)) => batch.advance(n),
                _ => 0,
            };
            if source == Source::Direct && !batch.is_empty() {
                count(batch, shared);
            }
            let n = ready!(wrote)?;
            *progress = true;
            if source == Source::Outbox {
                shared.written(frames, n);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the outbox by a transport that keeps what is written until it is flushed. A peer that is always
    /// behind would have it flush all of the outbox never, and everything count as unsent that it has long got:
    /// so it is flushed in between.
    fn poll_flush_kept(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let is_last = !self.next_batch(shared);
            let Self { transport: Some(transport), kept, batch, .. } = self else {
                return Poll::Ready(Ok(()));
            };
            if is_last || kept.bytes >= KEPT {
                ready!(Pin::new(transport.writer()).poll_flush(cx))?;
                kept.settle(transport, shared);
            }
            if is_last {
                return Poll::Ready(Ok(()));
            }
            let source = batch.source;
            let n = ready!(poll_write(transport, batch, cx))?;
            let frames = batch.advance(n);
            match source {
                Source::Aside => kept.give_aside(n, transport, shared),
                _ => kept.give(frames, n),
            }
        }
    }
}

/// Gives up on a batch that a peer would not take.
fn give_up(lost: &mut Unsent, batch: &Batch, shared: &Shared) {
    let (frames, bytes) = batch.size();
    if batch.source == Source::Outbox {
        shared.written(frames, bytes);
    }
    lost.frames += frames;
    lost.bytes += bytes;
}

/// Takes what a peer would not take out of the outbox, so that what it sent before can still be
/// handled and answered, in vain.
fn give_up_queued(lost: &mut Unsent, shared: &Shared) {
    let mut batch = Batch::default();
    while shared.next_batch(&mut batch) {
        give_up(lost, &batch, shared);
        batch = Batch::default();
    }
}

/// Has the outbox's counts include a batch.
fn count(batch: &mut Batch, shared: &Shared) {
    if std::mem::take(&mut batch.source) == Source::Direct {
        let (frames, bytes) = batch.size();
        shared.adopt(frames, bytes);
    }
}

/// One system call for as much of `batch` as it takes. Answers how many bytes that was.
fn poll_write(
    transport: &mut Boxed,
    batch: &Batch,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let n = match batch.contiguous() {
        Some(bytes) => ready!(Pin::new(transport.writer()).poll_write(cx, bytes))?,
        None => {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = batch.slices(&mut slices);
            ready!(Pin::new(transport.writer()).poll_write_vectored(cx, &slices[..count]))?
        }
    };
    if n == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    Poll::Ready(Ok(n))
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.transport.is_some();
        f.debug_struct("Io").field("open", &open).field("batch", &self.batch).finish()
    }
}

/// Where the answers of a connection's route functions go while it hands messages out.
pub(super) struct Answers<'a> {
    pub(super) link: &'a Link,
    pub(super) local: &'a Local,
    enough: Cell<bool>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(link: &'a Link, local: &'a Local) -> Self {
        Self { link, local, enough: Cell::new(false) }
    }

    /// Whether they are worth a system call of their own.
    #[inline]
    pub(super) fn are_enough(&self) -> bool {
        self.enough.get()
    }
}

impl Replies for Answers<'_> {
    fn conn(&self) -> &Conn {
        &self.link.conn
    }

    #[inline]
    fn reply(&self, reply: Reply) {
        self.enough.set(self.link.reply(reply, self.local));
    }
}
