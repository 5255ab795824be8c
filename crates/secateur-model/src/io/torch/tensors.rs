//! Storages, and the tensors that are views of them.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use indexmap::IndexMap;

use super::globals::{self, Known, StorageClass};
use super::value::{Id, Value, Values};
use crate::tensor::{checked_len, strides};
use crate::{DType, Error, Result, ResultExt};

/// The most dimensions of a tensor; PyTorch's own limit for most of its operators.
const MOST_DIMENSIONS: usize = 64;

/// Bytes that tensors look into.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// The bytes, all that the file has for it.
    pub(super) bytes: Bytes,
    /// Where they stand in the file; `None` where they are compressed there.
    pub(super) place: Option<Range<usize>>,
}

/// What a persistent id says of a storage.
pub(super) struct StorageId<'a> {
    pub(super) key: &'a str,
    pub(super) class: StorageClass,
    pub(super) elements: usize,
    /// A part of the storage that is one of its own: first element and number of elements. Files of
    /// PyTorch before 0.4 have such.
    pub(super) part: Option<(usize, usize)>,
}

/// A storage as a persistent id refers to it.
#[derive(Clone, Debug)]
struct Reference {
    storage: usize,
    class: StorageClass,
    /// The bytes of the storage that it is.
    range: Range<usize>,
}

/// All storages of a file, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Storages {
    by_key: IndexMap<String, Storage>,
    references: HashMap<Id, Reference>,
}

impl Storages {
    /// Collects the storages that the persistent ids among the values refer to; `find` gives each key's
    /// bytes once.
    ///
    /// # Errors
    /// `Input` where an id is malformed or claims more than its storage holds; `Unsupported` where it
    /// belongs to a whole model; those of `find`.
    pub(super) fn collect(
        values: &Values,
        mut find: impl FnMut(&StorageId<'_>) -> Result<Storage>,
    ) -> Result<Self> {
        let mut storages = Self::default();
        for (id, value) in values.iter() {
            let Value::Persistent(said) = value else { continue };
            let said = storage_id(values, *said)?;
            let index = match storages.by_key.get_index_of(said.key) {
                Some(index) => index,
                None => {
                    let storage = find(&said).at(|| format!("storage `{}`", said.key))?;
                    storages.by_key.insert_full(said.key.to_string(), storage).0
                }
            };
            let held = storages.by_key[index].bytes.len();
            let whole = said.elements.checked_mul(said.class.size).filter(|&bytes| bytes <= held);
            let range = whole.and_then(|whole| match said.part {
                None => Some(0..whole),
                Some((first, count)) => {
                    let start = first.checked_mul(said.class.size)?;
                    let end = start.checked_add(count.checked_mul(said.class.size)?)?;
                    (end <= whole).then_some(start..end)
                }
            });
            let Some(range) = range else {
                let message = format!(
                    "{} elements of {} bytes, or a part beyond them, are claimed, but the file holds {held} bytes",
                    said.elements, said.class.size
                );
                return Err(Error::input(message).at(format!("storage `{}`", said.key)));
            };
            storages.references.insert(id, Reference { storage: index, class: said.class, range });
        }
        Ok(storages)
    }

    pub(super) fn get(&self, index: usize) -> &Storage {
        &self.by_key[index]
    }

    pub(super) fn key(&self, index: usize) -> &str {
        self.by_key.get_index(index).map_or("", |(key, _)| key)
    }

    /// The storage that a persistent value refers to.
    pub(super) fn referred(&self, id: Id) -> Option<usize> {
        self.references.get(&id).map(|reference| reference.storage)
    }
}

/// What a persistent id says.
///
/// # Errors
/// As [`Storages::collect`].
pub(super) fn storage_id(values: &Values, id: Id) -> Result<StorageId<'_>> {
    let malformed = || Error::input("the pickle refers to a storage in a way that PyTorch does not");
    let parts = values.tuple(id).ok_or_else(malformed)?;
    match parts.first().and_then(|&tag| values.text(tag)) {
        Some("storage") => {}
        Some("module") => {
            let class = parts.get(1).and_then(|&class| values.global(class));
            let name =
                class.map_or_else(|| "a module".to_string(), |(module, name)| format!("`{module}.{name}`"));
            return Err(super::pickle::foreign(&name));
        }
        _ => return Err(malformed()),
    }
    let (&[_, class, key, _, elements], rest) = parts.split_first_chunk::<5>().ok_or_else(malformed)?;
    let (module, name) = values.global(class).ok_or_else(malformed)?;
    let class = globals::storage_class(module, name).ok_or_else(|| {
        Error::unsupported(format!("the class of storages `{module}.{name}` is not known here"))
    })?;
    let count = |id| values.int(id).and_then(|n| usize::try_from(n).ok());
    let part = match rest.first().map(|&part| (part, values.get(part))) {
        None | Some((_, Value::None)) => None,
        Some((part, _)) => match values.tuple(part) {
            Some(&[_, first, length]) => Some(count(first).zip(count(length)).ok_or_else(malformed)?),
            _ => return Err(malformed()),
        },
    };
    Ok(StorageId {
        key: values.text(key).ok_or_else(malformed)?,
        class,
        elements: count(elements).ok_or_else(malformed)?,
        part,
    })
}

