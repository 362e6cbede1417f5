//! G17: built-in defaults, then the file, then the environment; what is wrong is named.
//!
//! Environment variables belong to a whole process, so settings are loaded in a child: this very
//! test binary, run for the one ignored test below.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use serde_json::{Value, json};
use zinxide::{Server, ServerError, Settings, SettingsError, Unrouted, WireFormat};

use crate::support_flow::without_settings;

/// Tells the child which file to load; empty for none.
const FILE: &str = "SETTINGS_UNDER_TEST";
const ANSWER: &str = "settings under test: ";

#[test]
#[ignore = "the child of the other tests, which loads settings under an environment of their choice"]
fn child() {
    let Ok(file) = env::var(FILE) else { return };
    let loaded = if file.is_empty() { Settings::from_env() } else { Settings::load(&file) };
    let answer = match loaded {
        Ok(settings) => json!({ "settings": settings }),
        Err(error) => {
            let debug = format!("{error:?}");
            json!({ "kind": kind(&error), "message": error.to_string(), "debug": debug })
        }
    };
    println!("\n{ANSWER}{answer}");
}

fn kind(error: &SettingsError) -> &'static str {
    match error {
        SettingsError::File { .. } => "file",
        SettingsError::UnknownKey { .. } => "unknown key",
        SettingsError::WrongType { .. } => "wrong type",
        SettingsError::OutOfRange { .. } => "out of range",
        _ => "other",
    }
}

/// What loading came to.
enum Loaded {
    Settings(Box<Settings>),
    Error { kind: String, message: String },
}

impl Loaded {
    fn settings(self) -> Settings {
        match self {
            Self::Settings(settings) => *settings,
            Self::Error { message, .. } => panic!("{message}"),
        }
    }

    /// Asserts that it failed with an error of this kind that says all of `names`.
    fn assert_error(self, wanted: &str, names: &[&str]) {
        match self {
            Self::Settings(settings) => panic!("no error: {settings:?}"),
            Self::Error { kind, message } => {
                assert_eq!(kind, wanted, "{message}");
                for name in names {
                    assert!(message.contains(name), "{message} does not name {name}");
                }
            }
        }
    }
}

fn load_path(file: Option<&Path>, variables: &[(&str, &str)]) -> Loaded {
    let answer = answer(file, variables.iter().copied());
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    if answer["settings"].is_null() {
        Loaded::Error { kind: text("kind"), message: text("message") }
    } else {
        Loaded::Settings(Box::new(serde_json::from_value(answer["settings"].clone()).unwrap()))
    }
}

/// What the child says.
fn answer<V: AsRef<OsStr>>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (impl AsRef<OsStr>, V)>,
) -> Value {
    let mut child = Command::new(env::current_exe().unwrap());
    without_settings(&mut child);
    child.args(["--exact", "g17_settings::child", "--ignored", "--nocapture"]);
    child.env(FILE, file.unwrap_or(Path::new(""))).envs(variables);
    let output = child.output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let answer = output.lines().find_map(|line| line.strip_prefix(ANSWER));
    serde_json::from_str(answer.expect(&output)).unwrap()
}

/// A settings file that is there for one test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("settings-{}-{count}.yaml", process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Loaded {
    load_path(Some(&TestFile::new(text).0), variables)
}

/// Asserts that this file is an error of this kind, which names the key and the file.
fn assert_file_error(text: &str, kind: &str, names: &[&str]) {
    let file = TestFile::new(text);
    let path = file.0.display().to_string();
    load_path(Some(&file.0), &[]).assert_error(kind, &[&[path.as_str()], names].concat());
}

/// Asserts that this variable is an error of this kind, which names the key and the variable.
fn assert_variable_error(variable: &str, value: &str, kind: &str) {
    let key = format!("`{}`", variable.strip_prefix("ZINXIDE_").unwrap().to_lowercase());
    load_path(None, &[(variable, value)]).assert_error(kind, &[variable, &key]);
}

