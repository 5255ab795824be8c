//! `secateur repair`, repair in sweeps and schedules, and criteria that look at data.

mod common;

use std::time::Instant;

use common::{Place, bytes, files, json};
use secateur::io;

const DATA: [&str; 5] = ["--data", "digits-test.npz", "--scale", "0.0625", "--samples"];

fn values(place: &Place, file: &str, tensor: &str) -> Vec<f32> {
    io::read(place.path(file)).unwrap().tensors[tensor].load().unwrap().to_f32s().unwrap()
}

fn pruned(place: &Place, flags: &[&str]) {
    place.ok(&[&["prune", "digits.onnx", "-o", "pruned.onnx"], flags].concat());
}

#[test]
fn a_pruned_model_is_repaired_and_verified() {
    let place = Place::new();
    pruned(&place, &["--method", "l1@global", "--sparsity", "0.85", "--masks", "sidecar"]);
    let flags = [&["--reference", "digits.onnx"], &DATA[..], &["200"]].concat();
    let repair = |output, more: &[&str]| {
        place.ok(&[&["repair", "pruned.onnx", "-o", output], &flags[..], more].concat())
    };
    let out = repair("repaired.onnx", &[]);
    assert!(out.contains("norms, bias") && out.contains("error of mean"), "{out}");
    assert!(
        out.contains("top1") && out.contains("dense") && out.contains("that it was repaired with"),
        "{out}"
    );
    place.ok(&["verify", "repaired.onnx"]);
    assert!(place.path("repaired.onnx.masks.safetensors").exists());
    let [before, after] =
        ["pruned.onnx", "repaired.onnx"].map(|file| values(&place, file, "block2.conv.weight"));
    assert_eq!(before, after);
    let [before, after] =
        ["pruned.onnx", "repaired.onnx"].map(|file| values(&place, file, "block2.bn.running_var"));
    assert_ne!(before, after);
    repair("one.onnx", &["--threads", "1"]);
    assert_eq!(bytes(&place.path("one.onnx")), bytes(&place.path("repaired.onnx")));
    let found = json(&repair("json.onnx", &["--json", "--method", "norms"]));
    let top1 = |key: &str| found[key][1]["value"].as_f64().unwrap();
    assert!(top1("after") > top1("before"), "{found}");
    assert_eq!(found["layers"][0]["methods"], serde_json::json!(["norms"]));
    // Twice is refused without --force, and biases take the dense model.
    place.fails(2, &[&["repair", "pruned.onnx", "-o", "json.onnx"], &flags[..]].concat());
    let message = place.fails(
        2,
        &[&["repair", "pruned.onnx", "-o", "x.onnx", "--method", "bias"], &DATA[..], &["50"]].concat(),
    );
    assert!(message.contains("--reference"), "{message}");
}

#[test]
fn criteria_that_look_at_data_prune() {
    let place = Place::new();
    let calibrate = ["--calibrate", "digits-test.npz", "--scale", "0.0625", "--calibrate-samples", "40"];
    for method in [
        "taylor@global",
        "taylor/channel@global",
        "snip",
        "fisher/2:4",
        "mean-activation/channel",
        "apoz/channel",
    ] {
        let sparsity = if method.contains("2:4") { "0.5" } else { "0.3" };
        pruned(&place, &[&["--method", method, "--sparsity", sparsity, "--force"], &calibrate[..]].concat());
        place.ok(&["verify", "pruned.onnx"]);
    }
    pruned(
        &place,
        &[&["--method", "taylor", "--sparsity", "0.5", "--force", "--threads", "1"], &calibrate[..]].concat(),
    );
    let one = bytes(&place.path("pruned.onnx"));
    pruned(&place, &[&["--method", "taylor", "--sparsity", "0.5", "--force"], &calibrate[..]].concat());
    assert_eq!(one, bytes(&place.path("pruned.onnx")));
    for method in ["snip", "synflow@global"] {
        let sizes = ["sizes", "digits.onnx", "-o", "sizes", "--method", method, "--sparsity", "0.5"];
        assert!(place.fails(2, &sizes).contains("runs the model"));
    }
    let prune = ["prune", "digits.onnx", "--dry-run", "--sparsity", "0.5", "--method"];
    let message = place.fails(2, &[&prune[..], &["taylor"]].concat());
    assert!(message.contains("--calibrate train.npz"), "{message}");
    let message = place.fails(2, &[&prune[..], &["l1"], &calibrate[..2]].concat());
    assert!(message.contains("--calibrate has no effect"), "{message}");
    let message = place.fails(2, &[&prune[..], &["apoz"], &calibrate[..]].concat());
    assert!(message.contains("output channels"), "{message}");
    let message = place.fails(2, &[&prune[..], &["taylor", "--data", "digits-test.npz"]].concat());
    assert!(message.contains("--calibrate names the data"), "{message}");
}

