//! The one representation of a model, whatever file it was read from.

mod container;
mod patch;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use indexmap::IndexMap;

pub use self::container::{
    Container, CreateFiles, Format, Metadata, Source, WriteOptions, WriteReport, WrittenFile,
};
pub(crate) use self::patch::{Applied, AppliedGraph, ties};
pub use self::patch::{Entry, GraphPath, LazyPacked, LazyTensor, Patch};
use crate::packed::Packed;
use crate::tensor::checked_len;
use crate::{DType, Data, Element, Error, Graph, Result, ResultExt, Tensor};

/// Index of a tensor in [`Model::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

/// A model: its tensors by stable path, its graph where the file has one, and the file it came from.
#[derive(Clone, Debug)]
pub struct Model {
    /// Constant tensors by stable path: an initializer's name; for a `Constant` node its output's
    /// name; in nested graphs and functions prefixed with the way there, joined by `::`. A tensor
    /// used in several places is listed once.
    pub tensors: IndexMap<String, StoredTensor>,
    /// The graph; `None` for checkpoints.
    pub graph: Option<Graph>,
    /// Where the model was read from; `None` for models made in memory.
    pub path: Option<PathBuf>,
    /// The container, from which writing takes what was not changed.
    pub source: Source,
}

impl Model {
    /// The tensor with an id.
    ///
    /// # Panics
    /// Where the id is of another model.
    pub fn tensor(&self, id: TensorId) -> &StoredTensor {
        &self.tensors[id.0 as usize]
    }

    /// The id of the tensor with a path.
    pub fn tensor_id(&self, path: &str) -> Option<TensorId> {
        self.tensors.get_index_of(path).map(|i| TensorId(i as u32))
    }

    /// Tensors that share their elements under several paths, such as an output layer
    /// tied to its embedding: their ids, ascending, in groups of two or more. A change to one is to be
    /// made to all.
    pub fn aliases(&self) -> Vec<Vec<TensorId>> {
        let mut groups: IndexMap<_, Vec<TensorId>> = IndexMap::new();
        for (id, stored) in (0..).map(TensorId).zip(self.tensors.values()).filter(|(_, t)| !t.is_empty()) {
            groups.entry((stored.storage.address(), stored.dtype, &stored.shape)).or_default().push(id);
        }
        let shared = groups.into_values().filter(|group| group.len() > 1);
        shared.flat_map(|group| self.masked_alike(group)).filter(|group| group.len() > 1).collect()
    }

    /// Divides tensors with the same elements by the masks beside them: of `X_orig` and `Y_orig` those with
    /// other masks than each other's are other weights.
    fn masked_alike(&self, group: Vec<TensorId>) -> Vec<Vec<TensorId>> {
        let mask = |id: TensorId| {
            let path = self.tensor(id).path.strip_suffix("_orig")?;
            Some(self.tensor(self.tensor_id(&format!("{path}_mask"))?))
        };
        // Masks that cannot be read are those of nobody else.
        let elements = |id: TensorId| {
            let Some(mask) = mask(id) else { return (None, None) };
            match mask.load().and_then(|mask| encode(mask.data())) {
                Ok(bytes) => (Some((mask.dtype, mask.shape.clone(), bytes)), None),
                Err(_) => (None, Some(id)),
            }
        };
        let mut divided: IndexMap<_, Vec<TensorId>> = IndexMap::new();
        for id in group {
            divided.entry(elements(id)).or_default().push(id);
        }
        divided.into_values().collect()
    }

    /// The model with some of its tensors expanded where they are packed, for as long as the result lives.
    pub fn with_dense(&self, ids: impl Iterator<Item = TensorId>) -> Cow<'_, Model> {
        let mut model = Cow::Borrowed(self);
        let expands = |stored: &StoredTensor| matches!(stored.storage, Storage::Packed(_) | Storage::Lazy(_));
        for id in ids.filter(|id| expands(self.tensor(*id))) {
            model.to_mut().tensors[id.0 as usize] = self.tensor(id).dense().into_owned();
        }
        model
    }

    /// The graph.
    ///
    /// # Errors
    /// Where the model is a checkpoint without one.
    pub fn graph(&self) -> Result<&Graph> {
        self.graph.as_ref().ok_or_else(|| {
            let error = Error::unsupported(
                "the file holds weights only: pass an ONNX export of the same network too, for example with option \
                 `graph=model.onnx`",
            );
            match &self.path {
                Some(path) => error.at_file(path),
                None => error,
            }
        })
    }
}

