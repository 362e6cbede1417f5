//! For tests: a layer whose handshakes do not end.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Boxed, Failed, Layer, Local, Peer};
use crate::connection::ReadPool;

/// Shakes hands with nobody, and counts who wants to.
#[derive(Default)]
pub(crate) struct Never {
    pub(crate) asked: AtomicUsize,
    pub(crate) refuses: bool,
}

impl Layer for Never {
    fn shake_hands<'a>(
        &'a self,
        _: Boxed,
        _: Peer<'a>,
        _: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn refuses(&self) -> bool {
        self.refuses
    }
}
