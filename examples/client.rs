//! The client of Zinx V0.9: sends message 0 once a second and prints what comes back. It survives a
//! restart of the server.

#![allow(clippy::print_stdout)] // a program for a terminal

use std::time::Duration;

use clap::Parser;
use zinxide::client::Client;
use zinxide::{Endpoint, Event, Inbound, Route};

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

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    println!("Client Test ... start");
    // With a bound: a server that sends more than is printed has to wait.
    let (received, mut messages) = tokio::sync::mpsc::channel(64);
    let client = Client::builder(endpoint(&options.endpoint)?);
    #[cfg(feature = "tls")]
    let client = match tls(&options)? {
        Some(tls) => client.tls(tls),
        None => client,
    };
    let client = client
        .route_others(Route::function(async move |mut msg: Inbound| {
            let _ = received.send((msg.id(), msg.take_payload())).await;
        }))
        .on_conn_start(|conn| {
            if conn.id() > 1 {
                println!("==> Connected again");
            }
        })
        .on_conn_stop(|_, why| println!("==> Disconnected: {why}"))
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
            message = messages.recv() => {
                let (id, payload) = message.ok_or("the client is closed")?;
                let (len, data) = (payload.len(), String::from_utf8_lossy(&payload));
                println!("==> Recv Msg: ID= {id} , len= {len} , data= {data}");
                answered += u64::from(id == 0);
            }
        }
    }
    client.close().await;
    Ok(())
}
