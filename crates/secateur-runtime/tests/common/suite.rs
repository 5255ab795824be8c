//! ONNX's own backend tests: each case's files, and when two tensors count as equal.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use secateur_model::io::onnx;
use secateur_model::{Data, Tensor, with_elements};

/// Tolerances of the suite itself.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

fn data_folder() -> PathBuf {
    std::env::var_os("SECATEUR_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from)
}

/// The files of each case, by the case's name.
pub(crate) fn cases() -> Option<BTreeMap<String, BTreeMap<String, Vec<u8>>>> {
    let path = data_folder().join("onnx-node-tests.tar.xz");
    let Ok(file) = std::fs::File::open(&path) else {
        println!("skipped: {} is not there", path.display());
        return None;
    };
    let mut tar = Vec::new();
    lzma_rs::xz_decompress(&mut std::io::BufReader::new(file), &mut tar).expect("the archive unpacks");
    let mut cases: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let (case, file) = match path.find("/model.onnx").or_else(|| path.find("/test_data_set_")) {
            Some(at) => (&path[..at], path[at + 1..].to_string()),
            None => continue,
        };
        // `node/test_abs`, `pytorch-operator/test_operator_add`, …
        let case = case.split_once('/').map_or(case, |(_, c)| c).to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("an entry's bytes");
        if !bytes.is_empty() {
            cases.entry(case).or_default().insert(file, bytes);
        }
    }
    Some(cases)
}

/// The tensors of one kind in a data set.
pub(crate) fn tensors(
    files: &BTreeMap<String, Vec<u8>>,
    set: &str,
    kind: &str,
) -> Result<Vec<Tensor>, String> {
    (0..)
        .map_while(|i| files.get(&format!("{set}/{kind}_{i}.pb")))
        .map(|bytes| onnx::read_tensor(bytes.clone().into()).map_err(|e| e.to_string()))
        .collect()
}

pub(crate) fn close(ours: &Tensor, expected: &Tensor) -> Result<(), String> {
    if ours.shape() != expected.shape() || ours.dtype() != expected.dtype() {
        return Err(format!(
            "{} {:?}, expected {} {:?}",
            ours.dtype(),
            ours.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    let floats = |t: &Tensor| -> Option<Vec<f64>> {
        match t.data() {
            Data::F32(v) => Some(v.iter().map(|&x| x.into()).collect()),
            Data::F64(v) => Some(v.clone()),
            Data::F16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            Data::BF16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            _ => None,
        }
    };
    let Some((a, b)) = floats(ours).zip(floats(expected)) else {
        let same =
            with_elements!(ours, |_v| ours.data() == expected.data(), else ours.data() == expected.data());
        return if same { Ok(()) } else { Err(format!("{:?}, expected {:?}", ours.data(), expected.data())) };
    };
    // The suite computes cases of narrow types step by step in these and is off by two units in the last
    // place; its f32 Fourier transforms leave half a unit of the largest element where terms cancel.
    let most = b.iter().filter(|b| b.is_finite()).fold(0.0, |most: f64, b| most.max(b.abs()));
    let (rtol, atol) = match expected.data() {
        Data::F16(_) => (2.0 / 1024.0, ATOL),
        Data::BF16(_) => (2.0 / 128.0, ATOL),
        Data::F32(_) => (RTOL, ATOL.max(most * f64::from(f32::EPSILON) / 2.0)),
        _ => (RTOL, ATOL),
    };
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let near = (a - b).abs() <= atol + rtol * b.abs();
        if !(near || a == b || a.is_nan() && b.is_nan()) {
            return Err(format!("element {i} of {:?} is {a}, expected {b}", ours.shape()));
        }
    }
    Ok(())
}
