//! The bodies of messages, used again and again, so that a message costs no allocation.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use actix::Recipient;
use bytes::Bytes;

use super::Inbound;
use crate::conn::Conn;
use crate::frame::MsgId;

/// How many bodies a thread keeps: what the connections of a worker have in flight at once under
/// load. Some hundred KiB.
const KEPT: usize = 4096;

pub(super) struct Body {
    pub(super) id: MsgId,
    /// Somebody has looked at the message, so it has reached its handler.
    pub(super) seen: Cell<bool>,
    /// What was read; `at` is the payload.
    pub(super) buffer: Bytes,
    pub(super) at: Range<usize>,
    pub(super) conn: Conn,
    /// The shared actor in whose mailbox the message travels.
    pub(super) by_mailbox: Option<Arc<Recipient<Inbound>>>,
}

/// The bodies of a thread that are not in use, the one used last on top.
///
/// A body keeps its handle to a connection, because most messages follow one of the same
/// connection: counting references costs more than the rest of the delivery. While a connection
/// hands out what it read, bodies keep their share of the read buffer for the same reason.
#[derive(Default)]
struct Stock {
    bodies: RefCell<Vec<Box<Body>>>,
    keeps_buffers: Cell<bool>,
}

thread_local! {
    static STOCK: Stock = const { Stock { bodies: RefCell::new(Vec::new()), keeps_buffers: Cell::new(false) } };
}

#[inline]
pub(super) fn body(id: MsgId, buffer: &Bytes, at: Range<usize>, conn: &Conn) -> Box<Body> {
    let Some(mut body) = STOCK.with(|stock| stock.bodies.borrow_mut().pop()) else {
        let (buffer, conn) = (buffer.clone(), conn.clone());
        return Box::new(Body { id, seen: Cell::new(false), buffer, at, conn, by_mailbox: None });
    };
    body.id = id;
    body.seen.set(false);
    body.at = at;
    if !body.conn.is(conn) {
        body.conn = conn.clone();
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
        if !stock.keeps_buffers.get() {
            body.buffer = Bytes::new();
        }
        let mut bodies = stock.bodies.borrow_mut();
        if bodies.len() < KEPT {
            bodies.push(body);
        }
    });
}

/// Runs `f`; the bodies of messages that are dropped meanwhile keep their share of the read buffer
/// until it is over, or until [`release_buffers`].
#[inline]
pub(crate) fn keeping_buffers<R>(f: impl FnOnce() -> R) -> R {
    STOCK.with(|stock| stock.keeps_buffers.set(true));
    let result = f();
    STOCK.with(|stock| stock.keeps_buffers.set(false));
    release_buffers();
    result
}

/// Drops what spare bodies hold of the read buffer, so that it can be filled again.
#[inline]
pub(crate) fn release_buffers() {
    STOCK.with(|stock| {
        let mut bodies = stock.bodies.borrow_mut();
        // The ones that hold any were put back last.
        for body in bodies.iter_mut().rev().take_while(|body| !body.buffer.is_empty()) {
            body.buffer = Bytes::new();
        }
    });
}
