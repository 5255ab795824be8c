//! `secateur bench` on the embedded model. Without other runtimes, but for one that is not there.

mod common;

use common::{Place, json};

const QUICK: [&str; 6] = ["bench", "digits.onnx", "--rounds", "1", "--sparsity", "0.5,0.9"];

#[test]
fn everything_is_timed_and_named() {
    let p = Place::new();
    let flags = ["--batch", "1,4", "--threads", "1,2", "--profile", "-o", "speed"];
    let shown = p.ok(&[&QUICK[..], &flags].concat());
    for said in ["f32", "speed-up over unpruned digits.onnx", "90 %", "median", "Conv"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let found = json(&std::fs::read_to_string(p.path("speed/bench.json")).unwrap());
    let timings = found["timings"].as_array().unwrap();
    assert_eq!(timings.len(), 3 * 2 * 2);
    for timing in timings {
        assert!(timing["latency"]["best"].as_f64().unwrap() > 0.0);
        assert!(!timing["layers"].as_array().unwrap().is_empty());
    }
    assert!(!found["instruction_set"].as_str().unwrap().is_empty());
    for file in ["speed/bench.html", "speed/bench.svg", "speed/bench.png"] {
        assert!(std::fs::metadata(p.path(file)).unwrap().len() > 1000, "{file}");
    }
    let again = p.fails(2, &[&QUICK[..], &flags].concat());
    assert!(again.contains("--force"), "{again}");
}

#[test]
fn several_models_are_timed_beside_the_first() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1", "--sparsity", "0.8"]);
    let found =
        json(&p.ok(&["bench", "digits.onnx", "pruned.onnx", "--rounds", "1", "--threads", "1", "--json"]));
    let models: Vec<_> =
        found["versions"].as_array().unwrap().iter().map(|v| v["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["digits.onnx", "pruned.onnx"]);
    assert_eq!(found["timings"][0]["speedup_median"], 1.0);
    assert!((found["versions"][1]["sparsity"].as_f64().unwrap() - 0.8).abs() < 0.01);
}

#[test]
fn runtimes_that_are_asked_for_and_not_there_are_an_error() {
    let p = Place::new();
    let mut command =
        p.command(&["bench", "digits.onnx", "--rounds", "1", "--against", "onnxruntime,openvino"]);
    let output = command.env("SECATEUR_PYTHON", "no-such-python").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    for peer in ["ONNX Runtime", "OpenVINO"] {
        assert!(shown.contains(&format!("not timed: {peer}")) && shown.contains("no-such-python"), "{shown}");
        assert!(shown.contains("set SECATEUR_PYTHON to a Python with the package"), "{shown}");
    }
}

#[test]
fn mistakes_are_named() {
    let p = Place::new();
    assert!(p.fails(2, &["bench", "digits.onnx", "--against", "tensorrt"]).contains("onnxruntime, openvino"));
    assert!(p.fails(2, &["bench", "digits.onnx", "--method", "l1"]).contains("--sparsity"));
    assert!(p.fails(2, &["bench", "digits.onnx", "--threads", "1,0"]).contains("at least one thread"));
    assert!(p.fails(2, &["bench", "digits.onnx", "--rounds", "0"]).contains("at least one round"));
    assert!(p.fails(2, &["inspect", "digits.onnx", "--threads", "1,2"]).contains("takes one number"));
}

/// Where there are other runtimes, `SECATEUR_PYTHON` says so.
#[test]
fn other_runtimes_are_timed_in_turn() {
    if std::env::var_os("SECATEUR_PYTHON").is_none() {
        println!("skipped: SECATEUR_PYTHON names no Python with onnxruntime");
        return;
    }
    let p = Place::new();
    let flags = ["--against", "onnxruntime,openvino", "--threads", "1", "--batch", "2", "--json"];
    let found = json(&p.ok(&[&QUICK[..], &flags].concat()));
    let runtimes = found["runtimes"].as_array().unwrap().len();
    assert!(runtimes > 1 || !found["notes"].as_array().unwrap().is_empty());
    assert_eq!(found["timings"].as_array().unwrap().len(), 3 * runtimes, "{:?}", found["notes"]);
}
