//! What TLS and WebSocket cost a server against TCP, in one run: processor time of its worker.
//!
//! `cargo bench --features tls,ws --bench transports`. Messages bounce between clients and one worker;
//! the worker's thread is asked what it has used. Rounds of all transports follow each other, so
//! that a noisy machine is noisy for all of them. The table is made of medians.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program for a terminal

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use zinxide::client::{Client, ClientBuilder, Tls};
use zinxide::testing::TestServer;
use zinxide::{Inbound, Server, Settings};

const SCHEMES: [&str; 4] = ["tcp", "tls", "ws", "wss"];
const ECHO: u32 = 1;
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(800);

/// What is measured.
struct Load {
    name: &'static str,
    conns: usize,
    /// Messages in flight for each connection.
    depth: usize,
    payload: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "64 connections, 1 in flight, 64 B", conns: 64, depth: 1, payload: 64 },
    Load { name: "64 connections, 64 in flight, 64 B", conns: 64, depth: 64, payload: 64 },
    Load { name: "16 connections, 16 in flight, 1 KiB", conns: 16, depth: 16, payload: 1024 },
    Load { name: "4 connections, 4 in flight, 64 KiB", conns: 4, depth: 4, payload: 65_536 },
];

/// A server with one worker, and where that tells how much it has done.
struct Bench {
    server: TestServer,
    handled: Arc<AtomicU64>,
    /// Where the system tells of the worker's thread.
    thread: Arc<Mutex<PathBuf>>,
    roots: Vec<u8>,
}

fn settings() -> Settings {
    Settings {
        worker_pool_size: 1,
        max_packet_size: 1 << 20,
        max_msg_chan_bytes: 8 << 20,
        ..Settings::default()
    }
}

impl Bench {
    async fn start() -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-transports");
        fs::create_dir_all(&folder).unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&cert, pair.cert.pem()).unwrap();
        fs::write(&key, pair.signing_key.serialize_pem()).unwrap();

        let listen = SCHEMES.map(|scheme| format!("{scheme}://127.0.0.1:0").parse().unwrap());
        let settings = Settings {
            listen: listen.into(),
            tls_cert: cert.display().to_string(),
            tls_key: key.display().to_string(),
            ..settings()
        };
        let (handled, thread) = (Arc::new(AtomicU64::new(0)), Arc::<Mutex<PathBuf>>::default());
        let (count, here) = (Arc::clone(&handled), Arc::clone(&thread));
        let server = Server::new(settings)
            .route_fn(ECHO, async move |msg: Inbound| {
                count.fetch_add(1, Relaxed);
                msg
            })
            .on_conn_start(move |_| {
                *here.lock().unwrap() = fs::canonicalize("/proc/thread-self").unwrap();
            });
        let roots = pair.cert.pem().into_bytes();
        Self { server: TestServer::start(server).await, handled, thread, roots }
    }

    fn client(&self, at: usize) -> ClientBuilder {
        let endpoint = self.server.handle().listen_addrs()[at].endpoint();
        let encrypted = endpoint.scheme.has_tls();
        let client = Client::builder(endpoint).settings(settings()).no_reconnect();
        if !encrypted {
            return client;
        }
        client.tls(Tls::new().roots_pem(self.roots.clone()).server_name("localhost"))
    }

    /// Nanoseconds that the worker has had of a processor: proc(5), `schedstat`.
    fn used(&self) -> u64 {
        let path = self.thread.lock().unwrap().join("schedstat");
        let text = fs::read_to_string(path).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    /// Microseconds of the worker a message.
    async fn echoes(&self, at: usize, load: &Load) -> f64 {
        let mut clients = Vec::new();
        for _ in 0..load.conns {
            let client = self.client(at).route_fn(ECHO, async |msg: Inbound| msg);
            clients.push(client.connect().await.unwrap());
        }
        for client in &clients {
            for _ in 0..load.depth {
                client.send(ECHO, vec![7; load.payload]).await.unwrap();
            }
        }
        sleep(WARM_UP).await;
        let (used, handled) = (self.used(), self.handled.load(Relaxed));
        sleep(MEASURED).await;
        let (used, handled) = (self.used() - used, self.handled.load(Relaxed) - handled);
        for client in clients {
            client.close().await;
        }
        used as f64 / 1000.0 / handled as f64
    }

    /// Microseconds of the worker a connection that comes, says one thing, and goes.
    async fn dials(&self, at: usize) -> f64 {
        const DIALS: u32 = 200;
        // The thread is known, and everything is loaded.
        self.client(at).connect().await.unwrap().close().await;
        let (used, began) = (self.used(), Instant::now());
        let mut dials = 0;
        while dials < DIALS && began.elapsed() < 3 * MEASURED {
            let client = self.client(at).connect().await.unwrap();
            client.request(ECHO, "x", ECHO, Duration::from_secs(10)).await.unwrap();
            client.close().await;
            dials += 1;
        }
        (self.used() - used) as f64 / 1000.0 / f64::from(dials)
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A row of the table: rounds of figures, of each transport one.
fn row(name: &str, rounds: &[[f64; SCHEMES.len()]]) {
    let of =
        |figure: &dyn Fn(&[f64; SCHEMES.len()]) -> f64| median(rounds.iter().map(figure).collect());
    print!("| {name} | {:.2} us", of(&|round| round[0]));
    for at in 1..SCHEMES.len() {
        let ratio = of(&|round| round[at] / round[0]);
        print!(" | {ratio:.2} ({:.2} us)", of(&|round| round[at]));
    }
    println!(" |");
}

#[actix::main]
async fn main() {
    if !cfg!(target_os = "linux") {
        println!("skipped: only Linux says what a thread has used");
        return;
    }
    let bench = Bench::start().await;
    println!("| processor time of the server, TCP = 1 | {} |", SCHEMES.join(" | "));
    println!("|---{}|", "|---".repeat(SCHEMES.len()));
    for load in &LOADS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut round = [0.0; SCHEMES.len()];
            for (at, figure) in round.iter_mut().enumerate() {
                *figure = bench.echoes(at, load).await;
            }
            rounds.push(round);
        }
        row(load.name, &rounds);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut round = [0.0; SCHEMES.len()];
        for (at, figure) in round.iter_mut().enumerate() {
            *figure = bench.dials(at).await;
        }
        rounds.push(round);
    }
    row("connect, echo, close", &rounds);
    bench.server.stop().await.unwrap();
}
