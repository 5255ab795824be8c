//! The header of a safetensors file: a length of 64 bits, then that much JSON that says of each tensor
//! its type, shape and place, then the elements.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::model::{Storage, StoredTensor};
use crate::tensor::checked_len;
use crate::{DType, Error, Result, ResultExt};

/// The largest header that the format allows, in bytes.
const LARGEST: usize = 100_000_000;

/// The key of the metadata among the tensors.
const METADATA: &str = "__metadata__";

/// Metadata in the file's order.
pub(super) type Metadata = Vec<(String, String)>;

/// What a header says, checked against the file.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// The tensors in the order of their elements.
    pub(super) tensors: Vec<StoredTensor>,
    /// Where the elements begin.
    pub(super) start: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The entries of a JSON object in their order; a repeated key is an error.
pub(super) struct Entries<T>(pub(super) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = IndexMap::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("`{key}` stands there twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(Entries(entries.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Visit(std::marker::PhantomData))
    }
}

/// The items of a header in their order, as parts of its text: nothing is copied of a million tensors but the
/// keys that have escapes.
fn items(json: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Items<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visit<'a>(std::marker::PhantomData<&'a ()>);
            impl<'de: 'a, 'a> Visitor<'de> for Visit<'a> {
                type Value = Items<'a>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a JSON object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    #[derive(Deserialize)]
                    struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                    let mut items = Vec::new();
                    while let Some((Key(key), value)) = map.next_entry()? {
                        items.push((key, value));
                    }
                    Ok(Items(items))
                }
            }
            deserializer.deserialize_map(Visit(std::marker::PhantomData))
        }
    }
    Ok(serde_json::from_slice::<Items<'_>>(json).map_err(|e| wrong(&e))?.0)
}

/// Whether bytes begin as a safetensors file does: the length of a header and its opening brace.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    rest.first() == Some(&b'{') && u64::from_le_bytes(*length) >= 2 && u64::from_le_bytes(*length) < 1 << 40
}

/// Reads and checks the header of a file.
///
/// # Errors
/// `Input` where the file is shorter than it says, the JSON or a type is not as the format has it, or the
/// places of the tensors overlap, leave gaps or do not fill the file.
pub(super) fn read(bytes: &Bytes) -> Result<Header> {
    let short = || Error::input(format!("{} bytes are too few for a safetensors file", bytes.len()));
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    if length > LARGEST as u64 {
        let message = format!("the header claims {length} bytes, more than the format's {LARGEST}");
        return Err(Error::input(message));
    }
    let json = rest.get(..length as usize).ok_or_else(|| {
        let message = format!("the header claims {length} bytes, but only {} follow: cut off?", rest.len());
        Error::input(message)
    })?;
    let start = 8 + json.len();
    let data = bytes.slice(start..);
    let mut metadata = Vec::new();
    let mut places: Vec<(Range<usize>, StoredTensor)> = Vec::new();
    let items = items(json)?;
    let mut seen = HashSet::with_capacity(items.len());
    // What is not an entry of a tensor is named by its key, so each is read apart.
    for (path, item) in &items {
        if !seen.insert(&**path) {
            return Err(Error::input(format!(
                "the header is not as safetensors has it: `{path}` stands there twice"
            )));
        }
        if path == METADATA {
            metadata = serde_json::from_str::<Entries<String>>(item.get()).map_err(|e| wrong(&e))?.0;
        } else {
            let info = serde_json::from_str::<Info<'_>>(item.get()).map_err(|e| wrong(&e)).at_tensor(path)?;
            places.push(place(path, info, &data).at_tensor(path)?);
        }
    }
    places.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = 0;
    for (range, tensor) in &places {
        if range.start != end {
            let what = if range.start < end {
                "overlaps the one before"
            } else {
                "leaves a gap behind the one before"
            };
            let message = format!("its place {range:?} {what}, which ends at {end}");
            return Err(Error::input(message).at_tensor(&tensor.path));
        }
        end = range.end;
    }
    if end != data.len() {
        let message = format!("the tensors end at byte {end} of the data, but there are {}", data.len());
        return Err(Error::input(message));
    }
    Ok(Header { metadata, tensors: places.into_iter().map(|(_, tensor)| tensor).collect(), start })
}

fn wrong(error: &serde_json::Error) -> Error {
    Error::input(format!("the header is not as safetensors has it: {error}"))
}

