//! What is asked of the system for sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::settings::Settings;

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
