//! The client's side of the handshake.

use std::io::Cursor;

use http::Request;
use http::header::{self, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::HandshakeError as Handshake;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::client::{
    ClientHandshake, Response, generate_request,
};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;

use super::filter::Filter;
use super::head::{Head, MAX_HEAD, read_head};
use super::upgrade::Subprotocol;
use crate::codec::FrameCodec;
use crate::codec::envelope::Envelope;
use crate::conn::HandshakeError;
use crate::connection::ReadPool;
use crate::endpoint::Endpoint;
use crate::event::push_escaped;
use crate::transport::{Boxed, send};

/// How much of a server's refusal is kept.
const MAX_WHY: usize = 200;

/// Asks the server at `endpoint` for a WebSocket. Returns the subprotocol that it has chosen, too.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    headers: &[(String, String)],
    subprotocols: &[String],
    codec: &FrameCodec,
    mut below: Boxed,
) -> Result<(Boxed, Option<Subprotocol>), HandshakeError> {
    let request = request(endpoint, headers, subprotocols).map_err(HandshakeError::WebSocket)?;
    let failed = |why: String| HandshakeError::WebSocket(printable(&why));
    let sent = generate_request(request.clone());
    let (sent, _) = sent.map_err(|error| failed(error.to_string()))?;
    send(&mut below, &sent).await?;
    let Head { parsed: head, len, rest } =
        read_head(&mut below, &ReadPool::default(), head_of_response).await?;
    if len > MAX_HEAD {
        let why = format!("the head of the response is longer than {MAX_HEAD} bytes");
        return Err(HandshakeError::WebSocket(why));
    }
    // The library checks the response. It shakes hands in memory, where it writes the request over itself, and
    // is given no byte behind the head.
    let wire = Cursor::new([sent, head].concat());
    let handshake = ClientHandshake::start(wire, request, None);
    match handshake.map_err(|error| failed(error.to_string()))?.handshake() {
        // The library does not look at these (RFC 6455, 4.1): none is ever offered.
        Ok((_, response)) if response.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS) => {
            let why = "the server uses an extension that was not offered";
            Err(HandshakeError::WebSocket(why.to_owned()))
        }
        Ok((_, response)) => {
            let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            let chosen = chosen.and_then(|name| name.to_str().ok()).map(Subprotocol::new);
            let filter = Filter::new(below, Envelope::Masked, codec.clone());
            Ok((Box::new(filter.behind_handshake(len, rest)), chosen))
        }
        // What comes with a refusal says why.
        Err(Handshake::Failure(Error::Http(response))) => {
            let why = printable(&String::from_utf8_lossy(&rest[..rest.len().min(MAX_WHY)]));
            let named = response.status().canonical_reason().unwrap_or_default();
            let why = if why.is_empty() { named.to_owned() } else { why };
            Err(HandshakeError::Http { status: response.status().as_u16(), why })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The head at the front of `read`, or all of it if there is none: what is wrong with it is found when it is checked.
fn head_of_response(read: &[u8]) -> Option<(Vec<u8>, usize)> {
    let len = match Response::try_parse(read) {
        Ok(None) if read.len() < MAX_HEAD => return None,
        Ok(Some((len, _))) => len,
        Ok(None) | Err(_) => read.len(),
    };
    Some((read[..len].to_vec(), len))
}

/// The request, or why there is none.
pub(crate) fn request(
    endpoint: &Endpoint,
    headers: &[(String, String)],
    subprotocols: &[String],
) -> Result<Request<()>, String> {
    let path = if endpoint.path.is_empty() { "/" } else { &endpoint.path };
    let (scheme, authority) = (endpoint.scheme, endpoint.authority());
    let request = format!("{scheme}://{authority}{path}").into_client_request();
    let mut request = request.map_err(|error| format!("the endpoint: {error}"))?;
    for (name, value) in headers {
        // Values may be secret: none of them is in an error.
        let bad = |why: &str| format!("the header {:?}: {why}", header_name(name));
        let key = HeaderName::try_from(name).map_err(|error| bad(&error.to_string()))?;
        if is_of_the_protocol(&key) {
            return Err(bad("it is of the protocol itself"));
        }
        let value = HeaderValue::try_from(value).map_err(|error| bad(&error.to_string()))?;
        request.headers_mut().append(key, value);
    }
    // What is a name of a header is a token, which is what a name of a subprotocol has to be.
    if let Some(bad) = subprotocols.iter().find(|name| HeaderName::try_from(*name).is_err()) {
        return Err(format!("the subprotocol {bad:?} is not a token"));
    }
    if !subprotocols.is_empty() {
        let offers = HeaderValue::try_from(subprotocols.join(", "));
        let offers = offers.map_err(|error| format!("the subprotocols: {error}"))?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offers);
    }
    Ok(request)
}

/// What is printed of the name of a header: no value, if the whole line was given as the name.
pub(crate) fn header_name(name: &str) -> &str {
    name.split([':', '=']).next().unwrap_or_default()
}

/// A second one would be ignored, or break the handshake.
fn is_of_the_protocol(name: &HeaderName) -> bool {
    [header::HOST, header::CONNECTION, header::UPGRADE].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

/// As one line of text: a server must not write lines of its own into a log, or steer a terminal.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    text.chars().for_each(|char| push_escaped(&mut line, char));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_one_line_without_characters_that_steer_a_terminal() {
        let text = "say \"no\"\r\n[ERROR] all is lost\x1b[2J\u{202e}\u{2028}\u{9b}é";
        let line = r#"say "no"\r\n[ERROR] all is lost\u{1b}[2J\u{202e}\u{2028}\u{9b}é"#;
        assert_eq!(printable(text), line);
    }

    #[test]
    fn a_request_that_cannot_be_made_says_what_of_it_and_no_value_of_a_header() {
        let endpoint = |url: &str| url.parse::<Endpoint>().unwrap();
        let made = |name: &str, value: &str, subprotocol: &str| {
            let headers = [(name.to_owned(), value.to_owned())];
            request(&endpoint("ws://localhost:1/game"), &headers, &[subprotocol.to_owned()])
        };
        made("Authorization", "Bearer 1234", "frames.v1").unwrap();
        for (name, value, subprotocol, says) in [
            ("no name", "x", "a", "\"no name\""),
            ("", "x", "a", "\"\""),
            ("Authorization: secret", "", "a", "\"Authorization\""),
            ("X-Token", "secret\r\nX-Admin: yes", "a", "\"X-Token\""),
            ("Host", "elsewhere", "a", "\"Host\": it is of the protocol"),
            ("sec-websocket-key", "x", "a", "it is of the protocol"),
            ("X-Token", "x", "", "subprotocol \"\""),
            ("X-Token", "x", "a, b", "subprotocol \"a, b\""),
        ] {
            let error = made(name, value, subprotocol).unwrap_err();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }
}
