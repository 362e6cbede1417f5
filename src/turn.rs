//! How long a task works, or all that strangers cause, before the other tasks of the thread get their turn.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// A turn ends after this many messages, or after this long.
const MESSAGES: u32 = 1024;
const TIME: Duration = Duration::from_micros(500);

/// So many messages are handled between two looks at the clock at most. A look costs about as much
/// as handling a small message.
const LONGEST_STRIDE: u32 = 64;

/// One turn of a task. A task that never yields starves its thread: actix drains a mailbox, and
/// tokio polls a ready future, without a budget.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    messages: u32,
    next_look: u32,
    /// When the clock was first looked at, and how often it is now: ever less, as long as little
    /// time passes in between, so that slow handlers are found out early and fast ones pay little.
    clock: Option<(Instant, u32)>,
    over: bool,
}

impl Turn {
    /// One more message is handled. True if that was the last one of this turn.
    #[inline]
    pub(crate) fn spend(&mut self) -> bool {
        self.spend_all(1)
    }

    /// The same for what costs as much as so many messages.
    #[inline]
    pub(crate) fn spend_all(&mut self, messages: u32) -> bool {
        self.messages += messages;
        if self.messages > self.next_look {
            self.look();
        }
        self.over
    }

    /// Whether the others' turn has come.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    fn look(&mut self) {
        let stride = match self.clock {
            // A turn of one message never looks.
            None if self.messages == 1 => 0,
            None => {
                self.clock = Some((Instant::now(), 1));
                self.over = self.messages >= MESSAGES;
                1
            }
            Some((since, stride)) => {
                let elapsed = since.elapsed();
                self.over = self.messages >= MESSAGES || elapsed >= TIME;
                let fast = elapsed / self.messages * stride * 16 < TIME;
                let stride = if fast { (stride * 4).min(LONGEST_STRIDE) } else { 1 };
                self.clock = Some((since, stride));
                stride
            }
        };
        self.next_look = self.messages + stride;
    }
}

/// Work for strangers may take so much time before the thread's other tasks have their turn. A signature
/// takes more.
const SHARE: Duration = Duration::from_micros(100);

/// Pieces of such work that are so far apart are not added up: meanwhile the others had their turn, or there was
/// nothing to do.
const APART: Duration = Duration::from_millis(1);

/// What work of one kind has taken since the thread's other tasks had their turn.
#[derive(Debug, Default)]
pub(crate) struct Share {
    spent: Cell<Duration>,
    /// When the last piece of work ended.
    last: Cell<Option<Instant>>,
}

impl Share {
    /// Counts a piece of work that began then and ends now. True if the others' turn has come.
    pub(crate) fn spend(&self, began: Instant) -> bool {
        self.count(began, Instant::now())
    }

    fn count(&self, began: Instant, ended: Instant) -> bool {
        let is_next = self.last.get().is_some_and(|last| began.duration_since(last) < APART);
        let spent = if is_next { self.spent.get() } else { Duration::ZERO };
        let spent = spent + ended.duration_since(began);
        let is_over = spent >= SHARE;
        self.last.set(Some(ended));
        self.spent.set(if is_over { Duration::ZERO } else { spent });
        is_over
    }
}

/// Done when the tasks had their turn that are ready now, or that sockets have made ready by then. Cancel
/// safe.
///
/// tokio wakes a task that has yielded after it has looked at the sockets, behind the tasks that it finds ready
/// by that. A task that something else may wake meanwhile has another one await this.
pub(crate) async fn others() {
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_work_that_follow_each_other_are_added_up_until_the_others_turn_comes() {
        let (share, start) = (Share::default(), Instant::now());
        let pieces: Vec<_> = (0..8).map(|n| start + SHARE / 4 * n).collect();
        let turns: Vec<_> = pieces.iter().map(|at| share.count(*at, *at + SHARE / 4)).collect();
        assert_eq!(turns, [false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn pieces_of_work_that_are_far_apart_are_not_added_up() {
        let (share, start) = (Share::default(), Instant::now());
        let mut at = (0..100).map(|n| start + (APART + SHARE) * n);
        assert!(at.all(|at| !share.count(at, at + SHARE / 2)));
    }

    #[test]
    fn a_turn_of_slow_messages_ends_by_time_and_one_of_fast_messages_by_number() {
        let mut turn = Turn::default();
        let slow = (1..).find(|_| {
            std::thread::sleep(TIME / 4);
            turn.spend()
        });
        assert!(slow < Some(16), "{slow:?} slow messages");

        let mut turn = Turn::default();
        let fast = (1..=2 * MESSAGES).find(|_| turn.spend());
        assert!(fast.is_some(), "a turn without end");
        assert!(Turn::default().spend_all(MESSAGES), "as many at once");
    }
}
