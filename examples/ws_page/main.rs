//! The ping/hello application of Zinx V0.9 for browsers: a `ws://` endpoint, and the page that plays
//! with it.
//!
//! It prints the URL of the page. `ZINXIDE_MAX_CONN=3` and the like change single settings.

#![allow(clippy::print_stdout)] // a program for a terminal

mod http;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use actix::{Actor, Context, Handler};
use clap::Parser;
use log::info;
use tokio::net::TcpListener;
use zinxide::{Conn, Endpoint, Inbound, Scheme, Server, Settings, Subprotocol};

use http::Page;

/// This machine only: nothing here is encrypted, and anybody may play.
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The path of the endpoint.
const PATH: &str = "/play";

/// Names the wire format, so that a page that speaks another one finds out at the handshake.
const SUBPROTOCOL: &str = "zinx.ltv-le";

#[derive(Parser)]
#[command(about = "Ping and hello over WebSocket, and the page that plays it")]
struct Options {
    /// The port of the page; 0 lets the system choose
    #[arg(long, default_value_t = 8080)]
    page_port: u16,
    /// The port of the WebSocket endpoint; 0 lets the system choose
    #[arg(long, default_value_t = 8081)]
    ws_port: u16,
}

struct Ping;

impl Actor for Ping {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Ping {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        msg.reply(0, "ping...ping...ping");
    }
}

fn greet(conn: &Conn) {
    if let Some(spoken) = conn.property::<Subprotocol>() {
        info!("{conn} speaks {spoken}");
    }
    if let Err(refused) = conn.send_buffered(2, "DoConnection BEGIN...") {
        info!("{conn} was not greeted: {refused}");
    }
}

/// The origin of a page at this address, as browsers write it: without the port if that is HTTP's.
fn origin(page: SocketAddr) -> String {
    match page.port() {
        80 => format!("http://{}", page.ip()),
        _ => format!("http://{page}"),
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    // The page comes first, since the server wants to know its origin.
    let listener = TcpListener::bind((HOST, options.page_port))
        .await
        .map_err(|error| format!("cannot serve the page at port {}: {error}", options.page_port))?;
    let origin = origin(listener.local_addr()?);
    let endpoint = Endpoint {
        scheme: Scheme::Ws,
        host: HOST.to_string(),
        port: options.ws_port,
        path: PATH.to_owned(),
    };
    let settings = Settings {
        listen: vec![endpoint],
        // Any page of any site can ask a browser to connect here; the browser says which one it was.
        ws_origins: vec![origin.clone()],
        ws_subprotocols: vec![SUBPROTOCOL.to_owned()],
        ..Settings::from_env()?
    };
    let server = Server::new(settings)
        .route(0, || Ping)
        .route_fn(1, async |_: Inbound| (1, "Hello Zinx Router V0.8"))
        .on_conn_start(greet)
        .on_conn_stop(|conn, why| info!("{conn} left: {why}"))
        .bind()
        .await?;
    let page = Page::new(&format!("ws://{}{PATH}", server.local_addr()), SUBPROTOCOL);
    actix::spawn(http::serve(listener, page));
    println!("open {origin}/");
    let report = server.serve().await?;
    println!("{report}");
    Ok(())
}

#[actix::main]
async fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
