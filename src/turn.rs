//! How long a task works before the other tasks of its thread get their turn.

use std::time::{Duration, Instant};

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

#[cfg(test)]
mod tests {
    use super::*;

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
