//! What is asked of the system for sockets: their options, and what became of their peers.

#[cfg(target_os = "linux")]
mod acknowledged;

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::settings::Settings;
#[cfg(target_os = "linux")]
pub(crate) use acknowledged::{Acknowledged, Watch};

/// What a socket knows of its peer without being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerSide {
    /// Both directions are open.
    Open,
    /// The peer sends nothing more, and may read.
    HalfClosed,
    /// The connection was reset.
    Gone,
}

impl PeerSide {
    /// What the event loop has last heard of the socket. It does not wait, and takes nothing away that
    /// a reader or writer waits for.
    pub(crate) fn of(socket: &TcpStream) -> Self {
        let ready = pin!(socket.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) if ready.is_error() || ready.is_write_closed() => Self::Gone,
            Poll::Ready(Ok(ready)) if ready.is_read_closed() => Self::HalfClosed,
            // An event loop that ends says nothing of the peer.
            Poll::Ready(_) | Poll::Pending => Self::Open,
        }
    }
}

/// Other systems do not say what a peer has acknowledged.
#[cfg(not(target_os = "linux"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged;

/// There is none.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) enum Watch {}

#[cfg(not(target_os = "linux"))]
impl Acknowledged {
    #[expect(clippy::unused_self, reason = "Linux uses it")]
    pub(crate) fn watch(&self, _: &TcpStream) -> Option<Watch> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(crate) fn poll(&self, _: &mut Context<'_>) -> Poll<()> {
        match *self {}
    }
}

/// Nobody tells; it is taken for granted.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_over(_: &TcpStream) -> bool {
    true
}

/// Whether both sides have said that they are done, and have acknowledged everything: the system has let the
/// peer go. Of a connection that was reset, too. False where that cannot be told.
#[cfg(target_os = "linux")]
pub(crate) fn is_over(socket: &TcpStream) -> bool {
    socket.peer_addr().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
}

/// `TCP_NOTSENT_LOWAT`: how many bytes the system queues for a socket before it has sent them.
///
/// By default Linux queues megabytes and reports a socket as writable only when a third of its send
/// buffer is free, so a peer that reads all the time looks like one that reads nothing. With a small
/// value, a socket that takes bytes has a peer whose system made room for all but these. A write may
/// still fill up the last segment, of up to 64 KiB.
///
/// Measured on loopback: 4 KiB shows progress no sooner than 16 KiB, 64 KiB up to twice as late.
#[cfg(target_os = "linux")]
const UNSENT_IN_SYSTEM: u32 = 16 * 1024;

/// The options of sockets, those of peers and those to servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpOptions {
    keepalive: Option<Duration>,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "Linux alone knows it"))]
    user_timeout: Option<Duration>,
}

impl TcpOptions {
    pub(crate) fn new(settings: &Settings) -> Self {
        let unless_0 = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        Self {
            keepalive: unless_0(settings.tcp_keepalive_ms),
            user_timeout: unless_0(settings.tcp_user_timeout_ms.into()),
        }
    }

    pub(crate) fn apply<'s>(&self, socket: impl Into<SockRef<'s>>) -> io::Result<()> {
        let socket = socket.into();
        // Frames are written whole, so waiting for more to send would only add delay.
        socket.set_tcp_nodelay(true)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT_IN_SYSTEM)?;
        if let Some(time) = self.keepalive {
            let least = Duration::from_secs(1);
            let keepalive = TcpKeepalive::new().with_time(time.max(least));
            #[cfg(any(unix, windows))]
            let keepalive = keepalive.with_interval((time / 3).max(least));
            #[cfg(unix)]
            let keepalive = keepalive.with_retries(3);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_the_settings_say_is_what_the_socket_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        TcpOptions::new(&Settings::default()).apply(&stream).unwrap();
        assert!(stream.nodelay().unwrap() && !socket.keepalive().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_IN_SYSTEM);

        let settings = Settings {
            tcp_keepalive_ms: 60_000,
            tcp_user_timeout_ms: 7_000,
            ..Settings::default()
        };
        TcpOptions::new(&settings).apply(&stream).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(20));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(7)));

        let least = Settings { tcp_keepalive_ms: 1, ..Settings::default() };
        TcpOptions::new(&least).apply(&stream).unwrap();
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(1));
    }
}
