//! What these tests share.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zinxide::testing::{TestServer, settings, within};
use zinxide::{CloseReason, Conn, Event, Server, Settings};

/// A route that answers with what it got.
pub(crate) const ECHO: u32 = 7;

/// The kit's settings with these endpoints.
pub(crate) fn at(endpoints: &[&str]) -> Settings {
    Settings {
        listen: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        ..settings()
    }
}

/// A frame as it stands on the wire.
pub(crate) fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_le_bytes()[..], &id.to_le_bytes(), payload].concat()
}

/// A server with an echo route, and what happens on it.
pub(crate) struct Watched {
    pub(crate) server: TestServer,
    started: UnboundedReceiver<Conn>,
    removed: UnboundedReceiver<CloseReason>,
    /// What the stop hook was called with so far.
    pub(crate) hooks: Arc<Mutex<Vec<CloseReason>>>,
}

impl Watched {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::serve(Server::new(settings)).await
    }

    pub(crate) async fn serve(server: Server) -> Self {
        let (tell_started, started) = unbounded_channel();
        let (tell_removed, removed) = unbounded_channel();
        let hooks = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::clone(&hooks);
        let server = server
            .route_fn(ECHO, async |msg: zinxide::Inbound| msg)
            .on_conn_start(move |conn| tell(&tell_started, conn.clone()))
            .on_conn_stop(move |_, why| stopped.lock().unwrap().push(why.clone()))
            .on_event(move |event| {
                if let Event::Removed { why, .. } = event {
                    tell(&tell_removed, (*why).clone());
                }
            });
        Self { server: TestServer::start(server).await, started, removed, hooks }
    }

    /// The port of the endpoint with this number.
    pub(crate) fn port(&self, endpoint: usize) -> u16 {
        self.server.handle().listen_addrs()[endpoint].addr.port()
    }

    /// The next connection for which the start hook was called.
    pub(crate) async fn started(&mut self) -> Conn {
        within(self.started.recv()).await.unwrap()
    }

    /// Why the next connection ended, hooks or not.
    pub(crate) async fn removed(&mut self) -> CloseReason {
        within(self.removed.recv()).await.unwrap()
    }
}

/// A test that has seen enough listens no more.
fn tell<T>(to: &UnboundedSender<T>, what: T) {
    let _ = to.send(what);
}
