//! The heads of HTTP messages, as they come.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use memchr::memmem;

use crate::connection::{ReadPool, Reader};
use crate::transport::Boxed;

/// The longest that is read.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// A head that has come, good or bad.
pub(super) struct Head<T> {
    pub(super) parsed: T,
    /// How many bytes it has.
    pub(super) len: usize,
    /// What came behind it.
    pub(super) rest: Vec<u8>,
}

/// Reads a head, by the worker's buffer: a peer that has sent nothing yet takes none.
///
/// `parse` returns what is at the front of what has come, and how long that is; `None` if it is not all there.
/// It must not return `None` for more than [`MAX_HEAD`] bytes.
pub(super) async fn read_head<T>(
    below: &mut Boxed,
    pool: &ReadPool,
    parse: impl Fn(&[u8]) -> Option<(T, usize)>,
) -> io::Result<Head<T>> {
    let mut reader = Reader::default();
    // How much there was when it was parsed last. What comes a byte at a time is not parsed at each.
    let mut seen = 0;
    poll_fn(|cx| {
        let head = loop {
            let before = reader.len();
            match reader.poll_fill(&mut **below, pool, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => {
                    reader.rest(pool);
                    return Poll::Pending;
                }
            }
            let read = reader.remainder();
            let news = &read[before.saturating_sub(2)..];
            let may_end =
                [&b"\n\r\n"[..], b"\n\n"].iter().any(|end| memmem::find(news, end).is_some());
            if !may_end && read.len() < (2 * seen).min(MAX_HEAD) {
                continue;
            }
            seen = read.len();
            if let Some((parsed, len)) = parse(read) {
                break Ok(Head { parsed, len, rest: read[len..].to_vec() });
            }
        };
        reader.recycle(pool);
        Poll::Ready(head)
    })
    .await
}
