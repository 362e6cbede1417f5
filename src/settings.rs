//! Settings: built-in defaults, then a file, then the environment.

mod load;
mod network;
mod validate;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::codec::framing::Framing;
use crate::codec::{FrameCodec, WireFormat};
use crate::conn::{
    Budget, Handshakes, IntakeBudget, Limits, OverRate, Overflow, Patience, Rate, Rates, Unsent,
};
use crate::endpoint::Endpoint;
use crate::event::Events;
use crate::secret::shown;
pub use load::SettingsError;
pub use network::{BadNetwork, Network};

/// What a server is told to do. The names are Zinx's, in snake case.
///
/// More settings may come: write `Settings { tcp_port: 0, ..Settings::default() }`.
///
/// An idle connection takes about 2 KiB, 7 over WebSocket, 10 in TLS, 15 with both. One whose peer does its worst takes, at most, an outbox
/// (`max_msg_chan_bytes`), the answers to the messages in flight (`max_worker_task_len` times the
/// largest answer), and what it was read into: the payloads in flight, rounded up to whole read
/// buffers (64 KiB, or about twice the largest packet), and one packet that is not complete yet.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the server is called in the log.
    pub name: String,
    /// The address or host name to listen on.
    pub host: String,
    /// The port to listen on; 0 lets the system choose.
    pub tcp_port: u16,
    /// Where to listen, if that is more than TCP at `host` and `tcp_port`, whose place it takes unless
    /// it is empty. All endpoints have their connections in common: limits, routes, hooks.
    pub listen: Vec<Endpoint>,
    /// How long a peer has for the handshakes that come before its first frame (PROXY header, TLS,
    /// WebSocket), all together, in milliseconds; at least 1.
    pub handshake_deadline_ms: u64,
    /// How many peers may be in the handshakes of TLS and WebSocket at once, those that are refused
    /// included; at least 1. Beyond it the server takes no more connections of such endpoints from the
    /// system's queue, and a peer that has kept the server waiting for a fifth of
    /// `handshake_deadline_ms` is given up. A worker takes one step of a handshake at a time, so that
    /// this times the duration of a step is what a peer may wait for its turn.
    pub max_handshakes: usize,
    /// How many of these may be with one address (see `ipv6_prefix`); 0 for any number. Beyond it the
    /// address's next ones wait for those before them, within their deadline.
    pub max_handshakes_per_ip: usize,
    /// Networks of balancers, whose connections begin with a header of the PROXY protocol, version 1
    /// or 2, that says who the peer is. Others connect as themselves. Needs the feature `proxy`.
    pub proxy_from: Vec<Network>,
    /// The PEM file of the certificate, and of those that lead from it to its root, for `tls` and
    /// `wss`. Needs the feature `tls`, as the next three do.
    #[debug("{:?}", shown(tls_cert))]
    pub tls_cert: String,
    /// The PEM file of its private key, which is one and not encrypted; `tls_cert` may be the same file.
    #[debug("{:?}", shown(tls_key))]
    pub tls_key: String,
    /// The PEM file of the roots of clients' certificates; empty if clients need none.
    #[debug("{:?}", shown(tls_client_ca))]
    pub tls_client_ca: String,
    /// Whether a client needs a certificate, if there is a `tls_client_ca`.
    pub tls_client_cert: ClientCert,
    /// The subprotocols of `ws` and `wss`, best first: the first that a client offers, too, is
    /// spoken. Empty for none. A client that offers none of them is let in all the same. Needs the
    /// feature `ws`, as the next one does.
    pub ws_subprotocols: Vec<String>,
    /// The origins of pages that may connect by `ws` and `wss`, as browsers send them
    /// (`https://example.com`, without a port of 443 or 80; `localhost` is not `127.0.0.1`); empty for all. A client that names no origin is no browser, and may connect.
    pub ws_origins: Vec<String>,
    /// How many connections are admitted at most; at least 1. It can be changed while the server
    /// runs: [`ServerHandle::set_max_conn`](crate::ServerHandle::set_max_conn).
    pub max_conn: usize,
    /// What becomes of a dial that finds no place.
    pub when_full: WhenFull,
    /// How many connections one address may have; 0 for no such limit.
    pub max_conn_per_ip: usize,
    /// How often one address may connect a second, in the long run; 0 for any number. What is more is
    /// refused at once, without a TLS handshake. Addresses that have not connected for as long as a burst
    /// takes to come again are forgotten, and so are some before that if more than 32,768 connect
    /// in that time.
    pub rate_connects_per_ip: u32,
    /// How often it may connect at once: at least 1. Many peers may share an address.
    pub rate_connects_burst: u32,
    /// How many bits of an IPv6 address count as one for `max_conn_per_ip`, `max_handshakes_per_ip` and
    /// `rate_connects_per_ip`, since a single peer has a whole network of them; from 1 to 128.
    pub ipv6_prefix: u8,
    /// How many places of `max_conn` are kept for peers in `reserved_for`.
    pub reserved_conn: usize,
    /// Networks whose peers may take the last places.
    pub reserved_for: Vec<Network>,
    /// Networks whose peers may connect; empty for all.
    pub allow: Vec<Network>,
    /// Networks whose peers may not, even if `allow` has them.
    pub deny: Vec<Network>,
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
    /// What becomes of a frame for which an outbox has no room, if its sender does not say. Answers
    /// to messages are always accepted.
    pub overflow: Overflow,
    /// The same for broadcasts.
    pub broadcast_overflow: Overflow,
    /// An outbox that the socket does not empty and that is fuller than this, in percent of its
    /// frames or bytes, is above its high watermark; up to 100.
    pub high_watermark_percent: u8,
    /// An outbox that was above its high watermark is below the low one when it is not fuller than
    /// this, in percent of its frames and bytes; at most the high one.
    pub low_watermark_percent: u8,
    /// How many bytes may be unsent because peers do not take them, all connections together; 0 for
    /// no such bound. Beyond it those are closed for whom most is unsent, until it holds.
    pub max_unsent_bytes: usize,
    /// How many bytes may be received and not handed to a handler, all connections together: frames that
    /// are not complete, input that waits for its rate or for the window, what comes in handshakes; in whole read buffers, as
    /// far as they are kept. 0 for no such bound, else at least the largest packet and its header. Beyond it a connection that
    /// holds more than 8 KiB, 4 in a handshake, is not read until others hold less. Nobody is closed for
    /// that but who has not completed a frame by `frame_deadline_ms`, which must not be 0.
    ///
    /// Payloads that are with handlers do not count: `max_worker_task_len` bounds those.
    pub max_inbound_bytes: usize,
    /// A peer that takes nothing of what is to be written for this long is closed, in
    /// milliseconds; at least 1.
    pub write_deadline_ms: u64,
    /// A peer that has not sent its first whole message this long after it connected is closed, in
    /// milliseconds; 0 for no such deadline. This one and the next two are kept by a clock of the
    /// worker: never early, and at most a quarter late (or 2 s, if that is less; or 10 ms, if that is
    /// more).
    pub first_message_deadline_ms: u64,
    /// A peer that does not complete a frame this long after it began one is closed, in
    /// milliseconds; 0 for no such deadline. Time does not count while the server does not read, unless that
    /// is for `max_inbound_bytes`.
    pub frame_deadline_ms: u64,
    /// A peer that sends nothing for this long is closed, in milliseconds; 0 for no such deadline.
    /// Time does not count while the server does not read, or has a message of the peer to answer.
    pub idle_deadline_ms: u64,
    /// A connection to which nothing was written for this long is closed, in milliseconds; 0 for no
    /// such deadline. Kept as the three above.
    pub write_idle_deadline_ms: u64,
    /// A connection of whose messages some are with handlers, and none was done for this long, is
    /// closed, in milliseconds; 0 for no such deadline. Kept as those above. A handler that blocks
    /// its thread for that long cannot be ended; it is reported.
    pub handler_deadline_ms: u64,
    /// What becomes of messages whose handler actor, or supervised actor, died and is about to be started
    /// again after a pause.
    pub while_handler_down: WhileDown,
    /// How many messages may come on a connection a second, in the long run; 0 for any number. Routes
    /// may count for more: [`Server::route_cost`](crate::Server::route_cost). Over WebSocket a ping or a pong
    /// counts as a message.
    pub rate_messages: u32,
    /// How many bytes may come on a connection a second, in the long run; 0 for any number. A burst must
    /// allow the largest packet. They are counted as they come from the socket: headers, TLS records,
    /// control frames and the handshake included, the latter as half a burst at most.
    pub rate_bytes: u32,
    /// How much may come at once: what the rates allow in this time, in milliseconds; at least
    /// 1. Messages may be so much, and what comes beside them as much again; the rates hold for both together.
    pub rate_burst_ms: u64,
    /// What becomes of a message with which a peer has sent too much, or that comes with too much beside
    /// it.
    pub over_rate: OverRate,
    /// After this time of silence the system asks whether the peer is still there (TCP keep-alive), in
    /// milliseconds; 0 for never. Three more times, a third of it apart, then the connection is
    /// closed. The system counts in whole seconds.
    pub tcp_keepalive_ms: u64,
    /// After this time without an acknowledgement of what was sent the system closes the connection
    /// (`TCP_USER_TIMEOUT`), in milliseconds; 0 for what the system does by itself. On Linux only.
    pub tcp_user_timeout_ms: u32,
    /// What a server does when one of its workers ends before it does.
    pub when_worker_lost: WhenWorkerLost,
    /// How long a stopping server serves on after it has told its clients, in milliseconds: see
    /// [`Server::shutdown_notice`](crate::Server::shutdown_notice).
    pub notice_ms: u64,
    /// How long an ending connection, and a stopping server, have to finish what they have, in
    /// milliseconds.
    pub drain_deadline_ms: u64,
    /// How long a connection that has written everything waits, before it closes its socket, for the
    /// peer to close its side or, on Linux, for the peer's system to acknowledge everything, in
    /// milliseconds; at most a day. More than three fifths of `drain_deadline_ms` has no effect: it counts as
    /// that. A socket that is closed sooner is reset if the peer speaks, and what the peer has not received by
    /// then is lost.
    pub linger_ms: u64,
    /// How long a connection goes on whose peer has closed its side and may still read, in
    /// milliseconds; from 1 to a day. What came before is handled, and replies are written, as far as
    /// that is possible in this time.
    pub half_closed_ms: u64,
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

