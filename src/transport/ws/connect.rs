//! The client's side of the handshake.

use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::Error;

use super::config;
use super::marks::Marks;
use super::messages::Messages;
use super::wire::Wire;
use crate::codec::FrameCodec;
use crate::conn::HandshakeError;
use crate::endpoint::Endpoint;
use crate::transport::Boxed;

/// How much of a server's refusal is kept.
const MAX_WHY: usize = 200;

/// Asks the server at `endpoint` for a WebSocket.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    headers: &[(String, String)],
    subprotocols: &[String],
    codec: &FrameCodec,
    below: Boxed,
) -> Result<Boxed, HandshakeError> {
    let path = if endpoint.path.is_empty() { "/" } else { &endpoint.path };
    let (scheme, authority) = (endpoint.scheme, endpoint.authority());
    let uri = format!("{scheme}://{authority}{path}").parse();
    let uri = uri.map_err(|error: http::uri::InvalidUri| bad_request(error.to_string()))?;
    let mut request = ClientRequestBuilder::new(uri);
    for (name, value) in headers {
        request = request.with_header(name, value);
    }
    for subprotocol in subprotocols {
        request = request.with_sub_protocol(subprotocol);
    }
    let wire = Wire::new(below, Marks::with_head(), codec.largest_frame());
    match client_async_with_config(request, wire, Some(config(codec))).await {
        Ok((stream, _)) => Ok(Box::new(Messages::new(stream, codec.clone()))),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let why = String::from_utf8_lossy(&body[..body.len().min(MAX_WHY)]).into_owned();
            let named = response.status().canonical_reason().unwrap_or_default();
            let why = if why.is_empty() { named.to_owned() } else { why };
            Err(HandshakeError::Http { status: response.status().as_u16(), why })
        }
        Err(Error::Io(error)) => Err(error.into()),
        Err(error) => Err(bad_request(error.to_string())),
    }
}

/// What never became a request, or an answer that is none.
fn bad_request(why: String) -> HandshakeError {
    HandshakeError::WebSocket(why)
}
