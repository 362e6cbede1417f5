//! How much a peer may send: a token bucket each for messages and bytes.
//!
//! What is no part of a frame (handshakes, headers, control frames) has come already when it is counted, so
//! that it cannot wait for tokens. It makes a debt, which the next tokens pay. A debt of a whole bucket is within
//! the rate: the overhead of a message that costs a bucket must not be what is too much.

use std::time::Duration;

use tokio::time::Instant;

use crate::conn::{Excess, Rate, Rates};
use crate::frame::MsgId;
use crate::transport::Overhead;

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
    /// What is owed for overhead.
    debt: f64,
}

impl Meter {
    /// Full buckets; `None` if nothing is limited.
    pub(super) fn new(rates: &Rates) -> Option<Box<Self>> {
        let full =
            |rate: Option<Rate>| rate.map(|rate| Bucket { rate, level: rate.burst, debt: 0.0 });
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
            bucket.add(seconds);
        }
    }

    /// Has the peer owe for what has come beside its messages.
    pub(super) fn charge(&mut self, Overhead { handshake, bytes, controls, .. }: Overhead) {
        if let Some(bucket) = &mut self.messages {
            bucket.debt += f64::from(controls);
        }
        if let Some(bucket) = &mut self.bytes {
            // Handshakes are as long as certificates and cookies are, and bounded by other means.
            bucket.debt += bytes as f64 + (handshake as f64).min(bucket.rate.burst / 2.0);
        }
    }

    /// If the peer owes too much: of what, and how long it takes until it does not.
    pub(super) fn owes(&mut self) -> Option<(Excess, Duration)> {
        self.lacks(0.0, 0.0)?;
        self.fill();
        self.lacks(0.0, 0.0)
    }

    /// Lets the peer off what it could not pay in the time of a burst.
    pub(super) fn forgive(&mut self) {
        for bucket in self.messages.iter_mut().chain(&mut self.bytes) {
            bucket.debt = bucket.debt.min(2.0 * bucket.rate.burst);
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
    fn add(&mut self, seconds: f64) {
        let Rate { per_second, burst } = self.rate;
        let come = seconds * per_second;
        let paid = come.min(self.debt);
        self.debt -= paid;
        self.level = (self.level + come - paid).min(burst);
    }

    /// How long it takes until there is enough; `None` if there is.
    fn lacks(&self, cost: f64) -> Option<Duration> {
        let lack = cost.min(self.rate.burst) - self.level;
        let missing = if lack > 0.0 { self.debt + lack } else { self.debt - self.rate.burst };
        if missing <= 0.0 {
            return None;
        }
        Some(Duration::from_secs_f64(missing / self.rate.per_second).max(LEAST_WAIT))
    }
}
