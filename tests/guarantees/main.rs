//! What the server guarantees: a file for each guarantee, whose number its tests carry.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail by panicking, too

mod g01_independent;
mod g02_max_conn;
mod g03_hooks;
mod g04_stopped_means_closed;
mod support;
