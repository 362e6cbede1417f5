//! What a client says when it asks for a WebSocket.

use std::fmt;

/// What a client says when it asks for a WebSocket, beside what the protocol demands.
///
/// ```
/// use zinxide::client::WebSocket;
///
/// let ws = WebSocket::new().header("Authorization", "Bearer 1234").subprotocol("frames.v1");
/// ```
#[derive(Clone, Default)]
#[must_use = "it is given to a client"]
pub struct WebSocket {
    pub(super) headers: Vec<(String, String)>,
    pub(super) subprotocols: Vec<String>,
}

impl WebSocket {
    /// Nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header to the request: `Authorization`, `Origin`. One that is no header makes the
    /// handshake fail.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers a subprotocol, after those offered before.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }
}

impl fmt::Debug for WebSocket {
    /// Without the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("WebSocket")
            .field("headers", &names)
            .field("subprotocols", &self.subprotocols)
            .finish()
    }
}
