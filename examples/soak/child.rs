//! The server's process, as the one sees it that started it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// A server that says nothing for so long hangs. Longer than its drain takes.
const HANGS: Duration = Duration::from_secs(60);

/// What the server says of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) connected: u64,
    /// Bytes of heap that are allocated and not freed.
    pub(crate) live: u64,
    pub(crate) stats: Stats,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Stats {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) ended: u64,
    pub(crate) panics: u64,
    pub(crate) restarts: u64,
    pub(crate) endings: BTreeMap<String, u64>,
}

pub(crate) struct ServerProcess {
    process: Child,
    /// `None` when it has been told to stop.
    orders: Option<ChildStdin>,
    lines: Receiver<io::Result<String>>,
    pub(crate) addr: SocketAddr,
}

impl ServerProcess {
    /// Starts this very program once more, as the server.
    pub(crate) fn start(patience: Duration) -> io::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg("--serve")
            .arg("--patience-ms")
            .arg(patience.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take();
        let stdout = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (tx, lines) = channel();
        thread::spawn(move || BufReader::new(stdout).lines().try_for_each(|line| tx.send(line)));
        let addr = next(&lines)?.parse().map_err(io::Error::other)?;
        Ok(Self { process, orders, lines, addr })
    }

    pub(crate) fn state(&mut self) -> io::Result<State> {
        if let Some(orders) = &mut self.orders {
            // If it is dead, it does not answer either.
            let _ = writeln!(orders, "stats");
        }
        Ok(serde_json::from_str(&next(&self.lines)?)?)
    }

    /// Waits until there are at most `connections`, but not for ever.
    pub(crate) fn settle(&mut self, connections: u64, longest: Duration) -> io::Result<State> {
        let begun = Instant::now();
        loop {
            let state = self.state()?;
            if state.connected <= connections || begun.elapsed() > longest {
                return Ok(state);
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// The lowest live heap of several looks within `time`, in bytes. Messages that are on their way
    /// hold some of it: one look alone finds a few hundred KiB more or less.
    pub(crate) fn live(&mut self, time: Duration) -> io::Result<u64> {
        const LOOKS: u32 = 30;
        (0..LOOKS).try_fold(u64::MAX, |lowest, _| {
            sleep(time / LOOKS);
            Ok(lowest.min(self.state()?.live))
        })
    }

    /// The resident set in bytes, where the system tells.
    pub(crate) fn resident(&self) -> Option<u64> {
        // `status` and not `statm`, which counts in pages and does not say how large they are.
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Has the server drained and stopped. Answers what it says at its end.
    pub(crate) fn stop(&mut self) -> io::Result<State> {
        self.orders = None;
        let state = serde_json::from_str(&next(&self.lines)?)?;
        let status = self.process.wait()?;
        if status.success() {
            Ok(state)
        } else {
            Err(io::Error::other(format!("the server ended with {status}")))
        }
    }
}

fn next(lines: &Receiver<io::Result<String>>) -> io::Result<String> {
    lines.recv_timeout(HANGS).map_err(|error| match error {
        RecvTimeoutError::Timeout => io::Error::other("the server hangs"),
        RecvTimeoutError::Disconnected => io::Error::other("the server died"),
    })?
}

impl Drop for ServerProcess {
    /// A run that fails leaves nothing behind. One that has ended is only asked once more.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
