//! Supervision of an application's own actor: a room, a world.
//!
//! Actor after actor is run on one mailbox, so that all addresses stay valid.

use std::any::type_name;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, ArbiterHandle, Context, Handler};

use super::Route;
use super::life::{Death, live};
use super::mailbox::Mailbox;
use super::restart::Restarts;
use super::shared::{SharedActor, SharedSource};
use crate::event::{Event, Events};
use crate::inbound::Inbound;

/// The capacity that the mailbox of an actix actor has.
const MAILBOX_CAPACITY: usize = 16;

/// The address of an application's actor that is supervised: when the actor panics or stops, its
/// factory makes another one, and the address stays valid. [`supervise`] and
/// [`Server::supervised`](crate::Server::supervised) return it.
///
/// **Restarts.** A death of an actor that got at least one message costs no pause, up to ten times in a
/// second; more than that cost pauses of 10 ms that double up to 100 ms. An actor that dies before it
/// gets a message (its factory panics, or `started`) pauses for 10 ms that double up to 10 s.
/// Each death is an [`Event::HandlerDied`] with the type of the actor and counts in
/// [`Stats::restarts`](crate::Stats::restarts).
///
/// **What is kept:** the mailbox. What was sent to the actor before its death and after it is handled by
/// the next one, in order. Addresses that the actor got by `ctx.address()` stay valid as well.
///
/// **What is lost:** the actor with its state, the message that it died with, and all futures, timers and
/// streams that it spawned into its context. A `send` that waits for a response to the lost message
/// returns `MailboxError::Closed`; an [`Inbound`] that was lost closes its connection, with
/// [`CloseReason::HandlerPanicked`](crate::CloseReason::HandlerPanicked), or with
/// [`HandlerGone`](crate::CloseReason::HandlerGone) if the actor had only kept it. `stopping` and
/// `stopped` of the dead actor run, as far as they do not panic, then the factory, then `started` of the
/// next one: register there again wherever the actor must be known.
///
/// **While it is down,** during a pause, messages that come by a route are treated as the setting
/// `while_handler_down` of that server says; all others wait in the mailbox.
///
/// **Its end.** Like any actix actor, it ends when nobody has an address of it any more and it has nothing
/// left to do; a route has one. `ctx.stop()` does not end it for good: another one is made. It ends
/// with its arbiter, too.
///
/// ```
/// use actix::{Actor, Context, Handler, Message};
/// use zinxide::{Inbound, Server, Settings};
///
/// #[derive(Default)]
/// struct World {
///     ticks: u64,
/// }
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Tick;
///
/// impl Actor for World {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<Tick> for World {
///     type Result = ();
///
///     fn handle(&mut self, _: Tick, _: &mut Context<Self>) {
///         self.ticks += 1;
///     }
/// }
///
/// impl Handler<Inbound> for World {
///     type Result = ();
///
///     fn handle(&mut self, msg: Inbound, _: &mut Context<Self>) {
///         msg.reply(7, self.ticks.to_string());
///     }
/// }
///
/// # actix::System::new().block_on(async {
/// let server = Server::new(Settings::default());
/// let world = server.supervised(World::default);
/// world.addr().do_send(Tick);
/// let server = server.route_to(7, &world);
/// # });
/// ```
#[must_use = "an actor ends when nobody has its address"]
pub struct SupervisedAddr<A: Actor> {
    addr: Addr<A>,
    supervision: Arc<Supervision>,
}

impl<A: Actor> SupervisedAddr<A> {
    /// The address, which stays valid when the actor dies.
    ///
    /// A route that is made of this address, or of a recipient of it, knows nothing of the supervision: its
    /// messages wait in the mailbox while the actor is down, whatever `while_handler_down` says.
    pub fn addr(&self) -> &Addr<A> {
        &self.addr
    }
}

impl<A: Actor> Clone for SupervisedAddr<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), supervision: Arc::clone(&self.supervision) }
    }
}

impl<A: Actor> fmt::Debug for SupervisedAddr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisedAddr")
            .field("actor", &type_name::<A>())
            .field("down", &self.supervision.is_down())
            .finish_non_exhaustive()
    }
}

impl<A> From<&SupervisedAddr<A>> for Route
where
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    fn from(actor: &SupervisedAddr<A>) -> Self {
        let recipient = actor.addr.clone().recipient();
        let actor = SharedActor::new(recipient, Some(Arc::clone(&actor.supervision)));
        Self(Arc::new(SharedSource(actor)))
    }
}

