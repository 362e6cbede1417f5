//! Settings: built-in defaults, then a file, then the environment.

mod load;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::{FrameCodec, HEADER_LEN, WireFormat};
use crate::conn::{Limits, Patience};
use crate::event::Counters;
pub use load::SettingsError;

/// What a server is told to do. The names are Zinx's, in snake case.
///
/// More settings may come: write `Settings { tcp_port: 0, ..Settings::default() }`.
///
/// An idle connection takes about 2 KiB. One whose peer does its worst takes, at most, an outbox
/// (`max_msg_chan_bytes`), the answers to the messages in flight (`max_worker_task_len` times the
/// largest answer), and what it was read into: the payloads in flight, rounded up to whole read
/// buffers (64 KiB, or about twice the largest packet), and one packet that is not complete yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the server is called in the log.
    pub name: String,
    /// The address or host name to listen on.
    pub host: String,
    /// The port to listen on; 0 lets the system choose.
    pub tcp_port: u16,
    /// How many connections are admitted at most; at least 1.
    pub max_conn: usize,
    /// The largest payload that is accepted from a peer, in bytes.
    pub max_packet_size: u32,
    /// How many workers (threads) serve connections; 0 for one a core, at most 1024.
    pub worker_pool_size: usize,
    /// A connection's in-flight window: how many of its messages may be with handlers at once; at
    /// least 1. It is also what a neighbour on the same worker may have to wait for.
    pub max_worker_task_len: u32,
    /// A connection's outbox, in frames; at least 1.
    pub max_msg_chan_len: usize,
    /// A connection's outbox, in bytes, headers included. There must be room for a payload of
    /// `max_packet_size` bytes and its header.
    pub max_msg_chan_bytes: usize,
    /// A peer that takes nothing of what is to be written for this long is closed, in
    /// milliseconds; at least 1.
    pub write_deadline_ms: u64,
    /// A peer that has not sent its first whole message this long after it connected is closed, in
    /// milliseconds; 0 for no such deadline. This one and the next two are kept by a clock of the
    /// worker: never early, and at most a quarter late (or 2 s, if that is less; or 10 ms, if that is
    /// more).
    pub first_message_deadline_ms: u64,
    /// A peer that does not complete a frame this long after it began one is closed, in
    /// milliseconds; 0 for no such deadline. Time does not count while the server does not read.
    pub frame_deadline_ms: u64,
    /// A peer that sends nothing for this long is closed, in milliseconds; 0 for no such deadline.
    /// Time does not count while the server does not read, or has a message of the peer to answer.
    pub idle_deadline_ms: u64,
    /// How long an ending connection, and a stopping server, have to finish what they have, in
    /// milliseconds.
    pub drain_deadline_ms: u64,
    /// How a frame's header is laid out.
    pub wire_format: WireFormat,
    /// What becomes of a connection that sends a message without a route.
    pub unrouted: Unrouted,
}

/// What becomes of a connection that sends a message without a route. The message is counted and
/// logged either way, the latter once a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unrouted {
    /// The message is dropped.
    #[default]
    Ignore,
    /// The connection is closed with [`CloseReason::NoRoute`](crate::CloseReason::NoRoute).
    Close,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "zinxide".to_owned(),
            host: "127.0.0.1".to_owned(),
            tcp_port: 7777,
            max_conn: 12_000,
            max_packet_size: 4096,
            worker_pool_size: 0,
            max_worker_task_len: 256,
            max_msg_chan_len: 1024,
            max_msg_chan_bytes: 1024 * 1024,
            write_deadline_ms: 10_000,
            first_message_deadline_ms: 0,
            frame_deadline_ms: 30_000,
            idle_deadline_ms: 0,
            drain_deadline_ms: 5_000,
            wire_format: WireFormat::LtvLe,
            unrouted: Unrouted::Ignore,
        }
    }
}

impl Settings {
    /// Checks what the types do not.
    ///
    /// # Errors
    ///
    /// [`SettingsError::OutOfRange`], which names the key.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let largest = self.max_packet_size as usize + HEADER_LEN;
        let checks: [(&'static str, bool, String); 7] = [
            ("max_conn", self.max_conn >= 1, "must be at least 1".into()),
            (
                "max_packet_size",
                self.max_packet_size <= MAX_PACKET,
                format!("must be at most {MAX_PACKET}"),
            ),
            (
                "worker_pool_size",
                self.worker_pool_size <= MAX_WORKERS,
                format!("must be at most {MAX_WORKERS}"),
            ),
            (
                "max_worker_task_len",
                (1..=MAX_WINDOW).contains(&self.max_worker_task_len),
                format!("must be from 1 to {MAX_WINDOW}"),
            ),
            ("max_msg_chan_len", self.max_msg_chan_len >= 1, "must be at least 1".into()),
            (
                "max_msg_chan_bytes",
                self.max_msg_chan_bytes >= largest,
                format!("must be at least max_packet_size and a header: {largest}"),
            ),
            (
                "write_deadline_ms",
                (1..=MAX_DEADLINE_MS).contains(&self.write_deadline_ms),
                format!("must be from 1 to {MAX_DEADLINE_MS}"),
            ),
        ];
        let deadlines = [
            ("first_message_deadline_ms", self.first_message_deadline_ms),
            ("frame_deadline_ms", self.frame_deadline_ms),
            ("idle_deadline_ms", self.idle_deadline_ms),
            ("drain_deadline_ms", self.drain_deadline_ms),
        ];
        let must = format!("must be at most {MAX_DEADLINE_MS}");
        let deadlines = deadlines.map(|(key, ms)| (key, ms <= MAX_DEADLINE_MS, must.clone()));
        match checks.into_iter().chain(deadlines).find(|(_, holds, _)| !holds) {
            Some((key, _, must)) => Err(SettingsError::OutOfRange { key, must, origin: None }),
            None => Ok(()),
        }
    }

    /// Where to listen.
    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        let mut addrs = (self.host.as_str(), self.tcp_port).to_socket_addrs()?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        addrs.next().ok_or_else(none)
    }

    pub(crate) fn workers(&self) -> usize {
        match self.worker_pool_size {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    pub(crate) fn limits(&self, counters: Arc<Counters>) -> Limits {
        Limits {
            codec: FrameCodec::new(self.wire_format, self.max_packet_size),
            window: self.max_worker_task_len,
            outbox_frames: self.max_msg_chan_len,
            outbox_bytes: self.max_msg_chan_bytes,
            write_deadline: Duration::from_millis(self.write_deadline_ms),
            drain_deadline: Duration::from_millis(self.drain_deadline_ms),
            patience: Patience {
                first_message: unless_0(self.first_message_deadline_ms),
                frame: unless_0(self.frame_deadline_ms),
                idle: unless_0(self.idle_deadline_ms),
            },
            close_unrouted: self.unrouted == Unrouted::Close,
            counters,
        }
    }
}

fn unless_0(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

const MAX_PACKET: u32 = 1 << 30;
const MAX_WORKERS: usize = 1024;
const MAX_WINDOW: u32 = 1 << 20;
/// A day.
const MAX_DEADLINE_MS: u64 = 86_400_000;
