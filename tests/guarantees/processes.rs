//! What holds for a whole process (G13, G14, G18): what signals do, what a shortage of descriptors
//! does, what its log has. None of it is the transport's: the same server, behind TCP, will do.

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use zinxide::testing::{TestClient, settings, within};
use zinxide::{Event, Frame, Inbound, Server, ServerError, Settings};

use crate::support_flow::bytes_of;
use crate::support_process::Process;

async fn drains_and_ends_well(signal: &str) {
    let mut process = Process::server(&[]);
    let addr = process.addr().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = TestClient::connect(addr).await;
        assert_eq!(client.recv().await, Some(Frame::new(2, "DoConnection BEGIN...")));
        client.send(0, "x").await;
        assert_eq!(client.recv().await, Some(Frame::new(0, "ping...ping...ping")));
        clients.push(client);
    }
    process.signal(signal);
    let status = process.exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    for mut client in clients {
        assert_eq!(client.recv().await, None);
    }
    assert_eq!(process.logged("DoConnectionBegin is called"), 10);
    assert_eq!(process.logged("DoConnectionLost is called"), 10);
    TcpListener::bind(addr).await.expect("the port is free");
}

#[actix::test]
async fn g13_sigterm_drains_the_process_and_ends_it_with_exit_code_0() {
    drains_and_ends_well("TERM").await;
}

#[actix::test]
async fn g13_sigint_drains_the_process_and_ends_it_with_exit_code_0() {
    drains_and_ends_well("INT").await;
}

/// A process of its own, whose drain ends neither by itself nor by a deadline.
#[actix::test]
#[ignore = "the child of the tests of a second signal"]
async fn child_whose_handler_never_ends() {
    if !Process::is_child() {
        return;
    }
    let hour = 3_600_000;
    let settings = Settings { drain_deadline_ms: hour, write_deadline_ms: hour, ..settings() };
    let server = Server::new(settings).route_fn(1, async |_: Inbound| {
        eprintln!("handles");
        pending::<()>().await;
    });
    let server = server.route_fn(2, async |msg: Inbound| msg);
    let server = server.bind().await.unwrap();
    eprintln!("listens on {},", server.local_addr());
    std::process::exit(i32::from(server.serve().await.is_err()));
}

async fn ends_at_once(first: &str, second: &str) {
    let child = "processes::child_whose_handler_never_ends";
    let mut process = Process::test(child);
    let addr = process.addr().await;
    let mut asking = TestClient::connect(addr).await;
    asking.send(1, "").await;
    process.logs("handles").await;
    let mut idle = TestClient::connect(addr).await;
    idle.send(2, "").await;
    idle.recv().await;
    process.signal(first);
    assert_eq!(idle.recv().await, None, "the drain has begun");
    process.signal(second);
    let status = process.exited().await;
    assert_eq!(status.code(), Some(1), "{status}");
}

#[actix::test]
async fn g13_a_second_signal_ends_the_process_at_once_with_an_exit_code_other_than_0() {
    ends_at_once("TERM", "TERM").await;
}

#[actix::test]
async fn g13_a_second_signal_may_be_the_other_one() {
    ends_at_once("INT", "TERM").await;
}

/// A process of its own, whose main thread waits, without an await, until the server has stopped.
#[actix::test]
#[ignore = "the child of the test of a blocked main thread"]
async fn child_whose_main_thread_is_blocked() {
    if !Process::is_child() {
        return;
    }
    let (tx, stopped) = mpsc::channel();
    let server = Server::new(settings()).route_fn(1, async |msg: Inbound| msg);
    let server = server.on_event(move |event| {
        if let Event::Stopped { .. } = event {
            tx.send(()).unwrap();
        }
    });
    let server = server.bind().await.unwrap();
    let addr = server.local_addr();
    let served = actix_rt::spawn(server.serve());
    tokio::task::yield_now().await;
    eprintln!("listens on {addr},");
    stopped.recv().unwrap();
    std::process::exit(i32::from(served.await.unwrap().is_err()));
}

#[actix::test]
async fn g13_a_signal_drains_the_server_although_the_main_thread_is_blocked() {
    let mut process = Process::test("processes::child_whose_main_thread_is_blocked");
    let addr = process.addr().await;
    let mut client = TestClient::connect(addr).await;
    client.send(1, "").await;
    assert!(client.recv().await.is_some());
    process.signal("TERM");
    assert_eq!(client.recv().await, None, "drained");
    let status = process.exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
}

/// Descriptors of this process, that of the look itself left out.
fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1
}

