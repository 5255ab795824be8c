//! The source's bytes with the changed storages in their places.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::Range;

use super::METADATA;
use super::archive::{Archive, Record, SUM_IN_DIRECTORY, SUM_IN_HEADER};
use super::records::Records;
use super::write::{Changes, metadata_json};
use crate::io::failed;
use crate::{Error, Result};

/// What stands at a place of the file.
#[derive(Clone, Copy)]
enum Patch {
    /// The bytes of a storage.
    Storage(usize),
    /// The CRC-32 of them.
    Sum(usize),
}

/// Writes the source's bytes with the changed storages, one in memory at a time, their sums, and the
/// metadata where it changes.
///
/// # Errors
/// As [`super::write::write_stream`].
pub(super) fn write(
    changes: &Changes<'_>,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let source = changes.source;
    let mut splice = Splice { changes, patches: BTreeMap::new(), content: None, sums: HashMap::new() };
    for &storage in changes.storages.keys() {
        let Some(place) = source.storages.get(storage).place.clone().filter(|place| !place.is_empty()) else {
            continue;
        };
        splice.patches.insert(place.start, Patch::Storage(storage));
        let record = source.archive.as_ref().and_then(|archive| {
            archive.entries.get(&archive.name(&format!("data/{}", source.storages.key(storage))))
        });
        let at_sum = record.into_iter().flat_map(|record| sums(&source.bytes, record));
        splice.patches.extend(at_sum.map(|at| (at, Patch::Sum(storage))));
    }
    let put = |bytes: &[u8], out: &mut dyn Write| out.write_all(bytes).map_err(failed);
    let end = source.bytes.len();
    match &source.archive {
        Some(archive) if metadata != source.metadata => {
            let old = archive.entries.get(&archive.name(METADATA));
            // A record at the end makes place for its successor; what is elsewhere stays as dead bytes.
            let last = archive.entries.values().map(|record| record.header).max();
            let kept = old.filter(|old| Some(old.header) == last).map_or(archive.directory, |old| old.header);
            splice.copy(0..kept, &mut |bytes| put(bytes, out))?;
            let (directory, count) = splice.directory(archive, old)?;
            let mut records = Records::behind(out, &archive.folder, kept as u64, directory, count);
            if !metadata.is_empty() {
                records.whole(METADATA, &metadata_json(metadata)?)?;
            }
            records.finish()
        }
        _ => {
            splice.copy(0..end, &mut |bytes| put(bytes, out))?;
            Ok(end as u64)
        }
    }
}

/// The places where the sum of a record's content stands, as far as it is there: a writer may leave it
/// out of the header.
fn sums(bytes: &[u8], record: &Record) -> impl Iterator<Item = usize> {
    let sum = record.crc.to_le_bytes();
    let in_header = record.header + SUM_IN_HEADER;
    let stated = bytes.get(in_header..).is_some_and(|rest| rest.starts_with(&sum)) && record.crc != 0;
    [stated.then_some(in_header), record.descriptor, Some(record.central + SUM_IN_DIRECTORY)]
        .into_iter()
        .flatten()
}

struct Splice<'a> {
    changes: &'a Changes<'a>,
    /// By where they begin.
    patches: BTreeMap<usize, Patch>,
    /// The last storage that was made.
    content: Option<(usize, Vec<u8>)>,
    sums: HashMap<usize, u32>,
}

impl Splice<'_> {
    /// Gives a part of the file, with what changes in it; no patch reaches over its ends.
    fn copy(&mut self, range: Range<usize>, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = &self.changes.source.bytes;
        let patches: Vec<(usize, Patch)> =
            self.patches.range(range.clone()).map(|(&at, &p)| (at, p)).collect();
        let mut at = range.start;
        for (start, patch) in patches {
            sink(&bytes[at..start])?;
            at = start;
            match patch {
                Patch::Storage(storage) => {
                    let content = self.content(storage)?;
                    sink(content)?;
                    at += content.len();
                    self.content = None;
                }
                Patch::Sum(storage) => {
                    if !self.sums.contains_key(&storage) {
                        self.content(storage)?;
                    }
                    sink(&self.sums[&storage].to_le_bytes())?;
                    at += 4;
                }
            }
        }
        sink(&bytes[at..range.end])
    }

    fn content(&mut self, storage: usize) -> Result<&[u8]> {
        if self.content.as_ref().is_none_or(|(made, _)| *made != storage) {
            let content = self.changes.content(storage)?.ok_or_else(|| Error::internal("nothing changes"))?;
            self.sums.insert(storage, crc32fast::hash(&content));
            self.content = Some((storage, content));
        }
        self.content
            .as_ref()
            .map(|(_, content)| &content[..])
            .ok_or_else(|| Error::internal("nothing changes"))
    }

    /// The directory's entries, without one, and their number.
    fn directory(&mut self, archive: &Archive, without: Option<&Record>) -> Result<(Vec<u8>, u64)> {
        let source = self.changes.source;
        let mut starts: Vec<usize> = archive.entries.values().map(|record| record.central).collect();
        starts.sort_unstable();
        let mut directory = Vec::new();
        let mut count = 0;
        for start in starts.into_iter().filter(|&start| without.is_none_or(|record| record.central != start))
        {
            // The lengths of name, extra fields and comment, all behind the fixed part.
            let length = |at: usize| {
                let bytes = source.bytes.get(start + at..start + at + 2)?;
                Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
            };
            let end = length(28)
                .zip(length(30))
                .zip(length(32))
                .map(|((name, extra), comment)| start + 46 + name + extra + comment);
            let end = end.filter(|&end| end <= source.bytes.len());
            let end = end.ok_or_else(|| Error::input("the directory of the zip archive is cut off"))?;
            self.copy(start..end, &mut |bytes| {
                directory.extend(bytes);
                Ok(())
            })?;
            count += 1;
        }
        Ok((directory, count))
    }
}
