//! The server as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use zinxide::testing::within;

use crate::support_flow::without_settings;

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

    /// Runs it within limits that a shell sets by this command.
    pub(crate) fn server_within(limits: &str, settings: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{limits} && exec \"$0\"")).arg(example_server());
        Self::run(shell, settings)
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

    /// Waits until SIGSTOP has stopped it.
    #[cfg(target_os = "linux")]
    pub(crate) async fn stopped(&self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        within(async {
            // The state follows the name, which is in parentheses: proc(5).
            while !std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
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
