//! Packed tensors between the writing of one part and the next.

use std::collections::HashMap;
use std::sync::Arc;

use super::Packed;
use crate::model::LazyPacked;
use crate::{Result, TensorId};

/// Packed tensors that were made for one of their parts and are kept for the others. Where they become too many,
/// all but the last go: in a file that has the parts of a tensor one behind the other each is still made once.
#[derive(Default)]
pub(crate) struct PackedCache {
    tensors: HashMap<TensorId, Arc<Packed>>,
    bytes: usize,
}

impl PackedCache {
    /// The most that is kept, in bytes.
    const MOST: usize = 512 << 20;

    /// The tensor, made where it is not there.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn get(&mut self, id: TensorId, make: &LazyPacked) -> Result<Arc<Packed>> {
        if let Some(packed) = self.tensors.get(&id) {
            return Ok(packed.clone());
        }
        if self.bytes > Self::MOST {
            *self = PackedCache::default();
        }
        let packed = make()?;
        self.bytes += packed.byte_len();
        self.tensors.insert(id, packed.clone());
        Ok(packed)
    }
}
