//! WebSocket (RFC 6455) under frames: each binary message carries one frame.

mod code;
mod connect;
mod door;
mod filter;
mod header;
mod upgrade;
mod utf8;

use super::{Boxed, Failed, Layer, Local, PeerSide, Refused, gone};
use crate::codec::FrameCodec;
use crate::codec::envelope::Envelope;
use crate::conn::{Conn, HandshakeError};
use crate::conn_manager::AddError;
use crate::connection::ReadPool;
pub(crate) use connect::{connect, header_name, request};
pub(crate) use filter::Filter;
use upgrade::Asked;
pub(crate) use upgrade::{Auth, Rules};
pub use upgrade::{Subprotocol, Upgrade};

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
}

impl ServerWs {
    /// Replies to a request. If it is a good one, the peer has a WebSocket.
    async fn reply(&self, mut below: Boxed, asked: Asked, conn: &Conn) -> Result<Boxed, Failed> {
        let Asked { request, len, rest } = asked;
        if let Ok(request) = &request {
            conn.shared().set_asked_http(!upgrade::is_one(request));
        }
        let answer = match request {
            // The application may take long, and nobody reads meanwhile.
            Ok(request) => tokio::select! {
                biased;
                answer = self.rules.answer(&self.path, request, conn) => answer,
                () = gone(|| below.socket().map_or(PeerSide::Open, PeerSide::of)) => return Err(HandshakeError::PeerClosed.into()),
            },
            Err(rejected) => Err(rejected),
        };
        match answer {
            Ok(response) => {
                upgrade::send(&mut below, &response, "").await?;
                let (envelope, codec) = (Envelope::Message, self.codec.clone());
                let filter = Filter::new(below, &rest, envelope, codec).after_handshake(len);
                Ok(Box::new(filter) as Boxed)
            }
            Err(rejected) => {
                upgrade::send(&mut below, &rejected.response(), &rejected.why).await?;
                Err(Failed { why: rejected.into(), told: Some(below) })
            }
        }
    }
}

impl Layer for ServerWs {
    fn accept<'a>(
        &'a self,
        mut below: Boxed,
        conn: &'a Conn,
        pool: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let asked = upgrade::read_head(&mut below, pool).await?;
            // Crowds wait for their requests at once: what a reply takes is allocated when one has come.
            Box::pin(self.reply(below, asked, conn)).await
        })
    }

    fn refuse<'a>(
        &'a self,
        mut below: Boxed,
        why: &'a AddError,
        pool: &'a ReadPool,
    ) -> Local<'a, Refused> {
        Box::pin(async move {
            let told = async {
                // Whatever it is that the peer asks for.
                let _ = upgrade::read_head(&mut below, pool).await?;
                let rejected = upgrade::Rejected::not_admitted(why);
                upgrade::send(&mut below, &rejected.response(), &rejected.why).await
            };
            match told.await {
                Ok(()) => Refused::Told(below),
                Err(_) => Refused::Gone,
            }
        })
    }

    fn refuses(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
