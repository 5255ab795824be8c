//! Which data to read.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use secateur_model::text::listed;
use secateur_model::{Error, Model, Result, ResultExt};
use serde::{Deserialize, Serialize};

use super::array::Array;
use super::batches::Batches;
use super::cifar::{Cifar, read_cifar};
use super::dataset::{ArrayDataset, Dataset, Joined};
use super::folder::FolderDataset;
use super::input::InputSpec;
use super::preprocess::Preprocess;
use super::sampling::Sampling;
use super::{idx, npy, source};

type Arrays = Vec<(String, Array)>;

/// The names of an array of labels in an `.npz` file.
const LABEL_NAMES: [&str; 3] = ["y", "label", "labels"];

/// Which data to read. Every file may be gzipped, which is detected from its content.
///
/// ```no_run
/// # fn main() -> secateur_model::Result<()> {
/// use secateur::data::{DataSpec, Dataset};
/// let spec = DataSpec { paths: vec!["test_batch.bin.gz".into()], ..DataSpec::default() };
/// let data = spec.open()?;
/// println!("{} samples, the first of class {:?}", data.len(), data.label(0)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSpec {
    /// Files or folders of one format, their samples one after the other.
    pub paths: Vec<PathBuf>,
    /// Where the labels are: the name of an array in the `.npz` file (`y`, `label` or `labels` are
    /// found by default), or a file of labels (idx or npy) for a single idx or npy file. `prefix` takes
    /// the labels of images from their names without an order file. By default: beside an idx file
    /// by the names of MNIST, inside CIFAR's records, by folder or prefix for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// The format; detected from names and content by default.
    pub format: Format,
    /// The file that lists the classes of images in the order of the model's outputs, one per line
    /// (further words of a line are ignored); `classes.txt` in the folder by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// The model's input the samples are for, where it has several and the data do not name it (all
    /// formats but `.npz`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

/// What a training or a calibration reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainData {
    /// The data.
    pub data: DataSpec,
    /// From a sample to the model's input.
    pub preprocess: Preprocess,
    /// Which samples.
    pub sampling: Sampling,
}

impl TrainData {
    /// The batches that a model trains on: read and preprocessed once, for any number of trainings.
    ///
    /// # Errors
    /// Where data do not fit the model or have no labels.
    pub fn batches(&self, model: &Model) -> Result<Batches> {
        let inputs = InputSpec::of(model.graph()?)?;
        let batch = inputs.iter().find_map(InputSpec::fixed_batch);
        let sampling = Sampling { batch, ..self.sampling.clone() };
        let batches = Batches::new(self.data.open()?, self.preprocess.clone(), inputs, &sampling)?;
        if !batches.has_labels()? {
            return Err(Error::usage("the training data have no labels"));
        }
        Ok(batches)
    }
}

/// Formats of data files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Detected from names and content.
    #[default]
    Auto,
    /// NumPy's archive of named arrays.
    Npz,
    /// One NumPy array.
    Npy,
    /// MNIST's format.
    Idx,
    /// CIFAR-10's binary records.
    Cifar10,
    /// CIFAR-100's binary records, fine labels.
    Cifar100,
    /// A folder of images (JPEG, PNG, BMP, WebP, PNM).
    Images,
}

impl DataSpec {
    /// Opens the data; uncompressed files are memory-mapped.
    ///
    /// # Errors
    /// Where nothing is named, a file cannot be read, is damaged or of an unknown format, or labels
    /// do not fit the samples.
    pub fn open(&self) -> Result<Box<dyn Dataset>> {
        let mut sets = Vec::new();
        for path in &self.paths {
            sets.push(self.open_one(path).at_file(path)?);
        }
        if sets.len() > 1 {
            return Ok(Box::new(Joined::new(sets)?));
        }
        sets.pop().ok_or_else(|| Error::usage("no data are given; name a file or folder"))
    }

