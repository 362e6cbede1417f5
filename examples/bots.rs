//! A load tester: bots that talk to any server of the wire formats and time its answers.
//!
//! With `--rate` the loop is open: messages are sent by schedule, and an answer is timed from the
//! moment its message was due, so that a server that stalls cannot hide it by slowing the bots
//! down. Without it the loop is closed: each bot keeps `--depth` messages in flight.

#![allow(clippy::print_stdout)] // a program for a terminal

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::codec::{FramedRead, FramedWrite};
use zinxide::{CodecError, Frame, FrameCodec, WireFormat};

/// The longest latency that is told apart: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// tokio's timers tick this often.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Parser)]
#[command(about = "Bots that load a server and time its answers")]
struct Options {
    #[arg(default_value = "127.0.0.1:7777")]
    addr: SocketAddr,
    #[arg(long, default_value = "ltv-le")]
    wire: Wire,
    /// How many bots, one connection each
    #[arg(long, default_value_t = 100)]
    bots: u32,
    /// Messages a second, all bots together (open loop)
    #[arg(long)]
    rate: Option<f64>,
    /// Messages in flight, each bot (closed loop)
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    depth: usize,
    /// Payload bytes
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Message id to send
    #[arg(long, default_value_t = 0)]
    id: u32,
    /// Message id of answers, if it is another; other messages are counted and ignored
    #[arg(long)]
    reply_id: Option<u32>,
    /// Seconds over which the bots connect; they are not measured
    #[arg(long, default_value_t = 1.0)]
    ramp_up: f64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// Seconds to wait for a connection, and for the last answers
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wire {
    LtvLe,
    TlvBe,
}

/// What all bots have seen. They share a thread.
struct Seen {
    latency: Histogram<u64>,
    sent: u64,
    ignored: u64,
    errors: BTreeMap<String, u64>,
}

impl Seen {
    fn error(&mut self, kind: &dyn Display) {
        *self.errors.entry(kind.to_string()).or_default() += 1;
    }
}

/// When the bots work.
#[derive(Clone, Copy)]
struct Schedule {
    /// From here on messages are measured.
    start: Instant,
    /// Nothing is sent from here on.
    end: Instant,
    /// From one message of a bot to its next; `None` in a closed loop.
    interval: Option<Duration>,
}

struct Bot {
    options: Rc<Options>,
    schedule: Schedule,
    seen: Rc<RefCell<Seen>>,
    /// When the messages in flight were due. Answers come in order.
    due: RefCell<VecDeque<Instant>>,
    /// Places for messages in flight, in a closed loop.
    places: Semaphore,
}

impl Bot {
    async fn run(self, index: u32) {
        let Options { addr, wire, bots, ramp_up, timeout: patience, .. } = *self.options;
        sleep(Duration::from_secs_f64(ramp_up * f64::from(index) / f64::from(bots))).await;
        let patience = Duration::from_secs_f64(patience);
        let stream = match timeout(patience, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.fail("connect", &error.kind()),
            Err(_) => return self.fail("connect", &"timed out"),
        };
        if let Err(error) = stream.set_nodelay(true) {
            return self.fail("connect", &error.kind());
        }
        let codec = FrameCodec::new(
            match wire {
                Wire::LtvLe => WireFormat::LtvLe,
                Wire::TlvBe => WireFormat::TlvBe,
            },
            u32::MAX,
        );
        let (read, write) = stream.into_split();
        let last = self.schedule.end + patience;
        // Both at once, since a server that answers slowly also reads slowly.
        let ended = tokio::select! {
            sent = self.send(FramedWrite::new(write, codec.clone()), index) => sent,
            received = self.receive(FramedRead::new(read, codec)) => received,
            () = sleep_until(last) => Ok(()),
        };
        match ended {
            Ok(()) => {}
            Err(CodecError::Io(error)) => self.fail("connection", &error.kind()),
            Err(error) => self.fail("protocol", &error),
        }
        for _ in self.due.borrow().iter() {
            self.fail("message", &"no answer");
        }
    }

    async fn send(
        &self,
        mut sink: FramedWrite<OwnedWriteHalf, FrameCodec>,
        index: u32,
    ) -> Result<(), CodecError> {
        let Schedule { start, end, interval } = self.schedule;
        let payload = Bytes::from(vec![b'x'; self.options.size]);
        // Spread over the interval, lest all bots send at once.
        let share = f64::from(index) / f64::from(self.options.bots);
        let first = start + interval.unwrap_or_default().mul_f64(share);
        for n in 0_u32.. {
            let due = match interval {
                Some(interval) => first + interval * n,
                None => match timeout_at(end, self.places.acquire()).await {
                    Ok(Ok(place)) => {
                        place.forget();
                        Instant::now()
                    }
                    _ => end,
                },
            };
            if due >= end {
                break;
            }
            if interval.is_some() {
                wait_until(due).await;
            }
            self.due.borrow_mut().push_back(due);
            self.seen.borrow_mut().sent += 1;
            sink.send(Frame::new(self.options.id, payload.clone())).await?;
        }
        // Done when all answers are there.
        while !self.due.borrow().is_empty() {
            if let Ok(place) = self.places.acquire().await {
                place.forget();
            }
        }
        Ok(())
    }

