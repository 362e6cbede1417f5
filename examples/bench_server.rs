//! A server to be measured: message 1 is echoed, message 2 goes to every connection.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use actix::{Actor, Arbiter, AtomicResponse, Context, Handler, WrapFuture};
use clap::{Parser, ValueEnum};
use zinxide::{
    Endpoint, Frame, Heartbeat, Inbound, Route, Server, ServerHandle, Settings, WireFormat,
};

const ECHO: u32 = 1;
const BROADCAST: u32 = 2;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    port: u16,
    /// What carries the frames: tls needs the Cargo feature `tls`, ws needs `ws`, wss needs both. The certificate is
    /// self-signed, for localhost and 127.0.0.1, and stands in bench_server-PID.pem in the directory for temporary
    /// files while the server runs. WebSocket clients may ask for any path
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "tls", "ws", "wss"])]
    scheme: String,
    #[arg(long, default_value = "ltv-le")]
    wire: Wire,
    /// Worker threads; 0 for one a core
    #[arg(long, default_value_t = 0)]
    workers: usize,
    #[arg(long, default_value = "fn")]
    route: Kind,
    /// What a message costs the application, in nanoseconds of CPU
    #[arg(long, default_value_t = 0)]
    work: u64,
    /// The interval of heartbeats in milliseconds; 0 for none. Nobody is given up
    #[arg(long, default_value_t = 0)]
    heartbeat: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wire {
    LtvLe,
    TlvBe,
}

/// What handles the messages.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// A function
    Fn,
    /// An actor on each worker
    Actor,
    /// One actor on a thread of its own
    Shared,
}

struct Echo {
    work: Duration,
}

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Echo {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        work_for(self.work);
        msg.echo();
    }
}

fn work_for(time: Duration) {
    if !time.is_zero() {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

struct ToAll(ServerHandle);

impl Actor for ToAll {
    type Context = Context<Self>;
}

impl Handler<Inbound> for ToAll {
    /// One after the other, so that broadcasts keep their order.
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) -> Self::Result {
        AtomicResponse::new(Box::pin(to_all(self.0.clone(), msg).into_actor(self)))
    }
}

async fn to_all(server: ServerHandle, mut msg: Inbound) {
    let frame = Frame::new(BROADCAST, msg.take_payload());
    if let Err(error) = server.broadcast(frame).await {
        log::error!("{}: {error}", msg.conn());
    }
}

/// The PEM file of a self-signed certificate and its key. It exists as long as the server, because SIGHUP makes the
/// server read it again.
struct Certificate(PathBuf);

impl Certificate {
    fn create() -> Result<Self, Box<dyn Error>> {
        let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])?;
        let path = env::temp_dir().join(format!("bench_server-{}.pem", process::id()));
        fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem())?;
        Ok(Self(path))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // Whoever removed the file before has done what is wanted here.
        let _ = fs::remove_file(&self.0);
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let Options { port, scheme, wire, workers, route, work, heartbeat } = Options::parse();
    let endpoint: Endpoint = format!("{scheme}://127.0.0.1:{port}").parse()?;
    let work = Duration::from_nanos(work);
    // As many descriptors as the system gives; a server that has fewer says so when it runs out.
    rlimit::increase_nofile_limit(u64::MAX)?;

    let certificate = endpoint.scheme.has_tls().then(Certificate::create).transpose()?;
    let pem = certificate.as_ref().map(|file| file.0.display().to_string()).unwrap_or_default();
    let settings = Settings {
        listen: vec![endpoint],
        tls_cert: pem.clone(),
        tls_key: pem,
        worker_pool_size: workers,
        max_conn: 200_000,
        // A generator may open all of its connections before it begins the handshake of the first.
        max_handshakes: 200_000,
        max_packet_size: 64 * 1024,
        wire_format: match wire {
            Wire::LtvLe => WireFormat::LtvLe,
            Wire::TlvBe => WireFormat::TlvBe,
        },
        ..Settings::default()
    };

    let server = Server::new(settings).route_with(BROADCAST, move |server| {
        let server = server.clone();
        match route {
            Kind::Fn => Route::function(move |msg| to_all(server.clone(), msg)),
            Kind::Actor | Kind::Shared => Route::actor(move || ToAll(server.clone())),
        }
    });
    let server = match route {
        Kind::Fn => server.route_fn(ECHO, async move |msg: Inbound| {
            work_for(work);
            msg
        }),
        Kind::Actor => server.route(ECHO, move || Echo { work }),
        Kind::Shared => {
            let arbiter = Arbiter::try_new()?;
            let echo = Echo::start_in_arbiter(&arbiter.handle(), move |ctx| {
                ctx.set_mailbox_capacity(0);
                Echo { work }
            });
            server.route_to(ECHO, echo.recipient())
        }
    };
    let server = match heartbeat {
        0 => server,
        ms => server.heartbeat(
            Heartbeat::every(Duration::from_millis(ms)).alive_within(Duration::from_secs(86_400)),
        ),
    };
    server.serve().await?;
    Ok(())
}