/// What becomes of a dial for which the server has no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WhenFull {
    /// It is closed at once, perhaps after a frame that says why:
    /// [`Server::refusal`](crate::Server::refusal).
    #[default]
    Refuse,
    /// It waits, and all later ones with it in the system's queue, until there is a place.
    Wait,
}

/// What becomes of messages whose handler actor died and is about to be started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WhileDown {
    /// They wait for the new actor.
    #[default]
    Wait,
    /// They are dropped and counted.
    Drop,
    /// Their connections are closed with
    /// [`CloseReason::HandlerGone`](crate::CloseReason::HandlerGone).
    Close,
}

/// What a server does when a worker ends before it does. The connections of that worker end with
/// [`CloseReason::WorkerGone`](crate::CloseReason::WorkerGone) either way, and a server without
/// workers stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WhenWorkerLost {
    /// It goes on with the others.
    #[default]
    GoOn,
    /// It drains and ends with [`ServerError::WorkerLost`](crate::ServerError::WorkerLost).
    Stop,
}

/// Whether a client needs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClientCert {
    /// Who has none, or one of another root, is not let in.
    #[default]
    Required,
    /// Who has one of another root is not let in.
    Optional,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "zinxide".to_owned(),
            host: "127.0.0.1".to_owned(),
            tcp_port: 7777,
            listen: Vec::new(),
            handshake_deadline_ms: 10_000,
            max_handshakes: 4096,
            max_handshakes_per_ip: 0,
            proxy_from: Vec::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_client_ca: String::new(),
            tls_client_cert: ClientCert::Required,
            ws_subprotocols: Vec::new(),
            ws_origins: Vec::new(),
            max_conn: 12_000,
            when_full: WhenFull::Refuse,
            max_conn_per_ip: 0,
            rate_connects_per_ip: 0,
            rate_connects_burst: 10,
            ipv6_prefix: 64,
            reserved_conn: 0,
            reserved_for: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            max_packet_size: 4096,
            worker_pool_size: 0,
            max_worker_task_len: 256,
            max_msg_chan_len: 1024,
            max_msg_chan_bytes: 1024 * 1024,
            overflow: Overflow::Refuse,
            broadcast_overflow: Overflow::Close,
            high_watermark_percent: 75,
            low_watermark_percent: 25,
            max_unsent_bytes: 0,
            max_inbound_bytes: 0,
            write_deadline_ms: 10_000,
            first_message_deadline_ms: 0,
            frame_deadline_ms: 30_000,
            idle_deadline_ms: 0,
            write_idle_deadline_ms: 0,
            handler_deadline_ms: 0,
            while_handler_down: WhileDown::Wait,
            rate_messages: 0,
            rate_bytes: 0,
            rate_burst_ms: 1000,
            over_rate: OverRate::Delay,
            tcp_keepalive_ms: 0,
            tcp_user_timeout_ms: 0,
            when_worker_lost: WhenWorkerLost::GoOn,
            notice_ms: 0,
            drain_deadline_ms: 5_000,
            linger_ms: 3_000,
            half_closed_ms: 5_000,
            wire_format: WireFormat::LtvLe,
            unrouted: Unrouted::Ignore,
        }
    }
}

