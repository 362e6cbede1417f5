//! What a client says when it asks for a WebSocket.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::ConnectError;
use crate::codec::FrameCodec;
use crate::conn::HandshakeError;
use crate::endpoint::Endpoint;
use crate::transport::{Boxed, ws};
use crate::unwind::{Guard, contained};

/// Names and values.
type Headers = Vec<(String, String)>;

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
    headers: Headers,
    of_dial: Option<Arc<dyn Fn() -> Headers + Send + Sync>>,
    subprotocols: Vec<String>,
}

impl WebSocket {
    /// Nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header to the request: `Authorization`, `Origin`. At `ws://` endpoints, whoever is on the
    /// way to the server can read it.
    ///
    /// One that is no header, or one of the protocol's own (`Host`, `Connection`, `Upgrade`,
    /// `Sec-WebSocket-..`), is an error when the client is started: [`ConnectError::WebSocket`].
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds the headers that `make` answers, which is called before each dial: for tokens that expire
    /// while a client reconnects.
    ///
    /// It runs on the client's thread and holds it up, so it must not block. If it panics, or answers
    /// what is no header, the dial has failed, with [`HandshakeError::WebSocket`], and is made again as
    /// others that fail.
    ///
    /// ```
    /// # fn f(token: std::sync::Arc<std::sync::Mutex<String>>) {
    /// use zinxide::client::WebSocket;
    ///
    /// let ws = WebSocket::new().headers_with(move || {
    ///     vec![("Authorization".to_owned(), format!("Bearer {}", token.lock().unwrap()))]
    /// });
    /// # }
    /// ```
    pub fn headers_with(
        mut self,
        make: impl Fn() -> Vec<(String, String)> + Send + Sync + 'static,
    ) -> Self {
        let make = Guard::new(make);
        self.of_dial = Some(Arc::new(move || (*make)()));
        self
    }

    /// Offers a subprotocol, after those offered before. Which of them the server has chosen is the
    /// property [`Subprotocol`](crate::Subprotocol) of the connection.
    ///
    /// A server that chooses none of those that were offered fails the handshake, as it does with
    /// browsers.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Finds what no dial could mend.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        let made = ws::request(endpoint, &self.headers, &self.subprotocols);
        made.map(drop).map_err(ConnectError::WebSocket)
    }

    /// The headers of one dial.
    pub(super) fn headers(&self) -> Result<Cow<'_, [(String, String)]>, HandshakeError> {
        let Some(make) = &self.of_dial else { return Ok(Cow::Borrowed(&self.headers)) };
        let made = contained(|| make()).ok_or_else(|| {
            HandshakeError::WebSocket("the function that makes the headers panicked".to_owned())
        })?;
        Ok(self.headers.iter().cloned().chain(made).collect())
    }

    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        headers: &[(String, String)],
        codec: &FrameCodec,
        below: Boxed,
    ) -> Result<(Boxed, Option<crate::Subprotocol>), HandshakeError> {
        ws::connect(endpoint, headers, &self.subprotocols, codec, below).await
    }
}

impl fmt::Debug for WebSocket {
    /// Without the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| ws::header_name(name)).collect();
        f.debug_struct("WebSocket")
            .field("headers", &names)
            .field("headers_of_each_dial", &self.of_dial.is_some())
            .field("subprotocols", &self.subprotocols)
            .finish()
    }
}
