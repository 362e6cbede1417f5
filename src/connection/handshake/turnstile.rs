//! One expensive step of a stranger at a time, and everybody else's turn after it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant as Clock, timeout};

use crate::conn::{Intake, PAUSE};
use crate::turn::{Share, others};

/// What the handshakes of one worker pass, a step at a time and in the order in which they come.
///
/// A step may cost a millisecond: the signature with an RSA key of 2048 bits. Without an order, all
/// handshakes that are ready take theirs before a connection is served that has become ready meanwhile. So
/// a handshake needs the turn for each step; and when the steps have taken long enough, the next one gets
/// it only after the tasks that are ready have run, those that the sockets have made ready by then included.
#[derive(Debug)]
pub(crate) struct Turnstile {
    turn: Arc<Semaphore>,
    /// What the steps have taken since the others had their turn.
    share: Share,
}

/// How long a handshake has waited for its peer.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    before: Cell<Duration>,
    since: Cell<Option<Clock>>,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), share: Share::default() }
    }
}

impl Turnstile {
    /// Runs `handshake` to its end, each of its steps in turn, and keeps count of how long it waits for its
    /// peer. Cancel safe if `handshake` is.
    pub(crate) async fn pass<T>(
        &self,
        handshake: impl Future<Output = T>,
        intake: Option<&Intake>,
        waits: &Waits,
    ) -> T {
        let mut handshake = pin!(handshake);
        loop {
            let step = self.begin().await;
            let polled = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(step);
            if let Poll::Ready(done) = polled {
                return done;
            }
            waits.begin();
            if intake.is_some_and(Intake::take_refused) {
                // Seldom, and each handshake would have room for it.
                let _ = Box::pin(timeout(PAUSE, woken())).await;
            } else {
                woken().await;
            }
            waits.end();
        }
    }

    /// Begins a step when it is its turn. Cancel safe.
    pub(crate) async fn begin(&self) -> Step<'_> {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok();
        Step { turnstile: self, turn, began: Instant::now() }
    }
}

/// A step, until it is dropped.
pub(crate) struct Step<'a> {
    turnstile: &'a Turnstile,
    turn: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl Drop for Step<'_> {
    /// Lets the next one take its turn: at once, or when the others had theirs.
    fn drop(&mut self) {
        let turn = self.turn.take();
        if self.turnstile.share.spend(self.began) {
            // A task of its own: this one goes on.
            actix_rt::spawn(async move {
                others().await;
                drop(turn);
            });
        }
    }
}

/// Done when the task is woken next.
async fn woken() {
    let mut asleep = true;
    poll_fn(|_| if std::mem::take(&mut asleep) { Poll::Pending } else { Poll::Ready(()) }).await;
}

impl Waits {
    pub(super) fn begin(&self) {
        self.since.set(Some(Clock::now()));
    }

    fn end(&self) {
        if let Some(since) = self.since.take() {
            self.before.set(self.before.get() + since.elapsed());
        }
    }

    /// How long all waits together are; `None` while it does not wait for the peer.
    pub(crate) fn so_far(&self) -> Option<Duration> {
        Some(self.before.get() + self.since.get()?.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;

    use super::*;

    /// Two ends of a socket.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[actix::test]
    async fn after_an_expensive_step_what_it_made_ready_runs_before_the_next() {
        const STEPS: usize = 50;
        let turnstile = Rc::new(Turnstile::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut strangers = Vec::new();
        for step in 0..STEPS {
            let (near, mut far) = pair().await;
            let near = near.into_std().unwrap();
            let heard = Rc::clone(&order);
            strangers.push(actix_rt::spawn(async move {
                far.read_u8().await.unwrap();
                heard.borrow_mut().push((step, "heard"));
            }));
            let (turnstile, order) = (Rc::clone(&turnstile), Rc::clone(&order));
            strangers.push(actix_rt::spawn(async move {
                let expensive = async {
                    std::thread::sleep(Duration::from_micros(200));
                    // As a message comes that somebody has sent meanwhile.
                    std::io::Write::write_all(&mut &near, &[1]).unwrap();
                    order.borrow_mut().push((step, "done"));
                };
                turnstile.pass(expensive, None, &Waits::default()).await;
            }));
        }
        for stranger in strangers {
            stranger.await.unwrap();
        }
        let wanted: Vec<_> = (0..STEPS).flat_map(|n| [(n, "done"), (n, "heard")]).collect();
        assert_eq!(*order.borrow(), wanted);
    }

    #[actix::test]
    async fn one_that_waits_for_its_peer_is_in_nobodys_way() {
        let turnstile = Rc::new(Turnstile::default());
        let (mut near, mut far) = pair().await;
        let (waiting, waits) = (Rc::clone(&turnstile), Rc::new(Waits::default()));
        let known = Rc::clone(&waits);
        let first = actix_rt::spawn(async move {
            waiting.pass(far.read_u8(), None, &known).await.unwrap();
        });
        turnstile.pass(yield_now(), None, &Waits::default()).await;
        assert!(waits.so_far().is_some(), "the first waits for its peer");
        near.write_u8(1).await.unwrap();
        first.await.unwrap();
        assert!(waits.so_far().is_none());
    }

    #[actix::test]
    async fn one_that_is_given_up_in_its_turn_or_before_it_lets_the_next_pass() {
        let turnstile = Rc::new(Turnstile::default());
        let turn = Arc::clone(&turnstile.turn).acquire_owned().await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let turnstile = Rc::clone(&turnstile);
            waiting.push(actix_rt::spawn(async move {
                turnstile.pass(async {}, None, &Waits::default()).await;
            }));
        }
        yield_now().await;
        // The first two are in line, and the first has its turn when it is given up.
        waiting[1].abort();
        drop(turn);
        waiting[0].abort();
        waiting.remove(2).await.unwrap();
    }
}
