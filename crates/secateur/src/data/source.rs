//! Bytes of data files: memory-mapped where plain, unpacked within a limit where gzipped.

use std::io::{ErrorKind, Read};
use std::path::Path;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use secateur_model::io::{mmap, unpack_limit};
use secateur_model::{Error, Result};

/// Deflate's best ratio is 258 bytes for two bits; a file that claims more is damaged.
const DEFLATE_MAX_RATIO: u64 = 1032;

/// The content of a file as stored.
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

/// All bytes, unpacked where they are gzipped; `declared` is the length the unpacked header claims. More than
/// [`unpack_limit`] are refused.
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
            "the header claims {declared} bytes, more than {} gzipped bytes can hold",
            bytes.len()
        )));
    }
    let limit = unpack_limit(bytes.len());
    match declared {
        Some(declared) if declared > limit => Err(too_large(bytes.len())),
        Some(declared) => inflate(&bytes, declared + 1),
        None => {
            let unpacked = inflate(&bytes, limit + 1)?;
            if unpacked.len() as u64 > limit { Err(too_large(bytes.len())) } else { Ok(unpacked) }
        }
    }
}

/// Reads at most `limit` bytes from a gzip stream, growing with the data read.
fn inflate(bytes: &[u8], limit: u64) -> Result<Bytes> {
    read_at_most(MultiGzDecoder::new(bytes), limit, "gzip data")
}

/// Reads at most `limit` bytes of compressed data, growing with the data read.
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

/// The error for compressed bytes that unpack to more than [`unpack_limit`].
pub(super) fn too_large(packed: usize) -> Error {
    Error::unsupported(format!(
        "unpacks to more than {} MiB, the most that {packed} compressed bytes may; store it uncompressed where it \
         is to be trusted",
        unpack_limit(packed) >> 20
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
        assert!(error.contains("gzipped bytes can hold"), "{error}");
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
    fn a_bomb_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&vec![0; (256 << 20) + 1]).unwrap();
        let bomb = Bytes::from(encoder.finish().unwrap());
        for declared in [None, Some((256 << 20) + 1)] {
            let error = unpack(bomb.clone(), declared).err().map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|e| e.contains("more than 256 MiB")), "{error:?}");
        }
    }

    #[test]
    fn several_members_are_one_stream() {
        let two = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(&unpack(two.into(), None).unwrap()[..], b"abcd");
    }
}
