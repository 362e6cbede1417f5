//! What a connection has to have done by when.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::deadline::SECOND_LOOK;

/// So long a peer has at most to go on reading when the process was frozen.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The peer takes some of what is to be written.
    Write,
    /// The ending is over.
    End,
    /// The connection of a peer that has closed its side ends.
    HalfClosed,
    /// The peer closes its side.
    Linger,
    /// The handlers are done.
    Handlers,
    /// The peer has made up for what it sent too much, or the server may hold less by now.
    Rate,
}

const DUES: usize = 6;
const ALL: [Due; DUES] =
    [Due::Write, Due::End, Due::HalfClosed, Due::Linger, Due::Handlers, Due::Rate];

/// A connection's deadlines, with one timer for all of them. A connection that is well has none,
/// and takes no memory for them: ten thousand connections do not mean ten thousand timers.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Option<Box<Armed>>);

#[derive(Debug)]
struct Armed {
    timer: Pin<Box<Sleep>>,
    /// By `Due`.
    at: [Option<Instant>; DUES],
    /// By `Due`: it has passed, and the time for a second look runs.
    passed: [bool; DUES],
}

impl Deadlines {
    /// Something is due in this time from now.
    pub(crate) fn set(&mut self, due: Due, time: Duration) {
        let at = Instant::now() + time;
        let new = || {
            let timer = Box::pin(sleep_until(at));
            Box::new(Armed { timer, at: [None; DUES], passed: [false; DUES] })
        };
        let armed = self.0.get_or_insert_with(new);
        armed.at[due as usize] = Some(at);
        armed.passed[due as usize] = false;
    }

    /// Something is due no longer.
    #[inline]
    pub(crate) fn clear(&mut self, due: Due) {
        if let Some(armed) = &mut self.0 {
            armed.at[due as usize] = None;
        }
    }

    pub(crate) fn is_set(&self, due: Due) -> bool {
        self.0.as_ref().is_some_and(|armed| armed.at[due as usize].is_some())
    }

    /// The next one that has passed, also at a second look; it is due no longer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let Some(armed) = &mut self.0 else { return Poll::Pending };
        loop {
            let set = ALL.into_iter().filter_map(|due| Some((armed.at[due as usize]?, due)));
            let Some((at, due)) = set.min_by_key(|&(at, _)| at) else {
                self.0 = None;
                return Poll::Pending;
            };
            if armed.timer.deadline() != at {
                armed.timer.as_mut().reset(at);
            }
            ready!(armed.timer.as_mut().poll(cx));
            // Reading goes on when its time has come, whatever the socket says.
            if due == Due::Rate || std::mem::replace(&mut armed.passed[due as usize], true) {
                armed.at[due as usize] = None;
                return Poll::Ready(due);
            }
            // A timer is this late when the process was frozen, perhaps with its peers, which go on reading now.
            let late = if due == Due::Write { at.elapsed() } else { Duration::ZERO };
            armed.at[due as usize] = Some(Instant::now() + late.clamp(SECOND_LOOK, LONGEST_LOOK));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_frozen_with_the_process_has_time_to_go_on_reading() {
        let mut deadlines = Deadlines::default();
        deadlines.set(Due::Write, Duration::from_secs(10));
        advance(Duration::from_secs(13)).await;
        let begun = Instant::now();
        tokio::select! {
            _ = poll_fn(|cx| deadlines.poll(cx)) => panic!("it is judged at once"),
            () = sleep(Duration::from_millis(2500)) => {}
        }
        assert_eq!(poll_fn(|cx| deadlines.poll(cx)).await, Due::Write);
        assert!(begun.elapsed() < Duration::from_millis(3100));
    }
}