#[test]
fn g17_settings_yaml_is_the_defaults_with_every_key() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("settings.yaml");
    assert_eq!(load_path(Some(&file), &[]).settings(), Settings::default());
    // A key that is missing there would be the default as well.
    let text = fs::read_to_string(file).unwrap();
    let Value::Object(keys) = serde_json::to_value(Settings::default()).unwrap() else { panic!() };
    for key in keys.keys() {
        let has = text.lines().filter(|line| line.starts_with(&format!("{key}: "))).count();
        assert_eq!(has, 1, "{key}");
    }
}

#[test]
fn g17_without_file_and_environment_settings_are_the_defaults() {
    assert_eq!(load_path(None, &[]).settings(), Settings::default());
}

#[test]
fn g17_a_file_changes_the_keys_it_has_and_no_others() {
    let text = "max_conn: 3\nwire_format: tlv-be\nunrouted: close\nname: test\n";
    let wanted = Settings {
        max_conn: 3,
        wire_format: WireFormat::TlvBe,
        unrouted: Unrouted::Close,
        name: "test".to_owned(),
        ..Settings::default()
    };
    assert_eq!(load(text, &[]).settings(), wanted);
}

#[test]
fn g17_the_environment_comes_after_the_file() {
    let text = "max_conn: 3\ntcp_port: 1000\nname: file\n";
    let variables = [("ZINXIDE_TCP_PORT", "2000"), ("ZINXIDE_NAME", "environment")];
    let settings = load(text, &variables).settings();
    assert_eq!((settings.max_conn, settings.tcp_port), (3, 2000));
    assert_eq!(settings.name, "environment");
}

#[test]
fn g17_every_setting_can_be_changed_by_the_environment() {
    let changed = [
        ("name", "other"),
        ("host", "::1"),
        ("tcp_port", "1"),
        ("max_conn", "2"),
        ("max_packet_size", "3"),
        ("worker_pool_size", "4"),
        ("max_worker_task_len", "5"),
        ("max_msg_chan_len", "6"),
        ("max_msg_chan_bytes", "7000"),
        ("write_deadline_ms", "8"),
        ("first_message_deadline_ms", "11"),
        ("frame_deadline_ms", "12"),
        ("idle_deadline_ms", "13"),
        ("drain_deadline_ms", "9"),
        ("wire_format", "tlv-be"),
        ("unrouted", "close"),
        ("when_full", "wait"),
        ("max_conn_per_ip", "14"),
        ("ipv6_prefix", "15"),
        ("overflow", "drop-oldest"),
        ("broadcast_overflow", "drop-newest"),
        ("high_watermark_percent", "17"),
        ("low_watermark_percent", "16"),
        ("max_unsent_bytes", "18"),
        ("max_inbound_bytes", "9000"),
        ("max_handshakes", "28"),
        ("max_handshakes_per_ip", "29"),
        ("rate_connects_per_ip", "30"),
        ("rate_connects_burst", "31"),
        ("write_idle_deadline_ms", "19"),
        ("handler_deadline_ms", "20"),
        ("while_handler_down", "drop"),
        ("rate_messages", "21"),
        ("rate_bytes", "500"),
        ("rate_burst_ms", "23"),
        ("over_rate", "close"),
        ("tcp_keepalive_ms", "24"),
        ("tcp_user_timeout_ms", "25"),
        ("when_worker_lost", "stop"),
        ("notice_ms", "26"),
        ("allow", "10.0.0.0/8, ::1"),
        ("deny", "10.1.2.3"),
        ("listen", "tcp://127.0.0.1:1, tcp://[::1]:2"),
        ("handshake_deadline_ms", "27"),
        ("tls_client_cert", "optional"),
        ("linger_ms", "28"),
        ("half_closed_ms", "29"),
    ];
    // Places can be reserved only where no dial waits.
    let other = [("reserved_conn", "1"), ("reserved_for", "127.0.0.1")];
    // Refused, if the program cannot do it.
    let balancers = ("proxy_from", "10.0.0.0/8");
    let all = serde_json::to_value(Settings::default()).unwrap();
    // These need an endpoint that makes use of them.
    let secure = [
        ("tls_cert", "cert.pem"),
        ("tls_key", "key.pem"),
        ("tls_client_ca", "ca.pem"),
        ("ws_subprotocols", "one, two"),
        ("ws_origins", "https://example.com"),
    ];
    let tested = changed.len() + other.len() + 1 + secure.len();
    assert_eq!(all.as_object().unwrap().len(), tested, "one is not tested");
    changed_by_environment(&changed);
    changed_by_environment(&other);
    if cfg!(all(feature = "tls", feature = "ws")) {
        let listen = [("listen", "wss://127.0.0.1:1/game")];
        changed_by_environment(&[&listen[..], &secure].concat());
    }
    for (key, value) in secure {
        let text = format!("{key}: '{value}'");
        assert_file_error(&text, "out of range", &[key, "no endpoint with"]);
    }
    if cfg!(feature = "proxy") {
        changed_by_environment(&[balancers]);
    } else {
        assert_file_error("proxy_from: [10.0.0.0/8]", "out of range", &["`proxy`"]);
    }
}

