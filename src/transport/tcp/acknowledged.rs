//! Whether the system of a peer has acknowledged all that was written to its socket.
//!
//! No safe interface of a maintained crate tells it for one socket (`SIOCOUTQ`, `TCP_INFO`). On Linux
//! the tables under `/proc/self/net` have it for all sockets, in the column `tx_queue`: proc(5). A read
//! costs as much as there are sockets, so one thread reads for all connections that end at the same
//! time, and there is none while nobody waits.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::net::TcpStream;

/// The pause between two reads while nothing changes: it doubles from the one to the other. Most peers
/// close their side within the first, so that nothing is read for them.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// A pause is this many times as long as the read before it, so that reading costs a tenth of a core at
/// most, however many sockets there are.
const PAUSE_OF_READ: u32 = 9;

/// The tables of IPv4 and of IPv6, which may be missing.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// The number by which the tables name a socket.
type Inode = u64;

/// Watches sockets for their peers' acknowledgement. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: FxHashMap<Inode, Waiting>,
    /// A thread reads, and ends when nobody waits.
    reads: bool,
    /// Somebody began to wait since the last read.
    news: bool,
    /// How many reads have begun.
    reading: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The last read that began before this wait: what it finds may be older than what was written.
    since: u64,
    acknowledged: bool,
    waker: Option<Waker>,
}

/// One socket that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    of: Acknowledged,
    inode: Inode,
}

impl Acknowledged {
    /// Watches a socket to which nothing more is written. `None` if its state cannot be had.
    pub(crate) fn watch(&self, socket: &TcpStream) -> Option<Watch> {
        let inode = inode(socket).ok()?;
        let mut state = self.lock();
        let since = state.reading;
        state.waiting.insert(inode, Waiting { since, ..Waiting::default() });
        state.news = true;
        if !std::mem::replace(&mut state.reads, true) {
            let of = self.clone();
            let reader = thread::Builder::new().name("zinxide-acknowledged".to_owned());
            if reader.spawn(move || of.read_on()).is_err() {
                *state = State::default();
                return None;
            }
        }
        Some(Watch { of: self.clone(), inode })
    }

    /// Reads until nobody waits.
    fn read_on(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            thread::sleep(pause);
            let this = {
                let mut state = self.lock();
                if state.waiting.is_empty() {
                    state.reads = false;
                    return;
                }
                state.reading += 1;
                state.reading
            };
            let began = Instant::now();
            let held = held();
            let took = began.elapsed();
            let mut state = self.lock();
            let mut woken = Vec::new();
            for (inode, waiting) in &mut state.waiting {
                // What is in no table has no peer any more.
                let is_held = held.as_ref().map_or(true, |held| held.contains(inode));
                if waiting.since < this
                    && !is_held
                    && !std::mem::replace(&mut waiting.acknowledged, true)
                {
                    woken.extend(waiting.waker.take());
                }
            }
            if held.is_err() {
                state.reads = false;
                return;
            }
            pause = if std::mem::take(&mut state.news) { FIRST_PAUSE } else { pause * 2 };
            pause = pause.min(LONGEST_PAUSE).max(took * PAUSE_OF_READ);
            drop(state);
            woken.into_iter().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in it panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Ready when the peer's system has acknowledged everything. Pending for ever where that cannot be
    /// told.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.of.lock();
        match state.waiting.get_mut(&self.inode) {
            Some(Waiting { acknowledged: true, .. }) => Poll::Ready(()),
            Some(waiting) => {
                // Clones it only if it wakes another.
                waiting.waker.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.of.lock().waiting.remove(&self.inode);
    }
}

fn inode(socket: &TcpStream) -> io::Result<Inode> {
    Ok(File::from(socket.as_fd().try_clone_to_owned()?).metadata()?.ino())
}

/// The sockets of which the system holds unacknowledged bytes.
fn held() -> io::Result<FxHashSet<Inode>> {
    let mut held = FxHashSet::default();
    let mut read = Err(io::ErrorKind::NotFound.into());
    for table in TABLES {
        match read_table(table, &mut held) {
            Ok(()) => read = Ok(()),
            Err(error) if read.is_err() => read = Err(error),
            Err(_) => {}
        }
    }
    read.map(|()| held)
}

/// Adds what a table says, line by line: a table names every socket of the machine, those in TIME-WAIT
/// included, and can be several megabytes long.
fn read_table(table: &str, held: &mut FxHashSet<Inode>) -> io::Result<()> {
    let mut table = BufReader::new(File::open(table)?);
    let mut line = String::new();
    while table.read_line(&mut line)? > 0 {
        held.extend(held_by(&line));
        line.clear();
    }
    Ok(())
}

/// The socket of this line of a table, if the system holds bytes of it.
fn held_by(line: &str) -> Option<Inode> {
    // "sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode"
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (state, queues, inode) = (fields.next()?, fields.next()?, fields.nth(4)?);
    let (sent, _) = queues.split_once(':')?;
    let unacknowledged = u32::from_str_radix(sent, 16).ok()?;
    // The FIN has a place in the sequence of bytes, too, until it is acknowledged.
    let fin = u32::from(["04", "09", "0B"].contains(&state));
    if unacknowledged > fin { inode.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(addr));
        (ours.unwrap().0, theirs.unwrap())
    }

    async fn within<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), what).await.expect("it takes too long")
    }

    #[test]
    fn a_line_says_whether_a_socket_holds_bytes_beside_its_fin() {
        let line = |state: &str, queue: &str| {
            format!(
                "   1: 0100007F:1E61 0100007F:9C40 {state} {queue}:00000000 01:00000014 00000000 \
                     0        0 123456 2 0000000000000000 20 4 30 10 -1"
            )
        };
        assert_eq!(held_by(&line("01", "00000001")), Some(123_456));
        assert_eq!(held_by(&line("01", "00000000")), None);
        assert_eq!(held_by(&line("04", "00000001")), None, "the FIN alone");
        assert_eq!(held_by(&line("04", "00000011")), Some(123_456));
        assert_eq!(held_by(&line("05", "00000000")), None);
        assert_eq!(held_by("  sl  local_address"), None);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_acknowledges_what_its_system_took() {
        let (mut ours, _theirs) = pair().await;
        ours.write_all(b"hello").await.unwrap();
        ours.shutdown().await.unwrap();
        let watch = Acknowledged::default().watch(&ours).unwrap();
        within(poll_fn(|cx| watch.poll(cx))).await;
    }

    #[tokio::test]
    async fn what_the_systems_hold_is_acknowledged_when_the_peer_has_read_and_not_before() {
        let (mut ours, mut theirs) = pair().await;
        let mut written = 0;
        ours.writable().await.unwrap();
        while let Ok(n) = ours.try_write(&[7; 64 * 1024]) {
            written += n;
        }
        ours.shutdown().await.unwrap();
        let all = Acknowledged::default();
        let watch = all.watch(&ours).unwrap();
        assert!(held().unwrap().contains(&watch.inode));
        assert!(poll_fn(|cx| Poll::Ready(watch.poll(cx))).await.is_pending());
        let mut read = Vec::new();
        within(theirs.read_to_end(&mut read)).await.unwrap();
        assert_eq!(read.len(), written);
        within(poll_fn(|cx| watch.poll(cx))).await;
        drop(watch);
        assert!(all.lock().waiting.is_empty());
    }
}
