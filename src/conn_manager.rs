//! The one owner of the connection table and of the limit.

mod admission;
mod attempts;
mod messages;
mod registration;
mod table;

use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler, Recipient, ResponseFuture};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::conn::{CloseReason, Conn, ConnId, Limits, SendError, Slow};
use crate::event::Event;
use crate::settings::Settings;
use crate::surely::handle_surely;
pub use admission::AddError;
pub(crate) use admission::Admission;
pub use messages::{
    Add, Broadcast, BroadcastReport, ClearConn, ConnNotFound, Get, Ids, Len, Remove, SetMaxConn,
};
pub(crate) use messages::{Drain, Fanout, Left, Shed, Shut, Vacancy};
pub(crate) use registration::{Gone, Registration};
pub use table::Connections;

/// The actor that tracks the connections of a server and admits new ones: one a server.
///
/// Check and count are one step in its mailbox, and nothing else counts connections, so there is
/// no way around the limit. The table it keeps can be read from any thread without asking it:
/// see [`Connections`].
#[derive(Debug)]
pub struct ConnManager {
    admission: Admission,
    limits: Arc<Limits>,
    /// Written here alone.
    connections: Connections,
    /// Who waits for a connection to be gone.
    waiting: FxHashMap<ConnId, Vec<Rc<Waiting>>>,
    /// Who waits for a place.
    parked: Vec<oneshot::Sender<()>>,
    /// No more admissions.
    draining: bool,
    /// The workers, each of which sends a broadcast to its own connections.
    workers: Vec<Recipient<Fanout>>,
}

/// Answers its sender when the last connection that holds it is gone.
#[derive(Debug)]
struct Waiting(Option<oneshot::Sender<()>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.take() {
            // A waiter that went away waits no more.
            let _ = waiter.send(());
        }
    }
}

impl ConnManager {
    /// A manager on its own, without a server: for tests of what talks to one.
    ///
    /// Of the settings it obeys those that say who is admitted, and the wire format and the policy
    /// for what it broadcasts.
    #[must_use = "a manager does nothing until it is started as an actor"]
    pub fn new(settings: &Settings) -> Self {
        let limits = Arc::new(settings.limits(Arc::default()));
        Self::with_workers(Admission::new(settings), limits, Vec::new())
    }

    pub(crate) fn with_workers(
        admission: Admission,
        limits: Arc<Limits>,
        workers: Vec<Recipient<Fanout>>,
    ) -> Self {
        Self {
            admission,
            limits,
            connections: Connections::default(),
            waiting: FxHashMap::default(),
            parked: Vec::new(),
            draining: false,
            workers,
        }
    }

    /// The table, to be read from any thread.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Closes `conns`; the answer comes when they are gone.
    fn end(&mut self, conns: Vec<Conn>, reason: &CloseReason) -> oneshot::Receiver<()> {
        for conn in &conns {
            conn.close(reason.clone());
            if !conn.shared().is_attached() {
                // No socket behind it, so nobody would report its end.
                self.forget(conn);
            }
        }
        self.left(conns)
    }

    /// The answer comes when `conns` are gone.
    fn left(&mut self, conns: Vec<Conn>) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        let waiting = Rc::new(Waiting(Some(tx)));
        for conn in conns {
            if conn.shared().is_attached() {
                self.waiting.entry(conn.id()).or_default().push(Rc::clone(&waiting));
            }
        }
        rx
    }

    fn forget(&mut self, conn: &Conn) {
        let id = conn.id();
        // It may be that another one has this id.
        let known = self.connections.get(id).is_some_and(|known| known.is(conn));
        if known && self.connections.remove(id) {
            self.admission.leave(conn.peer_addr().ip());
            let why = conn.shared().why();
            conn.emit(Event::Removed { conn, why, connected: self.connections.len() });
            self.waiting.remove(&id);
            self.unpark();
        }
    }

    /// Tells those who wait for a place if there is one, or will never be.
    fn unpark(&mut self) {
        if self.draining || self.admission.has_vacancy(self.connections.len()) {
            self.parked.clear();
        }
    }

    /// Closes those of which most is unsent, until the others are within the budget.
    fn shed(&self) {
        let budget = &self.limits.budget;
        let conns = self.connections.all().into_iter();
        // One that ends in order holds its bytes until it has.
        let mut stuck: Vec<_> =
            conns.filter(|c| !c.shared().is_cut()).map(|c| (c.shared().stuck(), c)).collect();
        stuck.sort_unstable_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        let mut used: usize = stuck.iter().map(|&(bytes, _)| bytes).sum();
        for (bytes, conn) in stuck {
            if used <= budget.limit() {
                return;
            }
            conn.close(CloseReason::SlowConsumer(Slow::OverBudget));
            used -= bytes;
        }
    }
}

impl Actor for ConnManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // What waits for room in a mailbox is overtaken by what comes later.
        ctx.set_mailbox_capacity(0);
        let (budget, manager) = (Arc::clone(&self.limits.budget), ctx.address().downgrade());
        actix_rt::spawn(async move {
            // Without a hold on the manager, which ends when nobody else has one.
            loop {
                budget.exceeded().await;
                let Some(manager) = manager.upgrade() else { return };
                manager.do_send(Shed);
            }
        });
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.limits.budget.wake();
    }
}

handle_surely!(ConnManager: Broadcast, ClearConn, Remove, SetMaxConn);

impl Handler<Add> for ConnManager {
    type Result = Result<usize, AddError>;

