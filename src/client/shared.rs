//! What the handles of a client and its actor share: where a frame goes, and who waits for an answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::queue::{Item, Queue};
use super::requests::{Asked, Claim, Requests};
use super::{ClientState, Outage, RequestError, WhenQueueFull};
use crate::conn::{CloseReason, Conn, Limits, Overflow, Pushed, SendError, Unsent};
use crate::endpoint::Endpoint;
use crate::event::Event;
use crate::frame::{Frame, MsgId};
use crate::unwind::contained;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) limits: Arc<Limits>,
    when_full: WhenQueueFull,
    /// A message with this id says that the close which follows is final.
    final_id: Option<MsgId>,
    /// Of the thread where the client lives: who asks may be on one without timers.
    runtime: Handle,
    pub(super) watched: watch::Sender<ClientState>,
    /// Tasks that wait for room in the queue, or for a connection that needs none.
    room: Notify,
    tickets: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The present connection, from `on_conn_start` on.
    conn: Option<Conn>,
    /// Frames that no connection has taken: while there is one, the next go behind it.
    queue: Queue,
    /// What was asked on the present connection.
    requests: Requests,
    /// Frames were dropped since the last connection.
    dropped: bool,
    /// Nothing is accepted any more.
    closed: bool,
    /// What was in the queue at the end.
    left: Vec<Frame>,
}

impl State {
    /// The connection that takes the next frame, if that need not queue.
    ///
    /// One that ends is spared: even if it takes frames, its peer is most likely gone.
    fn direct(&self) -> Option<&Conn> {
        let conn = self.conn.as_ref().filter(|conn| !conn.shared().is_ending());
        conn.filter(|_| self.queue.is_empty())
    }

    /// Offers an item to a connection. It is to be dropped without the lock.
    fn offer(&mut self, conn: &Conn, item: &Item) -> Pushed {
        let shared = conn.shared();
        match (&item.encoded, item.droppable) {
            (Some(encoded), true) => shared.push_encoded(encoded, Overflow::DropOldest),
            (encoded, _) => shared.offer(&item.frame, encoded.as_ref()),
        }
    }

    /// A request is sent. Answers its reply id if the answers with that cannot be told apart any more.
    fn enter(&mut self, asked: Asked) -> Option<MsgId> {
        let reply_id = asked.reply_id;
        (!self.requests.enter(asked)).then_some(reply_id)
    }
}

/// Ends a connection whose answers cannot be told apart any more. Not under the lock: it is told of.
fn out_of_step(conn: &Conn, lost: Option<MsgId>) {
    if let Some(reply_id) = lost {
        conn.close(CloseReason::OutOfStep(reply_id));
    }
}

/// What became of an item.
enum Offered {
    Accepted,
    /// Neither the outbox of this connection has room for it, nor, if there is none, the queue.
    Full(Item, Option<Conn>),
    Closed(Item),
}

/// How far the queue is flushed.
pub(super) enum Flushed {
    One,
    All,
    /// The outbox has no room for a frame of this length.
    Full(usize),
    /// The connection takes no more.
    Closed,
}

/// For handles: any thread.
impl Shared {
    pub(super) fn new(
        endpoint: Endpoint,
        limits: Arc<Limits>,
        bound: Unsent,
        when_full: WhenQueueFull,
        final_id: Option<MsgId>,
    ) -> Self {
        let state = State {
            conn: None,
            queue: Queue::new(bound),
            requests: Requests::default(),
            dropped: false,
            closed: false,
            left: Vec::new(),
        };
        let (watched, _) = watch::channel(ClientState::Connecting);
        Self {
            endpoint,
            limits,
            when_full,
            final_id,
            runtime: Handle::current(),
            watched,
            room: Notify::const_new(),
            tickets: AtomicU64::new(1),
            state: Mutex::new(state),
        }
    }

    /// Accepts an item as soon as there is room for it. A future dropped before that drops the item.
    pub(super) async fn send(&self, mut item: Item) -> Result<(), SendError> {
        loop {
            let full;
            (item, full) = match self.offer(item, false) {
                Offered::Accepted => return Ok(()),
                Offered::Closed(item) => return Err(SendError::Closed(item.frame)),
                Offered::Full(item, conn) => (item, conn),
            };
            match full {
                Some(conn) => conn.shared().room_for(item.len).await,
                None => self.room_for(item.len).await,
            }
        }
    }

