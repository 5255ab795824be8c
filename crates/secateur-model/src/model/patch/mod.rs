//! Changes over a model: tensors and, where it has a graph, nodes. [`Patch::apply`] gives the changed model; the
//! writers splice the same patch into the bytes of the source.

mod apply;
mod check;
mod entries;
mod graph;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

pub(crate) use self::apply::{Applied, AppliedGraph};
pub use self::entries::Entry;
pub(crate) use self::entries::ties;
use self::graph::GraphChanges;
pub use self::graph::GraphPath;
use super::{Model, TensorId};
use crate::packed::{Packed, Spec};
use crate::tensor::checked_len;
use crate::{DType, Error, Result, ResultExt, Tensor};

/// Changes over an unchanged [`Model`]: what the writers splice into its file and the runtime runs with. Elements may
/// be computed on demand, so that the changed weights of a large model are never in memory all at once.
///
/// Ids are those of the model, or of what the patch added. Nothing is checked before [`Patch::apply`], which
/// checks the whole.
#[derive(Clone, Default)]
pub struct Patch {
    /// The rule that makes the changes from here on.
    rule: Rule,
    tensors: BTreeMap<TensorId, Change>,
    removed: BTreeMap<TensorId, Rule>,
    renamed: BTreeMap<TensorId, String>,
    added: Vec<AddedTensor>,
    /// The graph that changes of nodes and values belong to from here on.
    path: GraphPath,
    graphs: BTreeMap<GraphPath, GraphChanges>,
    /// The names of the model's values and of those that are added, once they are needed.
    names: HashSet<String>,
    /// Metadata whose keys begin so are left out.
    dropped: Option<String>,
}

/// The name of what made a change, for messages.
type Rule = Option<Arc<str>>;

/// Computes a tensor when asked.
pub type LazyTensor = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Computes a packed tensor when asked.
pub type LazyPacked = Arc<dyn Fn() -> Result<Arc<Packed>> + Send + Sync>;

/// A tensor of the model with other elements.
#[derive(Clone)]
struct Change {
    edit: Edit,
    /// The type and shape, where they are not the model's.
    form: Option<(DType, Vec<usize>)>,
    rule: Rule,
}

/// Where a changed tensor's elements come from.
#[derive(Clone)]
enum Edit {
    Ready(Tensor),
    Lazy(LazyTensor),
    Packed(Spec, LazyPacked),
}

/// A tensor that the model does not have and the patched one will.
#[derive(Clone)]
struct AddedTensor {
    path: String,
    dtype: DType,
    shape: Vec<usize>,
    make: LazyTensor,
    /// The tensor behind which it is written; the last by default.
    after: Option<TensorId>,
    rule: Rule,
}

impl Patch {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// No changes; those to come are made by `rule`, which errors name.
    pub fn by(rule: &str) -> Self {
        let mut patch = Self::default();
        patch.set_rule(rule);
        patch
    }

    /// Names the rule that makes the changes from here on.
    pub fn set_rule(&mut self, rule: &str) {
        self.rule = Some(rule.into());
    }

    fn change(&mut self, id: TensorId, edit: Edit, form: Option<(DType, Vec<usize>)>) {
        self.tensors.insert(id, Change { edit, form, rule: self.rule.clone() });
    }

    /// Changes a tensor; type and shape stay.
    pub fn set(&mut self, id: TensorId, tensor: Tensor) {
        self.change(id, Edit::Ready(tensor), None);
    }

    /// Changes a tensor, computed each time it is loaded; type and shape stay.
    pub fn set_lazy(&mut self, id: TensorId, tensor: LazyTensor) {
        self.change(id, Edit::Lazy(tensor), None);
    }

    /// Replaces a tensor by one of any type and shape.
    pub fn replace(&mut self, id: TensorId, tensor: Tensor) {
        let form = Some((tensor.dtype(), tensor.shape().to_vec()));
        self.change(id, Edit::Ready(tensor), form);
    }

    /// Replaces a tensor by one of any type and shape, computed each time it is loaded.
    pub fn replace_lazy(&mut self, id: TensorId, dtype: DType, shape: Vec<usize>, tensor: LazyTensor) {
        self.change(id, Edit::Lazy(tensor), Some((dtype, shape)));
    }

    /// Gives a tensor of a checkpoint another path.
    pub fn rename(&mut self, id: TensorId, path: impl Into<String>) {
        self.renamed.insert(id, path.into());
    }

