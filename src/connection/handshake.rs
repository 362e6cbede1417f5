//! What an admitted connection does before it can have an actor.

mod turnstile;

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{Connection, Local};
use crate::conn::{CloseReason, Conn, HandshakeError, Intake, Limits, Slot};
use crate::conn_manager::Registration;
use crate::deadline::complete_by;
use crate::transport::{PeerSide, Stack, gone, part};
pub(crate) use turnstile::Turnstile;
use turnstile::Waits;

/// So much of its deadline a peer may keep others waiting for a place.
const SHARE: u32 = 5;

/// How often it is looked, in that time, whether it waits.
const LOOKS: u32 = 8;

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
        let peer_side = || match waiting.borrow().as_ref().map_or(PeerSide::Open, PeerSide::of) {
            // Such a handshake needs more of the peer than what came before its end.
            PeerSide::HalfClosed if stack.is_costly() => PeerSide::Gone,
            side => side,
        };
        let shaken = in_turn(&local.turnstile, &limits, began, peer, slot, intake.clone(), accept);
        let shaken = tokio::select! {
            biased;
            () = poll_fn(|cx| conn.shared().poll_ending(cx)) => None,
            shaken = shaken => Some(shaken),
            () = gone(peer_side) => Some(Ok(Err(HandshakeError::PeerClosed.into()))),
        };
        let (transport, failed) = match shaken {
            Some(Ok(Ok(transport))) => (Some(transport), None),
            Some(Ok(Err(failed))) => (None, Some(failed)),
            Some(Err(Late)) => (None, Some(HandshakeError::Late.into())),
            None => (None, None),
        };
        let mut told = None;
        if let Some(failed) = failed {
            conn.close(CloseReason::Handshake(failed.why));
            told = failed.told;
        }
        let ends = transport.is_none();
        let of = Rc::clone(&local);
        let start = || Connection::start_on(of, conn, transport, registration);
        if ends {
            // Hundreds may be given up at once, by their peers or by the clock.
            Box::pin(local.stillborn.step(start)).await;
        } else {
            start();
        }
        drop(living);
        // The place is another's by now.
        if let Some(told) = told
            && let Ok(_permit) = limits.lingering.try_acquire()
        {
            Box::pin(part(told)).await;
        }
    });
}

/// A handshake was not done in time.
pub(crate) struct Late;

/// Runs a handshake with `peer`, of an admitted connection or of one that is refused: each step when it is
/// its turn on this thread, within the deadline, and beside no more of the same address than there may be.
///
/// When as many are under way as there may be, one that waits for its peer gives way sooner: else a few
/// peers that say nothing would hold up everybody for the whole deadline, again and again.
pub(crate) async fn in_turn<T>(
    turnstile: &Turnstile,
    limits: &Limits,
    began: Instant,
    peer: IpAddr,
    slot: Slot,
    intake: Option<Rc<Intake>>,
    handshake: impl Future<Output = T>,
) -> Result<T, Late> {
    let waits = Waits::default();
    let done = Box::pin(async {
        let (_slot, _of_ip) = limits.handshakes.admit(peer, slot).await;
        turnstile.pass(handshake, intake.as_deref(), &waits).await
    });
    let deadline = limits.handshake_deadline;
    tokio::select! {
        biased;
        done = complete_by(began + deadline, done) => done.map_err(|_| Late),
        () = overlong(limits, &waits, deadline / SHARE) => Err(Late),
    }
}

/// Done when there are as many handshakes as may be, and this one has waited for its peer for longer than
/// `most`.
async fn overlong(limits: &Limits, waits: &Waits, most: Duration) {
    let step = most / LOOKS;
    let (mut seen, mut waited) = (Duration::ZERO, Duration::ZERO);
    loop {
        sleep(step).await;
        let Some(so_far) = waits.so_far() else { continue };
        // What is more than that is no wait for the peer: the process was frozen, or its thread blocked.
        waited += so_far.saturating_sub(seen).min(step * 2);
        seen = so_far;
        if waited >= most && limits.handshakes.are_full() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::settings::Settings;

    const MOST: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_does_not_wait_for_the_peers_of_its_handshakes() {
        let limits = Settings { max_handshakes: 1, ..Settings::default() }.limits(Arc::default());
        let _full = limits.handshakes.try_slot().unwrap();
        let waits = Waits::default();
        waits.begin();
        let mut overlong = pin!(overlong(&limits, &waits, MOST));
        assert!(timeout(MOST / 2, &mut overlong).await.is_err());
        advance(MOST * 10).await;
        assert!(timeout(MOST / 8, &mut overlong).await.is_err(), "frozen time counts for nothing");
        assert!(timeout(MOST, &mut overlong).await.is_ok(), "and all the other time counts");
    }
}
