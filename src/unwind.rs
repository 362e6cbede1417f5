//! Code of the application, run so that its panics go no further.

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "ws")]
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

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

/// A future whose panics go no further, be it polled or dropped. It answers `None` if it panics.
#[cfg(feature = "ws")]
pub(crate) struct Contained<'a, T>(Option<Pin<Box<dyn Future<Output = T> + 'a>>>);

#[cfg(feature = "ws")]
impl<'a, T> Contained<'a, T> {
    pub(crate) fn new(make: impl FnOnce() -> Pin<Box<dyn Future<Output = T> + 'a>>) -> Self {
        Self(contained(make))
    }
}

#[cfg(feature = "ws")]
impl<T> Future for Contained<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(future) = &mut self.0 else { return Poll::Ready(None) };
        match contained(|| future.as_mut().poll(cx)) {
            Some(polled) => polled.map(Some),
            None => Poll::Ready(None),
        }
    }
}

#[cfg(feature = "ws")]
impl<T> Drop for Contained<'_, T> {
    fn drop(&mut self) {
        let future = self.0.take();
        let _ = contained(|| drop(future));
    }
}
