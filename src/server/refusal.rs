//! The last word to a peer that is not admitted.

use std::fmt;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;

use actix::Message;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::conn::{Encoded, Limits};
use crate::conn_manager::AddError;
use crate::frame::Frame;
use crate::transport::{Stack, part};
use crate::unwind::contained;

type Make = Box<dyn Fn(&AddError) -> Option<Frame> + Send + Sync>;

/// Makes the frame that tells peers why they are not admitted.
pub(crate) struct Refusal(Option<Make>);

/// Tells a peer on this worker, where handshakes are made.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TurnAway {
    stream: StdTcpStream,
    /// When it was accepted.
    began: Instant,
    stack: Stack,
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
        stream: TcpStream,
        began: Instant,
        stack: &Stack,
        why: &AddError,
        limits: &Arc<Limits>,
    ) -> Option<TurnAway> {
        let frame = self.0.as_ref().and_then(|make| {
            // The frame is dropped here, too.
            let encoded = contained(|| {
                let frame = make(why).filter(|frame| limits.codec.can_put(frame))?;
                Encoded::new(&limits.codec, &frame)
            });
            encoded.flatten()
        });
        let unwanted = matches!(why, AddError::Denied(_)) && stack.is_costly();
        if unwanted || frame.is_none() && !stack.refuses() {
            return None;
        }
        if limits.lingering.available_permits() == 0 {
            if let Some(frame) = frame
                && stack.is_bare()
            {
                // What the socket takes now, or nothing: a peer in a storm of them.
                let _ = stream.try_write(frame.bytes());
            }
            return None;
        }
        let (stack, limits) = (stack.clone(), Arc::clone(limits));
        let stream = stream.into_std().ok()?;
        Some(TurnAway { stream, began, stack, why: *why, frame, limits })
    }
}

impl TurnAway {
    /// Tells the peer, and closes the socket when it has heard it, or does not want to.
    pub(super) fn tell(self) {
        let Self { stream, began, stack, why, frame, limits } = self;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        actix_rt::spawn(async move {
            let frame = frame.as_ref().map(|frame| &frame.bytes()[..]);
            let told = {
                let Ok(_permit) = limits.lingering.try_acquire() else { return };
                let deadline = began + limits.handshake_deadline;
                timeout_at(deadline, stack.refuse(stream, &why, frame)).await
            };
            if let Ok(Some(transport)) = told {
                part(transport, Arc::clone(&limits.lingering)).await;
            }
        });
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").finish_non_exhaustive()
    }
}
