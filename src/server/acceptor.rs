//! Takes a listener's dials, has them admitted, and hands them to the worker with the fewest connections.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix::Addr;
use actix::MailboxError;
use actix::dev::Request;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::refusal::{Refusal, Refused};
use super::worker::{Placement, Serve, Workers};
use crate::conn::{Conn, ConnId, Limits, Slot};
use crate::conn_manager::{Add, AddError, ConnManager, Registration, Vacancy};
use crate::endpoint::ListenAddr;
use crate::event::Event;
use crate::settings::WhenFull;
use crate::transport::{PeerSide, Stack, gone};

/// The pause after a failed accept that is nobody's fault, doubled by each in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the log is spared another shortage. At the limit of descriptors each connection that
/// ends lets one in, which ends one shortage and begins the next.
const QUIET: Duration = Duration::from_secs(1);

/// How many dials are admitted together at most.
const TOGETHER: usize = 64;

/// The pause in a storm: when dials were refused, or the workers are behind. Without it, the acceptor and the
/// manager take as much of the processor as there are strangers for.
const IN_STORM: Duration = Duration::from_millis(1);

/// What to accept from; a trait so that tests can make it fail.
pub(crate) trait Listen {
    /// Cancel safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted>>;

    /// What was accepted is admitted or refused.
    fn settled(&mut self) {}

    /// Does what else is asked of a listener while nothing is accepted, since a dial is `parked` or for
    /// want of something. Cancel safe.
    fn attend(&mut self, parked: bool) -> impl Future<Output = Infallible> {
        let _ = parked;
        std::future::pending()
    }
}

/// A socket that is neither admitted nor refused yet.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Where the peer connected to, if it was not to this socket.
    pub(super) local: Option<SocketAddr>,
    /// When it was accepted.
    pub(super) began: Instant,
}

