//! The last frame for a peer that is not admitted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::codec::FrameCodec;
use crate::conn::Encoded;
use crate::conn_manager::AddError;
use crate::frame::Frame;
use crate::unwind::contained;

type Make = Box<dyn Fn(&AddError) -> Option<Frame> + Send + Sync>;

/// So many refused peers are waited for at once; the others are closed with what they have got.
const LINGERING: usize = 256;
const LINGER: Duration = Duration::from_secs(1);

/// What a refused peer may still send without the system resetting the connection under the frame.
const READ_AWAY: u64 = 64 * 1024;

pub(crate) struct Refusal {
    make: Make,
    lingering: Arc<Semaphore>,
}

impl Refusal {
    pub(crate) fn new(make: Make) -> Self {
        Self { make, lingering: Arc::new(Semaphore::new(LINGERING)) }
    }

    /// Tells the peer, and closes the socket when it has heard it, or does not want to.
    pub(crate) fn tell(&self, mut stream: TcpStream, why: &AddError, codec: &FrameCodec) {
        let frame = contained(|| (self.make)(why)).flatten();
        let frame = frame.filter(|frame| codec.can_put(frame));
        let Some(encoded) = frame.and_then(|frame| Encoded::new(codec, &frame)) else { return };
        let Ok(permit) = Arc::clone(&self.lingering).try_acquire_owned() else {
            // What the socket takes now, or nothing: a peer in a storm of them.
            let _ = stream.try_write(encoded.bytes());
            return;
        };
        actix_rt::spawn(async move {
            let _permit = permit;
            let told = async {
                stream.write_all(encoded.bytes()).await?;
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(READ_AWAY), &mut tokio::io::sink()).await
            };
            // A peer that is gone, or stays, was told as well as could be.
            let _ = timeout(LINGER, told).await;
        });
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").finish_non_exhaustive()
    }
}
