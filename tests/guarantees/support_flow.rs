//! What the tests of traffic, shutdown and settings share.

use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zinxide::testing::{TestServer, within};
use zinxide::{CloseReason, Conn, Frame, Inbound, MsgId, Server, Settings};

use crate::transport::{TestClient, connect, settings};

/// A route that answers with what it got.
pub(crate) const ECHO: MsgId = 900;

/// More than the kernel holds for a connection, both directions and ends together.
pub(crate) const MORE_THAN_KERNEL: usize = 64 * 1024 * 1024;

/// Settings for one worker, so that all connections are neighbours on one thread.
pub(crate) fn one_worker(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    settings.worker_pool_size = 1;
    change(&mut settings);
    settings
}

/// A server with an echo route, and what its hooks are told.
pub(crate) fn server(settings: Settings) -> (Server, Hooked) {
    let (started, starts) = unbounded_channel();
    let (stopped, stops) = unbounded_channel();
    let server = Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .on_conn_start(move |conn| send(&started, conn.clone()))
        .on_conn_stop(move |conn, why| send(&stopped, (conn.id(), why.clone())));
    (server, Hooked { starts, stops })
}

/// A test that has seen enough does not listen any more.
fn send<T>(to: &UnboundedSender<T>, what: T) {
    let _ = to.send(what);
}

/// What the hooks of a [`server`] are told.
pub(crate) struct Hooked {
    starts: UnboundedReceiver<Conn>,
    stops: UnboundedReceiver<(u64, CloseReason)>,
}

impl Hooked {
    pub(crate) async fn started(&mut self) -> Conn {
        within(self.starts.recv()).await.expect("the hook is there")
    }

    pub(crate) async fn stopped(&mut self) -> (u64, CloseReason) {
        within(self.stops.recv()).await.expect("the hook is there")
    }

    /// All that the hooks were told and nobody asked for yet.
    pub(crate) fn rest(&mut self) -> (usize, Vec<(u64, CloseReason)>) {
        let starts = std::iter::from_fn(|| self.starts.try_recv().ok()).count();
        (starts, std::iter::from_fn(|| self.stops.try_recv().ok()).collect())
    }

    /// Connects a client. Answers its connection, too.
    pub(crate) async fn connect(&mut self, server: &TestServer) -> (TestClient, Conn) {
        let client = connect(server.addr()).await;
        (client, self.started().await)
    }
}

/// One echo there and back: whatever the worker had to do before it, it has done or put off.
pub(crate) async fn echo(client: &mut TestClient) {
    client.send(ECHO, "echo").await;
    assert_eq!(client.recv().await, Some(Frame::new(ECHO, "echo")));
}

/// Echoes until `progress` has not changed for a while. A hundred echoes in a row are more turns
/// of the worker than what it does for another connection waits for.
pub(crate) async fn until_settled(
    neighbour: &mut TestClient,
    progress: impl Fn() -> usize,
) -> usize {
    let (mut last, mut same) = (progress(), 0);
    while same < 100 {
        echo(neighbour).await;
        let now = progress();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Echoes until something is so.
pub(crate) async fn until(neighbour: &mut TestClient, is_so: impl Fn() -> bool) {
    within(async {
        while !is_so() {
            echo(neighbour).await;
        }
    })
    .await;
}

/// What happened, in order, as seen by all threads.
#[derive(Clone, Debug)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn push(&self, what: T) {
        self.0.lock().unwrap().push(what);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A number as payload, and back.
pub(crate) fn number(n: u32) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

pub(crate) fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().expect("a number"))
}

/// Frames as bytes, to be sent in one write.
pub(crate) fn bytes_of(frames: impl IntoIterator<Item = (MsgId, Vec<u8>)>) -> Vec<u8> {
    let frame = |(id, payload): (MsgId, Vec<u8>)| {
        let len = u32::try_from(payload.len()).expect("a small payload");
        [&len.to_le_bytes()[..], &id.to_le_bytes(), &payload].concat()
    };
    frames.into_iter().flat_map(frame).collect()
}

/// Takes away what the environment of this process says about settings.
#[allow(dead_code, reason = "settings and processes are tested over TCP only")]
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_uppercase().starts_with("ZINXIDE_") {
            command.env_remove(name);
        }
    }
}
