//! A listener that can be closed for a while.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::acceptor::{Accepted, Listen};
use super::listeners::{BACKLOG, listen};
use super::preface::{Prefaces, Unannounced};
use crate::conn_manager::AddError;
use crate::event::{Event, Events};

/// What handles ask for.
#[derive(Debug)]
enum Knock {
    Close(oneshot::Sender<()>),
    Open(Arc<Opening>),
}

/// The end that handles have: of all doors of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Vec<mpsc::UnboundedSender<Knock>>);

/// The end that a door has.
#[derive(Debug)]
pub(crate) struct Knocks(mpsc::UnboundedReceiver<Knock>);

impl Gate {
    /// A gate of so many doors.
    pub(crate) fn new(doors: usize) -> (Self, Vec<Knocks>) {
        let door = |_| {
            let (knock, knocks) = mpsc::unbounded_channel();
            (knock, Knocks(knocks))
        };
        let (gate, knocks) = (0..doors).map(door).unzip();
        (Self(gate), knocks)
    }

    pub(super) fn close(&self) -> impl Future<Output = ()> + use<> {
        let knock = |door: &mpsc::UnboundedSender<Knock>| {
            let (done, closed) = oneshot::channel();
            // A server that has ended listens no more.
            let _ = door.send(Knock::Close(done));
            closed
        };
        let doors: Vec<_> = self.0.iter().map(knock).collect();
        async move {
            for closed in doors {
                closed.await.unwrap_or_default();
            }
        }
    }

    /// Opens all doors, or none.
    pub(super) fn open(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let (done, opened) = oneshot::channel();
        let (gate, left) = (self.clone(), self.0.len());
        let outcome = Outcome { left, all: Ok(()), told: Some(done) };
        let opening = Arc::new(Opening { gate, outcome: Mutex::new(outcome) });
        for door in &self.0 {
            let _ = door.send(Knock::Open(Arc::clone(&opening)));
        }
        drop(opening);
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the server has ended");
        async move { opened.await.unwrap_or_else(|_| Err(ended())) }
    }
}

/// The doors of a gate that are about to be opened. The last one closes all if one cannot be, whether
/// anybody waits for the outcome or not.
#[derive(Debug)]
struct Opening {
    gate: Gate,
    outcome: Mutex<Outcome>,
}

#[derive(Debug)]
struct Outcome {
    /// How many doors have not reported.
    left: usize,
    all: io::Result<()>,
    told: Option<oneshot::Sender<io::Result<()>>>,
}

impl Opening {
    fn report(&self, opened: io::Result<()>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let Outcome { left, all, told } = &mut *outcome;
        *left -= 1;
        if all.is_ok() {
            *all = opened;
        }
        if *left > 0 {
            return;
        }
        let (all, told) = (std::mem::replace(all, Ok(())), told.take());
        let closed = all.is_err().then(|| self.gate.close());
        actix_rt::spawn(async move {
            if let Some(closed) = closed {
                closed.await;
            }
            if let Some(told) = told {
                // A waiter that went away waits no more.
                let _ = told.send(all);
            }
        });
    }
}

impl Knocks {
    /// The next one. Cancel safe.
    async fn next(&mut self) -> Knock {
        match self.0.recv().await {
            Some(knock) => knock,
            None => std::future::pending().await,
        }
    }
}

/// The listener as the acceptor sees it: while it is closed, nobody dials.
#[derive(Debug)]
pub(crate) struct Door {
    /// `None` while it is closed.
    listener: Option<TcpListener>,
    /// Dials that the system had taken when it was closed.
    last: VecDeque<Accepted>,
    /// Those that balancers have yet to introduce.
    prefaces: Prefaces,
    addr: SocketAddr,
    knocks: Knocks,
    /// Who waits until it is closed and these dials are admitted or refused.
    closing: Vec<oneshot::Sender<()>>,
    /// Dials were taken that are neither admitted nor refused yet.
    unsettled: bool,
    events: Arc<Events>,
}

impl Door {
    pub(crate) fn new(
        listener: TcpListener,
        addr: SocketAddr,
        prefaces: Prefaces,
        knocks: Knocks,
        events: Arc<Events>,
    ) -> Self {
        Self {
            listener: Some(listener),
            last: VecDeque::new(),
            prefaces,
            addr,
            knocks,
            closing: Vec::new(),
            unsettled: false,
            events,
        }
    }

    fn obey(&mut self, knock: Knock) {
        match knock {
            Knock::Close(done) => {
                self.close();
                self.closing.push(done);
            }
            Knock::Open(opening) => opening.report(self.open()),
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            self.listener = Some(listen(self.addr)?);
            self.events.emit(Event::Resumed { addr: self.addr });
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        // Asks the system and not the event loop, which has not heard of the last dials.
        if let Ok(listener) = listener.into_std() {
            for _ in 0..BACKLOG {
                let accepted = listener.accept().and_then(|(stream, peer)| {
                    stream.set_nonblocking(true)?;
                    Ok((TcpStream::from_std(stream)?, peer).into())
                });
                match accepted {
                    Ok(dial) => self.last.extend(self.prefaces.take(dial)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => self.events.emit(Event::DialGone { error: &error }),
                }
            }
        }
        self.events.emit(Event::Suspended { addr: self.addr });
    }

    fn tell_closed(&mut self) {
        for done in self.closing.drain(..) {
            // A waiter that went away waits no more.
            let _ = done.send(());
        }
    }
}

impl Listen for Door {
    async fn accept(&mut self) -> io::Result<Accepted> {
        loop {
            if let Some(dial) = self.last.pop_front() {
                self.unsettled = true;
                return Ok(dial);
            }
            if !self.unsettled && self.prefaces.are_none() {
                self.tell_closed();
            }
            let Self { listener, knocks, prefaces, .. } = self;
            let accepted = async {
                match listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                biased;
                knock = knocks.next() => {
                    self.obey(knock);
                    continue;
                }
                introduced = prefaces.next() => introduced,
                accepted = accepted => match self.prefaces.take(accepted?.into()) {
                    Some(dial) => Ok(dial),
                    None => continue,
                },
            };
            match accepted {
                Ok(dial) => {
                    self.unsettled = true;
                    return Ok(dial);
                }
                Err(Unannounced(Accepted { peer, .. }, Some(why))) => {
                    self.events.emit(Event::Refused { peer, why: &why });
                }
                // A balancer that looks whether the port is there, again and again.
                Err(Unannounced(_, None)) => {}
            }
        }
    }

    fn settled(&mut self) {
        self.unsettled = false;
    }

    async fn attend(&mut self, parked: bool) -> Infallible {
        loop {
            // A place may be long in coming.
            if parked || self.last.is_empty() && self.prefaces.are_none() {
                self.tell_closed();
            }
            let knock = self.knocks.next().await;
            self.obey(knock);
        }
    }
}

impl Drop for Door {
    /// A server that stops refuses those it had taken.
    fn drop(&mut self) {
        for Accepted { peer, .. } in self.last.drain(..) {
            self.events.emit(Event::Refused { peer, why: &AddError::Draining });
        }
        for _ in 0..self.prefaces.len() {
            let error = io::Error::other("the server stopped before a balancer named the peer");
            self.events.emit(Event::DialGone { error: &error });
        }
    }
}
