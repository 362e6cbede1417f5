//! The HTTP request that asks for a WebSocket, and its answer.

use std::fmt;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use memchr::memchr_iter;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::head::MAX_HEAD;
use crate::conn::{Conn, HandshakeError};
use crate::conn_manager::AddError;
use crate::event::Event;
use crate::settings::Settings;
use crate::transport::Local;
use crate::unwind::{Contained, Guard};

/// What clients ask to upgrade to.
const WEBSOCKET: &str = "websocket";

/// A request for a WebSocket: what [`Server::ws_auth`](crate::Server::ws_auth) judges.
pub struct Upgrade(Request<()>);

impl Upgrade {
    /// The path that is asked for.
    pub fn path(&self) -> &str {
        self.0.uri().path()
    }

    /// What follows the `?` of the path.
    pub fn query(&self) -> Option<&str> {
        self.0.uri().query()
    }

    /// The value of a header, whose name may be written in any case; `None` if there is none, or it is
    /// no ASCII text. If there are several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The page that connects, if it is one.
    pub fn origin(&self) -> Option<&str> {
        self.header("origin")
    }

    /// Whether it is one for a WebSocket, good or bad.
    pub(super) fn is_one(&self) -> bool {
        self.lists(&header::UPGRADE, WEBSOCKET)
    }

    /// Writes the two headers that are lists in one line each, since the WebSocket library looks at the first
    /// line alone.
    fn join_lines(&mut self) {
        for (name, item) in [(header::CONNECTION, "upgrade"), (header::UPGRADE, WEBSOCKET)] {
            if self.lists(&name, item) {
                self.0.headers_mut().insert(name, HeaderValue::from_static(item));
            }
        }
    }

    /// Whether a header that is a list has this item, in any case.
    fn lists(&self, name: &HeaderName, item: &str) -> bool {
        self.list(name).any(|listed| listed.eq_ignore_ascii_case(item))
    }

    /// The items of a header that is a list, of all headers of that name.
    fn list(&self, name: &HeaderName) -> impl Iterator<Item = &str> {
        let values = self.0.headers().get_all(name).into_iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty())
    }
}

impl fmt::Debug for Upgrade {
    /// Without what headers say, some of which is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.0.headers().keys().collect();
        f.debug_struct("Upgrade").field("path", &self.path()).field("headers", &headers).finish()
    }
}

/// The subprotocol that a connection speaks, of the setting `ws_subprotocols`: a property of it. On a
/// [client](crate::client), the one of those it has offered that the server has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprotocol(Arc<str>);

impl Subprotocol {
    pub(super) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The application's judgement of requests.
pub(crate) trait Auth: Send + Sync {
    fn admits<'a>(&'a self, upgrade: &'a Upgrade, conn: &'a Conn) -> Local<'a, bool>;
}

impl<F: AsyncFn(&Upgrade, &Conn) -> bool + Send + Sync> Auth for Guard<F> {
    fn admits<'a>(&'a self, upgrade: &'a Upgrade, conn: &'a Conn) -> Local<'a, bool> {
        Box::pin((**self)(upgrade, conn))
    }
}

/// What requests must be like.
#[derive(Clone)]
pub(crate) struct Rules {
    subprotocols: Arc<[Subprotocol]>,
    origins: Arc<[String]>,
    auth: Option<Arc<dyn Auth>>,
}

impl Rules {
    pub(crate) fn new(settings: &Settings, auth: Option<Arc<dyn Auth>>) -> Self {
        Self {
            subprotocols: settings
                .ws_subprotocols
                .iter()
                .map(|own| Subprotocol::new(own))
                .collect(),
            origins: settings.ws_origins.as_slice().into(),
            auth,
        }
    }

    /// The answer to a request at an endpoint with this path.
    pub(super) async fn answer(
        &self,
        path: &str,
        mut upgrade: Upgrade,
        conn: &Conn,
    ) -> Result<Response<()>, Rejected> {
        let rejected = |status, why: &str| Err(Rejected::new(status, why));
        if !(path.is_empty() || path == upgrade.path()) {
            return rejected(StatusCode::NOT_FOUND, "there is nothing at this path");
        }
        upgrade.join_lines();
        let headers = upgrade.0.headers();
        check_form(headers)?;
        let mut response = create_response(&upgrade.0).map_err(|error| Rejected::bad(&error))?;
        if !headers.contains_key(header::HOST) {
            return rejected(StatusCode::BAD_REQUEST, "there is no Host");
        }
        let may = |origin: &str| self.origins.iter().any(|own| own.eq_ignore_ascii_case(origin));
        let may_come = !headers.contains_key(header::ORIGIN) || upgrade.origin().is_some_and(may);
        if !(self.origins.is_empty() || may_come) {
            return rejected(StatusCode::FORBIDDEN, "pages of this origin may not connect");
        }
        if !self.admits(&upgrade, conn).await? {
            return rejected(StatusCode::UNAUTHORIZED, "not authorized");
        }
        let offers = |own: &Subprotocol| {
            upgrade.list(&header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == own.as_str())
        };
        if let Some(spoken) = self.subprotocols.iter().find(|own| offers(own))
            && let Ok(value) = HeaderValue::from_str(spoken.as_str())
        {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            conn.set_property(spoken.clone());
        }
        Ok(response)
    }

