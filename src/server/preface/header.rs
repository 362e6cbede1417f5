//! A header of the PROXY protocol, read to its last byte and no further.
//!
//! The protocol: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::conn_manager::AddError;

/// What version 2 begins with; 12 bytes, fewer than any header of version 1 has.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1.
const MAX_V1: usize = 107;

/// The longest of version 2 that is read: its addresses and what a balancer adds.
const MAX_V2: usize = 4096;

/// Who is behind a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) peer: SocketAddr,
    /// Where it connected to.
    pub(super) local: SocketAddr,
}

/// Reads the header. `None` if it names nobody: the balancer speaks for itself.
///
/// The error is `None` if nothing came.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<Addresses>, Option<AddError>> {
    let mut header = vec![0; SIGNATURE.len()];
    if stream.peek(&mut [0]).await.is_ok_and(|n| n == 0) {
        return Err(None);
    }
    stream.read_exact(&mut header).await.map_err(cut)?;
    if header == SIGNATURE { read_v2(stream, header).await } else { read_v1(stream, header).await }
}

async fn read_v1(
    stream: &mut TcpStream,
    mut header: Vec<u8>,
) -> Result<Option<Addresses>, Option<AddError>> {
    if !header.starts_with(b"PROXY ") {
        return Err(bad("there is another beginning"));
    }
    // What comes after the header is not to be read, so it is looked at first.
    while !header.ends_with(b"\r\n") {
        let mut seen = [0; MAX_V1];
        let room = MAX_V1 - header.len();
        if room == 0 {
            return Err(bad("version 1 is too long"));
        }
        let n = stream.peek(&mut seen[..room]).await.map_err(cut)?;
        let end = seen[..n].iter().position(|&byte| byte == b'\n').map_or(n, |at| at + 1);
        if end == 0 {
            return Err(bad("it is cut"));
        }
        let begin = header.len();
        header.resize(begin + end, 0);
        stream.read_exact(&mut header[begin..]).await.map_err(cut)?;
    }
    let header = v1::Header::try_from(&header[..]).map_err(|_| bad("version 1 is malformed"))?;
    let (peer, local) = match header.addresses {
        v1::Addresses::Unknown => return Ok(None),
        v1::Addresses::Tcp4(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v1::Addresses::Tcp6(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
    };
    Ok(Some(Addresses { peer, local }))
}

async fn read_v2(
    stream: &mut TcpStream,
    mut header: Vec<u8>,
) -> Result<Option<Addresses>, Option<AddError>> {
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).await.map_err(cut)?;
    header.extend_from_slice(&rest);
    let begin = header.len();
    let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
    if begin + len > MAX_V2 {
        return Err(bad("version 2 is too long"));
    }
    header.resize(begin + len, 0);
    stream.read_exact(&mut header[begin..]).await.map_err(cut)?;
    let header = v2::Header::try_from(&header[..]).map_err(|_| bad("version 2 is malformed"))?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    if header.protocol == v2::Protocol::Datagram {
        return Err(bad("it is of datagrams"));
    }
    let (peer, local) = match header.addresses {
        v2::Addresses::IPv4(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v2::Addresses::IPv6(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => return Ok(None),
    };
    Ok(Some(Addresses { peer, local }))
}

fn bad(why: &'static str) -> Option<AddError> {
    Some(AddError::NoProxyHeader(why))
}

fn cut(_: io::Error) -> Option<AddError> {
    bad("it is cut")
}
