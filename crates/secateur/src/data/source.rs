//! Bytes of data files: memory-mapped where plain, unpacked within a limit where gzipped.

use std::io::{ErrorKind, Read};
use std::path::Path;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use secateur_model::{Error, Result, io::mmap};

/// The most bytes a compressed file may unfold to. Plain files are mapped and have no such limit.
pub(super) const MAX_UNPACKED: u64 = 4 << 30;

/// Deflate cannot do better than 258 bytes for two bits: what claims more is broken.
const DEFLATE_MAX_RATIO: u64 = 1032;

/// The content of a file as it lies on disk.
pub(super) fn map(path: &Path) -> Result<Bytes> {
    mmap::map_file(path)
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b, 8])
}

/// At most the first `count` bytes, unpacked where `bytes` are gzipped.
pub(super) fn head(bytes: &Bytes, count: usize) -> Result<Bytes> {
    if !is_gzip(bytes) {
        return Ok(bytes.slice(..count.min(bytes.len())));
    }
    inflate(bytes, count as u64)
}

/// All bytes, unpacked where they are gzipped; `declared` is the length the unpacked header claims.
///
/// A gzipped file that holds more than it declares comes back one byte too long: the format's
/// reader then reports it with its own numbers.
pub(super) fn unpack(bytes: Bytes, declared: Option<u64>) -> Result<Bytes> {
    if !is_gzip(&bytes) {
        return Ok(bytes);
    }
    if let Some(declared) = declared
        && declared > bytes.len() as u64 * DEFLATE_MAX_RATIO
    {
        return Err(Error::input(format!(
            "the header promises {declared} bytes, which {} gzipped bytes cannot hold",
            bytes.len()
        )));
    }
    match declared {
        Some(declared) if declared < MAX_UNPACKED => inflate(&bytes, declared + 1),
        _ => unpack_at_most(bytes, MAX_UNPACKED),
    }
}

/// All bytes, unpacked where they are gzipped; more than `limit` are refused.
pub(super) fn unpack_at_most(bytes: Bytes, limit: u64) -> Result<Bytes> {
    if !is_gzip(&bytes) {
        return Ok(bytes);
    }
    let unpacked = inflate(&bytes, limit + 1)?;
    if unpacked.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(unpacked)
}

/// Reads at most `limit` bytes from a gzip stream, growing with what is really there.
fn inflate(bytes: &[u8], limit: u64) -> Result<Bytes> {
    read_at_most(MultiGzDecoder::new(bytes), limit, "gzip data")
}

/// Reads at most `limit` bytes of compressed data, growing with what is really there.
pub(super) fn read_at_most(reader: impl Read, limit: u64, what: &str) -> Result<Bytes> {
    let mut out = Vec::new();
    match reader.take(limit).read_to_end(&mut out) {
        Ok(_) => Ok(out.into()),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Error::input(format!(
            "the {what} ends early, after {} unpacked bytes: truncated?",
            out.len()
        ))),
        Err(e) => Err(Error::input(format!("the {what} is corrupt after {} unpacked bytes: {e}", out.len()))),
    }
}

/// The refusal of compressed data that unfolds beyond a limit.
pub(super) fn too_large(limit: u64) -> Error {
    Error::unsupported(format!(
        "unpacks to more than {} GiB; store it uncompressed: plain files are memory-mapped",
        limit >> 30
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_stops_one_byte_after_what_is_declared() {
        let bomb = Bytes::from(gzip(&vec![0; 10 << 20]));
        assert_eq!(unpack(bomb.clone(), Some(100)).unwrap().len(), 101);
        assert_eq!(head(&bomb, 16).unwrap().len(), 16);
        let error = unpack(bomb, Some(u64::MAX / 2)).unwrap_err().to_string();
        assert!(error.contains("cannot hold"), "{error}");
    }

    #[test]
    fn truncated_and_flipped_streams_are_errors() {
        let packed = gzip(&(0..5000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let cut = Bytes::from(packed[..packed.len() / 2].to_vec());
        assert!(unpack(cut, None).unwrap_err().to_string().contains("ends early"));
        let mut flipped = packed.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1; // in the checksum
        assert!(unpack(flipped.into(), None).unwrap_err().to_string().contains("corrupt"));
    }

    #[test]
    fn several_members_are_one_stream() {
        let two = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(&unpack(two.into(), None).unwrap()[..], b"abcd");
    }
}
