use crate::ops::KvCache;
use crate::{Real, Tensor};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// State of a causal network over the positions it has seen, so that a sequence can be run in parts, token by token:
/// the keys and values of attention, the states of recurrent layers. Outside the tape.
#[derive(Debug, Default)]
pub struct Cache<T>(Mutex<Kept<T>>);

#[derive(Debug, Default)]
pub(super) struct Kept<T> {
    seen: usize,
    batch: usize,
    /// Of attention, by the index of the layer's first parameter.
    pub keys: BTreeMap<usize, KvCache<T>>,
    /// Of recurrent layers, by the same.
    pub states: BTreeMap<usize, Vec<Tensor<T>>>,
}

impl<T: Real> Cache<T> {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Positions seen.
    pub fn seen(&self) -> usize {
        self.lock().seen
    }

    /// Batch size it belongs to; zero before the first pass.
    pub fn batch(&self) -> usize {
        self.lock().batch
    }

    pub(crate) fn advance(&self, batch: usize, positions: usize) {
        let mut kept = self.lock();
        (kept.batch, kept.seen) = (batch, kept.seen + positions);
    }
}
