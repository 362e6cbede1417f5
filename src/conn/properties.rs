//! What an application remembers of a connection: one value of each type.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

type Values = FxHashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Allocates only for connections that use it.
#[derive(Debug, Default)]
pub(crate) struct Properties(Mutex<Option<Box<Values>>>);

impl Properties {
    pub(crate) fn set<T: Any + Send + Sync>(&self, value: T) -> Option<Arc<T>> {
        self.with(|values| {
            let values = values.get_or_insert_default();
            values.insert(TypeId::of::<T>(), Arc::new(value)).and_then(typed)
        })
    }

    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.with(|values| values.as_ref()?.get(&TypeId::of::<T>()).cloned().and_then(typed))
    }

    pub(crate) fn remove<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.with(|values| values.as_mut()?.remove(&TypeId::of::<T>()).and_then(typed))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Option<Box<Values>>) -> R) -> R {
        // No user code runs under the lock, so a poisoned one holds a whole value all the same.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn typed<T: Any + Send + Sync>(value: Arc<dyn Any + Send + Sync>) -> Option<Arc<T>> {
    value.downcast().ok()
}