/// A tensor as a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    /// The index of the storage.
    pub(super) storage: usize,
    pub(super) dtype: DType,
    /// Whether the elements are those of a quantised tensor, to which scales belong.
    pub(super) quantised: bool,
    pub(super) shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    /// Where in the storage the first element begins, in bytes.
    start: usize,
    /// The bytes of the storage from the first element's to behind the last one's.
    pub(super) extent: Range<usize>,
}

impl View {
    /// Whether the elements stand one behind the other, row-major.
    pub(super) fn is_contiguous(&self) -> bool {
        self.extent.is_empty()
            || strides(&self.shape)
                .iter()
                .zip(&self.strides)
                .zip(&self.shape)
                .all(|((expected, stride), &size)| size == 1 || expected == stride)
    }

    pub(super) fn byte_len(&self) -> Option<usize> {
        checked_len(&self.shape).and_then(|n| self.dtype.bytes_for(n))
    }

    /// The elements, row-major, from the bytes of the storage.
    pub(super) fn gather(&self, storage: &[u8]) -> Vec<u8> {
        if self.is_contiguous() {
            return storage[self.extent.clone()].to_vec();
        }
        let size = self.dtype.bits() / 8;
        let mut elements = Vec::with_capacity(self.byte_len().unwrap_or(0));
        self.for_each(|at| elements.extend_from_slice(&storage[at..at + size]));
        elements
    }

    /// Puts elements, row-major, into the bytes of the storage.
    pub(super) fn scatter(&self, elements: &[u8], storage: &mut [u8]) {
        if self.is_contiguous() {
            return storage[self.extent.clone()].copy_from_slice(elements);
        }
        let size = self.dtype.bits() / 8;
        let mut elements = elements.chunks_exact(size);
        self.for_each(|at| {
            if let Some(element) = elements.next() {
                storage[at..at + size].copy_from_slice(element);
            }
        });
    }

    /// The place of each element in the storage, in bytes, row-major.
    fn for_each(&self, mut visit: impl FnMut(usize)) {
        let size = self.dtype.bits() / 8;
        if self.extent.is_empty() {
            return;
        }
        let mut index = vec![0; self.shape.len()];
        let mut at = self.start;
        loop {
            visit(at);
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                at += self.strides[axis] * size;
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * size * self.shape[axis];
                index[axis] = 0;
            }
        }
    }
}

/// Whether a value is a tensor, of whatever kind.
pub(super) fn is_tensor(values: &Values, id: Id) -> bool {
    match values.get(id) {
        Value::Object(object) => matches!(
            values.known(object.call),
            Some(Known::Tensor | Known::Quantised | Known::Parameter | Known::Typed | Known::OtherTensor(_))
        ),
        _ => false,
    }
}

