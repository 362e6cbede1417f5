//! How much a peer may send: a token bucket each for messages and bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::codec::HEADER_LEN;
use crate::conn::{Excess, Rate, Rates};
use crate::frame::MsgId;

/// The buckets of one connection.
///
/// A message passes if there is anything in the buckets, and may leave a debt: so one that costs more
/// than a whole bucket passes, too, and is paid for afterwards.
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

    /// Pays for a message, unless the peer has sent too much.
    pub(super) fn pay(&mut self, id: MsgId, len: usize, rates: &Rates) -> Result<(), Excess> {
        let cost = rates.costs.get(&id).copied().unwrap_or(1);
        if !self.has_any(cost) {
            self.fill();
        }
        let empty = |bucket: &Option<Bucket>| bucket.as_ref().is_some_and(Bucket::is_empty);
        if cost > 0 && empty(&self.messages) {
            return Err(Excess::Messages);
        }
        if empty(&self.bytes) {
            return Err(Excess::Bytes);
        }
        if let Some(messages) = &mut self.messages {
            messages.level -= f64::from(cost);
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.level -= (HEADER_LEN + len) as f64;
        }
        Ok(())
    }

    /// How long it takes until nothing is owed.
    pub(super) fn debt(&self) -> Duration {
        let owed = self.messages.iter().chain(&self.bytes).map(Bucket::seconds_owed);
        // A little more, so that there is something in the bucket then.
        Duration::from_secs_f64(owed.fold(0.0, f64::max)) + Duration::from_millis(1)
    }

    fn has_any(&self, cost: u32) -> bool {
        let some = |bucket: &Option<Bucket>| !bucket.as_ref().is_some_and(Bucket::is_empty);
        (cost == 0 || some(&self.messages)) && some(&self.bytes)
    }
}

impl Bucket {
    fn is_empty(&self) -> bool {
        self.level <= 0.0
    }

    fn seconds_owed(&self) -> f64 {
        (-self.level / self.rate.per_second).max(0.0)
    }
}
