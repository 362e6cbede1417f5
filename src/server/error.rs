//! What can go wrong with a server as a whole.

use std::io;

use crate::frame::Frame;
use crate::router::RouteError;
use crate::settings::SettingsError;
#[cfg(feature = "tls")]
use crate::transport::tls::TlsError;

/// Why a server did not start, or ended otherwise than by a stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Two routes have one id.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No actix system runs on this thread.
    #[error("no actix system runs on this thread; use #[actix::main]")]
    NoSystem,
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The endpoint of the settings; of a single one, its host and port.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS cannot be had.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Not all workers could be started, for want of threads, descriptors or memory. Those that were
    /// are stopped again.
    #[error("only {started} of {wanted} workers could be started: {source}")]
    Workers {
        /// How many could be.
        started: usize,
        /// How many there should be, by the setting `worker_pool_size`.
        wanted: usize,
        /// Why the next one could not.
        source: io::Error,
    },
    /// The thread that accepts could not be started, for want of threads, descriptors or memory.
    #[error("the thread that accepts could not be started: {0}")]
    AcceptThread(#[source] io::Error),
    /// Something on the thread that accepts panicked: the acceptors, the [`ConnManager`], or the
    /// [`Router`](crate::Router). The connections were drained.
    ///
    /// [`ConnManager`]: crate::ConnManager
    #[error("what accepts connections panicked")]
    AcceptPanicked,
    /// The handlers for SIGINT and SIGTERM cannot be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The listener is dead.
    #[error("the listener failed: {0}")]
    Accept(#[source] io::Error),
    /// The frame of [`Server::shutdown_notice`](crate::Server::shutdown_notice) is larger than an
    /// outbox, or has no form in the server's framing.
    #[error("the shutdown notice can never be sent")]
    Notice(Frame),
    /// A worker ended before its server, and either the setting `when_worker_lost` is to stop, or it
    /// was the last one.
    #[error("worker {worker} ended before its server")]
    WorkerLost {
        /// The number of the worker.
        worker: usize,
    },
    /// A second signal ended the server before it was drained.
    #[error("stopped at once by a second signal, {left} connections were left")]
    Forced {
        /// Connections that were there.
        left: usize,
    },
}
