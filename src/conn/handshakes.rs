//! How many handshakes are under way: on a server, and with one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::Network;

/// The bounds of a server, the same for all of its endpoints.
#[derive(Debug)]
pub(crate) struct Handshakes {
    all: Arc<Semaphore>,
    /// How many one address may have; 0 for any number.
    per_ip: usize,
    ipv6_prefix: u8,
    /// The places of each address that has a handshake. Peers choose the keys, so they are hashed with a
    /// key of our own.
    of_ip: Mutex<HashMap<Network, Arc<Semaphore>>>,
}

/// A place among all of them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(#[expect(dead_code, reason = "its drop is what matters")] Permit);

type Permit = Option<OwnedSemaphorePermit>;

/// A place among those of one address, or the wait for one.
#[derive(Debug)]
pub(crate) struct OfIp<'a> {
    handshakes: &'a Handshakes,
    from: Network,
    /// `None` only while it is dropped.
    places: Option<Arc<Semaphore>>,
    permit: Permit,
}

impl Handshakes {
    pub(crate) fn new(max: usize, per_ip: usize, ipv6_prefix: u8) -> Self {
        // More than a server can have sockets.
        let all = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self { all, per_ip, ipv6_prefix, of_ip: Mutex::default() }
    }

    /// Whether there are as many as may be.
    pub(crate) fn are_full(&self) -> bool {
        self.all.available_permits() == 0
    }

    /// A place, if there is one now and nobody waits for it.
    pub(crate) fn try_slot(&self) -> Option<Slot> {
        Arc::clone(&self.all).try_acquire_owned().ok().map(|permit| Slot(Some(permit)))
    }

    /// Waits for a place, behind those who wait already. Cancel safe.
    pub(crate) async fn slot(&self) -> Slot {
        // Without an error: the semaphore is never closed.
        Slot(Arc::clone(&self.all).acquire_owned().await.ok())
    }

    /// Waits until this address has fewer handshakes than it may have, in which time the `slot` is
    /// others'. Cancel safe.
    pub(crate) async fn admit(&self, peer: IpAddr, slot: Slot) -> (Slot, Option<OfIp<'_>>) {
        if self.per_ip == 0 {
            return (slot, None);
        }
        let (mut of_ip, places) = self.of_ip(peer);
        if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            of_ip.permit = Some(permit);
            return (slot, Some(of_ip));
        }
        drop(slot);
        of_ip.permit = places.acquire_owned().await.ok();
        (self.slot().await, Some(of_ip))
    }

    fn of_ip(&self, peer: IpAddr) -> (OfIp<'_>, Arc<Semaphore>) {
        let from = Network::of_peer(peer, self.ipv6_prefix);
        let new = || Arc::new(Semaphore::new(self.per_ip.min(Semaphore::MAX_PERMITS)));
        let places = Arc::clone(self.lock().entry(from).or_insert_with(new));
        let of_ip =
            OfIp { handshakes: self, from, places: Some(Arc::clone(&places)), permit: None };
        (of_ip, places)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, Arc<Semaphore>>> {
        // Nothing in it panics half-way.
        self.of_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfIp<'_> {
    /// The last one of an address takes its entry away.
    fn drop(&mut self) {
        self.permit = None;
        let mut all = self.handshakes.lock();
        // Under the lock, so that of two that end at once the later one finds itself to be the last.
        self.places = None;
        if let Entry::Occupied(entry) = all.entry(self.from)
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready(future: std::pin::Pin<&mut impl Future>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[actix::test]
    async fn there_are_no_more_than_so_many_and_who_waits_is_the_next() {
        let handshakes = Handshakes::new(2, 0, 64);
        let first = handshakes.slot().await;
        let _second = handshakes.try_slot().unwrap();
        assert!(handshakes.try_slot().is_none() && handshakes.are_full());
        let mut third = pin!(handshakes.slot());
        assert!(!is_ready(third.as_mut()));
        drop(first);
        assert!(handshakes.try_slot().is_none(), "it is the one's that waits");
        assert!(is_ready(third));
    }

    #[actix::test]
    async fn an_address_waits_for_its_own_and_keeps_nobody_from_a_slot_meanwhile() {
        let handshakes = Handshakes::new(2, 1, 64);
        let first = handshakes.admit(ip("2001:db8::1"), handshakes.slot().await).await;
        let slot = handshakes.slot().await;
        assert!(handshakes.are_full());
        let mut second = Box::pin(handshakes.admit(ip("2001:db8::2"), slot));
        assert!(!is_ready(second.as_mut()), "one of the same network is there");
        assert!(!handshakes.are_full(), "who waits for its own address holds no slot");
        let other = handshakes.admit(ip("10.0.0.1"), handshakes.slot().await).await;
        drop(first);
        assert!(is_ready(second.as_mut()));
        drop((second, other));
        assert!(handshakes.lock().is_empty(), "an address without handshakes is forgotten");
    }

    #[actix::test]
    async fn one_that_is_given_up_while_it_waits_leaves_nothing_behind() {
        let handshakes = Handshakes::new(4, 1, 64);
        let first = handshakes.admit(ip("10.0.0.1"), handshakes.slot().await).await;
        let mut second = Box::pin(handshakes.admit(ip("10.0.0.1"), handshakes.slot().await));
        assert!(!is_ready(second.as_mut()));
        // The second has its place by now and does not know it.
        drop(first);
        drop(second);
        assert!(handshakes.lock().is_empty());
        assert_eq!(handshakes.all.available_permits(), 4);
    }

    #[test]
    fn the_last_two_of_an_address_that_end_at_once_on_two_threads_leave_nothing_behind() {
        let handshakes = Handshakes::new(4, 2, 64);
        let both = std::sync::Barrier::new(2);
        for _ in 0..2_000 {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let (one, _) = handshakes.of_ip(ip("10.0.0.1"));
                        both.wait();
                        drop(one);
                    });
                }
            });
            assert!(handshakes.lock().is_empty());
        }
    }
}
