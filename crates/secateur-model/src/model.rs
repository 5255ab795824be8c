//! The one representation of a model, whatever file it was read from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use indexmap::IndexMap;

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
    /// used in several places stands here once.
    pub tensors: IndexMap<String, StoredTensor>,
    /// The graph; `None` for checkpoints.
    pub graph: Option<Graph>,
    /// Where the model was read from; `None` for models made in memory.
    pub path: Option<PathBuf>,
    /// The container, from which writing takes what was not changed.
    pub source: crate::io::Source,
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

    /// The graph.
    ///
    /// # Errors
    /// Where the model is a checkpoint without one.
    pub fn graph(&self) -> Result<&Graph> {
        self.graph
            .as_ref()
            .ok_or_else(|| Error::unsupported("the file holds weights only, without a graph to run"))
    }
}

/// A tensor as stored: lazy, decoded when asked for.
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
#[derive(Clone, Debug)]
pub enum Storage {
    /// Little-endian bytes, row-major, usually a part of a memory-mapped file.
    Bytes(Bytes),
    /// Decoded already: from typed fields of the file, or made in memory.
    Data(Arc<Data>),
}

impl StoredTensor {
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

    /// The tensor in memory.
    ///
    /// # Errors
    /// Where the stored bytes do not fill the shape.
    pub fn load(&self) -> Result<Tensor> {
        let data = match &self.storage {
            Storage::Data(data) => (**data).clone(),
            Storage::Bytes(bytes) => decode(self.dtype, &self.shape, bytes).at_tensor(&self.path)?,
        };
        Tensor::from_data(self.shape.clone(), data).at_tensor(&self.path)
    }
}

/// Decodes little-endian bytes to elements.
///
/// # Errors
/// Where the length does not fit the shape, or a boolean byte is neither 0 nor 1.
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

/// Changed tensors over an unchanged [`Model`]: what the writer splices in and the runtime runs
/// with. A change may be computed when asked for, so that a large model's changed weights never
/// lie in memory all at once.
#[derive(Clone, Default)]
pub struct Edits {
    tensors: BTreeMap<TensorId, Edit>,
}

/// Computes a changed tensor when asked.
pub type LazyTensor = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

#[derive(Clone)]
enum Edit {
    Ready(Tensor),
    Lazy(LazyTensor),
}

impl Edits {
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

    /// Whether a tensor is changed.
    pub fn contains(&self, id: TensorId) -> bool {
        self.tensors.contains_key(&id)
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
        let tensor = match self.tensors.get(&id) {
            None => return stored.load(),
            Some(Edit::Ready(tensor)) => tensor.clone(),
            Some(Edit::Lazy(make)) => make().at_tensor(&stored.path)?,
        };
        if tensor.dtype() != stored.dtype || tensor.shape() != stored.shape {
            return Err(Error::internal(format!(
                "changed to {} {:?}, expected {} {:?}",
                tensor.dtype(),
                tensor.shape(),
                stored.dtype,
                stored.shape
            ))
            .at_tensor(&stored.path));
        }
        Ok(tensor)
    }
}
