//! Takes dials, has them admitted, and hands them to the worker with the fewest connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix::Addr;
use actix::dev::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::worker::{Placement, Serve, Worker, Workers};
use crate::conn::{Conn, ConnId, Limits};
use crate::conn_manager::{Add, ConnManager, Registration};
use crate::event;

/// The pause after a failed accept that is nobody's fault, doubled by each in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the log is spared another shortage. At the limit of descriptors each connection that
/// ends lets one in, which ends one shortage and begins the next.
const QUIET: Duration = Duration::from_secs(1);

/// How many dials are admitted together at most.
const TOGETHER: usize = 64;

/// What to accept from; a trait so that tests can make it fail.
pub(crate) trait Listen {
    /// Cancel safe.
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
            let mut dials = Vec::new();
            let mut accepted = self.listener.accept().await;
            // Those that are there already are asked for together: in a storm of dials the manager
            // and the workers are woken once for many, and the system's queue overflows less easily.
            let failed = loop {
                match accepted {
                    Ok((stream, peer)) => {
                        pause = None;
                        if std::mem::take(&mut told) {
                            event::accept_recovered();
                        }
                        match self.ask(stream, peer) {
                            Ok(dial) => dials.extend(dial),
                            Err(error) => return error,
                        }
                    }
                    Err(error) => break Some(error),
                }
                if dials.len() >= TOGETHER {
                    break None;
                }
                match poll_once(self.listener.accept()).await {
                    Some(next) => accepted = next,
                    None => break None,
                }
            };
            for dial in dials {
                if let Err(error) = self.admit(dial).await {
                    return error;
                }
            }
            let Some(error) = failed else { continue };
            match fault(&error) {
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
            }
        }
    }

    /// Asks for the admission of a socket. `None` if it is gone already; an error if there is nobody
    /// left to serve it.
    fn ask(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<Option<Dial>> {
        let local = if self.addr.ip().is_unspecified() {
            match stream.local_addr() {
                Ok(addr) => Arc::new(addr),
                Err(error) => {
                    event::accept_skipped(&self.limits.counters, &error);
                    return Ok(None);
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
        let answer = self.manager.send(Add(conn.clone()));
        Ok(Some(Dial { stream, conn, worker: worker.addr.clone(), registration, answer }))
    }

    /// Hands a socket to its worker if the manager admits it. An error if there is no manager.
    async fn admit(&mut self, dial: Dial) -> io::Result<()> {
        let Dial { stream, conn, worker, registration, answer } = dial;
        match answer.await {
            Ok(Ok(_)) => match stream.into_std() {
                Ok(stream) => worker.do_send(Serve { conn, stream, registration }),
                Err(error) => event::accept_skipped(&self.limits.counters, &error),
            },
            Ok(Err(why)) => event::refused(&self.limits.counters, conn.peer_addr(), &why),
            Err(gone) => return Err(io::Error::other(gone)),
        }
        Ok(())
    }
}

/// A socket for which the manager was asked.
struct Dial {
    stream: TcpStream,
    conn: Conn,
    worker: Addr<Worker>,
    registration: Registration,
    answer: Request<ConnManager, Add>,
}

/// What `future` is ready with now, if it is. Dropped else: it must be cancel safe.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
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
