//! What must not be printed: keys in the place of something else.

use std::path::{Path, PathBuf};

/// What is printed in their place.
const NOT_SHOWN: &str = "(not shown: it looks like a key or a certificate)";

/// How many characters of base64 or hexadecimal digits in a row are taken for a key. A name is rarely that long.
const LONG: usize = 40;

/// Whether this text, which should be something else, looks like a private key or a certificate: PEM, or
/// the base64 or hexadecimal digits of one. A setting with such a value is a mistake that is made easily, and a
/// message that quotes the value puts the key into a log.
pub(crate) fn is_secret(text: &str) -> bool {
    let is_digit = |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '/' | '=');
    // DER begins with 0x30, which is M; and dashes are LS0t. Slashes make no difference there.
    let encoded = text.trim_start_matches(['\'', '"', '[', ' ']);
    let encoded = encoded.starts_with("LS0t") || encoded.starts_with('M');
    text.contains("-----")
        || text.contains("PRIVATE KEY")
        || longest_run(text, |char| is_digit(char) && char != '/') >= LONG
        || encoded && longest_run(text, is_digit) >= LONG
}

fn longest_run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.split(|char| !is(char)).map(str::len).max().unwrap_or_default()
}

/// This text, unless it is secret.
pub(crate) fn shown(text: &str) -> &str {
    if is_secret(text) { NOT_SHOWN } else { text }
}

/// This path of a file that is not there, unless it is a secret and not a path.
pub(crate) fn shown_path(path: &Path) -> PathBuf {
    if is_secret(&path.to_string_lossy()) { NOT_SHOWN.into() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "MC4CAQAwBQYDK2VwBCIEIHm0/Y2bqKcVxrzM1yC8D4uS1B7Q9T0Yx2k3Wz/6RvAe";

    #[test]
    fn keys_are_secret_in_every_notation_and_paths_are_not() {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n");
        let hex = "302e020100300506032b657004220420a1b2c3d4";
        for secret in [
            &pem,
            &pem.replace('\n', "\\n"),
            BODY,
            "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1DNENBUUF3",
            hex,
        ] {
            assert!(is_secret(secret), "{secret}");
            assert_eq!(shown(secret), NOT_SHOWN);
            assert_eq!(shown_path(Path::new(secret)), Path::new(NOT_SHOWN));
        }
        for path in [
            "",
            "key.pem",
            "MyServer/key.pem",
            "/etc/letsencrypt/live/a-rather-long-name-of-a-host.example.com/privkey.pem",
            "/var/run/secrets/kubernetes.io/serviceaccount/projected/certificates/tls.key",
            "/dev/fd/63",
            "C:\\Program Files\\server\\certificates\\key.pem",
        ] {
            assert_eq!(shown(path), path);
            assert_eq!(shown_path(Path::new(path)), Path::new(path));
        }
    }
}
