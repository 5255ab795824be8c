//! Writing a checkpoint: the source's bytes with the changed tensors spliced in, or the pickle anew
//! where the table of tensors changes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

use indexmap::{IndexMap, IndexSet};

use super::emit::{Emit, Held, Item, emit};
use super::records::Records;
use super::splice;
use super::tensors::{Storages, View};
use super::value::{Id, Object, Value, Values};
use super::{METADATA, TorchSource};
use crate::io::merged;
use crate::model::{Entry, Patch, encode, ties};
use crate::{Error, Model, Result, ResultExt, TensorId};

/// Writes a checkpoint that was read; see [`crate::io::write_stream`].
///
/// Where only elements change, every other byte stays as it was: storages are changed in place, and
/// with them the sums of a zip archive. Where tensors are added or left out, the pickle is written anew,
/// always into a zip archive, with all other values kept. Metadata stands in an archive as the record
/// `secateur.json`; the layout before PyTorch 1.6 has no place for it, so there it is left out.
///
/// # Errors
/// `Unsupported` where tensors that share bytes change differently, a tensor is to be added to or left out
/// of what is no dictionary, or its type is none of PyTorch's; `Usage` where two would have one name; `Io`
/// where writing fails.
pub(super) fn write_stream(
    source: &TorchSource,
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let changes = Changes::new(source, model, patch);
    let metadata = merged(&source.metadata, patch, metadata);
    let in_place = |&storage: &usize| source.storages.get(storage).place.is_some();
    if !patch.is_structural(model) && changes.storages.keys().all(in_place) {
        return splice::write(&changes, &metadata, out);
    }
    let entries = patch.entries(model);
    check_names(&entries)?;
    let changed = changed_dictionaries(source, model, patch, &entries)?;
    let from = Emit {
        values: &source.values,
        storages: &source.storages,
        changed: &changed,
        entries: &entries,
        ties: &ties(&entries),
    };
    let (pickle, held) = emit(&from, source.root)?;
    let folder = source.archive.as_ref().map_or("archive", |archive| &archive.folder);
    write_archive(folder, &pickle, &held, &entries, &metadata, out, |storage| {
        Ok(match changes.content(storage)? {
            Some(content) => Cow::Owned(content),
            None => Cow::Borrowed(&source.storages.get(storage).bytes[..]),
        })
    })
}

