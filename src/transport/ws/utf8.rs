//! Whether a text that comes in pieces is UTF-8.

use crate::codec::FrameError;

/// What has come of a text, as far as it says something of what may follow.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// A character that came in part.
    part: Vec<u8>,
    /// How many bytes have come in all.
    len: usize,
}

impl Utf8 {
    const BROKEN: FrameError = FrameError::Malformed("it is not UTF-8");

    /// How many bytes have come.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// More of the text has come. An error is the last that is asked.
    pub(super) fn follow(&mut self, text: &[u8]) -> Result<(), FrameError> {
        self.len += text.len();
        // Every text ends its connection: a copy of it is not worth avoiding.
        let come = [&self.part[..], text].concat();
        let part = match std::str::from_utf8(&come) {
            Ok(_) => &[],
            Err(error) if error.error_len().is_none() => &come[error.valid_up_to()..],
            Err(_) => return Err(Self::BROKEN),
        };
        self.part = part.to_vec();
        Ok(())
    }

    /// What is wrong with a message that is this text.
    pub(super) fn end(self) -> FrameError {
        if self.part.is_empty() { FrameError::Text } else { Self::BROKEN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_pieces_is_what_it_is_in_one() {
        let texts: [&[u8]; 9] = [
            b"",
            b"plain",
            "\u{3ba}\u{1f600}\u{d7ff}\u{e000}\u{10ffff}".as_bytes(),
            b"\xce",
            b"a\xf4\x8f\xbf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"ok\xffok",
            b"\xc0\xaf",
        ];
        for text in texts {
            let expected = match std::str::from_utf8(text) {
                Ok(_) => FrameError::Text,
                Err(_) => Utf8::BROKEN,
            };
            for cut in 0..=text.len() {
                for every_byte in [false, true] {
                    let mut utf8 = Utf8::default();
                    let pieces: Vec<&[u8]> = match every_byte {
                        true => text.chunks(1).collect(),
                        false => vec![&text[..cut], &text[cut..]],
                    };
                    let broken = pieces.into_iter().find_map(|piece| utf8.follow(piece).err());
                    assert_eq!(broken.unwrap_or_else(|| utf8.end()), expected, "{text:?} {cut}");
                }
            }
        }
    }
}
