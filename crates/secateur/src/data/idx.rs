//! The idx files of MNIST.
//!
//! Two zero bytes, a type byte, the number of axes, each extent as a big-endian u32, the elements
//! big-endian: <http://yann.lecun.com/exdb/mnist/>.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use secateur_model::{DType, Error, Result};

use super::array::{Array, byte_len, swap_bytes};

/// Whether bytes look like the beginning of an idx file.
pub(super) fn is_idx(head: &[u8]) -> bool {
    matches!(head, [0, 0, kind, axes, ..] if dtype(*kind).is_some() && *axes > 0)
}

fn dtype(kind: u8) -> Option<DType> {
    Some(match kind {
        0x08 => DType::U8,
        0x09 => DType::I8,
        0x0b => DType::I16,
        0x0c => DType::I32,
        0x0d => DType::F32,
        0x0e => DType::F64,
        _ => return None,
    })
}

fn header(head: &[u8]) -> Result<(DType, Vec<usize>, usize)> {
    let &[0, 0, kind, axes, ..] = head else {
        return Err(Error::input("is not an idx file: it does not begin with two zero bytes"));
    };
    let dtype = dtype(kind).ok_or_else(|| {
        Error::input(format!("idx type {kind:#04x}; known are 0x08, 0x09 and 0x0b to 0x0e: damaged?"))
    })?;
    let start = 4 + 4 * axes as usize;
    let extents = head.get(4..start).ok_or_else(|| {
        Error::input(format!("the idx header has {axes} axes and is cut off after {} bytes", head.len()))
    })?;
    let shape = extents.chunks_exact(4).map(|e| u32::from_be_bytes([e[0], e[1], e[2], e[3]]) as usize);
    Ok((dtype, shape.collect(), start))
}

/// Reads the array of an idx file. Elements of one byte are not copied.
///
/// # Errors
/// Where the header is damaged or the length is not what it says.
pub fn read_idx(bytes: Bytes) -> Result<Array> {
    let (dtype, shape, start) = header(&bytes)?;
    // Checks the length before anything is copied.
    let array = Array::new(dtype, shape.clone(), bytes.slice(start..))?;
    match dtype.bits() / 8 {
        1 => Ok(array),
        width => Array::new(dtype, shape, swap_bytes(bytes.slice(start..), width)),
    }
}

/// The length of the whole file by its header; `head` holds the header at least.
pub(super) fn declared_len(head: &[u8]) -> Result<u64> {
    let (dtype, shape, start) = header(head)?;
    Ok(start as u64 + byte_len(dtype, &shape)? as u64)
}

/// The file of labels next to a file of images, as MNIST and its relatives name them
/// (`t10k-images-idx3-ubyte` → `t10k-labels-idx1-ubyte`, with or without `.gz`), where it exists.
pub(super) fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    if !name.contains("images") {
        return None;
    }
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    let other = labels.strip_suffix(".gz").map_or_else(|| format!("{labels}.gz"), str::to_string);
    [labels, other].into_iter().map(|n| images.with_file_name(n)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_big_endian() {
        let mut file = vec![0, 0, 0x0c, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        file.extend([0, 0, 1, 0, 255, 255, 255, 255]);
        let array = read_idx(file.into()).unwrap();
        assert_eq!(array.shape(), [1, 2]);
        assert_eq!(array.row(0).unwrap().to_i64s().unwrap(), [256, -1]);
    }

    #[test]
    fn wrong_files_are_named_errors() {
        let error = |file: &[u8]| read_idx(Bytes::copy_from_slice(file)).unwrap_err().to_string();
        assert!(error(b"").contains("two zero bytes"));
        assert!(error(&[0, 0, 7, 1]).contains("0x07"));
        assert!(error(&[0, 0, 8, 3, 0, 0]).contains("cut off"));
        assert!(error(&[0, 0, 8, 1, 0, 0, 0, 5, 1, 2]).contains("takes 5 bytes, found 2"));
        assert!(error(&[&[0, 0, 8, 8][..], &[255; 32]].concat()).contains("does not fit"));
    }
}
