//! The zip archive of a checkpoint since PyTorch 1.6: a folder with the pickle `data.pkl` and a record for
//! each storage, `data/<key>`.

use std::io::{Cursor, Read};
use std::ops::Range;

use bytes::Bytes;
use indexmap::IndexMap;
use zip::{CompressionMethod, ZipArchive};

use crate::io::unpack_limit;
use crate::{Error, Result, ResultExt};

/// How every entry of a zip archive begins.
pub(super) const LOCAL: &[u8] = b"PK\x03\x04";
/// How the sums and sizes behind an entry begin, where they have a mark.
pub(super) const DESCRIPTOR: &[u8] = b"PK\x07\x08";

/// Where everything is in an archive. Entries overlap neither each other nor the directory behind them.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    /// The folder in which everything stands.
    pub(super) folder: String,
    /// The entries by full name, in the directory's order.
    pub(super) entries: IndexMap<String, Record>,
    /// Where the directory begins.
    pub(super) directory: usize,
}

/// An entry of an archive.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Where its header begins.
    pub(super) header: usize,
    /// The bytes of its content, perhaps compressed.
    pub(super) data: Range<usize>,
    /// Where the sum of the content is stored again behind it, and where all of the entry ends.
    pub(super) descriptor: Option<usize>,
    pub(super) end: usize,
    /// Where it stands in the directory.
    pub(super) central: usize,
    /// The CRC-32 of the content, as the directory has it.
    pub(super) crc: u32,
    compressed: bool,
    /// The size of the content.
    size: u64,
}

/// An archive while it is read.
pub(super) struct Opened<'a> {
    pub(super) archive: Archive,
    bytes: &'a Bytes,
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// What may still be unpacked, in bytes.
    budget: u64,
}

impl<'a> Opened<'a> {
    /// Reads the directory.
    ///
    /// # Errors
    /// `Input` where the archive is damaged or no checkpoint; `Unsupported` for TorchScript.
    pub(super) fn new(bytes: &'a Bytes) -> Result<Self> {
        let damaged = |e: zip::result::ZipError| {
            Error::input(format!("is not a whole zip archive, as PyTorch writes it: {e}; cut off?"))
        };
        let mut zip = ZipArchive::new(Cursor::new(&bytes[..])).map_err(damaged)?;
        if zip.has_duplicate_names() || zip.offset() != 0 {
            return Err(Error::input(
                "is a zip archive with something before it, or with two entries of one name: not as PyTorch writes it",
            ));
        }
        let mut entries = IndexMap::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let range = entry.data_start().and_then(|start| {
                let end = start.checked_add(entry.compressed_size())?;
                Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
            });
            let data = range.filter(|range| range.end <= bytes.len()).ok_or_else(|| {
                Error::input("reaches beyond the end of the file: cut off?").at(record(&name))
            })?;
            let header = usize::try_from(entry.header_start()).unwrap_or(usize::MAX);
            let flags = bytes.get(header.saturating_add(6)).copied().unwrap_or(0);
            let crc = entry.crc32();
            let (descriptor, end) = descriptor(bytes, flags, data.end, crc);
            let found = Record {
                header,
                descriptor,
                end,
                central: usize::try_from(entry.central_header_start()).unwrap_or(usize::MAX),
                crc,
                compressed: entry.compression() != CompressionMethod::Stored || entry.encrypted(),
                size: entry.size(),
                data,
            };
            entries.insert(name, found);
        }
        let directory = usize::try_from(zip.central_directory_start()).unwrap_or(usize::MAX);
        check_places(&entries, directory)?;
        let has = |name: &str| entries.keys().any(|entry| inner(entry).is_some_and(|n| n.starts_with(name)));
        if has("constants.pkl") || has("code/") {
            return Err(Error::unsupported(
                "is a TorchScript archive, which holds a program: store its weights alone, \
                 `torch.save(torch.jit.load(\"model.pt\").state_dict(), \"weights.pth\")`",
            ));
        }
        let folder = entries.keys().find(|name| inner(name) == Some("data.pkl"));
        let folder = folder.and_then(|name| name.split_once('/')).ok_or_else(|| {
            Error::input("is a zip archive without `data.pkl`, so no PyTorch checkpoint: unpack it first")
        })?;
        let folder = folder.0.to_string();
        let budget = unpack_limit(bytes.len());
        Ok(Self { archive: Archive { folder, entries, directory }, bytes, zip, budget })
    }

    /// The content of a record in the folder, and its place in the file where it is not compressed; `None`
    /// where there is none of this name.
    ///
    /// # Errors
    /// `Input` where it cannot be unpacked, or only into more than weights could be.
    pub(super) fn content(&mut self, name: &str) -> Result<Option<(Bytes, Option<Range<usize>>)>> {
        let full = self.archive.name(name);
        let Some((index, _, found)) = self.archive.entries.get_full(&full) else { return Ok(None) };
        if !found.compressed {
            let range = found.data.clone();
            return Ok(Some((self.bytes.slice(range.clone()), Some(range))));
        }
        let size = found.size;
        if size > self.budget {
            let message = format!("claims {size} bytes, which is more than weights unpack to");
            return Err(Error::input(message).at(record(name)));
        }
        let unpack = |zip: &mut ZipArchive<Cursor<&[u8]>>| {
            let mut content = Vec::new();
            let entry = zip.by_index(index).map_err(|e| e.to_string())?;
            entry.take(size + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
            Ok::<_, String>(content)
        };
        let content = unpack(&mut self.zip)
            .map_err(|e| Error::input(format!("cannot be unpacked: {e}")))
            .at(|| record(name))?;
        if content.len() as u64 != size {
            let message = format!("unpacks to another size than the {size} bytes it claims");
            return Err(Error::input(message).at(record(name)));
        }
        self.budget -= size;
        Ok(Some((content.into(), None)))
    }
}

