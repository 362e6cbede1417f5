//! One page over HTTP.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use log::{debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

const TEMPLATE: &str = include_str!("page.html");

/// How many requests are served at once; others wait in the system's queue.
const AT_ONCE: usize = 32;

/// How long a request and its answer may take, whoever is the slow one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// From one failed accept to the next: what makes it fail, descriptors, may last.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The page, all but what differs from one answer to the next.
pub(crate) struct Page {
    html: String,
    ws_url: String,
}

impl Page {
    /// The page that connects to this URL, both arguments in characters that mean nothing in HTML.
    pub(crate) fn new(ws_url: &str, subprotocol: &str) -> Self {
        let html = TEMPLATE.replace("{{url}}", ws_url).replace("{{subprotocol}}", subprotocol);
        Self { html, ws_url: ws_url.to_owned() }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let mut answer = match (request.uri().path(), request.method()) {
            ("/", &Method::GET | &Method::HEAD) => self.page(),
            ("/", _) => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            _ => plain(StatusCode::NOT_FOUND),
        };
        let headers = answer.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }

    fn page(&self) -> Response<String> {
        // Nobody can guess it, so nothing that gets into the page runs unless it was there when served.
        let nonce = format!("{:032x}", rand::random::<u128>());
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
             img-src data:; connect-src {}; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            self.ws_url
        );
        let Ok(policy) = HeaderValue::try_from(policy) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let mut answer = Response::new(self.html.replace("{{nonce}}", &nonce));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        // A nonce is for one answer, and the URL for one run of the server.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }
}

fn plain(status: StatusCode) -> Response<String> {
    let mut answer = Response::new(format!("{status}\n"));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Serves the page for ever.
pub(crate) async fn serve(listener: TcpListener, page: Page) {
    let page = Rc::new(page);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // Nobody closes the semaphore, so there is always a place to come.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Rc::clone(&page);
                actix::spawn(async move {
                    answer_one(stream, &page).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!("the page is not served for a moment: {error}");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Answers the request of this connection, and closes it.
async fn answer_one(stream: TcpStream, page: &Page) {
    let answer = service_fn(async |request: Request<_>| Ok::<_, Infallible>(page.answer(&request)));
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a request for the page failed: {error}"),
        Err(_) => debug!("a request for the page took too long"),
    }
}
