//! The bytes that a server, all connections together, has received and not handed out.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::event::{Event, Events};

/// What a connection may hold although the server holds too much. A message below it is read, handed out
/// and replied to as ever.
const SHARE: usize = 8 * 1024;

/// The same in a handshake: room for the request of a browser, or a chain of certificates.
const SHARE_OF_HANDSHAKE: usize = 4 * 1024;

/// What a connection reads all the same, once in a while: so it learns whether there is anything to read at
/// all. One whose peer sends nothing waits for its socket, as ever, and is judged by its silence. In a
/// handshake, which the worker's clock does not look at, it learns of a reset by this as well.
const PROBE: usize = 1;

/// How long a connection that may not read waits before it asks again.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// A bound for all connections together, the twin of [`Budget`](super::Budget). Each reports what it holds
/// when it rests: one that hands out all that it reads costs nothing here.
#[derive(Debug)]
pub(crate) struct IntakeBudget {
    limit: usize,
    held: AtomicUsize,
    /// The log knows that reading pauses.
    told: AtomicBool,
    events: Arc<Events>,
}

impl IntakeBudget {
    /// `None` if there is no limit.
    pub(crate) fn new(limit: usize, events: &Arc<Events>) -> Option<Arc<Self>> {
        let (held, told) = (AtomicUsize::new(0), AtomicBool::new(false));
        (limit > 0).then(|| Arc::new(Self { limit, held, told, events: Arc::clone(events) }))
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn change(&self, from: usize, to: usize) {
        let change = to.wrapping_sub(from);
        let held = self.held.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if to < from && held <= self.limit / 2 && self.told.load(Ordering::Relaxed) {
            self.told.store(false, Ordering::Relaxed);
        }
    }

    fn tell(&self) {
        let first = !self.told.swap(true, Ordering::Relaxed);
        self.events.emit(Event::ReadingPaused { held: self.held(), first });
    }
}

/// The share of one connection, on its own thread. Its drop gives back what it holds.
#[derive(Debug)]
pub(crate) struct Intake {
    budget: Arc<IntakeBudget>,
    /// What the budget knows of.
    held: Cell<usize>,
    /// How much may be read; `None` while it shakes hands, when all that comes is held.
    may: Cell<Option<usize>>,
    /// It would have read, and might not.
    refused: Cell<bool>,
    /// It has read no more than probes since that was so.
    pauses: Cell<bool>,
    probed: Cell<Option<Instant>>,
}

impl Intake {
    /// For a connection that is about to shake hands, or to read at once; `None` without a budget.
    pub(crate) fn new(budget: Option<&Arc<IntakeBudget>>) -> Option<Rc<Self>> {
        let (held, may) = (Cell::new(0), Cell::new(None));
        let (refused, pauses, probed) = (Cell::new(false), Cell::new(false), Cell::new(None));
        let new = |budget| Rc::new(Self { budget, held, may, refused, pauses, probed });
        budget.map(|budget| new(Arc::clone(budget)))
    }

    /// How much may be read by one that holds `now`.
    fn room(&self, now: usize, share: usize) -> usize {
        let others = self.budget.held().saturating_sub(self.held.get());
        // A few bytes are not worth a system call.
        let room = self.budget.limit.saturating_sub(others + now) / 1024 * 1024;
        match room.max(share.saturating_sub(now)) {
            0 => self.probe(),
            room => room,
        }
    }

    fn probe(&self) -> usize {
        let now = Instant::now();
        if self.probed.get().is_some_and(|last| now.duration_since(last) < PAUSE) {
            return 0;
        }
        self.probed.set(Some(now));
        PROBE
    }

    /// A connection that holds `now` is about to read.
    pub(crate) fn admit(&self, now: usize) {
        self.may.set(Some(self.room(now, SHARE)));
        self.refused.set(false);
    }

    /// What is read from now on is thrown away.
    pub(crate) fn discard(&self) {
        self.may.set(Some(usize::MAX));
        self.hold(0);
    }

