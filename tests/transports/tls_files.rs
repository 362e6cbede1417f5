//! Certificates and keys that cannot be read: an error says which file and where, quotes no part of a key, and
//! nothing is left out.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use zinxide::client::{Client, ConnectError, Tls};
use zinxide::testing::{TestServer, TestStream, within};
use zinxide::{
    Event, FrameCodec, Server, ServerError, Settings, SettingsError, TlsError, WireFormat,
};

use super::support::Watched;
use super::tls::Files;

/// A certificate and its private key, in PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// All that an error can put into a log.
fn said(error: &dyn Error) -> String {
    let mut said = format!("{error}\n{error:?}\n{error:#?}\n");
    let mut source = error.source();
    while let Some(error) = source {
        said += &format!("{error}\n{error:?}\n");
        source = error.source();
    }
    said
}

/// What stands between the first and the last line.
fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let all = three.iter().enumerate().map(|(i, byte)| u32::from(*byte) << (16 - 8 * i));
        let all: u32 = all.sum();
        for i in 0..=three.len() {
            text.push(char::from(DIGITS[(all >> (18 - 6 * i)) as usize & 63]));
        }
        text += &"=="[..3 - three.len()];
    }
    text
}

/// A private key, and all that would be a part of it.
struct Secret {
    key: String,
    base64: HashSet<Vec<u8>>,
    /// Hexadecimal and decimal.
    digits: HashSet<Vec<u8>>,
}

impl Secret {
    fn new(key: &str) -> Self {
        let (key, body) = (key.to_owned(), body(key));
        let parts = |all: &[String], len| {
            all.iter().flat_map(|text| text.as_bytes().windows(len).map(<[u8]>::to_vec)).collect()
        };
        let base64 = [body.clone(), base64(key.as_bytes()), base64(body.as_bytes())];
        let mut digits = Vec::new();
        for bytes in [body.as_bytes(), &der(&body)] {
            let all = |form: fn(&u8) -> String, between: &str| {
                bytes.iter().map(form).collect::<Vec<_>>().join(between)
            };
            digits.push(all(ToString::to_string, ","));
            for between in ["", ":", ",", "\\x"] {
                digits.push(all(|byte| format!("{byte:02x}"), between));
                digits.push(all(|byte| format!("{byte:02X}"), between));
            }
        }
        Self { key, base64: parts(&base64, 8), digits: parts(&digits, 12) }
    }

    /// Asserts that no part of it is in `said`, in any notation.
    fn assert_not_in(&self, said: &str, case: &str) {
        let dense: Vec<_> = said.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        for (len, parts) in [(8, &self.base64), (12, &self.digits)] {
            let quoted = dense.windows(len).find(|part| parts.contains(*part));
            assert_eq!(quoted, None, "{case}: {said} quotes {}", self.key);
        }
    }
}

/// The bytes of this base64.
fn der(body: &str) -> Vec<u8> {
    let digit = |char: u8| match char {
        b'A'..=b'Z' => char - b'A',
        b'a'..=b'z' => char - b'a' + 26,
        b'0'..=b'9' => char - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in body.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, char| bits << 6 | u32::from(digit(*char)));
        let bits = bits << (6 * (4 - four.len())) << 8;
        bytes.extend(&bits.to_be_bytes()[..four.len() - 1]);
    }
    bytes
}

