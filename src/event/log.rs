//! What is written to the log, and how much of it: what peers do must not fill a disk.

use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use log::{Level, log, log_enabled};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Events;
use super::line::line;
use crate::unwind::contained;

const TARGET: &str = "zinxide";

/// So many lines of one kind are written at once, after a time with none.
const BURST: u32 = 10;

/// In so much time one more of a kind is written, and those that were left out are summed up in a line.
const PERIOD: Duration = Duration::from_secs(1);

/// The lines of a server or a client. A logger is the application's: it never runs under the lock, and its
/// panics go no further.
#[derive(Debug, Default)]
pub(super) struct Log {
    kinds: Mutex<FxHashMap<u64, Kind>>,
    /// Lines were left out: wakes the task that sums them up.
    behind: Arc<Notify>,
}

/// Lines that are counted together.
#[derive(Debug)]
struct Kind {
    level: Level,
    /// How many more may be written now.
    left: u32,
    /// Since when that is so.
    since: Instant,
    /// How many were left out, since when.
    out: u64,
    out_since: Instant,
    /// The last one that was written: those left out are like it.
    last: String,
}

impl Log {
    /// Writes a line. One of a `kind` is left out, and counted for a summary, when there were too many.
    pub(super) fn write(
        &self,
        kind: impl FnOnce() -> Option<u64>,
        level: Level,
        text: &dyn Display,
    ) {
        // Nothing is formatted, nor the clock looked at, for what is off.
        if level > log::max_level()
            || contained(|| log_enabled!(target: TARGET, level)) != Some(true)
        {
            return;
        }
        let Some(kind) = kind() else { return put(level, &line(text)) };
        let (summary, admitted) = self.ask(kind, level, Instant::now());
        if let Some(summary) = summary {
            put(level, &summary);
        }
        if admitted {
            let line = line(text);
            put(level, &line);
            if let Some(kind) = self.lock().get_mut(&kind) {
                kind.last = line;
            }
        }
    }

    /// Whether a line may be written, and what is to be written before it.
    fn ask(&self, kind: u64, level: Level, now: Instant) -> (Option<Summary>, bool) {
        let mut kinds = self.lock();
        let kind = kinds.entry(kind).or_insert_with(|| Kind::new(level, now));
        (kind.summary(now, PERIOD), kind.admit(now, &self.behind))
    }

    /// Sums up what was left out for a `time`. True if there is more.
    fn sum_up(&self, time: Duration) -> bool {
        let now = Instant::now();
        let mut kinds = self.lock();
        let due = |kind: &mut Kind| kind.summary(now, time).map(|summary| (kind.level, summary));
        let summaries: Vec<_> = kinds.values_mut().filter_map(due).collect();
        let more = kinds.values().any(|kind| kind.out > 0);
        drop(kinds);
        for (level, summary) in summaries {
            put(level, &summary);
        }
        more
    }

    /// Sums up all that was left out.
    pub(super) fn flush(&self) {
        self.sum_up(Duration::ZERO);
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<u64, Kind>> {
        // Nothing panics half-way.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
        self.behind.notify_one();
    }
}

impl Kind {
    fn new(level: Level, now: Instant) -> Self {
        Self { level, left: BURST, since: now, out: 0, out_since: now, last: String::new() }
    }

    fn admit(&mut self, now: Instant, behind: &Notify) -> bool {
        // Other threads' clocks may have been read later.
        let periods = now.saturating_duration_since(self.since).as_secs() / PERIOD.as_secs();
        let more = u32::try_from(periods).unwrap_or(BURST).min(BURST);
        if self.left == BURST {
            self.since = now;
        } else if more > 0 {
            self.left = (self.left + more).min(BURST);
            self.since = if more == BURST { now } else { self.since + PERIOD * more };
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return true;
        }
        if self.out == 0 {
            self.out_since = now;
            behind.notify_one();
        }
        self.out += 1;
        false
    }

    /// What was left out, if the first of it was this long ago.
    fn summary(&mut self, now: Instant, time: Duration) -> Option<Summary> {
        let took = now.saturating_duration_since(self.out_since);
        if self.out == 0 || took < time {
            return None;
        }
        Some(Summary { out: std::mem::take(&mut self.out), took, last: self.last.clone() })
    }
}

/// How many lines were left out.
#[derive(Debug)]
struct Summary {
    out: u64,
    took: Duration,
    last: String,
}

impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { out, took, last } = self;
        match took.as_secs() {
            0 | 1 => write!(f, "... and {out} more in the last second like: {last}"),
            seconds => write!(f, "... and {out} more in the last {seconds} seconds like: {last}"),
        }
    }
}

fn put(level: Level, line: &dyn Display) {
    let _ = contained(|| log!(target: TARGET, level, "{line}"));
}

/// Sums up what is left out, also if nothing comes after it: for as long as there are `events`.
pub(super) fn keep_up(events: &Arc<Events>) {
    let (behind, events) = (Arc::clone(&events.log.behind), Arc::downgrade(events));
    actix_rt::spawn(async move {
        while events.strong_count() > 0 {
            behind.notified().await;
            while is_behind(&events).await {}
        }
    });
}

async fn is_behind(events: &Weak<Events>) -> bool {
    sleep(PERIOD).await;
    events.upgrade().is_some_and(|events| events.log.sum_up(PERIOD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_are_written_at_once_then_one_a_second_and_none_of_the_others_is_forgotten() {
        let began = Instant::now();
        let (log, at) = (Log::default(), |ms| began + Duration::from_millis(ms));
        let ask = |ms| log.ask(1, Level::Warn, at(ms));
        let of = |asked: &[(Option<Summary>, bool)]| {
            let out: u64 =
                asked.iter().filter_map(|(summary, _)| Some(summary.as_ref()?.out)).sum();
            (asked.iter().filter(|(_, admitted)| *admitted).count(), out)
        };
        // A hundred a second, for five seconds.
        let flood: Vec<_> = (0..500).map(|n| ask(n * 10)).collect();
        assert_eq!(of(&flood[..100]), (10, 0));
        let (admitted, summed_up) = of(&flood);
        assert_eq!(admitted, 14);
        let last = ask(6_500);
        assert_eq!(summed_up + last.0.as_ref().map_or(0, |summary| summary.out), 500 - 14);
        assert!(last.1 && !log.lock()[&1].out.gt(&0));
        // Quiet for long enough, and for less.
        let again: Vec<_> = (0..20).map(|_| ask(60_000)).collect();
        assert_eq!(of(&again), (10, 0));
        let again: Vec<_> = (0..20).map(|_| ask(63_200)).collect();
        assert_eq!(of(&again), (3, 10));
        // Others have their own.
        assert!(log.ask(2, Level::Info, at(63_200)).1);
    }
}
