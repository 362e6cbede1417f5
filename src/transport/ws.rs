//! WebSocket (RFC 6455) under frames: each binary message carries one frame.

mod code;
mod connect;
mod door;
mod filter;
mod head;
mod header;
mod upgrade;
mod utf8;

use std::io;

use tokio_tungstenite::tungstenite::handshake::server::write_response;

use super::{Boxed, Failed, Layer, Local, Peer, PeerSide, gone, send};
use crate::codec::FrameCodec;
use crate::codec::envelope::Envelope;
use crate::conn::HandshakeError;
use crate::connection::ReadPool;
pub(crate) use connect::{connect, header_name, request};
pub(crate) use filter::Filter;
use head::{Head, read_head};
use upgrade::Rejected;
pub(crate) use upgrade::{Auth, Rules};
pub use upgrade::{Subprotocol, Upgrade};

/// What a peer asks for.
type Asked = Head<Result<Upgrade, Rejected>>;

/// The server's side at one endpoint.
pub(crate) struct ServerWs {
    /// The path of requests; empty for any.
    path: String,
    rules: Rules,
    codec: FrameCodec,
}

impl ServerWs {
    pub(crate) fn new(path: &str, rules: Rules, codec: FrameCodec) -> Self {
        Self { path: path.to_owned(), rules, codec }
    }

    /// Replies to a request. If it is a good one, the peer has a WebSocket.
    async fn reply(&self, mut below: Boxed, head: Asked, peer: Peer<'_>) -> Result<Boxed, Failed> {
        let judged = match (peer, head.parsed) {
            // Whatever it is that the peer asks for.
            (Err(why), _) => Err(Rejected::not_admitted(why)),
            (Ok(_), Err(rejected)) => Err(rejected),
            (Ok(conn), Ok(upgrade)) => {
                conn.shared().set_asked_http(!upgrade.is_one());
                // The application may take long, and nobody reads meanwhile.
                tokio::select! {
                    biased;
                    judged = self.rules.answer(&self.path, upgrade, conn) => judged,
                    () = gone(|| below.socket().map_or(PeerSide::Open, PeerSide::of)) => return Err(HandshakeError::PeerClosed.into()),
                }
            }
        };
        let mut response = Vec::new();
        match &judged {
            Ok(good) => write_response(&mut response, good).map_err(io::Error::other)?,
            Err(rejected) => response = rejected.response(),
        }
        send(&mut below, &response).await?;
        if let Err(rejected) = judged {
            return Err(Failed { why: rejected.into(), told: Some(below) });
        }
        let filter = Filter::new(below, Envelope::Message, self.codec.clone());
        Ok(Box::new(filter.behind_handshake(head.len, head.rest)))
    }
}

impl Layer for ServerWs {
    fn shake_hands<'a>(
        &'a self,
        mut below: Boxed,
        peer: Peer<'a>,
        pool: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let head = read_head(&mut below, pool, upgrade::parse).await?;
            // Crowds wait for their requests at once: what a reply takes is allocated when one has come.
            Box::pin(self.reply(below, head, peer)).await
        })
    }

    fn refuses(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
