//! The guarantees over WebSocket.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

use zinxide::Scheme;

/// What servers and clients speak.
const SCHEME: Scheme = Scheme::Ws;

include!("layered.rs");