    /// Accepts an item, or does what the policies say.
    pub(super) fn send_buffered(&self, item: Item) -> Result<(), SendError> {
        match self.offer(item, self.when_full == WhenQueueFull::DropOldest) {
            Offered::Accepted => Ok(()),
            Offered::Closed(item) => Err(SendError::Closed(item.frame)),
            Offered::Full(item, Some(conn)) => {
                let overflow = self.limits.overflow;
                match (conn.settle(Pushed::Full, overflow), overflow) {
                    (Some(_), _) => {
                        bury(|| item);
                        Ok(())
                    }
                    (None, Overflow::Refuse) => Err(SendError::Full(item.frame)),
                    (None, _) => Err(SendError::Closed(item.frame)),
                }
            }
            Offered::Full(item, None) if self.when_full == WhenQueueFull::Refuse => {
                Err(SendError::Full(item.frame))
            }
            Offered::Full(item, None) => {
                self.dropped(vec![item]);
                Ok(())
            }
        }
    }

    /// Has the present connection take the item, or the queue, in place of older ones if it is to
    /// `displace` them.
    fn offer(&self, mut item: Item, displace: bool) -> Offered {
        let mut state = self.lock();
        if state.closed {
            return Offered::Closed(item);
        }
        if let Some(conn) = state.direct().cloned() {
            let pushed = state.offer(&conn, &item);
            match pushed {
                Pushed::Accepted | Pushed::Displaced(_) => {
                    let lost = item.asked.take().and_then(|asked| state.enter(asked));
                    drop(state);
                    bury(|| item);
                    let _ = conn.settle(pushed, Overflow::DropOldest);
                    out_of_step(&conn, lost);
                    return Offered::Accepted;
                }
                Pushed::Full => return Offered::Full(item, Some(conn)),
                // It has just begun to end.
                Pushed::Closed => {}
            }
        }
        if state.queue.has_room(item.len) {
            state.queue.push(item);
        } else if displace {
            let displaced = state.queue.push_displacing(item);
            drop(state);
            self.dropped(displaced);
        } else {
            return Offered::Full(item, None);
        }
        Offered::Accepted
    }

    /// Done when the queue has room, or is not needed, or nothing is accepted any more.
    async fn room_for(&self, len: usize) {
        let room = self.room.notified();
        tokio::pin!(room);
        // Listens before it looks.
        room.as_mut().enable();
        {
            let state = self.lock();
            if state.closed || state.direct().is_some() || state.queue.has_room(len) {
                return;
            }
        }
        room.await;
    }

    fn dropped(&self, items: Vec<Item>) {
        let frames = items.len();
        let first = !std::mem::replace(&mut self.lock().dropped, true);
        let endpoint = &self.endpoint;
        self.emit(Event::QueueDropped { endpoint, policy: self.when_full, frames, first });
        for Item { frame, asked, .. } in items {
            match asked {
                Some(asked) => bury(|| asked.tell.send(Err(RequestError::Displaced(frame)))),
                None => bury(|| frame),
            }
        }
    }

    /// A number that no other item has.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes an item back if it is in the queue still.
    pub(super) fn withdraw(&self, ticket: u64) -> bool {
        let Some(withdrawn) = self.lock().queue.remove(ticket) else { return false };
        self.room.notify_waiters();
        bury(|| withdrawn);
        true
    }

    pub(super) fn conn(&self) -> Option<Conn> {
        let conn = self.lock().conn.clone();
        conn.filter(|conn| !conn.shared().is_ending())
    }

    pub(super) fn queued(&self) -> Unsent {
        self.lock().queue.size()
    }

    /// A timer that may be polled on any thread.
    pub(super) fn sleep_until(&self, deadline: Instant) -> Sleep {
        let _timers = self.runtime.enter();
        sleep_until(deadline)
    }

