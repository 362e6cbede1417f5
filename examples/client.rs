//! The client of Zinx V0.9: sends message 0 once a second and prints what comes back.

#![allow(clippy::print_stdout)] // a program for a terminal

use std::time::Duration;

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;
use zinxide::{Frame, FrameCodec, WireFormat};

#[derive(Parser)]
struct Options {
    /// Where the server listens
    #[arg(default_value = "127.0.0.1:7777")]
    addr: String,
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options { addr } = Options::parse();
    println!("Client Test ... start");
    let stream = TcpStream::connect(&addr).await.map_err(|error| format!("{addr}: {error}"))?;
    let mut server = Framed::new(stream, FrameCodec::new(WireFormat::LtvLe, 4096));
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = every_second.tick() => {
                server.send(Frame::new(0, "Zinx V0.8 Client0 Test Message")).await?;
            }
            frame = server.next() => {
                let Some(Frame { id, payload }) = frame.transpose()? else {
                    return Err("the server closed the connection".into());
                };
                let (len, data) = (payload.len(), String::from_utf8_lossy(&payload));
                println!("==> Recv Msg: ID= {id} , len= {len} , data= {data}");
            }
        }
    }
}