/// A process of its own, which binds a server again and again, each time with one descriptor more.
#[actix::test]
#[ignore = "the child of the test of too few descriptors"]
async fn child_with_too_few_descriptors() {
    const WORKERS: usize = 4;
    if !Process::is_child() {
        return;
    }
    // A free port, which every server is to find free again.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let settings = Settings {
        worker_pool_size: WORKERS,
        tcp_port: free.local_addr().unwrap().port(),
        ..settings()
    };
    drop(free);
    let (before, hard) = (open_descriptors(), rlimit::Resource::NOFILE.get_hard().unwrap());
    let (mut most, mut all) = (0, 0);
    for more in 0..30 {
        rlimit::Resource::NOFILE.set(before + more, hard).unwrap();
        let bound =
            Server::new(settings.clone()).route_fn(1, async |msg: Inbound| msg).bind().await;
        rlimit::Resource::NOFILE.set(hard, hard).unwrap();
        match bound {
            Ok(server) => {
                all += 1;
                let handle = server.handle();
                let served = actix_rt::spawn(server.serve());
                let mut client = TestClient::connect(handle.local_addr()).await;
                client.send(1, "").await;
                assert!(client.recv().await.is_some());
                drop(client);
                handle.stop().await;
                served.await.unwrap().unwrap();
            }
            Err(error) => {
                assert_eq!(all, 0, "with {more} more: {error}, with fewer it started");
                let text = error.to_string();
                match error {
                    ServerError::Workers { started, wanted, source } => {
                        assert!(started >= most && wanted == WORKERS, "{text}");
                        assert_eq!(source.raw_os_error(), Some(libc::EMFILE), "{text}");
                        most = started;
                    }
                    ServerError::Bind { .. } => assert_eq!(most, 0, "{text}"),
                    ServerError::AcceptThread(_) => most = WORKERS,
                    other => panic!("{other}"),
                }
                assert_eq!(open_descriptors(), before, "what was started is stopped: {text}");
            }
        }
    }
    assert!(most == WORKERS && all > 0, "{most} {all}");
    eprintln!("all as it should be");
    std::process::exit(0);
}

#[actix::test]
#[cfg(target_os = "linux")]
async fn g14_a_server_that_cannot_have_its_descriptors_says_so_and_leaves_nothing() {
    let mut process = Process::test("processes::child_with_too_few_descriptors");
    process.logs("all as it should be").await;
    let status = process.exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[actix::test]
async fn g14_a_server_with_too_few_descriptors_for_its_workers_ends_with_exit_code_1() {
    for descriptors in [14, 20, 26, 32] {
        let mut process = Process::server_within(
            &format!("ulimit -n {descriptors}"),
            &[("ZINXIDE_WORKER_POOL_SIZE", "8")],
        );
        let status = process.exited().await;
        assert_eq!(status.code(), Some(1), "{descriptors}: {status}");
        assert_eq!(process.logged(" of 8 workers could be started: "), 1, "{descriptors}");
        assert_eq!(process.logged("panicked"), 0, "{descriptors}");
    }
}

#[actix::test]
#[cfg(target_os = "linux")]
async fn g14_a_server_that_cannot_have_its_threads_ends_with_exit_code_1() {
    // No thread at all: the stack of each would be larger than what can be addressed. Some of them.
    for (limit, stack) in [("true", 1_u64 << 46), ("ulimit -v 8000000", 1 << 31)] {
        let stack = stack.to_string();
        let settings = [("ZINXIDE_WORKER_POOL_SIZE", "8"), ("RUST_MIN_STACK", stack.as_str())];
        let mut process = Process::server_within(limit, &settings);
        let status = process.exited().await;
        assert_eq!(status.code(), Some(1), "{limit}: {status}");
        assert_eq!(process.logged(" of 8 workers could be started: "), 1, "{limit}");
        assert_eq!(process.logged("panicked"), 0, "{limit}");
    }
}

#[actix::test]
async fn g14_a_server_out_of_descriptors_backs_off_and_recovers() {
    let mut process = Process::server_within("ulimit -n 40", &[]);
    let addr = process.addr().await;
    // More than it has descriptors for; the system takes the dials all the same.
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(TestClient::connect(addr).await);
    }
    process.logs("accept failed").await;
    // Those that were accepted are served while it backs off.
    let first = &mut crowd[0];
    assert_eq!(first.recv().await.map(|frame| frame.id), Some(2));
    first.send(0, "ping").await;
    assert_eq!(first.recv().await.map(|frame| frame.id), Some(0));

    drop(crowd);
    process.logs("accept works again").await;
    let mut client = TestClient::connect(addr).await;
    assert_eq!(client.recv().await.map(|frame| frame.id), Some(2));
    client.send(1, "").await;
    assert_eq!(client.recv().await.map(|frame| frame.id), Some(1));

    process.signal("TERM");
    let status = process.exited().await;
    assert!(status.success(), "{status}");
    // Told once a shortage. The last one may not be over: accept(2) asks for a descriptor before
    // it looks for a dial, so it also fails when nobody waits.
    let (failed, works) = (process.logged("accept failed"), process.logged("accept works again"));
    assert!((works..=works + 1).contains(&failed), "told {failed} times, {works} shortages over");
}

