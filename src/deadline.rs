//! Deadlines on what a peer does, judged only after the event loop has looked at its socket again.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the event loop has to look at the sockets again before a deadline that passed is judged.
///
/// A process that was frozen (by a debugger, with its container, in a laptop) finds its timers expired
/// before it hears what its sockets did meanwhile, because the freeze interrupts the wait for events.
/// A timer that is set after that expires only after the event loop has looked at all sockets.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(5);

/// Runs `future`, which waits for a peer, until `deadline`. Cancel safe if `future` is.
pub(crate) async fn complete_by<F: Future>(
    deadline: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match timeout_at(deadline, &mut future).await {
        Err(_) => timeout(SECOND_LOOK, future).await,
        completed => completed,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_ready_at_a_second_look_is_in_time_and_a_later_one_is_not() {
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(complete_by(deadline, sleep(Duration::from_millis(1004))).await.is_ok());
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(complete_by(deadline, sleep(Duration::from_millis(1100))).await.is_err());
    }
}
