//! What balancers say before their peers do: the PROXY protocol.
//!
//! It is read before the admission, which goes by the peer's address, and beside the accepting, which
//! a balancer that says nothing must not hold up.

use std::time::Duration;

use tokio::task::JoinSet;

use super::acceptor::Accepted;
use crate::conn_manager::AddError;
use crate::deadline::complete_by;
use crate::settings::{Network, Settings};

#[cfg(feature = "proxy")]
mod header;

/// So many balancers' connections are waited for at once. Later ones are refused, lest other peers
/// wait for them.
const MOST: usize = 1024;

/// A socket that did not begin as it must; `None` if nothing came at all.
pub(super) struct Unannounced(pub(super) Accepted, pub(super) Option<AddError>);

/// The headers that are on their way.
#[derive(Debug)]
pub(super) struct Prefaces {
    from: Vec<Network>,
    deadline: Duration,
    reading: JoinSet<Result<Accepted, Unannounced>>,
}

impl Prefaces {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            from: settings.proxy_from.clone(),
            deadline: Duration::from_millis(settings.handshake_deadline_ms),
            reading: JoinSet::new(),
        }
    }

    /// Takes a socket that begins with a header. Gives back one that does not.
    pub(super) fn take(&mut self, dial: Accepted) -> Option<Accepted> {
        let many = self.len() >= MOST;
        let peer = dial.peer.ip();
        if !self.from.iter().any(|network| network.contains(peer)) {
            return Some(dial);
        }
        let deadline = self.deadline;
        self.reading.spawn_local(async move {
            let mut dial = dial;
            if many {
                let why = AddError::NoProxyHeader("too many are waited for");
                return Err(Unannounced(dial, Some(why)));
            }
            match complete_by(dial.began + deadline, read(&mut dial)).await {
                Ok(Ok(())) => Ok(dial),
                Ok(Err(why)) => Err(Unannounced(dial, why)),
                Err(_) => Err(Unannounced(dial, Some(AddError::NoProxyHeader("it is late")))),
            }
        });
        None
    }

    pub(super) fn len(&self) -> usize {
        self.reading.len()
    }

    pub(super) fn are_none(&self) -> bool {
        self.len() == 0
    }

    /// The next one whose header has come, or will not. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Accepted, Unannounced> {
        loop {
            match self.reading.join_next().await {
                Some(Ok(read)) => return read,
                // Cannot be: nothing in it panics, and nobody cancels it.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Reads the header, and says in `dial` what it says. The error is `None` if nothing came.
#[cfg(feature = "proxy")]
async fn read(dial: &mut Accepted) -> Result<(), Option<AddError>> {
    if let Some(header::Addresses { peer, local }) = header::read(&mut dial.stream).await? {
        (dial.peer, dial.local) = (peer, Some(local));
    }
    Ok(())
}

/// Without the feature there are no balancers: the settings are checked for that.
#[cfg(not(feature = "proxy"))]
async fn read(_: &mut Accepted) -> Result<(), Option<AddError>> {
    Ok(())
}
