//! The published connection table.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use papaya::HashMap;
use rustc_hash::FxBuildHasher;

use crate::conn::{Conn, ConnId};

/// The connections of a server, to be read from any thread without asking the
/// [`ConnManager`](crate::ConnManager), which alone changes them.
///
/// What it answers was true a moment ago. Cheap to clone.
#[derive(Clone, Default)]
pub struct Connections(Arc<Inner>);

#[derive(Default)]
struct Inner {
    conns: HashMap<ConnId, Conn, FxBuildHasher>,
    len: AtomicUsize,
}

impl Connections {
    /// The connection with this id.
    pub fn get(&self, id: ConnId) -> Option<Conn> {
        self.0.conns.pin().get(&id).cloned()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.0.len.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of all connections, in no particular order.
    pub fn ids(&self) -> Vec<ConnId> {
        self.0.conns.pin().keys().copied().collect()
    }

    /// All connections, in no particular order.
    pub fn all(&self) -> Vec<Conn> {
        self.0.conns.pin().values().cloned().collect()
    }

    /// False if the id is there already.
    pub(super) fn insert(&self, conn: Conn) -> bool {
        let added = self.0.conns.pin().try_insert(conn.id(), conn).is_ok();
        self.0.len.fetch_add(usize::from(added), Ordering::AcqRel);
        added
    }

    /// False if the id is not there.
    pub(super) fn remove(&self, id: ConnId) -> bool {
        let removed = self.0.conns.pin().remove(&id).is_some();
        self.0.len.fetch_sub(usize::from(removed), Ordering::AcqRel);
        removed
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("len", &self.len()).finish()
    }
}