#[actix::test]
async fn g18_a_message_without_a_route_is_logged_once_a_connection() {
    let mut process = Process::server(&[]);
    let addr = process.addr().await;
    for _ in 0..2 {
        let mut client = TestClient::connect(addr).await;
        client.recv().await.expect("the greeting");
        for _ in 0..3 {
            client.send(77, "").await;
        }
        client.send(0, "").await;
        client.recv().await.expect("the ping");
    }
    process.signal("TERM");
    process.exited().await;
    assert_eq!(process.logged("no route for message 77"), 2);
}

/// What happens when files with certificates cannot be read, for a while or for ever: pipes that nobody writes to.
#[cfg(feature = "tls")]
mod certificates {
    use std::fs::{self, File, OpenOptions};
    use std::path::PathBuf;
    use std::process::Command;

    use tokio::task::spawn_blocking;
    use zinxide::testing::within;

    use crate::support_process::Process;

    /// A folder with a certificate and its key.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let name = format!("reload-{test}-{}", std::process::id());
            let folder = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
            let _ = fs::remove_dir_all(&folder.0);
            fs::create_dir_all(&folder.0).unwrap();
            folder.renew();
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// Another pair in place of the one that was there.
        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
            fs::write(self.path("new-key.pem"), made.signing_key.serialize_pem()).unwrap();
            fs::rename(self.path("new-key.pem"), self.path("key.pem")).unwrap();
        }

        /// A pipe in the place of this file.
        fn pipe(&self, name: &str) {
            let _ = fs::remove_file(self.path(name));
            let made = Command::new("mkfifo").arg(self.path(name)).status().expect("mkfifo");
            assert!(made.success());
        }

        /// Waits until somebody reads the pipe. Who reads waits until what this gives is written to or dropped.
        async fn read(&self, name: &str) -> File {
            let path = self.path(name);
            let opened = spawn_blocking(move || OpenOptions::new().write(true).open(path));
            within(opened).await.unwrap().unwrap()
        }

        fn server(&self) -> Process {
            let path = |name| self.path(name).to_str().unwrap().to_owned();
            let (cert, key) = (path("cert.pem"), path("key.pem"));
            Process::server(&[
                ("ZINXIDE_LISTEN", "tls://127.0.0.1:0"),
                ("ZINXIDE_TLS_CERT", &cert),
                ("ZINXIDE_TLS_KEY", &key),
            ])
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[actix::test]
    async fn g13_a_stop_does_not_wait_for_certificates_that_cannot_be_read() {
        for file in ["cert.pem", "key.pem"] {
            let folder = Folder::new("stop");
            let mut process = folder.server();
            process.logs("listens on ").await;
            folder.pipe(file);
            process.signal("HUP");
            let unwritten = folder.read(file).await;
            process.signal("TERM");
            let status = process.exited().await;
            assert_eq!(status.code(), Some(0), "{file}: {status}");
            drop(unwritten);
        }
    }

    #[actix::test]
    async fn a_hangup_while_certificates_are_read_asks_for_one_more_reload() {
        let folder = Folder::new("again");
        let mut process = folder.server();
        process.logs("listens on ").await;
        folder.pipe("key.pem");
        process.signal("HUP");
        let unwritten = folder.read("key.pem").await;
        for _ in 0..3 {
            process.signal("HUP");
            process.logs("once more after that").await;
        }
        folder.renew();
        // It has read nothing, which is no key.
        drop(unwritten);
        let line = process.logs("were not reloaded").await;
        assert!(line.contains("key.pem: there is no private key in it"), "{line}");
        let line = process.logs("new certificates are in use").await;
        assert!(line.contains("cert.pem") && line.contains("key.pem"), "{line}");
        process.signal("TERM");
        assert_eq!(process.exited().await.code(), Some(0));
        assert_eq!(process.logged("new certificates are in use"), 1);
        assert_eq!(process.logged("were not reloaded"), 1);
    }

    #[actix::test]
    async fn a_signal_ends_a_server_whose_certificates_cannot_be_read_at_the_start() {
        use std::os::unix::process::ExitStatusExt;

        for (signal, number) in [("TERM", 15), ("INT", 2)] {
            let folder = Folder::new("start");
            folder.pipe("key.pem");
            let mut process = folder.server();
            let unwritten = folder.read("key.pem").await;
            process.signal(signal);
            assert_eq!(process.exited().await.signal(), Some(number));
            drop(unwritten);
        }
    }

    #[actix::test]
    async fn certificates_and_keys_may_come_through_pipes() {
        use std::io::Write;

        let folder = Folder::new("pipes");
        let both =
            [fs::read(folder.path("cert.pem")).unwrap(), fs::read(folder.path("key.pem")).unwrap()];
        folder.pipe("cert.pem");
        let cert = folder.path("cert.pem").to_str().unwrap().to_owned();
        let mut process = Process::server(&[
            ("ZINXIDE_LISTEN", "tls://127.0.0.1:0"),
            ("ZINXIDE_TLS_CERT", &cert),
            ("ZINXIDE_TLS_KEY", &cert),
        ]);
        folder.read("cert.pem").await.write_all(&both.concat()).unwrap();
        process.logs("listens on ").await;
        process.signal("TERM");
        assert_eq!(process.exited().await.code(), Some(0));
    }
}

