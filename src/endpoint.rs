//! Where a server listens and a client connects, as a URL.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Where a server listens, or a client connects: `tcp://127.0.0.1:7777`, `tls://[::1]:7778`,
/// `ws://example.com:8080/game`, `wss://example.com/game`.
///
/// Without a port, `ws` means 80 and `wss` 443; the others have none by themselves.
///
/// ```
/// use zinxide::{Endpoint, Scheme};
///
/// let endpoint: Endpoint = "wss://example.com/game".parse()?;
/// assert_eq!((endpoint.scheme, endpoint.port), (Scheme::Wss, 443));
/// assert_eq!(endpoint.path, "/game");
/// # Ok::<(), zinxide::BadEndpoint>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// What is spoken there.
    pub scheme: Scheme,
    /// An address or a host name; an IPv6 address without brackets.
    pub host: String,
    /// The port; to listen on 0 lets the system choose.
    pub port: u16,
    /// Of `ws` and `wss`, the path and query of the request; empty for any path where a server
    /// listens, and for `/` where a client connects.
    pub path: String,
}

/// What is spoken at an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Frames on TCP.
    Tcp,
    /// Frames in TLS.
    Tls,
    /// A frame in each WebSocket message.
    Ws,
    /// The same in TLS.
    Wss,
}

/// Where a server listens, by address. Its `Display` is the URL of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    /// What is spoken there.
    pub scheme: Scheme,
    /// The address, with the port that the system chose if it was to choose one.
    pub addr: SocketAddr,
    /// The path of the endpoint.
    pub path: String,
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no endpoint: {reason}")]
pub struct BadEndpoint {
    text: String,
    reason: &'static str,
}

/// All there is to know of a scheme.
struct Row {
    scheme: Scheme,
    name: &'static str,
    tls: bool,
    ws: bool,
    port: Option<u16>,
}

const SCHEMES: [Row; 4] = [
    Row { scheme: Scheme::Tcp, name: "tcp", tls: false, ws: false, port: None },
    Row { scheme: Scheme::Tls, name: "tls", tls: true, ws: false, port: None },
    Row { scheme: Scheme::Ws, name: "ws", tls: false, ws: true, port: Some(80) },
    Row { scheme: Scheme::Wss, name: "wss", tls: true, ws: true, port: Some(443) },
];

impl Scheme {
    fn row(self) -> &'static Row {
        // In the order of the variants.
        &SCHEMES[self as usize]
    }

    /// Its name in URLs.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// Whether it is encrypted.
    pub fn has_tls(self) -> bool {
        self.row().tls
    }

    /// Whether frames travel in WebSocket messages.
    pub fn has_ws(self) -> bool {
        self.row().ws
    }

    /// The Cargo feature that it needs and this program is built without.
    pub(crate) fn missing_feature(self) -> Option<&'static str> {
        let Row { tls, ws, .. } = self.row();
        match (cfg!(feature = "tls"), cfg!(feature = "ws")) {
            (false, _) if *tls => Some("tls"),
            (_, false) if *ws => Some("ws"),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Frames on TCP at this host and port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(Scheme::Tcp, host, port)
    }

    /// An endpoint without a path.
    pub fn new(scheme: Scheme, host: impl Into<String>, port: u16) -> Self {
        Self { scheme, host: host.into(), port, path: String::new() }
    }

    /// Host and port, as an address is written.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl ListenAddr {
    /// The endpoint for clients of the same machine, or of the same network.
    pub fn endpoint(&self) -> Endpoint {
        let Self { scheme, addr, path } = self;
        let (host, port) = (addr.ip().to_string(), addr.port());
        Endpoint { scheme: *scheme, host, port, path: path.clone() }
    }
}

/// The addresses of a host. Cancel safe.
///
/// A name is looked up on a thread of its own. tokio's `lookup_host` panics if there is no thread to be
/// had, which is an error here.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    let look = move || {
        // Nobody need be there to hear it.
        let _ = tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
    };
    thread::Builder::new().name("zinxide-resolve".into()).spawn(look)?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("the look-up of the host name failed")))
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        parse(text).map_err(|reason| BadEndpoint { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    let (scheme, rest) =
        text.split_once("://").ok_or("it must begin with tcp://, tls://, ws:// or wss://")?;
    let &Row { scheme, port: default_port, .. } = SCHEMES
        .iter()
        .find(|row| row.name.eq_ignore_ascii_case(scheme))
        .ok_or("it must begin with tcp://, tls://, ws:// or wss://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !path.is_empty() && !scheme.has_ws() {
        return Err("only ws:// and wss:// have a path");
    }
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '@' | '\\');
    if !rest.chars().all(fits) {
        return Err("it must be printable ASCII without `#`, `@` and `\\`");
    }
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("a bracket is not closed")?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_v6 = authority.starts_with('[');
    if !is_v6 && authority.matches(':').count() > 1 {
        return Err("an IPv6 address needs brackets");
    }
    if is_v6 && host.parse::<std::net::Ipv6Addr>().is_err() {
        return Err("there is no IPv6 address between its brackets");
    }
    if host.is_empty() {
        return Err("it names no host");
    }
    let port = match port.strip_prefix(':') {
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            port.parse().map_err(|_| "its port is no number from 0 to 65535")?
        }
        None if port.is_empty() => default_port.ok_or("it names no port")?,
        _ => return Err("its port is no number from 0 to 65535"),
    };
    Ok(Endpoint { scheme, host: host.to_owned(), port, path })
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;

    fn try_from(text: String) -> Result<Self, BadEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.addr, self.path)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_it_is_written() {
        for text in [
            "tcp://127.0.0.1:7777",
            "tls://[::1]:0",
            "ws://example.com:8080/game?room=1",
            "wss://example.com:443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_scheme_has_the_row_of_its_own() {
        assert!(SCHEMES.iter().all(|row| row.scheme.row().name == row.name));
    }

    #[test]
    fn ports_and_paths_have_defaults_where_the_web_has_them() {
        let ws: Endpoint = "WS://example.com".parse().unwrap();
        assert_eq!((ws.port, ws.path.as_str()), (80, ""));
        let wss: Endpoint = "wss://[2001:db8::1]?x".parse().unwrap();
        assert_eq!((wss.port, wss.path.as_str(), wss.host.as_str()), (443, "/?x", "2001:db8::1"));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, reason) in [
            ("127.0.0.1:7777", "begin with"),
            ("http://a:1", "begin with"),
            ("tcp://a", "no port"),
            ("tcp://:7", "no host"),
            ("tcp://a:65536", "port"),
            ("tcp://a:+1", "port"),
            ("tcp://::1:7", "brackets"),
            ("tls://[::1", "closed"),
            ("tls://[a]:1", "IPv6"),
            ("tcp://a:1/x", "path"),
            ("ws://u@a:1", "ASCII"),
            ("ws://a:1/#x", "ASCII"),
            ("ws://a b:1", "ASCII"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
