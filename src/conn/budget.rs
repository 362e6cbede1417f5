//! The bytes that the peers of a server, all together, have not taken.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A bound for all connections together. Each reports what it could not write, when it could not:
/// a connection whose peer reads costs nothing here.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    over: Notify,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), over: Notify::const_new() }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A connection that could not write `from` bytes cannot write `to` now.
    pub(crate) fn change(&self, from: usize, to: usize) {
        let change = to.wrapping_sub(from);
        let used = self.used.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if to > from && used > self.limit {
            // One permit is kept, however many ask.
            self.over.notify_one();
        }
    }

    /// Ends one wait, of which nothing may have come.
    pub(crate) fn wake(&self) {
        self.over.notify_one();
    }

    /// Waits until there is more than the limit allows. Cancel safe.
    pub(crate) async fn exceeded(&self) {
        self.over.notified().await;
    }
}
