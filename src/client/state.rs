//! Whether a client is connected, and why not.

use std::fmt;
use std::sync::Arc;

use super::ConnectError;
use crate::conn::{CloseReason, Conn};

/// Whether a client is connected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// It dials for the first time.
    Connecting,
    /// It is connected: `on_conn_start` has run, and the connection has not ended.
    Connected(Conn),
    /// It is not connected, for this reason, and dials again.
    Disconnected(Outage),
    /// It is closed for good.
    Closed,
}

/// Why a client is not connected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outage {
    /// The connection ended.
    Ended(CloseReason),
    /// The last dial failed.
    Failed(Arc<ConnectError>),
}

impl ClientState {
    /// Whether it is [`Connected`](Self::Connected).
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// Whether it is [`Closed`](Self::Closed).
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(why) => why.fmt(f),
            Self::Failed(why) => why.fmt(f),
        }
    }
}