/// What may have become of a private key on its way into a file, and what the error must say.
fn damaged(cert: &str, key: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let body = body(key);
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let label = |label: &str| key.replace("PRIVATE KEY", label).into_bytes();
    let mut not_utf8 = key.as_bytes().to_vec();
    not_utf8[40] = 0xff;
    vec![
        ("newlines as two characters", key.replace('\n', "\\n").into(), "`\\n`"),
        ("CRLF as four characters", key.replace('\n', "\\r\\n").into(), "`\\n`"),
        ("no newlines", key.replace('\n', "").into(), "line break"),
        ("spaces for newlines", key.replace('\n', " ").into(), "line break"),
        ("no BEGIN line", key.replacen("-----BEGIN PRIVATE KEY-----\n", "", 1).into(), "BEGIN"),
        ("no END line", key.replacen("-----END PRIVATE KEY-----", "", 1).into(), "no END"),
        ("short BEGIN line", key.replacen("-----BEGIN", "----BEGIN", 1).into(), "line 1"),
        ("short END line", key.replacen("-----END", "----END", 1).into(), "END"),
        ("BEGIN and first line joined", key.replacen("-----\n", "-----", 1).into(), "line 1"),
        ("key in the label", key.replacen("KEY-----\n", "KEY ", 1).into(), "line 1"),
        ("neither BEGIN nor END", body.clone().into(), "BEGIN"),
        ("another END", key.replacen("END PRIVATE", "END RSA PRIVATE", 1).into(), "END"),
        ("an asterisk", key.replacen("AgEA", "Ag*A", 1).into(), "line 2"),
        ("one character less", key.replacen("AgEA", "AgE", 1).into(), "line 1"),
        ("cut", key[..key.len() / 2].into(), "no END"),
        ("not UTF-8", not_utf8, "line 2"),
        ("UTF-16", utf16(key), "text"),
        ("DER", der(&body), "DER"),
        ("encrypted", label("ENCRYPTED PRIVATE KEY"), "encrypted"),
        (
            "encrypted by OpenSSL's own format",
            key.replacen(
                "KEY-----\n",
                "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
                1,
            )
            .into(),
            "encrypted",
        ),
        ("of OpenSSH", label("OPENSSH PRIVATE KEY"), "OpenSSH"),
        ("of another kind", label("RSA PRIVATE KEY"), "ECDSA"),
        ("public", label("PUBLIC KEY"), "no private key"),
        ("DSA", label("DSA PRIVATE KEY"), "DSA"),
        ("unknown", label("SECRET THING"), "line 1"),
        ("garbage in it", key.replacen("AgEA", "AQEA", 1).into(), "private key"),
        ("two keys", format!("{key}{}", pair().1).into(), "second private key"),
        ("the same key twice", format!("{key}{key}").into(), "second private key"),
        ("no key", cert.into(), "no private key"),
        ("empty", Vec::new(), "no private key"),
        ("a NUL", [key.as_bytes(), b"\0"].concat(), "text"),
    ]
}

/// Why a server does not start with these settings.
async fn refused(settings: Settings) -> ServerError {
    Server::new(settings).bind().await.map(drop).unwrap_err()
}

#[actix::test]
async fn no_error_about_a_private_key_quotes_it_and_each_says_what_to_do() {
    let files = Files::new("quotes");
    let (cert, key) = pair();
    let secret = Secret::new(&key);
    files.write("cert.pem", &cert);
    let (tell, reloads) = mpsc::channel();
    files.write("key.pem", &key);
    let server = Server::new(files.settings()).on_event(move |event| {
        if matches!(event, Event::TlsNotReloaded { .. }) {
            tell.send(format!("{event}\n{event:?}")).unwrap();
        }
    });
    let running = TestServer::start(server).await;
    for (case, damaged, says) in damaged(&cert, &key) {
        files.write("key.pem", &damaged);
        let error = refused(files.settings()).await;
        let text = error.to_string();
        secret.assert_not_in(&said(&error), case);
        assert!(
            text.contains(&files.path("key.pem")) && text.contains("tls_key"),
            "{case}: {text}"
        );
        assert!(text.contains(says), "{case}: {text}");

        let error = running.handle().reload_tls().unwrap_err();
        secret.assert_not_in(&said(&error), case);
        let event = reloads.recv().unwrap();
        secret.assert_not_in(&event, case);
        assert!(event.contains(says), "{case}: {event}");

        let tls = Tls::new().roots_pem(cert.clone()).client_certificate_pem(cert.clone(), damaged);
        secret.assert_not_in(&format!("{tls:?}"), case);
        let error = started(tls).unwrap_err();
        secret.assert_not_in(&said(&error), case);
        assert!(error.to_string().contains(says), "{case}: {error}");
    }
    running.stop().await.unwrap();
}

