//! Code of the application, run so that its panics go no further.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "ws")]
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

/// What `f` answers, or `None` if it panics. A thread that unwinds already may call it, too.
#[inline]
pub(crate) fn contained<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(answer) => Some(answer),
        Err(payload) => {
            discard(payload);
            None
        }
    }
}

/// Drops what a panic carries: a value of the application, whose drop may panic as well. What that second
/// panic carries is leaked, since the next drop may panic again, and so on.
#[cold]
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Drops a value of the application where a panic of that is not the fault of whoever runs this.
#[inline]
pub(crate) fn bury<T>(value: T) {
    let _ = contained(|| drop(value));
}

/// A value of the application that may be dropped anywhere: in a collection of others like it, and while
/// the thread unwinds, where a second panic would abort the process.
pub(crate) struct Guard<T>(
    /// `None` only while it is dropped.
    Option<T>,
);

impl<T> Guard<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes the value, and this is before it")]
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("a guard has a value")
    }
}

impl<T> Deref for Guard<T> {
    type Target = T;

    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "only `drop` takes the value, and nobody looks after that"
    )]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("a guard has a value")
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        bury(self.0.take());
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<[u8]> for Guard<Bytes> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The same bytes, to be kept for later. Bytes may have an owner of the application's, whose drop may panic:
/// [`Bytes::from_owner`].
pub(crate) fn guarded(bytes: Bytes) -> Bytes {
    Bytes::from_owner(Guard::new(bytes))
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
        bury(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// Counts its drops, each of which panics.
    #[derive(Clone, Default)]
    struct Bad(Arc<AtomicU32>);

    impl Drop for Bad {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
            panic!("on purpose");
        }
    }

    impl AsRef<[u8]> for Bad {
        fn as_ref(&self) -> &[u8] {
            b"bad"
        }
    }

    /// Calls `f` while the thread unwinds.
    fn while_unwinding(f: impl FnOnce()) {
        struct OnDrop<F: FnOnce()>(Option<F>);
        impl<F: FnOnce()> Drop for OnDrop<F> {
            fn drop(&mut self) {
                assert!(std::thread::panicking());
                (self.0.take().unwrap())();
            }
        }
        let unwound = contained(|| {
            let _on_drop = OnDrop(Some(f));
            panic!("on purpose");
        });
        assert!(unwound.is_none());
    }

    #[test]
    fn what_a_panic_carries_is_dropped_and_may_panic_again() {
        let drops = Arc::new(AtomicU32::new(0));
        let carried = Bad(Arc::clone(&drops));
        assert!(contained(|| std::panic::panic_any(carried)).is_none());
        assert_eq!((drops.load(Relaxed), Arc::strong_count(&drops)), (1, 1));
    }

    #[test]
    fn values_whose_drop_panics_are_dropped_together_and_while_the_thread_unwinds() {
        let drops = Arc::new(AtomicU32::new(0));
        let bad = || Bad(Arc::clone(&drops));
        let many = || (0..3).map(|_| Guard::new(bad())).collect::<Vec<_>>();
        let bytes = || (0..3).map(|_| guarded(Bytes::from_owner(bad()))).collect::<Vec<_>>();
        drop((many(), bytes()));
        while_unwinding(|| {
            assert_eq!(bytes().concat(), b"badbadbad");
            drop((many(), bytes()));
            bury(bad());
        });
        assert_eq!((drops.load(Relaxed), Arc::strong_count(&drops)), (16, 1));
    }
}
