//! The guarantees over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

use zinxide::Scheme;

/// What servers and clients speak.
const SCHEME: Scheme = Scheme::Tls;

include!("layered.rs");
