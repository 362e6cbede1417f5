//! A server that listens, as the application sees it.

use std::fmt;
use std::net::SocketAddr;

use super::course::Course;
use super::error::ServerError;
use super::front::Front;
use super::handle::{Phase, ServerHandle};
use super::report::StopReport;
use crate::endpoint::ListenAddr;

/// A server that listens and does not accept yet.
///
/// Dropping it, or the future of its [`serve`](Self::serve), closes everything without a drain; the ports
/// are free when the drop returns. (It waits for the thread that accepts, for a second at most, which only
/// code of the application that blocks that thread makes it need.)
#[must_use = "a server does nothing until it is served"]
pub struct BoundServer {
    pub(super) course: Course,
    pub(super) front: Front,
}

impl BoundServer {
    /// The address it listens on; the first, if there are more.
    pub fn local_addr(&self) -> SocketAddr {
        self.course.handle.local_addr()
    }

    /// All addresses it listens on, in the order of its settings.
    pub fn listen_addrs(&self) -> &[ListenAddr] {
        self.course.handle.listen_addrs()
    }

    /// A handle, to be kept when the server serves.
    pub fn handle(&self) -> ServerHandle {
        self.course.handle.clone()
    }

    /// Serves until a signal or [`ServerHandle::stop`], then stops in phases:
    ///
    /// 1. The port is free, and nobody is admitted any more.
    /// 2. Clients are told, if there is a [notice](crate::Server::shutdown_notice), and served for
    ///    `notice_ms` more.
    /// 3. Nothing more is read. Handlers answer what was received; answers and other accepted frames
    ///    are written; sockets are closed; the hooks run. All that until the drain deadline, and
    ///    100 ms for what handlers do last.
    /// 4. The workers end. One whose thread a handler blocks has a second, then it is left behind.
    ///
    /// The report says what was cut. A second signal ends all this at once.
    ///
    /// All of it happens on the thread that accepts, which is the server's own, and on its workers; this
    /// future only waits for the end. So a caller's thread that is blocked holds up neither peers nor
    /// handles nor, when a signal comes, the stop, but only the return of this function. With that, a
    /// process whose main thread stays blocked does not exit, not even by a second signal.
    ///
    /// # Errors
    ///
    /// [`ServerError::Accept`] if the listener dies, [`ServerError::WorkerLost`] or
    /// [`ServerError::AcceptPanicked`] (connections are drained all the same),
    /// [`ServerError::Forced`] if a second signal comes, [`ServerError::Signals`].
    ///
    /// # Cancel safety
    ///
    /// A server whose future is dropped is closed, as above.
    pub async fn serve(self) -> Result<StopReport, ServerError> {
        let Self { course, front } = self;
        front.serve(course).await
    }
}

/// Tells those who wait for the stop of a server, also of one that never served.
pub(super) struct StoppedOnDrop(pub(super) ServerHandle);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.advance(Phase::Stopped);
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("handle", &self.course.handle).finish_non_exhaustive()
    }
}