fn started(tls: Tls) -> Result<Client, ConnectError> {
    Client::builder("tls://localhost:1".parse().unwrap()).tls(tls).no_reconnect().start()
}

#[actix::test]
async fn a_private_key_in_the_place_of_certificates_is_not_quoted_either() {
    let files = Files::new("swapped");
    let (cert, key) = pair();
    let secret = Secret::new(&key);
    files.write("cert.pem", &cert);
    files.write("key.pem", &key);
    let mut cases = damaged(&cert, &key);
    cases.retain(|(case, ..)| *case != "no key");
    cases.push(("whole", key.clone().into(), "no certificate"));
    for (case, damaged, _) in cases {
        files.write("bad.pem", &damaged);
        let bad = files.path("bad.pem");
        for (setting, settings) in [
            ("tls_cert", Settings { tls_cert: bad.clone(), ..files.settings() }),
            ("tls_client_ca", Settings { tls_client_ca: bad.clone(), ..files.settings() }),
        ] {
            let error = refused(settings).await;
            secret.assert_not_in(&said(&error), case);
            let text = error.to_string();
            assert!(text.contains(setting) && text.contains(&bad), "{case}: {text}");
        }
        let own = Tls::new().roots_pem(cert.clone());
        for tls in [
            own.client_certificate_pem(damaged.clone(), key.clone()),
            Tls::new().roots_pem(damaged),
        ] {
            let error = started(tls).unwrap_err();
            assert!(matches!(error, ConnectError::Tls(_)), "{case}: {error}");
            secret.assert_not_in(&said(&error), case);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("tls://{}", listener.local_addr().unwrap()).parse().unwrap();
        let codec = FrameCodec::new(WireFormat::LtvLe, 100);
        let path = std::path::PathBuf::from(&bad);
        let error =
            TestStream::connect(&endpoint, Some(&path), &codec).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(&bad), "{case}: {error}");
        secret.assert_not_in(&said(&error), case);
    }
    // Swapped.
    let settings = files.settings();
    let (tls_cert, tls_key) = (settings.tls_key.clone(), settings.tls_cert.clone());
    let error = refused(Settings { tls_cert, tls_key, ..settings }).await;
    secret.assert_not_in(&said(&error), "swapped");
    assert!(error.to_string().contains("private key in it and no certificate"), "{error}");
}

#[actix::test]
async fn a_setting_that_is_a_key_and_not_a_path_is_not_quoted() {
    let files = Files::new("inline");
    let (_, key) = pair();
    let secret = Secret::new(&key);
    let one_line = key.replace('\n', " ");
    let escaped = key.replace('\n', "\\n");
    let of_pem = base64(key.as_bytes());
    let hex: String = der(&body(&key)).iter().map(|byte| format!("{byte:02x}")).collect();
    let values = [key.clone(), one_line, escaped, of_pem, body(&key), hex];
    for value in values {
        for setting in 0..3 {
            let mut settings = files.settings();
            match setting {
                0 => settings.tls_cert = value.clone(),
                1 => settings.tls_key = value.clone(),
                _ => settings.tls_client_ca = value.clone(),
            }
            let debug = format!("{settings:?}{:?}", Server::new(settings.clone()));
            secret.assert_not_in(&debug, "Debug");
            let error = refused(settings).await;
            secret.assert_not_in(&said(&error), "error");
            let key = ["tls_cert", "tls_key", "tls_client_ca"][setting];
            assert!(error.to_string().contains(key), "{error}");
        }
        let error = Settings::load(&value).unwrap_err();
        secret.assert_not_in(&said(&error), "settings file");
    }
    let settings = Settings { tls_key: "/etc/one\n/key.pem".to_owned(), ..files.settings() };
    let error = refused(settings).await;
    let is_named =
        matches!(error, ServerError::Settings(SettingsError::OutOfRange { key: "tls_key", .. }));
    assert!(is_named, "{error}");
}

