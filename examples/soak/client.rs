//! One honest client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::codec::Framed;
use zinxide::{Frame, FrameCodec, WireFormat};

use crate::honest::{LOST, Shared};
use crate::noise::Noise;
use crate::server::{BY_ACTOR, BY_FUNCTION, MAX_PACKET, NEWS};

/// How many messages a client sends before it waits for their answers. Together they are less than
/// half an outbox, so that the server has no reason to hold any of them back.
const IN_FLIGHT: u64 = 4;

/// From one such burst to the next. The load is paced, because two cores carry both sides: as fast
/// as it can go, it would measure the clients.
const PACE: Duration = Duration::from_millis(20);

/// From one broadcast to the next.
const NEWS_PACE: Duration = Duration::from_millis(200);

/// Keeps to the protocol and looks closely at what comes back.
pub(crate) struct Client {
    pub(crate) number: u64,
    wire: Framed<TcpStream, FrameCodec>,
    noise: Noise,
    sent: u64,
    /// How many broadcasts have come.
    heard: u64,
    shared: Arc<Shared>,
}

impl Client {
    /// Connects and speaks at once: the server does not wait for a first message for ever.
    pub(crate) async fn get_in(
        number: u64,
        addr: SocketAddr,
        shared: &Arc<Shared>,
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(addr).await.map_err(says)?;
        stream.set_nodelay(true).map_err(says)?;
        let wire = Framed::new(stream, FrameCodec::new(WireFormat::LtvLe, MAX_PACKET));
        let (noise, shared) = (Noise::new(number), Arc::clone(shared));
        let mut client = Self { number, wire, noise, sent: 0, heard: 0, shared };
        client.exchange(Instant::now()).await?;
        Ok(client)
    }

    /// Talks until it is enough.
    pub(crate) async fn talk(&mut self) -> Result<(), String> {
        // Not all at once.
        let first = Instant::now() + PACE.mul_f64(self.noise.up_to(1000) as f64 / 1000.0);
        let mut clock = interval_at(first, PACE);
        while !self.shared.is_enough() {
            // Timed from when it is due, so that a server that stalls cannot hide it by slowing
            // its clients down.
            let due = clock.tick().await;
            self.exchange(due).await?;
        }
        Ok(())
    }

    /// Asks for broadcasts until it is enough.
    pub(crate) async fn cry(&mut self) -> Result<(), String> {
        let mut clock = interval_at(Instant::now() + NEWS_PACE, NEWS_PACE);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.shared.is_enough() {
            clock.tick().await;
            self.wire.send(news(self.heard)).await.map_err(says)?;
            self.shared.seen().cried += 1;
            self.catch_up(self.heard + 1).await?;
        }
        Ok(())
    }

    /// Sends a burst of messages, and takes their answers.
    async fn exchange(&mut self, due: Instant) -> Result<(), String> {
        let mut expected: VecDeque<_> = (0..IN_FLIGHT).map(|_| self.message()).collect();
        self.shared.seen().sent += IN_FLIGHT;
        let answers = timeout(LOST, async {
            for message in &expected {
                self.wire.feed(message.clone()).await.map_err(says)?;
            }
            self.wire.flush().await.map_err(says)?;
            self.take_answers(&mut expected, due).await
        });
        answers.await.unwrap_or_else(|_| {
            let number = self.sent - expected.len() as u64;
            Err(format!("no answer to message {number} in {LOST:?}"))
        })
    }

    /// The next message: its number, as far as there is room for that, and noise.
    fn message(&mut self) -> Frame {
        let id = if self.noise.up_to(1) == 0 { BY_FUNCTION } else { BY_ACTOR };
        let len = self.noise.up_to(MAX_PACKET as usize);
        let mut payload = self.noise.bytes(len);
        for (byte, digit) in payload.iter_mut().zip(self.sent.to_le_bytes()) {
            *byte = digit;
        }
        self.sent += 1;
        Frame::new(id, payload)
    }

    async fn take_answers(
        &mut self,
        expected: &mut VecDeque<Frame>,
        due: Instant,
    ) -> Result<(), String> {
        while let Some(message) = expected.front() {
            let answer = self.receive().await?;
            if answer.id == NEWS {
                continue;
            }
            if answer != *message {
                let number = self.sent - expected.len() as u64;
                let what = match expected.iter().position(|later| *later == answer) {
                    Some(ahead) => format!("the answer to message {}", number + ahead as u64),
                    None => format!("something else of {} bytes", answer.payload.len()),
                };
                return Err(format!("instead of the answer to message {number} came {what}"));
            }
            expected.pop_front();
            let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            let mut seen = self.shared.seen();
            seen.answered += 1;
            seen.latency.saturating_record(micros);
        }
        Ok(())
    }

    /// Takes broadcasts until there were `count`.
    pub(crate) async fn catch_up(&mut self, count: u64) -> Result<(), String> {
        while self.heard < count {
            let frame = timeout(LOST, self.receive()).await;
            let frame = frame.map_err(|_| format!("no broadcast {} in {LOST:?}", self.heard))??;
            if frame.id != NEWS {
                return Err(format!("an answer to nothing, {} bytes", frame.payload.len()));
            }
        }
        Ok(())
    }

    /// The next frame. If it is a broadcast, it is the right one.
    async fn receive(&mut self) -> Result<Frame, String> {
        let frame = self.wire.next().await.ok_or("disconnected")?.map_err(says)?;
        if frame.id == NEWS {
            if frame != news(self.heard) {
                return Err(format!("instead of broadcast {} came another", self.heard));
            }
            self.heard += 1;
            self.shared.seen().heard += 1;
        }
        Ok(frame)
    }

    /// Sees the server close the connection in order, and say nothing before that.
    pub(crate) async fn take_leave(&mut self) -> Result<(), String> {
        match timeout(LOST, self.wire.next()).await {
            Ok(None) => Ok(()),
            Ok(Some(Ok(frame))) => Err(format!("one frame too many, with id {}", frame.id)),
            Ok(Some(Err(error))) => Err(format!("not disconnected in order: {error}")),
            Err(_) => Err("not disconnected by the server's stop".to_owned()),
        }
    }
}

fn says(error: impl std::error::Error) -> String {
    error.to_string()
}

/// The broadcast of this number.
fn news(number: u64) -> Frame {
    Frame::new(NEWS, [&number.to_le_bytes()[..], &Noise::new(number).bytes(248)].concat())
}
