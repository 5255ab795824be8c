//! Writing a zip archive as a stream, laid out as PyTorch does it: entries stored, content at multiples
//! of 64 bytes, sums behind the content.

use std::io::Write;

use super::archive::{DESCRIPTOR, LOCAL};
use crate::io::failed;
use crate::{Error, Result};

/// How the directory's entries and the marks of its end begin.
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// By which version the end for wide numbers is made, and which it needs: as PyTorch has them.
const END_VERSIONS: [u8; 4] = [30, 3, 45, 0];

/// Flags: the sums stand behind the content, names are UTF-8.
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// The first of January 1980: no times in a file.
const DATE: u16 = 1 << 5 | 1;
/// To how many bytes content is aligned, so that it can be used where it is mapped.
const ALIGNMENT: u64 = 64;

/// Takes bytes in pieces.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// An archive that is being written.
pub(super) struct Records<'a> {
    out: &'a mut dyn Write,
    /// The folder in which everything stands.
    folder: &'a str,
    /// How much is written.
    at: u64,
    /// The directory's entries so far.
    directory: Vec<u8>,
    count: u64,
}

impl<'a> Records<'a> {
    /// An archive without entries yet.
    pub(super) fn new(out: &'a mut dyn Write, folder: &'a str) -> Self {
        Self::behind(out, folder, 0, Vec::new(), 0)
    }

    /// Goes on behind so many bytes that are written already, with what the directory says of their entries
    /// and the number of these.
    pub(super) fn behind(
        out: &'a mut dyn Write,
        folder: &'a str,
        at: u64,
        directory: Vec<u8>,
        count: u64,
    ) -> Self {
        Self { out, folder, at, directory, count }
    }

    /// Writes an entry of the folder from its content.
    ///
    /// # Errors
    /// Where writing fails.
    pub(super) fn whole(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.record(name, content.len() as u64, |sink| sink(content))
    }

    /// Writes an entry of the folder, whose content is `length` bytes.
    ///
    /// # Errors
    /// Where writing fails, and those of `fill`.
    pub(super) fn record(
        &mut self,
        name: &str,
        length: u64,
        fill: impl FnOnce(Sink<'_>) -> Result<()>,
    ) -> Result<()> {
        let name = &format!("{}/{name}", self.folder);
        let header = self.at;
        let wide = length >= u32::MAX.into();
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let name_length =
            u16::try_from(name.len()).map_err(|_| Error::internal("a record's name is too long"))?;
        let sizes: &[u8] =
            if wide { &[1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
        let fixed = header + 30 + u64::from(name_length) + sizes.len() as u64 + 4;
        let padding = fixed.next_multiple_of(ALIGNMENT) - fixed;
        // Version, flags, stored, time and date: the same in both places.
        let version: u16 = if wide { 45 } else { 20 };
        let common: Vec<u8> = [version, FLAGS, 0, 0, DATE].iter().flat_map(|v| v.to_le_bytes()).collect();

        let mut bytes = [LOCAL, &common, &[0; 12]].concat();
        bytes.extend(name_length.to_le_bytes());
        bytes.extend((sizes.len() as u16 + 4 + padding as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(sizes);
        bytes.extend(b"FB");
        bytes.extend((padding as u16).to_le_bytes());
        bytes.resize(bytes.len() + padding as usize, b'Z');
        self.write(&bytes)?;

        let mut sum = crc32fast::Hasher::new();
        let start = self.at;
        fill(&mut |bytes| {
            sum.update(bytes);
            self.write(bytes)
        })?;
        if self.at - start != length {
            let message = format!("a record came out as {} bytes, expected {length}", self.at - start);
            return Err(Error::internal(message).at(format!("record `{name}`")));
        }
        let sum = sum.finalize().to_le_bytes();
        match wide {
            true => self.write(&[DESCRIPTOR, &sum, &length.to_le_bytes(), &length.to_le_bytes()].concat())?,
            false => self.write(&[DESCRIPTOR, &sum, &short(length), &short(length)].concat())?,
        }

        // What does not fit 32 bits stands in an extra field.
        let mut extra: Vec<u8> = Vec::new();
        if wide {
            extra.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        }
        if header >= u32::MAX.into() {
            extra.extend(header.to_le_bytes());
        }
        if !extra.is_empty() {
            let field = [1, extra.len() as u16].iter().flat_map(|v| v.to_le_bytes()).collect();
            extra = [field, extra].concat();
        }
        let directory = &mut self.directory;
        directory.extend([CENTRAL, &version.to_le_bytes(), &common, &sum].concat());
        directory.extend([short(length), short(length)].concat());
        directory.extend([name_length, extra.len() as u16].iter().flat_map(|v| v.to_le_bytes()));
        directory.extend([0; 10]);
        directory.extend(short(header));
        directory.extend(name.as_bytes());
        directory.extend(extra);
        self.count += 1;
        Ok(())
    }

    /// Writes the directory; gives the size of the archive.
    ///
    /// # Errors
    /// Where writing fails.
    pub(super) fn finish(mut self) -> Result<u64> {
        let (start, size) = (self.at, self.directory.len() as u64);
        let directory = std::mem::take(&mut self.directory);
        self.write(&directory)?;
        // PyTorch writes the end for wide numbers too, whatever the numbers.
        let end = self.at;
        let numbers = [self.count, self.count, size, start].map(u64::to_le_bytes).concat();
        self.write(&[END_64, &44u64.to_le_bytes(), &END_VERSIONS, &[0; 8], &numbers].concat())?;
        self.write(&[LOCATOR_64, &[0; 4], &end.to_le_bytes(), &1u32.to_le_bytes()].concat())?;
        let count = u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes();
        let [size, start] = [size, start].map(|v| u32::try_from(v).unwrap_or(u32::MAX).to_le_bytes());
        self.write(&[END, &[0; 4], &count, &count, &size, &start, &[0; 2]].concat())?;
        Ok(self.at)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(failed)
    }
}
