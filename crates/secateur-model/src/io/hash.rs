//! What a model was read from, as one number.

use sha2::{Digest, Sha256};

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

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
