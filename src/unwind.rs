//! Code of the application, run so that its panics go no further.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `f` answers, or `None` if it panics.
///
/// What a panic carries is leaked: its drop is code of the application as well, and may panic again.
#[inline]
pub(crate) fn contained<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(answer) => Some(answer),
        Err(payload) => {
            std::mem::forget(payload);
            None
        }
    }
}
