//! Where a peer is in the records that it sends: between two, or inside one.

/// Type, version and length.
const HEADER: usize = 5;

/// Follows the headers of records. rustls does not tell a record that has begun from none at all, and a peer
/// may not take for ever to send one.
#[derive(Default)]
pub(super) struct Records {
    header: [u8; HEADER],
    /// How much of the header has come.
    have: usize,
    /// How much of the record's payload is still to come.
    payload: usize,
    /// How long the payload of the record is in all.
    len: usize,
}

impl Records {
    /// Whether a record has begun and is not complete.
    pub(super) fn part(&self) -> bool {
        self.have > 0 || self.payload > 0
    }

    /// How much has come of a record that is not complete.
    pub(super) fn held(&self) -> usize {
        match self.payload {
            0 => self.have,
            to_come => HEADER + self.len - to_come,
        }
    }

    /// This came next.
    pub(super) fn follow(&mut self, mut come: &[u8]) {
        while let Some((&byte, rest)) = come.split_first() {
            if self.payload > 0 {
                let n = come.len().min(self.payload);
                self.payload -= n;
                come = &come[n..];
                continue;
            }
            self.header[self.have] = byte;
            self.have += 1;
            come = rest;
            if self.have == HEADER {
                self.have = 0;
                self.len = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.payload = self.len;
            }
        }
    }
}
