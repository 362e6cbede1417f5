use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

use actix::Actor;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::conn_manager::Len;
use crate::connection::Hooks;
use crate::endpoint::Scheme;
use crate::event::Events;
use crate::router::Surroundings;
use crate::settings::Settings;
use crate::testing::{settings, within};
use crate::transport::Never;

/// Answers one step after the other, then that the listener is dead.
struct Script {
    steps: VecDeque<io::Result<Accepted>>,
    calls: Rc<RefCell<Vec<Instant>>>,
}

impl Listen for Script {
    async fn accept(&mut self) -> io::Result<Accepted> {
        self.calls.borrow_mut().push(Instant::now());
        self.steps.pop_front().unwrap_or_else(|| Err(errno(libc::EINVAL)))
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn failed(code: i32) -> io::Result<Accepted> {
    Err(errno(code))
}

/// A connection as accept answers it, and the peer's end of it.
async fn dial() -> (Accepted, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().into(), peer)
}

/// A script run to its end.
struct Played {
    ended: io::Error,
    /// Milliseconds between one accept and the next.
    pauses: Vec<u128>,
    events: Arc<Events>,
    manager: Addr<ConnManager>,
    /// They keep the connections alive.
    _workers: Workers,
}

async fn play(steps: impl IntoIterator<Item = io::Result<Accepted>>) -> Played {
    play_on(&settings(), WhenFull::Refuse, steps).await
}

async fn play_on(
    settings: &Settings,
    when_full: WhenFull,
    steps: impl IntoIterator<Item = io::Result<Accepted>>,
) -> Played {
    let scene = Scene::new(settings);
    let calls = Rc::new(RefCell::default());
    let script = Script { steps: steps.into_iter().collect(), calls: Rc::clone(&calls) };
    let acceptor = scene.acceptor(script, when_full, Stack::default());
    let (_running, halt) = watch::channel(());
    let ended = acceptor.run(halt).await.unwrap();
    let calls = calls.borrow();
    let pauses = calls.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    let Scene { events, manager, workers, .. } = scene;
    Played { ended, pauses, events, manager, _workers: workers }
}

/// What an acceptor needs around it.
struct Scene {
    events: Arc<Events>,
    limits: Arc<Limits>,
    manager: Addr<ConnManager>,
    workers: Workers,
}

impl Scene {
    fn new(settings: &Settings) -> Self {
        let settings = Settings { worker_pool_size: 1, ..settings.clone() };
        let events = Arc::new(Events::default());
        let limits = Arc::new(settings.limits(Arc::clone(&events)));
        let (hooks, surroundings) = (Arc::new(Hooks::default()), Surroundings::default());
        let workers = Workers::start(&settings, &hooks, &limits, &surroundings).unwrap();
        let manager = ConnManager::new(&settings).start();
        Self { events, limits, manager, workers }
    }

    fn acceptor<L: Listen>(&self, listener: L, when_full: WhenFull, stack: Stack) -> Acceptor<L> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let at = ListenAddr { scheme: Scheme::Tcp, addr, path: String::new() };
        let (manager, limits) = (self.manager.clone(), Arc::clone(&self.limits));
        let refusal = Refusal::new(None);
        let reception = Reception::new(manager, &self.workers, limits, when_full, refusal);
        Acceptor::new(listener, at, stack, Rc::new(reception))
    }
}

/// The timer rounds up to its next millisecond.
fn assert_pauses(played: &Played, wanted: &[u128]) {
    let fits =
        |(&pause, &wanted): (&u128, &u128)| pause == wanted || (wanted > 0 && pause == wanted + 1);
    let all = played.pauses.len() == wanted.len() && played.pauses.iter().zip(wanted).all(fits);
    assert!(all, "paused for {:?} ms, not {wanted:?}", played.pauses);
}

#[test]
fn g14_accept_errors_are_the_dials_the_machines_or_the_listeners_fault() {
    let dials = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EINTR,
        libc::EAGAIN,
        libc::ETIMEDOUT,
        libc::EPERM,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ENETDOWN,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
    ];
    let machines = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    let listeners = [libc::EINVAL, libc::EBADF, libc::ENOTSOCK, libc::EFAULT, libc::EOPNOTSUPP];
    for (codes, whose) in [
        (&dials[..], Fault::Dial),
        (&machines[..], Fault::Machine),
        (&listeners[..], Fault::Listener),
    ] {
        for &code in codes {
            let error = errno(code);
            assert_eq!(fault(&error), whose, "{error}");
        }
    }
}

