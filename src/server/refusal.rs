//! The last word to a peer that is not admitted.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::sync::Arc;

use actix::Message;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::conn::{Encoded, Intake, Limits, Slot};
use crate::conn_manager::AddError;
use crate::connection::{Local, in_turn, is_gone};
use crate::deadline::complete_by;
use crate::frame::Frame;
use crate::transport::{Stack, part};
use crate::unwind::contained;

type Make = Box<dyn Fn(&AddError) -> Option<Frame> + Send + Sync>;

/// Makes the frame that tells peers why they are not admitted.
pub(crate) struct Refusal(Option<Make>);

/// A socket of a peer that is not admitted.
pub(super) struct Refused {
    pub(super) stream: TcpStream,
    /// When it was accepted.
    pub(super) began: Instant,
    /// Among the handshakes; `None` if there is none to be made.
    pub(super) slot: Option<Slot>,
    pub(super) peer: IpAddr,
}

/// Tells a peer on this worker, where handshakes are made.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TurnAway {
    stream: StdTcpStream,
    /// When it was accepted.
    began: Instant,
    stack: Stack,
    /// Among the handshakes; `None` if there is none to be made.
    slot: Option<Slot>,
    /// Among those that are waited for to hear why they are turned away.
    permit: OwnedSemaphorePermit,
    peer: IpAddr,
    why: AddError,
    frame: Option<Encoded>,
    limits: Arc<Limits>,
}

impl Refusal {
    pub(crate) fn new(make: Option<Make>) -> Self {
        Self(make)
    }

    /// What a worker has to do to tell the peer; `None` if there is nothing to tell, or nobody has the
    /// time. Then the socket is closed.
    pub(crate) fn of(
        &self,
        dial: Refused,
        stack: &Stack,
        why: &AddError,
        limits: &Arc<Limits>,
    ) -> Option<TurnAway> {
        let Refused { stream, began, slot, peer } = dial;
        // Who dials too often is to cost less than a handshake.
        if matches!(why, AddError::Denied(_) | AddError::TooFast { .. }) && stack.is_costly() {
            return None;
        }
        let frame = self.0.as_ref().and_then(|make| {
            // The frame is dropped here, too.
            let encoded = contained(|| {
                let frame = make(why).filter(|frame| limits.codec.can_put(frame))?;
                Encoded::new(&limits.codec, &frame)
            });
            encoded.flatten()
        });
        if frame.is_none() && !stack.refuses() {
            return None;
        }
        // Taken here and not by the worker, so that it bounds what waits in the worker's mailbox, too.
        let Ok(permit) = Arc::clone(&limits.lingering).try_acquire_owned() else {
            if let Some(frame) = frame
                && stack.is_bare()
            {
                // What the socket takes now, or nothing: a peer in a storm of them.
                let _ = stream.try_write(frame.bytes());
            }
            return None;
        };
        let (stack, limits) = (stack.clone(), Arc::clone(limits));
        let stream = stream.into_std().ok()?;
        let why = *why;
        Some(TurnAway { stream, began, stack, slot, permit, peer, why, frame, limits })
    }
}

impl TurnAway {
    /// Tells the peer, and closes the socket when it has heard it, or does not want to.
    pub(super) fn tell(self, local: Rc<Local>) {
        let Self { stream, began, stack, slot, permit, peer, why, frame, limits } = self;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        actix_rt::spawn(async move {
            let frame = frame.as_ref().map(Encoded::bytes);
            // Kept until the peer has heard it: else the next one would take it in between.
            let _permit = permit;
            let intake = Intake::new(limits.intake.as_ref());
            let pool = &local.read_pool;
            // Until it is read, nobody hears that the peer is gone.
            let waiting = RefCell::new(Some(stream));
            let refuse = Box::pin(async {
                stack.refuse(waiting.take()?, intake.clone(), &why, frame, pool).await
            });
            let told = match slot {
                Some(slot) => {
                    let turnstile = &local.turnstile;
                    let is_gone = || is_gone(waiting.borrow().as_ref(), &stack);
                    let intake = intake.clone();
                    in_turn(turnstile, &limits, began, peer, slot, intake, is_gone, refuse)
                        .await
                        .ok()
                }
                None => complete_by(began + limits.handshake_deadline, refuse).await.ok(),
            };
            if let Some(Some(transport)) = told {
                part(transport).await;
            }
        });
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::connection::Lives;
    use crate::settings::Settings;
    use crate::testing::settings;
    use crate::transport::{Acknowledged, Never};

    #[actix::test]
    async fn a_refused_peer_that_is_gone_while_others_of_its_address_shake_hands_keeps_nothing() {
        let settings = Settings { max_handshakes_per_ip: 1, ..settings() };
        let limits = Arc::new(settings.limits(Arc::default()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let gone = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let peer = peer.ip();
        let other = limits.handshakes.admit(peer, limits.handshakes.try_slot().unwrap()).await;

        let slot = limits.handshakes.try_slot();
        let dial = Refused { stream, began: Instant::now(), slot, peer };
        let never = Never { refuses: true, ..Never::default() };
        let (stack, free) =
            (Stack::new(vec![Arc::new(never)]), limits.lingering.available_permits());
        let turn_away = Refusal::new(None).of(dial, &stack, &AddError::Draining, &limits).unwrap();
        let local = Local::new(Arc::default(), Lives::default(), Acknowledged::default());
        turn_away.tell(Rc::new(local));
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);

        tokio::time::pause();
        let began = Instant::now();
        while limits.lingering.available_permits() < free {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(began.elapsed() < limits.handshake_deadline / 2, "{:?}", began.elapsed());
        drop(other);
    }
}
