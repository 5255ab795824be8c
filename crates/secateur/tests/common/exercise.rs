//! What reading untrusted data files may do with their bytes; run by `damaged_data.rs` and by the fuzz
//! targets.

use secateur::data::{Array, decode_image, read_idx, read_npy, read_npz};
use secateur_model::Result;

/// Reads bytes as an idx file.
pub(crate) fn idx(bytes: &[u8]) -> Result<()> {
    rows(&read_idx(bytes.to_vec().into())?)
}

/// Reads bytes as an npz archive where they begin as one, as an npy array otherwise.
pub(crate) fn npy(bytes: &[u8]) -> Result<()> {
    let shared = bytes.to_vec().into();
    if bytes.starts_with(b"PK") {
        return read_npz(shared)?.iter().try_for_each(|(_, array)| rows(array));
    }
    rows(&read_npy(shared)?)
}

/// Reads bytes as a picture.
pub(crate) fn picture(bytes: &[u8]) -> Result<()> {
    let image = decode_image(bytes)?;
    assert_eq!(image.pixels().len(), image.width() * image.height() * image.channels());
    Ok(())
}

fn rows(array: &Array) -> Result<()> {
    for row in (0..array.rows()).take(3) {
        assert_eq!(array.row(row)?.shape(), array.row_shape());
    }
    Ok(())
}
