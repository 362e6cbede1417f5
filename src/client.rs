//! The other end: a client with routes, requests, and a connection that comes back.
//!
//! A [`Client`] is a handle, cheap to clone and usable from any thread; behind it an actor, on the thread
//! where it was started, dials, and dials again when the connection is lost. Each connection is an actor
//! like a server's, with the same framings, deadlines, heartbeats and [`CloseReason`]s, and what the
//! server says goes to routes, as an [`Inbound`](crate::Inbound), unless it answers a request.
//!
//! ```
//! use std::time::Duration;
//!
//! use zinxide::client::Client;
//! use zinxide::testing::{TestServer, settings};
//! use zinxide::{Endpoint, Inbound, Server};
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let server = Server::new(settings()).route_fn(1, async |_: Inbound| (2, "pong"));
//!     let server = TestServer::start(server).await;
//!
//!     let client = Client::builder(Endpoint::tcp("127.0.0.1", server.addr().port()))
//!         .route_fn(7, async |news: Inbound| println!("{}", String::from_utf8_lossy(news.payload())))
//!         .connect()
//!         .await?;
//!     let answer = client.request(1, "ping", 2, Duration::from_secs(5)).await?;
//!     assert_eq!(answer, "pong");
//!
//!     assert!(client.close().await.is_empty());
//!     server.stop().await?;
//!     Ok(())
//! }
//! ```
//!
//! # What becomes of a frame
//!
//! `Ok` means *accepted*. Without a connection, or while frames that were sent without one are on
//! their way to it, an accepted frame is in the offline queue, which has a bound; else it is in the
//! connection's outbox. From the queue it comes back when the client is closed
//! ([`Client::close`]); from the outbox it is sent **at most once**: if the connection breaks before it is
//! written, it is not sent on the next, because the server may have it. It is counted then
//! ([`Event::Closed`](crate::Event::Closed), [`Stats::frames_cut`]), and what the system had taken
//! already may be lost uncounted. Whoever must know asks for an answer: [`Client::request`].
//!
//! Frames that one task sends leave in the order sent, with or without a connection, and whichever of
//! the methods it uses.
//!
//! # Handlers and requests
//!
//! A handler that waits for an answer from its own server must not hold its message meanwhile, and a
//! route function not wait at all: the connection reads no other message before they are done, and the
//! request ends with its deadline. Spawn what asks.

mod actor;
mod backoff;
mod builder;
mod dial;
mod error;
mod queue;
mod replies;
mod requests;
mod shared;
mod state;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "ws")]
mod ws;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::conn::{CloseReason, Conn, SendError, Unsent};
use crate::endpoint::Endpoint;
use crate::event::Stats;
use crate::frame::{Frame, MsgId};
use actor::{ClientActor, Close};
pub use backoff::Backoff;
pub use builder::ClientBuilder;
pub use error::{ConnectError, RequestError};
use queue::Item;
pub use queue::WhenQueueFull;
use requests::Asked;
use shared::Shared;
pub use state::{ClientState, Outage};
#[cfg(feature = "tls")]
pub use tls::Tls;
#[cfg(feature = "ws")]
pub use ws::WebSocket;

/// A request has no longer than a year.
const LONGEST_DEADLINE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A handle to a client: cheap to clone, usable from any thread and after the client's end.
///
/// The drop of the last one closes the client as [`close`](Self::close) does. A route or hook of the client
/// that keeps one keeps the client open.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    actor: Addr<ClientActor>,
}

impl Client {
    /// A client of this endpoint, without routes and hooks.
    pub fn builder(endpoint: Endpoint) -> ClientBuilder {
        ClientBuilder::new(endpoint)
    }

    fn new(shared: Arc<Shared>, actor: Addr<ClientActor>) -> Self {
        Self(Arc::new(Inner { shared, actor }))
    }

    /// Accepts a frame for sending as soon as there is room for it: in the connection's outbox, or in
    /// the offline queue.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the client is closed, [`SendError::TooLarge`] and [`SendError::NoFrame`];
    /// never [`SendError::Full`].
    ///
    /// # Cancel safety
    ///
    /// A future dropped before it is done has accepted nothing: the frame is dropped with it.
    pub async fn send(&self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let Inner { shared, .. } = &*self.0;
        shared.send(Item::new(&shared.limits, Frame::new(id, payload))?).await
    }

    /// Accepts a frame for sending if there is room for it; never waits. What becomes of it if there
    /// is none says the setting `overflow` for the outbox, and
    /// [`offline_queue`](ClientBuilder::offline_queue) for the queue: by default, it is given back.
    ///
    /// # Errors
    ///
    /// [`SendError`], with the frame in it. Never [`SendError::Full`], if the policy is to drop: then
    /// `Ok` may mean dropped and counted.
    pub fn send_buffered(&self, id: MsgId, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let Inner { shared, .. } = &*self.0;
        shared.send_buffered(Item::buffered(&shared.limits, Frame::new(id, payload))?)
    }