/// A tensor as stored: lazy, decoded on demand.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The stable path, the key in [`Model::tensors`].
    pub path: String,
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Vec<usize>,
    /// The elements.
    pub storage: Storage,
}

/// Where the elements of a stored tensor are.
#[derive(Clone)]
pub enum Storage {
    /// Little-endian bytes, row-major, usually a part of a memory-mapped file.
    Bytes(Bytes),
    /// Decoded already: from typed fields of the file, or made in memory.
    Data(Arc<Data>),
    /// Packed, and expanded each time the elements are loaded.
    Packed(Arc<Packed>),
    /// Computed from other tensors of the file, its parts. A file of the model has the parts, until the tensor is
    /// changed: then it has the tensor in their place.
    Computed(Arc<Data>, Arc<[TensorId]>),
    /// Computed each time the elements are loaded, such as a change that a patch made.
    Lazy(LazyTensor),
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Storage::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Storage::Data(data) => f.debug_tuple("Data").field(data).finish(),
            Storage::Packed(packed) => f.debug_tuple("Packed").field(packed).finish(),
            Storage::Computed(data, parts) => f.debug_tuple("Computed").field(data).field(parts).finish(),
            Storage::Lazy(_) => f.write_str("Lazy"),
        }
    }
}

impl Storage {
    /// The address of the elements: tensors that share them have the same.
    pub(crate) fn address(&self) -> usize {
        match self {
            Storage::Bytes(bytes) => bytes.as_ptr().addr(),
            Storage::Data(data) | Storage::Computed(data, _) => Arc::as_ptr(data).addr(),
            Storage::Packed(packed) => Arc::as_ptr(packed).addr(),
            Storage::Lazy(make) => Arc::as_ptr(make).addr(),
        }
    }
}

impl StoredTensor {
    /// Whether another tensor has the same type, shape and elements, bit for bit, and in the same form.
    pub(crate) fn holds_the_same(&self, other: &StoredTensor) -> bool {
        let elements = || match (&self.storage, &other.storage) {
            (one, other) if one.address() == other.address() => true,
            (Storage::Bytes(one), Storage::Bytes(other)) => one == other,
            (Storage::Data(one), Storage::Data(other)) => {
                encode(one).is_ok_and(|bytes| encode(other).is_ok_and(|others| bytes == others))
            }
            (Storage::Packed(one), Storage::Packed(other)) => one.holds_the_same(other),
            _ => false,
        };
        self.dtype == other.dtype && self.shape == other.shape && elements()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size in bytes as stored raw; 0 for strings.
    pub fn byte_len(&self) -> usize {
        self.dtype.bytes_for(self.len()).unwrap_or(0)
    }

    /// The tensor in memory; what is decoded already is shared, not copied.
    ///
    /// # Errors
    /// Where the stored bytes do not fill the shape.
    pub fn load(&self) -> Result<Tensor> {
        let data = match &self.storage {
            Storage::Data(data) | Storage::Computed(data, _) => data.clone(),
            Storage::Packed(packed) => Arc::new(packed.unpack()),
            Storage::Lazy(make) => {
                return make().and_then(|t| patch::of_form(t, self.dtype, &self.shape)).at_tensor(&self.path);
            }
            Storage::Bytes(bytes) => Arc::new(decode(self.dtype, &self.shape, bytes).at_tensor(&self.path)?),
        };
        Tensor::from_shared(self.shape.clone(), data).at_tensor(&self.path)
    }

    /// The packed form, where that is how the tensor is stored: to compute with the values that are not zero
    /// without expanding the rest.
    pub fn packed(&self) -> Option<&Arc<Packed>> {
        match &self.storage {
            Storage::Packed(packed) => Some(packed),
            _ => None,
        }
    }

    /// The tensors it is computed from, ascending; none where it is stored itself.
    pub fn parts(&self) -> &[TensorId] {
        match &self.storage {
            Storage::Computed(_, parts) => parts,
            _ => &[],
        }
    }

    /// The tensor with dense elements: itself, or a packed or lazy one computed, for as long as the result lives.
    pub fn dense(&self) -> Cow<'_, StoredTensor> {
        match &self.storage {
            Storage::Packed(packed) => {
                Cow::Owned(StoredTensor { storage: Storage::Data(Arc::new(packed.unpack())), ..self.clone() })
            }
            // Where it cannot be computed, whoever reads it gets the error.
            Storage::Lazy(_) => match self.load() {
                Ok(tensor) => {
                    Cow::Owned(StoredTensor { storage: Storage::Data(tensor.shared()), ..self.clone() })
                }
                Err(_) => Cow::Borrowed(self),
            },
            _ => Cow::Borrowed(self),
        }
    }