#[test]
fn a_key_that_is_taken_for_the_settings_file_is_not_quoted() {
    let files = Files::new("settings-file");
    let (cert, key) = pair();
    let secret = Secret::new(&key);
    for (case, damaged, _) in damaged(&cert, &key) {
        let indented = key.replace('\n', "\n  ");
        for text in [
            damaged.clone(),
            [b"tls_key: ".as_slice(), &damaged].concat(),
            [b"tls_key: [".as_slice(), &damaged, b"]"].concat(),
            [b"tcp_port: '".as_slice(), &damaged, b"'"].concat(),
            [b"tls_client_cert: |\n  ".as_slice(), indented.as_bytes()].concat(),
            [b"listen: |\n  ".as_slice(), indented.as_bytes()].concat(),
            [b"listen: '".as_slice(), &damaged, b"'"].concat(),
            [b"? |\n  ".as_slice(), indented.as_bytes()].concat(),
            [b"? [".as_slice(), &damaged, b"]"].concat(),
            [b"'".as_slice(), &damaged, b"': 1"].concat(),
        ] {
            files.write("settings.yaml", &text);
            let Err(error) = Settings::load(files.path("settings.yaml")) else { continue };
            secret.assert_not_in(&said(&error), case);
        }
    }
}

/// How many certificates a server with this file shows, or why it does not start.
async fn shown(files: &Files, text: &[u8]) -> Result<usize, String> {
    files.write("chain.pem", text);
    let settings = Settings { tls_cert: files.path("chain.pem"), ..files.settings() };
    let server = Server::new(settings);
    let server = match server.bind().await {
        Ok(server) => server,
        Err(error) => return Err(error.to_string()),
    };
    drop(server);
    let settings = Settings { tls_cert: files.path("chain.pem"), ..files.settings() };
    let watched = Watched::start(settings).await;
    let stream = files.dial(watched.port(0)).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap().len();
    drop(stream);
    watched.server.stop().await.unwrap();
    Ok(shown)
}

