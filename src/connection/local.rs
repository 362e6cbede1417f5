//! What the connections of one worker share, without a lock, because they share a thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use slab::Slab;

use super::hooks::Hooks;
use super::link::Link;
use super::reader::ReadPool;
use crate::router::LocalTable;

/// Buffers above this size are not kept for the next connection.
const KEPT_BUFFER: usize = 64 * 1024;
const KEPT_BUFFERS: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) routes: LocalTable,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) read_pool: ReadPool,
    write_pool: RefCell<Vec<BytesMut>>,
    links: RefCell<Slab<Rc<Link>>>,
    /// The time, in ticks of [`watch`](super::watch).
    now: Cell<u32>,
}

impl Local {
    pub(crate) fn new(hooks: Arc<Hooks>) -> Self {
        Self { hooks, ..Self::default() }
    }

    /// A buffer to encode into, if one is left from another connection.
    pub(crate) fn spare_buffer(&self) -> Option<BytesMut> {
        self.write_pool.borrow_mut().pop()
    }

    /// Keeps an empty buffer for the next connection that writes.
    pub(crate) fn recycle(&self, buffer: BytesMut) {
        let mut pool = self.write_pool.borrow_mut();
        if (1..=KEPT_BUFFER).contains(&buffer.capacity()) && pool.len() < KEPT_BUFFERS {
            pool.push(buffer);
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> u32 {
        self.now.get()
    }

    /// One more tick. Answers the time.
    pub(crate) fn tick(&self) -> u32 {
        self.now.set(self.now.get().wrapping_add(1));
        self.now.get()
    }

    pub(crate) fn add(&self, link: Rc<Link>) -> usize {
        link.pulse.begin(self.now());
        self.links.borrow_mut().insert(link)
    }

    pub(crate) fn remove(&self, key: usize) {
        self.links.borrow_mut().try_remove(key);
    }

    /// The connections with keys from `from` on: at most `max`, and where to go on.
    pub(crate) fn some_links(&self, from: usize, max: usize) -> (Vec<Rc<Link>>, Option<usize>) {
        let links = self.links.borrow();
        let some = (from..).take(max).filter_map(|key| links.get(key).cloned()).collect();
        let next = from + max;
        (some, (next < links.capacity()).then_some(next))
    }
}