    /// The elements as f32, `chunk_len` (at least 1) at a time, the last chunk perhaps shorter, so that a pass over
    /// a tensor of any size takes little memory; a packed or lazy one is computed for the pass. f16 and bf16 convert without
    /// loss, f64 is rounded.
    ///
    /// # Errors
    /// Where the type is none of f32, f16, bf16, f64, or the stored bytes do not fill the shape.
    pub fn chunks_f32(&self, chunk_len: usize) -> Result<impl Iterator<Item = Cow<'_, [f32]>> + '_> {
        let chunk_len = chunk_len.max(1);
        if !self.dtype.is_prunable() {
            let message = format!("expected elements of a float type, found {}", self.dtype);
            return Err(Error::input(message).at_tensor(&self.path));
        }
        let len = checked_len(&self.shape);
        let size = self.dtype.bits() / 8;
        let stored = match &self.storage {
            Storage::Bytes(bytes) if bytes.len().is_multiple_of(size) => Some(bytes.len() / size),
            Storage::Bytes(_) => None,
            Storage::Data(data) | Storage::Computed(data, _) => {
                Some(data.len()).filter(|_| data.dtype() == self.dtype)
            }
            Storage::Packed(packed) => Some(packed.shape().iter().product()),
            Storage::Lazy(_) => len,
        };
        let Some(len) = len.filter(|_| len == stored) else {
            return Err(Error::input(format!("the data does not fill the shape {:?}", self.shape))
                .at_tensor(&self.path));
        };
        let computed = match &self.storage {
            Storage::Packed(packed) => Some(Arc::new(packed.unpack())),
            Storage::Lazy(_) => Some(self.load()?.shared()),
            _ => None,
        };
        Ok((0..len).step_by(chunk_len).map(move |start| {
            let range = start..len.min(start.saturating_add(chunk_len));
            match (&self.storage, &computed) {
                (Storage::Bytes(bytes), _) => {
                    f32s(self.dtype, &bytes[range.start * size..range.end * size]).into()
                }
                (Storage::Data(data) | Storage::Computed(data, _), _) => slice_f32(data, range),
                (Storage::Packed(_) | Storage::Lazy(_), data) => {
                    slice_f32(data.as_ref().expect("computed above"), range).into_owned().into()
                }
            }
        }))
    }
}

/// A part of floats as f32.
fn slice_f32(data: &Data, range: std::ops::Range<usize>) -> Cow<'_, [f32]> {
    match data {
        Data::F32(v) => v[range].into(),
        Data::F64(v) => v[range].iter().map(|&x| x as f32).collect(),
        Data::F16(v) => v[range].iter().map(|x| x.to_f32()).collect(),
        Data::BF16(v) => v[range].iter().map(|x| x.to_f32()).collect(),
        _ => unreachable!("the element type was checked"),
    }
}

