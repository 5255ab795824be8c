//! Sizes of files, compressed and not.

use std::io::Write;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::number;

/// Sizes of the written model file, or of a tensor, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// As written.
    pub raw: u64,
    /// After gzip.
    pub gzip: u64,
    /// After zstd.
    pub zstd: u64,
    /// With its tensors packed bit for bit, as `secateur pack` stores them; not known of runs that were written
    /// before there was packing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<u64>,
    /// The entropy bound: [`super::Count::entropy_bytes`] of each selected tensor plus everything else as it is.
    #[serde(with = "number")]
    pub entropy: f64,
}

impl Bytes {
    /// As written, after gzip and zstd, packed, the entropy bound: what tables show of a size, in their order.
    pub fn all(&self) -> [Option<f64>; 5] {
        let counts = [Some(self.raw), Some(self.gzip), Some(self.zstd), self.packed];
        let [raw, gzip, zstd, packed] = counts.map(|count| count.map(|bytes| bytes as f64));
        [raw, gzip, zstd, packed, Some(self.entropy)]
    }
}

/// The sizes of what is written, after gzip and after zstd at their default levels; the others are left at the size
/// as it is written, which `write` tells.
///
/// # Errors
/// Those of `write`.
pub fn compressed(write: impl Fn(&mut dyn Write) -> Result<u64> + Sync) -> Result<Bytes> {
    let failed = |e: std::io::Error| Error::internal(format!("compressing: {e}"));
    // Each encoder has it written anew: that is cheap beside compressing, and both run at a time.
    let (gzip, zstd) = rayon::join(
        || -> Result<(u64, u64)> {
            let mut encoder = flate2::write::GzEncoder::new(Counter(0), flate2::Compression::default());
            let raw = write(&mut encoder)?;
            Ok((raw, encoder.finish().map_err(failed)?.0))
        },
        || -> Result<u64> {
            let mut encoder =
                zstd::Encoder::new(Counter(0), zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed)?;
            write(&mut encoder)?;
            Ok(encoder.finish().map_err(failed)?.0)
        },
    );
    let (raw, gzip) = gzip?;
    Ok(Bytes { raw, gzip, zstd: zstd?, packed: Some(raw), entropy: raw as f64 })
}

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