impl Settings {
    /// Where to listen: `listen`, or else `host` and `tcp_port`.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        if self.listen.is_empty() {
            vec![Endpoint::tcp(&self.host, self.tcp_port)]
        } else {
            self.listen.clone()
        }
    }

    pub(crate) fn workers(&self) -> usize {
        match self.worker_pool_size {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// Frames as `framing` has them, or else as the wire format says.
    pub(crate) fn codec(&self, framing: Option<Arc<dyn Framing>>) -> FrameCodec {
        match framing {
            Some(framing) => FrameCodec::shared(framing, self.max_packet_size),
            None => FrameCodec::new(self.wire_format, self.max_packet_size),
        }
    }

    pub(crate) fn limits(&self, events: Arc<Events>) -> Limits {
        let of_outbox = |percent: u8| Unsent {
            frames: percent_of(self.max_msg_chan_len, percent),
            bytes: percent_of(self.max_msg_chan_bytes, percent),
        };
        let rate = |per_second: u32| {
            // A message never costs more than a burst: a burst of less would make all of them cheaper.
            let burst = (f64::from(per_second) * self.rate_burst_ms as f64 / 1000.0).max(1.0);
            (per_second > 0).then(|| Rate { per_second: per_second.into(), burst })
        };
        Limits {
            codec: self.codec(None),
            window: self.max_worker_task_len,
            outbox_frames: self.max_msg_chan_len,
            outbox_bytes: self.max_msg_chan_bytes,
            overflow: self.overflow,
            broadcast_overflow: self.broadcast_overflow,
            high_watermark: of_outbox(self.high_watermark_percent),
            low_watermark: of_outbox(self.low_watermark_percent),
            budget: Arc::new(Budget::new(match self.max_unsent_bytes {
                0 => usize::MAX,
                bytes => bytes,
            })),
            intake: IntakeBudget::new(self.max_inbound_bytes, &events),
            handshake_deadline: Duration::from_millis(self.handshake_deadline_ms),
            handshakes: Arc::new(Handshakes::new(
                self.max_handshakes,
                self.max_handshakes_per_ip,
                self.ipv6_prefix,
            )),
            lingering: Arc::new(Semaphore::new(LINGERING)),
            write_deadline: Duration::from_millis(self.write_deadline_ms),
            drain_deadline: Duration::from_millis(self.drain_deadline_ms),
            linger: Duration::from_millis(self.linger_ms),
            half_closed: Duration::from_millis(self.half_closed_ms),
            patience: Patience {
                first_message: unless_0(self.first_message_deadline_ms),
                frame: unless_0(self.frame_deadline_ms),
                idle: unless_0(self.idle_deadline_ms),
                write_idle: unless_0(self.write_idle_deadline_ms),
                handler: unless_0(self.handler_deadline_ms),
            },
            rates: Rates {
                messages: rate(self.rate_messages),
                bytes: rate(self.rate_bytes),
                over: self.over_rate,
                costs: FxHashMap::default(),
            },
            close_unrouted: self.unrouted == Unrouted::Close,
            events,
        }
    }
}

/// So many peers that are turned away are waited for at once; the others are closed with what they have
/// got.
const LINGERING: usize = 256;

/// Without overflow, whatever `n` is.
fn percent_of(n: usize, percent: u8) -> usize {
    n / 100 * usize::from(percent) + n % 100 * usize::from(percent) / 100
}

fn unless_0(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}
