//! Operators of ONNX Runtime's own against what it computes: `goldens/onnxruntime/make.py` made the models.
//! Integers have to be equal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur_model::{Model, Patch, Tensor, io};
use secateur_runtime::Session;

/// Checks that numbers differ by no more than 1e-5 of the largest, and everything else not at all.
fn check(name: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{name}");
    let (Ok(a), Ok(b)) = (found.values::<f32>(), expected.values::<f32>()) else {
        assert_eq!(found, expected, "{name}");
        return;
    };
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let far = a.iter().zip(b).find(|(a, b)| a.is_nan() || (*a - *b).abs() > 1e-5 * largest);
    assert_eq!(far, None, "{name}");
}

/// The model's outputs by name, with and without fusion.
fn run(model: Model, given: &[(String, Tensor)]) -> [Vec<(String, Tensor)>; 2] {
    let model = Arc::new(model);
    let sessions = [Session::new(model.clone(), Patch::new()), Session::without_fusion(model, Patch::new())];
    sessions.map(|session| {
        let session = session.unwrap();
        let outputs = session.run(given.to_vec()).unwrap();
        session.outputs().iter().cloned().zip(outputs).collect()
    })
}

#[test]
fn every_output_is_that_of_onnx_runtime() {
    for file in ["qlinear_u8", "qlinear_i8", "fused"] {
        let path = Path::new("tests/goldens/onnxruntime").join(file).with_extension("onnx");
        let model = io::read(&path).unwrap();
        let kept = |kind: &str, name: &str| {
            model.tensor(model.tensor_id(&format!("{kind}:{name}")).unwrap()).load().unwrap()
        };
        let graph = model.graph().unwrap();
        let names = graph.inputs.iter().map(|&input| graph.value_name(input).to_string());
        let given: Vec<_> = names.map(|name| (name.clone(), kept("given", &name))).collect();
        let expected: Vec<Tensor> =
            graph.outputs.iter().map(|&output| kept("expected", graph.value_name(output))).collect();
        for outputs in run(io::read(&path).unwrap(), &given) {
            assert_eq!(outputs.len(), expected.len());
            for ((name, found), expected) in outputs.iter().zip(&expected) {
                check(name, found, expected);
            }
        }
    }
}

/// A file of the shared data; prints why where it is absent.
fn case(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("SECATEUR_DATA").map_or_else(beside, PathBuf::from);
    let path = folder.join("cases").join(name);
    if !path.exists() {
        println!("skipped: there is no {} (set SECATEUR_DATA)", path.display());
        return None;
    }
    Some(path)
}

/// Runs a model with a single input and a single output.
fn run_case(name: &str, x: &Tensor) -> Option<[Tensor; 2]> {
    let model = io::read(case(name)?).unwrap();
    let graph = model.graph().unwrap();
    let input = graph.value_name(graph.inputs[0]).to_string();
    Some(run(model, &[(input, x.clone())]).map(|mut outputs| outputs.remove(0).1))
}

/// Numbers from -1 on in steps of 1/8, of 17 values.
fn image() -> Tensor {
    Tensor::new([1, 3, 16, 16], (0..768).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect()).unwrap()
}

#[test]
fn what_its_optimiser_and_its_quantiser_save_runs_as_there() {
    // What ONNX Runtime 1.32 gives for the same image.
    let fused = [
        0.154_010_52,
        0.057_516_754,
        0.359_911_65,
        0.305_645_82,
        -0.371_631_06,
        0.231_386_86,
        0.303_398_13,
        0.092_280_16,
        -0.339_743_35,
        0.042_811_64f32,
    ];
    let quantised = [
        0.152_740_67,
        0.055_246_625,
        0.357_478_17,
        0.305_481_34,
        -0.370_477_38,
        0.233_985_7,
        0.305_481_34,
        0.090_994_44,
        -0.341_229_14,
        0.038_997_617f32,
    ];
    for (name, expected) in [("cnn_ort_extended.onnx", fused), ("cnn_qop.onnx", quantised)] {
        let Some(outputs) = run_case(name, &image()) else { return };
        let expected = Tensor::new([1, 10], expected.to_vec()).unwrap();
        outputs.iter().for_each(|found| check(name, found, &expected));
    }
}

#[test]
fn a_real_signal_without_an_axis_for_its_parts() {
    let Some(signal) = case("mel_x.npy") else { return };
    // 64 numbers behind numpy's header.
    let bytes = std::fs::read(signal).unwrap();
    let values = bytes[bytes.len() - 256..].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
    let signal = Tensor::new([1, 64], values.collect()).unwrap();
    // What ONNX Runtime 1.32 gives.
    let expected = [
        1.935_805_7,
        2.050_359_7,
        1.695_403_3,
        1.604_619_6,
        2.374_727_2,
        2.817_403_3,
        2.119_967_2,
        -2.043_994,
        -1.795_582,
        -1.545_724_5,
        -1.372_178_3,
        -2.330_711,
        -2.378_595,
        -1.838_981_2,
        0.718_144_7,
        1.068_647,
        0.838_041_6,
        0.940_009_65,
        0.881_106_14,
        1.199_639_2,
        1.144_896_4,
        2.884_932_3,
        2.337_173_2,
        1.620_05,
        2.894_091_6,
        3.644_318_3,
        2.626_058_3,
        2.768_956_7f32,
    ];
    let expected = Tensor::new([1, 4, 7], expected.to_vec()).unwrap();
    let Some(outputs) = run_case("mel_ts.onnx", &signal) else { return };
    outputs.iter().for_each(|found| check("mel_ts.onnx", found, &expected));
}

#[test]
fn inputs_of_bf16_are_given_as_floats_or_as_bits() {
    let floats = Tensor::new([2, 8], (0..16).map(|i| (i % 7) as f32 / 4.0 - 0.7).collect()).unwrap();
    let rounded: Vec<half::bf16> =
        floats.values::<f32>().unwrap().iter().map(|&v| half::bf16::from_f32(v)).collect();
    let bits = Tensor::new([2, 8], rounded.iter().map(|v| v.to_bits()).collect()).unwrap();
    let rounded = Tensor::new([2, 8], rounded).unwrap();
    let Some([expected, _]) = run_case("bf16_mlp_ts.onnx", &rounded) else { return };
    for x in [floats, bits] {
        assert_eq!(run_case("bf16_mlp_ts.onnx", &x).unwrap()[0], expected);
    }
    // What ONNX's reference evaluator gives, which rounds after each step.
    let reference = [
        -0.002_929_687_5,
        0.087_402_344,
        -0.072_753_906,
        0.308_593_75,
        -0.180_664_06,
        -0.017_578_125,
        -0.023_681_64,
        0.257_812_5f32,
    ];
    let found = expected.to_f32s().unwrap();
    let far = found.iter().zip(&reference).find(|(a, b)| (*a - *b).abs() > 0.004);
    assert_eq!(far, None, "{found:?}");
}