impl From<(TcpStream, SocketAddr)> for Accepted {
    fn from((stream, peer): (TcpStream, SocketAddr)) -> Self {
        Self { stream, peer, local: None, began: Instant::now() }
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

/// What the acceptors of a server have in common.
pub(crate) struct Reception {
    manager: Arc<Addr<ConnManager>>,
    placement: Placement,
    limits: Arc<Limits>,
    when_full: WhenFull,
    refusal: Refusal,
    next_id: Cell<ConnId>,
}

impl Reception {
    pub(crate) fn new(
        manager: Addr<ConnManager>,
        workers: &Workers,
        limits: Arc<Limits>,
        when_full: WhenFull,
        refusal: Refusal,
    ) -> Self {
        let (manager, placement) = (Arc::new(manager), workers.placement());
        Self { manager, placement, limits, when_full, refusal, next_id: Cell::new(1) }
    }
}

/// Takes the dials of one listener.
pub(crate) struct Acceptor<L> {
    listener: L,
    /// Where it listens.
    at: Arc<ListenAddr>,
    /// What its peers speak.
    stack: Stack,
    reception: Rc<Reception>,
    /// When a dial that waited for a place, and all others behind it, went on.
    waited: Option<Instant>,
    /// When the log was last told that accepting waits for handshakes.
    told_waiting: Option<Instant>,
}

impl<L: Listen> Acceptor<L> {
    pub(crate) fn new(listener: L, at: ListenAddr, stack: Stack, reception: Rc<Reception>) -> Self {
        Self { listener, at: Arc::new(at), stack, reception, waited: None, told_waiting: None }
    }

    /// Accepts until the listener is dead: answers what killed it. Or until it is told to halt, in the
    /// middle of nothing: who is admitted by then is served.
    pub(crate) async fn run(mut self, mut halt: watch::Receiver<()>) -> Option<io::Error> {
        let events = Arc::clone(&self.reception.limits.events);
        let together = match self.reception.when_full {
            WhenFull::Refuse => TOGETHER,
            // The others wait where they hold nothing: in the system's queue.
            WhenFull::Wait => 1,
        };
        // A pause for each of them would let in fewer dials than one stranger makes.
        let rounds = TOGETHER / together;
        let mut since_pause = 0;
        let mut pause = None;
        // Whether the log knows of the present shortage, and when it was last told of one.
        let (mut told, mut last_told) = (false, None::<Instant>);
        // Those that are asked for together. Room for them is made once: they are large.
        let mut dials = Vec::with_capacity(together);
        loop {
            self.listener.settled();
            // A dial that there is no place for among the handshakes.
            let mut waits = None;
            let mut accepted = tokio::select! {
                biased;
                _ = halt.changed() => return None,
                accepted = self.listener.accept() => accepted,
            };
            // Those that are there already are asked for together: in a storm of dials the manager
            // and the workers are woken once for many, and the system's queue overflows less easily.
            let failed = loop {
                match accepted {
                    Ok(dial) => {
                        pause = None;
                        if std::mem::take(&mut told) {
                            events.emit(Event::AcceptRecovered);
                        }
                        match self.slot_now() {
                            Some(slot) => dials.extend(self.ask(dial, slot)),
                            None => {
                                waits = Some(dial);
                                break None;
                            }
                        }
                    }
                    Err(error) => break Some(error),
                }
                if dials.len() >= together {
                    break None;
                }
                match poll_once(self.listener.accept()).await {
                    Some(next) => accepted = next,
                    None => break None,
                }
            };
            let mut refused = false;
            for dial in dials.drain(..) {
                match self.admit(dial, &halt).await {
                    Ok(admitted) => refused |= !admitted,
                    Err(error) => return Some(error),
                }
            }
            if let Some(dial) = waits {
                let Some(slot) = self.wait_to_shake_hands(dial.peer, halt.clone()).await else {
                    events.emit(Event::Refused { peer: dial.peer, why: &AddError::Draining });
                    return None;
                };
                if let Some(dial) = self.ask(dial, Some(slot)) {
                    match self.admit(dial, &halt).await {
                        Ok(admitted) => refused |= !admitted,
                        Err(error) => return Some(error),
                    }
                }
            }
            // All that was accepted is admitted or refused: a stop in the pause loses nobody.
            since_pause += 1;
            if since_pause >= rounds && (refused || self.reception.placement.is_behind()) {
                since_pause = 0;
                if self.halts_within(IN_STORM, &mut halt).await {
                    return None;
                }
            }
            let Some(error) = failed else { continue };
            match fault(&error) {
                Fault::Dial => events.emit(Event::DialGone { error: &error }),
                Fault::Machine => {
                    let tell = !told && last_told.is_none_or(|last| last.elapsed() >= QUIET);
                    events.emit(Event::AcceptFailed { error: &error, first: tell });
                    if tell {
                        (told, last_told) = (true, Some(Instant::now()));
                    }
                    let this = pause.map_or(FIRST_PAUSE, |last: Duration| last * 2);
                    let this = this.min(LONGEST_PAUSE);
                    pause = Some(this);
                    if self.halts_within(this, &mut halt).await {
                        return None;
                    }
                }
                Fault::Listener => return Some(error),
            }
        }
    }

    /// Accepts nothing for this long. True if it is told to halt meanwhile.
    async fn halts_within(&mut self, time: Duration, halt: &mut watch::Receiver<()>) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => false,
            _ = halt.changed() => true,
            never = self.listener.attend(false) => match never {},
        }
    }

    /// A place among the handshakes, if none is needed or there is one now.
    #[expect(clippy::option_option, reason = "`None` is to wait, `Some(None)` to need none")]
    fn slot_now(&self) -> Option<Option<Slot>> {
        if self.stack.is_bare() {
            return Some(None);
        }
        self.reception.limits.handshakes.try_slot().map(Some)
    }

    /// Waits for a place among the handshakes for a dial, and all others behind it in the system's queue.
    /// `None` if the accepting is halted.
    async fn wait_to_shake_hands(
        &mut self,
        peer: SocketAddr,
        mut halt: watch::Receiver<()>,
    ) -> Option<Slot> {
        let limits = Arc::clone(&self.reception.limits);
        let first = self.told_waiting.is_none_or(|last| last.elapsed() >= QUIET);
        if first {
            self.told_waiting = Some(Instant::now());
        }
        limits.events.emit(Event::HandshakesFull { peer, first });
        let slot = tokio::select! {
            biased;
            _ = halt.changed() => return None,
            slot = limits.handshakes.slot() => slot,
            never = self.listener.attend(true) => match never {},
        };
        self.waited = Some(Instant::now());
        Some(slot)
    }