#[actix::test]
async fn a_certificate_file_is_read_whole_or_is_an_error_that_names_the_line() {
    let files = Files::new("whole");
    let leaf = fs::read_to_string(files.path("cert.pem")).unwrap();
    let key = fs::read_to_string(files.path("key.pem")).unwrap();
    let other = pair().0;
    let lines = leaf.lines().count();
    let damage = |from: &str, to: &str| leaf.replacen(from, to, 1) + &other;
    let second = |from: &str, to: &str| leaf.clone() + &other.replacen(from, to, 1);
    let joined = leaf.trim_end().to_owned() + &other;
    let indented: String = leaf.lines().map(|line| format!("  \t{line} \n")).collect();
    let utf16: Vec<u8> =
        [0xfeff].into_iter().chain(leaf.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let no_der = "-----BEGIN CERTIFICATE-----\nbm90IERFUg==\n-----END CERTIFICATE-----\n";
    let commented = leaf.lines().map(|line| format!("# {line}\n")).collect::<String>() + &other;
    let text =
        "Certificate chain\n 0 s:CN = localhost\n---\n-- \nfront-end, \u{e9}\n-- the end of all\n";
    for (case, file, wanted) in [
        ("one", leaf.clone().into_bytes(), Ok(1)),
        ("two", (leaf.clone() + &other).into(), Ok(2)),
        ("with the key", (leaf.clone() + &key + &other).into(), Ok(2)),
        ("no newline at the end", leaf.trim_end().into(), Ok(1)),
        ("BOM", format!("\u{feff}{leaf}\u{feff}{other}").into(), Ok(2)),
        ("CRLF", (leaf.clone() + &other).replace('\n', "\r\n").into(), Ok(2)),
        ("CR", (leaf.clone() + &other).replace('\n', "\r").into(), Ok(2)),
        ("whitespace", (indented + &other).into(), Ok(2)),
        ("blank lines", damage("-----\n", "-----\n\n").into(), Ok(2)),
        ("text", format!("{text}{leaf}{text}{other}{text}").into(), Ok(2)),
        ("text that is not UTF-8", [b"\xe9\n", leaf.as_bytes()].concat(), Ok(1)),
        ("joined", joined.into(), Err(lines)),
        (
            "END and text joined",
            damage("END CERTIFICATE-----\n", "END CERTIFICATE-----x\n").into(),
            Err(lines),
        ),
        ("text and BEGIN joined", second("-----BEGIN", "x-----BEGIN").into(), Err(lines + 1)),
        ("no END", damage("-----END CERTIFICATE-----\n", "").into(), Err(lines)),
        ("no END at the end", second("-----END CERTIFICATE-----", "").into(), Err(lines + 1)),
        ("no BEGIN", second("-----BEGIN CERTIFICATE-----\n", "").into(), Err(lines + 1)),
        ("short BEGIN", second("-----BEGIN", "----BEGIN").into(), Err(lines + 1)),
        (
            "BEGIN with dashes of a word processor",
            second("-----BEGIN", "—–BEGIN").into(),
            Err(lines + 1),
        ),
        ("begin", second("BEGIN CERTIFICATE", "begin certificate").into(), Err(lines + 1)),
        ("neither BEGIN nor END", (leaf.clone() + &body(&other)).into(), Err(lines + 1)),
        ("another END", damage("END CERTIFICATE", "END X509 CRL").into(), Err(lines)),
        (
            "trusted",
            second("BEGIN CERT", "BEGIN TRUSTED CERT")
                .replacen("END CERT", "END TRUSTED CERT", 2)
                .into(),
            Err(lines),
        ),
        ("PKCS #7", (leaf.clone() + &other.replace("CERTIFICATE", "PKCS7")).into(), Err(lines + 1)),
        (
            "unknown",
            (leaf.clone() + &other.replace("CERTIFICATE", "CERTIFICAT")).into(),
            Err(lines + 1),
        ),
        ("bad base64", second("MII", "M!I").into(), Err(lines + 2)),
        ("short base64", second("MII", "MI").into(), Err(lines + 1)),
        ("empty block", (leaf.clone() + empty).into(), Err(lines + 1)),
        ("no DER", (leaf.clone() + no_der).into(), Err(lines + 1)),
        ("no DER first", (no_der.to_owned() + &leaf).into(), Err(1)),
        ("commented out", commented.into(), Err(1)),
        ("UTF-16", utf16, Err(0)),
        ("NUL", format!("{leaf}\0\n{other}").into(), Err(lines + 1)),
    ] {
        let shown = shown(&files, &file).await;
        match (&shown, wanted) {
            (Ok(shown), Ok(wanted)) => assert_eq!(*shown, wanted, "{case}"),
            (Err(error), Err(line)) => {
                let names = [files.path("chain.pem"), "tls_cert".to_owned()];
                assert!(names.iter().all(|name| error.contains(name)), "{case}: {error}");
                if line > 0 {
                    assert!(error.contains(&format!("line {line}:")), "{case}, {line}: {error}");
                }
            }
            _ => panic!("{case}: {shown:?}"),
        }
        // As roots, of a server and of a client.
        if case == "no DER first" || wanted.is_err() {
            let tls_client_ca = files.path("chain.pem");
            let error = refused(Settings { tls_client_ca, ..files.settings() }).await.to_string();
            let line = wanted.unwrap_err();
            let named = line == 0 || error.contains(&format!("line {line}:"));
            assert!(named && error.contains("tls_client_ca"), "{case}: {error}");
            let error = started(Tls::new().roots_pem(file)).unwrap_err().to_string();
            assert!(line == 0 || error.contains(&format!("line {line}:")), "{case}: {error}");
        } else {
            let tls_client_ca = files.path("chain.pem");
            let _ =
                Server::new(Settings { tls_client_ca, ..files.settings() }).bind().await.unwrap();
            let _ = started(Tls::new().roots_pem(file)).unwrap();
        }
    }
}

#[actix::test]
async fn a_key_that_is_not_the_certificates_is_an_error_in_plain_words() {
    let files = Files::new("pair");
    files.write("key.pem", pair().1);
    let error = refused(files.settings()).await;
    assert!(matches!(error, ServerError::Tls(TlsError::Pair(_))), "{error}");
    assert!(error.to_string().contains("not the key of the first certificate"), "{error}");
    let (cert, _) = pair();
    let tls = Tls::new().roots_pem(cert.clone()).client_certificate_pem(cert, pair().1);
    let error = started(tls).unwrap_err().to_string();
    assert!(error.contains("not the key of the first certificate"), "{error}");
}

#[actix::test]
async fn a_file_without_end_is_an_error() {
    let files = Files::new("endless");
    let settings = Settings { tls_cert: "/dev/zero".to_owned(), ..files.settings() };
    let error = refused(settings).await.to_string();
    assert!(error.contains("/dev/zero") && error.contains("larger"), "{error}");
}

/// A reload that hangs is a pipe that nobody writes to.
#[cfg(unix)]
#[actix::test]
async fn a_detached_reload_holds_nobody_up_and_does_not_undo_a_later_one() {
    let files = Files::new("detached");
    let old_key = fs::read(files.path("key.pem")).unwrap();
    let settings = Settings { worker_pool_size: 1, ..files.settings() };
    let (tell, mut slow) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::new(settings).on_conn_start(move |conn| {
        tell.send(conn.clone()).unwrap();
    });
    let watched = TestServer::start(server).await;
    let handle = watched.handle().clone();
    fs::remove_file(files.path("key.pem")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(files.path("key.pem")).status().unwrap();
    assert!(made.success());
    let port = watched.addr().port();

    let first = actix::spawn({
        let handle = handle.clone();
        async move { handle.reload_tls_detached().await }
    });
    let path = files.path("key.pem");
    let writer = fs::OpenOptions::new();
    let opened = tokio::task::spawn_blocking(move || writer.clone().write(true).open(path));
    let mut writer = within(opened).await.unwrap().unwrap();
    // The thread that it was called on accepts, and the worker serves.
    let _stream = files.dial(port).await.unwrap();
    within(slow.recv()).await.unwrap();

    fs::remove_file(files.path("key.pem")).unwrap();
    files.renew();
    // This one waits for its turn, and can be given up.
    drop(handle.reload_tls_detached());
    let waiting = tokio::time::timeout(Duration::ZERO, handle.reload_tls_detached());
    waiting.await.expect_err("the first one is not done");
    handle.reload_tls().unwrap();
    files.dial(port).await.expect("the new certificate is in use");

    writer.write_all(&old_key).unwrap();
    drop(writer);
    within(first).await.unwrap().expect("the old pair is good");
    files.dial(port).await.expect("the new certificate stays in use");
    within(handle.reload_tls_detached()).await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.tls_reloads, stats.tls_reloads_failed), (3, 0));
    watched.stop().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_one_byte_of_a_key_becomes_the_error_does_not_quote_it(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        deleted in any::<bool>(),
    ) {
        let (cert, key) = pair();
        let secret = Secret::new(&key);
        let mut damaged = key.clone().into_bytes();
        let place = place.index(damaged.len());
        if deleted {
            damaged.remove(place);
        } else {
            damaged[place] = byte;
        }
        let tls = Tls::new().roots_pem(cert.clone()).client_certificate_pem(cert, damaged);
        // Without a system it cannot start, and says so when all else is well.
        let error = started(tls).unwrap_err();
        secret.assert_not_in(&said(&error), "one byte");
    }
}