    /// Accepts nothing more.
    pub(super) fn shut(&self) {
        self.lock().closed = true;
        self.room.notify_waiters();
    }

    /// What no connection has taken. It is given away once.
    pub(super) fn take_left(&self) -> Vec<Frame> {
        std::mem::take(&mut self.lock().left)
    }

    pub(super) fn emit(&self, event: Event<'_>) {
        self.limits.events.emit(event);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the application runs under the lock, not even the drop of a payload, and
        // nothing in it panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the client's actor and its connections: its own thread alone.
impl Shared {
    /// There is a connection, for which `on_conn_start` has run.
    pub(super) fn up(&self, conn: &Conn) {
        let mut state = self.lock();
        state.conn = Some(conn.clone());
        state.dropped = false;
        drop(state);
        self.watched.send_replace(ClientState::Connected(conn.clone()));
        self.room.notify_waiters();
    }

    /// Moves one frame from the queue to the connection.
    pub(super) fn flush_one(&self, conn: &Conn) -> Flushed {
        let mut state = self.lock();
        if conn.shared().is_ending() {
            return Flushed::Closed;
        }
        // From the one into the other under one lock, so that nothing overtakes it.
        let Some(item) = state.queue.pop() else { return Flushed::All };
        let pushed = state.offer(conn, &item);
        match pushed {
            Pushed::Accepted | Pushed::Displaced(_) => {}
            Pushed::Full => {
                let len = item.len;
                state.queue.put_back(item);
                return Flushed::Full(len);
            }
            Pushed::Closed => {
                state.queue.put_back(item);
                return Flushed::Closed;
            }
        }
        let Item { frame, asked, .. } = item;
        let lost = asked.and_then(|asked| state.enter(asked));
        drop(state);
        bury(|| frame);
        let _ = conn.settle(pushed, Overflow::DropOldest);
        out_of_step(conn, lost);
        self.room.notify_waiters();
        Flushed::One
    }

    /// A message has come: it may be the server's final word.
    pub(super) fn note(&self, id: MsgId, conn: &Conn) {
        if self.final_id == Some(id) {
            conn.shared().expect_final();
        }
    }

    /// Who a message is for.
    pub(super) fn claim(&self, id: MsgId) -> Claim {
        self.lock().requests.claim(id)
    }

    /// The connection has ended, after its last message: whoever waits for an answer waits in vain.
    pub(super) fn disconnect(&self, why: &CloseReason) {
        let mut state = self.lock();
        // The handle may be the last one: it is dropped without the lock.
        let _conn = state.conn.take();
        let waiting = state.requests.end();
        drop(state);
        for tell in waiting {
            let _ = tell.send(Err(RequestError::Disconnected(why.clone())));
        }
    }

    /// There is no connection, for this reason.
    pub(super) fn away(&self, why: Outage) {
        self.watched.send_replace(ClientState::Disconnected(why));
    }

    /// The client has ended. What is in the queue is left to be taken, and told of.
    pub(super) fn end(&self) {
        let why = match &*self.watched.borrow() {
            ClientState::Closed(_) => return,
            ClientState::Disconnected(outage) => Some(outage.clone()),
            _ => None,
        };
        self.shut();
        self.disconnect(&CloseReason::WorkerGone);
        let mut state = self.lock();
        let queued = state.queue.size();
        let items = state.queue.take();
        drop(state);
        let mut left = Vec::new();
        for Item { frame, asked, .. } in items {
            match asked {
                None => left.push(frame),
                Some(asked) => {
                    let closed = RequestError::NotAccepted(SendError::Closed(frame));
                    bury(|| asked.tell.send(Err(closed)));
                }
            }
        }
        self.lock().left = left;
        self.emit(Event::ClientClosed { endpoint: &self.endpoint, why: why.as_ref(), queued });
        self.watched.send_replace(ClientState::Closed(why));
        self.room.notify_waiters();
    }
}

/// Drops what `f` answers: a payload of the application, perhaps, whose drop may panic, where that is
/// not the fault of whoever runs this.
pub(super) fn bury<T>(f: impl FnOnce() -> T) {
    let _ = contained(|| drop(f()));
}

#[cfg(test)]
mod tests;
