//! What a written checkpoint holds with a patch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Edit, LazyPacked, LazyTensor, Patch, of_form};
use crate::model::{Model, Storage, TensorId, encode_chunks};
use crate::packed::Spec;
use crate::{DType, Result, ResultExt, Tensor};

impl Patch {
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
            let (dtype, shape) = self.form(model, id);
            Entry { path: self.path_of(model, id), dtype, shape, content }
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
                    entries.push(of_model(whole, Content::InPlaceOf(model, self, whole, id)));
                }
                entries.extend(added(Some(whole), Some(id)));
            }
            if !omitted.contains(&id) {
                let content = match self.rewrites(model, id) {
                    true => Content::InPlaceOf(model, self, id, id),
                    false => Content::Model(model, self, id),
                };
                entries.push(of_model(id, content));
            }
            entries.extend(added(Some(id), Some(id)));
        }
        entries.extend(added(None, None));
        entries
    }

    /// The tensors of the model's files that are not written as they are there: [`Patch::omitted`], and those that
    /// get another path, type or shape.
    pub(crate) fn superseded(&self, model: &Model) -> BTreeSet<TensorId> {
        let mut ids = self.omitted(model);
        ids.extend(self.renamed.keys().copied().chain(self.ids()).filter(|&id| self.rewrites(model, id)));
        ids
    }
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
    /// A tensor of the model, by the address of its elements.
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
    /// A tensor in the place of another one of the files: of the first of its parts, or of itself in another form.
    InPlaceOf(&'a Model, &'a Patch, TensorId, TensorId),
}

impl Entry<'_> {
    /// The tensor of the model's files that it is; `None` for added ones and those in another form than there.
    pub fn id(&self) -> Option<TensorId> {
        match self.content {
            Content::Model(_, _, id) => Some(id),
            Content::Added(..) | Content::InPlaceOf(..) => None,
        }
    }

    fn elements(&self) -> Elements {
        match self.content {
            Content::Added(make, _) => Elements::Made(Arc::as_ptr(make).addr()),
            Content::Model(model, patch, id) | Content::InPlaceOf(model, patch, id, _) => {
                match patch.tensors.get(&id).map(|change| &change.edit) {
                    None => Elements::Stored(model.tensor(id).storage.address()),
                    Some(Edit::Ready(tensor)) => Elements::Made(std::ptr::from_ref(tensor.data()).addr()),
                    Some(Edit::Lazy(make)) => Elements::Made(Arc::as_ptr(make).addr()),
                    Some(Edit::Packed(_, make)) => Elements::Made(Arc::as_ptr(make).addr()),
                }
            }
        }
    }

    /// The tensor of the model's files that it is, or that it follows or replaces.
    pub fn anchor(&self) -> Option<TensorId> {
        match self.content {
            Content::Model(_, _, id) | Content::InPlaceOf(_, _, _, id) => Some(id),
            Content::Added(_, after) => after,
        }
    }

    /// The tensor of the model that it is, in whatever form; `None` for added ones.
    pub(crate) fn tensor(&self) -> Option<TensorId> {
        match self.content {
            Content::Model(_, _, id) | Content::InPlaceOf(_, _, id, _) => Some(id),
            Content::Added(..) => None,
        }
    }

    /// How it is written packed; `None` where it is written dense.
    pub fn packing(&self) -> Option<(Spec, LazyPacked)> {
        match self.content {
            Content::Model(model, patch, id) | Content::InPlaceOf(model, patch, id, _) => {
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
            Content::Model(model, patch, id) | Content::InPlaceOf(model, patch, id, _) => {
                patch.load(model, id)
            }
            Content::Added(make, _) => {
                make().and_then(|t| of_form(t, self.dtype, self.shape)).at_tensor(self.path)
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
