//! What settings must be beyond what their types say.

use super::{Settings, SettingsError, WhenFull};
use crate::codec::HEADER_LEN;
use crate::endpoint::{Endpoint, Scheme};

const MAX_PACKET: u32 = 1 << 30;
const MAX_WORKERS: usize = 1024;
const MAX_WINDOW: u32 = 1 << 20;
/// What Linux takes, tcp(7).
const MAX_KEEPALIVE_MS: u64 = 32_767_000;
/// What Linux takes, limits.h.
const MAX_PATH: usize = 4096;
/// A day.
const MAX_DEADLINE_MS: u64 = 86_400_000;

impl Settings {
    /// Checks what the types do not.
    ///
    /// # Errors
    ///
    /// [`SettingsError::OutOfRange`], which names the key.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let largest = self.max_packet_size as usize + HEADER_LEN;
        let burst_bytes = u64::from(self.rate_bytes).saturating_mul(self.rate_burst_ms) / 1000;
        let first =
            |is: fn(Scheme) -> bool| self.listen.iter().find(|endpoint| is(endpoint.scheme));
        let missing = first(|scheme| scheme.missing_feature().is_some());
        let has_tls = first(Scheme::has_tls).is_some();
        let has_ws = first(Scheme::has_ws).is_some();
        let query = self.listen.iter().find(|endpoint| endpoint.path.contains('?'));
        let tls_files = [&self.tls_cert, &self.tls_key, &self.tls_client_ca];
        let checks: [(&'static str, bool, String); 34] = [
            ("max_conn", self.max_conn >= 1, "must be at least 1".into()),
            (
                "max_packet_size",
                self.max_packet_size <= MAX_PACKET,
                format!("must be at most {MAX_PACKET}"),
            ),
            (
                "worker_pool_size",
                self.worker_pool_size <= MAX_WORKERS,
                format!("must be at most {MAX_WORKERS}"),
            ),
            (
                "max_worker_task_len",
                (1..=MAX_WINDOW).contains(&self.max_worker_task_len),
                format!("must be from 1 to {MAX_WINDOW}"),
            ),
            ("host", !self.host.trim().is_empty(), "must not be empty".into()),
            ("max_msg_chan_len", self.max_msg_chan_len >= 1, "must be at least 1".into()),
            (
                "max_msg_chan_bytes",
                self.max_msg_chan_bytes >= largest,
                format!("must be at least max_packet_size and a header: {largest}"),
            ),
            (
                "write_deadline_ms",
                (1..=MAX_DEADLINE_MS).contains(&self.write_deadline_ms),
                format!("must be from 1 to {MAX_DEADLINE_MS}"),
            ),
            (
                "half_closed_ms",
                (1..=MAX_DEADLINE_MS).contains(&self.half_closed_ms),
                format!("must be from 1 to {MAX_DEADLINE_MS}"),
            ),
            (
                "rate_burst_ms",
                (1..=MAX_DEADLINE_MS).contains(&self.rate_burst_ms),
                format!("must be from 1 to {MAX_DEADLINE_MS}"),
            ),
            (
                "high_watermark_percent",
                self.high_watermark_percent <= 100,
                "must be at most 100".into(),
            ),
            (
                "low_watermark_percent",
                self.low_watermark_percent <= self.high_watermark_percent,
                format!("must be at most high_watermark_percent: {}", self.high_watermark_percent),
            ),
            (
                "rate_bytes",
                self.rate_bytes == 0 || burst_bytes >= largest as u64,
                format!(
                    "must allow a packet of max_packet_size and its header in rate_burst_ms: {largest} bytes"
                ),
            ),
            (
                "max_inbound_bytes",
                self.max_inbound_bytes == 0 || self.max_inbound_bytes >= largest,
                format!("must be 0, or at least max_packet_size and a header: {largest}"),
            ),
            (
                "max_inbound_bytes",
                self.max_inbound_bytes == 0 || self.frame_deadline_ms > 0,
                "must be 0 if frame_deadline_ms is: frames that are never completed would hold it for ever"
                    .into(),
            ),
            ("max_handshakes", self.max_handshakes >= 1, "must be at least 1".into()),
            ("rate_connects_burst", self.rate_connects_burst >= 1, "must be at least 1".into()),
            ("ipv6_prefix", (1..=128).contains(&self.ipv6_prefix), "must be from 1 to 128".into()),
            (
                "reserved_conn",
                self.reserved_conn < self.max_conn,
                format!("must be less than max_conn: {}", self.max_conn),
            ),
            (
                "tcp_keepalive_ms",
                self.tcp_keepalive_ms <= MAX_KEEPALIVE_MS,
                format!("must be at most {MAX_KEEPALIVE_MS}"),
            ),
            (
                "handshake_deadline_ms",
                (1..=MAX_DEADLINE_MS).contains(&self.handshake_deadline_ms),
                format!("must be from 1 to {MAX_DEADLINE_MS}"),
            ),
            ("listen", missing.is_none(), missing.map(needs).unwrap_or_default()),
            (
                "proxy_from",
                self.proxy_from.is_empty() || cfg!(feature = "proxy"),
                "must be empty: this program is built without the Cargo feature `proxy`".into(),
            ),
            (
                "listen",
                query.is_none(),
                format!(
                    "must not have {}: a server goes by the path, whatever the query",
                    query.map(ToString::to_string).unwrap_or_default()
                ),
            ),
            // A server that says nothing of it would be taken for one that encrypts.
            ("tls_cert", has_tls || tls_files[0].is_empty(), unused("TLS")),
            ("tls_key", has_tls || tls_files[1].is_empty(), unused("TLS")),
            ("tls_client_ca", has_tls || tls_files[2].is_empty(), unused("TLS")),
            ("ws_origins", has_ws || self.ws_origins.is_empty(), unused("WebSocket")),
            ("ws_subprotocols", has_ws || self.ws_subprotocols.is_empty(), unused("WebSocket")),
            (
                "tls_cert",
                !has_tls || !self.tls_cert.is_empty(),
                "must name a PEM file, since `listen` has an endpoint with TLS".into(),
            ),
            (
                "tls_key",
                !has_tls || !self.tls_key.is_empty(),
                "must name a PEM file, since `listen` has an endpoint with TLS".into(),
            ),
            (
                "ws_origins",
                self.ws_origins.iter().all(|origin| is_origin(origin)),
                "must be origins as browsers send them, as in https://example.com: without a path, \
                 a slash at the end, or the port that goes without saying"
                    .into(),
            ),
            (
                "ws_subprotocols",
                self.ws_subprotocols.iter().all(|name| is_token(name)),
                "must be names without spaces, commas and other separators".into(),
            ),
            (
                "when_full",
                self.when_full == WhenFull::Refuse || self.reserved_conn == 0,
                "must be refuse if reserved_conn is not 0: a connection that waits holds the others up"
                    .into(),
            ),
        ];
        let deadlines = [
            ("first_message_deadline_ms", self.first_message_deadline_ms),
            ("frame_deadline_ms", self.frame_deadline_ms),
            ("idle_deadline_ms", self.idle_deadline_ms),
            ("write_idle_deadline_ms", self.write_idle_deadline_ms),
            ("handler_deadline_ms", self.handler_deadline_ms),
            ("tcp_user_timeout_ms", u64::from(self.tcp_user_timeout_ms)),
            ("notice_ms", self.notice_ms),
            ("drain_deadline_ms", self.drain_deadline_ms),
            ("linger_ms", self.linger_ms),
        ];
        let must = format!("must be at most {MAX_DEADLINE_MS}");
        let deadlines = deadlines.map(|(key, ms)| (key, ms <= MAX_DEADLINE_MS, must.clone()));
        let files = [
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
        ];
        let must = "must be the path of a PEM file, and not what is in it".to_owned();
        let files = files.map(|(key, file)| (key, is_path(file), must.clone()));
        match checks.into_iter().chain(deadlines).chain(files).find(|(_, holds, _)| !holds) {
            Some((key, _, must)) => Err(SettingsError::OutOfRange { key, must, origin: None }),
            None => Ok(()),
        }
    }
}

/// Whether this can be the path of a file. The text of one has lines, and what names a file is in errors.
fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH && !text.contains("-----") && !text.contains(char::is_control)
}

/// What is to be said of a setting that an endpoint of another kind would need.
fn unused(kind: &str) -> String {
    format!("must be empty, since `listen` has no endpoint with {kind}")
}

/// Whether this can stand in a header that is a list: RFC 9110, 5.6.2.
fn is_token(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(fits)
}

/// Whether a browser may send this origin: another spelling would match nothing.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    !host.is_empty() && !host.contains('/') && (usual.is_empty() || !host.ends_with(usual))
}

/// What is to be said of an endpoint that this program cannot serve.
fn needs(endpoint: &Endpoint) -> String {
    let feature = endpoint.scheme.missing_feature().unwrap_or_default();
    format!("must not have {endpoint}: this program is built without the Cargo feature `{feature}`")
}
