//! What the connections of one worker share, without a lock, because they share a thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use slab::Slab;
use tokio::time::Instant;

use super::handshake::Turnstile;
use super::hooks::Hooks;
use super::link::Link;
use super::lives::Lives;
use super::reader::ReadPool;
use crate::frame::MsgId;
use crate::router::LocalTable;
use crate::transport::Acknowledged;

/// Buffers above this size are not kept for the next connection.
const KEPT_BUFFER: usize = 64 * 1024;
const KEPT_BUFFERS: usize = 4;

#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) routes: LocalTable,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) read_pool: ReadPool,
    write_pool: RefCell<Vec<BytesMut>>,
    links: RefCell<Slab<Rc<Link>>>,
    pub(crate) lives: Lives,
    /// Shared by the workers of a server.
    pub(crate) acknowledged: Acknowledged,
    /// What the handshakes of the worker pass.
    pub(crate) turnstile: Turnstile,
    /// What the ends of connections pass that never came to be. A turnstile of their own, so that they do
    /// not hold their places in the manager's table while others shake hands.
    pub(super) stillborn: Turnstile,
    /// The time, in ticks of [`watch`](super::watch).
    now: Cell<u32>,
    /// What finer times are counted from.
    began: Instant,
}

impl Local {
    pub(crate) fn new(hooks: Arc<Hooks>, lives: Lives, acknowledged: Acknowledged) -> Self {
        Self {
            routes: LocalTable::default(),
            hooks,
            read_pool: ReadPool::default(),
            write_pool: RefCell::default(),
            links: RefCell::default(),
            lives,
            acknowledged,
            turnstile: Turnstile::default(),
            stillborn: Turnstile::default(),
            now: Cell::new(0),
            began: Instant::now(),
        }
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

    pub(crate) fn is_heartbeat(&self, id: MsgId) -> bool {
        self.hooks.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.id == id)
    }

    #[inline]
    pub(crate) fn now(&self) -> u32 {
        self.now.get()
    }

    /// The time in microseconds, for short intervals: it wraps around after an hour.
    pub(crate) fn micros(&self) -> u32 {
        self.began.elapsed().as_micros() as u32
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
