//! Builds a client out of its parts.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, System};
use tokio::sync::{Notify, oneshot};

#[cfg(doc)]
use super::Outage;
use super::actor::{ClientActor, First, Life};
use super::dial::Dialer;
use super::shared::Shared;
#[cfg(feature = "tls")]
use super::tls::Tls;
#[cfg(feature = "ws")]
use super::ws::WebSocket;
use super::{Backoff, Client, ConnectError, WhenQueueFull, replies};
use crate::codec::framing::Framing;
use crate::conn::{CloseReason, Conn, Unsent};
use crate::conn_manager::{Admission, ConnManager};
use crate::connection::{Heartbeat, Hooks, Lives, Local, Watermark, watch};
use crate::endpoint::{Endpoint, Scheme};
use crate::event::{Event, Events, Observer};
use crate::frame::MsgId;
use crate::inbound::Inbound;
use crate::router::{IntoReply, Route, Surroundings};
use crate::settings::Settings;
use crate::transport::{Acknowledged, TcpOptions};
use crate::unwind::Guard;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const QUEUE: Unsent = Unsent { frames: 64, bytes: 64 * 1024 };

/// A client to be: where it connects, with which routes and hooks.
///
/// It needs a running actix [`System`]: `#[actix::main]` or `#[actix::test]`. Everything of it runs on
/// the thread where it is started; a handler that works long belongs on an actor elsewhere.
#[must_use = "a client does nothing until it is started"]
pub struct ClientBuilder {
    endpoint: Endpoint,
    settings: Settings,
    routes: Vec<(MsgId, Route)>,
    others: Option<Route>,
    hooks: Hooks,
    observer: Option<Observer>,
    framing: Option<Arc<dyn Framing>>,
    backoff: Option<Backoff>,
    queue: Unsent,
    when_full: WhenQueueFull,
    final_id: Option<MsgId>,
    connect_deadline: Duration,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    #[cfg(feature = "ws")]
    ws: Option<WebSocket>,
}

