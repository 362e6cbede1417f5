//! How many of a connection's messages are with their handlers.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

/// The in-flight window: entered by the connection's reader, left by each `Inbound` when it is
/// dropped, on whichever thread that happens.
///
/// Most messages are handled on the thread of their connection, its *home*. What the home counts
/// has no other writer, so it needs no atomic read-modify-write, which would cost as much as the
/// rest of the delivery. Counters wrap around; only their differences mean something.
///
/// No wake-up is lost between the reader, which arms `awaited` and then counts, and a leaver, who
/// counts itself out and then looks at `awaited`: a fence stands between the two steps on each
/// side, so at least one of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// The thread that enters; 0 before there is one.
    home: AtomicU64,
    /// How many entered; written by the home.
    entered: AtomicU32,
    /// How many of those places no message has yet; written by the home.
    unused: AtomicU32,
    /// How many left at home; written by the home.
    left: AtomicU32,
    /// How many left on other threads.
    left_elsewhere: AtomicU32,
    /// The reader waits for fewer than this many in flight; 0 when it does not wait. Written by
    /// the home.
    awaited: AtomicU32,
}

impl Window {
    /// Makes the current thread the home.
    pub(crate) fn settle(&self) {
        self.home.store(current_thread(), Relaxed);
    }

    #[inline]
    pub(crate) fn is_home(&self) -> bool {
        self.home.load(Relaxed) == current_thread()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        let left = self.left();
        self.entered.load(Relaxed).wrapping_sub(left)
    }

    /// Takes `n` places. At home only.
    #[inline]
    pub(crate) fn enter(&self, n: u32) {
        self.entered.store(self.entered.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` places in advance, when none is [`unused`](Self::unused). At home only.
    pub(crate) fn reserve(&self, n: u32) {
        self.enter(n);
        self.unused.store(n, Relaxed);
    }

    /// How many places were taken in advance and not used. At home only.
    #[inline]
    pub(crate) fn unused(&self) -> u32 {
        self.unused.load(Relaxed)
    }

    /// A message takes one of the places that are unused. At home only.
    #[inline]
    pub(crate) fn use_one(&self) {
        self.unused.store(self.unused.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Gives the unused places back. At home only, and only while nobody waits.
    #[inline]
    pub(crate) fn give_back(&self) {
        let unused = self.unused();
        if unused > 0 {
            self.unused.store(0, Relaxed);
            self.entered.store(self.entered.load(Relaxed).wrapping_sub(unused), Relaxed);
        }
    }

    /// How many messages handlers have. Exact while the home stands still, as under a handler that
    /// blocks it, of which other threads want to know.
    pub(crate) fn unfinished(&self) -> u32 {
        self.in_flight().saturating_sub(self.unused())
    }

    /// How many have left so far; wraps around.
    pub(crate) fn left(&self) -> u32 {
        self.left.load(Relaxed).wrapping_add(self.left_elsewhere.load(Acquire))
    }

    /// Gives `n` places back. True if the reader waits for that; at home, it is told once.
    #[inline]
    #[must_use = "the reader must be woken"]
    pub(crate) fn leave(&self, n: u32) -> bool {
        if self.is_home() {
            self.left.store(self.left.load(Relaxed).wrapping_add(n), Relaxed);
            let free = self.is_awaited_and_free();
            if free {
                self.disarm();
            }
            free
        } else {
            // Releases what the handler did, for the next one to see.
            self.left_elsewhere.fetch_add(n, Release);
            self.counts_below_awaited()
        }
    }

    /// Asks to be told when fewer than `n` are in flight; true if that is so already. At home only.
    #[must_use = "nobody wakes a reader whose wish is already true"]
    pub(crate) fn wait_below(&self, n: u32) -> bool {
        self.awaited.store(n, Relaxed);
        self.is_awaited_and_free()
    }

    /// Whether what the reader waits for has come about. At home only.
    #[inline]
    pub(crate) fn is_awaited_and_free(&self) -> bool {
        // The home's own store: it needs no fence to see that nobody waits.
        self.awaited.load(Relaxed) != 0 && self.counts_below_awaited()
    }

    fn counts_below_awaited(&self) -> bool {
        fence(SeqCst);
        let awaited = self.awaited.load(Relaxed);
        awaited != 0 && self.in_flight() < awaited
    }

    /// The reader waits no longer. At home only.
    #[inline]
    pub(crate) fn disarm(&self) {
        self.awaited.store(0, Relaxed);
    }
}

/// A number for this thread that no other thread of the process has or will have.
#[inline]
fn current_thread() -> u64 {
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.get();
    if number != 0 {
        return number;
    }
    NUMBER.set(NEXT.fetch_add(1, Relaxed));
    NUMBER.get()
}

#[cfg(test)]
mod tests;