    fn open_one(&self, path: &Path) -> Result<Box<dyn Dataset>> {
        let name = self.input.clone().unwrap_or_default();
        if path.is_dir() {
            if !matches!(self.format, Format::Auto | Format::Images) {
                return Err(Error::usage(format!("is a folder, but {:?} data are files", self.format)));
            }
            let by_prefix = match self.labels.as_deref() {
                None => false,
                Some("prefix") => true,
                Some(other) => {
                    return Err(Error::usage(format!(
                        "`{other}` is not a source of labels for a folder: expected `prefix`"
                    )));
                }
            };
            return Ok(Box::new(FolderDataset::open(path, self.classes.as_deref(), by_prefix, name)?));
        }
        if self.classes.is_some() {
            return Err(Error::usage(
                "a list of classes (option `classes`) only applies to folders of images",
            ));
        }
        let opened = Opened::new(path, self.format)?;
        let (arrays, labels) = match opened.format {
            Format::Npz => self.split_npz(npy::read_npz(opened.bytes)?)?,
            Format::Npy => (vec![(name, npy::read_npy(opened.bytes)?)], self.label_file(path)?),
            Format::Idx => (vec![(name, idx::read_idx(opened.bytes)?)], self.label_file(path)?),
            Format::Cifar10 | Format::Cifar100 => {
                if let Some(labels) = &self.labels {
                    return Err(Error::usage(format!(
                        "option `labels={labels}` has no effect: CIFAR records contain their labels"
                    )));
                }
                let kind = if opened.format == Format::Cifar10 { Cifar::Ten } else { Cifar::Hundred };
                let (images, labels) = read_cifar(&opened.bytes, kind)?;
                (vec![(name, images)], Some(labels))
            }
            Format::Auto | Format::Images => {
                return Err(Error::unsupported(
                    "is neither npz, npy, idx nor CIFAR data; for images, give their folder",
                ));
            }
        };
        Ok(Box::new(ArrayDataset::new(arrays, labels)?))
    }

    fn split_npz(&self, mut arrays: Arrays) -> Result<(Arrays, Option<Array>)> {
        let at = match &self.labels {
            Some(name) => Some(arrays.iter().position(|(n, _)| n == name).ok_or_else(|| {
                let names: Vec<_> = arrays.iter().map(|(n, _)| n.as_str()).collect();
                Error::usage(format!(
                    "there is no array `{name}` for the labels; there are {}",
                    listed(names)
                ))
            })?),
            None => LABEL_NAMES.iter().find_map(|label| arrays.iter().position(|(n, _)| n == label)),
        };
        let labels = at.map(|at| arrays.remove(at).1);
        Ok((arrays, labels))
    }

    /// The array of labels: from the file given, or the one found next to idx images.
    fn label_file(&self, data: &Path) -> Result<Option<Array>> {
        if self.labels.is_some() && self.paths.len() > 1 {
            return Err(Error::usage(
                "one file of labels cannot label several files of data; combine them in an npz file",
            ));
        }
        let named = self.labels.as_ref().map(PathBuf::from);
        let Some(path) = named.or_else(|| idx::labels_beside(data)) else {
            return Ok(None);
        };
        let read = || {
            let opened = Opened::new(&path, Format::Auto)?;
            match opened.format {
                Format::Npy => npy::read_npy(opened.bytes),
                Format::Idx => idx::read_idx(opened.bytes),
                _ => Err(Error::unsupported("is neither an npy nor an idx file of labels")),
            }
        };
        read().at_file(&path).map(Some)
    }
}

/// A file with its format, unpacked.
struct Opened {
    format: Format,
    bytes: Bytes,
}

impl Opened {
    fn new(path: &Path, format: Format) -> Result<Opened> {
        let packed = source::map(path)?;
        let head = source::head(&packed, npy::MAX_HEADER + 12)?;
        let format = if format == Format::Auto { guess(path, &head) } else { format };
        let declared = match format {
            Format::Npy => Some(npy::declared_len(&head)?),
            Format::Idx => Some(idx::declared_len(&head)?),
            _ => None,
        };
        let bytes = source::unpack(packed, declared)?;
        let format = match format {
            Format::Auto => match Cifar::guess(&bytes) {
                Some(Cifar::Ten) => Format::Cifar10,
                Some(Cifar::Hundred) => Format::Cifar100,
                None => Format::Auto,
            },
            known => known,
        };
        Ok(Opened { format, bytes })
    }
}

/// The format by the first bytes; CIFAR's records have no magic number, so `.bin` files are recognised by
/// their length.
fn guess(path: &Path, head: &[u8]) -> Format {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    if head.starts_with(npy::MAGIC) {
        Format::Npy
    } else if head.starts_with(npy::ZIP_MAGIC) {
        Format::Npz
    } else if idx::is_idx(head) && !name.ends_with(".bin") {
        Format::Idx
    } else {
        Format::Auto
    }
}