/// Writes the bytes of `all` that the socket takes before it takes none for as long as several turns of
/// the server last. Returns how many that are.
async fn write_until_stuck(client: &TcpStream, all: &[u8]) -> usize {
    let mut written = 0;
    let moment = Duration::from_millis(100);
    while timeout(moment, client.writable()).await.is_ok() {
        written += client.try_write(&all[written..]).unwrap_or_default();
        assert!(written < all.len(), "the server reads without a bound");
    }
    written
}

/// A process that goes on finds its deadlines passed before it hears what its sockets did meanwhile.
#[cfg(target_os = "linux")]
#[actix::test]
async fn a_process_that_was_frozen_closes_no_peer_that_did_its_part_meanwhile() {
    const DEADLINE: Duration = Duration::from_millis(1_500);
    const REPLY: usize = 8 + "ping...ping...ping".len();
    let ms = DEADLINE.as_millis().to_string();
    let settings = [("ZINXIDE_WRITE_DEADLINE_MS", &*ms), ("ZINXIDE_FRAME_DEADLINE_MS", &*ms)];
    let mut process = Process::server(&[&settings[..], &[("RUST_LOG", "zinxide=info")]].concat());
    let addr = process.addr().await;
    let greeting = Frame::new(2, "DoConnection BEGIN...");
    let (mut behind, mut slow) = (TestClient::connect(addr).await, TestClient::connect(addr).await);
    for client in [&mut behind, &mut slow] {
        assert_eq!(client.recv().await, Some(greeting.clone()));
    }
    // One asks more than it reads, and one has begun a frame.
    let ping = bytes_of([(0, b"x".to_vec())]);
    let pings = ping.repeat(2_000_000);
    slow.send_bytes(&ping[..4]).await;
    let written = write_until_stuck(behind.stream(), &pings).await;

    process.signal("STOP");
    process.stopped().await;
    // All that the systems hold is read, and the frame is completed.
    let mut read = 0;
    let mut chunk = vec![0; 64 * 1024];
    slow.send_bytes(&ping[4..]).await;
    while let Ok(Ok(n @ 1..)) =
        timeout(Duration::from_millis(200), behind.stream().read(&mut chunk)).await
    {
        read += n;
    }
    // The freeze itself.
    tokio::time::sleep(DEADLINE * 3 / 2).await;
    process.signal("CONT");

    assert_eq!(slow.recv().await, Some(Frame::new(0, "ping...ping...ping")));
    // What was written in part is completed, so that each ping has its reply.
    let whole = written.div_ceil(ping.len()) * ping.len();
    let due = whole / ping.len() * REPLY;
    // At the same time: a server whose replies nobody reads does not read, either.
    let (mut replies, mut rest) = behind.stream().split();
    let reading = async {
        while read < due {
            let n = within(replies.read(&mut chunk)).await.unwrap();
            assert!(n > 0, "closed after {read} of {due} bytes");
            read += n;
        }
    };
    let (written, ()) = tokio::join!(rest.write_all(&pings[written..whole]), reading);
    written.unwrap();
    assert_eq!(read, due);
    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(0));
}
