//! Takes dials, has them admitted, and hands them to the worker with the fewest connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::worker::{Placement, Serve, Workers};
use crate::conn::{Conn, ConnId, Limits};
use crate::conn_manager::{Add, ConnManager, Registration};
use crate::event;

/// The pause after a failed accept that is nobody's fault, doubled by each in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the log is spared another shortage. At the limit of descriptors each connection that
/// ends lets one in, which ends one shortage and begins the next.
const QUIET: Duration = Duration::from_secs(1);

/// What to accept from; a trait so that tests can make it fail.
pub(crate) trait Listen {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>>;
}

impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

/// Whose fault a failed accept is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The peer's or the network's: the next dial may be fine.
    Dial,
    /// The machine is out of something. Trying again at once would only burn the processor.
    Machine,
    /// The listener's: it will never accept again.
    Listener,
}

pub(crate) struct Acceptor<L> {
    listener: L,
    /// Where it listens.
    addr: Arc<SocketAddr>,
    manager: Arc<Addr<ConnManager>>,
    placement: Placement,
    limits: Arc<Limits>,
    next_id: ConnId,
}

impl<L: Listen> Acceptor<L> {
    pub(crate) fn new(
        listener: L,
        addr: SocketAddr,
        manager: Addr<ConnManager>,
        workers: &Workers,
        limits: Arc<Limits>,
    ) -> Self {
        let placement = workers.placement();
        let addr = Arc::new(addr);
        Self { listener, addr, manager: Arc::new(manager), placement, limits, next_id: 1 }
    }

    /// Accepts until the listener is dead. Answers what killed it.
    pub(crate) async fn run(&mut self) -> io::Error {
        let counters = Arc::clone(&self.limits.counters);
        let mut pause = None;
        // Whether the log knows of the present shortage, and when it was last told of one.
        let (mut told, mut last_told) = (false, None::<Instant>);
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    pause = None;
                    if std::mem::take(&mut told) {
                        event::accept_recovered();
                    }
                    if let Err(error) = self.admit(stream, peer).await {
                        return error;
                    }
                }
                Err(error) => match fault(&error) {
                    Fault::Dial => event::accept_skipped(&counters, &error),
                    Fault::Machine => {
                        let tell = !told && last_told.is_none_or(|last| last.elapsed() >= QUIET);
                        event::accept_failed(&counters, &error, tell);
                        if tell {
                            (told, last_told) = (true, Some(Instant::now()));
                        }
                        let this = pause.map_or(FIRST_PAUSE, |last: Duration| last * 2);
                        let this = this.min(LONGEST_PAUSE);
                        pause = Some(this);
                        tokio::time::sleep(this).await;
                    }
                    Fault::Listener => return error,
                },
            }
        }
    }

    /// An error if there is nobody left to serve it.
    async fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let local = if self.addr.ip().is_unspecified() {
            match stream.local_addr() {
                Ok(addr) => Arc::new(addr),
                Err(error) => {
                    event::accept_skipped(&self.limits.counters, &error);
                    return Ok(());
                }
            }
        } else {
            Arc::clone(&self.addr)
        };
        let id = self.next_id;
        self.next_id += 1;
        let conn = Conn::new(id, peer, local, Arc::clone(&self.limits));
        let Some(worker) = self.placement.least_loaded() else {
            return Err(io::Error::other("all workers have ended"));
        };
        conn.shared().set_worker(worker.index);
        let registration = Registration::new(&conn, Arc::clone(&self.manager), worker.load());
        match self.manager.send(Add(conn.clone())).await {
            Ok(Ok(_)) => match stream.into_std() {
                Ok(stream) => worker.addr.do_send(Serve { conn, stream, registration }),
                Err(error) => event::accept_skipped(&self.limits.counters, &error),
            },
            Ok(Err(why)) => event::refused(&self.limits.counters, peer, &why),
            Err(gone) => return Err(io::Error::other(gone)),
        }
        Ok(())
    }
}

/// Errors of accept(2), sorted by who is to blame. Those that are not listed are taken for the
/// machine's, because a pause is never wrong.
fn fault(error: &io::Error) -> Fault {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionAborted
        | K::ConnectionReset
        | K::ConnectionRefused
        | K::Interrupted
        | K::WouldBlock
        | K::TimedOut
        | K::PermissionDenied
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown => Fault::Dial,
        K::InvalidInput | K::Unsupported | K::NotConnected => Fault::Listener,
        _ => by_code(error.raw_os_error()),
    }
}

#[cfg(unix)]
fn by_code(code: Option<i32>) -> Fault {
    match code {
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) => Fault::Listener,
        Some(libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN) => Fault::Dial,
        _ => Fault::Machine,
    }
}

#[cfg(not(unix))]
fn by_code(_: Option<i32>) -> Fault {
    Fault::Machine
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
