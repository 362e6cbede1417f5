//! What the tests of traffic, shutdown and settings share.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zinxide::testing::{TestClient, TestServer, settings, within};
use zinxide::{CloseReason, Conn, Frame, Inbound, MsgId, Server, Settings};

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
        let client = TestClient::connect(server.addr()).await;
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

/// The example server as a process of its own, for what happens to whole processes.
pub(crate) struct Process {
    child: Child,
    lines: UnboundedReceiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Runs the example server on a free port, with changed settings.
    pub(crate) fn server(settings: &[(&str, &str)]) -> Self {
        Self::run(Command::new(example_server()), settings)
    }

    /// Runs the test `name`, an ignored one, which says where it listens as the example server does.
    pub(crate) fn test(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a test knows its file"));
        command.args(["--exact", name, "--ignored", "--nocapture"]).stdout(Stdio::null());
        Self::run(command, &[("CHILD_OF_A_TEST", "1")])
    }

    /// Whether this process was started by [`test`](Self::test).
    pub(crate) fn is_child() -> bool {
        std::env::var_os("CHILD_OF_A_TEST").is_some()
    }

    /// Runs it with at most `descriptors` files and sockets open.
    pub(crate) fn server_with_descriptors(descriptors: usize) -> Self {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {descriptors} && exec \"$0\""))
            .arg(example_server());
        Self::run(shell, &[])
    }

    fn run(mut command: Command, settings: &[(&str, &str)]) -> Self {
        without_settings(&mut command);
        let mut child = command
            .env("ZINXIDE_TCP_PORT", "0")
            .env("RUST_LOG", "info")
            .envs(settings.iter().copied())
            // Where there is no settings.yaml.
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example server runs");
        let (tx, lines) = unbounded_channel();
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| tx.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The next line of its log that contains `what`.
    pub(crate) async fn logs(&mut self, what: &str) -> String {
        self.logs_until(what).await.pop().expect("at least that line")
    }

    /// The lines of its log up to the next one that contains `what`.
    pub(crate) async fn logs_until(&mut self, what: &str) -> Vec<String> {
        let from = self.seen.len();
        loop {
            let line = within(self.lines.recv()).await;
            let line = line.unwrap_or_else(|| panic!("ended without {what:?}: {:#?}", self.seen));
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(what)) {
                return self.seen[from..].to_vec();
            }
        }
    }

    /// Where it listens, once it does.
    pub(crate) async fn addr(&mut self) -> SocketAddr {
        let line = self.logs("listens on ").await;
        let addr = line.split("listens on ").nth(1).and_then(|rest| rest.split(',').next());
        addr.and_then(|addr| addr.parse().ok()).unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// How many lines so far contained `what`.
    pub(crate) fn logged(&self, what: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(what)).count()
    }

    /// Sends a signal: `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").arg("-c").arg(kill).status().expect("a shell");
        assert!(sent.success(), "cannot send SIG{name}");
    }

    /// How it ends. The log is read to its end.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        while let Some(line) = within(self.lines.recv()).await {
            self.seen.push(line);
        }
        self.child.wait().expect("the process can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of use only to tests that fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes away what the environment of this process says about settings.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_uppercase().starts_with("ZINXIDE_") {
            command.env_remove(name);
        }
    }
}

/// `cargo test` builds it beside the tests.
fn example_server() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its file");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("a test is in deps");
    let server = profile.join("examples").join(format!("server{}", std::env::consts::EXE_SUFFIX));
    assert!(
        server.exists(),
        "{} is not there: run `cargo build --example server` (plain `cargo test` does)",
        server.display()
    );
    server
}