    /// Asks for the admission of a socket. `None` if it is gone already.
    fn ask(&mut self, accepted: Accepted, slot: Option<Slot>) -> Option<Dial> {
        let Accepted { stream, peer, local, began } = accepted;
        let Reception { manager, limits, next_id, .. } = &*self.reception;
        let at = match local {
            None if !self.at.addr.ip().is_unspecified() => Ok(Arc::clone(&self.at)),
            local => local
                .map_or_else(|| stream.local_addr(), Ok)
                .map(|addr| Arc::new(ListenAddr { addr, ..(*self.at).clone() })),
        };
        let at = match at {
            Ok(at) => at,
            Err(error) => {
                limits.events.emit(Event::DialGone { error: &error });
                return None;
            }
        };
        let id = next_id.get();
        next_id.set(id + 1);
        let conn = Conn::new(id, peer, at, Arc::clone(limits));
        let registration = Registration::new(&conn, Arc::clone(manager));
        let answer = manager.send(Add(conn.clone()));
        Some(Dial { stream, began, slot, conn, registration, answer })
    }

    /// Hands a socket to its worker if the manager admits it, and returns whether it does. An error if there
    /// is no manager.
    async fn admit(&mut self, dial: Dial, halt: &watch::Receiver<()>) -> io::Result<bool> {
        let Dial { stream, mut began, slot, conn, mut registration, answer } = dial;
        let reception = Rc::clone(&self.reception);
        let events = &reception.limits.events;
        let mut added = answer.await;
        if reception.when_full == WhenFull::Wait && is_full(&added) {
            events.emit(Event::Parked { peer: conn.peer_addr() });
            while is_full(&added) {
                added = self.wait_for_place(&stream, &conn, halt.clone()).await;
            }
            self.waited = Some(Instant::now());
        }
        // Nobody shakes hands with a dial that waits, or with those behind it.
        began = self.waited.map_or(began, |waited| began.max(waited));
        let added = added.map_err(io::Error::other)?;
        let admitted = added.is_ok();
        match added {
            Ok(_) => match stream.into_std() {
                Ok(stream) => {
                    let Some(worker) = reception.placement.least_loaded() else {
                        // Nobody is left to serve anybody, which the server is about to learn.
                        match self.listener.attend(false).await {}
                    };
                    conn.shared().set_worker(worker.index);
                    registration.seat(worker.load());
                    let (stack, waits) = (self.stack.clone(), worker.waits());
                    let serve = Serve { conn, stream, stack, began, slot, registration, waits };
                    worker.addr.do_send(serve);
                }
                Err(error) => events.emit(Event::DialGone { error: &error }),
            },
            Err(why) => {
                events.emit(Event::Refused { peer: conn.peer_addr(), why: &why });
                let Reception { refusal, placement, limits, .. } = &*reception;
                let dial = Refused { stream, began, slot, peer: conn.peer_addr().ip() };
                if let Some(turn_away) = refusal.of(dial, &self.stack, &why, limits)
                    && let Some(worker) = placement.least_loaded()
                {
                    worker.addr.do_send(turn_away);
                }
            }
        }
        Ok(admitted)
    }

    /// Asks once more when there is a place, or returns why the dial gets none.
    async fn wait_for_place(
        &mut self,
        stream: &TcpStream,
        conn: &Conn,
        mut halt: watch::Receiver<()>,
    ) -> Result<Result<usize, AddError>, MailboxError> {
        let manager = Arc::clone(&self.reception.manager);
        tokio::select! {
            vacant = manager.send(Vacancy) => vacant?,
            _ = halt.changed() => return Ok(Err(AddError::Draining)),
            // Those behind it need not wait for a peer that is gone.
            () = gone(|| PeerSide::of(stream)) => return Ok(Err(AddError::Closed(conn.id()))),
            never = self.listener.attend(true) => match never {},
        }
        manager.send(Add(conn.clone())).await
    }
}

fn is_full(added: &Result<Result<usize, AddError>, MailboxError>) -> bool {
    matches!(added, Ok(Err(AddError::Full { .. })))
}

/// A socket for which the manager was asked.
struct Dial {
    stream: TcpStream,
    began: Instant,
    /// Among the handshakes; `None` if there is none to be made.
    slot: Option<Slot>,
    conn: Conn,
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
