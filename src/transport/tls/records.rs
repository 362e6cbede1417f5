//! Where a peer is in the records that it sends: between two, or inside one.

/// Type, version and length.
const HEADER: usize = 5;

/// Follows the headers of records. rustls does not tell a record that has begun from none at all, and a peer
/// may not take for ever to send one.
#[derive(Default)]
pub(super) struct Records {
    header: [u8; HEADER],
    /// How much has come of a record that is not complete.
    held: usize,
}

impl Records {
    /// How much has come of a record that is not complete: nothing, if none has begun.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// This came next.
    pub(super) fn follow(&mut self, mut come: &[u8]) {
        while !come.is_empty() {
            let (part, rest) = come.split_at(come.len().min(self.end() - self.held));
            if self.held < HEADER {
                self.header[self.held..][..part.len()].copy_from_slice(part);
            }
            self.held += part.len();
            if self.held == self.end() {
                self.held = 0;
            }
            come = rest;
        }
    }

    /// Where the record ends; before its header is there, where that ends.
    fn end(&self) -> usize {
        let [.., high, low] = self.header;
        let payload = usize::from(u16::from_be_bytes([high, low]));
        if self.held < HEADER { HEADER } else { HEADER + payload }
    }
}
