//! The classes and functions that a checkpoint may name, and what each means here.

use crate::DType;

/// What a class or function makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A tensor: storage, offset, size, stride, …; the third version names the element type too.
    Tensor,
    /// A parameter around a tensor, its first argument.
    Parameter,
    /// A tensor of a class of its own, or with attributes: the function that makes it, the class, its
    /// arguments, the attributes.
    Typed,
    /// A quantised tensor: storage, offset, size, stride, then its scales. Its integers are read, without them.
    Quantised,
    /// A tensor that is no plain array: what it is.
    OtherTensor(&'static str),
    /// A dictionary.
    Dict,
    /// Anything else; its parts are kept and written back.
    Inert,
}

/// What is known of a class or function by its full name. PyTorch's own reader of weights allows much
/// the same; the rest are plain data of Python and NumPy that training scripts store.
const KNOWN: &[(&str, Known)] = &[
    ("torch._utils._rebuild_tensor", Known::Tensor),
    ("torch._utils._rebuild_tensor_v2", Known::Tensor),
    ("torch._utils._rebuild_tensor_v3", Known::Tensor),
    ("torch._utils._rebuild_parameter", Known::Parameter),
    ("torch._utils._rebuild_parameter_with_state", Known::Parameter),
    ("torch.nn.parameter.Parameter", Known::Parameter),
    ("torch._tensor._rebuild_from_type_v2", Known::Typed),
    ("torch._utils._rebuild_qtensor", Known::Quantised),
    ("torch._utils._rebuild_sparse_tensor", Known::OtherTensor("a sparse tensor")),
    ("torch._utils._rebuild_sparse_csr_tensor", Known::OtherTensor("a sparse tensor")),
    ("torch._utils._rebuild_nested_tensor", Known::OtherTensor("a nested tensor")),
    ("torch._utils._rebuild_meta_tensor_no_storage", Known::OtherTensor("a tensor without data")),
    ("torch._utils._rebuild_wrapper_subclass", Known::OtherTensor("a tensor of a class of its own")),
    ("torch._utils._rebuild_device_tensor_from_numpy", Known::OtherTensor("a tensor kept by its device")),
    (
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        Known::OtherTensor("a tensor kept by its device"),
    ),
    ("collections.OrderedDict", Known::Dict),
    ("collections.defaultdict", Known::Dict),
    ("collections.Counter", Known::Dict),
    ("collections.deque", Known::Inert),
    ("torch.Size", Known::Inert),
    ("torch.device", Known::Inert),
    ("torch.serialization._get_layout", Known::Inert),
    ("builtins.set", Known::Inert),
    ("builtins.frozenset", Known::Inert),
    ("builtins.complex", Known::Inert),
    ("builtins.bytearray", Known::Inert),
    ("builtins.bytes", Known::Inert),
    ("builtins.slice", Known::Inert),
    ("builtins.range", Known::Inert),
    ("_codecs.encode", Known::Inert),
    ("argparse.Namespace", Known::Inert),
    ("types.SimpleNamespace", Known::Inert),
    ("datetime.date", Known::Inert),
    ("datetime.datetime", Known::Inert),
    ("datetime.timedelta", Known::Inert),
    ("pathlib.Path", Known::Inert),
    ("pathlib.PosixPath", Known::Inert),
    ("pathlib.PurePosixPath", Known::Inert),
    ("pathlib.WindowsPath", Known::Inert),
    ("pathlib.PureWindowsPath", Known::Inert),
    ("numpy.dtype", Known::Inert),
    ("numpy.core.multiarray.scalar", Known::Inert),
    ("numpy.core.multiarray._reconstruct", Known::Inert),
    ("numpy._core.multiarray.scalar", Known::Inert),
    ("numpy._core.multiarray._reconstruct", Known::Inert),
    ("numpy._core.numeric._frombuffer", Known::Inert),
];

/// Modules whose names changed: Python 2's and Python 3.13's.
const RENAMED: &[(&str, &str)] = &[("__builtin__", "builtins"), ("pathlib._local", "pathlib")];

