//! Files compressed as a whole: `model.onnx.zst`, `model.safetensors.gz`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::{Error, Result};

/// A way to compress a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip at its default level.
    Gzip,
    /// zstd at its default level.
    Zstd,
}

/// Up to how many times its size a file may unpack to: weights of which 99.5 % are zero stay far below.
const LARGEST_RATIO: u64 = 250;
/// Up to which size a file may unpack to whatever the ratio, in bytes.
const SMALL: u64 = 1 << 28;

/// How much a file of so many bytes may unpack to, in bytes: 250 times its size, or 256 MiB where that is
/// more. One bound for models, arrays and pictures, compressed in whatever way.
pub fn unpack_limit(packed: usize) -> u64 {
    SMALL.max((packed as u64).saturating_mul(LARGEST_RATIO))
}

impl Compression {
    /// All.
    pub const ALL: &'static [Compression] = &[Compression::Gzip, Compression::Zstd];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// The ending of file names.
    pub fn extension(self) -> &'static str {
        match self {
            Compression::Gzip => "gz",
            Compression::Zstd => "zst",
        }
    }

    /// What the ending of a name says.
    pub fn of_name(path: &Path) -> Option<Self> {
        let ending = path.extension()?;
        Self::ALL.iter().copied().find(|c| ending == c.extension())
    }

    /// The name with the ending, which is there once.
    pub fn named(self, path: &Path) -> PathBuf {
        if Self::of_name(path) == Some(self) {
            return path.to_path_buf();
        }
        let mut name = path.as_os_str().to_os_string();
        name.push(".");
        name.push(self.extension());
        name.into()
    }

    /// What the first bytes say.
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, 8, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Unpacks a file into memory.
    ///
    /// # Errors
    /// `Input` where it is damaged, or unpacks to more than weights could.
    pub(super) fn unpack(self, bytes: &[u8]) -> Result<Bytes> {
        let limit = unpack_limit(bytes.len());
        let mut unpacked = Vec::new();
        let read = match self {
            Compression::Gzip => {
                flate2::read::MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut unpacked)
            }
            Compression::Zstd => zstd::Decoder::new(bytes)
                .and_then(|decoder| decoder.take(limit + 1).read_to_end(&mut unpacked)),
        };
        let name = self.name();
        read.map_err(|e| Error::input(format!("cannot be unpacked as {name}, damaged or cut off: {e}")))?;
        if unpacked.len() as u64 > limit {
            return Err(Error::input(format!(
                "unpacks to more than {LARGEST_RATIO} times its size, which weights do not: unpack it by hand \
                 where it is to be trusted"
            )));
        }
        Ok(unpacked.into())
    }

    /// Compresses what `fill` writes; returns what it returns.
    ///
    /// # Errors
    /// `Io` where writing fails, and those of `fill`.
    pub fn pack<T>(self, out: &mut dyn Write, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        let failed = |e: io::Error| Error::new(crate::ErrorKind::Io, format!("compressing failed: {e}"));
        match self {
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                let filled = fill(&mut encoder)?;
                encoder.finish().map_err(failed)?;
                Ok(filled)
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed)?;
                // A sum over the content, so that damage is noticed.
                encoder.include_checksum(true).map_err(failed)?;
                let filled = fill(&mut encoder)?;
                encoder.finish().map_err(failed)?;
                Ok(filled)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(compression: Compression, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compression.pack(&mut out, |out| out.write_all(content).map_err(|e| Error::io("out", e))).unwrap();
        out
    }

    #[test]
    fn what_is_packed_unpacks() {
        let content: Vec<u8> = (0..100_000u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
        for &compression in Compression::ALL {
            let packed = packed(compression, &content);
            assert_eq!(Compression::of_bytes(&packed), Some(compression));
            assert_eq!(compression.unpack(&packed).unwrap(), content);
            for cut in [3, 20, packed.len() / 2, packed.len() - 1] {
                assert!(compression.unpack(&packed[..cut]).is_err(), "{compression:?} cut at {cut}");
            }
            let mut flipped = packed.clone();
            flipped[packed.len() / 2] ^= 0x10;
            assert!(compression.unpack(&flipped).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        for &compression in Compression::ALL {
            let bomb = packed(compression, &vec![0; SMALL as usize + 1]);
            assert!(compression.unpack(&bomb).unwrap_err().to_string().contains("times its size"));
        }
    }

    #[test]
    fn endings() {
        let name = Compression::Zstd.named(Path::new("a/b.onnx"));
        assert_eq!(name, Path::new("a/b.onnx.zst"));
        assert_eq!(Compression::Zstd.named(&name), name);
        assert_eq!(Compression::of_name(&name), Some(Compression::Zstd));
        assert_eq!(Compression::of_name(Path::new("b.onnx")), None);
    }
}
