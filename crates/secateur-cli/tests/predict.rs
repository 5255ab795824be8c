//! `secateur predict` on the embedded model.

mod common;

use common::{Place, json};

#[test]
fn every_method_is_predicted_and_its_layers_shown() {
    let p = Place::new();
    let flags = ["predict", "digits.onnx", "--sparsity", "0.9,50%", "--threads", "1", "--costs", "shipped"];
    let shown = p.ok(&[&flags[..], &["--layers"]].concat());
    for said in [
        "digits.onnx, batch 1, 1 thread",
        "unpruned",
        "shipped costs",
        "l1/4x1",
        "l1/2:4",
        "l1/channel",
        "Conv",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let found = json(&p.ok(&[&flags[..], &["--json", "--batch", "4"]].concat()));
    assert_eq!(found["batch"], 4);
    let forecasts = found["forecasts"].as_array().unwrap();
    assert_eq!(forecasts.len(), 2 + 2 + 1 + 2);
    for forecast in forecasts {
        let speedup = forecast["speedup"].as_f64().unwrap();
        // Every forecast either promises a gain or says why there is none.
        assert_eq!(forecast["no_gain_because"].is_null(), speedup >= 1.05, "{forecast}");
        let layers = forecast["layers"].as_array().unwrap().iter();
        let sum: f64 = layers.map(|layer| layer["predicted"].as_f64().unwrap()).sum();
        assert!((sum / forecast["seconds"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn selection_and_recipe_count() {
    let p = Place::new();
    let flags =
        ["predict", "digits.onnx", "--methods", "l1", "--sparsities", "0.9", "--costs", "shipped", "--json"];
    let in_selected =
        |more: &[&str]| json(&p.ok(&[&flags[..], more].concat()))["in_selected"].as_f64().unwrap();
    assert!(in_selected(&["--exclude", "*conv*"]) < in_selected(&[]));
    std::fs::write(p.path("recipe.toml"), "[prune]\nops = ['Gemm']\n").unwrap();
    assert!(in_selected(&["--recipe", "recipe.toml"]) < in_selected(&[]));
}

#[test]
fn mistakes_are_named() {
    let p = Place::new();
    let fails =
        |more: &[&str]| p.fails(2, &[&["predict", "digits.onnx", "--costs", "shipped"], more].concat());
    assert!(fails(&["--sparsities", "1.5"]).contains("did you mean 0.015"));
    assert!(fails(&["--methods", "l9"]).contains("l9"));
    assert!(fails(&["--batch", "0"]).contains("at least one sample"));
    assert!(fails(&["--include", "nothing*"]).contains("nothing*"));
    assert!(fails(&["--threads", "1,2"]).contains("takes one number"));
}
