//! Worker arbiters: a thread each, with the connections it serves and its handler actors.

use std::cell::OnceCell;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture};
use actix_rt::Arbiter;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout_at};

use super::error::ServerError;
use super::refusal::TurnAway;
use super::watchdog::{Vitals, Watched};
use crate::conn::{CloseReason, Conn, Encoded, Intake, Limits, Overflow, Pushed, Slot};
use crate::conn_manager::{BroadcastReport, Fanout, Registration};
use crate::connection::{Connection, Hooks, Lives, Local, shake_hands, watch};
use crate::event::{Event, Events};
use crate::router::{Publish, Redeliver, RouterWorker, Surroundings};
use crate::settings::Settings;
use crate::transport::{Acknowledged, Boxed, Plain, Stack, TcpOptions};
use crate::turn::others;

/// How many connections a broadcast serves before the worker's other tasks get their turn.
const FANOUT_RUN: usize = 256;

/// How many sockets that were accepted a worker takes before its other tasks get their turn: each takes some
/// 20 to 50 us, and a look at the clock would cost as much as a part of the pause.
const ACCEPTED_RUN: u32 = 16;

/// How long a worker may take to end when all its connections have.
const JOIN_DEADLINE: Duration = Duration::from_secs(1);

/// Serves an admitted connection on this worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Serve {
    pub(crate) conn: Conn,
    pub(crate) stream: StdTcpStream,
    pub(crate) stack: Stack,
    /// When the socket was accepted.
    pub(crate) began: Instant,
    /// Among the handshakes; `None` if there is none to be made.
    pub(crate) slot: Option<Slot>,
    pub(crate) registration: Registration,
    pub(crate) waits: Waits,
}

/// A socket that waits for its worker to take it, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The actor through which the other threads reach what is on this one.
pub(crate) struct Worker {
    local: Rc<Local>,
    tcp: TcpOptions,
    surroundings: Surroundings,
    /// Held by the broadcast that is under way, so that all connections see the same order.
    fanout: Rc<Mutex<()>>,
    /// How many sockets that were accepted it has taken since the others had their turn.
    accepted: u32,
}

thread_local! {
    /// Dropped when the thread ends, and everything on it has.
    static LOST: OnceCell<Lost> = const { OnceCell::new() };
}

/// Its drop tells that a worker has ended.
struct Lost {
    index: usize,
    tell: mpsc::UnboundedSender<usize>,
}

impl Drop for Lost {
    fn drop(&mut self) {
        // A server that has ended knows.
        let _ = self.tell.send(self.index);
    }
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // What comes here is bounded by the number of connections and of routes. A sender that
        // waits for room would be overtaken by the next.
        ctx.set_mailbox_capacity(0);
    }
}

impl Worker {
    fn new(local: Rc<Local>, tcp: TcpOptions, surroundings: Surroundings) -> Self {
        Self { local, tcp, surroundings, fanout: Rc::default(), accepted: 0 }
    }

    /// Does what a socket needs that was accepted. In a storm of them, those that wait in the mailbox go on
    /// when the others had their turn.
    fn take(&mut self, ctx: &mut Context<Self>, work: impl FnOnce(&Self)) {
        work(self);
        self.accepted += 1;
        if self.accepted == ACCEPTED_RUN {
            self.accepted = 0;
            // New messages wake the worker's own task.
            let others = actix_rt::spawn(others());
            ctx.wait(wrap_future(others).map(|_, _, _| ()));
        }
    }

    fn serve(&self, msg: Serve) {
        let Serve { conn, stream, stack, began, slot, registration, waits } = msg;
        drop(waits);
        let local = Rc::clone(&self.local);
        match self.tcp.apply(&stream).and_then(|()| TcpStream::from_std(stream)) {
            Ok(stream) => match slot {
                Some(slot) => shake_hands(local, conn, stream, stack, began, slot, registration),
                None => {
                    let transport = {
                        let intake = Intake::new(conn.shared().limits.intake.as_ref());
                        Some(Box::new(Plain::bounded(stream, intake)) as Boxed)
                    };
                    Connection::start_on(local, conn, transport, registration);
                }
            },
            // The dialler is gone already, as a rule. The drop of the registration tells the manager.
            Err(error) => conn.close(CloseReason::Io(error.kind())),
        }
    }
}

impl Handler<Serve> for Worker {
    type Result = ();

    fn handle(&mut self, serve: Serve, ctx: &mut Context<Self>) {
        self.take(ctx, |this| this.serve(serve));
    }
}

