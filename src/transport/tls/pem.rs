//! PEM, read whole or not at all: what cannot be read is an error that names its line.
//!
//! rustls passes over what it does not understand, which is a root or a part of a chain that is left out, and its
//! errors quote the line, which may be a private key. So the blocks are found here, and it gets one at a time. An
//! [`Error`] has no room for a quotation.
//!
//! Text outside of blocks is allowed (RFC 7468, 2), unless it looks like a part of one.

use std::fmt;

/// What is wrong, and in which line; in none, if it is about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    line: Option<usize>,
    why: &'static str,
}

impl Error {
    pub(super) fn at(line: usize, why: &'static str) -> Self {
        Self { line: Some(line), why }
    }

    pub(super) fn of_all(why: &'static str) -> Self {
        Self { line: None, why }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(self.why)
    }
}

/// One block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// One of [`LABELS`].
    pub(super) label: &'static str,
    /// The line of its beginning, from 1.
    pub(super) line: usize,
    /// What is between BEGIN and END: whitespace, and base64 as far as the characters tell.
    base64: Vec<u8>,
}

impl Block {
    /// It alone, as rustls has PEM.
    pub(super) fn to_pem(&self, label: &str) -> Vec<u8> {
        let (begin, end) =
            (format!("-----BEGIN {label}-----\n"), format!("-----END {label}-----\n"));
        [begin.as_bytes(), &self.base64, end.as_bytes()].concat()
    }
}

/// What blocks may be. One with another label is an error, since it may be meant.
const LABELS: [&str; 19] = [
    "CERTIFICATE",
    "X509 CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "DSA PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "EC PARAMETERS",
    "DH PARAMETERS",
    "CERTIFICATE REQUEST",
    "NEW CERTIFICATE REQUEST",
    "X509 CRL",
    "SSL SESSION PARAMETERS",
    "PKCS7",
    "CMS",
];

pub(super) const ENCRYPTED: &str = "the private key is encrypted; decrypt it with `openssl pkey`";

const NOT_TEXT: &str = "this is no text; PEM is ASCII, and neither UTF-16 nor binary";
const IS_DER: &str = "this is binary, DER or PKCS #12, and not PEM; convert it with `openssl x509`, \
    `openssl pkey` or `openssl pkcs12`";
const LOST_LINES: &str =
    "a BEGIN or END is damaged, or shares its line: has the text lost its line breaks?";
const ESCAPED_LINES: &str = "there is `\\n`, two characters, where a line break should be";
const NO_BEGIN: &str = "there is no BEGIN before this END";
const NO_END: &str = "there is no END of the block that begins here";
const OTHER_END: &str = "this END is not that of the block before it";
const INSIDE: &str = "a block begins here, and the one before it has no END";
const STRAY: &str = "this looks like a part of a block whose BEGIN is missing or damaged";
const UNKNOWN: &str = "nothing is known of blocks with the label of this one";
const NOT_BASE64: &str = "this is neither base64 nor the END of the block";
const NOTHING: &str = "there is nothing in this block";

/// All blocks of a text.
pub(super) fn blocks(text: &[u8]) -> Result<Vec<Block>, Error> {
    // Line breaks of old are one CR.
    let between = if text.contains(&b'\n') { b'\n' } else { b'\r' };
    let mut blocks = Vec::new();
    let mut open = None::<Block>;
    for (line, content) in (1..).zip(text.split(|byte| *byte == between)) {
        if content.iter().any(|byte| is_binary(*byte)) {
            let is_der = text.starts_with(b"\x30");
            return Err(if is_der { Error::of_all(IS_DER) } else { Error::at(line, NOT_TEXT) });
        }
        let bad = |why| Err(Error::at(line, why));
        // Some editors begin a file with it, and files are joined.
        let content = content.trim_ascii();
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content).trim_ascii();
        open = match (Line::of(content), open) {
            (Line::Damaged(why), _) => return bad(why),
            (Line::Begin(_), Some(_)) => return bad(INSIDE),
            (Line::Begin(label), None) => match known(label) {
                Some(label) => Some(Block { label, line, base64: Vec::new() }),
                None => return bad(UNKNOWN),
            },
            (Line::End(_), None) => return bad(NO_BEGIN),
            (Line::End(label), Some(block)) if label != block.label.as_bytes() => {
                return bad(OTHER_END);
            }
            (Line::End(_), Some(block)) if block.base64.trim_ascii().is_empty() => {
                return Err(Error::at(block.line, NOTHING));
            }
            (Line::End(_), Some(block)) => {
                blocks.push(block);
                None
            }
            (Line::Other, None) if is_stray(content) => return bad(STRAY),
            (Line::Other, None) => None,
            (Line::Other, Some(_)) if content.starts_with(b"Proc-Type: 4,ENCRYPTED") => {
                return bad(ENCRYPTED);
            }
            (Line::Other, Some(mut block)) => {
                if !content.iter().all(|byte| is_base64(*byte) || byte.is_ascii_whitespace()) {
                    return bad(NOT_BASE64);
                }
                block.base64.extend(content);
                block.base64.push(b'\n');
                Some(block)
            }
        };
    }
    match open {
        Some(block) => Err(Error::at(block.line, NO_END)),
        None => Ok(blocks),
    }
}

