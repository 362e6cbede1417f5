//! What a stop came to.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::conn::Unsent;
use crate::event::Stats;

/// How the stop of a server went: what [`BoundServer::serve`](crate::BoundServer::serve) answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StopReport {
    /// Connections that were there when the stop began, those included that had left the table although
    /// their handlers were still at work.
    pub connections: usize,
    /// Connections of these whose end was cut short: because it was not over by the deadline, or because
    /// their worker ended under them.
    pub cut: u64,
    /// Messages that were with handlers then, whose answers come to nothing. One that waits for its turn
    /// in the queue of a handler actor is with it.
    pub messages_unfinished: u64,
    /// Frames accepted for sending that were left unsent, since the stop began.
    pub frames_cut: u64,
    /// The bytes of these frames that were unsent, headers included.
    pub bytes_cut: u64,
    /// Bytes received and left without a handler, since the stop began. Of connections that are left
    /// behind they are not known.
    pub bytes_unhandled: u64,
    /// Connections that ended since the stop began while the system still held bytes that their peers'
    /// systems had not acknowledged.
    pub unconfirmed: u64,
    /// Workers whose thread a handler blocks; they are left behind.
    pub workers_stuck: usize,
    /// Connections of these workers, which end when the handler returns. All others have ended.
    pub left_behind: usize,
    /// How long it took, notice included.
    pub took: Duration,
}

impl StopReport {
    /// Whether everything ended in order, with nothing lost.
    pub fn is_clean(&self) -> bool {
        let Self { connections, took, .. } = *self;
        *self == Self { connections, took, ..Self::default() }
    }

    /// Adds what was cut between two readings of the counters.
    pub(super) fn between(self, before: &Stats, after: &Stats) -> Self {
        Self {
            cut: after.cut_short - before.cut_short,
            messages_unfinished: after.messages_unfinished - before.messages_unfinished,
            frames_cut: after.frames_cut - before.frames_cut,
            bytes_cut: after.bytes_cut - before.bytes_cut,
            bytes_unhandled: after.bytes_unhandled - before.bytes_unhandled,
            unconfirmed: after.unconfirmed - before.unconfirmed,
            ..self
        }
    }

    /// Adds what a connection that is left behind has not sent.
    pub(super) fn leave(mut self, Unsent { frames, bytes }: Unsent) -> Self {
        self.frames_cut += frames as u64;
        self.bytes_cut += bytes as u64;
        self
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, took, .. } = self;
        write!(f, "{connections} connections, ended in {} ms", took.as_millis())?;
        if self.is_clean() {
            return Ok(());
        }
        let Self { cut, messages_unfinished, frames_cut, bytes_cut, bytes_unhandled, .. } = self;
        write!(
            f,
            ", {cut} of them cut short, {messages_unfinished} messages unfinished, \
             {frames_cut} frames ({bytes_cut} bytes) unsent, {bytes_unhandled} bytes unhandled, \
             {} connections unconfirmed, {} workers stuck",
            self.unconfirmed, self.workers_stuck
        )?;
        match self.left_behind {
            0 => Ok(()),
            left => write!(f, " with {left} connections"),
        }
    }
}
