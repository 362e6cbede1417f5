//! What the transports do that is theirs alone. What all of them must do is in `tests/guarantees`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

#[cfg(all(feature = "tls", feature = "ws"))]
mod clients;
mod listeners;
#[cfg(feature = "proxy")]
mod proxy;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_files;
#[cfg(feature = "tls")]
mod tls_provider;
#[cfg(feature = "tls")]
mod tls_sessions;
#[cfg(feature = "ws")]
mod websocket;
#[cfg(feature = "ws")]
mod ws_requests;
