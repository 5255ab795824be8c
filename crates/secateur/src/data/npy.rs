//! NumPy's array files: `.npy` and `.npz`.
//!
//! The header is the Python dictionary of numpy's [format description][spec]; only the three keys it
//! names are read, by a parser without recursion, since the text comes from a file nobody vouches for.
//!
//! [spec]: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

use std::io::{Cursor, Write};

use bytes::Bytes;
use secateur_model::io::unpack_limit;
use secateur_model::model::encode_chunks;
use secateur_model::{DType, Error, ErrorKind, Result, ResultExt, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::array::{Array, byte_len, swap_bytes, to_row_major};
use super::source;

/// What `.npy` files begin with.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// What `.npz` files, which are zip archives, begin with.
pub(super) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// The longest header that is read; numpy itself stops at 10,000 characters.
pub(super) const MAX_HEADER: usize = 1 << 16;

/// What the header says.
#[derive(Debug)]
struct Header {
    dtype: DType,
    big_endian: bool,
    column_major: bool,
    shape: Vec<usize>,
    /// Where the elements begin.
    start: usize,
}

/// Reads the array of an `.npy` file.
///
/// Supported are floats of 16, 32 and 64 bits, integers of 8 to 64 bits and booleans, of either
/// byte order, row-major or column-major, and bf16 as `ml_dtypes` saves it: two bytes of no type, `V2`. The
/// elements are not copied if they are little-endian and row-major.
///
/// # Errors
/// Where the header is damaged, the type is another one, or the length is not what the header says.
pub fn read_npy(bytes: Bytes) -> Result<Array> {
    let header = Header::parse(&bytes)?;
    let width = header.dtype.bits() / 8;
    let elements = bytes.slice(header.start..);
    // Checks the length before anything is copied.
    let array = Array::new(header.dtype, header.shape.clone(), elements.clone())?;
    if !header.big_endian && !header.column_major {
        return Ok(array);
    }
    let mut elements = elements;
    if header.big_endian {
        elements = swap_bytes(elements, width);
    }
    if header.column_major {
        elements = to_row_major(&elements, &header.shape, width);
    }
    Array::new(header.dtype, header.shape, elements)
}

/// The length of the whole file by its header; `head` holds the header at least.
pub(super) fn declared_len(head: &[u8]) -> Result<u64> {
    let header = Header::parse(head)?;
    Ok(header.start as u64 + byte_len(header.dtype, &header.shape)? as u64)
}

/// Reads the arrays of an `.npz` file, by name and in the archive's order.
///
/// # Errors
/// Where the archive or one of its arrays is damaged, encrypted, of an unknown type, or unpacks to
/// more than it declares.
pub fn read_npz(bytes: Bytes) -> Result<Vec<(String, Array)>> {
    let broken = |e: zip::result::ZipError| Error::input(format!("the zip archive is damaged: {e}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes.clone())).map_err(broken)?;
    let mut arrays = Vec::new();
    let mut budget = unpack_limit(bytes.len());
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(broken)?;
        let file = entry.name().map_err(broken)?.into_owned();
        let Some(name) = file.strip_suffix(".npy").map(str::to_string) else {
            continue;
        };
        let size = entry.size();
        let stored = (entry.compression() == CompressionMethod::Stored).then(|| entry.data_start()).flatten();
        let array = match stored {
            Some(start) => usize::try_from(start)
                .ok()
                .zip(usize::try_from(start.saturating_add(size)).ok())
                .filter(|&(start, end)| start <= end && end <= bytes.len())
                .ok_or_else(|| Error::input("reaches beyond the end of the archive: truncated?"))
                .map(|(start, end)| bytes.slice(start..end)),
            None if size > budget => Err(source::too_large(bytes.len())),
            None => {
                budget -= size;
                source::read_at_most(entry, size.saturating_add(1), "compressed data")
            }
        }
        .and_then(read_npy)
        .at(|| format!("array `{name}`"))?;
        arrays.push((name, array));
    }
    if arrays.is_empty() {
        return Err(Error::input("the archive holds no arrays (no entry ends in `.npy`)"));
    }
    Ok(arrays)
}

/// Writes a tensor as an `.npy` file: version 1, row-major, little-endian. Numbers of bf16, which numpy
/// does not have, are written as f32, which represents them exactly.
///
/// # Errors
/// `Unsupported` where numpy has no such element type; `Io` where writing fails.
pub fn write_npy(tensor: &Tensor, out: &mut dyn Write) -> Result<()> {
    let widened;
    let tensor = if tensor.dtype() == DType::BF16 {
        widened = Tensor::new(tensor.shape(), tensor.to_f32s()?)?;
        &widened
    } else {
        tensor
    };
    let dtype = tensor.dtype();
    let Some((kind, _)) = KINDS.iter().find(|(_, known)| *known == dtype) else {
        return Err(Error::unsupported(format!(
            "numpy has no element type {dtype}, so it cannot be written"
        )));
    };
    let order = if dtype.bits() == 8 { '|' } else { '<' };
    let dims: Vec<String> = tensor.shape().iter().map(|d| format!("{d},")).collect();
    let fields =
        format!("{{'descr': '{order}{kind}', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    // The elements begin at a multiple of 64 bytes, as in numpy.
    let padded = (MAGIC.len() + 4 + fields.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    let header = format!("{fields:<width$}\n", width = padded - 1);
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("writing failed: {e}"));
    out.write_all(&[MAGIC, &[1, 0], &(padded as u16).to_le_bytes(), header.as_bytes()].concat())
        .map_err(failed)?;
    encode_chunks(tensor.data(), &mut |bytes| out.write_all(bytes).map_err(failed))
}

/// Writes tensors as an `.npz` archive, uncompressed, in the order given.
///
/// # Errors
/// As [`write_npy`].
pub fn write_npz(tensors: &[(String, Tensor)], out: &mut dyn Write) -> Result<()> {
    let failed = |e: zip::result::ZipError| Error::new(ErrorKind::Io, format!("writing failed: {e}"));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    let mut archive = ZipWriter::new_stream(out);
    for (name, tensor) in tensors {
        archive.start_file(format!("{name}.npy"), options).map_err(failed)?;
        write_npy(tensor, &mut archive).at_tensor(name)?;
    }
    archive.finish().map_err(failed)?;
    Ok(())
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header> {
        let cut = || Error::input("the npy header is cut off: truncated?");
        if !bytes.starts_with(MAGIC) {
            return Err(Error::input("is not an npy array: it does not begin with `\\x93NUMPY`"));
        }
        let version = *bytes.get(6).ok_or_else(cut)?;
        let (text_start, len) = match version {
            1 => {
                let len = bytes.get(8..10).ok_or_else(cut)?;
                (10, u16::from_le_bytes([len[0], len[1]]) as usize)
            }
            2 | 3 => {
                let len = bytes.get(8..12).ok_or_else(cut)?;
                (12, u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize)
            }
            _ => return Err(Error::unsupported(format!("npy version {version}: expected 1, 2 or 3"))),
        };
        if len > MAX_HEADER {
            return Err(Error::input(format!("the npy header has {len} bytes; the limit is {MAX_HEADER}")));
        }
        let text = bytes.get(text_start..text_start + len).ok_or_else(cut)?;
        let text = std::str::from_utf8(text).map_err(|_| Error::input("the npy header is not text"))?;
        let fields = Fields::parse(text).at(|| format!("npy header `{}`", shorten(text)))?;
        let (dtype, big_endian) = element_type(&fields.descr)?;
        Ok(Header {
            dtype,
            big_endian,
            column_major: fields.fortran_order,
            shape: fields.shape,
            start: text_start + len,
        })
    }
}

fn shorten(text: &str) -> String {
    text.trim_end().chars().take(100).flat_map(char::escape_default).collect()
}

/// NumPy's names of the element types.
const KINDS: [(&str, DType); 12] = [
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("b1", DType::Bool),
];

/// The type that numpy's type string (`<f4`) names, and whether it is big-endian.
fn element_type(descr: &str) -> Result<(DType, bool)> {
    let (order, kind) = match descr.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), kind)) => (order, kind),
        _ => ("|", descr),
    };
    if matches!(kind, "V2" | "bfloat16") {
        return Ok((DType::BF16, order == ">"));
    }
    let Some(&(_, dtype)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let why = match kind.as_bytes().first() {
            Some(b'O') => " (Python objects: reading them would run code)",
            Some(b'U' | b'S') => " (text)",
            Some(b'c') => " (complex numbers)",
            _ => "",
        };
        return Err(Error::unsupported(format!(
            "arrays of numpy's type `{}`{why}; supported are f2, f4, f8, i1 to i8, u1 to u8, b1, and V2 as bf16",
            shorten(descr)
        )));
    };
    Ok((dtype, order == ">"))
}

