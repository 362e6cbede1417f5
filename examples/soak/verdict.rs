//! What is held against the server.

use std::time::Duration;

use crate::child::{State, Stats};
use crate::honest::Seen;
use crate::report::{Phase, Round, mib};

/// Where the control's clients wait for so long, the machine has no time for anybody, and how long
/// the honest wait says nothing about the server.
const TOO_BUSY: Duration = Duration::from_millis(25);

#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) failures: Vec<String>,
    /// What could not be judged, and why.
    pub(crate) open: Vec<String>,
}

impl Verdict {
    /// The honest wait at most `factor` times as long as without an attack (in the first phase, or
    /// as clients of the control at the same time), or for no longer than `floor`.
    pub(crate) fn latency(&mut self, phases: &[Phase], factor: f64, floor: Duration) {
        let Some((baseline, others)) = phases.split_first() else { return };
        // A machine that was busy at first excuses no more than one that is.
        let baseline = baseline.p99.min(TOO_BUSY);
        for Phase { name, p99, control_p99, .. } in others {
            let limit = baseline.max(*control_p99).mul_f64(factor).max(floor);
            if *control_p99 > TOO_BUSY {
                self.open.push(format!("{name}: the machine is too busy to judge the latency"));
            } else if *p99 > limit {
                self.failures.push(format!("{name}: p99 is {p99:.0?}, the limit is {limit:.0?}"));
            }
        }
    }

    /// From the first round's end on the live heap is flat but for `live` bytes, and the resident set
    /// but for `resident` bytes. The first round is the mark, because it fills caches and takes from the
    /// system what the allocator keeps for the next one.
    pub(crate) fn memory(&mut self, rounds: &[Phase], live: u64, resident: u64) {
        let heap: Vec<u64> = rounds.iter().map(|round| round.memory.live).collect();
        self.flat("live heap", &heap, live);
        let set: Option<Vec<u64>> = rounds.iter().map(|round| round.memory.resident).collect();
        match set {
            Some(set) => self.flat("resident set", &set, resident),
            None => self.open.push("this system does not tell a process's resident set".to_owned()),
        }
    }

    fn flat(&mut self, what: &str, ends: &[u64], allowance: u64) {
        let Some((&first, later)) = ends.split_first() else { return };
        // The lower one of the last two: what leaks does not come back, what is only late does.
        let last = later.iter().rev().take(2).copied().min().unwrap_or(first);
        self.claim(last <= first + allowance, || {
            let [first, last, allowance] = [first, last, allowance].map(mib);
            format!(
                "{what}: {first:.2} MiB after the first round, {last:.2} MiB after the last ones; {allowance:.2} MiB more are allowed"
            )
        });
    }

    /// The attack took place, and the server got rid of it.
    pub(crate) fn rounds(&mut self, rounds: &[Round]) {
        for (round, number) in rounds.iter().zip(1..) {
            for (kind, fared) in &round.tally {
                let kind = format!("{kind:?}").to_lowercase();
                self.claim(fared.kept == 0, || {
                    format!("round {number}: {} {kind} clients were not closed", fared.kept)
                });
                self.claim(fared.connected > 0, || {
                    format!("round {number}: no attack, no {kind} client got through")
                });
            }
            self.claim(round.left == 0, || {
                format!("round {number}: {} connections stayed when all had gone", round.left)
            });
        }
    }

    /// The sums add up when the server has stopped.
    pub(crate) fn sums(&mut self, end: &State, seen: &Seen, honest: u64, rounds: &[Round]) {
        let Stats { admitted, refused, ended, panics, restarts, ref endings } = end.stats;
        let Seen { sent, answered, cried, heard, .. } = *seen;
        let reasons: u64 = endings.values().sum();
        let drained = endings.get("shutdown").copied().unwrap_or_default();
        let dials = honest + rounds.iter().map(Round::dials).sum::<u64>();
        self.claim(end.connected == 0, || {
            format!("{} connections outlived the server", end.connected)
        });
        self.claim(admitted == ended, || format!("{admitted} were admitted, {ended} ended"));
        self.claim(reasons == ended, || format!("{ended} ended, for {reasons} reasons"));
        self.claim(drained == honest, || format!("the stop ended {drained} of {honest} honest"));
        self.claim(admitted + refused <= dials, || {
            format!("{admitted} were admitted and {refused} refused, of {dials} dials")
        });
        self.claim(panics + restarts == 0, || format!("{panics} panics, {restarts} restarts"));
        self.claim(sent == answered, || {
            format!("the honest sent {sent} messages and got {answered} answers")
        });
        self.claim(heard == cried * honest, || {
            format!("{cried} broadcasts came {heard} times to {honest} honest clients")
        });
    }

    fn claim(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(what());
        }
    }
}
