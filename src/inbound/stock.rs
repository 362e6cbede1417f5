//! The bodies of messages, used again and again, so that a message costs no allocation.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;

use super::Parcel;
use crate::conn::Conn;
use crate::frame::MsgId;
use crate::router::SharedActor;

/// How many bodies a thread keeps.
const KEPT: usize = 256;

pub(super) struct Body {
    pub(super) id: MsgId,
    /// Somebody has looked at the message, so it has reached its handler.
    pub(super) seen: Cell<bool>,
    /// What was read; `at` is the payload.
    pub(super) buffer: Bytes,
    pub(super) at: Range<usize>,
    /// `None` only while the body is not in use.
    pub(super) conn: Option<Conn>,
    /// The shared actor in whose mailbox the message travels.
    pub(super) by_mailbox: Option<Arc<SharedActor>>,
}

/// The bodies of a thread that are not in use, the one used last on top.
///
/// While messages are handed out, the bodies keep their handle to a connection and their share of its
/// read buffer, because the next message needs the same: counting references costs more than the
/// rest of the delivery.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "messages own them boxed")]
struct Stock {
    bodies: RefCell<Vec<Box<Body>>>,
    handing_out: Cell<bool>,
}

thread_local! {
    static STOCK: Stock =
        const { Stock { bodies: RefCell::new(Vec::new()), handing_out: Cell::new(false) } };
}

impl Body {
    #[inline]
    fn let_go(&mut self) {
        self.conn = None;
        self.buffer = Bytes::new();
    }
}

/// Where this thread says which message it handles, for others to see.
pub(crate) type Latest = Arc<AtomicU32>;

thread_local! {
    static LATEST: OnceCell<Latest> = const { OnceCell::new() };
}

/// From now on the id of each message that is made on this thread, which is just before it is
/// handled, is stored in `latest`.
pub(crate) fn tell_latest(latest: Latest) {
    // The first one stays: a thread is one worker's.
    LATEST.with(|known| drop(known.set(latest)));
}

#[inline]
pub(super) fn body(parcel: Parcel<'_>) -> Box<Body> {
    let Parcel { id, buffer, at, conn } = parcel;
    LATEST.with(|latest| {
        if let Some(latest) = latest.get() {
            latest.store(id, Relaxed);
        }
    });
    let Some(mut body) = STOCK.with(|stock| stock.bodies.borrow_mut().pop()) else {
        let (buffer, conn) = (buffer.clone(), Some(conn.clone()));
        return Box::new(Body { id, seen: Cell::new(false), buffer, at, conn, by_mailbox: None });
    };
    body.id = id;
    body.seen.set(false);
    body.at = at;
    if !body.conn.as_ref().is_some_and(|known| known.is(conn)) {
        body.conn = Some(conn.clone());
    }
    let same = body.buffer.as_ptr() == buffer.as_ptr() && body.buffer.len() == buffer.len();
    if !same {
        body.buffer = buffer.clone();
    }
    body
}

/// Keeps the body of a message that is done.
#[inline]
pub(super) fn put(mut body: Box<Body>) {
    body.by_mailbox = None;
    // The thread may be about to end.
    let _ = STOCK.try_with(move |stock| {
        if !stock.handing_out.get() {
            body.let_go();
        }
        let mut bodies = stock.bodies.borrow_mut();
        if bodies.len() < KEPT {
            bodies.push(body);
        }
    });
}

/// Runs `f`, which hands out messages, most of them of one connection.
#[inline]
pub(crate) fn handing_out<R>(f: impl FnOnce() -> R) -> R {
    struct End(bool);
    impl Drop for End {
        #[inline]
        fn drop(&mut self) {
            STOCK.with(|stock| stock.handing_out.set(self.0));
            release_buffers();
        }
    }
    let _end = End(STOCK.with(|stock| stock.handing_out.replace(true)));
    f()
}

/// Drops what bodies in stock hold of a read buffer, so that it can be filled again.
#[inline]
pub(crate) fn release_buffers() {
    STOCK.with(|stock| {
        // Mostly there is nothing: this is asked before each read.
        if stock.bodies.borrow().last().is_none_or(|last| last.conn.is_none()) {
            return;
        }
        // Not borrowed meanwhile: with its last handle, a connection may drop what the application
        // gave it, messages among it.
        let mut bodies = stock.bodies.take();
        // The ones that hold any were put back last.
        bodies.iter_mut().rev().take_while(|body| body.conn.is_some()).for_each(|b| b.let_go());
        drop(stock.bodies.replace(bodies));
    });
}
