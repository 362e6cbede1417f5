//! Deadlines on what a peer does, judged only after the event loop has looked at its socket again.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long the event loop has to look at the sockets again before a deadline that passed is judged.
///
/// A process that was frozen (by a debugger, with its container, in a laptop) finds its timers expired
/// before it hears what its sockets did meanwhile, because the freeze interrupts the wait for events.
/// A timer that is set after that expires only after the event loop has looked at all sockets.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(5);

/// A deadline is waited for in so many strides, or in shorter ones. One that took more than twice its time, because
/// the process was frozen, counts as one.
///
/// A handshake that was under way then needs a reply of its peer after that, which has the rest of its time for
/// it, and this part of the whole at least.
const STRIDES: u32 = 8;

/// Something was not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// Runs `future`, which waits for a peer, until `deadline`, before which the time does not count for which the
/// process was frozen. Cancel safe if `future` is.
pub(crate) async fn complete_by<F: Future>(
    deadline: Instant,
    future: F,
) -> Result<F::Output, Late> {
    complete_unless(deadline, Duration::MAX, || None, future).await
}

/// The same, until `look` returns why it is given up: that is called about every `step`, or more often.
pub(crate) async fn complete_unless<F: Future, W: From<Late>>(
    deadline: Instant,
    step: Duration,
    mut look: impl FnMut() -> Option<W>,
    future: F,
) -> Result<F::Output, W> {
    let mut future = pin!(future);
    let mut begun = Instant::now();
    let mut left = deadline.saturating_duration_since(begun);
    let reply = (left / STRIDES).max(SECOND_LOOK);
    let stride = reply.min(step.max(SECOND_LOOK));
    // What is left of the time for that reply, since the process was frozen last.
    let mut owed = Duration::ZERO;
    while !left.is_zero() {
        if let Ok(completed) = timeout(left.min(stride), &mut future).await {
            return Ok(completed);
        }
        if let Some(why) = look() {
            return Err(why);
        }
        let took = begun.elapsed();
        begun += took;
        let frozen = took > 2 * stride;
        owed = if frozen { reply } else { owed.saturating_sub(took) };
        left = left.saturating_sub(if frozen { stride } else { took });
    }
    timeout(owed.max(SECOND_LOOK), future).await.map_err(|_| Late.into())
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_ready_at_a_second_look_is_in_time_and_a_later_one_is_not() {
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(complete_by(deadline, sleep(Duration::from_millis(1004))).await.is_ok());
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(complete_by(deadline, sleep(Duration::from_millis(1100))).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_the_process_was_frozen_does_not_count() {
        for before in [1, 300, 990] {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let deadline = Instant::now() + Duration::from_secs(1);
            let waiting = tokio::spawn(complete_by(deadline, answered));
            sleep(Duration::from_millis(before)).await;
            advance(Duration::from_secs(60)).await;
            // The peer hears of it now, and its reply has a way to go.
            sleep(Duration::from_millis(100)).await;
            answer.send(()).unwrap();
            assert!(waiting.await.unwrap().is_ok(), "{before} ms before it");
        }

        // Also where it is looked more often.
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (deadline, step) = (Instant::now() + Duration::from_secs(1), Duration::from_millis(25));
        let waiting = tokio::spawn(complete_unless(deadline, step, || None::<Late>, answered));
        sleep(Duration::from_millis(960)).await;
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(100)).await;
        answer.send(()).unwrap();
        assert!(waiting.await.unwrap().is_ok(), "a stride of looks before it");

        let deadline = Instant::now() + Duration::from_secs(1);
        let silent = tokio::spawn(complete_by(deadline, std::future::pending::<()>()));
        sleep(Duration::from_millis(1)).await;
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(1100)).await;
        assert!(silent.is_finished(), "it has no more than its time");
    }
}