impl ClientBuilder {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            settings: Settings::default(),
            routes: Vec::new(),
            others: None,
            hooks: Hooks::default(),
            observer: None,
            framing: None,
            backoff: Some(Backoff::default()),
            queue: QUEUE,
            when_full: WhenQueueFull::Refuse,
            final_id: None,
            connect_deadline: CONNECT_DEADLINE,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "ws")]
            ws: None,
        }
    }

    /// Messages with this id go to a handler actor, which `factory` makes on the client's thread: see
    /// [`Route::actor`].
    pub fn route<A, F>(self, id: MsgId, factory: F) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Inbound>,
        F: Fn() -> A + Send + Sync + 'static,
    {
        self.add_route(id, Route::actor(factory))
    }

    /// Messages with this id go to one shared actor, as
    /// [`Server::route_to`](crate::Server::route_to) does it.
    pub fn route_to(self, id: MsgId, actor: impl Into<Route>) -> Self {
        self.add_route(id, actor.into())
    }

    /// Messages with this id go to an async function, whose return value is the answer: see
    /// [`Route::function`].
    pub fn route_fn<F, R>(self, id: MsgId, f: F) -> Self
    where
        F: AsyncFn(Inbound) -> R + Send + Sync + 'static,
        R: IntoReply + 'static,
    {
        self.add_route(id, Route::function(f))
    }

    /// Messages with this id take this route. Two routes for one id are an error of
    /// [`connect`](Self::connect); one route, cloned, may serve several ids.
    pub fn add_route(mut self, id: MsgId, route: Route) -> Self {
        self.routes.push((id, route));
        self
    }

    /// Messages without another route take this one. Events that name the message of a handler actor
    /// call it 0 if the actor is this route's.
    pub fn route_others(mut self, route: Route) -> Self {
        self.others = Some(route);
        self
    }

    /// Calls `hook` for each connection, the first and those after it, before its first message is
    /// handled. What it sends on the connection is sent before what waits in the offline queue: to log
    /// in, say.
    ///
    /// It runs on the client's thread and holds it up, so it must not block. If it panics, the
    /// connection is closed with [`CloseReason::HookPanicked`].
    pub fn on_conn_start(mut self, hook: impl Fn(&Conn) + Send + Sync + 'static) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_start = Some(Box::new(move |conn| hook(conn)));
        self
    }

    /// Calls `hook` when a connection has ended, after its last message: exactly once for each
    /// connection that [`on_conn_start`](Self::on_conn_start) was called for, or would have been.
    ///
    /// It runs on the client's thread and holds it up, so it must not block. The socket is closed by
    /// then; properties are still there, and are dropped after it. A panic in it is logged.
    pub fn on_conn_stop(
        mut self,
        hook: impl Fn(&Conn, &CloseReason) + Send + Sync + 'static,
    ) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_stop = Some(Box::new(move |conn, why| hook(conn, why)));
        self
    }

    /// Calls `hook` when the server takes less than what is sent to it, and when it has made up for
    /// that: see [`Watermark`].
    ///
    /// It runs on the client's thread and holds it up, so it must not block. A panic in it is logged.
    pub fn on_watermark(mut self, hook: impl Fn(&Conn, Watermark) + Send + Sync + 'static) -> Self {
        let hook = Guard::new(hook);
        self.hooks.on_watermark = Some(Box::new(move |conn, mark| hook(conn, mark)));
        self
    }

    /// Tells `observer` of everything that happens, beside the log and the counters.
    ///
    /// It runs wherever something happens, on any thread, and holds that up, so it must not block. A
    /// panic in it is logged.
    pub fn on_event(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let observer = Guard::new(observer);
        self.observer = Some(Box::new(move |event| observer(event)));
        self
    }

    /// Sends heartbeats on the connection, and closes it, to make another one, if the server gives no
    /// sign of life.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.hooks.heartbeat = Some(heartbeat);
        self
    }

    /// Cuts frames out of the byte stream by `framing`, instead of by the setting `wire_format`.
    pub fn framing(mut self, framing: impl Framing) -> Self {
        self.framing = Some(Arc::new(Guard::new(framing)));
        self
    }

    /// Takes these settings for its connections, in the place of the defaults.
    ///
    /// Those of them count that say something of a connection, with the server in the place of the peer:
    /// `wire_format`, `max_packet_size`, the window (`max_worker_task_len`), the outbox (`max_msg_chan_len`,
    /// `max_msg_chan_bytes`, `overflow`, the watermarks, `max_unsent_bytes`), the deadlines
    /// (`write_deadline_ms`, `first_message_deadline_ms`, `frame_deadline_ms`, `idle_deadline_ms`,
    /// `write_idle_deadline_ms`, `handler_deadline_ms`, `drain_deadline_ms`), the rates,
    /// `while_handler_down`, `unrouted`, and those that begin with `tcp_` but for the port. Those of
    /// listening, admission, workers and broadcasts mean nothing here, nor do `handshake_deadline_ms`, which is
    /// for a server's side of handshakes ([`connect_deadline`](Self::connect_deadline) is for this one), and
    /// `notice_ms`.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Dials again in this manner when the connection is lost.
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Closes the client when its connection is lost, or the first dial fails.
    pub fn no_reconnect(mut self) -> Self {
        self.backoff = None;
        self
    }

    /// A message with this id says that the close which follows it is final: the client does not connect
    /// again, however that connection ends, and is closed, with [`Outage::Final`]. The message goes to its
    /// route all the same. A second call takes the place of the first.
    ///
    /// It is the last frame of a server's [`Goodbye`](crate::Goodbye), for transports that have no close
    /// codes. Over WebSocket the codes from 4000 to 4499 are final without it; there, too, a frame with this
    /// id counts, whatever the code is.
    pub fn final_id(mut self, id: MsgId) -> Self {
        self.final_id = Some(id);
        self
    }

    /// How much is accepted while there is no connection, in frames and in bytes with headers, and what
    /// becomes of a frame for which there is no room. By default, 64 frames and 64 KiB, and it is given
    /// back.
    ///
    /// When there is a connection, what is queued is sent before everything else.
    pub fn offline_queue(mut self, frames: usize, bytes: usize, when_full: WhenQueueFull) -> Self {
        self.queue = Unsent { frames, bytes };
        self.when_full = when_full;
        self
    }

    /// How long a dial may take, from the host's name to the last handshake; 10 s by default. A host of
    /// several addresses gives each an equal share of it.
    pub fn connect_deadline(mut self, time: Duration) -> Self {
        self.connect_deadline = time;
        self
    }

    /// Whom to trust at `tls://` and `wss://` endpoints, and who to be. At others it is an error:
    /// [`ConnectError::Unused`].
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What else to say to `ws://` and `wss://` endpoints. At others it is an error:
    /// [`ConnectError::Unused`].
    #[cfg(feature = "ws")]
    pub fn websocket(mut self, ws: WebSocket) -> Self {
        self.ws = Some(ws);
        self
    }

    /// Starts the client. Done when it is connected for the first time: `on_conn_start` has run, and
    /// messages go to their routes.
    ///
    /// Over `tcp://` that means that the server's *system* has taken the connection. A server that is full,
    /// or does not want this client, closes it after that, and `connect` does not wait for it: in some
    /// protocols the client speaks first. The client learns of it as of a failed attempt (if the
    /// server closes before it has sent a byte: [`ConnectError::ClosedBeforeFirstByte`], in
    /// [`Outage::Failed`] and [`Event::ConnectFailed`]), or of a connection that ended, and
    /// tries again. A program that must know that it is admitted waits for the server's first message. Over
    /// `tls://`, `ws://` and `wss://` a handshake with the server comes first, so that a refusal is an
    /// error of `connect`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], also if the first dial fails: dialling again is for connections that are lost.
    /// [`start`](Self::start) has more patience.
    ///
    /// # Blocking
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the client is closed.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let (tell, first) = oneshot::channel();
        let client = self.start_with(Some(tell))?;
        first.await.unwrap_or(Err(ConnectError::Closed))?;
        Ok(client)
    }

    /// Starts the client without waiting for a connection. It dials until it has one, or gives up; what
    /// is sent meanwhile is queued.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], for what no further dial could mend: bad settings, certificates or headers, two
    /// routes with one id, a part that means nothing at the endpoint, a feature that is not compiled in, no
    /// actix system.
    ///
    /// # Blocking
    ///
    /// A client of a `tls://` or `wss://` endpoint without roots of its own (`Tls::roots_pem`) reads those of
    /// the system, from files, which holds the thread up for some tens of milliseconds. A program that
    /// starts many reads them once itself, and gives them to all.
    pub fn start(self) -> Result<Client, ConnectError> {
        self.start_with(None)
    }

    fn start_with(self, first: Option<First>) -> Result<Client, ConnectError> {
        let Self { endpoint, settings, routes, mut hooks, observer, framing, .. } = self;
        settings.validate()?;
        has_features(endpoint.scheme)?;
        #[cfg(feature = "tls")]
        let tls = used(self.tls, endpoint.scheme, "tls", Scheme::has_tls)?;
        #[cfg(feature = "ws")]
        let ws = used(self.ws, endpoint.scheme, "websocket", Scheme::has_ws)?;
        #[cfg(feature = "ws")]
        if let Some(ws) = &ws {
            ws.check(&endpoint)?;
        }
        if System::try_current().is_none() {
            return Err(ConnectError::NoSystem);
        }
        let events = Events::start(observer);
        let mut limits = settings.limits(Arc::clone(&events));
        limits.codec = settings.codec(framing);
        let limits = Arc::new(limits);
        let surroundings = Surroundings { events, while_down: settings.while_handler_down };
        let dialer = Dialer {
            deadline: self.connect_deadline,
            tcp: TcpOptions::new(&settings),
            #[cfg(feature = "tls")]
            tls: tls.map(|tls| tls.set_up(&endpoint.host)).transpose()?,
            #[cfg(feature = "ws")]
            ws: ws.map(|ws| (ws, limits.codec.clone())),
            endpoint: endpoint.clone(),
        };
        let (bound, when_full) = (self.queue, self.when_full);
        let shared = Shared::new(endpoint, Arc::clone(&limits), bound, when_full, self.final_id);
        let shared = Arc::new(shared);
        let started = Arc::new(Notify::new());
        let (up, told, hook) = (Arc::clone(&shared), Arc::clone(&started), hooks.on_start.take());
        hooks.on_start = Some(Box::new(move |conn| {
            if let Some(hook) = &hook {
                hook(conn);
            }
            up.up(conn);
            told.notify_one();
        }));

        let lives = Lives::default();
        let local = Rc::new(Local::new(Arc::new(hooks), lives.clone(), Acknowledged::default()));
        replies::install(&local.routes, routes, self.others, &shared, &surroundings)?;
        watch(&local, &limits.patience);
        // The rules of admission are for peers that dial.
        let admission = Admission::new(&Settings::default());
        let manager = ConnManager::with_workers(admission, limits, Vec::new()).start();
        let life = Life {
            shared: Arc::clone(&shared),
            dialer,
            backoff: self.backoff,
            local,
            lives,
            manager: Arc::new(manager),
            started,
            first,
            closing: Rc::default(),
        };
        Ok(Client::new(shared, ClientActor::new(life).start()))
    }
}

fn has_features(scheme: Scheme) -> Result<(), ConnectError> {
    match scheme.missing_feature() {
        Some(feature) => Err(ConnectError::NoFeature { scheme, feature }),
        None => Ok(()),
    }
}

/// What the client was given of a layer that the endpoint has, or else the default. `None` if the
/// endpoint has none.
#[cfg(any(feature = "tls", feature = "ws"))]
fn used<T: Default>(
    given: Option<T>,
    scheme: Scheme,
    part: &'static str,
    has: fn(Scheme) -> bool,
) -> Result<Option<T>, ConnectError> {
    match (given, has(scheme)) {
        (Some(_), false) => Err(ConnectError::Unused { scheme, part }),
        (None, false) => Ok(None),
        (given, true) => Ok(Some(given.unwrap_or_default())),
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.routes.iter().map(|(id, _)| id).collect();
        f.debug_struct("ClientBuilder")
            .field("endpoint", &self.endpoint)
            .field("settings", &self.settings)
            .field("routes", &ids)
            .field("hooks", &self.hooks)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}
