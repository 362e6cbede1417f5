//! From an endpoint to a stream of frames.

#[cfg(feature = "ws")]
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ConnectError;
#[cfg(feature = "tls")]
use super::tls::TlsSetup;
#[cfg(feature = "ws")]
use super::ws::WebSocket;
#[cfg(feature = "ws")]
use crate::codec::FrameCodec;
use crate::deadline::complete_by;
use crate::endpoint::{Endpoint, resolve};
use crate::transport::{Boxed, Plain, TcpOptions};

/// How a client connects.
pub(super) struct Dialer {
    pub(super) endpoint: Endpoint,
    pub(super) deadline: Duration,
    pub(super) tcp: TcpOptions,
    /// If the endpoint is encrypted.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsSetup>,
    /// If the endpoint is one for WebSockets.
    #[cfg(feature = "ws")]
    pub(super) ws: Option<(WebSocket, FrameCodec)>,
}

/// A server that is ready for frames.
pub(super) struct Dialled {
    pub(super) transport: Boxed,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// What the server has chosen of what was offered.
    #[cfg(feature = "ws")]
    pub(super) subprotocol: Option<crate::Subprotocol>,
}

impl Dialer {
    /// Connects, within the deadline. Cancel safe: what is half done is closed.
    pub(super) async fn dial(&self) -> Result<Dialled, ConnectError> {
        let deadline = Instant::now() + self.deadline;
        complete_by(deadline, self.connect()).await.unwrap_or(Err(ConnectError::Late))
    }

    async fn connect(&self) -> Result<Dialled, ConnectError> {
        // Before there is a socket, which it would hold up.
        #[cfg(feature = "ws")]
        let headers = match &self.ws {
            Some((ws, _)) => ws.headers()?,
            None => Cow::Borrowed(&[][..]),
        };
        let (socket, peer) = self.reach().await?;
        let failed = |source| ConnectError::Dial { addr: peer, source };
        self.tcp.apply(&socket).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let transport: Boxed = Box::new(Plain::new(socket));
        #[cfg(feature = "tls")]
        let transport = match &self.tls {
            Some(tls) => tls.connect(transport).await?,
            None => transport,
        };
        #[cfg(feature = "ws")]
        let (transport, subprotocol) = match &self.ws {
            Some((ws, codec)) => ws.connect(&self.endpoint, &headers, codec, transport).await?,
            None => (transport, None),
        };
        Ok(Dialled {
            transport,
            peer,
            local,
            #[cfg(feature = "ws")]
            subprotocol,
        })
    }

    /// The first of the host's addresses that takes the dial.
    async fn reach(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let unknown = |source| ConnectError::Resolve { host: host.clone(), source };
        let addrs = resolve(host, *port).await.map_err(unknown)?;
        // One that does not answer must leave time for the others; the last has what is left.
        let share = self.deadline / u32::try_from(addrs.len().max(1)).unwrap_or(u32::MAX);
        let mut failed = unknown(io::ErrorKind::NotFound.into());
        for (index, &addr) in addrs.iter().enumerate() {
            let dial = TcpStream::connect(addr);
            let dialled = if index + 1 < addrs.len() {
                complete_by(Instant::now() + share, dial)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            } else {
                dial.await
            };
            match dialled {
                Ok(socket) => return Ok((socket, addr)),
                Err(source) => failed = ConnectError::Dial { addr, source },
            }
        }
        Err(failed)
    }
}
