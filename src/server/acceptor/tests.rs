use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

use actix::Actor;
use tokio::net::TcpListener;
use tokio::task::yield_now;

use super::*;
use crate::conn_manager::Len;
use crate::connection::{Hooks, ReadPool};
use crate::endpoint::Scheme;
use crate::event::Events;
use crate::router::Surroundings;
use crate::settings::Settings;
use crate::testing::settings;
use crate::transport::{Boxed, Failed, Layer, Local, Peer};

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

/// Has a handshake, which nobody of these tests gets to.
struct NoHandshake;

impl Layer for NoHandshake {
    fn shake_hands<'a>(
        &'a self,
        _: Boxed,
        _: Peer<'a>,
        _: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(std::future::pending())
    }
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
    play_with(settings(), steps).await
}

async fn play_with(
    settings: Settings,
    steps: impl IntoIterator<Item = io::Result<Accepted>>,
) -> Played {
    let Stage { acceptor, calls, events, manager, workers } =
        Stage::set(settings, Stack::default(), steps);
    let (_running, halt) = watch::channel(());
    let ended = acceptor.run(halt).await.unwrap();
    let calls = calls.borrow();
    let pauses = calls.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    Played { ended, pauses, events, manager, _workers: workers }
}

/// A script before it runs.
struct Stage {
    acceptor: Acceptor<Script>,
    calls: Rc<RefCell<Vec<Instant>>>,
    events: Arc<Events>,
    manager: Addr<ConnManager>,
    workers: Workers,
}

impl Stage {
    fn set(
        settings: Settings,
        stack: Stack,
        steps: impl IntoIterator<Item = io::Result<Accepted>>,
    ) -> Self {
        let settings = Settings { worker_pool_size: 1, ..settings };
        let (events, when_full) = (Arc::new(Events::default()), settings.when_full);
        let limits = Arc::new(settings.limits(Arc::clone(&events)));
        let (hooks, surroundings) = (Arc::new(Hooks::default()), Surroundings::default());
        let workers = Workers::start(&settings, &hooks, &limits, &surroundings).unwrap();
        let manager = ConnManager::new(&settings).start();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let at = ListenAddr { scheme: Scheme::Tcp, addr, path: String::new() };
        let refusal = Refusal::new(None);
        let reception = Reception::new(manager.clone(), &workers, limits, when_full, refusal);
        let calls = Rc::new(RefCell::default());
        let script = Script { steps: steps.into_iter().collect(), calls: Rc::clone(&calls) };
        let acceptor = Acceptor::new(script, at, stack, Rc::new(reception));
        Self { acceptor, calls, events, manager, workers }
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

/// All peers of this machine are refused.
fn denied() -> Settings {
    Settings { deny: vec!["127.0.0.0/8".parse().unwrap()], ..settings() }
}

#[actix::test]
async fn refusals_are_as_fast_where_others_wait_for_a_place_as_where_these_are_refused() {
    for when_full in [WhenFull::Refuse, WhenFull::Wait] {
        let (mut dials, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..2 * TOGETHER {
            let (dial, peer) = dial().await;
            dials.push(Ok(dial));
            peers.push(peer);
        }
        tokio::time::pause();
        let played = play_with(Settings { when_full, ..denied() }, dials).await;
        tokio::time::resume();
        assert_eq!(played.events.stats().refusals.denied, 2 * TOGETHER as u64);
        let pauses = played.pauses.iter().filter(|pause| **pause > 0).count();
        assert_eq!(pauses, 2, "{when_full:?}");
    }
}

#[actix::test]
async fn a_dial_that_waits_for_a_handshake_is_counted_if_a_stop_comes_in_the_pause_of_a_storm() {
    let ((first, _first), (second, _second)) = (dial().await, dial().await);
    let settings = Settings { max_handshakes: 1, ..denied() };
    let stack = Stack::new(vec![Arc::new(NoHandshake)]);
    let stage = Stage::set(settings, stack, [Ok(first), Ok(second)]);
    let (stop, halt) = watch::channel(());
    // While somebody yields, the clock stands still.
    tokio::time::pause();
    let running = actix_rt::spawn(stage.acceptor.run(halt));
    while stage.events.stats().refused == 0 {
        yield_now().await;
    }
    stop.send(()).unwrap();
    assert!(running.await.unwrap().is_none());
    assert_eq!(stage.calls.borrow().len(), 2);
    assert_eq!(stage.events.stats().refused, 2);
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