    /// The connection holds `now`.
    pub(crate) fn hold(&self, now: usize) {
        let known = self.held.replace(now);
        if known != now {
            self.budget.change(known, now);
        }
    }

    /// Whether a read was refused since this was asked. The connection asks again after a [`PAUSE`].
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.take()
    }

    /// Reads by `read` no more than may be read.
    pub(crate) fn poll_read(
        &self,
        buf: &mut ReadBuf<'_>,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let held = self.held.get();
        let may = self.may.get().unwrap_or_else(|| self.room(held, SHARE_OF_HANDSHAKE));
        if may == 0 {
            self.refused.set(true);
            if !self.pauses.replace(true) {
                self.budget.tell();
            }
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let done = if may < buf.remaining() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(may));
            let done = read(&mut part);
            let n = part.filled().len();
            buf.advance(n);
            done
        } else {
            read(buf)
        };
        let n = buf.filled().len() - before;
        if n > PROBE {
            self.pauses.set(false);
        }
        match self.may.get() {
            Some(may) => self.may.set(Some(may - n)),
            None => self.hold(held + n),
        }
        done
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 * 1024;

    fn budget() -> Option<Arc<IntakeBudget>> {
        IntakeBudget::new(LIMIT, &Arc::default())
    }

    /// How much is read of a peer that has sent without end.
    fn read(intake: &Intake, room: usize) -> Option<usize> {
        let mut memory = vec![0; room];
        let mut buf = ReadBuf::new(&mut memory);
        let read = intake.poll_read(&mut buf, |buf| {
            let n = buf.remaining();
            buf.advance(n);
            Poll::Ready(Ok(()))
        });
        read.is_ready().then(|| buf.filled().len())
    }

    #[test]
    fn a_connection_reads_what_is_left_of_the_budget_and_its_share_beyond_it() {
        let budget = budget();
        let (first, second) =
            (Intake::new(budget.as_ref()).unwrap(), Intake::new(budget.as_ref()).unwrap());
        first.admit(0);
        assert_eq!(read(&first, 60 * 1024), Some(60 * 1024));
        first.hold(60 * 1024);
        // What is left is less than its share.
        second.admit(0);
        assert_eq!(read(&second, 60 * 1024), Some(SHARE));
        assert_eq!(read(&second, 1), None);
        assert!(second.take_refused());
        second.hold(SHARE);
        // The budget is exceeded; also for the one that holds more than its share.
        for (intake, holds) in [(&second, SHARE), (&first, 60 * 1024)] {
            intake.admit(holds);
            assert_eq!(read(intake, LIMIT), Some(PROBE));
            intake.admit(holds);
            assert_eq!(read(intake, LIMIT), None, "one probe is enough for a while");
            assert!(intake.take_refused());
        }
        // Whose frame is complete has nothing to wait for.
        first.hold(0);
        second.admit(SHARE);
        assert_eq!(read(&second, LIMIT), Some(LIMIT - SHARE));
    }

    #[test]
    fn a_handshake_holds_all_that_comes_and_has_the_smaller_share() {
        let budget = budget();
        let (other, handshake) =
            (Intake::new(budget.as_ref()).unwrap(), Intake::new(budget.as_ref()).unwrap());
        other.hold(LIMIT);
        assert_eq!(read(&handshake, 1000), Some(1000));
        assert_eq!(budget.as_ref().unwrap().held(), LIMIT + 1000);
        assert_eq!(read(&handshake, LIMIT), Some(SHARE_OF_HANDSHAKE - 1000));
        assert_eq!(read(&handshake, LIMIT), Some(PROBE));
        assert_eq!(read(&handshake, LIMIT), None);
        drop(handshake);
        assert_eq!(budget.as_ref().unwrap().held(), LIMIT);
        drop(other);
        assert_eq!(budget.as_ref().unwrap().held(), 0);
    }
}
