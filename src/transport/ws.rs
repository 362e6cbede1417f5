//! Frames in WebSocket messages.

use super::{Boxed, Endpoint};
use crate::codec::FrameCodec;
use crate::conn::HandshakeError;

/// Asks a server for a WebSocket.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    headers: &[(String, String)],
    subprotocols: &[String],
    codec: &FrameCodec,
    below: Boxed,
) -> Result<Boxed, HandshakeError> {
    let _ = (endpoint, headers, subprotocols, codec, below);
    Err(HandshakeError::Http { status: 501, why: "not here yet".to_owned() })
}