    /// The type and shape of a tensor with the changes.
    pub fn form<'a>(&'a self, model: &'a Model, id: TensorId) -> (DType, &'a [usize]) {
        match self.tensors.get(&id).and_then(|change| change.form.as_ref()) {
            Some((dtype, shape)) => (*dtype, shape),
            None => (model.tensor(id).dtype, &model.tensor(id).shape),
        }
    }

    /// Whether a tensor gets another type or shape.
    pub fn reforms(&self, model: &Model, id: TensorId) -> bool {
        self.form(model, id) != (model.tensor(id).dtype, &model.tensor(id).shape[..])
    }

    /// The size of a tensor with the changes, in bytes as stored raw.
    pub(crate) fn byte_len(&self, model: &Model, id: TensorId) -> usize {
        let (dtype, shape) = self.form(model, id);
        checked_len(shape).and_then(|len| dtype.bytes_for(len)).unwrap_or(0)
    }

    /// The path of a tensor with the changes.
    fn path_of<'a>(&'a self, model: &'a Model, id: TensorId) -> &'a str {
        self.renamed.get(&id).map_or(&model.tensor(id).path, |path| path)
    }

    /// Has a tensor written packed, as `spec` says: formats that know packed tensors then write its parts. It is
    /// computed each time a part is written.
    pub fn set_packed(&mut self, id: TensorId, spec: Spec, packed: LazyPacked) {
        self.change(id, Edit::Packed(spec, packed), None);
    }

    /// How a tensor is written packed: as changed to be, or as the model has it and nothing changes it. `None`
    /// where it is written dense.
    pub fn packing(&self, model: &Model, id: TensorId) -> Option<(Spec, LazyPacked)> {
        match self.tensors.get(&id).map(|change| &change.edit) {
            Some(Edit::Packed(spec, make)) => Some((spec.clone(), make.clone())),
            Some(_) => None,
            None => {
                let packed = model.tensor(id).packed()?.clone();
                Some((packed.spec(), Arc::new(move || Ok(packed.clone()))))
            }
        }
    }

    /// Whether a change packs or expands a tensor, or packs it in another way.
    pub fn repacks(&self, model: &Model, id: TensorId) -> bool {
        let packs = matches!(self.tensors.get(&id), Some(Change { edit: Edit::Packed(..), .. }));
        packs || (self.contains(id) && model.tensor(id).packed().is_some())
    }

    /// Leaves a tensor out.
    pub fn remove(&mut self, id: TensorId) {
        self.removed.insert(id, self.rule.clone());
    }

    /// Adds a tensor to a checkpoint, behind another one where `after` says so; what is added behind the
    /// same tensor keeps its order. Tensors that one `make` makes are tied: they share their elements.
    pub fn add(
        &mut self,
        path: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        after: Option<TensorId>,
        make: LazyTensor,
    ) {
        self.added.push(AddedTensor {
            path: path.into(),
            dtype,
            shape,
            make,
            after,
            rule: self.rule.clone(),
        });
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
        Some(match self.tensors.remove(&id)?.edit {
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

    /// Changes the other paths of a changed tensor too ([`Model::aliases`]), unless the patch changes
    /// them otherwise.
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
        let edit = |patch: &Patch| patch.tensors.get(&id).map(|change| change.edit.clone());
        match (edit(self), edit(other)) {
            (None, None) => true,
            (Some(Edit::Ready(a)), Some(Edit::Ready(b))) => std::ptr::eq(a.data(), b.data()),
            (Some(Edit::Lazy(a)), Some(Edit::Lazy(b))) => Arc::ptr_eq(&a, &b),
            (Some(Edit::Packed(_, a)), Some(Edit::Packed(_, b))) => Arc::ptr_eq(&a, &b),
            _ => false,
        }
    }

    /// Whether a tensor is changed.
    pub fn contains(&self, id: TensorId) -> bool {
        self.tensors.contains_key(&id)
    }

    /// The tensors that get another path.
    pub(crate) fn renamed_ids(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.renamed.keys().copied()
    }

    /// How many tensors are added.
    pub(crate) fn added_count(&self) -> usize {
        self.added.len()
    }

    /// The tensors that are left out.
    pub(crate) fn removed_ids(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.removed.keys().copied()
    }

    /// Whether a tensor is left out.
    pub fn removes(&self, id: TensorId) -> bool {
        self.removed.contains_key(&id)
    }

    /// Whether more than elements change: tensors left out, added, renamed or of another type or shape; nodes.
    pub fn is_structural(&self, model: &Model) -> bool {
        let mut ids = self.ids();
        !self.removed.is_empty()
            || !self.added.is_empty()
            || !self.renamed.is_empty()
            || self.changes_graph()
            || ids.any(|id| self.reforms(model, id))
            || !self.computed(model).is_empty()
    }

    /// Whether a tensor is written in another form than it is read: under another path, or of another type or shape.
    fn rewrites(&self, model: &Model, id: TensorId) -> bool {
        self.renamed.contains_key(&id) || self.reforms(model, id)
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
    /// computed from them is written.
    pub fn omitted(&self, model: &Model) -> BTreeSet<TensorId> {
        let computed = self.computed(model);
        let parts = computed.iter().flat_map(|(id, _)| model.tensor(*id).parts());
        self.removed.keys().chain(parts).copied().collect()
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
    /// Where it cannot be decoded, or the change has another type or shape than it was given with.
    pub fn load(&self, model: &Model, id: TensorId) -> Result<Tensor> {
        let stored = model.tensor(id);
        let Some(change) = self.tensors.get(&id) else { return stored.load() };
        let tensor = match &change.edit {
            Edit::Ready(tensor) => Ok(tensor.clone()),
            Edit::Lazy(make) => make(),
            Edit::Packed(_, make) => unpacked(make),
        };
        let (dtype, shape) = self.form(model, id);
        tensor.and_then(|tensor| of_form(tensor, dtype, shape)).at_tensor(&stored.path)
    }
}

fn unpacked(make: &LazyPacked) -> Result<Tensor> {
    let packed = make()?;
    Tensor::from_data(packed.shape(), packed.unpack())
}

/// The tensor, where it has this type and shape.
pub(super) fn of_form(tensor: Tensor, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(Error::internal(format!(
            "changed to {} {:?}, expected {dtype} {shape:?}",
            tensor.dtype(),
            tensor.shape(),
        )));
    }
    Ok(tensor)
}
