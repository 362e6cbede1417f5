//! What an honest peer feels of a flood of strangers: the round trip of one message, over TCP and TLS.
//!
//! `cargo bench --features tls,ws --bench strangers`. A server with one worker is flooded in one way after
//! the other, for a few seconds each, by a process of its own (this program, run again), while a peer that
//! was connected before sends a message, waits for its echo, and so on. The last column is how long a new
//! TLS connection takes meanwhile. Without `--bench`, all of that for a moment only, to see that it works.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program for a terminal

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
use zinxide::testing::{TestClient, TestServer, TestStream};
use zinxide::{Endpoint, Frame, FrameCodec, Inbound, Server, Settings, WireFormat};

const ECHO: u32 = 1;
/// Sockets of a flood.
const STRANGERS: usize = 400;
/// How long a stranger waits for a reply at most.
const REPLY: Duration = Duration::from_secs(20);
/// What a connection is said to take that fails.
const LATE: Duration = Duration::from_secs(10);

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What strangers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Hellos,
    HellosAndGone,
    HalfHellos,
    HalfFrames,
    Connects,
    Upgrades,
}

impl Flood {
    const ALL: [Self; 6] = [
        Self::Hellos,
        Self::HellosAndGone,
        Self::HalfHellos,
        Self::HalfFrames,
        Self::Connects,
        Self::Upgrades,
    ];

    fn scheme(self) -> &'static str {
        match self {
            Self::Hellos | Self::HellosAndGone | Self::HalfHellos => "tls",
            Self::HalfFrames | Self::Connects => "tcp",
            Self::Upgrades => "ws",
        }
    }

    /// One stranger, once.
    async fn visit(self, to: SocketAddr, hello: &[u8]) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(to).await?;
        // Thousands of sockets that wait for their ports to be free again would end the flood.
        stream.set_zero_linger()?;
        let mut reply = [0; 4096];
        match self {
            Self::Hellos => {
                stream.write_all(hello).await?;
                let _ = timeout(REPLY, stream.read(&mut reply)).await;
            }
            Self::HellosAndGone => stream.write_all(hello).await?,
            Self::HalfHellos => {
                stream.write_all(&hello[..hello.len() / 2]).await?;
                let _ = timeout(REPLY, stream.read(&mut reply)).await;
            }
            Self::HalfFrames => {
                let frame = [&4000u32.to_le_bytes()[..], &ECHO.to_le_bytes(), &[7; 2000]].concat();
                stream.write_all(&frame).await?;
                let _ = timeout(REPLY, stream.read(&mut reply)).await;
            }
            Self::Connects => {}
            Self::Upgrades => {
                stream.write_all(REQUEST.as_bytes()).await?;
                let _ = timeout(REPLY, stream.read(&mut reply)).await;
            }
        }
        Ok(())
    }
}