/// Writes a checkpoint of its own that holds the entries: an `OrderedDict` of contiguous tensors in a
/// zip archive, as `torch.save(model.state_dict(), …)` gives.
///
/// # Errors
/// `Unsupported` where PyTorch does not have an element type; `Usage` where two tensors have one name; `Io`
/// where writing fails.
pub(super) fn create(
    entries: &[Entry<'_>],
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    check_names(entries)?;
    let mut values = Values::default();
    let call = values.push(Value::Global(Box::new(("collections".into(), "OrderedDict".into()))));
    let args = values.push(Value::Tuple([].into()));
    let (items, pairs) = (Vec::new(), Vec::new());
    let root =
        values.push(Value::Object(Box::new(Object { call, args, new: false, items, pairs, state: None })));
    let all = entries.iter().enumerate().map(|(index, entry)| Item::Added(entry.path.to_string(), index));
    let changed = HashMap::from([(root, all.collect())]);
    let storages = Storages::default();
    let from =
        Emit { values: &values, storages: &storages, changed: &changed, entries, ties: &ties(entries) };
    let (pickle, held) = emit(&from, root)?;
    write_archive("archive", &pickle, &held, entries, metadata, out, |_| Err(Error::internal("no storage")))
}

/// Checks that no two tensors have one name.
fn check_names(entries: &[Entry<'_>]) -> Result<()> {
    let mut names = HashSet::new();
    match entries.iter().find(|entry| !names.insert(entry.path)) {
        None => Ok(()),
        Some(twice) => Err(Error::usage("two tensors would have this name").at_tensor(twice.path)),
    }
}

/// Writes a zip archive: the pickle, then the storages in the order of their keys.
fn write_archive<'a>(
    folder: &str,
    pickle: &[u8],
    held: &IndexSet<Held>,
    entries: &[Entry<'_>],
    metadata: &[(String, String)],
    out: &mut dyn Write,
    stored: impl Fn(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<u64> {
    let mut records = Records::new(out, folder);
    records.whole("data.pkl", pickle)?;
    records.whole("byteorder", b"little")?;
    for (key, held) in held.iter().enumerate() {
        let name = format!("data/{key}");
        match *held {
            Held::Stored(storage) => records.whole(&name, &stored(storage)?)?,
            Held::Added(index) => {
                let entry = &entries[index];
                records.record(&name, entry.byte_len() as u64, |sink| entry.write(sink))?;
            }
        }
    }
    // The version of the layout, which PyTorch asks for.
    records.whole("version", b"3\n")?;
    if !metadata.is_empty() {
        records.whole(METADATA, &metadata_json(metadata)?)?;
    }
    records.finish()
}

/// The metadata as the record has it.
pub(super) fn metadata_json(metadata: &[(String, String)]) -> Result<Vec<u8>> {
    let entries: IndexMap<&str, &str> = metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
    serde_json::to_vec(&entries).map_err(|e| Error::internal(e.to_string()))
}

/// The dictionaries whose entries change, with what they have then.
fn changed_dictionaries(
    source: &TorchSource,
    model: &Model,
    patch: &Patch,
    entries: &[Entry<'_>],
) -> Result<HashMap<Id, Vec<Item>>> {
    let place = |id: TensorId| source.tensors[id.0 as usize].holder;
    let no_dictionary = "does not stand in a dictionary, so nothing can be added beside it or left out";
    // What is added behind a tensor, by the entry that the tensor is; and what at the end of a dictionary.
    let mut behind: HashMap<(Id, usize), Vec<usize>> = HashMap::new();
    let mut last: HashMap<Id, Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.id().is_none()) {
        match entry.anchor() {
            Some(anchor) => {
                let at = place(anchor).ok_or_else(|| Error::unsupported(no_dictionary));
                behind.entry(at.at_tensor(&model.tensor(anchor).path)?).or_default().push(index);
            }
            None => {
                let (id, _) = source.state_dict.as_ref().ok_or_else(|| {
                    Error::unsupported("the checkpoint has no dictionary of weights to add it to")
                        .at_tensor(entry.path)
                })?;
                last.entry(*id).or_default().push(index);
            }
        }
    }
    let mut removed: HashSet<(Id, usize)> = HashSet::new();
    let own = |id: &TensorId| (id.0 as usize) < source.tensors.len();
    for id in patch.superseded(model).into_iter().filter(own) {
        let at = place(id).ok_or_else(|| Error::unsupported(no_dictionary));
        removed.insert(at.at_tensor(&model.tensor(id).path)?);
    }

    let dictionaries = behind.keys().chain(&removed).map(|(id, _)| id).chain(last.keys());
    let mut changed = HashMap::new();
    for &id in dictionaries {
        if changed.contains_key(&id) {
            continue;
        }
        let mut items = Vec::new();
        let added = |index: &usize| Item::Added(key(source, model, id, &entries[*index]), *index);
        for index in 0..source.values.entries(id).map_or(0, |pairs| pairs.len()) {
            if !removed.contains(&(id, index)) {
                items.push(Item::Kept(index));
            }
            items.extend(behind.get(&(id, index)).into_iter().flatten().map(added));
        }
        items.extend(last.get(&id).into_iter().flatten().map(added));
        changed.insert(id, items);
    }
    Ok(changed)
}

/// The key of an added tensor: its path without the way to the dictionary, which the tensor it stands
/// behind has too.
fn key(source: &TorchSource, model: &Model, dictionary: Id, entry: &Entry<'_>) -> String {
    let way = entry.anchor().and_then(|anchor| {
        let (_, index) = source.tensors[anchor.0 as usize].holder?;
        let (key, _) = source.values.entries(dictionary)?.into_iter().nth(index)?;
        model.tensor(anchor).path.strip_suffix(source.values.text(key)?)
    });
    let key = way.and_then(|way| entry.path.strip_prefix(way)).unwrap_or(entry.path);
    key.to_string()
}

/// What changes in the source's storages.
pub(super) struct Changes<'a> {
    pub(super) source: &'a TorchSource,
    model: &'a Model,
    patch: &'a Patch,
    /// The tensors of each storage in which one changes.
    pub(super) storages: BTreeMap<usize, Vec<TensorId>>,
}

impl<'a> Changes<'a> {
    fn new(source: &'a TorchSource, model: &'a Model, patch: &'a Patch) -> Self {
        let place = |id: TensorId| &source.tensors[id.0 as usize];
        let superseded = patch.superseded(model);
        let mut storages: BTreeMap<usize, Vec<TensorId>> = patch
            .ids()
            .filter(|id| (id.0 as usize) < source.tensors.len() && !superseded.contains(id))
            .map(|id| (place(id).view.storage, Vec::new()))
            .collect();
        for id in (0..source.tensors.len() as u32).map(TensorId).filter(|id| !superseded.contains(id)) {
            if let Some(ids) = storages.get_mut(&place(id).view.storage) {
                ids.push(id);
            }
        }
        Self { source, model, patch, storages }
    }

    /// The bytes of a storage with the changes; `None` where there are none.
    ///
    /// # Errors
    /// `Unsupported` where tensors that share bytes change differently.
    pub(super) fn content(&self, storage: usize) -> Result<Option<Vec<u8>>> {
        let Some(ids) = self.storages.get(&storage) else { return Ok(None) };
        let old = &self.source.storages.get(storage).bytes[..];
        if let &[id] = &ids[..]
            && self.view(id).is_contiguous()
            && self.view(id).extent == (0..old.len())
        {
            return self.elements(id).map(Some);
        }
        let mut new = old.to_vec();
        for &id in ids.iter().filter(|&&id| self.patch.contains(id)) {
            let elements = self.elements(id)?;
            self.view(id).scatter(&elements, &mut new);
            // Elements may share bytes with each other.
            if !self.view(id).is_contiguous() && self.view(id).gather(&new) != elements {
                let message = "repeats elements (`.expand()`): change the repeated ones alike";
                return Err(Error::unsupported(message).at_tensor(self.path(id)));
            }
        }
        // Of tensors that share bytes the last one's are there now: they are to be the others' too.
        for (id, other) in self.touching(ids) {
            let expected = match self.patch.contains(id) {
                true => self.elements(id)?,
                false => self.view(id).gather(old),
            };
            if self.view(id).gather(&new) != expected {
                let other = self.path(other);
                let message = format!("shares its bytes with tensor `{other}`: change both alike or neither");
                return Err(Error::unsupported(message).at_tensor(self.path(id)));
            }
        }
        Ok(Some(new))
    }

    fn path(&self, id: TensorId) -> &str {
        &self.model.tensor(id).path
    }

    fn view(&self, id: TensorId) -> &View {
        &self.source.tensors[id.0 as usize].view
    }

    fn elements(&self, id: TensorId) -> Result<Vec<u8>> {
        encode(self.patch.load(self.model, id)?.data())
    }

    /// The tensors of a storage that reach into what another one reaches into, each with one of those: a
    /// changed one where there is one.
    fn touching(&self, ids: &[TensorId]) -> BTreeMap<TensorId, TensorId> {
        let mut sorted: Vec<TensorId> =
            ids.iter().copied().filter(|&id| !self.view(id).extent.is_empty()).collect();
        sorted.sort_by_key(|&id| self.view(id).extent.start);
        let mut touching = BTreeMap::new();
        // The one with the furthest end so far, and of the changed ones.
        let (mut furthest, mut changed): (Option<TensorId>, Option<TensorId>) = (None, None);
        let end = |id: TensorId| self.view(id).extent.end;
        for id in sorted {
            let reaches = |other: &TensorId| end(*other) > self.view(id).extent.start;
            for other in changed.filter(reaches).into_iter().chain(furthest.filter(reaches)) {
                touching.entry(id).or_insert(other);
                touching.entry(other).or_insert(id);
            }
            furthest = furthest.into_iter().chain([id]).max_by_key(|&id| end(id));
            if self.patch.contains(id) {
                changed = changed.into_iter().chain([id]).max_by_key(|&id| end(id));
            }
        }
        touching
    }
}
