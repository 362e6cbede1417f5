//! How often each address may connect: a token bucket for each that has done so lately.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::conn::Rate;
use crate::settings::Network;

/// So many addresses are remembered in each of the two generations: about 6 MB, if both are full.
const MOST: usize = 32 * 1024;

/// The buckets. A full one is the same as none, so each is forgotten when time has filled it.
///
/// It happens by generation, so that no look at all of them ever holds anybody up: a bucket that is used
/// goes to the young ones; when those are as old as a bucket takes to fill, they become the old ones, and
/// the old ones before them, all of which are full, are dropped at once. If more addresses come in that time
/// than are remembered, the generations follow each other sooner, and some addresses get a full bucket before
/// their time: memory is bounded, and nobody is refused for the sake of others.
#[derive(Debug)]
pub(super) struct Attempts {
    rate: Rate,
    /// How long an empty bucket takes to fill.
    filling: Duration,
    /// Peers choose the keys, so they are hashed with a key of our own.
    young: HashMap<Network, Bucket>,
    old: HashMap<Network, Bucket>,
    /// When the oldest of the young ones can have been used first.
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    filled: Instant,
}

impl Attempts {
    /// `None` if there is no limit.
    pub(super) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let rate = Rate { per_second: per_second.into(), burst: burst.into() };
        (per_second > 0).then(|| Self {
            rate,
            filling: Duration::from_secs_f64(rate.burst / rate.per_second),
            young: HashMap::new(),
            old: HashMap::new(),
            since: Instant::now(),
        })
    }

    /// Counts an attempt. False, and not counted, if there were too many.
    pub(super) fn pay(&mut self, from: Network) -> bool {
        let now = Instant::now();
        self.forget(now);
        let mut level = self.rate.burst;
        let known = self.young.get(&from).copied().or_else(|| self.old.remove(&from));
        if let Some(bucket) = known {
            let seconds = now.duration_since(bucket.filled).as_secs_f64();
            level = level.min(bucket.level + seconds * self.rate.per_second);
        }
        let pays = level >= 1.0;
        if pays {
            level -= 1.0;
        }
        self.young.insert(from, Bucket { level, filled: now });
        pays
    }

    fn forget(&mut self, now: Instant) {
        let age = now.duration_since(self.since);
        if age < self.filling && self.young.len() < MOST {
            return;
        }
        let young = std::mem::take(&mut self.young);
        // After twice that time the young ones are full, too: none has been used since the first half.
        self.old = if age >= 2 * self.filling { HashMap::new() } else { young };
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use tokio::time::{advance, pause};

    use super::*;

    fn from(n: u32) -> Network {
        Network::host(IpAddr::V4(n.into()))
    }

    impl Attempts {
        fn remembered(&self) -> usize {
            self.young.len() + self.old.len()
        }
    }

    #[actix::test]
    async fn a_burst_is_free_and_the_rest_comes_at_the_rate_to_the_attempt() {
        pause();
        let mut attempts = Attempts::new(4, 10).unwrap();
        assert_eq!((0..20).filter(|_| attempts.pay(from(1))).count(), 10);
        // A quarter of a second is worth one, whatever was refused meanwhile.
        for _ in 0..40 {
            advance(Duration::from_millis(249)).await;
            assert!(!attempts.pay(from(1)));
            advance(Duration::from_millis(1)).await;
            assert!(attempts.pay(from(1)));
        }
        advance(Duration::from_secs(1)).await;
        assert_eq!((0..20).filter(|_| attempts.pay(from(1))).count(), 4);
        advance(Duration::from_secs(3600)).await;
        assert_eq!((0..20).filter(|_| attempts.pay(from(1))).count(), 10, "no more than a burst");
    }

    #[actix::test]
    async fn one_address_does_not_pay_for_another() {
        pause();
        let mut attempts = Attempts::new(1, 1).unwrap();
        assert!(attempts.pay(from(1)));
        assert!(!attempts.pay(from(1)));
        assert!(attempts.pay(from(2)));
    }

    #[actix::test]
    async fn a_bucket_that_is_full_again_is_forgotten_and_one_that_is_not_is_remembered() {
        pause();
        // Empty buckets fill in ten seconds.
        let mut attempts = Attempts::new(1, 10).unwrap();
        for n in 0..100 {
            assert!(attempts.pay(from(n)));
        }
        for _ in 0..9 {
            assert!(attempts.pay(from(0)));
        }
        // The generations change in between, which gives nobody more than is due.
        for second in 1..=100 {
            advance(Duration::from_secs(1)).await;
            assert!(attempts.pay(from(0)), "in second {second}");
            assert!(!attempts.pay(from(0)), "in second {second}");
        }
        assert_eq!(attempts.remembered(), 1, "the others have long been full");
        advance(Duration::from_secs(20)).await;
        assert!(attempts.pay(from(1)));
        assert_eq!(attempts.remembered(), 1);
    }

    #[actix::test]
    async fn a_peer_with_endless_networks_does_not_make_the_memory_grow_without_bound() {
        pause();
        let mut attempts = Attempts::new(1, 1000).unwrap();
        for n in 0..5 * MOST as u128 {
            let ip = IpAddr::V6(Ipv6Addr::from(n << 64));
            assert!(attempts.pay(Network::of_peer(ip, 64)));
            assert!(attempts.remembered() <= 2 * MOST);
        }
    }
}
