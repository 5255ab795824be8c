//! An embedded trained model and its test data, for a first look on a fresh machine.
//!
//! How they were made, and the data's licence: `demo/README.md` in this crate.

use std::path::{Path, PathBuf};

use secateur_model::{Error, Result, io};

use crate::data::{DataSpec, Preprocess, Scale};
use crate::eval::evaluate::EvalOptions;

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

/// Writes the model and data into a folder unless they are already there.
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

/// The factor that the pixels of [`DATA`], 0 to 16, are multiplied by.
pub const SCALE: f64 = 1.0 / 16.0;

/// How to evaluate the model on its data.
pub fn eval_options(files: &Files) -> EvalOptions {
    EvalOptions {
        data: DataSpec { paths: vec![files.data.clone()], ..DataSpec::default() },
        preprocess: Preprocess { scale: Scale::Factor(SCALE), ..Preprocess::default() },
        ..EvalOptions::default()
    }
}