impl<A> From<SupervisedAddr<A>> for Route
where
    A: Actor<Context = Context<A>> + Handler<Inbound>,
{
    fn from(actor: SupervisedAddr<A>) -> Self {
        Self::from(&actor)
    }
}

/// Starts an actor on this thread and supervises it: see [`SupervisedAddr`]. Its deaths are logged, and from
/// the first server on that routes to it, they are that server's events.
///
/// # Panics
///
/// Without an actix system or arbiter on this thread.
pub fn supervise<A, F>(factory: F) -> SupervisedAddr<A>
where
    A: Actor<Context = Context<A>>,
    F: FnMut() -> A + 'static,
{
    Home::default().supervise(factory)
}

/// Starts an actor on the thread of this arbiter, else as [`supervise`]. If the arbiter has ended, so has the
/// actor.
pub fn supervise_on<A, F>(arbiter: &ArbiterHandle, factory: F) -> SupervisedAddr<A>
where
    A: Actor<Context = Context<A>>,
    F: FnMut() -> A + Send + 'static,
{
    Home::default().supervise_on(arbiter, factory)
}

/// The server whose events the deaths of supervised actors are, when it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Home {
    events: Arc<OnceLock<Arc<Events>>>,
    /// It is settled by the one who made it, and not by the first route.
    is_given: bool,
}

impl Home {
    /// That of actors that were made for a server, which is not there yet.
    pub(crate) fn to_be() -> Self {
        Self { events: Arc::default(), is_given: true }
    }

    pub(crate) fn of(events: &Arc<Events>) -> Self {
        let home = Self::to_be();
        home.settle(events);
        home
    }

    /// The server is there. The first one counts.
    pub(crate) fn settle(&self, events: &Arc<Events>) {
        let _ = self.events.set(Arc::clone(events));
    }

    pub(crate) fn supervise<A, F>(&self, factory: F) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + 'static,
    {
        let (actor, receiver) = self.new_actor();
        actix_rt::spawn(run(factory, receiver, Arc::clone(&actor.supervision)));
        actor
    }

    pub(crate) fn supervise_on<A, F>(
        &self,
        arbiter: &ArbiterHandle,
        factory: F,
    ) -> SupervisedAddr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnMut() -> A + Send + 'static,
    {
        let (actor, receiver) = self.new_actor();
        let supervision = Arc::clone(&actor.supervision);
        // An arbiter that has ended drops the receiver, which is how an actor ends.
        let _ =
            arbiter.spawn_fn(move || drop(actix_rt::spawn(run(factory, receiver, supervision))));
        actor
    }

    fn new_actor<A: Actor<Context = Context<A>>>(&self) -> (SupervisedAddr<A>, AddressReceiver<A>) {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        let supervision = Supervision { home: self.clone(), down: AtomicBool::new(false) };
        (SupervisedAddr { addr: Addr::new(sender), supervision: Arc::new(supervision) }, receiver)
    }
}

/// What the routes to a supervised actor and its supervisor have in common.
#[derive(Debug)]
pub(crate) struct Supervision {
    home: Home,
    /// It is dead, started again after a pause, and not there yet.
    down: AtomicBool,
}

impl Supervision {
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub(super) fn routed_by(&self, events: &Arc<Events>) {
        if !self.home.is_given {
            self.home.settle(events);
        }
    }

    fn emit(&self, event: Event<'_>) {
        match self.home.events.get() {
            Some(events) => events.emit(event),
            // Logs it.
            None => Events::default().emit(event),
        }
    }
}

/// Runs actor after actor on a mailbox, until nobody has its address.
async fn run<A, F>(mut factory: F, receiver: AddressReceiver<A>, supervision: Arc<Supervision>)
where
    A: Actor<Context = Context<A>>,
    F: FnMut() -> A,
{
    let mailbox = Rc::new(Mailbox::new(receiver, Arc::clone(&supervision)));
    let mut restarts = Restarts::new();
    loop {
        restarts.begin();
        let alive = Rc::new(Cell::new(true));
        let died = live(
            &alive,
            || mailbox.begin(&alive, &mut factory),
            |life| mailbox.resume(&alive, life),
        );
        let died = died.await;
        if !mailbox.is_connected() && mailbox.is_empty() {
            return;
        }
        let pause = restarts.pause_after(mailbox.take_delivered());
        if !pause.is_zero() {
            supervision.set_down(true);
        }
        supervision.emit(Event::HandlerDied {
            actor: type_name::<A>(),
            message: None,
            panicked: died == Death::Panicked,
            pause,
        });
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}
