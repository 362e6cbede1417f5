//! What the server guarantees: a file for each guarantee, whose number its tests carry. This is the suite
//! over TCP; `tls.rs`, `ws.rs` and `wss.rs` are the same over the other transports.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

use zinxide::Scheme;

mod g01_independent;
mod g02_max_conn;
mod g03_hooks;
mod g04_stopped_means_closed;
mod g05_one_writer;
mod g06_no_silent_loss;
mod g06_unconfirmed;
mod g07_oversize;
mod g08_clear_conn;
mod g09_panics;
mod g10_progress;
mod g10_slow_peer;
mod g11_order;
mod g12_back_pressure;
mod g13_shutdown;
mod g14_accept_errors;
mod g15_handles_outlive;
mod g16_ids;
mod g17_settings;
mod g18_routes;
mod g19_gone_peers;
mod g20_goodbye;
#[cfg(unix)]
mod processes;
mod support;
mod support_flow;
#[cfg(unix)]
mod support_process;
mod transport;

/// What servers and clients speak.
const SCHEME: Scheme = Scheme::Tcp;
