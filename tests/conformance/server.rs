//! The server that other people's clients are tried on: `tests/clients/run` and `tests/conformance/run`
//! start it. It prints where it listens, and stops at SIGTERM.

#![allow(clippy::print_stdout)] // the scripts read it

use std::error::Error;

use bytes::{BufMut, BytesMut};
use clap::{Parser, ValueEnum};
use zinxide::framing::{Found, Framing};
use zinxide::{FrameError, Goodbye, Inbound, MsgId, Server, Settings};

/// The reply is the message.
const ECHO: MsgId = 1;

/// The payload is a close code, two bytes in network order, and a text: the server closes with them.
const CLOSE: MsgId = 2;

/// Autobahn's largest message.
const MAX_MESSAGE: u32 = 16 * 1024 * 1024;

/// A server for tests of WebSocket clients. `ZINXIDE_LISTEN` and the like set where it listens.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "settings")]
    frames: Frames,
}

/// What a frame is.
#[derive(Clone, Copy, ValueEnum)]
enum Frames {
    /// What the setting `wire_format` says: message 1 is echoed, message 2 closes
    Settings,
    /// Any message that is not empty, which is echoed
    Any,
}

/// Takes any WebSocket message as a frame, whatever is in it. An empty one is none: a frame has a length.
///
/// It has no frames on a stream of bytes, where nothing would tell them apart.
#[derive(Debug)]
struct Any;

impl Framing for Any {
    fn find(&self, src: &[u8], _: u32) -> Result<Option<Found>, FrameError> {
        let len = src.len();
        Ok((len > 0).then_some(Found { id: ECHO, payload: 0..len, len }))
    }

    fn put(&self, _: MsgId, payload: &[u8], dst: &mut BytesMut) {
        dst.put_slice(payload);
    }

    fn can_put(&self, id: MsgId, payload: &[u8]) -> bool {
        id == ECHO && !payload.is_empty()
    }

    fn overhead(&self) -> usize {
        0
    }
}

/// A message without a code that may be sent is echoed, so that its sender sees that it was wrong.
fn close(msg: Inbound) {
    let goodbye = match msg.payload() {
        [high, low, text @ ..] => {
            Goodbye::new(u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(text))
        }
        _ => return msg.echo(),
    };
    if msg.conn().close_with(goodbye).is_err() {
        msg.echo();
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let Options { frames } = Options::parse();
    let settings = Settings {
        max_packet_size: MAX_MESSAGE,
        max_msg_chan_bytes: 4 * MAX_MESSAGE as usize,
        ..Settings::from_env()?
    };
    let server = Server::new(settings)
        .route_fn(ECHO, async |msg: Inbound| msg)
        .route_fn(CLOSE, async |msg: Inbound| close(msg));
    let server = match frames {
        Frames::Settings => server,
        Frames::Any => server.framing(Any),
    };
    let server = server.bind().await?;
    for addr in server.listen_addrs() {
        println!("listening at {addr}");
    }
    println!("{}", server.serve().await?);
    Ok(())
}
