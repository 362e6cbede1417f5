//! A listener that can be closed for a while.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::acceptor::Listen;
use super::{BACKLOG, listen};
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
    addr: SocketAddr,
    knocks: Knocks,
    /// It is to be closed as soon as this many more dials are taken, or all that there are.
    closing: Option<(u32, oneshot::Sender<()>)>,
    events: Arc<Events>,
}

impl Door {
    pub(crate) fn new(
        listener: TcpListener,
        addr: SocketAddr,
        knocks: Knocks,
        events: Arc<Events>,
    ) -> Self {
        Self { listener: Some(listener), addr, knocks, closing: None, events }
    }

    fn obey(&mut self, knock: Knock) {
        match knock {
            Knock::Close(done) if self.listener.is_some() => self.closing = Some((BACKLOG, done)),
            Knock::Close(done) => drop(done.send(())),
            Knock::Open(done) => drop(done.send(self.open())),
        }
    }

    fn open(&mut self) -> io::Result<()> {
        // Whoever waits for the closing waits no longer.
        self.closing = None;
        if self.listener.is_none() {
            self.listener = Some(listen(self.addr)?);
            self.events.emit(Event::Resumed { addr: self.addr });
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some((_, done)) = self.closing.take() {
            self.listener = None;
            self.events.emit(Event::Suspended { addr: self.addr });
            let _ = done.send(());
        }
    }
}

impl Listen for Door {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let Self { listener, knocks, closing, .. } = self;
            let Some(listener) = listener else {
                let knock = knocks.next().await;
                self.obey(knock);
                continue;
            };
            tokio::select! {
                biased;
                knock = knocks.next() => self.obey(knock),
                accepted = listener.accept() => {
                    match closing {
                        Some((0, _)) => self.close(),
                        Some((left, _)) => *left -= 1,
                        None => {}
                    }
                    return accepted;
                }
                // There is no dial now.
                () = std::future::ready(()), if closing.is_some() => self.close(),
            }
        }
    }

    async fn attend(&mut self) -> Infallible {
        loop {
            // Whoever is in the system's queue would wait there for ever.
            self.close();
            let knock = self.knocks.next().await;
            self.obey(knock);
        }
    }
}
