//! The server of a case: its routes and hooks, which write down what they do.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use tokio::sync::{Semaphore, SemaphorePermit};
use zinxide::{CloseReason, Conn, Inbound, MsgId, Route, SendError, Server, ServerHandle};

use crate::actions::{Say, Setup, Way};
use crate::journal::{Event, Handling, Journal, seq_of};
use crate::senders::Senders;

/// What handlers and hooks have in common.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) journal: Arc<Journal>,
    pub(crate) senders: Arc<Senders>,
    pub(crate) gate: Arc<Semaphore>,
    handle: Arc<OnceLock<ServerHandle>>,
}

/// What the start hook leaves for the stop hook.
struct Mark(u64);

impl Say {
    pub(crate) fn id(self) -> MsgId {
        1 + self as MsgId
    }

    /// Whether the message gets an answer, which is the message itself.
    pub(crate) fn is_answered(self) -> bool {
        use Say as S;
        matches!(
            self,
            S::Function | S::Waiting | S::Gated | S::Chatty | S::Actor | S::Shared | S::Stopping
        )
    }

    pub(crate) fn panics(self) -> bool {
        matches!(self, Self::PanickingFunction | Self::PanickingActor)
    }

    pub(crate) fn clears(self) -> bool {
        matches!(self, Self::ClearingFunction | Self::ClearingActor)
    }
}

impl Application {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            journal: Arc::new(Journal::new(patience)),
            senders: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            handle: Arc::default(),
        }
    }

    /// Makes the server known to its own handlers.
    pub(crate) fn serves(&self, handle: &ServerHandle) {
        self.journal.watch(handle.connections());
        self.senders.watch(handle);
        assert!(self.handle.set(handle.clone()).is_ok());
    }

    fn handle(&self) -> &ServerHandle {
        self.handle.get().expect("it is known before anybody dials")
    }

    fn begin(&self, message: &Inbound) -> Handling {
        Handling::begin(&self.journal, message)
    }

    pub(crate) fn server(&self, setup: &Setup) -> Server {
        let (start, stop, in_worker) = (self.clone(), self.clone(), self.clone());
        // One actor with three ids: a message that kills it stands in one queue with the others.
        let worker = Route::actor(move || Worker(in_worker.clone()));
        let shared = Shared(self.clone()).start().recipient();
        let server = Server::new(setup.settings())
            .on_conn_start(move |conn| start.started(conn))
            .on_conn_stop(move |conn, why| stop.stopped(conn, why))
            .add_route(Say::Actor.id(), worker.clone())
            .add_route(Say::PanickingActor.id(), worker.clone())
            .add_route(Say::ClearingActor.id(), worker)
            .route_to(Say::Shared.id(), shared);
        self.functions(server)
    }

    fn functions(&self, server: Server) -> Server {
        let it = || self.clone();
        let (all, waiting, gated, chatty) = (it(), it(), it(), it());
        let (panicking, stopping, clearing) = (it(), it(), it());
        server
            .route_fn(Say::Function.id(), async move |message: Inbound| {
                all.begin(&message).done();
                message
            })
            .route_fn(Say::Waiting.id(), async move |message: Inbound| {
                let handling = waiting.begin(&message);
                for _ in 0..=seq_of(message.payload()) % 4 {
                    tokio::task::yield_now().await;
                }
                handling.done();
                message
            })
            .route_fn(Say::Gated.id(), async move |mut message: Inbound| {
                let handling = gated.begin(&message);
                // An error opens it for good.
                let _ = gated.gate.acquire().await.map(SemaphorePermit::forget);
                handling.done();
                (message.id(), message.take_payload())
            })
            .route_fn(Say::Chatty.id(), async move |message: Inbound| {
                let handling = chatty.begin(&message);
                let ways = [Way::Buffered, Way::Awaited, Way::Buffered];
                chatty.senders.hire().send(message.conn(), &ways, 100).await;
                handling.done();
                message
            })
            .route_fn(Say::PanickingFunction.id(), async move |message: Inbound| {
                let _handling = panicking.begin(&message);
                panic_on_purpose();
            })
            .route_fn(Say::Stopping.id(), async move |message: Inbound| {
                let handling = stopping.begin(&message);
                message.conn().stop();
                handling.done();
                message
            })
            .route_fn(Say::ClearingFunction.id(), async move |message: Inbound| {
                let handling = clearing.begin(&message);
                clearing.clear_from_inside(message.conn()).await;
                handling.done();
            })
    }

    async fn clear_from_inside(&self, conn: &Conn) {
        self.handle().clear_conn().await;
        assert!(conn.is_closed());
        assert!(self.handle().connections().get(conn.id()).is_none(), "{conn} is still there");
    }

    fn started(&self, conn: &Conn) {
        self.journal.meet(conn);
        assert!(conn.set_property(Mark(conn.id())).is_none(), "{conn} started twice");
        self.journal.write(conn.id(), Event::Started);
    }

    fn stopped(&self, conn: &Conn, why: &CloseReason) {
        self.journal.write(conn.id(), Event::Stopped(why.clone()));
        assert_eq!(conn.property::<Mark>().map(|mark| mark.0), Some(conn.id()));
        assert!(matches!(conn.send_buffered(0, "too late"), Err(SendError::Closed(_))));
    }
}

fn panic_on_purpose() {
    panic!("on purpose");
}

/// The handler actor of each worker.
struct Worker(Application);

impl Actor for Worker {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Worker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) -> ResponseFuture<()> {
        let handling = self.0.begin(&message);
        if message.id() == Say::ClearingActor.id() {
            let application = self.0.clone();
            return Box::pin(async move {
                application.clear_from_inside(message.conn()).await;
                handling.done();
            });
        }
        if message.id() == Say::PanickingActor.id() {
            panic_on_purpose();
        }
        handling.done();
        let (id, conn) = (message.id(), message.conn().id());
        let (seq, payload) = (seq_of(message.payload()), message.payload().to_vec());
        if message.try_reply(id, payload).is_err() {
            self.0.journal.write(conn, Event::Refused(seq));
        }
        Box::pin(std::future::ready(()))
    }
}

/// One actor for all workers.
struct Shared(Application);

impl Actor for Shared {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Shared {
    type Result = ();

    fn handle(&mut self, message: Inbound, _: &mut Context<Self>) {
        self.0.begin(&message).done();
        message.echo();
    }
}