/// What is known of a class or function; `None` where making it is refused.
pub(super) fn known(module: &str, name: &str) -> Option<Known> {
    let module = RENAMED.iter().find(|(old, _)| *old == module).map_or(module, |(_, new)| new);
    KNOWN
        .iter()
        .find(|(full, _)| full.rsplit_once('.').is_some_and(|(of, known)| of == module && known == name))
        .map(|(_, known)| *known)
}

/// A class of storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageClass {
    /// The name in PyTorch's module.
    pub(super) name: &'static str,
    /// The element type; `None` for bytes without one, and for types that are not read.
    pub(super) dtype: Option<DType>,
    /// The size of an element in bytes.
    pub(super) size: usize,
}

/// Storages of bytes without a type.
pub(super) const UNTYPED: &str = "UntypedStorage";

const STORAGES: &[(&str, Option<DType>, usize)] = &[
    ("FloatStorage", Some(DType::F32), 4),
    ("HalfStorage", Some(DType::F16), 2),
    ("BFloat16Storage", Some(DType::BF16), 2),
    ("DoubleStorage", Some(DType::F64), 8),
    ("ByteStorage", Some(DType::U8), 1),
    ("CharStorage", Some(DType::I8), 1),
    ("ShortStorage", Some(DType::I16), 2),
    ("IntStorage", Some(DType::I32), 4),
    ("LongStorage", Some(DType::I64), 8),
    ("BoolStorage", Some(DType::Bool), 1),
    ("ComplexFloatStorage", Some(DType::C64), 8),
    ("ComplexDoubleStorage", Some(DType::C128), 16),
    (UNTYPED, None, 1),
    ("_UntypedStorage", None, 1),
    ("QInt8Storage", None, 1),
    ("QUInt8Storage", None, 1),
    ("QInt32Storage", None, 4),
    ("QUInt4x2Storage", None, 1),
    ("QUInt2x4Storage", None, 1),
];

/// The class of storages with a name; those on a GPU have their own module.
pub(super) fn storage_class(module: &str, name: &str) -> Option<StorageClass> {
    if !matches!(module, "torch" | "torch.cuda" | "torch.storage") {
        return None;
    }
    let &(name, dtype, size) = STORAGES.iter().find(|(known, ..)| *known == name)?;
    Some(StorageClass { name, dtype, size })
}

/// The class of storages for an element type, where there is one.
pub(super) fn storage_of(dtype: DType) -> Option<&'static str> {
    STORAGES.iter().find(|(_, of, _)| *of == Some(dtype)).map(|(name, ..)| *name)
}

/// The integers that a class of quantised storages holds; `None` where they take less than a byte.
pub(super) fn quantised(class: &str) -> Option<DType> {
    match class {
        "QInt8Storage" => Some(DType::I8),
        "QUInt8Storage" => Some(DType::U8),
        "QInt32Storage" => Some(DType::I32),
        _ => None,
    }
}

/// PyTorch's names of element types.
const DTYPES: &[(&str, DType)] = &[
    ("float32", DType::F32),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    ("float64", DType::F64),
    ("uint8", DType::U8),
    ("int8", DType::I8),
    ("int16", DType::I16),
    ("int32", DType::I32),
    ("int64", DType::I64),
    ("uint16", DType::U16),
    ("uint32", DType::U32),
    ("uint64", DType::U64),
    ("bool", DType::Bool),
    ("complex64", DType::C64),
    ("complex128", DType::C128),
    ("float8_e4m3fn", DType::F8E4M3FN),
    ("float8_e4m3fnuz", DType::F8E4M3FNUZ),
    ("float8_e5m2", DType::F8E5M2),
    ("float8_e5m2fnuz", DType::F8E5M2FNUZ),
    ("float8_e8m0fnu", DType::F8E8M0),
];

/// The element type with a name in PyTorch's module.
pub(super) fn dtype(module: &str, name: &str) -> Option<DType> {
    let known = DTYPES.iter().find(|(known, _)| module == "torch" && *known == name);
    known.map(|(_, dtype)| *dtype)
}

/// PyTorch's name of an element type, where it has it.
pub(super) fn dtype_name(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, of)| *of == dtype).map(|(name, _)| *name)
}
