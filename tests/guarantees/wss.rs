//! The guarantees over WebSocket in TLS.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

use zinxide::Scheme;

/// What servers and clients speak.
const SCHEME: Scheme = Scheme::Wss;

include!("layered.rs");