#[test]
fn sweeps_calibrate_once_and_repair_each_point() {
    let place = Place::new();
    let sweep = |folder, more: &[&str]| {
        let base = ["sweep", "digits.onnx", "-o", folder, "--no-sizes", "--sparsity", "0.6,0.85"];
        let calibrate = ["--calibrate", "digits-test.npz", "--calibrate-samples", "60"];
        place.ok(&[&base[..], &DATA[..], &["100"], &calibrate[..], more].concat())
    };
    sweep("plain", &["--method", "l1@global,taylor@global"]);
    let out = sweep("repaired", &["--method", "l1@global,taylor@global", "--repair", "norms,bias"]);
    assert!(out.contains("repaired: norms and bias, on 60 samples of digits-test.npz"), "{out}");
    let header = std::fs::read_to_string(place.path("repaired/results.jsonl")).unwrap();
    assert!(
        header.lines().next().unwrap().contains("\"repair\":{\"methods\":[\"norms\",\"bias\"]"),
        "{header}"
    );
    let losses = |folder: &str| -> Vec<f64> {
        let text = std::fs::read_to_string(place.path(&format!("{folder}/results.jsonl"))).unwrap();
        let points = text.lines().skip(2).map(json);
        points.map(|point| point["measures"][0]["value"].as_f64().unwrap()).collect()
    };
    let (plain, repaired) = (losses("plain"), losses("repaired"));
    assert_eq!(plain.len(), 4);
    assert!(repaired[1] < plain[1], "{plain:?} {repaired:?}");
    let message = place.fails(
        2,
        &[&["sweep", "digits.onnx", "-o", "x", "--repair", "norms", "--method", "l1"], &DATA[..], &["50"]]
            .concat(),
    );
    assert!(message.contains("--calibrate train.npz"), "{message}");
}

#[test]
fn schedules_calibrate_on_the_training_data_and_repair() {
    let place = Place::new();
    let train = |output, more: &[&str]| {
        let base = [
            "finetune",
            "digits.onnx",
            "-o",
            output,
            "--batch",
            "32",
            "--epochs",
            "1ep",
            "--schedule",
            "iterative",
        ];
        let prune =
            ["--rounds", "2", "--method", "taylor@global", "--sparsity", "0.6", "--repair", "norms,bias"];
        place.ok(&[&base[..], &prune[..], &DATA[..], &["128"], more].concat());
    };
    train("tuned.onnx", &[]);
    place.ok(&["verify", "tuned.onnx"]);
    train("one.onnx", &["--threads", "1"]);
    assert_eq!(bytes(&place.path("tuned.onnx")), bytes(&place.path("one.onnx")));
    train("fewer.onnx", &["--calibrate-samples", "10"]);
    assert_ne!(bytes(&place.path("tuned.onnx")), bytes(&place.path("fewer.onnx")));
    let recipe = "[prune]\nmethod = \"taylor@global\"\nsparsity = 0.6\n\n[data]\ndata = [\"digits-test.npz\"]\nscale = 0.0625\n\
                  samples = 128\nbatch = 32\n\n[train]\nepochs = \"1ep\"\nschedule = \"iterative\"\nrounds = 2\n\
                  repair = [\"norms\", \"bias\"]\n\n[calibrate]\ncalibrate-samples = 10\n";
    std::fs::write(place.path("recipe.toml"), recipe).unwrap();
    place.ok(&["finetune", "digits.onnx", "-o", "by-recipe.onnx", "--recipe", "recipe.toml"]);
    let of = |file| values(&place, file, "head.weight");
    assert_eq!(of("by-recipe.onnx"), of("fewer.onnx"));
}