    fn handle(&mut self, Add(conn): Add, _: &mut Context<Self>) -> Self::Result {
        let (id, peer) = (conn.id(), conn.peer_addr().ip());
        if self.draining {
            return Err(AddError::Draining);
        }
        self.admission.check(peer, self.connections.len())?;
        if conn.is_closed() {
            return Err(AddError::Closed(id));
        }
        if !self.connections.insert(conn.clone()) {
            return Err(AddError::Duplicate(id));
        }
        self.admission.enter(peer);
        let connected = self.connections.len();
        conn.emit(Event::Admitted { conn: &conn, connected });
        Ok(connected)
    }
}

impl Handler<SetMaxConn> for ConnManager {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, SetMaxConn(to): SetMaxConn, _: &mut Context<Self>) -> Self::Result {
        let from = std::mem::replace(&mut self.admission.max_conn, to);
        self.limits.events.emit(Event::MaxConnChanged { from, to });
        self.unpark();
        Box::pin(ready(from))
    }
}

impl Handler<Vacancy> for ConnManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Vacancy, _: &mut Context<Self>) -> Self::Result {
        let (told, vacant) = oneshot::channel();
        // A peer that is gone waits no longer.
        self.parked.retain(|told| !told.is_closed());
        self.parked.push(told);
        self.unpark();
        Box::pin(async move {
            // The drop of the other end is what tells.
            let _ = vacant.await;
        })
    }
}

impl Handler<Shed> for ConnManager {
    type Result = ();

    fn handle(&mut self, _: Shed, _: &mut Context<Self>) {
        self.shed();
    }
}

impl Handler<Shut> for ConnManager {
    type Result = ();

    fn handle(&mut self, _: Shut, _: &mut Context<Self>) {
        self.draining = true;
        self.unpark();
    }
}

impl Handler<Remove> for ConnManager {
    type Result = ResponseFuture<Result<(), ConnNotFound>>;

    fn handle(&mut self, Remove(id): Remove, _: &mut Context<Self>) -> Self::Result {
        let Some(conn) = self.connections.get(id) else {
            return Box::pin(async move { Err(ConnNotFound(id)) });
        };
        let gone = self.end(vec![conn], &CloseReason::Removed);
        Box::pin(async move {
            let _ = gone.await;
            Ok(())
        })
    }
}

impl Handler<Gone> for ConnManager {
    type Result = ();

    fn handle(&mut self, Gone(conn): Gone, _: &mut Context<Self>) {
        self.forget(&conn);
    }
}

impl Handler<Get> for ConnManager {
    type Result = Result<Conn, ConnNotFound>;

    fn handle(&mut self, Get(id): Get, _: &mut Context<Self>) -> Self::Result {
        self.connections.get(id).ok_or(ConnNotFound(id))
    }
}

impl Handler<Len> for ConnManager {
    type Result = usize;

    fn handle(&mut self, _: Len, _: &mut Context<Self>) -> usize {
        self.connections.len()
    }
}

impl Handler<Ids> for ConnManager {
    type Result = Vec<ConnId>;

    fn handle(&mut self, _: Ids, _: &mut Context<Self>) -> Vec<ConnId> {
        self.connections.ids()
    }
}

impl Handler<ClearConn> for ConnManager {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: ClearConn, _: &mut Context<Self>) -> Self::Result {
        let conns = self.connections.all();
        let len = conns.len();
        let gone = self.end(conns, &CloseReason::Cleared);
        Box::pin(async move {
            let _ = gone.await;
            len
        })
    }
}

impl Handler<Left> for ConnManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Left, _: &mut Context<Self>) -> Self::Result {
        let left = self.left(self.connections.all());
        Box::pin(async move {
            let _ = left.await;
        })
    }
}

impl Handler<Drain> for ConnManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.draining = true;
        self.unpark();
        let gone = self.end(self.connections.all(), &CloseReason::Shutdown);
        Box::pin(async move {
            let _ = gone.await;
        })
    }
}

impl Handler<Broadcast> for ConnManager {
    type Result = ResponseFuture<Result<BroadcastReport, SendError>>;

    fn handle(&mut self, broadcast: Broadcast, _: &mut Context<Self>) -> Self::Result {
        let Broadcast { frame, overflow } = broadcast;
        let encoded =
            self.limits.check(frame.guarded()).and_then(|frame| self.limits.encode(frame));
        let encoded = match encoded {
            Ok((_, encoded)) => encoded,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let overflow = overflow.unwrap_or(self.limits.broadcast_overflow);
        let mut report = BroadcastReport::default();
        if self.workers.is_empty() {
            for conn in self.connections.all() {
                let pushed = conn.shared().push_encoded(&encoded, overflow);
                report.count(&conn, pushed, overflow);
            }
        }
        let fanout = Fanout { encoded, overflow };
        let fanouts: Vec<_> =
            self.workers.iter().map(|worker| worker.send(fanout.clone())).collect();
        Box::pin(async move {
            for fanout in fanouts {
                // A worker that is gone has no connections.
                report.add(fanout.await.unwrap_or_default());
            }
            Ok(report)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn who_waits_no_longer_for_a_place_leaves_nothing_behind() {
        let mut manager = ConnManager::new(&Settings { max_conn: 1, ..Settings::default() });
        let conn = crate::testing::conn(1, &Settings::default());
        let mut ctx = Context::new();
        assert_eq!(manager.handle(Add(conn), &mut ctx), Ok(1));
        for _ in 0..100 {
            drop(manager.handle(Vacancy, &mut ctx));
        }
        let still_waits = manager.handle(Vacancy, &mut ctx);
        assert_eq!(manager.parked.len(), 1);
        drop(still_waits);
    }
}
