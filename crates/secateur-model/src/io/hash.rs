//! What a model was read from, as one number.

use sha2::{Digest, Sha256};

use crate::model::Entry;
use crate::{Error, Model, Result};

/// The SHA-256 of what a model was read from, in hexadecimal: of the file, so that `sha256sum` gives
/// the same (of its content where it is compressed). Where the model is several files, of the text made
/// of such a line for each file without its name: the ONNX model, then its external files in the order
/// in which reading meets them (initializers before nodes); the shards of a folder by name.
/// `sha256sum FILE... | cut -d' ' -f1 | sha256sum` gives the same.
///
/// # Errors
/// Where the model was made in memory.
pub fn content_hash(model: &Model) -> Result<String> {
    match &model.source.files()[..] {
        [] => Err(Error::unsupported("the model was made in memory and not read from a file")),
        [file] => Ok(sha256(file)),
        files => {
            let lines: String = files.iter().map(|file| sha256(file) + "\n").collect();
            Ok(sha256(lines.as_bytes()))
        }
    }
}

/// The SHA-256 of tensors, in hexadecimal: of their paths, types, shapes and elements, in the order given,
/// whatever file holds them. So a model that is to be written has it already, and the file that was written
/// has the same. One tensor at a time is in memory.
///
/// # Errors
/// Where a tensor cannot be computed or decoded.
pub fn tensors_hash<'a>(tensors: impl IntoIterator<Item = &'a Entry<'a>>) -> Result<String> {
    let mut hash = Sha256::new();
    for tensor in tensors {
        // Each part with its length before it, so that no two lists of tensors give the same bytes.
        let shape: Vec<u64> = tensor.shape.iter().map(|&extent| extent as u64).collect();
        for text in [tensor.path, tensor.dtype.name()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.update((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|extent| hash.update(extent.to_le_bytes()));
        tensor.write(&mut |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
    }
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sha_256_of_the_standard() {
        // FIPS 180-4, the example of one block.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }
}