impl Handler<TurnAway> for Worker {
    type Result = ();

    fn handle(&mut self, turn_away: TurnAway, ctx: &mut Context<Self>) {
        self.take(ctx, |this| turn_away.tell(Rc::clone(&this.local)));
    }
}

impl Handler<Publish> for Worker {
    type Result = ();

    fn handle(&mut self, news: Publish, _: &mut Context<Self>) {
        self.local.routes.follow(news, &self.surroundings);
    }
}

/// Asks how often the routes of a worker have changed.
#[cfg(test)]
#[derive(Debug, Message)]
#[rtype(result = "u64")]
pub(crate) struct RouteChanges;

#[cfg(test)]
impl Handler<RouteChanges> for Worker {
    type Result = u64;

    fn handle(&mut self, _: RouteChanges, _: &mut Context<Self>) -> u64 {
        self.local.routes.version()
    }
}

impl Handler<Redeliver> for Worker {
    type Result = ();

    fn handle(&mut self, Redeliver(message): Redeliver, _: &mut Context<Self>) {
        self.local.routes.redeliver(message);
    }
}

impl Handler<Fanout> for Worker {
    type Result = ResponseFuture<BroadcastReport>;

    fn handle(&mut self, broadcast: Fanout, _: &mut Context<Self>) -> Self::Result {
        let Fanout { encoded, overflow } = broadcast;
        let (local, fanout) = (Rc::clone(&self.local), Rc::clone(&self.fanout));
        // tokio's budget would send most writes the long way round; the run is bounded here.
        Box::pin(tokio::task::unconstrained(async move {
            let _order = fanout.lock().await;
            fan_out(&local, &encoded, overflow).await
        }))
    }
}

async fn fan_out(local: &Local, encoded: &Encoded, overflow: Overflow) -> BroadcastReport {
    let mut report = BroadcastReport::default();
    let mut from = Some(0);
    while let Some(key) = from {
        let (links, next) = local.some_links(key, FANOUT_RUN);
        for link in links {
            let pushed = link.send_encoded(encoded, overflow);
            if pushed == Pushed::Accepted {
                link.pulse.write(local.now());
            }
            report.count(&link.conn, pushed, overflow);
        }
        from = next;
        if from.is_some() {
            tokio::task::yield_now().await;
        }
    }
    report
}

/// The workers of a server.
pub(crate) struct Workers {
    seats: Vec<Seat>,
    /// Tells which worker has ended.
    lost: mpsc::UnboundedReceiver<usize>,
    lives: Lives,
}

/// Not all workers could be started.
#[derive(Debug)]
pub(crate) struct TooFew {
    started: usize,
    wanted: usize,
    source: io::Error,
}

impl From<TooFew> for ServerError {
    fn from(TooFew { started, wanted, source }: TooFew) -> Self {
        Self::Workers { started, wanted, source }
    }
}

struct Seat {
    arbiter: Arbiter,
    addr: Addr<Worker>,
    load: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    watched: Watched,
    ended: bool,
}

impl Workers {
    /// Starts the threads, all of them or none. The caller has made sure that an actix system runs.
    pub(crate) fn start(
        settings: &Settings,
        hooks: &Arc<Hooks>,
        limits: &Arc<Limits>,
        surroundings: &Surroundings,
    ) -> Result<Self, TooFew> {
        let (tell, lost) = mpsc::unbounded_channel();
        let (tcp, wanted) = (TcpOptions::new(settings), settings.workers());
        let acknowledged = Acknowledged::default();
        let mut workers = Self { seats: Vec::new(), lost, lives: Lives::default() };
        for index in 0..wanted {
            let lost = Lost { index, tell: tell.clone() };
            let arbiter = Arbiter::try_with_tokio_rt(move || {
                // The thread is this worker's alone.
                LOST.with(|cell| drop(cell.set(lost)));
                Builder::new_current_thread().enable_all().build()
            });
            let arbiter = match arbiter {
                Ok(arbiter) => arbiter,
                Err(source) => {
                    let started = workers.seats.len();
                    workers.call_off();
                    return Err(TooFew { started, wanted, source });
                }
            };
            let (hooks, limits) = (Arc::clone(hooks), Arc::clone(limits));
            let (surroundings, lives) = (surroundings.clone(), workers.lives.clone());
            let acknowledged = acknowledged.clone();
            let vitals = Vitals::default();
            let watched = vitals.watched();
            let addr = Worker::start_in_arbiter(&arbiter.handle(), move |_| {
                let local = Rc::new(Local::new(hooks, lives, acknowledged));
                watch(&local, &limits.patience);
                if let Some(deadline) = limits.patience.handler {
                    vitals.show(deadline);
                }
                Worker::new(local, tcp, surroundings)
            });
            let (load, waiting) = Default::default();
            workers.seats.push(Seat { arbiter, addr, load, waiting, watched, ended: false });
        }
        Ok(workers)
    }

