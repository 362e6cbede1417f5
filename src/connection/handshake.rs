//! What an admitted connection does before it can have an actor.

mod turnstile;

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Connection, Local};
use crate::conn::{CloseReason, Conn, HandshakeError, Intake, Limits, Slot};
use crate::conn_manager::Registration;
use crate::deadline::{Late, complete_unless};
use crate::transport::{PeerSide, Stack, part};
pub(crate) use turnstile::Turnstile;
use turnstile::Waits;

/// So much of its deadline a peer may keep others waiting for a place.
const SHARE: u32 = 5;

/// How often it is looked, in that time, whether it waits.
const LOOKS: u32 = 8;

/// The pause between two looks at most.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Shakes hands on this thread, and starts the connection's actor when that is done: within the
/// deadline, which runs since the connection `began`, and unless somebody asks for its end
/// meanwhile.
pub(crate) fn shake_hands(
    local: Rc<Local>,
    conn: Conn,
    socket: TcpStream,
    stack: Stack,
    began: Instant,
    slot: Slot,
    registration: Registration,
) {
    let living = local.lives.begin();
    actix_rt::spawn(async move {
        let (limits, peer) = (Arc::clone(&conn.shared().limits), conn.peer_addr().ip());
        let intake = Intake::new(limits.intake.as_ref());
        // Until the handshake begins, nobody reads.
        let waiting = RefCell::new(Some(socket));
        // A future has room for each that it is given twice. Crowds shake hands at once, and the memory that they
        // take stays the process's.
        let accept = Box::pin(async {
            let Some(socket) = waiting.take() else {
                return Err(HandshakeError::PeerClosed.into());
            };
            stack.shake_hands(socket, intake.clone(), Ok(&conn), &local.read_pool).await
        });
        let is_gone = || is_gone(waiting.borrow().as_ref(), &stack);
        let turnstile = &local.turnstile;
        let shaken =
            in_turn(turnstile, &limits, began, peer, slot, intake.clone(), is_gone, accept);
        let shaken = tokio::select! {
            biased;
            () = poll_fn(|cx| conn.shared().poll_ending(cx)) => None,
            shaken = shaken => Some(shaken),
        };
        let (transport, failed) = match shaken {
            Some(Ok(Ok(transport))) => (Some(transport), None),
            Some(Ok(Err(failed))) => (None, Some(failed)),
            Some(Err(given_up)) => (None, Some(HandshakeError::from(given_up).into())),
            None => (None, None),
        };
        let mut told = None;
        if let Some(failed) = failed {
            conn.close(CloseReason::Handshake(failed.why));
            told = failed.told;
        }
        // Hundreds may be given up at once, by their peers or by the clock.
        let step = match transport {
            None => Some(Box::pin(local.stillborn.begin()).await),
            Some(_) => None,
        };
        Connection::start_on(Rc::clone(&local), conn, transport, registration);
        drop(step);
        drop(living);
        // The place is another's by now.
        if let Some(told) = told
            && let Ok(_permit) = limits.lingering.try_acquire()
        {
            Box::pin(part(told)).await;
        }
    });
}

/// Whether the peer of a handshake is gone that has not begun, and whose socket `waits` therefore.
pub(crate) fn is_gone(waits: Option<&TcpStream>, stack: &Stack) -> bool {
    match waits.map_or(PeerSide::Open, PeerSide::of) {
        PeerSide::Open => false,
        // Such a handshake needs more of the peer than what came before its end.
        PeerSide::HalfClosed => stack.is_costly(),
        PeerSide::Gone => true,
    }
}

/// Why a handshake is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It was not done in time.
    Late,
    /// The peer is gone before it was begun.
    Gone,
}

impl From<Late> for GivenUp {
    fn from(Late: Late) -> Self {
        Self::Late
    }
}

impl From<GivenUp> for HandshakeError {
    fn from(given_up: GivenUp) -> Self {
        match given_up {
            GivenUp::Late => Self::Late,
            GivenUp::Gone => Self::PeerClosed,
        }
    }
}

/// Runs a handshake with `peer`, of an admitted connection or of one that is refused: each step when it is
/// its turn on this thread, within the deadline, and beside no more of the same address than there may be.
///
/// It is given up when the peer `is_gone`. And when as many are under way as there may be, one that waits
/// for its peer gives way sooner: else a few peers that say nothing would hold up everybody for the whole
/// deadline, again and again.
#[expect(
    clippy::too_many_arguments,
    reason = "a struct of them would be made twice and taken apart"
)]
pub(crate) async fn in_turn<T>(
    turnstile: &Turnstile,
    limits: &Limits,
    began: Instant,
    peer: IpAddr,
    slot: Slot,
    intake: Option<Rc<Intake>>,
    is_gone: impl Fn() -> bool,
    handshake: impl Future<Output = T>,
) -> Result<T, GivenUp> {
    let waits = Waits::default();
    let done = Box::pin(async {
        let (_slot, _of_ip) = limits.handshakes.admit(peer, slot).await;
        turnstile.pass(handshake, intake.as_deref(), &waits).await
    });
    let deadline = limits.handshake_deadline;
    let mut patience = Patience::new(deadline / SHARE);
    let step = patience.step;
    let look = || match is_gone() {
        true => Some(GivenUp::Gone),
        false => patience.is_over(limits, &waits).then_some(GivenUp::Late),
    };
    // One timer for all: crowds shake hands at once.
    complete_unless(began + deadline, step, look, done).await
}

/// How long others wait for a place because of a handshake that waits for its peer.
struct Patience {
    most: Duration,
    /// The time between two looks, about.
    step: Duration,
    /// How long it had waited at the last one, and how much of that counts.
    seen: Duration,
    waited: Duration,
}

impl Patience {
    fn new(most: Duration) -> Self {
        let step = (most / LOOKS).min(LONGEST_LOOK);
        Self { most, step, seen: Duration::ZERO, waited: Duration::ZERO }
    }

    /// Whether there are as many handshakes as may be, and this one has waited for too long.
    fn is_over(&mut self, limits: &Limits, waits: &Waits) -> bool {
        let Some(so_far) = waits.so_far() else { return false };
        // What is more than that is no wait for the peer: the process was frozen, or its thread blocked.
        self.waited += so_far.saturating_sub(self.seen).min(self.step * 2);
        self.seen = so_far;
        self.waited >= self.most && limits.handshakes.are_full()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::settings::Settings;

    const MOST: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_does_not_wait_for_the_peers_of_its_handshakes() {
        let limits = Settings { max_handshakes: 1, ..Settings::default() }.limits(Arc::default());
        let _full = limits.handshakes.try_slot().unwrap();
        let waits = Waits::default();
        waits.begin();
        let mut patience = Patience::new(MOST);
        let step = patience.step;
        for frozen in [Duration::ZERO, MOST * 10] {
            advance(frozen).await;
            for _ in 0..LOOKS / 2 - 1 {
                advance(step).await;
                assert!(!patience.is_over(&limits, &waits), "frozen time counts for one step");
            }
        }
        advance(step).await;
        assert!(patience.is_over(&limits, &waits), "and all the other time counts");
    }
}
