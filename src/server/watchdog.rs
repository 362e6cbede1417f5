//! Finds workers whose thread does not come back from a handler.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::event::{Event, Events};
use crate::inbound::{Latest, tell_latest};

/// So many looks are taken within the deadline.
const LOOKS: u32 = 4;

/// What a worker's thread shows of itself, for as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    beats: Arc<AtomicU32>,
    latest: Latest,
}

/// The same as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    beats: Weak<AtomicU32>,
    latest: Latest,
}

impl Vitals {
    pub(super) fn watched(&self) -> Watched {
        Watched { beats: Arc::downgrade(&self.beats), latest: Arc::clone(&self.latest) }
    }

    /// Shows that this thread's event loop runs, for as long as it does.
    pub(super) fn show(self, deadline: Duration) {
        let Self { beats, latest } = self;
        tell_latest(latest);
        actix_rt::spawn(async move {
            let mut clock = every(deadline / LOOKS);
            loop {
                clock.tick().await;
                beats.fetch_add(1, Relaxed);
            }
        });
    }
}

/// Watches the workers for ever, and reports each that is blocked for `deadline`, and when it goes on.
pub(super) async fn watch(workers: Vec<Watched>, deadline: Duration, events: Arc<Events>) {
    struct Seen {
        beats: u32,
        at: Instant,
        /// Looks since then. A process that was stopped has had no more of them than its workers
        /// had beats.
        looks: u32,
        blocked: bool,
    }
    let unseen = |_| Seen { beats: 0, at: Instant::now(), looks: 0, blocked: false };
    let mut seen: Vec<Seen> = workers.iter().map(unseen).collect();
    let mut clock = every(deadline / LOOKS);
    loop {
        clock.tick().await;
        for (worker, (watched, seen)) in workers.iter().zip(&mut seen).enumerate() {
            // One that has ended is not blocked.
            let Some(beats) = watched.beats.upgrade() else { continue };
            let (beats, now) = (beats.load(Relaxed), Instant::now());
            seen.looks += 1;
            if beats != seen.beats {
                (seen.beats, seen.at, seen.looks) = (beats, now, 0);
                if std::mem::take(&mut seen.blocked) {
                    events.emit(Event::WorkerRecovered { worker });
                }
            } else if seen.looks > LOOKS && !std::mem::replace(&mut seen.blocked, true) {
                let (message, since) = (watched.latest.load(Relaxed), now - seen.at);
                events.emit(Event::WorkerBlocked { worker, message, since });
            }
        }
    }
}

fn every(time: Duration) -> tokio::time::Interval {
    let mut clock = interval(time.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
