//! Changes over a model, and what a written checkpoint holds with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Model, Storage, TensorId, encode_chunks};
use crate::packed::{Packed, Spec};
use crate::{DType, Error, Result, ResultExt, Tensor};

/// Changes over an unchanged [`Model`]: what the writers put in place and the runtime runs with. A
/// change may be computed when asked for, so that a large model's changed weights never lie in
/// memory all at once. Tensors can be left out or added only where a checkpoint is written.
#[derive(Clone, Default)]
pub struct Patch {
    tensors: BTreeMap<TensorId, Edit>,
    removed: BTreeSet<TensorId>,
    added: Vec<AddedTensor>,
    /// Metadata whose keys begin so are left out.
    dropped: Option<String>,
}

/// Computes a tensor when asked.
pub type LazyTensor = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Computes a packed tensor when asked.
pub type LazyPacked = Arc<dyn Fn() -> Result<Arc<Packed>> + Send + Sync>;

#[derive(Clone)]
enum Edit {
    Ready(Tensor),
    Lazy(LazyTensor),
    Packed(Spec, LazyPacked),
}

/// A tensor that the model does not have and the written file will.
#[derive(Clone)]
struct AddedTensor {
    path: String,
    dtype: DType,
    shape: Vec<usize>,
    make: LazyTensor,
    /// The tensor it stands behind; the last by default.
    after: Option<TensorId>,
}

impl Patch {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes a tensor; type and shape stay.
    pub fn set(&mut self, id: TensorId, tensor: Tensor) {
        self.tensors.insert(id, Edit::Ready(tensor));
    }

    /// Changes a tensor, computed each time it is asked for.
    pub fn set_lazy(&mut self, id: TensorId, tensor: LazyTensor) {
        self.tensors.insert(id, Edit::Lazy(tensor));
    }

    /// Has a tensor written packed, as `spec` says: formats that know packed tensors then write its parts. It is
    /// computed each time a part is asked for.
    pub fn set_packed(&mut self, id: TensorId, spec: Spec, packed: LazyPacked) {
        self.tensors.insert(id, Edit::Packed(spec, packed));
    }

    /// How a tensor is written packed: as changed to be, or as the model has it and nothing changes it. `None`
    /// where it is written dense.
    pub fn packing(&self, model: &Model, id: TensorId) -> Option<(Spec, LazyPacked)> {
        match self.tensors.get(&id) {
            Some(Edit::Packed(spec, make)) => Some((spec.clone(), make.clone())),
            Some(_) => None,
            None => {
                let packed = model.tensor(id).packed()?.clone();
                Some((packed.spec(), Arc::new(move || Ok(packed.clone()))))
            }
        }
    }

    /// Whether a change makes a packed tensor of a dense one, or the other way round, or packs it anew.
    pub fn repacks(&self, model: &Model, id: TensorId) -> bool {
        let packs = matches!(self.tensors.get(&id), Some(Edit::Packed(..)));
        packs || (self.contains(id) && model.tensor(id).packed().is_some())
    }

    /// Leaves a tensor out of the file.
    pub fn remove(&mut self, id: TensorId) {
        self.removed.insert(id);
    }

    /// Adds a tensor to the file, behind another one where `after` says so; what is added behind the
    /// same tensor keeps its order. Tensors that one `make` makes are tied: they share their elements.
    pub fn add(
        &mut self,
        path: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        after: Option<TensorId>,
        make: LazyTensor,
    ) {
        self.added.push(AddedTensor { path: path.into(), dtype, shape, make, after });
    }

    /// Leaves metadata out whose keys begin with `prefix`.
    pub fn drop_metadata(&mut self, prefix: impl Into<String>) {
        self.dropped = Some(prefix.into());
    }

    /// Whether metadata of a key are left out.
    pub fn drops(&self, key: &str) -> bool {
        self.dropped.as_ref().is_some_and(|prefix| key.starts_with(prefix))
    }

    /// Takes a change back; returns how it would have been computed.
    pub fn take(&mut self, id: TensorId) -> Option<LazyTensor> {
        Some(match self.tensors.remove(&id)? {
            Edit::Ready(tensor) => Arc::new(move || Ok(tensor.clone())),
            Edit::Lazy(make) => make,
            Edit::Packed(_, make) => Arc::new(move || unpacked(&make)),
        })
    }

    /// Changes those tensors as `base` does that are not changed here.
    pub fn fill_from(&mut self, base: &Patch) {
        for (id, edit) in &base.tensors {
            self.tensors.entry(*id).or_insert_with(|| edit.clone());
        }
    }

    /// Changes the other paths of a changed tensor too ([`Model::aliases`]), where nothing else is said of
    /// them.
    pub fn spread(&mut self, model: &Model) {
        for group in model.aliases() {
            if let Some(edit) = group.iter().find_map(|id| self.tensors.get(id)).cloned() {
                for id in group {
                    self.tensors.entry(id).or_insert_with(|| edit.clone());
                }
            }
        }
    }

