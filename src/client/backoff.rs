//! How long a client waits before it dials again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How long a client waits before it dials again: twice as long after each failure in a row, up to a
/// cap, and each time by a random part less, so that the clients of a server that was down do not
/// all come back at once.
///
/// What counts as a failure in a row is a dial that failed, and a connection that ended before it was
/// up for five seconds: a server that accepts and closes at once is not hammered.
///
/// ```
/// use std::time::Duration;
/// use zinxide::client::Backoff;
///
/// let backoff = Backoff::default().first(Duration::from_secs(1)).tries(5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a back-off is given to a client"]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    tries: Option<usize>,
}

impl Default for Backoff {
    /// From 100 ms to 30 s, and as often as it takes.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(30), tries: None }
    }
}

impl Backoff {
    /// The pause after the first failure: between a half and the whole of this, and never less than
    /// a millisecond.
    pub fn first(mut self, pause: Duration) -> Self {
        self.first = pause;
        self
    }

    /// The longest pause.
    pub fn cap(mut self, pause: Duration) -> Self {
        self.cap = pause;
        self
    }

    /// Gives up, and closes the client, when so many dials in a row that followed a failure were
    /// failures, too. Without it, a client never gives up.
    pub fn tries(mut self, tries: usize) -> Self {
        self.tries = Some(tries);
        self
    }

    /// The pauses from one failure to the next.
    pub(super) fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        let least = Duration::from_millis(1);
        let (first, cap) = (self.first.max(least), self.cap.max(least));
        // The jitter adds up to as much again.
        let builder = ExponentialBuilder::new()
            .with_min_delay(first.min(cap) / 2)
            .with_max_delay(cap / 2)
            .with_factor(2.0)
            .with_jitter();
        match self.tries {
            Some(tries) => builder.with_max_times(tries),
            None => builder.without_max_times(),
        }
        .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_cap_and_each_is_between_a_half_and_the_whole_of_that() {
        let backoff = Backoff::default().first(100 * MS).cap(1000 * MS);
        for _ in 0..100 {
            let pauses: Vec<_> = backoff.pauses().take(20).collect();
            let whole = [100, 200, 400, 800, 1000].into_iter().chain(std::iter::repeat(1000));
            for (pause, whole) in pauses.into_iter().zip(whole) {
                assert!((whole / 2 * MS..=whole * MS).contains(&pause), "{pause:?} of {whole} ms");
            }
        }
    }

    #[test]
    fn pauses_are_random_also_at_the_cap() {
        let last = || Backoff::default().pauses().nth(30);
        assert!((0..10).any(|_| last() != last()));
    }

    #[test]
    fn tries_come_to_an_end() {
        assert_eq!(Backoff::default().tries(3).pauses().count(), 3);
        assert_eq!(Backoff::default().tries(0).pauses().count(), 0);
    }

    #[test]
    fn no_pause_is_nothing_and_none_is_too_long_to_be_computed() {
        let nothing = Backoff::default().first(Duration::ZERO).cap(Duration::ZERO);
        assert!(nothing.pauses().take(5).all(|pause| pause >= MS / 2));
        let for_ever = Backoff::default().first(Duration::MAX).cap(Duration::MAX);
        assert!(for_ever.pauses().take(5).all(|pause| pause >= Duration::from_secs(u64::MAX / 4)));
    }
}