#[test]
fn g17_an_endpoint_is_a_url_that_this_program_can_serve() {
    for (text, names) in [
        ("listen: 127.0.0.1:7777", "tcp://"),
        ("listen: ['http://127.0.0.1:80']", "tcp://"),
        ("listen: ['tcp://127.0.0.1']", "no port"),
        ("listen: [['tcp://127.0.0.1:1']]", "endpoints"),
    ] {
        assert_file_error(text, "wrong type", &["`listen`", names]);
    }
    let tls = "listen: ['tls://127.0.0.1:1']";
    let ws = "listen: ['ws://127.0.0.1:1/game']";
    if cfg!(feature = "tls") {
        assert_file_error(tls, "out of range", &["`tls_cert`", "PEM"]);
        let cert = format!("{tls}\ntls_cert: cert.pem");
        assert_file_error(&cert, "out of range", &["`tls_key`", "PEM"]);
        // Whether they are good is seen when the server starts.
        load(&format!("{cert}\ntls_key: key.pem"), &[]).settings();
    } else {
        assert_file_error(tls, "out of range", &["tls://127.0.0.1:1", "feature `tls`"]);
    }
    if cfg!(feature = "ws") {
        load(ws, &[]).settings();
    } else {
        assert_file_error(ws, "out of range", &["ws://127.0.0.1:1/game", "feature `ws`"]);
    }
    if cfg!(not(feature = "ws")) {
        return;
    }
    let query = "listen: ['ws://127.0.0.1:1/game?room=1']";
    assert_file_error(query, "out of range", &["`listen`", "game?room=1"]);
    for name in ["a, b", "", "a b"] {
        let text = format!("{ws}\nws_subprotocols: ['{name}']");
        assert_file_error(&text, "out of range", &["`ws_subprotocols`", "names"]);
    }
    for origin in ["example.com", "https://example.com/", "https://example.com:443", "http://a:80"]
    {
        let text = format!("{ws}\nws_origins: ['{origin}']");
        assert_file_error(&text, "out of range", &["`ws_origins`", "https://"]);
    }
}

