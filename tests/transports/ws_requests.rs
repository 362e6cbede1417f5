//! Requests for a WebSocket that somebody between could read otherwise, and so send on as two.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zinxide::testing::within;
use zinxide::{CloseReason, HandshakeError, Server, Upgrade};

use super::support::{Watched, at};

const GOOD: &str = "GET /game HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The status that a request is answered with.
async fn status(watched: &Watched, request: &str) -> u16 {
    let mut socket = within(TcpStream::connect(("127.0.0.1", watched.port(0)))).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within(socket.read_exact(&mut answer)).await.unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

async fn watched() -> Watched {
    Watched::start(at(&["ws://127.0.0.1:0/game"])).await
}

#[actix::test]
async fn a_request_with_a_body_is_refused() {
    let watched = watched().await;
    for (headers, expected) in [
        ("Content-Length: 0\r\n", 101),
        ("Content-Length: 5\r\n", 400),
        ("Content-Length: 00\r\n", 400),
        ("Content-Length: +0\r\n", 400),
        ("Content-Length: 0, 0\r\n", 400),
        ("Content-Length:\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        ("Expect: 100-continue\r\n", 400),
    ] {
        let request = format!("{GOOD}{headers}\r\nhello");
        assert_eq!(status(&watched, &request).await, expected, "{headers}");
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_header_twice_that_must_be_single_is_refused_and_a_list_may_be_in_parts() {
    let watched = watched().await;
    for (headers, expected) in [
        ("Host: a\r\n", 400),
        ("Sec-WebSocket-Version: 13\r\n", 400),
        ("Sec-WebSocket-Version: 8\r\n", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400),
        ("Authorization: Bearer 1\r\nAuthorization: Bearer 2\r\n", 400),
        ("Authorization: Bearer 1\r\nauthorization: Bearer 1\r\n", 400),
        ("Content-Length: 0\r\nContent-Length: 0\r\n", 400),
        ("Origin: https://a\r\nOrigin: https://b\r\n", 400),
        ("Authorization: Bearer 1\r\nOrigin: https://a\r\n", 101),
        ("Connection: keep-alive\r\nUpgrade: h2c\r\n", 101),
        ("Sec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: b\r\n", 101),
        ("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n", 101),
        ("Cookie: a=1\r\nCookie: b=2\r\n", 101),
    ] {
        let request = format!("{GOOD}{headers}\r\n");
        assert_eq!(status(&watched, &request).await, expected, "{headers}");
    }
    let other_version_first = GOOD.replace(
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Version: 13\r\n",
    );
    assert_eq!(status(&watched, &format!("{other_version_first}\r\n")).await, 400);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn what_is_not_written_as_http_has_it_is_refused() {
    let watched = watched().await;
    for (what, request, expected) in [
        ("as it should be", format!("{GOOD}\r\n"), 101),
        ("an empty line first", format!("\r\n{GOOD}\r\n"), 101),
        ("bare line feeds", format!("{GOOD}\r\n").replace("\r\n", "\n"), 400),
        ("one bare line feed", format!("{GOOD}X: 1\n\r\n"), 400),
        ("an end of a bare line feed", format!("{GOOD}\n"), 400),
        ("a bare carriage return", format!("{GOOD}X: 1\rY: 2\r\n\r\n"), 400),
        ("a folded line", format!("{GOOD}X: 1\r\n 2\r\n\r\n"), 400),
        ("a folded first line", GOOD.replace("Host: a", " Host: a") + "\r\n", 400),
        ("a space before the colon", format!("{GOOD}Content-Length : 5\r\n\r\n"), 400),
        ("no colon", format!("{GOOD}Content-Length\r\n\r\n"), 400),
        ("no name", format!("{GOOD}: 5\r\n\r\n"), 400),
        ("a zero byte in a value", format!("{GOOD}X: a\0b\r\n\r\n"), 400),
        ("a zero byte in a name", format!("{GOOD}X\0: a\r\n\r\n"), 400),
        ("two spaces in the first line", GOOD.replace("GET ", "GET  ") + "\r\n", 400),
        ("HTTP/1.0", GOOD.replace("HTTP/1.1", "HTTP/1.0") + "\r\n", 505),
        ("HTTP/1.2", GOOD.replace("HTTP/1.1", "HTTP/1.2") + "\r\n", 400),
        // A server must take it (RFC 9112, 3.2.2); whose host it names does not matter here.
        ("an absolute target", GOOD.replace("/game", "http://b/game") + "\r\n", 101),
        ("an absolute target elsewhere", GOOD.replace("/game", "http://b/other") + "\r\n", 404),
        ("no path", GOOD.replace("/game", "game") + "\r\n", 404),
        // Which is no part of what is asked for.
        ("a fragment", GOOD.replace("/game", "/game#x") + "\r\n", 101),
    ] {
        assert_eq!(status(&watched, &request).await, expected, "{what}");
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_request_that_is_refused_for_its_form_is_not_shown_to_the_application() {
    let server = Server::new(at(&["ws://127.0.0.1:0/game"]))
        .ws_auth(async |_: &Upgrade, _: &zinxide::Conn| panic!("it was shown"));
    let mut watched = Watched::serve(server).await;
    for headers in ["Content-Length: 5\r\n", "Authorization: a\r\nAuthorization: b\r\n"] {
        assert_eq!(status(&watched, &format!("{GOOD}{headers}\r\n")).await, 400);
        let why = watched.removed().await;
        let CloseReason::Handshake(HandshakeError::Http { status: 400, .. }) = why else {
            panic!("{why}")
        };
    }
    watched.server.stop().await.unwrap();
}
