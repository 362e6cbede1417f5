//! A listener that can be closed for a while.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::acceptor::Listen;
use super::{BACKLOG, listen};
use crate::conn_manager::AddError;
use crate::event::{Event, Events};

/// What handles ask for.
#[derive(Debug)]
enum Knock {
    Close(oneshot::Sender<()>),
    Open(oneshot::Sender<io::Result<()>>),
}

/// The end that handles have.
#[derive(Clone, Debug)]
pub(crate) struct Gate(mpsc::UnboundedSender<Knock>);

/// The end that the door has.
#[derive(Debug)]
pub(crate) struct Knocks(mpsc::UnboundedReceiver<Knock>);

impl Gate {
    pub(crate) fn new() -> (Self, Knocks) {
        let (knock, knocks) = mpsc::unbounded_channel();
        (Self(knock), Knocks(knocks))
    }

    pub(super) fn close(&self) -> impl Future<Output = ()> + use<> {
        let (done, closed) = oneshot::channel();
        // A server that has ended listens no more.
        let _ = self.0.send(Knock::Close(done));
        async move { closed.await.unwrap_or_default() }
    }

    pub(super) fn open(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let (done, opened) = oneshot::channel();
        let _ = self.0.send(Knock::Open(done));
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the server has ended");
        async move { opened.await.unwrap_or_else(|_| Err(ended())) }
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
    last: VecDeque<(TcpStream, SocketAddr)>,
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
        knocks: Knocks,
        events: Arc<Events>,
    ) -> Self {
        let (last, closing) = (VecDeque::new(), Vec::new());
        Self { listener: Some(listener), last, addr, knocks, closing, unsettled: false, events }
    }

    fn obey(&mut self, knock: Knock) {
        match knock {
            Knock::Close(done) => {
                self.close();
                self.closing.push(done);
            }
            Knock::Open(done) => drop(done.send(self.open())),
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
                    Ok((TcpStream::from_std(stream)?, peer))
                });
                match accepted {
                    Ok(dial) => self.last.push_back(dial),
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
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            if let Some(dial) = self.last.pop_front() {
                self.unsettled = true;
                return Ok(dial);
            }
            if !self.unsettled {
                self.tell_closed();
            }
            let Self { listener, knocks, .. } = self;
            let knock = match listener {
                None => knocks.next().await,
                Some(listener) => tokio::select! {
                    biased;
                    knock = knocks.next() => knock,
                    accepted = listener.accept() => {
                        self.unsettled = true;
                        return accepted;
                    }
                },
            };
            self.obey(knock);
        }
    }

    fn settled(&mut self) {
        self.unsettled = false;
    }

    async fn attend(&mut self, parked: bool) -> Infallible {
        loop {
            // A place may be long in coming.
            if parked || self.last.is_empty() {
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
        for (_, peer) in self.last.drain(..) {
            self.events.emit(Event::Refused { peer, why: &AddError::Draining });
        }
    }
}
