//! What a connection has to have done by when.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The peer takes some of what is to be written.
    Write,
    /// The ending is over.
    End,
    /// The peer closes its side.
    Linger,
    /// The handlers are done.
    Handlers,
    /// The peer has made up for what it sent too much.
    Rate,
}

const DUES: usize = 5;
const ALL: [Due; DUES] = [Due::Write, Due::End, Due::Linger, Due::Handlers, Due::Rate];

/// A connection's deadlines, with one timer for all of them. A connection that is well has none,
/// and takes no memory for them: ten thousand connections do not mean ten thousand timers.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Option<Box<Armed>>);

#[derive(Debug)]
struct Armed {
    timer: Pin<Box<Sleep>>,
    /// By `Due`.
    at: [Option<Instant>; DUES],
}

impl Deadlines {
    /// Something is due in this time from now.
    pub(crate) fn set(&mut self, due: Due, time: Duration) {
        let at = Instant::now() + time;
        let new = || Box::new(Armed { timer: Box::pin(sleep_until(at)), at: [None; DUES] });
        self.0.get_or_insert_with(new).at[due as usize] = Some(at);
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

    /// The next one that has passed; it is due no longer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let Some(armed) = &mut self.0 else { return Poll::Pending };
        let set = ALL.into_iter().filter_map(|due| Some((armed.at[due as usize]?, due)));
        let Some((at, due)) = set.min_by_key(|&(at, _)| at) else {
            self.0 = None;
            return Poll::Pending;
        };
        if armed.timer.deadline() != at {
            armed.timer.as_mut().reset(at);
        }
        ready!(armed.timer.as_mut().poll(cx));
        armed.at[due as usize] = None;
        Poll::Ready(due)
    }
}