/// A command whose results go to a name, killed four times at random moments: they are those of one that was not, on one thread
/// and on two.
fn resumes_alike(place: &Place, of: &dyn Fn(&str) -> Vec<String>, same: &dyn Fn(&str, &str)) {
    let of = |name: &str, threads: &str| [of(name), vec!["--threads".into(), threads.into()]].concat();
    for (threads, seed) in [("1", 17), ("2", 4)] {
        let [whole, killed] = ["whole", "killed"].map(|name| format!("{name}-{threads}"));
        let [once, often] = [&whole, &killed].map(|name| of(name, threads));
        let [once, often] = [&once, &often].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let started = Instant::now();
        place.ok(&once);
        assert!(place.killed(&often, started.elapsed(), 4, seed) > 0, "it ended before it was killed");
        same(&whole, &killed);
    }
}

#[test]
fn a_schedule_that_repairs_is_killed_and_resumes_to_the_same_bytes() {
    let place = Place::new();
    let of = |name: &str| -> Vec<String> {
        let text = format!(
            "finetune digits.onnx -o {name}.onnx --log {name} --data digits-test.npz --scale 0.0625 --batch 32 \
             --hold-out 0.2 --epochs 15ep --schedule cubic --method taylor@global --sparsity 0.9 --prune-every 9it \
             --repair norms,bias --calibrate-samples 40"
        );
        text.split_whitespace().map(String::from).collect()
    };
    resumes_alike(&place, &of, &|whole, killed| {
        let [one, other] = [whole, killed].map(|name| bytes(&place.path(&format!("{name}.onnx"))));
        assert!(one == other, "{killed}.onnx");
        let [one, other] = [whole, killed].map(|name| files(&place.path(name)));
        assert_eq!(one.len(), 5, "{:?}", one.keys());
        for (name, bytes) in &one {
            assert!(other[name] == *bytes, "{killed}/{name}");
        }
        assert!(!place.path(&format!("{killed}.onnx.training.safetensors")).exists());
    });
    let log = String::from_utf8(bytes(&place.path("whole-2/curve.jsonl"))).unwrap();
    for said in ["\"event\":\"pruned\"", "\"event\":\"repaired\"", "\"on\":\"validation\"", "\"top1\""] {
        assert!(log.contains(said), "{said}: {log}");
    }
    // A report that is there is not replaced unasked.
    let again = of("whole-1");
    let again: Vec<&str> =
        again.iter().map(|word| if word == "whole-1.onnx" { "new.onnx" } else { word }).collect();
    let message = place.fails(2, &again);
    assert!(message.contains("report.html") && message.contains("--force"), "{message}");
}

#[test]
fn a_sweep_that_repairs_is_killed_and_resumes_to_the_same_bytes() {
    let place = Place::new();
    let of = |name: &str| -> Vec<String> {
        let text = format!(
            "sweep digits.onnx -o {name} --data digits-test.npz --scale 0.0625 --samples 100 --no-sizes \
             --method l1@global,taylor@global --step 0.1 --calibrate digits-test.npz --calibrate-samples 60 \
             --repair norms,bias"
        );
        text.split_whitespace().map(String::from).collect()
    };
    resumes_alike(&place, &of, &|whole, killed| {
        let [one, other] = [whole, killed].map(|name| files(&place.path(name)));
        assert!(
            one.contains_key("report.html") && one.keys().any(|name| name.ends_with(".npy")),
            "{:?}",
            one.keys()
        );
        // Times differ from run to run.
        for (name, bytes) in one.iter().filter(|(name, _)| *name != "timings.jsonl") {
            assert!(other.get(name) == Some(bytes), "{killed}/{name}");
        }
    });
}
