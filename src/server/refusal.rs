//! The last word to a peer that is not admitted.

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::conn::{Encoded, Limits};
use crate::conn_manager::AddError;
use crate::frame::Frame;
use crate::transport::Stack;
use crate::unwind::contained;

type Make = Box<dyn Fn(&AddError) -> Option<Frame> + Send + Sync>;

/// So many refused peers are waited for at once; the others are closed with what they have got.
const LINGERING: usize = 256;

/// Tells peers why they are not admitted.
pub(crate) struct Refusal {
    make: Option<Make>,
    lingering: Arc<Semaphore>,
}

impl Refusal {
    pub(crate) fn new(make: Option<Make>) -> Self {
        Self { make, lingering: Arc::new(Semaphore::new(LINGERING)) }
    }

    /// Tells the peer, and closes the socket.
    pub(crate) fn tell(&self, stream: TcpStream, stack: &Stack, why: &AddError, limits: &Limits) {
        let frame = self.make.as_ref().and_then(|make| contained(|| make(why)).flatten());
        let frame = frame.filter(|frame| limits.codec.can_put(frame));
        let frame = frame.and_then(|frame| Encoded::new(&limits.codec, &frame));
        if frame.is_none() && !stack.refuses() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.lingering).try_acquire_owned() else {
            if let Some(frame) = frame
                && stack.is_bare()
            {
                // What the socket takes now, or nothing: a peer in a storm of them.
                let _ = stream.try_write(frame.bytes());
            }
            return;
        };
        let (stack, why, deadline) = (stack.clone(), *why, limits.handshake_deadline);
        actix_rt::spawn(async move {
            let _permit = permit;
            let frame = frame.as_ref().map(|frame| &frame.bytes()[..]);
            // A peer that is gone, or says nothing, was told as well as could be.
            let _ = timeout(deadline, stack.refuse(stream, &why, frame)).await;
        });
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").finish_non_exhaustive()
    }
}
