//! The binary records of CIFAR-10 and CIFAR-100.
//!
//! A record is the label byte (CIFAR-100: the coarse and the fine label) and 3072 pixel bytes: the
//! red, green and blue planes of a 32×32 image, row-major
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>).

use bytes::Bytes;
use secateur_model::{DType, Error, Result};

use super::array::Array;

const PIXELS: usize = 3 * 32 * 32;

/// Which of the two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cifar {
    /// One label byte, 10 classes.
    Ten,
    /// Coarse label (20 classes), then the fine label (100 classes), which is the one used.
    Hundred,
}

impl Cifar {
    /// The label bytes of a record, each with its number of classes.
    fn labels(self) -> &'static [u8] {
        match self {
            Cifar::Ten => &[10],
            Cifar::Hundred => &[20, 100],
        }
    }

    fn record(self) -> usize {
        self.labels().len() + PIXELS
    }

    fn name(self) -> &'static str {
        match self {
            Cifar::Ten => "CIFAR-10",
            Cifar::Hundred => "CIFAR-100",
        }
    }

    /// The layout that fits a file's (unpacked) length and first record.
    pub(super) fn guess(bytes: &[u8]) -> Option<Cifar> {
        [Cifar::Ten, Cifar::Hundred].into_iter().find(|kind| {
            !bytes.is_empty()
                && bytes.len().is_multiple_of(kind.record())
                && kind.labels().iter().zip(bytes).all(|(classes, label)| label < classes)
        })
    }
}

/// Reads images (`[n, 3, 32, 32]` of u8) and labels (`[n]` of u8).
///
/// # Errors
/// Where the length is not a multiple of the record's or a label is out of range.
pub fn read_cifar(bytes: &[u8], kind: Cifar) -> Result<(Array, Array)> {
    let (name, record) = (kind.name(), kind.record());
    if !bytes.len().is_multiple_of(record) {
        return Err(Error::input(format!(
            "{} bytes are not a multiple of {name}'s records of {record} bytes: truncated, or another format?",
            bytes.len()
        )));
    }
    let count = bytes.len() / record;
    let mut pixels = Vec::with_capacity(count * PIXELS);
    let mut labels = Vec::with_capacity(count);
    for (index, record) in bytes.chunks_exact(record).enumerate() {
        let (head, image) = record.split_at(kind.labels().len());
        for (&label, &classes) in head.iter().zip(kind.labels()) {
            if label >= classes {
                return Err(Error::input(format!(
                    "record {index} has label {label}, but {name} has {classes} classes: damaged, or another format?"
                )));
            }
        }
        labels.push(head[head.len() - 1]);
        pixels.extend_from_slice(image);
    }
    let images = Array::new(DType::U8, vec![count, 3, 32, 32], Bytes::from(pixels))?;
    Ok((images, Array::new(DType::U8, vec![count], labels.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts() {
        let mut ten = vec![1; 2 * 3073];
        ten[3073] = 9;
        assert_eq!(Cifar::guess(&ten), Some(Cifar::Ten));
        let (images, labels) = read_cifar(&ten, Cifar::Ten).unwrap();
        assert_eq!(images.shape(), [2, 3, 32, 32]);
        assert_eq!(labels.row(1).unwrap().to_i64s().unwrap(), [9]);

        let mut hundred = vec![1; 3074];
        hundred[1] = 99;
        assert_eq!(Cifar::guess(&hundred), Some(Cifar::Hundred));
        let (_, labels) = read_cifar(&hundred, Cifar::Hundred).unwrap();
        assert_eq!(labels.row(0).unwrap().to_i64s().unwrap(), [99]);
    }

    #[test]
    fn damaged_records_are_named() {
        let mut file = vec![1; 2 * 3073];
        file[3073] = 10;
        let error = read_cifar(&file, Cifar::Ten).unwrap_err().to_string();
        assert!(error.contains("record 1 has label 10"), "{error}");
        let error = read_cifar(&file[1..], Cifar::Ten).unwrap_err().to_string();
        assert!(error.contains("not a multiple"), "{error}");
    }
}
