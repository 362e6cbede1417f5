//! What a run saw, for people to read.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::child::{State, Stats};
use crate::hostile::Tally;

/// A phase of the run, as the honest clients and the system saw it.
pub(crate) struct Phase {
    pub(crate) name: String,
    answers: u64,
    p50: Duration,
    pub(crate) p99: Duration,
    max: Duration,
    /// Of the control, at the same time.
    pub(crate) control_p99: Duration,
    pub(crate) memory: Memory,
}

/// What the server holds at the end of a phase, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Heap that is allocated and not freed.
    pub(crate) live: u64,
    /// The resident set, where the system tells.
    pub(crate) resident: Option<u64>,
}

/// An attack, and what the server did about it.
pub(crate) struct Round {
    pub(crate) tally: Tally,
    refused: u64,
    endings: BTreeMap<String, u64>,
    /// Hostile connections that the server still had long after they had gone.
    pub(crate) left: u64,
}

impl Phase {
    pub(crate) fn new(
        name: String,
        latency: &Histogram<u64>,
        control: &Histogram<u64>,
        memory: Memory,
    ) -> Self {
        let at = |latency: &Histogram<u64>, quantile| {
            Duration::from_micros(latency.value_at_quantile(quantile))
        };
        Self {
            name,
            answers: latency.len(),
            p50: at(latency, 0.5),
            p99: at(latency, 0.99),
            max: at(latency, 1.0),
            control_p99: at(control, 0.99),
            memory,
        }
    }

    pub(crate) fn print_header() {
        println!(
            "phase        answers    p50 ms    p99 ms    max ms  control p99  live KiB   RSS MiB"
        );
    }

    pub(crate) fn print(&self) {
        let Self { name, answers, p50, p99, max, control_p99, memory } = self;
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let [p50, p99, max, control] = [p50, p99, max, control_p99].map(ms);
        let live = memory.live / 1024;
        let resident = memory.resident.map_or("?".to_owned(), |bytes| format!("{:.1}", mib(bytes)));
        println!(
            "{name:<10}{answers:>10}{p50:>10.2}{p99:>10.2}{max:>10.2}{control:>13.2}{live:>10}{resident:>10}"
        );
    }
}

impl Round {
    /// What the server did is the difference of what it told `before` and `after`.
    pub(crate) fn new(tally: Tally, before: &Stats, after: &State, honest: u64) -> Self {
        let ended = |(why, count): (&String, &u64)| {
            (why.clone(), count - before.endings.get(why).copied().unwrap_or_default())
        };
        Self {
            tally,
            refused: after.stats.refused - before.refused,
            endings: after.stats.endings.iter().map(ended).filter(|&(_, n)| n > 0).collect(),
            left: after.connected.saturating_sub(honest),
        }
    }

    pub(crate) fn dials(&self) -> u64 {
        self.tally.values().map(|fared| fared.connected + fared.unreachable).sum()
    }

    pub(crate) fn print(&self, number: usize) {
        let came = self.tally.iter().map(|(kind, fared)| match fared.unreachable {
            0 => format!("{} {kind:?}", fared.connected),
            missing => format!("{} {kind:?} ({missing} more did not get through)", fared.connected),
        });
        let ended = self.endings.iter().map(|(why, count)| format!("{count} {why}"));
        let list = |parts: Vec<String>| parts.join(", ").to_lowercase();
        println!("round {number} came: {}", list(came.collect()));
        println!("  ended as: {}; {} refused", list(ended.collect()), self.refused);
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
