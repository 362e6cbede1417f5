//! The client's side of the handshake.

use std::io::{self, Read, Write};

use bytes::{Buf, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Uri};
use memchr::memmem;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::HandshakeError as Handshake;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::client::{ClientHandshake, Response};

use super::filter::Filter;
use super::upgrade::{MAX_HEAD, Subprotocol};
use crate::codec::FrameCodec;
use crate::codec::envelope::Envelope;
use crate::conn::HandshakeError;
use crate::endpoint::Endpoint;
use crate::event::push_escaped;
use crate::transport::{Boxed, fill};

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
    match ask(request, &mut below).await {
        Ok((response, rest)) => {
            let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            let chosen = chosen.and_then(|name| name.to_str().ok()).map(Subprotocol::new);
            let filter = Filter::new(below, &rest, Envelope::Masked, codec.clone());
            Ok((Box::new(filter), chosen))
        }
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let why = printable(&String::from_utf8_lossy(&body[..body.len().min(MAX_WHY)]));
            let named = response.status().canonical_reason().unwrap_or_default();
            let why = if why.is_empty() { named.to_owned() } else { why };
            Err(HandshakeError::Http { status: response.status().as_u16(), why })
        }
        Err(Error::Io(error)) => Err(error.into()),
        Err(error) => Err(HandshakeError::WebSocket(printable(&error.to_string()))),
    }
}

/// Sends the request, and returns the response and what came behind its head.
///
/// The library checks the response. It shakes hands in memory, where it is given no byte behind the head of
/// a response that it keeps.
async fn ask(request: Request<()>, below: &mut Boxed) -> Result<(Response, BytesMut), Error> {
    let written = match ClientHandshake::start(Memory::default(), request, None)?.handshake() {
        Err(Handshake::Interrupted(written)) => written,
        Err(Handshake::Failure(error)) => return Err(error),
        Ok((_, response)) => return Ok((response, BytesMut::new())),
    };
    let mut waits = written;
    let memory = waits.get_mut().get_mut();
    below.write_all(&std::mem::take(&mut memory.output)).await?;
    below.flush().await?;
    let (mut rest, head) = read_head(below).await?;
    memory.input = match rest.get(9..12) {
        Some(b"101") => rest.split_to(head),
        // What comes with a refusal says why.
        _ => std::mem::take(&mut rest),
    };
    memory.is_all = true;
    match waits.handshake() {
        Ok((_, response)) => Ok((response, rest)),
        Err(Handshake::Failure(error)) => Err(error),
        // It has read all that there is.
        Err(Handshake::Interrupted(_)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// Reads until the head of a response has come, the input ends, or it is too long. Returns how long it is.
async fn read_head(below: &mut Boxed) -> io::Result<(BytesMut, usize)> {
    let mut read = BytesMut::new();
    loop {
        if let Some(at) = memmem::find(&read, b"\r\n\r\n") {
            return Ok((read, at + 4));
        }
        if read.len() > MAX_HEAD || fill(below, &mut read).await? == 0 {
            let len = read.len();
            return Ok((read, len));
        }
    }
}

/// The other side of a handshake that is done in memory.
#[derive(Default)]
struct Memory {
    input: BytesMut,
    /// Nothing comes behind it.
    is_all: bool,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.is_all {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.input.len().min(buf.len());
        self.input.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Write::write(&mut self.output, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The request, or why there is none.
pub(crate) fn request(
    endpoint: &Endpoint,
    headers: &[(String, String)],
    subprotocols: &[String],
) -> Result<Request<()>, String> {
    let path = if endpoint.path.is_empty() { "/" } else { &endpoint.path };
    let (scheme, authority) = (endpoint.scheme, endpoint.authority());
    let uri = format!("{scheme}://{authority}{path}").parse::<Uri>();
    let uri = uri.map_err(|error| format!("the endpoint: {error}"))?;
    let request = uri.into_client_request();
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