/// The header's dictionary.
struct Fields {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Fields {
    fn parse(text: &str) -> Result<Fields> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim();
        eat(&mut rest, "{")?;
        while !rest.starts_with('}') {
            let key = string(&mut rest)?;
            eat(&mut rest, ":")?;
            match key {
                "descr" if rest.starts_with('[') => {
                    return Err(Error::unsupported("a structured type; save its fields as separate arrays"));
                }
                "descr" => descr = Some(string(&mut rest)?.to_string()),
                "fortran_order" => fortran_order = Some(boolean(&mut rest)?),
                "shape" => shape = Some(tuple(&mut rest)?),
                _ => return Err(Error::input(format!("unknown key `{}`", shorten(key)))),
            }
            if !rest.starts_with('}') {
                eat(&mut rest, ",")?;
            }
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Fields { descr, fortran_order, shape }),
            _ => Err(Error::input("`descr`, `fortran_order` or `shape` is missing")),
        }
    }
}

fn eat(rest: &mut &str, token: &str) -> Result<()> {
    *rest = rest.strip_prefix(token).ok_or_else(|| Error::input(format!("expected `{token}`")))?.trim_start();
    Ok(())
}

fn string<'a>(rest: &mut &'a str) -> Result<&'a str> {
    let quote = rest.chars().next().filter(|c| "'\"".contains(*c));
    let (value, after) = quote
        .and_then(|quote| rest[1..].split_once(quote))
        .ok_or_else(|| Error::input("expected a quoted string"))?;
    *rest = after.trim_start();
    Ok(value)
}

