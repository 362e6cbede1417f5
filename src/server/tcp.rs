//! What a server asks of the system for its sockets.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::settings::Settings;

/// The options of accepted sockets.
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

    pub(crate) fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        // Frames are written whole, so waiting for more to send would only add delay.
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
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
