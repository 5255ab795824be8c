//! The weights that a session runs with.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use secateur_kernels::permute;
use secateur_model::ops::{Fact, Stored};
use secateur_model::{DType, Error, Model, Patch, Result, Tensor, TensorId};

use crate::costs::Costs;
use crate::limits::Limits;
use crate::packed::{Bits, PackedCache};

/// The weights a session runs with: the model's, with changes laid over them; and how it compiles plans.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) model: Arc<Model>,
    patch: Patch,
    /// Whether nodes are fused.
    pub(crate) fuse: bool,
    /// What kernels are chosen by.
    pub(crate) costs: Costs,
    /// What a run may take.
    pub(crate) limits: Limits,
    /// Packed weights that plans share.
    pub(crate) packed: Arc<PackedCache>,
    /// By tensor: the update that changed it last.
    versions: HashMap<TensorId, u64>,
}

impl Weights {
    pub(crate) fn new(model: Arc<Model>, patch: Patch, fuse: bool, costs: Costs) -> Self {
        let (limits, packed, versions) = (Limits::of_machine(), Arc::default(), HashMap::new());
        Weights { model, patch, fuse, costs, limits, packed, versions }
    }

    /// Whether a patch changes nothing of a model's graph but elements of its tensors.
    pub(crate) fn are_elements(patch: &Patch, model: &Model) -> bool {
        !patch.changes_graph() && !patch.ids().any(|id| patch.reforms(model, id))
    }

    /// With another patch in place of the one so far; what was packed from tensors that it changes is dropped.
    pub(crate) fn updated(&self, patch: Patch) -> Self {
        // Sessions that share packed weights may part: no two updates have the same number.
        static UPDATES: AtomicU64 = AtomicU64::new(1);
        let update = UPDATES.fetch_add(1, Ordering::Relaxed);
        let mut versions = self.versions.clone();
        let ids = self.patch.ids().chain(patch.ids());
        versions.extend(ids.filter(|&id| !self.patch.changes_alike(&patch, id)).map(|id| (id, update)));
        self.packed.forget(|id| versions.get(&id) == Some(&update));
        Weights { patch, versions, ..self.clone() }
    }

    /// With other bounds on a run.
    pub(crate) fn within(&self, limits: Limits) -> Self {
        Weights { limits, ..self.clone() }
    }

    pub(crate) fn load(&self, id: TensorId) -> Result<Tensor> {
        self.patch.load(&self.model, id)
    }

    /// The elements of a constant, loaded where they are not.
    ///
    /// # Errors
    /// Where they cannot be loaded; `Internal` where the value is no constant.
    pub(crate) fn elements(&self, constant: &Fact) -> Result<Tensor> {
        match (&constant.value, constant.stored) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(Stored { tensor, transposed: false })) => self.load(tensor),
            (None, Some(Stored { tensor, transposed: true })) => transposed(&self.load(tensor)?),
            (None, None) => Err(Error::internal("a computed value was taken for a constant")),
        }
    }

    /// The element type of the values that a constant is packed with, where it is stored so.
    pub(crate) fn packed_type(&self, constant: &Fact) -> Option<DType> {
        let (spec, _) = self.patch.packing(&self.model, constant.stored?.tensor)?;
        Some(spec.value_type)
    }

    /// Something packed from a constant of f32, shared with all who pack it alike: where `how` is equal.
    ///
    /// # Errors
    /// Those of `pack`; `Internal` where the value is no constant of f32.
    pub(crate) fn share<T: Send + Sync + 'static>(
        &self,
        constant: &Fact,
        how: impl Hash,
        pack: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let tensor = constant.stored.map(|stored| stored.tensor);
        let elements = match (&constant.value, constant.stored) {
            (Some(value), _) => Elements::Loaded(value.shape(), Bits(value.values()?)),
            (None, Some(Stored { tensor, transposed })) => {
                let version = self.versions.get(&tensor).copied().unwrap_or(0);
                Elements::Stored { tensor, version, transposed }
            }
            (None, None) => return Err(Error::internal("a computed value was taken for a constant")),
        };
        self.packed.share(&(elements, how), tensor, pack)
    }
}

/// The elements of a constant as a part of a key.
#[derive(Hash)]
enum Elements<'a> {
    /// Those of the model's tensor after an update.
    Stored { tensor: TensorId, version: u64, transposed: bool },
    /// These, whatever they were computed from.
    Loaded(&'a [usize], Bits<'a>),
}

/// The transpose of a matrix of f32.
pub(crate) fn transposed(matrix: &Tensor) -> Result<Tensor> {
    let shape = matrix.shape();
    let mut transposed = vec![0f32; matrix.len()];
    permute(matrix.values()?, shape, &[1, 0], &mut transposed);
    Tensor::new([shape[1], shape[0]], transposed)
}