fn boolean(rest: &mut &str) -> Result<bool> {
    for (word, value) in [("True", true), ("False", false)] {
        if let Some(after) = rest.strip_prefix(word) {
            *rest = after.trim_start();
            return Ok(value);
        }
    }
    Err(Error::input("expected True or False"))
}

fn tuple(rest: &mut &str) -> Result<Vec<usize>> {
    let inside = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
    let (inside, after) = inside.ok_or_else(|| Error::input("expected a tuple"))?;
    *rest = after.trim_start();
    let mut dims = Vec::new();
    for dim in inside.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        // Python 2 wrote long integers as `3L`.
        let digits = dim.strip_suffix('L').unwrap_or(dim);
        dims.push(digits.parse().map_err(|_| Error::input(format!("`{}` is not an extent", shorten(dim))))?);
    }
    // NumPy allows 64 axes; real arrays have far fewer.
    if dims.len() > 64 {
        return Err(Error::input(format!("{} axes; numpy allows 64", dims.len())));
    }
    Ok(dims)
}

#[cfg(test)]
pub(super) mod tests {
    use secateur_model::Data;

    use super::*;

    /// An `.npy` file as numpy writes it.
    pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, elements: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (10 + text.len() + 1) % 64 != 0 {
            text.push(' ');
        }
        text.push('\n');
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((text.len() as u16).to_le_bytes());
        file.extend(text.as_bytes());
        file.extend(elements);
        file
    }

    fn error(file: Vec<u8>) -> String {
        read_npy(file.into()).unwrap_err().to_string()
    }

    #[test]
    fn orders_of_bytes_and_axes() {
        let values: Vec<u8> = [1i16, 2, 3, 4, 5, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        let plain = read_npy(npy(">i2", false, "(2, 3)", &values).into()).unwrap();
        assert_eq!((plain.dtype(), plain.shape()), (DType::I16, &[2, 3][..]));
        assert_eq!(plain.row(1).unwrap().to_i64s().unwrap(), [4, 5, 6]);
        // Column-major 2×3: columns are (1, 2), (3, 4), (5, 6).
        let columns = read_npy(npy(">i2", true, "(2, 3)", &values).into()).unwrap();
        assert_eq!(columns.row(0).unwrap().to_i64s().unwrap(), [1, 3, 5]);
        assert_eq!(columns.row(1).unwrap().to_i64s().unwrap(), [2, 4, 6]);
    }

    #[test]
    fn empty_and_scalar_arrays() {
        assert_eq!(read_npy(npy("<f4", false, "(0, 7)", &[]).into()).unwrap().rows(), 0);
        let scalar = read_npy(npy("|u1", true, "()", &[9]).into()).unwrap();
        assert_eq!(scalar.row(0).unwrap().to_i64s().unwrap(), [9]);
    }

    #[test]
    fn what_is_written_is_what_numpy_writes_and_is_read_back() {
        let mut written = Vec::new();
        write_npy(&Tensor::new([2, 1], vec![1f32, -2.0]).unwrap(), &mut written).unwrap();
        let elements: Vec<u8> = [1f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(written.len(), 128 + 8);
        assert_eq!(written[128..], elements);
        assert!(written[127] == b'\n' && written.starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4'"));
        let f8 = Tensor::from_data([1], Data::Raw(DType::F8E4M3FN, vec![0])).unwrap();
        assert!(write_npy(&f8, &mut Vec::new()).unwrap_err().to_string().contains("no element type"));
    }

    #[test]
    fn bf16_is_read_as_ml_dtypes_saves_it_and_written_as_f32() {
        let bf16 = Tensor::new([3], [1.0, -0.5, 3.0].map(half::bf16::from_f32).to_vec()).unwrap();
        for descr in ["<V2", "|V2", "bfloat16"] {
            let file = npy(descr, false, "(3,)", &[0x80, 0x3f, 0x00, 0xbf, 0x40, 0x40]);
            assert_eq!(read_npy(file.into()).unwrap().to_tensor().unwrap(), bf16);
        }
        let mut file = Vec::new();
        write_npy(&bf16, &mut file).unwrap();
        let back = read_npy(file.into()).unwrap().to_tensor().unwrap();
        assert_eq!(back, Tensor::vector(vec![1f32, -0.5, 3.0]));

        let scalar = Tensor::from_data([], Data::Bool(vec![true])).unwrap();
        let halves = Tensor::new([3], [1.0, 0.5, -0.0].map(half::f16::from_f32).to_vec()).unwrap();
        let tensors =
            [("a/b:0".to_string(), scalar), ("empty".into(), Tensor::new([0, 3], vec![0i64; 0]).unwrap())];
        let mut archive = Vec::new();
        write_npz(&[&tensors[..], &[("half".into(), halves.clone())]].concat(), &mut archive).unwrap();
        let read = read_npz(archive.into()).unwrap();
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a/b:0", "empty", "half"]);
        assert_eq!((read[0].1.dtype(), read[0].1.shape()), (DType::Bool, &[][..]));
        assert_eq!(read[1].1.shape(), [0, 3]);
        assert_eq!(read[2].1.to_tensor().unwrap(), halves);
    }

    #[test]
    fn wrong_files_are_named_errors() {
        assert!(error(npy("<f4", false, "(2, 2)", &[0; 15])).contains("takes 16 bytes, found 15"));
        assert!(error(npy("<f4", false, "(2, 2)", &[0; 17])).contains("takes 16 bytes, found 17"));
        assert!(error(npy("|O", false, "(2,)", &[0; 16])).contains("run code"));
        assert!(error(npy("<U3", false, "(2,)", &[0; 24])).contains("text"));
        assert!(error(npy("<f4", false, "(-1, 2)", &[])).contains("is not an extent"));
        let huge = "(18446744073709551615, 2)";
        assert!(error(npy("<f4", false, huge, &[])).contains("does not fit into memory"));
        let mut cut = npy("<f4", false, "(1,)", &[0; 4]);
        cut.truncate(40);
        assert!(error(cut).contains("cut off"));
        let nested = "(".repeat(3000);
        assert!(error(npy("<f4", false, &nested, &[])).contains("expected a tuple"));
    }
}