/// The view that a value which [`is_tensor`] stands for.
///
/// # Errors
/// `Unsupported` for tensors that are no plain arrays; `Input` where its parts do not fit or it reaches
/// beyond its storage.
pub(super) fn view(values: &Values, storages: &Storages, id: Id) -> Result<View> {
    let (call, args) = rebuild_call(values, id)?;
    let &[storage, offset, size, stride, ref rest @ ..] = args else { return Err(malformed()) };
    let reference = storages.references.get(&storage).ok_or_else(malformed)?;
    let quantised = values.known(call) == Some(Known::Quantised);
    let third = values.global(call).is_some_and(|(_, name)| name == "_rebuild_tensor_v3");
    let class = &reference.class;
    let (dtype, flags) = if third {
        let said = rest.get(2).and_then(|&dtype| values.global(dtype)).ok_or_else(malformed)?;
        let dtype = globals::dtype(said.0, said.1);
        (dtype.ok_or_else(|| unknown_type(&format!("{}.{}", said.0, said.1)))?, rest.get(3))
    } else if quantised {
        (globals::quantised(class.name).ok_or_else(|| unknown_type(class.name))?, None)
    } else {
        (class.dtype.ok_or_else(|| unknown_type(class.name))?, rest.get(2))
    };
    if flags.and_then(|&flags| values.entries(flags)).is_some_and(|entries| !entries.is_empty()) {
        return Err(Error::unsupported(
            "is stored conjugated or negated (`.conj()`, `.neg()`); store `.resolve_conj()` or `.resolve_neg()`",
        ));
    }
    let offset = values.int(offset).and_then(|n| usize::try_from(n).ok());
    let (Some(offset), Some(shape), Some(strides)) = (offset, counts(values, size), counts(values, stride))
    else {
        return Err(Error::input("has an offset, a size or a stride that is no number from 0 up"));
    };
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        let message =
            format!("has {} sizes and {} strides, at most {MOST_DIMENSIONS}", shape.len(), strides.len());
        return Err(Error::input(message));
    }
    let extent = match shape.contains(&0) {
        true => 0..0,
        false => extent(&reference.range, dtype, offset, &shape, &strides).ok_or_else(|| {
            let message = format!(
                "offset {offset}, sizes {shape:?} and strides {strides:?} reach beyond its storage of {} bytes",
                reference.range.len()
            );
            Error::input(message)
        })?,
    };
    Ok(View { storage: reference.storage, dtype, quantised, shape, strides, start: extent.start, extent })
}

fn malformed() -> Error {
    Error::input("is not put together as PyTorch does it")
}

/// The call that makes a tensor of a storage, and its arguments, without the parameters and typed tensors around it.
fn rebuild_call(values: &Values, id: Id) -> Result<(Id, &[Id])> {
    let Value::Object(object) = values.get(id) else { return Err(malformed()) };
    let (mut call, mut args) = (object.call, values.tuple(object.args).ok_or_else(malformed)?);
    // Each step goes to values made before, so there is an end.
    loop {
        match values.known(call) {
            Some(Known::Tensor) => break,
            Some(Known::Parameter) => {
                let inner = *args.first().ok_or_else(malformed)?;
                let Value::Object(inner) = values.get(inner) else { return Err(malformed()) };
                (call, args) = (inner.call, values.tuple(inner.args).ok_or_else(malformed)?);
            }
            Some(Known::Typed) => {
                let &[function, class, inner, ..] = args else { return Err(malformed()) };
                match values.global(class) {
                    Some(("torch", "Tensor") | ("torch._tensor", "Tensor"))
                    | Some(("torch.nn.parameter", "Parameter" | "Buffer")) => {}
                    Some((module, name)) => {
                        let message =
                            format!("is a tensor of the class `{module}.{name}`, which is not read");
                        return Err(Error::unsupported(message));
                    }
                    None => return Err(malformed()),
                }
                (call, args) = (function, values.tuple(inner).ok_or_else(malformed)?);
            }
            Some(Known::Quantised) => break,
            Some(Known::OtherTensor(what)) => {
                let message = format!(
                    "is {what}, which is not read; store it as a plain one (`.dequantize()`, `.to_dense()`)"
                );
                return Err(Error::unsupported(message));
            }
            _ => return Err(malformed()),
        }
    }
    Ok((call, args))
}

/// The numbers of a tuple, a list, or `torch.Size` around either.
fn counts(values: &Values, id: Id) -> Option<Vec<usize>> {
    let list = match values.get(id) {
        Value::Tuple(items) => &items[..],
        Value::List(items) => items,
        Value::Object(object) => match values.tuple(object.args) {
            Some(&[inner]) => values.tuple(inner)?,
            _ => return None,
        },
        _ => return None,
    };
    list.iter().map(|&n| values.int(n).and_then(|n| usize::try_from(n).ok())).collect()
}

/// The bytes of a storage, which is the range, that a tensor with elements reaches from its first to its last one;
/// `None` where they are not all in it.
fn extent(
    storage: &Range<usize>,
    dtype: DType,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) -> Option<Range<usize>> {
    checked_len(shape)?;
    let size = dtype.bits() / 8;
    let mut last = offset;
    for (&size, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((size - 1).checked_mul(stride)?)?;
    }
    let start = storage.start.checked_add(offset.checked_mul(size)?)?;
    let end = storage.start.checked_add(last.checked_add(1)?.checked_mul(size)?)?;
    (end <= storage.end).then_some(start..end)
}

fn unknown_type(name: &str) -> Error {
    Error::unsupported(format!(
        "has the element type of `{name}`, which is not read; store it as another (`.dequantize()`, `.float()`)"
    ))
}