    /// Sends a frame, waiting for room as [`send`](Self::send) does, and answers the payload of what
    /// comes back with `reply_id`, if that is by the `deadline`: a time from now, which also runs while
    /// there is no connection.
    ///
    /// Answers are told apart by their order: the next message with `reply_id` is for the request that has
    /// waited for it longest, and if there is none, for the route of that id. So the server must
    /// answer all requests with one reply id, in order. An answer that comes too late is counted and
    /// dropped, and never taken for the next one's.
    ///
    /// An answer that never comes cannot be told from one that is late, so the answer to the next
    /// request is taken for it, and so on, until the connection ends: after eight late answers in a row
    /// for one reply id, with never a moment at which all requests for it were answered, or with 1024 requests
    /// for it that have no answer and nobody who waits, it is closed with [`CloseReason::OutOfStep`] and
    /// dialled anew, as one that is lost. Thus a server that leaves an answer out
    /// costs up to eight further requests, if there is one request at a time with that reply id. With
    /// several at a time, one that still waits gets the answer to the one after it: where a server may
    /// leave answers out, let no two requests with one reply id wait at a time.
    ///
    /// The payload shares the buffer that it was read into: copy it to keep it for long.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; it gives the frame back if it was not sent.
    ///
    /// # Cancel safety
    ///
    /// A request that has not left when the future is dropped is not sent. One that has keeps its place
    /// among those that wait, and its answer is dropped.
    pub async fn request(
        &self,
        id: MsgId,
        payload: impl Into<Bytes>,
        reply_id: MsgId,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        let Inner { shared, .. } = &*self.0;
        // Whoever asks has a share of it as well, until the answer is there.
        let frame = Frame::new(id, payload).guarded();
        let deadline = Instant::now() + deadline.min(LONGEST_DEADLINE);
        let (tell, answer) = oneshot::channel();
        let ticket = Ticket { number: shared.ticket(), shared };
        let mut item = Item::new(&shared.limits, frame.clone())?;
        item.asked = Some(Asked { reply_id, tell });
        item.ticket = ticket.number;
        let mut accepted = false;
        tokio::select! {
            biased;
            answered = async {
                shared.send(item).await?;
                accepted = true;
                // Who would answer is gone only with the whole client.
                answer.await.unwrap_or(Err(RequestError::Disconnected(CloseReason::WorkerGone)))
            } => answered,
            () = shared.sleep_until(deadline) => {
                let sent = accepted && !ticket.withdraw();
                Err(if sent { RequestError::Late } else { RequestError::NotSent(frame) })
            }
        }
    }

    /// The present connection; `None` without one, and when it is about to end. Its
    /// [`stop`](Conn::stop) has the client make another one.
    pub fn conn(&self) -> Option<Conn> {
        self.0.shared.conn()
    }

    /// Whether the client is connected.
    pub fn state(&self) -> ClientState {
        self.0.shared.watched.borrow().clone()
    }

    /// Waits for a state like this, and answers it. The present one counts; one that lasts only for a
    /// moment may be missed.
    ///
    /// [`ClientState::Closed`] comes last: a function that does not take it may wait for ever.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&self, mut is: impl FnMut(&ClientState) -> bool) -> ClientState {
        let mut states = self.0.shared.watched.subscribe();
        loop {
            // A copy: what `is` calls may need the lock that is held by a borrow.
            let state = states.borrow_and_update().clone();
            if is(&state) {
                return state;
            }
            if states.changed().await.is_err() {
                // Not before the handle, which has the other end.
                return ClientState::Closed(None);
            }
        }
    }

    /// What is in the offline queue.
    pub fn queued(&self) -> Unsent {
        self.0.shared.queued()
    }

    /// What has happened so far, as a server counts it.
    pub fn stats(&self) -> Stats {
        self.0.shared.limits.events.stats()
    }

    /// Where it connects.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.shared.endpoint
    }

    /// Closes the client: nothing more is accepted from now on, what was accepted is written within the
    /// drain deadline, then the connection is closed. Done when `on_conn_stop` has run. Requests that
    /// have no answer by then end with an error.
    ///
    /// Answers the frames that were sent without a connection and have not been taken by one since, in
    /// their order; once: the next call finds none.
    ///
    /// Do not await it in a handler of this client: the drain waits for that handler, until its deadline.
    ///
    /// # Cancel safety
    ///
    /// The client is closed all the same when the future is dropped; a later call answers the frames.
    pub fn close(&self) -> impl Future<Output = Vec<Frame>> + use<> {
        self.0.close();
        let client = self.clone();
        async move {
            client.wait_for(ClientState::is_closed).await;
            client.0.shared.take_left()
        }
    }
}

impl Inner {
    fn close(&self) {
        self.shared.shut();
        self.actor.do_send(Close);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes a request back that is in the offline queue when nobody waits for it any more.
struct Ticket<'a> {
    number: u64,
    shared: &'a Shared,
}

impl Ticket<'_> {
    /// True if it was there.
    fn withdraw(&self) -> bool {
        self.shared.withdraw(self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", self.endpoint())
            .field("state", &self.state())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
