//! An embedded trained model and its test data, for a first look on a fresh machine.
//!
//! How they were made, and the data's licence: `demo/README.md` in this crate.

use std::path::{Path, PathBuf};

use secateur_model::{Error, Result, io};

use crate::data::Scale;
use crate::recipe::{DataFlags, Recipe};

/// A small convolutional network trained on the UCI digits.
pub const MODEL: &[u8] = include_bytes!("../demo/digits.onnx");
/// Its 500 test images with labels.
pub const DATA: &[u8] = include_bytes!("../demo/digits-test.npz");

/// The unpacked files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The model.
    pub model: PathBuf,
    /// The test data.
    pub data: PathBuf,
}

/// Writes model and data into a folder, where they are not there yet.
///
/// # Errors
/// Where the folder cannot be written.
pub fn unpack(folder: &Path) -> Result<Files> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let files = Files { model: folder.join("digits.onnx"), data: folder.join("digits-test.npz") };
    for (path, bytes) in [(&files.model, MODEL), (&files.data, DATA)] {
        if io::read_small(path, bytes.len() as u64).is_ok_and(|found| found == bytes) {
            continue;
        }
        io::write_file(path, true, |out| out.write_all(bytes).map_err(|e| Error::io(path, e)))?;
    }
    Ok(files)
}

/// The recipe of the demo's sweep: the methods and steps of a sweep without further words.
pub fn recipe(files: &Files) -> Recipe {
    Recipe {
        data: DataFlags {
            data: vec![files.data.clone()],
            scale: Some(Scale::Factor(1.0 / 16.0)),
            ..DataFlags::default()
        },
        ..Recipe::default()
    }
}