    /// Whether two patches change a tensor by the same elements or the same closure, or neither changes it.
    pub fn changes_alike(&self, other: &Patch, id: TensorId) -> bool {
        match (self.tensors.get(&id), other.tensors.get(&id)) {
            (None, None) => true,
            (Some(Edit::Ready(a)), Some(Edit::Ready(b))) => std::ptr::eq(a.data(), b.data()),
            (Some(Edit::Lazy(a)), Some(Edit::Lazy(b))) => Arc::ptr_eq(a, b),
            (Some(Edit::Packed(_, a)), Some(Edit::Packed(_, b))) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether a tensor is changed.
    pub fn contains(&self, id: TensorId) -> bool {
        self.tensors.contains_key(&id)
    }

    /// Whether a tensor is left out.
    pub fn removes(&self, id: TensorId) -> bool {
        self.removed.contains(&id)
    }

    /// Whether tensors are left out or added, so that the file's table of tensors changes.
    pub fn is_structural(&self, model: &Model) -> bool {
        !self.removed.is_empty() || !self.added.is_empty() || !self.computed(model).is_empty()
    }

    /// The tensors that are computed from parts and written in their place, each with the first part: all such
    /// of the model where one of them is changed or left out, so that a network has its weights in parts or does
    /// not.
    fn computed(&self, model: &Model) -> Vec<(TensorId, TensorId)> {
        let own = model.source.tensor_count().unwrap_or(model.tensors.len());
        let behind = (0..).map(TensorId).zip(model.tensors.values()).skip(own);
        let all: Vec<(TensorId, TensorId)> =
            behind.filter_map(|(id, stored)| Some((id, *stored.parts().first()?))).collect();
        let touched = |id: TensorId| {
            self.contains(id) || self.removes(id) || self.added.iter().any(|added| added.after == Some(id))
        };
        if all.iter().any(|(id, _)| touched(*id)) { all } else { Vec::new() }
    }

    /// The tensors of the model's files that are not written: those left out, and parts in whose place what is
    /// computed from them stands.
    pub fn omitted(&self, model: &Model) -> BTreeSet<TensorId> {
        let computed = self.computed(model);
        let parts = computed.iter().flat_map(|(id, _)| model.tensor(*id).parts());
        self.removed.iter().chain(parts).copied().collect()
    }

    /// The tensors of the model that are written, those in place of their parts behind the others.
    pub fn written(&self, model: &Model) -> Vec<TensorId> {
        let own = model.source.tensor_count().unwrap_or(model.tensors.len());
        let omitted = self.omitted(model);
        let computed = self.computed(model).into_iter().map(|(id, _)| id);
        (0..own as u32).map(TensorId).chain(computed).filter(|id| !omitted.contains(id)).collect()
    }

    /// The changed tensors' ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.tensors.keys().copied()
    }

    /// The tensor as changed, or as the model has it.
    ///
    /// # Errors
    /// Where it cannot be decoded, or the change has another type or shape than the model's tensor.
    pub fn load(&self, model: &Model, id: TensorId) -> Result<Tensor> {
        let stored = model.tensor(id);
        match self.tensors.get(&id) {
            None => stored.load(),
            Some(Edit::Ready(tensor)) => {
                of_type(tensor.clone(), stored.dtype, &stored.shape).at_tensor(&stored.path)
            }
            Some(Edit::Lazy(make)) => {
                make().and_then(|t| of_type(t, stored.dtype, &stored.shape)).at_tensor(&stored.path)
            }
            Some(Edit::Packed(_, make)) => {
                unpacked(make).and_then(|t| of_type(t, stored.dtype, &stored.shape)).at_tensor(&stored.path)
            }
        }
    }

    /// The tensors that a checkpoint written from the model with these changes holds, in their order;
    /// those that came with a graph from another file are none of them.
    pub fn entries<'a>(&'a self, model: &'a Model) -> Vec<Entry<'a>> {
        // What is added behind a tensor, and the tensor of the file that it is added behind there.
        let added = |after: Option<TensorId>, anchor: Option<TensorId>| {
            self.added.iter().filter(move |a| a.after == after).map(move |a| Entry {
                path: &a.path,
                dtype: a.dtype,
                shape: &a.shape,
                content: Content::Added(&a.make, anchor),
            })
        };
        let of_model = |id: TensorId, content| {
            let stored = model.tensor(id);
            Entry { path: &stored.path, dtype: stored.dtype, shape: &stored.shape, content }
        };
        let mut entries = Vec::new();
        let own = model.source.tensor_count().unwrap_or(model.tensors.len());
        let omitted = self.omitted(model);
        let mut computed: BTreeMap<TensorId, Vec<TensorId>> = BTreeMap::new();
        for (id, first) in self.computed(model) {
            computed.entry(first).or_default().push(id);
        }
        for id in (0..own as u32).map(TensorId) {
            for &whole in computed.get(&id).into_iter().flatten() {
                if !omitted.contains(&whole) {
                    entries.push(of_model(whole, Content::Computed(model, self, whole, id)));
                }
                entries.extend(added(Some(whole), Some(id)));
            }
            if !omitted.contains(&id) {
                entries.push(of_model(id, Content::Model(model, self, id)));
            }
            entries.extend(added(Some(id), Some(id)));
        }
        entries.extend(added(None, None));
        entries
    }
}

fn unpacked(make: &LazyPacked) -> Result<Tensor> {
    let packed = make()?;
    Tensor::from_data(packed.shape(), packed.unpack())
}

fn of_type(tensor: Tensor, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(Error::internal(format!(
            "changed to {} {:?}, expected {dtype} {shape:?}",
            tensor.dtype(),
            tensor.shape(),
        )));
    }
    Ok(tensor)
}

