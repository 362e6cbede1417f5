//! SIGINT and SIGTERM, or Ctrl-C where there are no signals; and SIGHUP, which reads certificates anew.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::handle::ServerHandle;

/// The signals that ask a server to stop.
pub(crate) struct Signals {
    #[cfg(unix)]
    installed: Option<[Signal; 2]>,
    #[cfg(not(unix))]
    installed: bool,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new(wanted: bool) -> io::Result<Self> {
        if !wanted {
            return Ok(Self { installed: None });
        }
        let installed = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        Ok(Self { installed: Some(installed) })
    }

    /// The next signal; never, if they are left to the application.
    pub(crate) async fn next(&mut self) {
        match &mut self.installed {
            Some([interrupt, terminate]) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Reads certificates anew at each SIGHUP, for ever. Without TLS that signal keeps its meaning.
#[cfg(all(unix, feature = "tls"))]
pub(crate) async fn reload_at_hangup(wanted: bool, handle: &ServerHandle) {
    let hangup = (wanted && handle.has_tls()).then(|| signal(SignalKind::hangup()));
    let Some(Ok(mut hangup)) = hangup else { return std::future::pending().await };
    while hangup.recv().await.is_some() {
        // It is an event, if that fails.
        let _ = handle.reload_tls();
    }
}

#[cfg(not(all(unix, feature = "tls")))]
pub(crate) async fn reload_at_hangup(_: bool, _: &ServerHandle) {
    std::future::pending::<()>().await;
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new(wanted: bool) -> io::Result<Self> {
        Ok(Self { installed: wanted })
    }

    /// The next Ctrl-C; never, if it is left to the application.
    pub(crate) async fn next(&mut self) {
        if !self.installed || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
