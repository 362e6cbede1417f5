//! How much a peer may send: a token bucket each for messages and bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::conn::{Excess, Rate, Rates};
use crate::frame::MsgId;

/// Timers are not finer, and what rounding leaves to wait for must not be nothing.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The buckets of one connection.
///
/// A message costs at most a whole bucket, so that nobody waits for longer than one takes to fill.
#[derive(Debug)]
pub(super) struct Meter {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    filled: Instant,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    level: f64,
}

impl Meter {
    /// Full buckets; `None` if nothing is limited.
    pub(super) fn new(rates: &Rates) -> Option<Box<Self>> {
        let full = |rate: Option<Rate>| rate.map(|rate| Bucket { rate, level: rate.burst });
        let (messages, bytes) = (full(rates.messages), full(rates.bytes));
        let limits = messages.is_some() || bytes.is_some();
        limits.then(|| Box::new(Self { messages, bytes, filled: Instant::now() }))
    }

    /// Fills up what time has brought.
    pub(super) fn fill(&mut self) {
        let now = Instant::now();
        let seconds = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        for bucket in self.messages.iter_mut().chain(&mut self.bytes) {
            let Rate { per_second, burst } = bucket.rate;
            bucket.level = (bucket.level + seconds * per_second).min(burst);
        }
    }

    /// Pays for a message, unless the peer has sent too much: then says of what, and how long it takes
    /// until it can.
    pub(super) fn pay(
        &mut self,
        id: MsgId,
        len: usize,
        rates: &Rates,
    ) -> Result<(), (Excess, Duration)> {
        let cost = rates.costs.get(&id).copied().unwrap_or(1).into();
        let bytes = len as f64;
        if self.lacks(cost, bytes).is_some() {
            self.fill();
        }
        if let Some(lack) = self.lacks(cost, bytes) {
            return Err(lack);
        }
        for (bucket, cost) in [(&mut self.messages, cost), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.level -= cost.min(bucket.rate.burst);
            }
        }
        Ok(())
    }

    fn lacks(&self, messages: f64, bytes: f64) -> Option<(Excess, Duration)> {
        let lack = |bucket: &Option<Bucket>, cost| bucket.as_ref()?.lacks(cost);
        let messages = lack(&self.messages, messages).map(|time| (Excess::Messages, time));
        let bytes = lack(&self.bytes, bytes).map(|time| (Excess::Bytes, time));
        messages.into_iter().chain(bytes).max_by_key(|&(_, time)| time)
    }
}

impl Bucket {
    /// How long it takes until there is enough; `None` if there is.
    fn lacks(&self, cost: f64) -> Option<Duration> {
        let missing = cost.min(self.rate.burst) - self.level;
        if missing <= 0.0 {
            return None;
        }
        Some(Duration::from_secs_f64(missing / self.rate.per_second).max(LEAST_WAIT))
    }
}
