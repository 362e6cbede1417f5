//! Where a peer is in what it sends: between messages, or inside one.

/// The longest header of a frame.
pub(super) const MAX_HEADER: usize = 14;

/// The opcode of close frames.
const CLOSE: u8 = 8;

/// What ends the head of an HTTP message.
const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

/// Follows the bytes that a peer sends without touching them. The WebSocket library does not tell a
/// message that has begun from none at all, and a peer may not take for ever to send one.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// How much of [`END_OF_HEAD`] is still to come, in the answer to a handshake.
    head: usize,
    /// The header that has begun.
    header: [u8; MAX_HEADER],
    have: usize,
    /// How much of the frame's payload is still to come.
    payload: u64,
    /// The last data frame was not its message's last.
    open: bool,
    /// A close frame has come.
    closed: bool,
    /// How many bytes of the message that is not complete have come.
    bytes: usize,
    /// Payload bytes of the message that is not complete, as far as headers announced them.
    announced: u64,
    /// Payload bytes of all messages that are complete.
    whole: u64,
}

impl Marks {
    /// Begins with frames, of which some have come.
    pub(super) fn after(come: &[u8]) -> Self {
        let mut marks = Self::default();
        marks.follow(come);
        marks
    }

    /// Begins with the head of an HTTP message.
    pub(super) fn with_head() -> Self {
        Self { head: END_OF_HEAD.len(), ..Self::default() }
    }

    /// Whether the head of the HTTP message is not complete.
    pub(super) fn in_head(&self) -> bool {
        self.head > 0
    }

    /// How many bytes have come of a message that is not complete; 0 between messages.
    pub(super) fn part(&self) -> usize {
        self.bytes
    }

    /// Payload bytes of all messages that are complete.
    pub(super) fn whole(&self) -> u64 {
        self.whole
    }

    /// Whether the peer has sent a close frame.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn follow(&mut self, mut come: &[u8]) {
        while let Some((&byte, rest)) = come.split_first() {
            if self.head > 0 {
                self.head_byte(byte);
                come = rest;
            } else if self.payload > 0 {
                let n = come.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= n as u64;
                self.bytes = self.bytes.saturating_add(n);
                come = &come[n..];
                self.end_of_frame();
            } else {
                self.header_byte(byte);
                come = rest;
            }
        }
    }

    fn head_byte(&mut self, byte: u8) {
        let wanted = END_OF_HEAD[END_OF_HEAD.len() - self.head];
        self.head = match byte {
            byte if byte == wanted => self.head - 1,
            b'\r' => END_OF_HEAD.len() - 1,
            _ => END_OF_HEAD.len(),
        };
    }

    fn header_byte(&mut self, byte: u8) {
        self.header[self.have] = byte;
        self.have += 1;
        self.bytes = self.bytes.saturating_add(1);
        if self.have < 2 {
            return;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + extended + mask {
            return;
        }
        self.payload = match extended {
            0 => u64::from(self.header[1] & 0x7f),
            n => self.header[2..2 + n].iter().fold(0, |len, &byte| len << 8 | u64::from(byte)),
        };
        self.have = 0;
        if self.is_data() {
            self.announced = self.announced.saturating_add(self.payload);
        }
        self.end_of_frame();
    }

    /// Whether the frame whose header came last is part of a message. Control frames may stand between
    /// those of one.
    fn is_data(&self) -> bool {
        self.header[0] & 0x08 == 0
    }

    fn end_of_frame(&mut self) {
        if self.payload > 0 {
            return;
        }
        let is_last = self.header[0] & 0x80 != 0;
        self.closed |= self.header[0] & 0x0f == CLOSE;
        if self.is_data() {
            self.open = !is_last;
            if is_last {
                self.whole += std::mem::take(&mut self.announced);
            }
        }
        if !self.open {
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASKED: &[u8] = &[0x82, 0x83, 1, 2, 3, 4, 9, 9, 9];
    const PING: &[u8] = &[0x89, 0x80, 1, 2, 3, 4];

    #[test]
    fn there_is_a_part_inside_a_message_and_none_between_two() {
        let long = [&[0x82, 0x7e, 1, 0][..], &[7; 256]].concat();
        let huge = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
        for message in [MASKED, PING, &[0x82, 0], &long, &huge] {
            for cut in 1..message.len() {
                let mut marks = Marks::after(&message[..cut]);
                assert_eq!(marks.part(), cut);
                marks.follow(&message[cut..]);
                assert_eq!(marks.part(), 0, "{cut} of {}", message.len());
            }
        }
    }

    #[test]
    fn payloads_are_whole_when_the_last_fragment_of_their_message_is() {
        let mut marks = Marks::after(MASKED);
        assert_eq!(marks.whole(), 3);
        marks.follow(&[0x02, 0x02, 7, 7]);
        marks.follow(PING);
        marks.follow(&[0x80, 0x01]);
        assert_eq!(marks.whole(), 3);
        marks.follow(&[7]);
        assert_eq!(marks.whole(), 6);
    }

    #[test]
    fn a_message_in_fragments_is_a_part_until_the_last_of_them() {
        let mut marks = Marks::after(&[0x02, 0x01, 7]);
        assert_eq!(marks.part(), 3);
        marks.follow(PING);
        assert!(marks.part() > 0, "a ping between fragments ends nothing");
        marks.follow(&[0x00, 0x00]);
        assert!(marks.part() > 0);
        marks.follow(&[0x80, 0x00]);
        assert_eq!(marks.part(), 0);
    }

    #[test]
    fn a_close_frame_is_seen_when_it_is_complete() {
        let mut marks = Marks::after(&[MASKED, PING, &[0x88, 0x82, 0, 0, 0, 0, 3]].concat());
        assert!(!marks.closed());
        marks.follow(&[0xe8]);
        assert!(marks.closed());
    }

    #[test]
    fn what_follows_the_head_of_an_answer_is_frames() {
        let mut marks = Marks::with_head();
        marks.follow(b"HTTP/1.1 101 Switching\r\nA: b\r\r\n\r");
        assert_eq!(marks.part(), 0);
        marks.follow(&[b"\n", MASKED, &[0x82]].concat());
        assert_eq!(marks.part(), 1);
    }
}