#[test]
fn g14_an_error_that_nobody_foresaw_is_taken_for_the_machines() {
    assert_eq!(fault(&io::Error::other("?")), Fault::Machine);
}

#[actix::test]
async fn g14_a_dead_listener_ends_the_accepting_with_its_error() {
    let played = play([]).await;
    assert_eq!(played.ended.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(played.events.stats().accept_errors, 0, "it is answered, not counted");
}

#[actix::test]
async fn g14_a_dial_that_failed_is_skipped_without_a_pause() {
    tokio::time::pause();
    let played = play([libc::ECONNABORTED, libc::EPROTO, libc::EPERM].map(failed)).await;
    assert_pauses(&played, &[0, 0, 0]);
    assert_eq!(played.events.stats().accept_errors, 3);
}

#[actix::test]
async fn g14_a_machine_out_of_descriptors_is_tried_again_in_pauses_that_grow_to_a_second() {
    tokio::time::pause();
    let played = play((0..10).map(|_| failed(libc::EMFILE))).await;
    assert_pauses(&played, &[10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    assert_eq!(played.events.stats().accept_errors, 10);
}

#[actix::test]
async fn g14_a_dial_that_failed_between_does_not_end_the_back_off() {
    tokio::time::pause();
    let codes = [libc::ENFILE, libc::ECONNABORTED, libc::ENOMEM];
    assert_pauses(&play(codes.map(failed)).await, &[10, 0, 20]);
}

#[actix::test]
async fn g14_when_descriptors_are_there_again_dials_are_served_and_the_back_off_is_forgotten() {
    tokio::time::pause();
    let (accepted, _peer) = dial().await;
    let steps = [failed(libc::EMFILE), failed(libc::EMFILE), Ok(accepted), failed(libc::EMFILE)];
    let played = play(steps).await;
    // No time passes while a dial is admitted, because the clock stands still.
    assert_pauses(&played, &[10, 20, 0, 10]);
    assert_eq!(played.manager.send(Len).await.unwrap(), 1, "the dial is admitted");
}

#[actix::test]
async fn g16_ids_grow_by_one_a_dial_also_over_failures() {
    let (first, _one) = dial().await;
    let (second, _two) = dial().await;
    let played = play([Ok(first), failed(libc::ECONNABORTED), Ok(second)]).await;
    let mut ids = played.manager.send(crate::conn_manager::Ids).await.unwrap();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

/// A listener whose queue the test fills while the acceptor runs.
struct Queue {
    dials: mpsc::UnboundedReceiver<Accepted>,
    /// When each was accepted.
    accepted: Rc<RefCell<Vec<Instant>>>,
    /// What else is asked of it, which it does at once.
    knocks: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

impl Listen for Queue {
    async fn accept(&mut self) -> io::Result<Accepted> {
        let dial = self.dials.recv().await.ok_or_else(|| errno(libc::EINVAL))?;
        self.accepted.borrow_mut().push(Instant::now());
        Ok(dial)
    }

    async fn attend(&mut self, _: bool) -> Infallible {
        while let Some(knock) = self.knocks.recv().await {
            let _ = knock.send(());
        }
        std::future::pending().await
    }
}

/// An acceptor that runs, of a server that denies every address.
struct Denying {
    scene: Scene,
    dials: mpsc::UnboundedSender<Accepted>,
    accepted: Rc<RefCell<Vec<Instant>>>,
    knocks: mpsc::UnboundedSender<oneshot::Sender<()>>,
    halt: watch::Sender<()>,
    run: JoinHandle<Option<io::Error>>,
}

fn denying() -> Settings {
    Settings { deny: vec!["127.0.0.0/8".parse().unwrap()], ..settings() }
}

impl Denying {
    fn start(settings: &Settings, stack: Stack) -> Self {
        let scene = Scene::new(settings);
        let accepted = Rc::new(RefCell::default());
        let (dials, queue) = mpsc::unbounded_channel();
        let (knocks, knocked) = mpsc::unbounded_channel();
        let listener = Queue { dials: queue, accepted: Rc::clone(&accepted), knocks: knocked };
        let acceptor = scene.acceptor(listener, WhenFull::Refuse, stack);
        let (halt, halted) = watch::channel(());
        let run = actix_rt::spawn(acceptor.run(halted));
        Self { scene, dials, accepted, knocks, halt, run }
    }

    /// Waits until so many are denied: no time passes meanwhile, unless the acceptor pauses.
    async fn denied(&self, count: u64) {
        while self.scene.events.stats().refusals.denied < count {
            yield_now().await;
        }
        // It goes on, and into its pause.
        for _ in 0..10 {
            yield_now().await;
        }
    }
}

async fn dials(count: usize) -> (VecDeque<Accepted>, Vec<TcpStream>) {
    let (mut dials, mut peers) = (VecDeque::new(), Vec::new());
    for _ in 0..count {
        let (accepted, peer) = dial().await;
        dials.push_back(accepted);
        peers.push(peer);
    }
    (dials, peers)
}

#[actix::test]
async fn dials_that_come_in_the_pause_after_a_refusal_are_refused_together_behind_it() {
    let (mut waiting, _peers) = dials(4).await;
    tokio::time::pause();
    let server = Denying::start(&denying(), Stack::default());
    server.dials.send(waiting.pop_front().unwrap()).unwrap();
    server.denied(1).await;
    for dial in waiting {
        server.dials.send(dial).unwrap();
        server.denied(1).await;
    }
    assert_eq!(server.accepted.borrow().len(), 1, "it pauses");
    tokio::time::advance(2 * IN_STORM).await;
    server.denied(4).await;
    let accepted = server.accepted.borrow();
    assert!(accepted[1] >= accepted[0] + IN_STORM, "{accepted:?}");
    assert_eq!(accepted[1..], [accepted[1]; 3], "with no pause in between");
}

#[actix::test]
async fn what_is_asked_of_a_listener_in_the_pause_after_a_refusal_is_done_at_once_and_so_is_a_halt()
{
    let (mut waiting, _peers) = dials(2).await;
    tokio::time::pause();
    let began = Instant::now();
    let server = Denying::start(&denying(), Stack::default());
    server.dials.send(waiting.pop_front().unwrap()).unwrap();
    server.denied(1).await;
    server.dials.send(waiting.pop_front().unwrap()).unwrap();
    let (knock, done) = oneshot::channel();
    server.knocks.send(knock).unwrap();
    done.await.unwrap();
    server.halt.send(()).unwrap();
    assert!(server.run.await.unwrap().is_none());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(server.accepted.borrow().len(), 1, "the other stays in the queue");
}

#[actix::test]
async fn a_dial_that_waits_to_shake_hands_when_the_pause_is_halted_is_refused_and_counted() {
    let (waiting, _peers) = dials(2).await;
    tokio::time::pause();
    let settings = Settings { max_handshakes: 1, ..denying() };
    let server = Denying::start(&settings, Stack::new(vec![Arc::new(Never::default())]));
    for dial in waiting {
        server.dials.send(dial).unwrap();
    }
    server.denied(1).await;
    assert_eq!(server.accepted.borrow().len(), 2, "there was no place for the second one");
    server.halt.send(()).unwrap();
    assert!(within(server.run).await.unwrap().is_none());
    assert_eq!(server.scene.events.stats().refused, 2);
}

#[actix::test]
async fn a_server_whose_dials_wait_for_places_pauses_no_more_often_for_refusals_than_another() {
    for when_full in [WhenFull::Wait, WhenFull::Refuse] {
        let (steps, _peers) = dials(TOGETHER + 1).await;
        tokio::time::pause();
        let played = play_on(&denying(), when_full, steps.into_iter().map(Ok)).await;
        assert_eq!(played.events.stats().refusals.denied, TOGETHER as u64 + 1);
        tokio::time::resume();
        let paused: u128 = played.pauses.iter().sum();
        assert!(paused <= 5, "{when_full:?}: paused for {paused} ms");
    }
}
