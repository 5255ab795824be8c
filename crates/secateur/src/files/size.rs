//! Sizes of a changed model's file and of its tensors: plain, compressed, packed, and the entropy bound.

use secateur_model::model::encode;
use secateur_model::{Error, Model, Patch, Result, TensorId, io};

use super::pack;
use crate::measure::{Bytes, Count, compressed};

/// The sizes of a pruned model's file, which is measured as it would be written; the entropy bound is of the
/// tensors that are counted, everything else as it is.
///
/// # Errors
/// Where a changed tensor cannot be computed or written.
pub fn bytes(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    counts: impl Iterator<Item = (TensorId, Count)>,
) -> Result<Bytes> {
    let sizes = sizes(model, patch, metadata)?;
    let saved = counts.map(|(id, count)| {
        pack::written_len(model, patch, id) as f64 - count.entropy_bytes(pack::value_type(model, patch, id))
    });
    Ok(Bytes { entropy: sizes.raw as f64 - saved.sum::<f64>(), ..sizes })
}

/// The size a model's file (with its external data) would have: raw, after gzip and after zstd, at
/// their default levels, and with its tensors packed. `entropy` is left at the raw size.
fn sizes(model: &Model, patch: &Patch, metadata: &[(String, String)]) -> Result<Bytes> {
    let compressed = compressed(|out| io::write_stream(model, patch, metadata, out))?;
    let saved = pack::saved(model, patch)?.bytes();
    Ok(Bytes { packed: Some(compressed.raw - saved), ..compressed })
}

/// The sizes of a tensor that counts so; `packed` is what it takes packed.
pub(crate) fn tensor_bytes(
    model: &Model,
    patch: &Patch,
    id: TensorId,
    count: Count,
    packed: u64,
) -> Result<Bytes> {
    let elements = encode(patch.load(model, id)?.data())?;
    let compressed = compressed(|out| {
        out.write_all(&elements).map_err(|e| Error::internal(format!("compressing: {e}")))?;
        Ok(elements.len() as u64)
    })?;
    let entropy = count.entropy_bytes(pack::value_type(model, patch, id));
    Ok(Bytes { packed: Some(packed), entropy, ..compressed })
}
