//! What a peer sends by WebSocket, taken apart where it lies in the reader's buffer: a state without a socket.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::code::{close_payload, reason_of};
use super::header::{Header, MAX_HEADER, Opcode};
use super::utf8::Utf8;
use crate::codec::envelope::{Envelope, mask};
use crate::codec::{FrameCodec, FrameError};
use crate::conn::CloseReason;
use crate::transport::{Bounds, Overhead};

/// The longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

/// So many bytes of replies wait for a peer that sends pings and does not read. It gets the reply to the
/// latest one all the same.
const PONGS: usize = 1024;

/// A masked fragment of a single byte has seven. A message may have so many times the bytes of its frame.
const FRAGMENTED: usize = 8;

/// What a peer may still send when it has nothing more to say, before its socket is closed under it: enough
/// for a message that was much too long, and not for a flood.
const READ_AWAY: usize = 4 * 1024 * 1024;

/// For so many of these bytes counts a frame of a peer that may have something to say, and is not heard any
/// more: its payloads cost little, floods of small frames much.
const FRAME_AWAY: usize = 64;

/// Where a WebSocket is.
///
/// Payloads of data frames are left in the buffer, unmasked, one behind the other; everything else is taken
/// out of it. Each message is one frame of the codec.
#[derive(Debug)]
pub(super) struct Door {
    /// How this side sends. The other sends masked what this one does not, and the other way round.
    envelope: Envelope,
    codec: FrameCodec,
    /// A header that came in part, and how much of it.
    head: [u8; MAX_HEADER],
    have: usize,
    /// The frame whose header came last, and how much of its payload is still to come.
    frame: Header,
    left: u64,
    /// How many bytes the frames have that are complete, of a message that is not. Each has a header: there
    /// is such a message unless this is 0.
    begun: usize,
    /// The same with what came of the frame that is not complete, of that message or not.
    part: usize,
    bounds: Bounds,
    /// The payload of a control frame, as far as it has come; that of a close frame until it is answered.
    control: Vec<u8>,
    /// What has come of a text, of which nothing is kept.
    text: Option<Box<Utf8>>,
    /// Replies to pings, and where the last one begins.
    pongs: BytesMut,
    last_pong: usize,
    /// Why nothing more is read.
    over: Option<CloseReason>,
    /// Payloads are thrown away, and errors are no news.
    away: bool,
    /// The caller has done with the input, and waits for its end.
    lingers: bool,
    /// How many bytes came since it was over.
    read_away: usize,
    /// The peer has sent a close frame, and it is to be answered with the same.
    is_closed: bool,
    echoes: bool,
    /// The peer has ended its output.
    at_end: bool,
    sent: Sent,
    /// What has come that is no payload of a message, and was not asked for yet.
    overhead: Overhead,
}

/// The part of a buffer that is kept: what was kept so far grows at its end.
struct Kept {
    begin: usize,
    end: usize,
}

impl Kept {
    /// Keeps `n` bytes from `at` on, too.
    #[inline]
    fn add(&mut self, buffer: &mut [u8], at: usize, n: usize) {
        if self.begin == self.end {
            // While nothing is kept, the next gets to its place by a move of the beginning.
            (self.begin, self.end) = (at, at);
        } else if self.end < at {
            buffer.copy_within(at..at + n, self.end);
        }
        self.end += n;
    }
}

/// Whether a close frame was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    No,
    /// Before the peer's.
    First,
    /// After the peer's.
    Reply,
}

impl Door {
    pub(super) fn new(envelope: Envelope, codec: FrameCodec) -> Self {
        Self {
            envelope,
            codec,
            head: [0; MAX_HEADER],
            have: 0,
            frame: Header::NONE,
            left: 0,
            begun: 0,
            part: 0,
            bounds: Bounds::default(),
            control: Vec::new(),
            text: None,
            pongs: BytesMut::new(),
            last_pong: 0,
            over: None,
            away: false,
            lingers: false,
            read_away: 0,
            is_closed: false,
            echoes: false,
            at_end: false,
            sent: Sent::No,
            overhead: Overhead::default(),
        }
    }

