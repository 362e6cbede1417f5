//! The guard that takes a connection out of the table, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Addr, Message};

use super::ConnManager;
use crate::conn::{CloseReason, Conn};

/// A connection has ended.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Gone(pub(crate) Conn);

/// Travels with a connection from before its admission; its drop deregisters the connection.
///
/// Ownership does it, because nothing else survives every way to end: a worker that never builds
/// the connection's actor, a panic, a thread that is torn down.
#[derive(Debug)]
pub(crate) struct Registration {
    conn: Conn,
    manager: Arc<Addr<ConnManager>>,
    /// How many connections the worker has or is about to have; `None` before there is one.
    load: Option<Arc<AtomicUsize>>,
}

impl Registration {
    pub(crate) fn new(conn: &Conn, manager: Arc<Addr<ConnManager>>) -> Self {
        conn.shared().attach();
        Self { conn: conn.clone(), manager, load: None }
    }

    /// The connection counts as one of the worker's from now on.
    pub(crate) fn seat(&mut self, load: Arc<AtomicUsize>) {
        load.fetch_add(1, Ordering::Relaxed);
        self.load = Some(load);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(load) = &self.load {
            load.fetch_sub(1, Ordering::Relaxed);
        }
        // Does nothing unless no actor ever came to close it.
        self.conn.close(CloseReason::WorkerGone);
        // Ignores the mailbox's capacity, so the message is not lost to a busy manager; a manager
        // that is gone has no table.
        self.manager.do_send(Gone(self.conn.clone()));
    }
}
