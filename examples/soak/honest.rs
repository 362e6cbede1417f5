//! Groups of honest clients, and the stages they go through.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::{join, join_all};
use hdrhistogram::Histogram;

use crate::client::Client;

/// What takes longer is lost. Not less, lest a machine that is busy with something else be taken for
/// a server that loses messages.
pub(crate) const LOST: Duration = Duration::from_secs(30);

/// The longest latency that is told apart.
const LONGEST_US: u64 = 60_000_000;

/// A group of clients.
pub(crate) struct Group {
    shared: Arc<Shared>,
    /// The clients have come to the end of a stage.
    stages: Receiver<()>,
}

/// What a group's clients share with whoever runs them.
pub(crate) struct Shared {
    seen: Mutex<Seen>,
    enough: AtomicBool,
}

/// What the clients of a group have seen, all together.
pub(crate) struct Seen {
    /// In µs, since the last [`Group::lap`].
    pub(crate) latency: Histogram<u64>,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Broadcasts that were asked for.
    pub(crate) cried: u64,
    /// Broadcasts that came.
    pub(crate) heard: u64,
    /// Why clients gave up, a sentence each.
    pub(crate) failures: Vec<String>,
}

/// Where a group goes.
struct Party {
    name: &'static str,
    addr: SocketAddr,
    count: u64,
    /// The last one asks for broadcasts and for nothing else.
    cries: bool,
}

/// Starts `count` clients of the server, and a few of the control. When this returns, they are in.
///
/// Both groups share a thread, so that both have the same trouble if it does not get a core. The
/// hostile are on another.
pub(crate) fn start(
    server: SocketAddr,
    count: u64,
    control: SocketAddr,
) -> io::Result<(Group, Group)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (honest, at_server) = Group::new()?;
    let (controls, at_control) = Group::new()?;
    thread::spawn(move || {
        let victims = Party { name: "honest client", addr: server, count, cries: true };
        let others = Party { name: "client of the control", addr: control, count: 8, cries: false };
        runtime.block_on(join(victims.live(at_server), others.live(at_control)))
    });
    honest.wait("get in")?;
    controls.wait("get in")?;
    Ok((honest, controls))
}

impl Group {
    fn new() -> io::Result<(Self, Stage)> {
        let latency = histogram()?;
        let seen = Seen { latency, sent: 0, answered: 0, cried: 0, heard: 0, failures: Vec::new() };
        let shared = Arc::new(Shared { seen: Mutex::new(seen), enough: AtomicBool::new(false) });
        let (done, stages) = channel();
        Ok((Self { shared: Arc::clone(&shared), stages }, Stage { shared, done }))
    }

    /// The latencies since the last call.
    pub(crate) fn lap(&self) -> io::Result<Histogram<u64>> {
        Ok(mem::replace(&mut self.seen().latency, histogram()?))
    }

    /// Has the clients send nothing more. When this returns, they have all that is due to them.
    pub(crate) fn rest(&self) -> io::Result<()> {
        self.shared.enough.store(true, Relaxed);
        self.wait("come to rest")
    }

    /// Waits until the server has closed all connections.
    pub(crate) fn see_the_end(&self) -> io::Result<()> {
        self.wait("see their connections closed")
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen()
    }

    fn wait(&self, what: &str) -> io::Result<()> {
        let hang = |_| io::Error::other(format!("the honest clients do not {what}"));
        self.stages.recv_timeout(2 * LOST).map_err(hang)
    }
}

impl Shared {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        // Counters are whole whoever panicked.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_enough(&self) -> bool {
        self.enough.load(Relaxed)
    }
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).map_err(io::Error::other)
}

/// Where the clients tell how far they are.
struct Stage {
    shared: Arc<Shared>,
    done: Sender<()>,
}

impl Stage {
    fn over(&self) {
        // If the run has failed, nobody listens.
        let _ = self.done.send(());
    }
}

impl Party {
    async fn live(self, stage: Stage) {
        let mut clients = Vec::new();
        for number in 1..=self.count {
            match Client::get_in(number, self.addr, &stage.shared).await {
                Ok(client) => clients.push(client),
                Err(why) => self.fail(number, &why, &stage),
            }
        }
        stage.over();
        let crier = if self.cries { self.count } else { 0 };
        self.each(&mut clients, &stage, async |client| match client.number == crier {
            true => client.cry().await,
            false => client.talk().await,
        })
        .await;
        let cried = stage.shared.seen().cried;
        self.each(&mut clients, &stage, async |client| client.catch_up(cried).await).await;
        stage.over();
        self.each(&mut clients, &stage, Client::take_leave).await;
        stage.over();
    }

    /// Has all clients do something, side by side. Those that fail are out.
    async fn each(
        &self,
        clients: &mut Vec<Client>,
        stage: &Stage,
        what: impl AsyncFn(&mut Client) -> Result<(), String>,
    ) {
        let done = join_all(clients.iter_mut().map(|client| what(client))).await;
        let mut done = done.into_iter();
        clients.retain(|client| match done.next() {
            Some(Err(why)) => {
                self.fail(client.number, &why, stage);
                false
            }
            _ => true,
        });
    }

    fn fail(&self, number: u64, why: &str, stage: &Stage) {
        stage.shared.seen().failures.push(format!("{} {number}: {why}", self.name));
    }
}
