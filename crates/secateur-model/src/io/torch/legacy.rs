//! The layout before PyTorch 1.6: pickles of a magic number, a version, the machine, the content and the
//! storages' keys, one behind the other, then each storage as its number of elements and its bytes.

use std::collections::HashMap;

use bytes::Bytes;

use super::Content;
use super::pickle;
use super::tensors::{Storage, Storages, storage_id};
use super::value::{Value, Values};
use crate::{Error, Result};

/// The magic number, as the pickle has it.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const VERSION: i64 = 1001;

/// Whether bytes begin with a pickle of the magic number.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(32)];
    start.starts_with(b"\x80") && start.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// Reads a file.
///
/// # Errors
/// As [`super::parse`].
pub(super) fn read(bytes: &Bytes) -> Result<Content> {
    let mut at = 0;
    let mut next = |values: &mut Values| {
        let (root, length) = pickle::read(&bytes[at..], values)?;
        at += length;
        Ok::<_, Error>((root, at))
    };
    let mut prelude = Values::default();
    let (magic, _) = next(&mut prelude)?;
    let (version, _) = next(&mut prelude)?;
    let (system, _) = next(&mut prelude)?;
    let is_magic = matches!(prelude.get(magic), Value::Long(long) if &long[..] == MAGIC);
    if !is_magic || prelude.int(version) != Some(VERSION) {
        return Err(Error::input(format!("is not the layout {VERSION} of PyTorch before 1.6, or damaged")));
    }
    let little = prelude.entries(system).unwrap_or_default().into_iter().find_map(|(key, value)| {
        (prelude.text(key) == Some("little_endian")).then(|| matches!(prelude.get(value), Value::Bool(true)))
    });
    if little == Some(false) {
        return Err(super::big_endian());
    }

    let mut values = Values::default();
    let (root, _) = next(&mut values)?;
    let mut keys = Values::default();
    let (list, mut at) = next(&mut keys)?;
    let Value::List(list) = keys.get(list) else {
        return Err(Error::input("has no list of its storages where one belongs: damaged"));
    };

    // The size of an element stands with those who refer to a storage.
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for (_, value) in values.iter() {
        if let Value::Persistent(id) = value {
            let said = storage_id(&values, *id)?;
            sizes.entry(said.key).or_insert(said.class.size);
        }
    }
    let mut places = HashMap::new();
    for &key in list {
        let key = keys.text(key).ok_or_else(|| Error::input("the key of a storage is no text: damaged"))?;
        let place = || {
            let (count, rest) = bytes[at..].split_first_chunk::<8>()?;
            let count = usize::try_from(i64::from_le_bytes(*count)).ok()?;
            let length = count.checked_mul(*sizes.get(key)?)?;
            (length <= rest.len()).then_some(at + 8..at + 8 + length)
        };
        let place = place().ok_or_else(|| {
            let message =
                format!("is not within the {} bytes that are left for it: cut off?", bytes.len() - at);
            Error::input(message).at(format!("storage `{key}`"))
        })?;
        at = place.end;
        if places.insert(key, place).is_some() {
            return Err(Error::input("stands there twice").at(format!("storage `{key}`")));
        }
    }
    let storages = Storages::collect(&values, |said| {
        let place =
            places.get(said.key).cloned().ok_or_else(|| Error::input("is not in the file: cut off?"))?;
        Ok(Storage { bytes: bytes.slice(place.clone()), place: Some(place) })
    })?;
    Ok(Content { values, root, storages, archive: None, metadata: Vec::new() })
}