enum Line<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
    /// What would be one of these.
    Damaged(&'static str),
    Other,
}

impl<'a> Line<'a> {
    fn of(content: &'a [u8]) -> Self {
        let label = |begin: &[u8]| {
            let label = content.strip_prefix(begin)?.strip_suffix(b"-----")?;
            (!contains(label, b"--")).then_some(label)
        };
        if let Some(label) = label(b"-----BEGIN ") {
            return Self::Begin(label);
        }
        if let Some(label) = label(b"-----END ") {
            return Self::End(label);
        }
        let has_word = |text: &[u8], before: &[u8]| {
            let after = |word: &[u8]| contains(text, &[before, word].concat());
            after(b"BEGIN ") || after(b"END ")
        };
        // A word processor makes other dashes of them.
        let dash = content.starts_with(b"\xe2\x80") || content.starts_with(b"-");
        let is_damaged = dash && has_word(content, b"")
            || has_word(content, b"--")
            || has_word(content, b"-- ")
            || has_word(&content.to_ascii_uppercase(), b"----");
        match is_damaged {
            true if contains(content, b"\\n") => Self::Damaged(ESCAPED_LINES),
            true => Self::Damaged(LOST_LINES),
            false => Self::Other,
        }
    }
}

fn known(label: &[u8]) -> Option<&'static str> {
    LABELS.into_iter().find(|known| known.as_bytes() == label)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// What no text has. DOS ends files with 0x1a.
fn is_binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0e..=0x19)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// Whether this may be a whole line of base64, which are 64 long, or 76. Words and lines of dashes are not.
fn is_stray(content: &[u8]) -> bool {
    content.len() >= 60
        && content.iter().all(|byte| is_base64(*byte))
        && content.iter().any(u8::is_ascii_uppercase)
        && content.iter().any(u8::is_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BETWEEN: &[&[u8]] = &[b"\n", b"\r\n", b"\r", b" \t\n  "];

    /// Blocks of any size and label, between lines of text.
    fn file() -> impl Strategy<Value = (Vec<Vec<u8>>, usize)> {
        let line = "[A-Z][a-z][A-Za-z0-9+/]{62}";
        let text = prop_oneof![Just(""), Just("Certificate chain"), Just("---"), Just(" 0 s:CN=x")];
        let block = (prop::sample::select(&LABELS[..]), prop::collection::vec(line, 1..4), text);
        prop::collection::vec(block, 1..5).prop_map(|blocks| {
            let count = blocks.len();
            let lines = blocks.into_iter().flat_map(|(label, body, text)| {
                let begin = [text.to_owned(), format!("-----BEGIN {label}-----")];
                begin.into_iter().chain(body).chain([format!("-----END {label}-----")])
            });
            (lines.map(String::into_bytes).collect(), count)
        })
    }

    fn count(lines: &[Vec<u8>], between: &[u8]) -> Result<usize, Error> {
        blocks(&lines.join(between)).map(|blocks| blocks.len())
    }

    proptest! {
        #[test]
        fn what_is_well_formed_is_read_whole(
            (mut lines, wanted) in file(),
            between in prop::sample::select(BETWEEN),
            bom in any::<prop::sample::Index>(),
        ) {
            prop_assert_eq!(count(&lines, between), Ok(wanted));
            let line = bom.index(lines.len());
            if lines[line].starts_with(b"-----BEGIN") {
                lines[line].splice(0..0, *b"\xef\xbb\xbf");
            }
            prop_assert_eq!(count(&lines, between), Ok(wanted));
        }

        #[test]
        fn what_is_damaged_is_read_whole_or_is_an_error(
            (mut lines, wanted) in file(),
            line in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            with in prop::option::of(any::<u8>()),
        ) {
            let line = line.index(lines.len());
            let line = &mut lines[line];
            if !line.is_empty() {
                let place = place.index(line.len());
                line.splice(place..=place, with);
            }
            if let Ok(found) = count(&lines, b"\n") {
                prop_assert_eq!(found, wanted);
            }
        }

        #[test]
        fn a_line_that_is_lost_or_joined_to_the_next_leaves_no_block_out(
            (mut lines, wanted) in file(),
            line in any::<prop::sample::Index>(),
            joined in any::<bool>(),
        ) {
            let line = line.index(lines.len());
            let lost = lines.remove(line);
            if joined && line < lines.len() {
                lines[line].splice(0..0, lost);
            }
            if let Ok(found) = count(&lines, b"\n") {
                prop_assert_eq!(found, wanted);
            }
        }

        #[test]
        fn whatever_it_is_given_it_does_not_panic(text in any::<Vec<u8>>()) {
            let _ = blocks(&text);
        }
    }

    #[test]
    fn a_block_is_passed_on_alone() {
        let text =
            b"-----BEGIN X509 CERTIFICATE-----\r\n QUJD \r\nREVG\r\n-----END X509 CERTIFICATE-----";
        let found = blocks(text).unwrap();
        let pem = found[0].to_pem("CERTIFICATE");
        assert_eq!(pem, b"-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----\n");
    }
}
