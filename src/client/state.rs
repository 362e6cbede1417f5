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
    /// It is connected: `on_conn_start` has run, and the connection has not ended. That the server has
    /// admitted it, and not only its system, is known when the server has sent something.
    Connected(Conn),
    /// It is not connected, for this reason, and dials again. If it does not, because the reason is
    /// [final](Outage::Final) or it gives up, [`Closed`](Self::Closed) follows at once, with the reason.
    Disconnected(Outage),
    /// It is closed for good. With the reason why it was not connected, if it was not: `None` if the
    /// program closed it while it was connected or connected for the first time.
    Closed(Option<Outage>),
}

/// Why a client is not connected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outage {
    /// The connection ended.
    Ended(CloseReason),
    /// The connection ended, and one side has said that this is final: the client does not connect again.
    /// See [`Goodbye`](crate::Goodbye) and [`ClientBuilder::final_id`](super::ClientBuilder::final_id).
    Final(CloseReason),
    /// The last attempt to connect failed.
    Failed(Arc<ConnectError>),
}

impl ClientState {
    /// Whether it is [`Connected`](Self::Connected).
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }

    /// Whether it is [`Closed`](Self::Closed).
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(why) => why.fmt(f),
            Self::Final(why) => write!(f, "{why}; that is final"),
            Self::Failed(why) => why.fmt(f),
        }
    }
}