fn changed_by_environment(changed: &[(&'static str, &'static str)]) {
    let variable =
        |(key, value): &(&str, &'static str)| (format!("ZINXIDE_{}", key.to_uppercase()), *value);
    let names: Vec<_> = changed.iter().map(variable).collect();
    let variables: Vec<_> = names.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let settings = serde_json::to_value(load_path(None, &variables).settings()).unwrap();
    for (key, value) in changed {
        let list = settings[key].as_array().map(|all| {
            let all: Vec<_> = all.iter().map(|one| one.as_str().unwrap()).collect();
            all.join(", ")
        });
        let is = list.unwrap_or_else(|| settings[key].to_string());
        assert_eq!(is.trim_matches('"'), *value, "{key}");
    }
}

#[test]
fn g17_networks_are_a_list_or_a_line_of_them() {
    let wanted = Settings {
        allow: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        ..Settings::default()
    };
    for text in
        ["allow: [10.0.0.0/8, '::1']", "allow:\n- 10.0.0.0/8\n- ::1", "allow: 10.0.0.0/8, ::1"]
    {
        assert_eq!(load(text, &[]).settings(), wanted);
    }
    assert_eq!(load("deny: []", &[]).settings(), Settings::default());
    // A variable that was forgotten lets nobody in by itself.
    assert_file_error("allow: ''", "wrong type", &["`allow`", "empty"]);
    assert_variable_error("ZINXIDE_ALLOW", "", "wrong type");
    for (text, names) in [
        ("deny: [10.0.0.0/33]", "10.0.0.0/33"),
        ("deny: ten", "ten"),
        ("deny: [[10.0.0.1]]", "a list"),
        ("deny: [1]", "networks"),
        ("deny: 7", "a list"),
    ] {
        assert_file_error(text, "wrong type", &["`deny`", names]);
    }
    assert_variable_error("ZINXIDE_ALLOW", "10.0.0.0/8;::1", "wrong type");
}

#[test]
fn g17_text_that_looks_like_a_number_is_text() {
    let settings = load_path(None, &[("ZINXIDE_NAME", "123")]).settings();
    assert_eq!(settings.name, "123");
}

#[test]
fn g17_variables_that_are_not_for_us_are_no_ones_business() {
    let variables = [("ZINXIDES_MAX_CONN", "3"), ("MAX_CONN", "4"), ("XZINXIDE_MAX_CONN", "5")];
    assert_eq!(load_path(None, &variables).settings(), Settings::default());
}

#[test]
fn g17_no_error_quotes_a_key_that_is_the_value_of_a_variable() {
    let body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0WfaYLx7wa1VmTOEXcRB";
    let lines = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    for value in
        [lines.clone(), lines.replace('\n', "\\n"), lines.replace('\n', " "), body.to_owned()]
    {
        for variable in [
            "ZINXIDE_TLS_CERT",
            "ZINXIDE_TLS_KEY",
            "ZINXIDE_TLS_CLIENT_CA",
            "ZINXIDE_TLS_CLIENT_CERT",
            "ZINXIDE_TLS_PRIVATE_KEY",
            "ZINXIDE_TCP_PORT",
            "ZINXIDE_LISTEN",
            "ZINXIDE_ALLOW",
            "ZINXIDE_WIRE_FORMAT",
            "ZINXIDE_WS_ORIGINS",
        ] {
            let answer = answer(None, [(variable, &value)]);
            let (message, debug) = (answer["message"].as_str(), answer["debug"].as_str());
            let said = message.unwrap().to_owned() + debug.unwrap();
            assert!(said.contains(variable), "{said}");
            assert!(
                !body
                    .as_bytes()
                    .windows(8)
                    .any(|part| said.contains(str::from_utf8(part).unwrap())),
                "{said}"
            );
        }
    }
}

#[cfg(unix)]
#[test]
fn g17_a_variable_that_is_no_text_is_an_error_that_names_it_and_does_not_quote_it() {
    use std::os::unix::ffi::OsStrExt;

    let value = OsStr::from_bytes(b"0\x81\x87 a key in DER");
    let answer = answer(None, [("ZINXIDE_TLS_KEY", value)]);
    assert_eq!(answer["kind"], "wrong type");
    let said = answer.to_string();
    assert!(said.contains("ZINXIDE_TLS_KEY") && said.contains("UTF-8"), "{said}");
    assert!(!said.contains("DER"), "{said}");
}

#[test]
fn g17_an_unknown_key_in_the_file_is_an_error_that_names_it() {
    assert_file_error("max_con: 3\n", "unknown key", &["`max_con`"]);
    assert_file_error("max_conn: 3\nmaxconn: 4\n", "unknown key", &["`maxconn`"]);
    assert_file_error("server:\n  max_conn: 3\n", "unknown key", &["`server`"]);
}

#[test]
fn g17_an_unknown_variable_is_an_error_that_names_it() {
    assert_variable_error("ZINXIDE_MAX_CON", "3", "unknown key");
}

#[test]
fn g17_a_wrong_type_in_the_file_is_an_error_that_names_the_key() {
    for value in ["true", "3.7", "\"abc\"", "abc", "-1", "\"3\"", "[3]", "{a: 3}", "", "1e3"] {
        assert_file_error(&format!("max_conn: {value}\n"), "wrong type", &["`max_conn`"]);
    }
    for (key, value) in [
        ("tcp_port", "65536"),
        ("max_packet_size", "4294967296"),
        ("max_worker_task_len", "-1"),
        ("worker_pool_size", "two"),
        ("max_msg_chan_len", "false"),
        ("max_msg_chan_bytes", "1.5"),
        ("write_deadline_ms", "10s"),
        ("drain_deadline_ms", "-5000"),
        ("name", "3"),
        ("host", "true"),
        ("wire_format", "ltv"),
        ("wire_format", "1"),
        ("unrouted", "true"),
        ("unrouted", "Close"),
    ] {
        let named = format!("`{key}`");
        assert_file_error(&format!("{key}: {value}\n"), "wrong type", &[&named]);
    }
}

#[test]
fn g17_a_wrong_type_in_the_environment_is_an_error_that_names_the_variable() {
    for value in ["true", "3.7", "abc", "-1", "", "3 connections"] {
        assert_variable_error("ZINXIDE_MAX_CONN", value, "wrong type");
    }
    for (variable, value) in [
        ("ZINXIDE_TCP_PORT", "65536"),
        ("ZINXIDE_WIRE_FORMAT", "ltv"),
        ("ZINXIDE_UNROUTED", "drop"),
        ("ZINXIDE_DRAIN_DEADLINE_MS", "5s"),
    ] {
        assert_variable_error(variable, value, "wrong type");
    }
}

/// Each key with values that its type allows and its check does not, and with those beside them
/// that it does.
const RANGES: [(&str, &[u64], &[u64]); 24] = [
    ("max_conn", &[0], &[1]),
    ("max_packet_size", &[(1 << 30) + 1, u32::MAX as u64], &[0]),
    ("worker_pool_size", &[1025], &[0, 1024]),
    ("max_worker_task_len", &[0, (1 << 20) + 1], &[1, 1 << 20]),
    ("max_msg_chan_len", &[0], &[1]),
    ("max_msg_chan_bytes", &[0, 4096 + 7], &[4096 + 8]),
    ("write_deadline_ms", &[0, 86_400_001], &[1, 86_400_000]),
    ("first_message_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("frame_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("idle_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("drain_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("write_idle_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("handler_deadline_ms", &[86_400_001], &[0, 86_400_000]),
    ("tcp_keepalive_ms", &[32_767_001], &[0, 32_767_000]),
    ("tcp_user_timeout_ms", &[86_400_001], &[0, 86_400_000]),
    ("notice_ms", &[86_400_001], &[0, 86_400_000]),
    ("rate_burst_ms", &[0, 86_400_001], &[1, 86_400_000]),
    ("ipv6_prefix", &[0, 129], &[1, 128]),
    ("high_watermark_percent", &[101], &[25, 100]),
    ("max_handshakes", &[0], &[1]),
    ("rate_connects_burst", &[0], &[1]),
    ("max_inbound_bytes", &[1, 4096 + 7], &[0, 4096 + 8]),
    ("linger_ms", &[86_400_001], &[0, 86_400_000]),
    ("half_closed_ms", &[0, 86_400_001], &[1, 86_400_000]),
];

#[test]
fn g17_settings_that_do_not_fit_together_are_an_error_that_names_them_and_who_set_the_cause() {
    for (text, names) in [
        ("low_watermark_percent: 76\n", ["`low_watermark_percent`", "high_watermark_percent"]),
        ("high_watermark_percent: 24\n", ["`low_watermark_percent`", "high_watermark_percent"]),
        ("max_conn: 3\nreserved_conn: 3\n", ["`reserved_conn`", "max_conn"]),
        ("reserved_conn: 1\nwhen_full: wait\n", ["`when_full`", "reserved"]),
    ] {
        assert_file_error(text, "out of range", &names);
    }
    for (text, cause) in [
        ("max_packet_size: 9000\n", "max_packet_size"),
        ("frame_deadline_ms: 0\n", "frame_deadline_ms"),
    ] {
        let file = TestFile::new(text);
        let said = format!("; `{cause}` is from {}", file.0.display());
        load_path(Some(&file.0), &[("ZINXIDE_MAX_INBOUND_BYTES", "5000")])
            .assert_error("out of range", &["ZINXIDE_MAX_INBOUND_BYTES", &said]);
    }
}

#[cfg(feature = "ws")]
#[test]
fn g17_an_error_names_no_other_setting_if_the_value_is_wrong_by_itself() {
    let file = TestFile::new("listen: ['ws://127.0.0.1:0']\n");
    let origins = ("ZINXIDE_WS_ORIGINS", "https://example.com/path");
    let Loaded::Error { message, .. } = load_path(Some(&file.0), &[origins]) else { panic!() };
    assert!(message.contains(origins.0) && !message.contains("`listen`"), "{message}");
}

fn changed(key: &str, value: u64) -> Settings {
    let mut settings = serde_json::to_value(Settings::default()).unwrap();
    settings[key] = value.into();
    serde_json::from_value(settings).unwrap()
}

#[test]
fn g17_validate_names_the_key_that_is_out_of_range() {
    for (named, bad, good) in RANGES {
        for &value in bad {
            let error = changed(named, value).validate().expect_err(named);
            assert!(
                matches!(error, SettingsError::OutOfRange { key, origin: None, .. } if key == named),
                "{named}: {value}: {error:?}"
            );
            assert!(error.to_string().contains(named));
        }
        for &value in good {
            assert!(changed(named, value).validate().is_ok(), "{named}: {value}");
        }
    }
    let mut largest = changed("max_packet_size", 1 << 30);
    largest.max_msg_chan_bytes = (1 << 30) + 8;
    assert!(largest.validate().is_ok());
}

#[test]
fn g17_a_value_out_of_range_in_the_file_is_an_error_that_names_the_key_and_the_file() {
    for (key, bad, _) in RANGES {
        let named = format!("`{key}`");
        assert_file_error(&format!("{key}: {}\n", bad[0]), "out of range", &[&named]);
    }
}

#[test]
fn g17_a_value_out_of_range_in_the_environment_is_an_error_that_names_the_variable() {
    for (key, bad, _) in RANGES {
        let variable = format!("ZINXIDE_{}", key.to_uppercase());
        assert_variable_error(&variable, &bad[0].to_string(), "out of range");
    }
    // The last to set it is to blame.
    load("max_conn: 0\n", &[("ZINXIDE_MAX_CONN", "0")])
        .assert_error("out of range", &["environment variable ZINXIDE_MAX_CONN"]);
}

#[test]
fn g17_a_packet_size_that_leaves_no_room_in_the_outbox_is_an_error_that_names_both_and_the_file() {
    let names = ["`max_msg_chan_bytes`", "max_packet_size"];
    assert_file_error("max_packet_size: 2000000\n", "out of range", &names);
    load_path(None, &[("ZINXIDE_MAX_PACKET_SIZE", "2000000")])
        .assert_error("out of range", &["ZINXIDE_MAX_PACKET_SIZE", "`max_msg_chan_bytes`"]);
}

#[test]
fn g17_a_file_that_is_not_there_or_no_yaml_is_an_error_that_names_it() {
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-such-settings.yaml");
    let name = missing.display().to_string();
    load_path(Some(&missing), &[]).assert_error("file", &[&name]);
    assert_file_error("max_conn: [3\n", "file", &[]);
    assert_file_error("just text", "file", &[]);
}

#[actix::test]
async fn g17_a_server_with_settings_out_of_range_does_not_start() {
    let mut settings = zinxide::testing::settings();
    settings.max_conn = 0;
    let error = Server::new(settings).bind().await.expect_err("no connections at all");
    assert!(matches!(
        error,
        ServerError::Settings(SettingsError::OutOfRange { key: "max_conn", .. })
    ));
}