/// Little-endian floats as f32.
fn f32s(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    fn cast<const N: usize>(bytes: &[u8], to: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&c| to(c)).collect()
    }
    match dtype {
        DType::F64 => cast(bytes, |b| f64::from_le_bytes(b) as f32),
        DType::F16 => cast(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => cast(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        _ => cast(bytes, f32::from_le_bytes),
    }
}

/// Decodes little-endian bytes to elements; a boolean is true for any byte but 0.
///
/// # Errors
/// Where the length does not fit the shape, or for strings.
pub fn decode(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Data> {
    let expected = checked_len(shape).and_then(|n| dtype.bytes_for(n));
    if expected != Some(bytes.len()) {
        return Err(Error::input(format!(
            "expected {} bytes for {dtype} of shape {shape:?}, found {}",
            expected.map_or_else(|| "no".to_string(), |n| n.to_string()),
            bytes.len()
        )));
    }
    fn cast<T: Element, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Data {
        let (chunks, _) = bytes.as_chunks::<N>();
        T::wrap(chunks.iter().map(|&c| from(c)).collect())
    }
    Ok(match dtype {
        DType::F32 => cast(bytes, f32::from_le_bytes),
        DType::F64 => cast(bytes, f64::from_le_bytes),
        DType::F16 => cast(bytes, f16::from_le_bytes),
        DType::BF16 => cast(bytes, bf16::from_le_bytes),
        DType::I8 => cast(bytes, i8::from_le_bytes),
        DType::I16 => cast(bytes, i16::from_le_bytes),
        DType::I32 => cast(bytes, i32::from_le_bytes),
        DType::I64 => cast(bytes, i64::from_le_bytes),
        DType::U8 => Data::U8(bytes.to_vec()),
        DType::U16 => cast(bytes, u16::from_le_bytes),
        DType::U32 => cast(bytes, u32::from_le_bytes),
        DType::U64 => cast(bytes, u64::from_le_bytes),
        DType::Bool => Data::Bool(bytes.iter().map(|&b| b != 0).collect()),
        DType::String => return Err(Error::input("strings cannot be stored as raw bytes")),
        _ => Data::Raw(dtype, bytes.to_vec()),
    })
}

/// Encodes elements as little-endian bytes.
///
/// # Errors
/// For strings, which have no raw form.
pub fn encode(data: &Data) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_chunks(data, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok(bytes)
}

/// Encodes elements as little-endian bytes, given to `sink` in pieces, so that no second copy of a
/// large tensor is made.
///
/// # Errors
/// For strings, which have no raw form, and those of `sink`.
pub fn encode_chunks(data: &Data, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    fn cast<T: Copy, const N: usize>(
        values: &[T],
        to: impl Fn(T) -> [u8; N],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = Vec::new();
        for chunk in values.chunks(1 << 15) {
            buffer.clear();
            buffer.extend(chunk.iter().flat_map(|&v| to(v)));
            sink(&buffer)?;
        }
        Ok(())
    }
    match data {
        Data::F32(v) => cast(v, f32::to_le_bytes, sink),
        Data::F64(v) => cast(v, f64::to_le_bytes, sink),
        Data::F16(v) => cast(v, f16::to_le_bytes, sink),
        Data::BF16(v) => cast(v, bf16::to_le_bytes, sink),
        Data::I8(v) => cast(v, i8::to_le_bytes, sink),
        Data::I16(v) => cast(v, i16::to_le_bytes, sink),
        Data::I32(v) => cast(v, i32::to_le_bytes, sink),
        Data::I64(v) => cast(v, i64::to_le_bytes, sink),
        Data::U16(v) => cast(v, u16::to_le_bytes, sink),
        Data::U32(v) => cast(v, u32::to_le_bytes, sink),
        Data::U64(v) => cast(v, u64::to_le_bytes, sink),
        Data::Bool(v) => cast(v, |b| [b.into()], sink),
        Data::U8(v) | Data::Raw(_, v) => sink(v),
        Data::String(_) => Err(Error::internal("strings have no raw form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(data: Data, shape: &[usize], raw: bool) -> StoredTensor {
        let storage = match raw {
            true => Storage::Bytes(encode(&data).unwrap().into()),
            false => Storage::Data(Arc::new(data.clone())),
        };
        StoredTensor { path: "w".into(), dtype: data.dtype(), shape: shape.to_vec(), storage }
    }

    #[test]
    fn chunks_are_the_elements_in_order() {
        let values: Vec<f32> = (0..10).map(|i| i as f32 * 0.5 - 2.0).collect();
        for data in [
            Data::F32(values.clone()),
            Data::F64(values.iter().map(|&v| v.into()).collect()),
            Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
            Data::BF16(values.iter().map(|&v| bf16::from_f32(v)).collect()),
        ] {
            for (raw, chunk_len) in [(false, 1), (true, 3), (false, 4), (true, 10), (true, usize::MAX)] {
                let tensor = stored(data.clone(), &[2, 5], raw);
                let chunks: Vec<Vec<f32>> =
                    tensor.chunks_f32(chunk_len).unwrap().map(Cow::into_owned).collect();
                assert_eq!(chunks.len(), 10usize.div_ceil(chunk_len));
                assert!(chunks.iter().rev().skip(1).all(|c| c.len() == chunk_len));
                assert_eq!(chunks.concat(), values);
            }
        }
        assert_eq!(stored(Data::F32(vec![]), &[0, 3], true).chunks_f32(4).unwrap().count(), 0);
        assert!(stored(Data::I32(vec![1]), &[1], true).chunks_f32(4).is_err());
        assert!(stored(Data::F32(vec![1.0]), &[2], true).chunks_f32(4).is_err());
    }

    #[test]
    fn raw_bytes_and_elements_are_inverse() {
        let data = Data::I16((-20_000..20_000).collect());
        let bytes = encode(&data).unwrap();
        assert_eq!(decode(DType::I16, &[200, 200], &bytes).unwrap(), data);
        assert!(decode(DType::I16, &[200, 201], &bytes).is_err());
        assert!(decode(DType::String, &[1], b"a").is_err());
        assert!(encode(&Data::String(vec!["a".into()])).is_err());
        assert_eq!(decode(DType::Bool, &[2], &[2, 0]).unwrap(), Data::Bool(vec![true, false]));
    }
}