    /// What the application says of a request. A panic of it is an answer, too.
    async fn admits(&self, upgrade: &Upgrade, conn: &Conn) -> Result<bool, Rejected> {
        let Some(auth) = &self.auth else { return Ok(true) };
        let admitted = Contained::new(|| auth.admits(upgrade, conn)).await;
        admitted.ok_or_else(|| {
            conn.emit(Event::HookPanicked { conn, hook: "ws_auth" });
            Rejected::new(StatusCode::INTERNAL_SERVER_ERROR, "the authentication panicked")
        })
    }
}

/// What is there once, or not at all: who reads the first of two and who reads the last would not see the
/// same request.
const SINGLE: [HeaderName; 6] = [
    header::HOST,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::ORIGIN,
];

/// Refuses what a proxy in front may read in another way than this server: then a request could be hidden in
/// what one of them takes for the body, and the other for WebSocket frames.
fn check_form(headers: &HeaderMap) -> Result<(), Rejected> {
    let bad = |why: String| Err(Rejected::new(StatusCode::BAD_REQUEST, why));
    if let Some(name) = SINGLE.iter().find(|name| headers.get_all(*name).iter().count() > 1) {
        return bad(format!("there must be one header {name} at most"));
    }
    let has_body = headers.get(header::CONTENT_LENGTH).is_some_and(|len| len != "0")
        || headers.contains_key(header::TRANSFER_ENCODING)
        || headers.contains_key(header::EXPECT);
    if has_body {
        return bad("a request for a WebSocket has no body".to_owned());
    }
    Ok(())
}

/// Whether there is a line that ends without a carriage return, which not everybody takes for an end.
fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

/// A request that does not lead to a WebSocket.
pub(super) struct Rejected {
    status: StatusCode,
    why: String,
}

impl Rejected {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }

    fn bad(error: &Error) -> Self {
        use ProtocolError as P;
        let status = match error {
            Error::Protocol(P::WrongHttpMethod) => StatusCode::METHOD_NOT_ALLOWED,
            Error::Protocol(P::WrongHttpVersion) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Error::Protocol(
                P::MissingConnectionUpgradeHeader
                | P::MissingUpgradeWebSocketHeader
                | P::MissingSecWebSocketVersionHeader,
            ) => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }

    /// For a peer that is not admitted, before its request is looked at.
    pub(super) fn not_admitted(why: &AddError) -> Self {
        let status = match why {
            AddError::Denied(_) => StatusCode::FORBIDDEN,
            AddError::TooManyOfIp { .. } | AddError::TooFast { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, why.to_string())
    }

    /// The response, with its body.
    pub(super) fn response(&self) -> Vec<u8> {
        let Self { status, why } = self;
        let header_of_status = match *status {
            StatusCode::UNAUTHORIZED => "www-authenticate: Bearer\r\n",
            StatusCode::METHOD_NOT_ALLOWED => "allow: GET\r\n",
            StatusCode::UPGRADE_REQUIRED => "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
            _ => "",
        };
        let len = why.len();
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {len}\r\n{header_of_status}\r\n{why}"
        )
        .into_bytes()
    }
}

impl From<Rejected> for HandshakeError {
    fn from(Rejected { status, why }: Rejected) -> Self {
        Self::Http { status: status.as_u16(), why }
    }
}

/// The request at the front of `read`, good or bad, and how long its head is; `None` if that is not all
/// there.
pub(super) fn parse(read: &[u8]) -> Option<(Result<Upgrade, Rejected>, usize)> {
    let rejected = |status, why| Some((Err(Rejected::new(status, why)), read.len()));
    match Request::try_parse(read) {
        Ok(None) if read.len() < MAX_HEAD => None,
        Ok(Some((len, _))) if len <= MAX_HEAD && has_bare_line_feed(&read[..len]) => {
            let why = "a line of the request ends without a carriage return";
            rejected(StatusCode::BAD_REQUEST, why.to_owned())
        }
        Ok(Some((len, head))) if len <= MAX_HEAD => Some((Ok(Upgrade(head)), len)),
        Ok(_) => {
            let why = format!("the head of the request is longer than {MAX_HEAD} bytes");
            rejected(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why)
        }
        Err(error) => Some((Err(Rejected::bad(&error)), read.len())),
    }
}
