//! What hooks, handlers and senders write down, on whichever thread they run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use zinxide::{CloseReason, Conn, ConnId, Connections, Inbound, MsgId};

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Started,
    /// A handler has this message.
    Begun(MsgId, u32),
    /// The answer to this message came back.
    Refused(u32),
    /// The handler is done with it.
    Done(u32),
    /// The handler was dropped before it was done.
    Abandoned(u32),
    Stopped(CloseReason),
}

/// Shared by all threads of a case.
pub(crate) struct Journal {
    patience: Duration,
    events: Mutex<Vec<(ConnId, Event)>>,
    /// Every connection that anybody has seen.
    conns: Mutex<Vec<Conn>>,
    table: OnceLock<Connections>,
    /// The most that were in the table at once.
    most: AtomicUsize,
    /// Something was written, or a client has heard something.
    news: watch::Sender<()>,
}

impl Journal {
    /// A journal that nobody waits at for longer than `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            events: Mutex::default(),
            conns: Mutex::default(),
            table: OnceLock::new(),
            most: AtomicUsize::new(0),
            news: watch::Sender::default(),
        }
    }

    pub(crate) fn watch(&self, table: &Connections) {
        assert!(self.table.set(table.clone()).is_ok());
    }

    pub(crate) fn write(&self, conn: ConnId, event: Event) {
        self.events.lock().unwrap().push((conn, event));
        self.look();
    }

    /// Looks at the table, which no look may find above the limit.
    pub(crate) fn look(&self) {
        if let Some(table) = self.table.get() {
            self.most.fetch_max(table.len(), SeqCst);
        }
        self.news.send_replace(());
    }

    pub(crate) fn meet(&self, conn: &Conn) {
        let mut conns = self.conns.lock().unwrap();
        if !conns.iter().any(|known| known.id() == conn.id()) {
            conns.push(conn.clone());
        }
    }

    /// The connection of the client with this address, if it is admitted.
    pub(crate) fn conn_of(&self, client: SocketAddr) -> Option<Conn> {
        self.table.get()?.all().iter().for_each(|conn| self.meet(conn));
        self.conns.lock().unwrap().iter().find(|conn| conn.peer_addr() == client).cloned()
    }

    pub(crate) fn has_started(&self, client: SocketAddr) -> bool {
        let conn = self.conn_of(client);
        let events = self.events.lock().unwrap();
        conn.is_some_and(|conn| events.contains(&(conn.id(), Event::Started)))
    }

    /// Waits until something is so that this journal or a client is told of.
    pub(crate) async fn until(&self, claim: &str, is_so: impl Fn() -> bool) {
        let mut news = self.news.subscribe();
        let so = async {
            while !is_so() {
                news.changed().await.expect("the sender is here");
            }
        };
        self.within(claim, so).await;
    }

    /// What `future` answers, and soon.
    pub(crate) async fn within<T>(&self, claim: &str, future: impl Future<Output = T>) -> T {
        match timeout(self.patience, future).await {
            Ok(answer) => answer,
            Err(_) => panic!("not within {:?}: {claim}", self.patience),
        }
    }

    pub(crate) fn events(&self) -> Vec<(ConnId, Event)> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn conns(&self) -> Vec<Conn> {
        self.conns.lock().unwrap().clone()
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(SeqCst)
    }
}

/// A message with its handler.
pub(crate) struct Handling {
    journal: Arc<Journal>,
    conn: ConnId,
    seq: u32,
    done: bool,
}

impl Handling {
    pub(crate) fn begin(journal: &Arc<Journal>, message: &Inbound) -> Self {
        let (conn, seq) = (message.conn().id(), seq_of(message.payload()));
        journal.write(conn, Event::Begun(message.id(), seq));
        Self { journal: Arc::clone(journal), conn, seq, done: false }
    }

    /// Before the message is dropped or answered: its connection may stop from then on.
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        // A panic is a way to be done, too.
        let done = self.done || std::thread::panicking();
        let event = if done { Event::Done } else { Event::Abandoned };
        self.journal.write(self.conn, event(self.seq));
    }
}

/// The number that each client's message begins with.
pub(crate) fn seq_of(payload: &[u8]) -> u32 {
    u32::from_le_bytes(*payload.first_chunk().expect("a message begins with its number"))
}

/// A payload that begins with numbers and goes on for `size` bytes, which tell it from others.
pub(crate) fn payload(numbers: &[u32], size: usize) -> Vec<u8> {
    let fill = numbers.iter().fold(1_u32, |all, n| all.wrapping_mul(31).wrapping_add(*n));
    let filling = (0..size).map(|at| (fill as usize + at) as u8);
    numbers.iter().flat_map(|n| n.to_le_bytes()).chain(filling).collect()
}
