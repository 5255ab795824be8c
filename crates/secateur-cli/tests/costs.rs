//! What kernels are chosen by: kept on the machine for `bench` and `run`, and nothing to do with results.

mod common;

use std::path::Path;

use common::{Place, json};
use serde_json::Value;

/// Runs a command with a cache folder of its own, in which it must succeed.
fn ok(p: &Place, cache: &Path, arguments: &[&str]) -> String {
    let output = p.command(arguments).env("XDG_CACHE_HOME", cache).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Each layer's kernel, in each version.
fn kernels(bench: &Value) -> Vec<&str> {
    let timings = bench["timings"].as_array().unwrap().iter();
    let layers = timings.flat_map(|timing| timing["layers"].as_array().unwrap());
    layers.map(|layer| layer["kernel"].as_str().unwrap()).collect()
}

const BENCH: [&str; 9] =
    ["bench", "digits.onnx", "--sparsity", "0.6", "--rounds", "1", "--threads", "1", "--profile"];

#[test]
fn kept_costs_choose_the_same_kernels_and_change_no_evaluation() {
    let p = Place::new();
    let cache = tempfile::tempdir().unwrap();
    let kept = cache.path().join("secateur/costs.json");
    let bench = |more: &[&str]| json(&ok(&p, cache.path(), &[&BENCH[..], &["--json"], more].concat()));
    let eval = || {
        let data = ["--data", "digits-test.npz", "--scale", "1/16", "--json"];
        json(&ok(&p, cache.path(), &[&["eval", "digits.onnx"], &data[..]].concat()))["measures"].take()
    };
    let evaluated = eval();
    assert!(!kept.exists(), "evaluation measures nothing");

    let measured = bench(&[]);
    assert_eq!(measured["costs"]["source"], "measured");
    assert!(kept.exists());
    let again = bench(&[]);
    assert_eq!((&again["costs"], kernels(&again)), (&measured["costs"], kernels(&measured)));

    // Costs by which everything runs on tiles: on those that there are, and on those that there are not.
    let mut costs = json(&std::fs::read_to_string(&kept).unwrap());
    for (name, figure) in costs["costs"]["nanoseconds"].as_object_mut().unwrap() {
        *figure =
            if ["product", "gather", "copy", "direct", "output"].contains(&&**name) { 1e3 } else { 1e-3 }
                .into();
    }
    std::fs::write(&kept, costs.to_string()).unwrap();
    let tiled = bench(&[]);
    assert_eq!(tiled["costs"], costs["costs"]);
    assert!(kernels(&tiled).contains(&"ToTiles"), "{:?}", kernels(&tiled));
    assert_eq!(eval(), evaluated);

    // What was recorded chooses again.
    std::fs::write(p.path("bench.json"), tiled.to_string()).unwrap();
    let anew = bench(&["--recalibrate"]);
    assert_eq!(anew["costs"]["source"], "measured");
    assert_ne!(anew["costs"], tiled["costs"]);
    let recorded = bench(&["--costs", "bench.json"]);
    assert_eq!((&recorded["costs"], kernels(&recorded)), (&tiled["costs"], kernels(&tiled)));
    assert_eq!(bench(&["--costs", "shipped"])["costs"]["source"], "shipped");
}

#[test]
fn mistakes_are_named() {
    let p = Place::new();
    std::fs::write(p.path("other.json"), "{}").unwrap();
    let fails = |more: &[&str]| p.fails(2, &[&["bench", "digits.onnx"], more].concat());
    assert!(fails(&["--costs", "other.json"]).contains("no costs of kernels"));
    assert!(fails(&["--costs", "shipped", "--recalibrate"]).contains("cannot be used with"));
    assert!(p.fails(2, &["bench", "digits.onnx", "--costs", "nothing.json"]).contains("nothing.json"));
}
