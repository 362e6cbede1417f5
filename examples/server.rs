//! The ping/hello application of Zinx V0.9: message 0 is handled by an actor, message 1 by a
//! function.
//!
//! It reads `settings.yaml` if there is one where it is started; `ZINXIDE_MAX_CONN=3` and the
//! like change single settings. Try it with the example `client`.

use std::path::Path;
use std::process::ExitCode;

use actix::{Actor, Context, Handler};
use log::info;
use zinxide::conn_manager::AddError;
use zinxide::{CloseReason, Conn, Frame, Inbound, Server, Settings};

/// The message that says why a connection is refused.
const REFUSED: u32 = 3;

struct Ping;

impl Actor for Ping {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Ping {
    type Result = ();

    fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
        info!("ping: {} says {:?}", msg.conn(), String::from_utf8_lossy(msg.payload()));
        msg.reply(0, "ping...ping...ping");
    }
}

async fn hello(msg: Inbound) -> (u32, &'static str) {
    info!("hello: {} says {:?}", msg.conn(), String::from_utf8_lossy(msg.payload()));
    (1, "Hello Zinx Router V0.8")
}

fn connection_begin(conn: &Conn) {
    info!("DoConnectionBegin is called: {conn}");
    if let Err(refused) = conn.send_buffered(2, "DoConnection BEGIN...") {
        info!("{conn} was not greeted: {refused}");
    }
}

fn connection_lost(conn: &Conn, why: &CloseReason) {
    info!("DoConnectionLost is called: {conn}, {why}");
}

fn refused(why: &AddError) -> Option<Frame> {
    Some(Frame::new(REFUSED, why.to_string()))
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let file = Path::new("settings.yaml");
    let settings = if file.exists() { Settings::load(file)? } else { Settings::from_env()? };
    Server::new(settings)
        .route(0, || Ping)
        .route_fn(1, hello)
        .on_conn_start(connection_begin)
        .on_conn_stop(connection_lost)
        .refusal(refused)
        .serve()
        .await?;
    Ok(())
}

#[actix::main]
async fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
