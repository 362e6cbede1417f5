//! A soak run: honest clients beside hostile ones, and a server that must not let the honest feel it.
//!
//! It fails if an honest client loses a message, gets one out of order or not as it was, or waits
//! for much longer than without the hostile; if the server keeps a hostile connection, or its heap grows; or
//! if its sums do not add up. A minute is the default; `--quick` takes ten seconds.
//!
//! The server is this program once more, in a process of its own.

#![allow(clippy::print_stdout)] // a program for a terminal

mod child;
mod client;
mod control;
mod honest;
mod hostile;
mod noise;
mod report;
mod server;
mod verdict;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;

use child::ServerProcess;
use hostile::Attack;
use report::{Memory, Phase, Round};
use verdict::Verdict;

/// How long a server may have hostile connections after they have gone.
const AFTERMATH: Duration = Duration::from_secs(30);

/// How long the look at the server's memory takes, after the last connection's end: what was shared is
/// freed a moment later.
const CALM: Duration = Duration::from_millis(300);

/// Descriptors beside those of the dials: other kinds of hostile clients, honest ones, the rest.
const DESCRIPTORS: u64 = 3000;

#[derive(Parser)]
#[command(about = "Honest clients beside hostile ones: fails if the honest feel it")]
struct Options {
    /// How long it takes, about
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Rounds of attack, at least 2 [default: one for each 8 seconds]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: Option<u32>,
    /// Ten seconds with two rounds, against a less patient server
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Honest clients, the one among them that asks for broadcasts included
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(2..))]
    honest: u64,
    /// Hostile dials at once
    #[arg(long, default_value_t = 5000)]
    dials: u32,
    // An attack on a sound server costs ten times the baseline's p99 where two cores carry both sides
    // and have nothing else to do, and up to thirty-five times where two builds want them as well: a
    // server that serves thousands at that moment feels it more than a client does. One that lets the
    // honest wait in line with the hostile, or for their deadlines, is at several hundred.
    /// How many times as long as without the hostile the honest may wait, by p99
    #[arg(long, default_value_t = 50.0)]
    factor: f64,
    /// How long they may wait in any case, in milliseconds
    #[arg(long, default_value_t = 20)]
    floor: u64,
    // Each of the two workers keeps up to four buffers of 64 KiB to write with, and one to read with that may
    // double. A leak of 40 bytes a connection is more than all of that in a minute.
    /// How much the server's live heap may grow by after the first round, in KiB
    #[arg(long, default_value_t = 640)]
    live_growth: u64,
    // What the allocator keeps of the highest peaks, which a later round can reach as well as the first:
    // as much as a full server takes. It says nothing about leaks, which are live.
    /// How much the server's resident set may grow by after the first round, in MiB
    #[arg(long, default_value_t = 16)]
    growth: u64,
    #[arg(long, hide = true)]
    serve: bool,
    #[arg(long, hide = true, default_value_t = 2000)]
    patience_ms: u64,
}

/// When what happens.
struct Plan {
    /// The baseline, and the end without the hostile.
    quiet: Duration,
    rounds: u32,
    /// From a round's first dial to its last.
    spread: Duration,
    /// What the server's deadlines are.
    patience: Duration,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let (seconds, patience) = if options.quick { (10, 1) } else { (options.seconds, 2) };
        let (whole, patience) =
            (Duration::from_secs(seconds.into()), Duration::from_secs(patience));
        let quiet = (whole / 12).max(Duration::from_millis(1500));
        let attack = whole.saturating_sub(2 * quiet);
        let rounds = match options.rounds {
            Some(rounds) => rounds,
            None if options.quick => 2,
            None => (attack.as_secs() as u32 / 8).max(2),
        };
        // The last ones to dial are ended when the server has lost its patience with them.
        let spread = (attack / rounds).saturating_sub(2 * patience).max(patience / 2);
        Self { quiet, rounds, spread, patience }
    }
}

fn soak(options: &Options) -> io::Result<Verdict> {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX)?;
    if descriptors < DESCRIPTORS + u64::from(options.dials) {
        let few = format!("{descriptors} descriptors are too few for so many --dials");
        return Err(io::Error::other(few));
    }
    let plan = Plan::new(options);
    let mut server = ServerProcess::start(plan.patience)?;
    let (honest, controls) = honest::start(server.addr, options.honest, control::start()?)?;
    let phase = |name: String, server: &mut ServerProcess| -> io::Result<Phase> {
        let memory = Memory { live: server.live(CALM)?, resident: server.resident() };
        let phase = Phase::new(name, &honest.lap()?, &controls.lap()?, memory);
        phase.print();
        Ok(phase)
    };
    Phase::print_header();
    sleep((plan.quiet / 5).saturating_sub(CALM));
    phase("warm-up".to_owned(), &mut server)?;
    sleep(plan.quiet.saturating_sub(CALM));
    let mut phases = vec![phase("baseline".to_owned(), &mut server)?];

    let attack = Attack {
        addr: server.addr,
        dials: options.dials,
        spread: plan.spread,
        drip: plan.patience / 2,
    };
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let before = server.state()?;
        let tally = attack.run(number)?;
        let after = server.settle(options.honest, AFTERMATH)?;
        phases.push(phase(format!("round {number}"), &mut server)?);
        rounds.push(Round::new(tally, &before.stats, &after, options.honest));
    }
    sleep(plan.quiet.saturating_sub(CALM));
    phases.push(phase("cool-down".to_owned(), &mut server)?);

    honest.rest()?;
    controls.rest()?;
    let end = server.stop()?;
    honest.see_the_end()?;
    for (round, number) in rounds.iter().zip(1..) {
        round.print(number);
    }

    let mut verdict = Verdict::default();
    for group in [&honest, &controls] {
        verdict.failures.append(&mut group.seen().failures);
    }
    verdict.latency(&phases, options.factor, Duration::from_millis(options.floor));
    let (live, resident) = (options.live_growth * 1024, options.growth * 1024 * 1024);
    verdict.memory(&phases[1..=rounds.len()], live, resident);
    verdict.rounds(&rounds);
    verdict.sums(&end, &honest.seen(), options.honest, &rounds);
    Ok(verdict)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    if options.serve {
        actix_rt::System::new().block_on(server::serve(options.patience_ms))?;
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let Verdict { failures, open } = soak(&options).unwrap_or_else(|error| Verdict {
        failures: vec![error.to_string()],
        ..Verdict::default()
    });
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    for question in &open {
        println!("not judged: {question}");
    }
    let (seconds, failed, open) = (begun.elapsed().as_secs(), failures.len(), open.len());
    if failed > 0 {
        println!("soak FAILED after {seconds} s: {failed} failures, {open} things not judged");
        return Ok(ExitCode::FAILURE);
    }
    println!("soak passed in {seconds} s, {open} things not judged");
    Ok(ExitCode::SUCCESS)
}
