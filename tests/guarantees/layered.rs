// The modules of the suite over a transport other than TCP. What is missing here is tested once, over TCP:
// the settings (`g17_settings`), which are read before there is a transport, and what holds for a whole
// process (`processes`), whose server is an example.

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
mod g18_routes;
mod g19_gone_peers;
mod g20_goodbye;
mod support;
mod support_flow;
mod transport;
