//! How long a task works before the other tasks of its thread get their turn.

use std::time::{Duration, Instant};

/// A turn ends after this many messages, or after this long.
const MESSAGES: u32 = 1024;
const TIME: Duration = Duration::from_micros(500);

/// How many messages are handled between two looks at the clock, which cost about as much as
/// handling a small one.
const PER_LOOK: u32 = 8;

/// One turn of a task. A task that never yields starves its thread: actix drains a mailbox, and
/// tokio polls a ready future, without a budget.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    messages: u32,
    since: Option<Instant>,
    over: bool,
}

impl Turn {
    /// One more message is handled. True if that was the last one of this turn.
    #[inline]
    pub(crate) fn spend(&mut self) -> bool {
        self.messages += 1;
        if self.messages % PER_LOOK == 1 {
            self.look();
        }
        self.over
    }

    /// Whether the others' turn has come.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    fn look(&mut self) {
        match self.since {
            None => self.since = Some(Instant::now()),
            Some(since) => self.over = self.messages > MESSAGES || since.elapsed() > TIME,
        }
    }
}