/// For each entry the first that holds the same elements: a tie, which a file is to keep. Entries share
/// elements where the model's tensors do and nothing or one change is made to both, and where one
/// [`LazyTensor`] makes both.
pub(crate) fn ties(entries: &[Entry<'_>]) -> Vec<usize> {
    let mut first = HashMap::new();
    let tie = |(index, entry): (usize, &Entry<'_>)| match entry.byte_len() {
        0 => index,
        _ => *first.entry((entry.elements(), entry.dtype, entry.shape.to_vec())).or_insert(index),
    };
    entries.iter().enumerate().map(tie).collect()
}

/// What makes an entry's elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Elements {
    /// A tensor of the model, by where its elements lie.
    Stored(usize),
    /// A change or an added tensor, by what makes it.
    Made(usize),
}

/// A tensor of a checkpoint that is to be written; see [`Patch::entries`].
pub struct Entry<'a> {
    /// The path.
    pub path: &'a str,
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: &'a [usize],
    content: Content<'a>,
}

enum Content<'a> {
    Model(&'a Model, &'a Patch, TensorId),
    Added(&'a LazyTensor, Option<TensorId>),
    /// In the place of its parts, the first of which is the last id.
    Computed(&'a Model, &'a Patch, TensorId, TensorId),
}

impl Entry<'_> {
    /// The tensor of the model's files that it is; `None` for added ones and those in place of their parts.
    pub fn id(&self) -> Option<TensorId> {
        match self.content {
            Content::Model(_, _, id) => Some(id),
            Content::Added(..) | Content::Computed(..) => None,
        }
    }

    fn elements(&self) -> Elements {
        match self.content {
            Content::Added(make, _) => Elements::Made(Arc::as_ptr(make).addr()),
            Content::Model(model, patch, id) | Content::Computed(model, patch, id, _) => {
                match patch.tensors.get(&id) {
                    None => Elements::Stored(model.tensor(id).storage.address()),
                    Some(Edit::Ready(tensor)) => Elements::Made(std::ptr::from_ref(tensor.data()).addr()),
                    Some(Edit::Lazy(make)) => Elements::Made(Arc::as_ptr(make).addr()),
                    Some(Edit::Packed(_, make)) => Elements::Made(Arc::as_ptr(make).addr()),
                }
            }
        }
    }

    /// The tensor of the model's files that it is, or that it stands behind or in place of.
    pub fn anchor(&self) -> Option<TensorId> {
        match self.content {
            Content::Model(_, _, id) | Content::Computed(_, _, _, id) => Some(id),
            Content::Added(_, after) => after,
        }
    }

    /// How it is written packed; `None` where it is written dense.
    pub fn packing(&self) -> Option<(Spec, LazyPacked)> {
        match self.content {
            Content::Model(model, patch, id) | Content::Computed(model, patch, id, _) => {
                patch.packing(model, id)
            }
            Content::Added(..) => None,
        }
    }

    /// The size in bytes as stored raw.
    pub fn byte_len(&self) -> usize {
        self.dtype.bytes_for(self.shape.iter().product()).unwrap_or(0)
    }

    /// The tensor.
    ///
    /// # Errors
    /// As [`Patch::load`].
    pub fn load(&self) -> Result<Tensor> {
        match self.content {
            Content::Model(model, patch, id) | Content::Computed(model, patch, id, _) => {
                patch.load(model, id)
            }
            Content::Added(make, _) => {
                make().and_then(|t| of_type(t, self.dtype, self.shape)).at_tensor(self.path)
            }
        }
    }

    /// The elements as little-endian bytes, given to `sink` in pieces; bytes of a file that are not
    /// changed are passed on as they are.
    ///
    /// # Errors
    /// As [`Entry::load`], and those of `sink`.
    pub fn write(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if let Content::Model(model, patch, id) = self.content
            && !patch.contains(id)
            && let Storage::Bytes(bytes) = &model.tensor(id).storage
        {
            return sink(bytes);
        }
        encode_chunks(self.load()?.data(), sink).at_tensor(self.path)
    }
}
