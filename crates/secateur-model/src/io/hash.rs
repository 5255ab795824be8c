//! What a model was read from, as one number.

use sha2::{Digest, Sha256};

use super::Source;
use crate::{Error, Model, Result};

/// The SHA-256 of what a model was read from, in hexadecimal: of the file, so that `sha256sum` gives
/// the same. Where the model has external data, of the text made of such a line for each file
/// without its name: the model, then the external files in the order in which reading meets them
/// (initializers before nodes); `sha256sum MODEL DATA... | cut -d' ' -f1 | sha256sum` gives the same.
///
/// # Errors
/// Where the model was made in memory.
pub fn content_hash(model: &Model) -> Result<String> {
    let Source::Onnx(source) = &model.source else {
        return Err(Error::unsupported("the model was made in memory and not read from a file"));
    };
    let main = sha256(&source.bytes);
    if source.external_files().is_empty() {
        return Ok(main);
    }
    let mut lines = main + "\n";
    for file in source.external_files() {
        lines += &sha256(&file.bytes);
        lines.push('\n');
    }
    Ok(sha256(lines.as_bytes()))
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
