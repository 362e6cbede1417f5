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
pub(crate) use connect::{connect, header_name, request};
pub(crate) use filter::Filter;
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

impl Layer for ServerWs {
    fn accept<'a>(&'a self, mut below: Boxed, conn: &'a Conn) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let (head, rest) = upgrade::read_head(&mut below).await?;
            if let Ok(head) = &head {
                conn.shared().set_asked_http(!upgrade::is_one(head));
            }
            let answer = match head {
                // The application may take long, and nobody reads meanwhile.
                Ok(head) => tokio::select! {
                    biased;
                    answer = self.rules.answer(&self.path, head, conn) => answer,
                    () = gone(|| below.socket().map_or(PeerSide::Open, PeerSide::of)) => return Err(HandshakeError::PeerClosed.into()),
                },
                Err(rejected) => Err(rejected),
            };
            match answer {
                Ok(response) => {
                    upgrade::send(&mut below, &response, "").await?;
                    let (envelope, codec) = (Envelope::Message, self.codec.clone());
                    Ok(Box::new(Filter::new(below, &rest, envelope, codec)) as Boxed)
                }
                Err(rejected) => {
                    upgrade::send(&mut below, &rejected.response(), &rejected.why).await?;
                    Err(Failed { why: rejected.into(), told: Some(below) })
                }
            }
        })
    }

    fn refuse<'a>(&'a self, mut below: Boxed, why: &'a AddError) -> Local<'a, Refused> {
        Box::pin(async move {
            let told = async {
                // Whatever it is that the peer asks for.
                let _ = upgrade::read_head(&mut below).await?;
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
