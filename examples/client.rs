//! The client of Zinx V0.9: sends message 0 once a second and prints what comes back. It survives a
//! restart of the server.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for a terminal

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use tokio::sync::Notify;
use zinxide::client::{Client, ClientState};
use zinxide::{CloseReason, Conn, Endpoint, Event, Inbound, Route};

/// The message in which the example `server` says why it refuses a connection.
const REFUSED: u32 = 3;

#[derive(Parser)]
struct Options {
    /// Where the server listens: host:port, or an endpoint like tcp://localhost:7777
    #[arg(default_value = "127.0.0.1:7777")]
    endpoint: String,
    /// PEM file of the roots to trust, in place of the system's
    #[cfg(feature = "tls")]
    #[arg(long)]
    ca: Option<std::path::PathBuf>,
    /// The name that the server's certificate must have, if it is not the host
    #[cfg(feature = "tls")]
    #[arg(long)]
    server_name: Option<String>,
    /// Ends after so many messages sent, when each is answered
    #[arg(long)]
    count: Option<u64>,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
    url.parse().map_err(|error| format!("{error}"))
}

#[cfg(feature = "tls")]
fn tls(options: &Options) -> Result<Option<zinxide::client::Tls>, String> {
    if options.ca.is_none() && options.server_name.is_none() {
        return Ok(None);
    }
    let mut tls = zinxide::client::Tls::new();
    if let Some(file) = &options.ca {
        let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        tls = tls.roots_pem(pem);
    }
    if let Some(name) = &options.server_name {
        tls = tls.server_name(name);
    }
    Ok(Some(tls))
}

/// The last connection on which the server has said something other than that it refuses it: before
/// that, it may have been its system alone that took the connection.
#[derive(Clone, Default)]
struct Admitted(Arc<AtomicU64>);

impl Admitted {
    /// A message has come.
    fn note(&self, conn: &Conn) {
        let before = self.0.swap(conn.id(), Relaxed);
        if before != 0 && before != conn.id() {
            println!("==> Connected again");
        }
    }

    fn was(&self, conn: &Conn) -> bool {
        self.0.load(Relaxed) == conn.id()
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    println!("Client Test ... start");
    // With a bound: a server that sends more than is printed has to wait.
    let (received, mut messages) = tokio::sync::mpsc::channel(64);
    let client = Client::builder(endpoint(&options.endpoint)?);
    #[cfg(feature = "tls")]
    let client = match tls(&options)? {
        Some(tls) => client.tls(tls),
        None => client,
    };
    let admitted = Admitted::default();
    let admitted_before = admitted.clone();
    // What a connection has accepted is lost with it, and sent again for `--count`.
    let lost = Arc::new(Notify::new());
    let ended = Arc::clone(&lost);
    let client = client
        .route_fn(REFUSED, async |msg: Inbound| {
            println!("==> Refused: {}", String::from_utf8_lossy(msg.payload()).escape_debug());
        })
        .route_others(Route::function(async move |mut msg: Inbound| {
            admitted.note(msg.conn());
            let _ = received.send((msg.id(), msg.take_payload())).await;
        }))
        .on_conn_stop(move |conn, why| {
            ended.notify_one();
            // What makes no sense here is spoken by another scheme, perhaps: a `tls://` client at a `wss://` endpoint.
            if admitted_before.was(conn) || matches!(why, CloseReason::Protocol(_)) {
                println!("==> Disconnected: {why}");
            }
        })
        .on_event(|event| {
            if let Event::ConnectFailed { .. } = event {
                println!("==> {event}");
            }
        })
        .connect()
        .await
        .map_err(|error| format!("{}: {error}", options.endpoint))?;

    let (mut sent, mut answered) = (0, 0);
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    while options.count.is_none_or(|count| answered < count) {
        tokio::select! {
            _ = every_second.tick(), if options.count.is_none_or(|count| sent < count) => {
                match client.send_buffered(0, "Zinx V0.8 Client0 Test Message") {
                    Ok(()) => sent += 1,
                    Err(error) => println!("==> Not sent: {error}"),
                }
            }
            () = lost.notified() => sent = answered,
            message = messages.recv() => {
                let Some((id, payload)) = message else { return Err(why_closed(&client).into()) };
                let (len, data) = (payload.len(), String::from_utf8_lossy(&payload));
                println!("==> Recv Msg: ID= {id} , len= {len} , data= {data}");
                answered += u64::from(id == 0);
            }
        }
    }
    client.close().await;
    Ok(())
}

/// Why a client is closed that nobody has closed here.
fn why_closed(client: &Client) -> String {
    match client.state() {
        ClientState::Closed(Some(why)) => format!("the client is closed: {why}"),
        _ => "the client is closed".to_owned(),
    }
}

#[actix::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