    async fn receive(
        &self,
        mut stream: FramedRead<OwnedReadHalf, FrameCodec>,
    ) -> Result<(), CodecError> {
        let wanted = self.options.reply_id.unwrap_or(self.options.id);
        while let Some(frame) = stream.next().await {
            let frame = frame?;
            let mut seen = self.seen.borrow_mut();
            if frame.id != wanted {
                seen.ignored += 1;
                continue;
            }
            let Some(due) = self.due.borrow_mut().pop_front() else {
                seen.error(&"protocol: an answer to nothing");
                continue;
            };
            if due >= self.schedule.start {
                let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.latency.saturating_record(micros);
            }
            self.places.add_permits(1);
        }
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    fn fail(&self, what: &str, why: &dyn Display) {
        self.seen.borrow_mut().error(&format_args!("{what}: {why}"));
    }
}

/// Waits more exactly than a timer can, lest the tester's own lateness be taken for the server's.
async fn wait_until(due: Instant) {
    sleep_until(due - 2 * TICK).await;
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    bots: u32,
    /// Offered messages a second; `None` in a closed loop.
    rate: Option<f64>,
    sent: u64,
    answered: u64,
    answers_per_s: f64,
    ignored: u64,
    latency_us: Latency,
    errors: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Latency {
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Report {
    fn new(options: &Options, seen: &Seen) -> Self {
        let Seen { latency, sent, ignored, errors } = seen;
        Self {
            bots: options.bots,
            rate: options.rate,
            sent: *sent,
            answered: latency.len(),
            answers_per_s: latency.len() as f64 / options.secs,
            ignored: *ignored,
            latency_us: Latency {
                min: latency.min(),
                mean: latency.mean(),
                p50: latency.value_at_quantile(0.5),
                p90: latency.value_at_quantile(0.9),
                p99: latency.value_at_quantile(0.99),
                p99_9: latency.value_at_quantile(0.999),
                max: latency.max(),
            },
            errors: errors.clone(),
        }
    }

    fn print(&self) {
        let Self { bots, sent, answered, answers_per_s, ignored, latency_us, errors, .. } = self;
        let Latency { min, mean, p50, p90, p99, p99_9, max } = latency_us;
        println!(
            "{bots} bots sent {sent} messages, {answered} answers measured (none while ramping up), {answers_per_s:.0} a second"
        );
        println!("other messages ignored: {ignored}");
        println!(
            "latency in µs: min {min}, mean {mean:.1}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}"
        );
        for (kind, count) in errors {
            println!("error: {kind}: {count}");
        }
    }
}

/// Shows how far the test has come until it is dropped.
async fn show_progress(schedule: Schedule, begun: Instant, seen: Rc<RefCell<Seen>>) {
    let whole = schedule.end - begun;
    let bar = ProgressBar::new(whole.as_millis() as u64);
    let style = "{bar:40} {elapsed}/{msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    loop {
        bar.set_position(begun.elapsed().as_millis() as u64);
        let seen_now = seen.borrow().latency.len();
        bar.set_message(format!("{:.0}s, {seen_now} answers", whole.as_secs_f64()));
        sleep(Duration::from_millis(200)).await;
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Rc::new(Options::parse());
    rlimit::increase_nofile_limit(u64::MAX)?;
    let begun = Instant::now();
    let start = begun + Duration::from_secs_f64(options.ramp_up);
    let schedule = Schedule {
        start,
        end: start + Duration::from_secs_f64(options.secs),
        interval: options.rate.map(|rate| Duration::from_secs_f64(f64::from(options.bots) / rate)),
    };
    let seen = Rc::new(RefCell::new(Seen {
        latency: Histogram::new_with_bounds(1, LONGEST_US, 3)?,
        sent: 0,
        ignored: 0,
        errors: BTreeMap::new(),
    }));
    let bots = (0..options.bots).map(|index| {
        let bot = Bot {
            options: Rc::clone(&options),
            schedule,
            seen: Rc::clone(&seen),
            due: RefCell::default(),
            places: Semaphore::new(if options.rate.is_some() { 0 } else { options.depth }),
        };
        actix_rt::spawn(bot.run(index))
    });
    let bots: Vec<_> = bots.collect();
    let progress = actix_rt::spawn(show_progress(schedule, begun, Rc::clone(&seen)));
    for bot in bots {
        bot.await?;
    }
    progress.abort();

    let report = Report::new(&options, &seen.borrow());
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    if report.errors.is_empty() { Ok(()) } else { Err("there were errors".into()) }
}
