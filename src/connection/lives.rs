//! Which connection actors there are, those of which the table has forgotten included.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::conn::{Conn, ConnId};

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
    /// Those that are not in the table, or about to leave it: few, so that a lock does no harm.
    outlasting: Mutex<FxHashMap<ConnId, Conn>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Living {
    of: Arc<Inner>,
    outlasts: Option<ConnId>,
}

impl Lives {
    pub(super) fn begin(&self) -> Living {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Living { of: Arc::clone(&self.0), outlasts: None }
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

    /// Those whose handlers are still at work after their place in the table was given up.
    pub(crate) fn outlasting(&self) -> Vec<Conn> {
        self.0.outlasting().values().cloned().collect()
    }
}

impl Inner {
    fn outlasting(&self) -> MutexGuard<'_, FxHashMap<ConnId, Conn>> {
        // Nothing under the lock panics half-way.
        self.outlasting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Living {
    /// The connection lives on when the table has forgotten it.
    pub(super) fn outlast(&mut self, conn: &Conn) {
        self.outlasts = Some(conn.id());
        self.of.outlasting().insert(conn.id(), conn.clone());
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if let Some(id) = self.outlasts {
            let conn = self.of.outlasting().remove(&id);
            // Not under the lock: it may be the last handle, with what the application left in it.
            drop(conn);
        }
        if self.of.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.of.none.notify_waiters();
        }
    }
}
