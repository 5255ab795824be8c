//! `secateur run`: arrays from files through a model into files.

mod common;

use std::path::{Path, PathBuf};

use common::{Place, bytes, json};
use secateur::data::{read_npy, read_npz, write_npy};
use secateur::{DType, Session, Tensor, io};

fn write(path: &Path, tensor: &Tensor) {
    write_npy(tensor, &mut std::fs::File::create(path).unwrap()).unwrap();
}

/// The embedded model's input, with two samples.
fn images() -> Tensor {
    Tensor::new([2, 1, 8, 8], (0..128).map(|i| (i % 17) as f32 / 16.0).collect::<Vec<_>>()).unwrap()
}

#[test]
fn outputs_are_what_the_library_computes_whatever_they_are_written_to() {
    let p = Place::new();
    write(&p.path("x.npy"), &images());
    let session =
        Session::new(io::read(p.path("digits.onnx")).unwrap().into(), secateur::Patch::new()).unwrap();
    let (input, output) = (session.inputs()[0].name.clone(), session.outputs()[0].clone());
    let expected = session.run(vec![(input.clone(), images())]).unwrap().remove(0);

    let shown = p.ok(&["run", "digits.onnx", "--input", "x.npy", "-o", "y.npy", "--costs", "shipped"]);
    assert!(shown.contains("[2, 10]") && shown.contains("wrote y.npy"), "{shown}");
    let named = format!("{input}=x.npy");
    let found =
        json(&p.ok(&["run", "digits.onnx", "--input", &named, "-o", "all", "--costs", "shipped", "--json"]));
    assert_eq!(found["outputs"][0]["shape"], serde_json::json!([2, 10]));
    let in_folder = p.path(found["files"][0].as_str().unwrap());
    assert_eq!(bytes(&in_folder), bytes(&p.path("y.npy")));
    assert_eq!(read_npy(bytes(&in_folder).into()).unwrap().to_tensor().unwrap(), expected);

    p.ok(&[
        "run",
        "digits.onnx",
        "-i",
        "x.npy",
        "-o",
        "y.npz",
        "-o",
        &format!("{output}=z.npy"),
        "--costs",
        "shipped",
    ]);
    let archive = read_npz(bytes(&p.path("y.npz")).into()).unwrap();
    assert_eq!(archive[0].0, output);
    assert_eq!(archive[0].1.to_tensor().unwrap(), expected);
    assert_eq!(bytes(&p.path("z.npy")), bytes(&p.path("y.npy")));
}

#[test]
fn mistakes_are_named_before_the_model_runs() {
    let p = Place::new();
    write(&p.path("x.npy"), &images());
    write(&p.path("doubles.npy"), &Tensor::new([1, 1, 8, 8], vec![0f64; 64]).unwrap());
    write(&p.path("flat.npy"), &Tensor::new([1, 64], vec![0f32; 64]).unwrap());
    std::fs::write(p.path("y.npy"), "precious").unwrap();
    let message =
        |input: &str, output: &str| p.fails(2, &["run", "digits.onnx", "--input", input, "-o", output]);
    let types = message("doubles.npy", "o.npy");
    assert!(types.contains("doubles.npy") && types.contains(DType::F64.name()), "{types}");
    assert!(message("flat.npy", "o.npy").contains("[1, 64]"));
    assert!(message("picture=x.npy", "o.npy").contains("no input `picture`"));
    assert!(message("x.npy", "nothing=o.npy").contains("no output `nothing`"));
    assert!(message("x.npy", "y.npy").contains("--force"));
    assert_eq!(bytes(&p.path("y.npy")), b"precious");
    assert!(message("digits.onnx", "o.npy").contains("not an npy array"));
    p.ok(&["run", "digits.onnx", "--input", "x.npy", "-o", "y.npy", "--force"]);
}

#[test]
fn inputs_of_bf16_take_floats_and_two_byte_arrays_and_outputs_are_floats() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("SECATEUR_DATA").map_or_else(beside, PathBuf::from);
    let model = folder.join("cases/bf16_mlp_ts.onnx");
    if !model.exists() {
        println!("skipped: there is no {} (set SECATEUR_DATA)", model.display());
        return;
    }
    let model = model.display().to_string();
    let p = Place::new();
    let numbers: Vec<f32> = (0..16).map(|i| (i % 7) as f32 / 4.0).collect();
    write(&p.path("floats.npy"), &Tensor::new([2, 8], numbers.clone()).unwrap());
    // As ml_dtypes saves them: all of these numbers are bf16, the upper half of an f32.
    let mut saved = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<V2', 'fortran_order': False, 'shape': (2, 8), }";
    saved.extend(format!("{header:<117}\n").into_bytes());
    saved.extend(numbers.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()));
    std::fs::write(p.path("bits.npy"), saved).unwrap();
    let run = |input: &str, output: &str| {
        p.ok(&["run", &model, "--input", input, "-o", output, "--costs", "shipped"])
    };
    let shown = run("floats.npy", "a.npy");
    assert!(shown.contains("bf16, written as f32"), "{shown}");
    run("bits.npy", "b.npy");
    assert_eq!(bytes(&p.path("a.npy")), bytes(&p.path("b.npy")));
    let outputs = read_npy(bytes(&p.path("a.npy")).into()).unwrap();
    assert_eq!((outputs.dtype(), outputs.shape()), (DType::F32, &[2, 4][..]));
}