fn place(path: &str, info: Info<'_>, data: &Bytes) -> Result<(Range<usize>, StoredTensor)> {
    let dtype = from_name(&info.dtype)
        .ok_or_else(|| Error::unsupported(format!("the element type `{}` is not known here", info.dtype)))?;
    let [from, to] = info.data_offsets;
    if from > to || to > data.len() {
        let message = format!("its place {from}..{to} is outside the file's {} bytes of data", data.len());
        return Err(Error::input(message));
    }
    let expected = checked_len(&info.shape).and_then(|n| dtype.bytes_for(n));
    if expected != Some(to - from) {
        let expected = expected.map_or_else(|| "more than there can be".to_string(), |n| n.to_string());
        return Err(Error::input(format!(
            "expected {expected} bytes for {dtype} of shape {:?}, found {}",
            info.shape,
            to - from
        )));
    }
    let storage = Storage::Bytes(data.slice(from..to));
    Ok((from..to, StoredTensor { path: path.to_string(), dtype, shape: info.shape, storage }))
}

/// A header for tensors whose elements follow one after the other: its bytes, the length included.
/// Spaces behind the JSON make the elements begin at a multiple of 8 bytes.
///
/// # Errors
/// `Unsupported` where the format has no name for an element type.
pub(super) fn write<'a>(
    metadata: &[(String, String)],
    tensors: impl Iterator<Item = (&'a str, DType, &'a [usize], usize)>,
) -> Result<Vec<u8>> {
    let json = |e: serde_json::Error| Error::internal(e.to_string());
    let mut root: IndexMap<&str, Box<RawValue>> = IndexMap::new();
    if !metadata.is_empty() {
        let entries: IndexMap<_, _> = metadata.iter().map(|(k, v)| (k, v)).collect();
        root.insert(METADATA, to_raw_value(&entries).map_err(json)?);
    }
    let mut at = 0;
    for (path, dtype, shape, bytes) in tensors {
        let name = to_name(dtype).ok_or_else(|| {
            Error::unsupported(format!("safetensors has no element type {dtype}")).at_tensor(path)
        })?;
        let info = Info { dtype: name.into(), shape: shape.to_vec(), data_offsets: [at, at + bytes] };
        if root.insert(path, to_raw_value(&info).map_err(json)?).is_some() {
            return Err(Error::usage("two tensors would have this name").at_tensor(path));
        }
        at += bytes;
    }
    Ok(padded(serde_json::to_vec(&root).map_err(json)?))
}

/// A header with other metadata, everything else unchanged: order, spelling of the numbers, padding
/// to a multiple of 8 bytes.
///
/// # Errors
/// Where `header` is none that was read.
pub(super) fn with_metadata(header: &[u8], metadata: &[(String, String)]) -> Result<Vec<u8>> {
    let json = |e: serde_json::Error| Error::internal(e.to_string());
    let Entries(items) = serde_json::from_slice::<Entries<Box<RawValue>>>(&header[8..]).map_err(json)?;
    let mut root: IndexMap<&str, &RawValue> = IndexMap::new();
    let entries: IndexMap<_, _> = metadata.iter().map(|(k, v)| (k, v)).collect();
    let new = to_raw_value(&entries).map_err(json)?;
    if !metadata.is_empty() && items.iter().all(|(key, _)| key != METADATA) {
        root.insert(METADATA, &new);
    }
    for (key, item) in &items {
        if key != METADATA {
            root.insert(key, item);
        } else if !metadata.is_empty() {
            root.insert(key, &new);
        }
    }
    Ok(padded(serde_json::to_vec(&root).map_err(json)?))
}

/// A header from its JSON: the length, the text, and spaces up to a multiple of 8 bytes.
fn padded(mut text: Vec<u8>) -> Vec<u8> {
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// The format's names of element types.
const NAMES: &[(DType, &str)] = &[
    (DType::Bool, "BOOL"),
    (DType::U8, "U8"),
    (DType::I8, "I8"),
    (DType::F8E5M2, "F8_E5M2"),
    (DType::F8E4M3FN, "F8_E4M3"),
    (DType::F8E5M2FNUZ, "F8_E5M2FNUZ"),
    (DType::F8E4M3FNUZ, "F8_E4M3FNUZ"),
    (DType::F8E8M0, "F8_E8M0"),
    (DType::F4E2M1, "F4"),
    (DType::F6E2M3, "F6_E2M3"),
    (DType::F6E3M2, "F6_E3M2"),
    (DType::I16, "I16"),
    (DType::U16, "U16"),
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::I32, "I32"),
    (DType::U32, "U32"),
    (DType::F32, "F32"),
    (DType::F64, "F64"),
    (DType::I64, "I64"),
    (DType::U64, "U64"),
    (DType::C64, "C64"),
];

/// The element type with a name of the format.
pub(super) fn from_name(name: &str) -> Option<DType> {
    NAMES.iter().find(|(_, n)| *n == name).map(|(dtype, _)| *dtype)
}

/// The format's name of an element type.
pub(super) fn to_name(dtype: DType) -> Option<&'static str> {
    NAMES.iter().find(|(d, _)| *d == dtype).map(|(_, name)| *name)
}
