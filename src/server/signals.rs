//! SIGINT and SIGTERM, or Ctrl-C where there are no signals; and SIGHUP, which reloads certificates.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
#[cfg(all(unix, feature = "tls"))]
use std::pin::pin;
#[cfg(all(unix, feature = "tls"))]
use std::time::Instant;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::handle::ServerHandle;
#[cfg(all(unix, feature = "tls"))]
use crate::event::Event;

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
            None => pending().await,
        }
    }
}

/// What never ends.
pub(crate) type Forever = Pin<Box<dyn Future<Output = Infallible>>>;

/// Reloads certificates at each SIGHUP. Without TLS that signal keeps its meaning.
///
/// One that comes while the files are read asks for one more reload, however many come: the files may have
/// been changed behind the reader.
#[cfg(all(unix, feature = "tls"))]
pub(crate) fn reload_at_hangup(wanted: bool, handle: &ServerHandle) -> io::Result<Forever> {
    if !(wanted && handle.has_tls()) {
        return Ok(Box::pin(pending()));
    }
    let (mut hangup, handle) = (signal(SignalKind::hangup())?, handle.clone());
    Ok(Box::pin(async move {
        let mut again = false;
        while again || hangup.recv().await.is_some() {
            again = false;
            let began = Instant::now();
            let mut reload = pin!(handle.reload_tls_detached());
            loop {
                tokio::select! {
                    // It is an event, if that fails.
                    _ = &mut reload => break,
                    Some(()) = hangup.recv() => {
                        again = true;
                        let reading = began.elapsed();
                        handle.events().emit(Event::TlsReloadWaits { reading });
                    }
                }
            }
        }
        pending().await
    }))
}

#[cfg(not(all(unix, feature = "tls")))]
pub(crate) fn reload_at_hangup(_: bool, _: &ServerHandle) -> io::Result<Forever> {
    Ok(Box::pin(pending()))
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new(wanted: bool) -> io::Result<Self> {
        Ok(Self { installed: wanted })
    }

    /// The next Ctrl-C; never, if it is left to the application.
    pub(crate) async fn next(&mut self) {
        if !self.installed || tokio::signal::ctrl_c().await.is_err() {
            pending().await
        }
    }
}
