//! How many connection actors there are, those of which the table has forgotten included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The connections of a server, to be waited for.
///
/// A handler that is still at work when its socket is closed does not keep its connection in the
/// manager's table, but a stop lets it finish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    none: Notify,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Living(Arc<Inner>);

impl Lives {
    pub(super) fn begin(&self) -> Living {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Living(Arc::clone(&self.0))
    }

    /// Waits until there are none.
    pub(crate) async fn over(&self) {
        loop {
            let none = self.0.none.notified();
            tokio::pin!(none);
            // Listens before it looks.
            none.as_mut().enable();
            if self.0.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}
