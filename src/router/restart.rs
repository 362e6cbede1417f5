//! When an actor that died is started again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The pause before an actor is started again, doubled by each death in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// So many deaths of actors that got a message cost no pause within this time: a peer that sends such
/// messages must not make all others wait.
const AT_ONCE: usize = 10;
const AT_ONCE_WITHIN: Duration = Duration::from_secs(1);

/// The longest pause after such a death. An actor that dies before it gets a message is broken in
/// itself.
const LONGEST_PAUSE_AFTER_MESSAGE: Duration = Duration::from_millis(100);

/// The deaths of one actor after another.
pub(super) struct Restarts {
    next_pause: Duration,
    born: Instant,
    /// When actors were last started again without a pause; at most `AT_ONCE`.
    at_once: VecDeque<Instant>,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self { next_pause: FIRST_PAUSE, born: Instant::now(), at_once: VecDeque::new() }
    }

    /// An actor begins its life.
    pub(super) fn begin(&mut self) {
        self.born = Instant::now();
    }

    /// The pause after the death of an actor that got this many messages. What it died of cannot be
    /// told for sure (a future of the actor may panic long after its message), so one message is
    /// enough to take the death for a peer's doing.
    pub(super) fn pause_after(&mut self, messages: u32) -> Duration {
        let now = Instant::now();
        // More than one message: the last may be what it died of, those before it were handled.
        if now - self.born > LONGEST_PAUSE || messages > 1 {
            self.next_pause = FIRST_PAUSE;
        }
        if messages > 0 {
            if self.is_at_once(now) {
                return Duration::ZERO;
            }
            self.next_pause = self.next_pause.min(LONGEST_PAUSE_AFTER_MESSAGE);
        }
        let pause = self.next_pause;
        self.next_pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    fn is_at_once(&mut self, now: Instant) -> bool {
        let over = |then: &Instant| now - *then >= AT_ONCE_WITHIN;
        while self.at_once.front().is_some_and(over) {
            self.at_once.pop_front();
        }
        let at_once = self.at_once.len() < AT_ONCE;
        if at_once {
            self.at_once.push_back(now);
        }
        at_once
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[actix::test]
    async fn deaths_with_a_message_pause_beyond_ten_a_second_and_then_a_tenth_of_a_second_at_most()
    {
        pause();
        let mut restarts = Restarts::new();
        for _ in 0..10 {
            assert_eq!(restarts.pause_after(1), Duration::ZERO);
        }
        for expected in [10, 20, 40, 80, 100, 100] {
            assert_eq!(restarts.pause_after(1), expected * MS);
        }
        advance(1000 * MS).await;
        assert_eq!(restarts.pause_after(1), Duration::ZERO);
    }

    #[actix::test]
    async fn deaths_without_a_message_pause_ever_longer_whatever_deaths_with_a_message_did() {
        pause();
        let mut restarts = Restarts::new();
        assert_eq!(restarts.pause_after(0), 10 * MS);
        assert_eq!(restarts.pause_after(1), Duration::ZERO);
        for expected in [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000] {
            assert_eq!(restarts.pause_after(0), expected * MS);
        }
        restarts.begin();
        advance(10_001 * MS).await;
        assert_eq!(restarts.pause_after(0), 10 * MS, "that one lived");
    }
}
