//! Where a server listens, and what is spoken there.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};

use tokio::net::{TcpListener, TcpSocket};

use super::error::ServerError;
use crate::endpoint::{Endpoint, ListenAddr, resolve};
use crate::transport::{Layers, Stack};

/// How many dials the system keeps while the acceptor is busy; the system may keep fewer.
pub(super) const BACKLOG: u32 = 4096;

/// A listener that nobody accepts from yet. It belongs to no event loop, so that it can travel to the
/// thread that accepts.
pub(super) struct Listener {
    pub(super) socket: StdTcpListener,
    pub(super) at: ListenAddr,
    pub(super) stack: Stack,
}

/// An endpoint that cannot be listened on.
pub(super) struct Unbound {
    addr: String,
    source: io::Error,
}

impl From<Unbound> for ServerError {
    fn from(Unbound { addr, source }: Unbound) -> Self {
        Self::Bind { addr, source }
    }
}

/// Listens at all of these endpoints, or at none.
pub(super) async fn bind(
    endpoints: &[Endpoint],
    layers: &Layers,
) -> Result<Vec<Listener>, Unbound> {
    let mut listeners = Vec::new();
    for endpoint in endpoints {
        let failed = |source| {
            let addr = match endpoints {
                [_] => endpoint.authority(),
                _ => endpoint.to_string(),
            };
            Unbound { addr, source }
        };
        let addr = first_address(endpoint).await.map_err(failed)?;
        let socket = listen(addr).and_then(TcpListener::into_std).map_err(failed)?;
        let addr = socket.local_addr().map_err(failed)?;
        let at = ListenAddr { scheme: endpoint.scheme, addr, path: endpoint.path.clone() };
        listeners.push(Listener { socket, at, stack: layers.stack(endpoint) });
    }
    Ok(listeners)
}

async fn first_address(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let addrs = resolve(&endpoint.host, endpoint.port).await?;
    let none = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    addrs.into_iter().next().ok_or_else(none)
}

pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart need not wait for the connections of the run before. On Windows this
    // option means something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