impl Archive {
    /// The full name of a record in the folder.
    pub(super) fn name(&self, record: &str) -> String {
        format!("{}/{record}", self.folder)
    }
}

fn record(name: &str) -> String {
    format!("record `{name}`")
}

/// A name without the folder in which everything stands.
fn inner(name: &str) -> Option<&str> {
    name.split_once('/').map(|(_, inner)| inner)
}

/// Where the sum of the content stands in an entry of the directory, and in the header before the content.
pub(super) const SUM_IN_DIRECTORY: usize = 16;
pub(super) const SUM_IN_HEADER: usize = 14;

/// Where the sum behind an entry's content is, and where the entry ends. A sum is there where the flags
/// say so, with or without a mark before it.
fn descriptor(bytes: &[u8], flags: u8, end: usize, crc: u32) -> (Option<usize>, usize) {
    let behind = &bytes[end.min(bytes.len())..];
    if flags & 8 == 0 {
        return (None, end);
    }
    let mark = if behind.starts_with(DESCRIPTOR) { DESCRIPTOR.len() } else { 0 };
    match behind.get(mark..mark + 12) {
        Some(rest) if rest.starts_with(&crc.to_le_bytes()) => (Some(end + mark), end + mark + 12),
        _ => (None, end),
    }
}

/// Checks that entries do not overlap, and that the directory comes behind them.
fn check_places(entries: &IndexMap<String, Record>, directory: usize) -> Result<()> {
    let mut sorted: Vec<(&String, &Record)> = entries.iter().collect();
    sorted.sort_by_key(|(_, record)| record.header);
    let nexts = sorted.iter().skip(1).map(|(_, next)| next.header).chain([directory]);
    for ((name, found), next) in sorted.iter().zip(nexts) {
        if found.header > found.data.start || found.end > next || found.central < directory {
            return Err(Error::input("overlaps what follows it in the archive").at(record(name)));
        }
    }
    Ok(())
}