    /// Takes apart what has come: what `buffer` has from `from` on.
    pub(super) fn take(&mut self, buffer: &mut BytesMut, from: usize) {
        let come = buffer.len();
        if self.over.is_some() {
            self.read_away += come - from;
        }
        let mut kept = Kept { begin: 0, end: from };
        let mut at = from;
        while at < buffer.len() {
            at = self.take_whole_messages(buffer, at, &mut kept);
            if self.left == 0 {
                let Some(len) = self.take_header(&buffer[at..]) else { break };
                at += len;
            }
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len() - at);
            self.left -= n as u64;
            self.part = self.part.saturating_add(n);
            let payload = &mut buffer[at..at + n];
            if let Some(key) = &mut self.frame.key {
                mask(payload, *key);
                key.rotate_left(n % 4);
            }
            if self.frame.is_control() {
                if self.frame.len <= MAX_CONTROL && !self.is_closed {
                    self.control.extend_from_slice(payload);
                }
            } else if let Some(text) = &mut self.text {
                if let Err(error) = text.follow(payload) {
                    self.fail(error);
                }
            } else if !self.away {
                kept.add(buffer, at, n);
                self.bounds.open += n;
            }
            at += n;
            if self.left == 0 {
                self.end_frame(&buffer[kept.begin..kept.end]);
            }
        }
        if self.away {
            // Of a message that is not whole nothing is handed out.
            kept.end -= std::mem::take(&mut self.bounds.open);
        }
        buffer.truncate(kept.end);
        buffer.advance(kept.begin);
        self.overhead.bytes += (come - buffer.len()) as u64;
    }

    /// Takes messages of one frame that are all there, as most are: nothing need be remembered of those.
    /// Returns where something else begins.
    #[inline]
    fn take_whole_messages(
        &mut self,
        buffer: &mut BytesMut,
        mut at: usize,
        kept: &mut Kept,
    ) -> usize {
        if self.left > 0 || self.have > 0 || self.begun > 0 {
            return at;
        }
        while !self.away
            && let Some((header, len)) = Header::parse(&buffer[at..])
            && header.opcode == Opcode::Binary
            && header.fin
            && header.len <= (buffer.len() - at - len) as u64
            && self.check(&header).is_ok()
        {
            let n = header.len as usize;
            at += len;
            if let Some(key) = header.key {
                mask(&mut buffer[at..at + n], key);
            }
            kept.add(buffer, at, n);
            at += n;
            self.bounds.open = n;
            self.end_message(&buffer[kept.end - n..kept.end]);
        }
        at
    }

    /// Takes a header off the front of `bytes`, of which a part may have come before. Returns how many
    /// of them it was; `None` if they are all of a header that is not all there.
    #[inline]
    fn take_header(&mut self, bytes: &[u8]) -> Option<usize> {
        let (header, used) = match self.have {
            0 => match Header::parse(bytes) {
                Some(parsed) => parsed,
                None => return self.keep_head(bytes),
            },
            have => {
                let n = bytes.len().min(MAX_HEADER - have);
                self.head[have..have + n].copy_from_slice(&bytes[..n]);
                match Header::parse(&self.head[..have + n]) {
                    Some((header, len)) => (header, len - have),
                    None => return self.keep_head(bytes),
                }
            }
        };
        self.have = 0;
        self.part = self.part.saturating_add(used);
        if self.lingers && self.over.is_none() {
            self.read_away += FRAME_AWAY;
        }
        if !self.away {
            match self.check(&header) {
                Ok(()) if header.opcode == Opcode::Text => self.text = Some(Box::default()),
                Ok(()) => {}
                Err(error) => self.fail(error),
            }
        }
        (self.frame, self.left) = (header, header.len);
        Some(used)
    }

    fn keep_head(&mut self, bytes: &[u8]) -> Option<usize> {
        self.head[self.have..self.have + bytes.len()].copy_from_slice(bytes);
        self.have += bytes.len();
        self.part = self.part.saturating_add(bytes.len());
        None
    }

    /// Whether a frame may have this header, here.
    #[inline]
    fn check(&self, header: &Header) -> Result<(), FrameError> {
        let broken = |why| Err(FrameError::WebSocket(why));
        let in_message = self.begun > 0;
        if header.reserved != 0 {
            return broken("reserved bits are not zero");
        }
        match (self.envelope, header.key) {
            (Envelope::Masked, Some(_)) => return broken("a frame is masked"),
            (Envelope::Message, None) => return broken("a frame is not masked"),
            _ => {}
        }
        match header.opcode {
            Opcode::Continuation if !in_message => {
                return broken("there is nothing to continue");
            }
            Opcode::Text | Opcode::Binary if in_message => {
                return broken("a message begins inside another");
            }
            Opcode::Reserved => return broken("an opcode is unknown"),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                return match header {
                    Header { fin: false, .. } => broken("a control frame is fragmented"),
                    Header { len: ..=MAX_CONTROL, .. } => Ok(()),
                    _ => broken("a control frame is too large"),
                };
            }
        }
        let max = self.codec.largest_frame();
        let most = max.saturating_mul(FRAGMENTED).saturating_add(MAX_HEADER);
        let have = self.text.as_ref().map_or(self.bounds.open, |text| text.len());
        if header.len > (max - have) as u64 || self.part > most {
            return Err(FrameError::MessageTooLong { max });
        }
        Ok(())
    }

    /// The last byte of a frame has come. `kept` ends with what has come of its message.
    #[inline]
    fn end_frame(&mut self, kept: &[u8]) {
        if self.frame.is_control() {
            self.overhead.frames += 1;
            self.end_control();
        } else if self.frame.fin {
            self.begun = 0;
            if !self.away {
                match self.text.take() {
                    None => self.end_message(&kept[kept.len() - self.bounds.open..]),
                    Some(text) => self.fail(text.end()),
                }
            }
        } else {
            self.overhead.frames += 1;
            self.begun = self.part;
        }
        self.part = self.begun;
    }

    /// A message is one frame, no less and no more.
    #[inline(always)]
    fn end_message(&mut self, message: &[u8]) {
        let have = message.len();
        match self.codec.find(message) {
            Ok(Some(found)) if found.len == have => {
                self.bounds.open = 0;
                if !self.codec.is_plain() {
                    self.bounds.lens.push_back(have);
                }
            }
            Ok(_) => self.fail(FrameError::NotOneFrame { have }),
            Err(error) => self.fail(error),
        }
    }

    fn end_control(&mut self) {
        let opcode = self.frame.opcode;
        if opcode != Opcode::Close {
            self.overhead.controls += 1;
        }
        // Of close frames there is one, and nothing follows it.
        if self.is_closed {
            return;
        }
        if opcode == Opcode::Close {
            self.is_closed = true;
            if self.over.is_none() {
                match reason_of(&self.control) {
                    Ok(why) => (self.over, self.echoes) = (Some(why), true),
                    Err(error) => self.fail(error),
                }
            }
            self.away = true;
            return;
        }
        let said = std::mem::take(&mut self.control);
        if opcode == Opcode::Ping && !self.away {
            self.reply_to_ping(&said);
        }
    }

    fn reply_to_ping(&mut self, said: &[u8]) {
        if self.pongs.len() > PONGS {
            self.pongs.truncate(self.last_pong);
        }
        self.last_pong = self.pongs.len();
        self.envelope.put_control(Opcode::Pong as u8, said, &mut self.pongs);
    }

    fn fail(&mut self, error: FrameError) {
        self.over.get_or_insert(CloseReason::Protocol(error));
        self.away = true;
        self.text = None;
    }

    /// The peer has ended its output.
    pub(super) fn end_input(&mut self) {
        self.at_end = true;
        if self.over.is_none() {
            self.over = Some(match self.part {
                have @ 1.. if !self.away => CloseReason::Protocol(FrameError::Truncated { have }),
                _ => CloseReason::PeerClosed,
            });
        }
    }

    /// The end of the input, if there is nothing more to read.
    pub(super) fn end(&self) -> Option<io::Result<usize>> {
        if self.lingers && self.read_away >= READ_AWAY {
            return Some(Ok(0));
        }
        let why = self.over.as_ref()?;
        // The reset of a socket that has unread bytes would take the last words from the peer.
        let reads_on = match self.sent {
            Sent::No => false,
            Sent::First => matches!(why, CloseReason::Protocol(_)) && !self.is_closed,
            Sent::Reply => true,
        };
        if self.lingers && reads_on && !self.at_end {
            return None;
        }
        Some(match why {
            CloseReason::PeerClosed => Ok(0),
            why => Err(io::Error::other(why.clone())),
        })
    }

    /// The peer's part of the handshake was this long.
    pub(super) fn note_handshake(&mut self, len: usize) {
        self.overhead.handshake = len as u64;
    }

    /// What has come that is no payload of a message, since this was asked.
    pub(super) fn take_overhead(&mut self) -> Overhead {
        std::mem::take(&mut self.overhead)
    }

    /// The pings that have come get no reply. Returns how many were due.
    pub(super) fn drop_pongs(&mut self) -> usize {
        let pongs = std::mem::take(&mut self.pongs);
        let (mut dropped, mut rest) = (0, &pongs[..]);
        while let Some((header, len)) = Header::parse(rest) {
            rest = &rest[len + header.len as usize..];
            dropped += 1;
        }
        dropped
    }

    pub(super) fn bounds(&mut self) -> &mut Bounds {
        &mut self.bounds
    }

    /// What comes from now on is thrown away, but for close frames. The buffer is another one, or none.
    pub(super) fn read_away(&mut self) {
        (self.away, self.lingers) = (true, true);
        self.bounds.open = 0;
        self.text = None;
    }

    /// The control frames that are due.
    pub(super) fn aside(&mut self) -> Option<Bytes> {
        if self.sent != Sent::No {
            return None;
        }
        if self.echoes {
            return self.reply_to_close();
        }
        (!self.pongs.is_empty()).then(|| std::mem::take(&mut self.pongs).freeze())
    }

    /// The close frame, if none was sent: a reply to the peer's, or one that says `why`.
    pub(super) fn last_words(&mut self, why: &CloseReason) -> Option<Bytes> {
        if self.sent != Sent::No {
            return None;
        }
        self.reply_to_close().or_else(|| {
            self.sent = if self.is_closed { Sent::Reply } else { Sent::First };
            Some(self.envelope.control(Opcode::Close as u8, &close_payload(why)))
        })
    }

    fn reply_to_close(&mut self) -> Option<Bytes> {
        if !std::mem::take(&mut self.echoes) {
            return None;
        }
        let said = std::mem::take(&mut self.control);
        self.sent = Sent::Reply;
        Some(self.envelope.control(Opcode::Close as u8, &said))
    }

    /// Whether the peer has sent a close frame, and takes nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether a message or a frame has begun that is not complete.
    pub(super) fn is_inside(&self) -> bool {
        self.over.is_none() && self.part > 0
    }

    /// Whether the peer waits for this side to close the socket.
    pub(super) fn is_answered(&self) -> bool {
        self.sent == Sent::Reply
    }

    /// Bytes of a header or a control frame that is not complete.
    pub(super) fn held(&self) -> usize {
        self.have + self.control.len()
    }
}

#[cfg(test)]
mod tests;
