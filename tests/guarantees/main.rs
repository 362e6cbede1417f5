//! One test or more for each guarantee, by its number.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests may panic, too

mod g10_slow_peer;
mod g11_order;
mod g12_back_pressure;
mod g13_shutdown;
mod g14_accept_errors;
mod g15_handles_outlive;
mod g16_ids;
mod g17_settings;
mod g18_routes;
mod support_flow;