/// The first flight of a client, to be replayed.
fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// The flooding process: `flood KIND ADDRESS SECONDS`.
fn flood(args: &[String]) {
    let kind = Flood::ALL.into_iter().find(|kind| format!("{kind:?}") == args[0]).unwrap();
    let to: SocketAddr = args[1].parse().unwrap();
    let time = Duration::from_secs_f64(args[2].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hello: Arc<[u8]> = hello().into();
    runtime.block_on(async {
        for _ in 0..STRANGERS {
            let hello = Arc::clone(&hello);
            tokio::spawn(async move {
                loop {
                    if kind.visit(to, &hello).await.is_err() {
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            });
        }
        sleep(time).await;
    });
    runtime.shutdown_background();
}

/// Ends the flood when dropped.
struct Flooding(Child);

impl Flooding {
    fn start(kind: Flood, to: SocketAddr, time: Duration) -> Self {
        let seconds = time.as_secs_f64().to_string();
        let args = ["flood".to_owned(), format!("{kind:?}"), to.to_string(), seconds];
        let mut child = Command::new(env::current_exe().unwrap());
        Self(child.args(args).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server in threads of its own.
struct House {
    endpoints: Vec<Endpoint>,
    cert: PathBuf,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl House {
    fn open(pair: &Pair, max_conn: usize) -> Self {
        let listen = ["tcp", "tls", "ws"].map(|of| format!("{of}://127.0.0.1:0").parse().unwrap());
        let settings = Settings {
            max_conn,
            worker_pool_size: 1,
            listen: listen.into(),
            tls_cert: pair.cert.display().to_string(),
            tls_key: pair.key.display().to_string(),
            ..Settings::default()
        };
        let (stop, stopped) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = Server::new(settings)
                    .refusal(|why| Some(Frame::new(9, why.to_string())))
                    .route_fn(ECHO, async |msg: Inbound| msg);
                let server = TestServer::start(server).await;
                let all = server.handle().listen_addrs().iter();
                tell.send(all.map(zinxide::ListenAddr::endpoint).collect()).unwrap();
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    sleep(Duration::from_millis(20)).await;
                }
                server.stop().await.unwrap();
            });
        });
        let (stop, thread) = (Some(stop), Some(thread));
        Self { endpoints: told.recv().unwrap(), cert: pair.cert.clone(), stop, thread }
    }

    fn endpoint(&self, scheme: &str) -> &Endpoint {
        self.endpoints.iter().find(|at| at.scheme.to_string() == scheme).unwrap()
    }

    fn addr(&self, scheme: &str) -> SocketAddr {
        let at = self.endpoint(scheme);
        SocketAddr::new(at.host.parse().unwrap(), at.port)
    }

    /// What an honest peer feels, while `flood` is under way.
    fn measure(&self, time: Duration, flood: Option<Flood>, connects: bool) -> Felt {
        let (tcp, tls) = (self.endpoint("tcp").clone(), self.endpoint("tls").clone());
        let cert = self.cert.clone();
        let system = actix_rt::System::new();
        system.block_on(async move {
            let mut peers = [
                TestClient::connect_to(&tcp, None).await,
                TestClient::connect_to(&tls, Some(&cert)).await,
            ];
            for peer in &mut peers {
                bounce(peer).await.unwrap();
            }
            let to = flood.map(|kind| self.addr(kind.scheme()));
            let flooding = flood.zip(to).map(|(kind, to)| Flooding::start(kind, to, time * 3));
            sleep(time / 4).await;
            let honest = async {
                let (mut took, began) = ([Vec::new(), Vec::new()], Instant::now());
                while began.elapsed() < time {
                    for (peer, took) in peers.iter_mut().zip(&mut took) {
                        took.push(bounce(peer).await.unwrap());
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                took
            };
            let newcomers = async {
                if !connects {
                    return Vec::new();
                }
                one_after_another(&self.endpoints, &self.cert, time).await
            };
            let (connect, [tcp, tls]) = tokio::join!(newcomers, honest);
            drop(flooding);
            Felt { tcp, tls, connect }
        })
    }
}

/// How long new TLS connections take, one after the other.
async fn one_after_another(all: &[Endpoint], cert: &Path, time: Duration) -> Vec<Duration> {
    let tls = all.iter().find(|at| at.scheme.has_tls()).unwrap();
    let (mut took, began) = (Vec::new(), Instant::now());
    while began.elapsed() < time {
        took.push(connect(tls, cert).await);
        sleep(Duration::from_millis(50)).await;
    }
    took
}

/// How long a new connection takes to its first echo; for as long as a server waits, if it fails.
async fn connect(to: &Endpoint, cert: &Path) -> Duration {
    let began = Instant::now();
    let codec = FrameCodec::new(WireFormat::LtvLe, u32::MAX);
    match TestStream::connect(to, Some(cert), &codec).await {
        Ok(stream) => match bounce(&mut TestClient::on(stream, codec)).await {
            Some(_) => began.elapsed(),
            None => LATE,
        },
        Err(_) => LATE,
    }
}

async fn bounce<S>(peer: &mut TestClient<S>) -> Option<Duration>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let began = Instant::now();
    peer.send(ECHO, "x").await;
    peer.recv().await.map(|_| began.elapsed())
}

/// How long things took.
struct Felt {
    tcp: Vec<Duration>,
    tls: Vec<Duration>,
    connect: Vec<Duration>,
}

fn percentile(all: &mut [Duration], percent: usize) -> f64 {
    all.sort_unstable();
    let at = (all.len() * percent / 100).min(all.len().saturating_sub(1));
    all.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn row(name: &str, mut felt: Felt) {
    print!("| {name} |");
    for times in [&mut felt.tcp, &mut felt.tls] {
        print!(" {:.2} / {:.2} |", percentile(times, 50), percentile(times, 99));
    }
    println!(" {:.1} |", percentile(&mut felt.connect, 50));
}

/// A certificate and its key.
struct Pair {
    name: String,
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn of(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-strangers");
        fs::create_dir_all(&folder).unwrap();
        let path = |kind: &str| folder.join(format!("{name}-{kind}.pem"));
        Self { name: name.to_owned(), cert: path("cert"), key: path("key") }
    }

    fn p256() -> Self {
        let this = Self::of("P-256");
        let pair =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();
        fs::write(&this.cert, pair.cert.pem()).unwrap();
        fs::write(&this.key, pair.signing_key.serialize_pem()).unwrap();
        this
    }

    /// `None` without openssl: the library that signs cannot make such a key.
    fn rsa(bits: usize) -> Option<Self> {
        let this = Self::of(&format!("RSA-{bits}"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        openssl.args([
            "-newkey",
            &format!("rsa:{bits}"),
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&this.key).arg("-out").arg(&this.cert);
        let made = openssl.stdout(Stdio::null()).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success()).then_some(this)
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "flood") {
        return flood(&args[1..]);
    }
    let _ = rlimit::increase_nofile_limit(20_000);
    let in_earnest = args.iter().any(|arg| arg == "--bench");
    let time = Duration::from_millis(if in_earnest { 2000 } else { 100 });
    println!("| ms, p50 / p99 | TCP | TLS | new TLS connection, p50 |");
    println!("|---|---|---|---|");
    let wanted: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part));
    let measure = |name: &str, pair: &Pair, flood, full: bool| {
        let name = format!("{name}, {}", pair.name);
        if is_wanted(&name) {
            // The honest peers take all places.
            let max_conn = if full { 2 } else { 12_000 };
            let house = House::open(pair, max_conn);
            row(&name, house.measure(time, flood, !full));
        }
    };
    let p256 = Pair::p256();
    let rsa = [2048, 4096].map(Pair::rsa);
    measure("no flood", &p256, None, false);
    for kind in Flood::ALL {
        measure(&format!("{kind:?}"), &p256, Some(kind), false);
    }
    for rsa in rsa.iter().flatten() {
        for kind in [Flood::Hellos, Flood::HellosAndGone] {
            measure(&format!("{kind:?}"), rsa, Some(kind), false);
        }
    }
    for pair in [Some(&p256), rsa[0].as_ref()].into_iter().flatten() {
        measure("refused Hellos", pair, Some(Flood::Hellos), true);
    }
    measure("refused Connects", &p256, Some(Flood::Connects), true);
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
