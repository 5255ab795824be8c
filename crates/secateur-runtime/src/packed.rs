//! Packed weights that the plans of a session share.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secateur_model::{Result, TensorId};

/// Weights packed for kernels, by what they were packed from and how.
///
/// Plans for several input shapes take the same packed weights from here, and so do plans before and after an
/// update where the weights stay. Keys are 128 bits of keyed hashes, whose keys are drawn at random, so that no model
/// can be made whose layers are taken for each other.
#[derive(Default)]
pub(crate) struct PackedCache {
    hashers: [RandomState; 2],
    entries: Mutex<HashMap<[u64; 2], Entry>>,
}

struct Entry {
    packed: Arc<dyn Any + Send + Sync>,
    /// The model's tensor that was packed, where it was one.
    tensor: Option<TensorId>,
}

impl PackedCache {
    /// What `pack` makes, or what it made for an equal key before. `tensor` is the model's tensor that is packed, if it
    /// is one.
    ///
    /// # Errors
    /// Those of `pack`.
    pub(crate) fn share<T: Any + Send + Sync>(
        &self,
        key: &impl Hash,
        tensor: Option<TensorId>,
        pack: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let key = [0, 1].map(|i| {
            let mut hasher = self.hashers[i].build_hasher();
            TypeId::of::<T>().hash(&mut hasher);
            key.hash(&mut hasher);
            hasher.finish()
        });
        let known = self.lock().get(&key).map(|entry| entry.packed.clone());
        if let Some(packed) = known.and_then(|packed| packed.downcast().ok()) {
            return Ok(packed);
        }
        // Not locked meanwhile: packing waits for threads, which may compile another plan.
        let packed = Arc::new(pack()?);
        self.lock().insert(key, Entry { packed: packed.clone(), tensor });
        Ok(packed)
    }

    /// Drops what was packed from these tensors.
    pub(crate) fn forget(&self, changed: impl Fn(TensorId) -> bool) {
        self.lock().retain(|_, entry| !entry.tensor.is_some_and(&changed));
    }

    /// Drops what no plan uses.
    pub(crate) fn drop_unused(&self) {
        self.lock().retain(|_, entry| Arc::strong_count(&entry.packed) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u64; 2], Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Floats as a part of a key: equal where all bits are.
pub(crate) struct Bits<'a>(pub(crate) &'a [f32]);

impl Hash for Bits<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.0.len());
        let mut bytes = [0; 1024];
        for values in self.0.chunks(bytes.len() / 4) {
            for (to, value) in bytes.chunks_exact_mut(4).zip(values) {
                to.copy_from_slice(&value.to_ne_bytes());
            }
            state.write(&bytes[..4 * values.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_share_until_nobody_uses_them() {
        let cache = PackedCache::default();
        let pack = |key: u32, value: &str, tensor: u32| {
            cache.share(&key, Some(TensorId(tensor)), || Ok(value.to_string())).unwrap()
        };
        let first = pack(1, "a", 0);
        assert!(Arc::ptr_eq(&first, &pack(1, "b", 0)));
        assert_eq!((*pack(2, "c", 1)).as_str(), "c");
        // Another type under an equal key is another entry.
        assert_eq!(*cache.share(&1u32, None, || Ok(7u8)).unwrap(), 7);
        cache.drop_unused();
        assert!(Arc::ptr_eq(&first, &pack(1, "b", 0)));
        assert_eq!((*pack(2, "d", 1)).as_str(), "d");
        cache.forget(|id| id == TensorId(0));
        assert_eq!((*pack(1, "e", 0)).as_str(), "e");
    }

    #[test]
    fn keys_of_floats_differ_by_every_bit() {
        let key = |values: &[f32]| {
            let cache = PackedCache::default();
            let shared = |values: &[f32]| cache.share(&Bits(values), None, || Ok(values.to_vec())).unwrap();
            let first = shared(&[0.0; 300]);
            Arc::ptr_eq(&first, &shared(values))
        };
        assert!(key(&[0.0; 300]));
        let mut other = [0.0; 300];
        other[299] = -0.0;
        assert!(!key(&other) && !key(&[0.0; 299]) && !key(&[0.0; 301]));
    }
}
