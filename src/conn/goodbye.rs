//! The application's close of a connection: a code, a text, a last frame.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{CloseReason, Conn, SendError};
use crate::frame::Frame;

/// The codes of applications, over WebSocket and everywhere else.
const CODES: RangeInclusive<u16> = 4000..=4999;

/// Those of them that ask the other side not to connect again.
const FINAL_CODES: RangeInclusive<u16> = 4000..=4499;

/// Whether a close with this code asks the other side not to connect again: the one rule for all
/// transports, and for codes of either side.
pub(super) fn is_final(code: u16) -> bool {
    FINAL_CODES.contains(&code)
}

/// The beginning of a text, of at most so many bytes and of whole characters.
pub(crate) fn beginning(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// How an application closes a connection: with a code, a text for people, and perhaps a last frame. See
/// [`Conn::close_with`].
///
/// Codes are from 4000 to 4999, as WebSocket has them. Those from 4000 to 4499 are *final*: a
/// [client](crate::client) does not connect again. Those from 4500 on are not. Over WebSocket, code and
/// text are in the close frame. Elsewhere the peer gets the last frame alone, by whose id a client
/// knows a final close: [`ClientBuilder::final_id`](crate::client::ClientBuilder::final_id).
///
/// ```
/// # fn f(conn: &zinxide::Conn) {
/// use zinxide::Goodbye;
///
/// let goodbye = Goodbye::new(4001, "logged in elsewhere").last_frame((9, "logged in elsewhere"));
/// if let Err(error) = conn.close_with(goodbye) {
///     log::info!("{conn}: {error}");
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a goodbye is given to `Conn::close_with`"]
pub struct Goodbye {
    code: u16,
    text: Arc<str>,
    last: Option<Frame>,
}

impl Goodbye {
    /// How many bytes of a text are kept. A WebSocket's close frame has room for 123.
    pub const MAX_TEXT: usize = 1024;

    /// A goodbye without a last frame. A text that is longer than [`MAX_TEXT`](Self::MAX_TEXT) is cut
    /// off behind the last character that fits, and again where it is sent in less room.
    pub fn new(code: u16, text: impl AsRef<str>) -> Self {
        let text = beginning(text.as_ref(), Self::MAX_TEXT);
        Self { code, text: text.into(), last: None }
    }

    /// Adds the frame that is written last, behind everything that was accepted before it.
    pub fn last_frame(mut self, frame: impl Into<Frame>) -> Self {
        self.last = Some(frame.into());
        self
    }

    /// The code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it asks the other side not to connect again.
    pub fn is_final(&self) -> bool {
        is_final(self.code)
    }

    /// The last frame, if there is one.
    pub fn into_last_frame(self) -> Option<Frame> {
        self.last
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}", self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// Why a connection was not closed with a [`Goodbye`]. Each variant gives it back, with its last frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GoodbyeError {
    /// The code is not from 4000 to 4999. The connection is as it was.
    #[error("{} is no close code of an application: those are from 4000 to 4999", .0.code)]
    Code(Goodbye),
    /// The connection is closed, or about to be for an earlier reason.
    #[error("the connection is closed")]
    Closed(Goodbye),
    /// The last frame is larger than the header can say. The connection is as it was.
    #[error("the last frame is too large")]
    TooLarge(Goodbye),
    /// The [`Framing`](crate::framing::Framing) has no frame for the id and the payload of the last frame.
    /// The connection is as it was.
    #[error("there is no frame for the id and the payload of the last frame")]
    NoFrame(Goodbye),
}

impl GoodbyeError {
    /// The goodbye that was not said.
    pub fn into_goodbye(self) -> Goodbye {
        match self {
            Self::Code(goodbye)
            | Self::Closed(goodbye)
            | Self::TooLarge(goodbye)
            | Self::NoFrame(goodbye) => goodbye,
        }
    }
}

impl Conn {
    /// Closes the connection for the application: no new frames are accepted from now on, those accepted
    /// are written, then the last frame of the goodbye, all within the drain deadline; then the socket is
    /// closed. The connection ends as [`CloseReason::App`].
    ///
    /// The last frame needs no room in the outbox, may be larger than that, and is displaced by none. What
    /// the peer does not take in time is counted as cut, the last frame too.
    ///
    /// On a connection that drains (because the server stops, say, or the peer has closed its side), the
    /// goodbye takes the place of the reason for that, and hurries the end as [`stop`](Self::stop) does.
    /// Of several goodbyes, and of a goodbye and a `stop`, the first wins. Safe to call from a
    /// handler or hook of this very connection.
    ///
    /// On a connection of a [client](crate::client) a final goodbye closes the client; after another one
    /// it connects again, as after `stop`.
    ///
    /// # Errors
    ///
    /// [`GoodbyeError`], with the goodbye in it: the code is not one of an application, there is no frame
    /// for the last frame, or the connection is closed or about to be without a drain.
    pub fn close_with(&self, goodbye: Goodbye) -> Result<(), GoodbyeError> {
        if !CODES.contains(&goodbye.code) {
            return Err(GoodbyeError::Code(goodbye));
        }
        let Goodbye { code, text, last } = goodbye;
        let back = |last| Goodbye { code, text: Arc::clone(&text), last };
        let limits = &self.shared.limits;
        let checked = last.map(|last| limits.encode_unless_plain(limits.check_answer(last)?));
        let checked = checked.transpose().map_err(|error| match error {
            SendError::TooLarge(last) => GoodbyeError::TooLarge(back(Some(last))),
            other => GoodbyeError::NoFrame(back(Some(other.into_frame()))),
        })?;
        let reason = CloseReason::App { code, text: Arc::clone(&text) };
        let last = checked.as_ref().map(|(last, encoded)| (last, encoded.as_ref()));
        if self.shared.close_last(reason, last) {
            Ok(())
        } else {
            Err(GoodbyeError::Closed(back(checked.map(|(last, _)| last))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Delimited, FrameCodec};
    use crate::settings::Settings;
    use crate::testing::{accepted, conn};

    #[test]
    fn g20_a_code_is_final_up_to_4499_and_not_from_4500_on() {
        for (code, expected) in [(4000, true), (4499, true), (4500, false), (4999, false)] {
            assert_eq!(Goodbye::new(code, "").is_final(), expected, "{code}");
        }
        // Codes that applications cannot use ask for nothing.
        assert!(![0, 1000, 1001, 3999, 5000, u16::MAX].into_iter().any(is_final));
    }

    #[test]
    fn g20_a_code_that_is_not_an_applications_is_an_error_and_closes_nothing() {
        let conn = conn(1, &Settings::default());
        for code in [0, 1000, 1006, 3999, 5000, u16::MAX] {
            let goodbye = Goodbye::new(code, "text").last_frame((9, "bye"));
            let refused = conn.close_with(goodbye.clone());
            assert_eq!(refused, Err(GoodbyeError::Code(goodbye)), "{code}");
        }
        assert!(!conn.is_closed() && accepted(&conn).is_empty());
    }

    #[test]
    fn g20_a_text_is_bounded_and_keeps_whole_characters() {
        assert_eq!(Goodbye::new(4000, "é".repeat(600)).text(), "é".repeat(512));
        let odd = format!("x{}", "é".repeat(600));
        assert_eq!(Goodbye::new(4000, &odd).text(), &odd[..1023]);
        assert_eq!(beginning("日本", 5), "日");
        assert_eq!(beginning("日本", 2), "");
        assert_eq!(beginning("日本", 6), "日本");
    }

    #[actix::test]
    async fn g20_a_last_frame_that_the_framing_cannot_put_comes_back_and_closes_nothing() {
        let mut limits = Settings::default().limits(Arc::default());
        limits.codec = FrameCodec::framed(Delimited::lines(), 4096);
        let plain = conn(1, &Settings::default());
        let at = Arc::clone(&plain.shared.at);
        let conn = Conn::new(1, plain.peer_addr(), at, Arc::new(limits));
        let goodbye = Goodbye::new(4000, "").last_frame((0, "two\nlines"));
        let refused = conn.close_with(goodbye.clone());
        assert_eq!(refused, Err(GoodbyeError::NoFrame(goodbye)));
        assert!(!conn.is_closed());
        conn.close_with(Goodbye::new(4000, "").last_frame((0, "a line"))).unwrap();
        assert_eq!(accepted(&conn), [Frame::new(0, "a line")]);
    }
}
