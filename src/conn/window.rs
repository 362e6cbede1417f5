//! How many of a connection's messages are with their handlers.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

/// The in-flight window: entered by the connection's reader, left by each `Inbound` when it is
/// dropped, on whichever thread that happens.
///
/// The two counters talk across threads, each side writing its own before it reads the other's
/// (the reader arms, then looks; a leaver counts down, then looks), so sequential consistency is
/// what keeps a wake-up from being lost between them.
#[derive(Debug, Default)]
pub(crate) struct Window {
    in_flight: AtomicU32,
    /// The reader waits for fewer than this many in flight; 0 when it does not wait.
    awaited: AtomicU32,
}

impl Window {
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    #[inline]
    pub(crate) fn enter(&self, n: u32) {
        self.in_flight.fetch_add(n, SeqCst);
    }

    /// Gives `n` places back. True if the reader waits for that.
    #[inline]
    #[must_use = "the reader must be woken"]
    pub(crate) fn leave(&self, n: u32) -> bool {
        let left = self.in_flight.fetch_sub(n, SeqCst) - n;
        left < self.awaited.load(SeqCst)
    }

    /// Asks to be told when fewer than `n` are in flight; true if that is so already.
    #[must_use = "nobody wakes a reader whose wish is already true"]
    pub(crate) fn wait_below(&self, n: u32) -> bool {
        self.awaited.store(n, SeqCst);
        self.in_flight.load(SeqCst) < n
    }

    /// Whether what the reader waits for has come about.
    pub(crate) fn is_awaited_and_free(&self) -> bool {
        self.in_flight.load(SeqCst) < self.awaited.load(SeqCst)
    }

    /// The reader waits no longer.
    #[inline]
    pub(crate) fn disarm(&self) {
        // Relaxed: a leaver that still sees the old value wakes a reader that is awake.
        if self.awaited.load(Relaxed) != 0 {
            self.awaited.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
