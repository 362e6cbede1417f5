//! The client library, against servers of the crate and against a socket where the test says what comes
//! when.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, too

mod both_full;
mod closing;
mod connecting;
mod goodbye;
mod offline;
mod reconnecting;
mod requests;
mod support;
mod unheard;
