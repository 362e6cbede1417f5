//! One line of the log, whatever the texts in it are: many of them are chosen by peers.

use std::fmt::{self, Display, Write};

use crate::unwind::contained;

/// How long a line is at most.
const LONGEST: usize = 512;

/// What `text` says, as a line that ends nowhere else and steers no terminal. A `Display` of the application
/// that panics costs the rest of the line.
pub(super) fn line(text: &dyn Display) -> String {
    let mut line = Line { text: String::new(), full: false };
    let written = contained(|| write!(line, "{text}"));
    let Line { mut text, full } = line;
    if full {
        text.push('…');
    }
    if written.is_none() {
        text.push_str("[its text panicked]");
    }
    text
}

/// Appends a character to a line: as it is, if it is one to be seen.
pub(crate) fn push_escaped(line: &mut String, char: char) {
    match char {
        // Not escaped, so that a text that was escaped before stays as it is.
        '"' | '\'' | '\\' => line.push(char),
        char => line.extend(char.escape_debug()),
    }
}

struct Line {
    text: String,
    full: bool,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            if self.text.len() >= LONGEST {
                self.full = true;
                // Whoever writes a long text need not go on.
                return Err(fmt::Error);
            }
            push_escaped(&mut self.text, char);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_character_that_ends_it_or_steers_a_terminal() {
        let text = "a\r\n[ERROR] all is lost\x1b[2J\t\u{2028}\u{9b}\u{7f} \"é\" C:\\new \u{fffd}字";
        let escaped = r#"a\r\n[ERROR] all is lost\u{1b}[2J\t\u{2028}\u{9b}\u{7f} "é" C:\new �字"#;
        assert_eq!(line(&text), escaped);
        assert_eq!(line(&line(&text)), escaped);
        for bidi in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(line(&bidi), format!("\\u{{{:x}}}", u32::from(bidi)));
        }
    }

    #[test]
    fn a_line_is_bounded_and_its_text_is_not_written_to_the_end() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("\n and so on")?;
                }
            }
        }
        let line = line(&Endless);
        assert!((LONGEST..LONGEST + 20).contains(&line.len()) && line.ends_with('…'), "{line}");
    }

    #[test]
    fn a_text_that_panics_costs_the_rest_of_its_line() {
        struct Panics;
        impl Display for Panics {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so far")?;
                panic!("on purpose");
            }
        }
        assert_eq!(
            line(&format_args!("it failed: {Panics}")),
            "it failed: so far[its text panicked]"
        );
    }
}
