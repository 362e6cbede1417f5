//! What an application remembers of a connection: one value of each type.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::unwind::bury;

type Values = FxHashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Allocates only for connections that use it.
#[derive(Debug, Default)]
pub(crate) struct Properties(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    values: Option<Box<Values>>,
    /// The connection has ended: nothing is remembered any more.
    ended: bool,
}

impl Properties {
    pub(crate) fn set<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        let value: Arc<T> = Arc::new(value);
        let mut state = self.lock();
        if state.ended {
            // The value is dropped when the lock is free: that is code of the application.
            drop(state);
            return None;
        }
        state.values.get_or_insert_default().insert(TypeId::of::<T>(), value).and_then(typed)
    }

    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.lock().values.as_ref()?.get(&TypeId::of::<T>()).cloned().and_then(typed)
    }

    pub(crate) fn remove<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.lock().values.as_mut()?.remove(&TypeId::of::<T>()).and_then(typed)
    }

    /// Forgets all values, for good.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let values = state.values.take();
        drop(state);
        bury_all(values);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of the application runs under the lock, and nothing in it panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Properties {
    /// Of a connection that never had an actor.
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        bury_all(state.values.take());
    }
}

fn bury_all(values: Option<Box<Values>>) {
    let Some(values) = values else { return };
    for (_, value) in *values {
        bury(value);
    }
}

fn typed<T: Any + Send + Sync>(value: Arc<dyn Any + Send + Sync>) -> Option<Arc<T>> {
    value.downcast().ok()
}