    /// Ends workers that have had nothing to do yet, and so end at once.
    pub(crate) fn call_off(mut self) {
        for Seat { arbiter, .. } in self.seats.drain(..) {
            arbiter.stop();
            let _ = arbiter.join();
        }
    }

    /// The next worker that has ended. Cancel safe.
    pub(crate) async fn lost(&mut self) -> usize {
        match self.lost.recv().await {
            Some(index) => {
                self.seats[index].ended = true;
                index
            }
            None => std::future::pending().await,
        }
    }

    /// The next one, if there is one by now.
    pub(crate) fn also_lost(&mut self) -> Option<usize> {
        let index = self.lost.try_recv().ok()?;
        self.seats[index].ended = true;
        Some(index)
    }

    /// Whether all have ended.
    pub(crate) fn are_gone(&self) -> bool {
        self.seats.iter().all(|seat| seat.ended)
    }

    /// Waits until no connection is left, whatever the table says.
    pub(crate) async fn connections_over(&self) {
        self.lives.over().await;
    }

    /// Connections that are not in the table, and whose handlers are at work.
    pub(crate) fn outlasting(&self) -> Vec<Conn> {
        self.lives.outlasting()
    }

    pub(crate) fn watched(&self) -> Vec<Watched> {
        self.seats.iter().map(|seat| seat.watched.clone()).collect()
    }

    pub(crate) fn fanouts(&self) -> Vec<Recipient<Fanout>> {
        self.seats.iter().map(|seat| seat.addr.clone().recipient()).collect()
    }

    pub(crate) fn for_router(&self) -> Vec<RouterWorker> {
        let of = |seat: &Seat| RouterWorker {
            publish: seat.addr.clone().recipient(),
            redeliver: seat.addr.clone().recipient(),
        };
        self.seats.iter().map(of).collect()
    }

    pub(crate) fn placement(&self) -> Placement {
        let place = |(index, seat): (usize, &Seat)| Place {
            index,
            addr: seat.addr.clone(),
            load: Arc::clone(&seat.load),
            waiting: Arc::clone(&seat.waiting),
        };
        Placement(self.seats.iter().enumerate().map(place).collect())
    }

    /// Stops the threads and waits for their end, but not for ever: a thread that a handler blocks
    /// cannot be ended. Answers how many of those there are.
    pub(crate) async fn stop(mut self, events: &Events) -> usize {
        for seat in &self.seats {
            seat.arbiter.stop();
        }
        let deadline = Instant::now() + JOIN_DEADLINE;
        while !self.are_gone() && timeout_at(deadline, self.lost()).await.is_ok() {}
        let mut stuck = 0;
        for (worker, seat) in self.seats.drain(..).enumerate() {
            if seat.ended {
                // It told so as one of the last things that its thread does.
                let _ = seat.arbiter.join();
            } else {
                events.emit(Event::WorkerStuck { worker });
                stuck += 1;
            }
        }
        stuck
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for seat in &self.seats {
            seat.arbiter.stop();
        }
    }
}

/// Where the next connection goes.
pub(crate) struct Placement(Vec<Place>);

/// One worker as the acceptor sees it.
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) addr: Addr<Worker>,
    load: Arc<AtomicUsize>,
    /// How many sockets wait to be taken.
    waiting: Arc<AtomicUsize>,
}

impl Place {
    /// One more socket waits.
    pub(crate) fn waits(&self) -> Waits {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(&self.waiting))
    }

    pub(crate) fn load(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.load)
    }
}

impl Placement {
    /// Whether so many sockets wait for one of the workers that it has enough to do for some milliseconds.
    pub(crate) fn is_behind(&self) -> bool {
        let most = 8 * ACCEPTED_RUN as usize;
        self.0.iter().any(|place| place.waiting.load(Ordering::Relaxed) > most)
    }

    /// The worker with the fewest connections, of those that are alive.
    pub(crate) fn least_loaded(&self) -> Option<&Place> {
        let alive = self.0.iter().filter(|place| place.addr.connected());
        alive.min_by_key(|place| place.load.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
