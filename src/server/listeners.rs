//! Where a server listens, and what is spoken there.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};

use super::error::ServerError;
#[cfg(feature = "ws")]
use crate::codec::FrameCodec;
use crate::endpoint::{Endpoint, ListenAddr};
#[cfg(feature = "tls")]
use crate::settings::Settings;
#[cfg(feature = "tls")]
use crate::transport::tls::{ServerTls, TlsError};
#[cfg(feature = "ws")]
use crate::transport::ws::{Rules, ServerWs};
use crate::transport::{Layer, Stack};

/// How many dials the system keeps while the acceptor is busy; the system may keep fewer.
pub(super) const BACKLOG: u32 = 4096;

/// A listener that nobody accepts from yet.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) at: ListenAddr,
    pub(super) stack: Stack,
}

/// What the stacks of a server are made of.
#[derive(Default)]
pub(super) struct Layers {
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<ServerTls>>,
    #[cfg(feature = "ws")]
    pub(super) ws: Option<(Rules, FrameCodec)>,
}

impl Layers {
    /// What is spoken at this endpoint. The settings are checked for what there is not.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ws")),
        expect(unused_variables, unused_mut, clippy::unused_self, reason = "nothing but TCP")
    )]
    fn stack(&self, endpoint: &Endpoint) -> Stack {
        let mut layers = Vec::<Arc<dyn Layer>>::new();
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls
            && endpoint.scheme.has_tls()
        {
            layers.push(Arc::clone(tls) as _);
        }
        #[cfg(feature = "ws")]
        if let Some((rules, codec)) = &self.ws
            && endpoint.scheme.has_ws()
        {
            layers.push(Arc::new(ServerWs::new(&endpoint.path, rules.clone(), codec.clone())));
        }
        Stack::new(layers)
    }
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

/// The certificates, if any endpoint needs them.
#[cfg(feature = "tls")]
pub(super) fn tls(settings: &Settings) -> Result<Option<Arc<ServerTls>>, TlsError> {
    let needed = settings.endpoints().iter().any(|endpoint| endpoint.scheme.has_tls());
    needed.then(|| ServerTls::new(settings).map(Arc::new)).transpose()
}

/// Listens at all of these endpoints, or at none.
pub(super) fn bind(endpoints: &[Endpoint], layers: &Layers) -> Result<Vec<Listener>, Unbound> {
    let bind = |endpoint: &Endpoint| {
        let failed = |source| {
            let addr = match endpoints {
                [_] => endpoint.authority(),
                _ => endpoint.to_string(),
            };
            Unbound { addr, source }
        };
        let socket = resolve(endpoint).and_then(listen).map_err(failed)?;
        let addr = socket.local_addr().map_err(failed)?;
        let at = ListenAddr { scheme: endpoint.scheme, addr, path: endpoint.path.clone() };
        Ok(Listener { socket, at, stack: layers.stack(endpoint) })
    };
    endpoints.iter().map(bind).collect()
}

fn resolve(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let mut addrs = (endpoint.host.as_str(), endpoint.port).to_socket_addrs()?;
    let none = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    addrs.next().ok_or_else(none)
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
