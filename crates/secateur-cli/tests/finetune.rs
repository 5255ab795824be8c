//! `secateur finetune`: what it writes, that it resumes after a kill, and what it refuses.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, bytes, json};
use secateur::data::write_npz;
use secateur::{Tensor, io};

/// Flags of a short training on the embedded digits.
const SHORT: &[&str] = &[
    "--data",
    "digits-test.npz",
    "--scale",
    "0.0625",
    "--samples",
    "96",
    "--batch",
    "32",
    "--epochs",
    "2ep",
];

fn finetune<'a>(model: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["finetune", model, "-o", output], SHORT, more].concat()
}

fn pruned(place: &Place, flags: &[&str]) {
    place.ok(&[&["prune", "digits.onnx", "-o", "pruned.onnx"], flags].concat());
}

/// A tensor's elements.
fn values(place: &Place, file: &str, tensor: &str) -> Vec<f32> {
    io::read(place.path(file)).unwrap().tensors[tensor].load().unwrap().to_f32s().unwrap()
}

#[test]
fn a_pruned_model_trains_and_is_verified() {
    let place = Place::new();
    pruned(&place, &["--method", "l1@global", "--sparsity", "0.8"]);
    let output = place.run(&finetune("pruned.onnx", "tuned.onnx", &["--hold-out", "0.25"]));
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(err.contains("epoch 1: loss") && err.contains("epoch 2: loss"), "{err}");
    assert!(err.contains("cross-entropy") && err.contains("top1"), "{err}");
    assert!(out.contains("4 steps in") && out.contains("wrote tuned.onnx"), "{out}");
    place.ok(&["verify", "tuned.onnx"]);
    let [before, after] =
        ["pruned.onnx", "tuned.onnx"].map(|file| values(&place, file, "block2.conv.weight"));
    assert!(before.iter().zip(&after).all(|(before, after)| *before != 0.0 || *after == 0.0));
    assert_ne!(before, after);
    assert!(!place.path("tuned.onnx.training.safetensors").exists());

    let found = json(&place.ok(&finetune("pruned.onnx", "again.onnx", &["--json"])));
    assert_eq!(found["epochs"].as_array().unwrap().len(), 2);
    assert_eq!(found["files"][0], "again.onnx");
    let quiet = place.run(&finetune("pruned.onnx", "quiet.onnx", &["--quiet"]));
    assert!(quiet.status.success() && quiet.stderr.is_empty());
    assert_eq!(bytes(&place.path("again.onnx")), bytes(&place.path("quiet.onnx")));
    // Threads change nothing.
    place.ok(&finetune("pruned.onnx", "one.onnx", &["--threads", "1"]));
    assert_eq!(bytes(&place.path("again.onnx")), bytes(&place.path("one.onnx")));
}

#[test]
fn a_schedule_prunes_while_the_model_trains() {
    let place = Place::new();
    let recipe = "[prune]\nmethod = \"l1/channel\"\nsparsity = 0.5\n\n[data]\ndata = [\"digits-test.npz\"]\nscale = 0.0625\n\
                  samples = 96\nbatch = 32\n\n[train]\nepochs = \"2ep\"\noptimizer = \"adam\"\nlr = 0.002\n\
                  schedule = \"linear\"\nprune-every = \"1it\"\n";
    std::fs::write(place.path("recipe.toml"), recipe).unwrap();
    place.ok(&["finetune", "digits.onnx", "-o", "by-recipe.onnx", "--recipe", "recipe.toml"]);
    place.ok(&["verify", "by-recipe.onnx"]);
    let flags = ["--method", "l1/channel", "--sparsity", "0.5", "--optimizer", "adam", "--lr", "0.002"];
    let schedule = ["--schedule", "linear", "--prune-every", "1it"];
    place.ok(&finetune("digits.onnx", "by-flags.onnx", &[&flags[..], &schedule].concat()));
    for tensor in ["block2.conv.weight", "block2.bn.bias", "head.bias"] {
        assert_eq!(values(&place, "by-recipe.onnx", tensor), values(&place, "by-flags.onnx", tensor));
    }
    let zeros = values(&place, "by-flags.onnx", "block2.bn.bias").iter().filter(|v| **v == 0.0).count();
    assert_eq!(zeros, 32);
}

fn bytes_if_any(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

/// A training on all digits.
fn long<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["finetune", "pruned.onnx", "-o", output, "--data", "digits-test.npz", "--scale", "0.0625"];
    [&base[..], &["--batch", "32"], more].concat()
}

#[test]
fn a_killed_training_resumes_to_the_same_bytes() {
    let place = Place::new();
    pruned(&place, &["--method", "l1", "--sparsity", "0.7"]);
    // Long enough for several saves, which come every quarter of a second at most.
    let flags = ["--epochs", "8ep", "--schedule", "cubic", "--method", "l1", "--sparsity", "0.9"];
    let more =
        [&flags[..], &["--prune-every", "7it", "--optimizer", "adamw", "--weight-decay", "0.01"]].concat();
    place.ok(&long("whole.onnx", &more));
    for (round, threads) in [(0, "1"), (1, "2")] {
        let output = format!("killed-{round}.onnx");
        let saved = place.path(&format!("{output}.training.safetensors"));
        let arguments = [long(&output, &more), vec!["--threads", threads]].concat();
        let mut kills = 0;
        loop {
            let mut command = place.command(&arguments);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let former = bytes_if_any(&saved);
            // Killed some moments after it was saved once more.
            let mut moments = 3 + (5 * kills + 7 * round) % 11;
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if kills < 3 && bytes_if_any(&saved) != former {
                    moments -= 1;
                }
                if moments == 0 {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            match ended {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    assert!(!place.path(&output).exists());
                    kills += 1;
                }
                Some(status) => {
                    let err = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
                    assert!(status.success(), "{err}");
                    assert!(kills == 0 || err.contains("resumed from"), "{err}");
                    break;
                }
            }
        }
        assert!(kills > 0, "the training ended before it was killed");
        assert_eq!(bytes(&place.path(&output)), bytes(&place.path("whole.onnx")), "round {round}");
        assert!(!saved.exists());
    }
}

#[test]
fn checkpoints_keep_their_form() {
    let place = Place::new();
    place.ok(&["convert", "digits.onnx", "-o", "digits.safetensors"]);
    let graph = ["--graph", "digits.onnx"];
    let prune = ["--method", "l1", "--sparsity", "0.5"];
    for form in ["pairs", "sidecar"] {
        let (masked, tuned) = (format!("{form}.safetensors"), format!("{form}-tuned.safetensors"));
        let arguments = ["prune", "digits.safetensors", "-o", &masked, "--masks", form];
        place.ok(&[&arguments[..], &prune].concat());
        place.ok(&finetune(&masked, &tuned, &graph));
        let [before, after] = [&masked, &tuned].map(|file| io::read(place.path(file)).unwrap());
        let names = |model: &secateur::Model| model.tensors.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after));
        let sidecar = place.path(&format!("{tuned}.masks.safetensors"));
        assert_eq!(sidecar.exists(), form == "sidecar");
        let plain = format!("{form}-plain.safetensors");
        place.ok(&["finalize", &tuned, "-o", &plain]);
        place.ok(&[&["verify", &plain[..]], &prune[..]].concat());
        assert_ne!(
            values(&place, &plain, "head.weight"),
            values(&place, "digits.safetensors", "head.weight")
        );
    }
}

#[test]
fn what_cannot_be_is_refused_before_training() {
    let place = Place::new();
    let fails = |code, model, more: &[&str]| {
        let mut arguments = finetune(model, "out.onnx", more);
        if more.contains(&"--epochs") {
            let at = arguments.iter().position(|argument| *argument == "--epochs").unwrap();
            arguments.drain(at..at + 2);
        }
        let message = place.fails(code, &arguments);
        assert!(!place.path("out.onnx").exists());
        message
    };
    let message = place.fails(2, &["finetune", "digits.onnx", "-o", "out.onnx", "--data", "digits-test.npz"]);
    assert!(message.contains("--epochs 10ep"), "{message}");
    let message = place.fails(2, &["finetune", "digits.onnx", "-o", "out.onnx", "--epochs", "1ep"]);
    assert!(message.contains("--data"), "{message}");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--schedule", "sometimes"], &["sometimes", "cubic"]),
        (&["--epochs", "3"], &["10ep or 500it"]),
        (&["--epochs", "0it"], &["at least one step"]),
        (&["--optimizer", "adam", "--momentum", "0.5"], &["--momentum", "--optimizer sgd"]),
        (&["--betas", "0.9,0.99"], &["--betas", "adam"]),
        (&["--lr-gamma", "0.5"], &["--lr-gamma", "--lr-schedule step"]),
        (&["--sparsity", "0.5"], &["--sparsity", "--schedule cubic"]),
        (&["--schedule", "cubic"], &["--method"]),
        (&["--schedule", "cubic", "--method", "l1/2:4"], &["2:4", "one-shot"]),
        (&["--validation", "./digits-test.npz"], &["--data and with --validation"]),
        (&["--patience", "2"], &["validation"]),
        (&["--temperature", "2"], &["--teacher"]),
        (&["--optimizer", "adam", "--betas", "0.9"], &["two numbers"]),
        (&["--optimizer", "adam", "--betas", "0.9,1.5"], &["beta 2", "1.5"]),
        (&["--freeze", "block9*"], &["`block9*`"]),
        (&["--freeze", "*"], &["nothing trains"]),
        (&["--lr=-1"], &["learning rate"]),
    ];
    for (flags, words) in cases {
        let message = fails(2, "digits.onnx", flags);
        assert!(words.iter().all(|word| message.contains(word)), "{flags:?}: {message}");
    }
    let message = fails(2, "digits.onnx", &["--lr", "1e30"]);
    assert!(message.contains("a lower rate may train"), "{message}");
    std::fs::remove_file(place.path("out.onnx.training.safetensors")).ok();

    let images = Tensor::new([40, 1, 8, 8], vec![0.5f32; 40 * 64]).unwrap();
    let mut file = std::fs::File::create(place.path("x.npz")).unwrap();
    write_npz(&[("x".into(), images)], &mut file).unwrap();
    let message = fails(2, "digits.onnx", &["--validation", "x.npz"]);
    assert!(message.contains("validation data have no labels"), "{message}");
    let arguments = ["finetune", "digits.onnx", "-o", "out.onnx", "--data", "x.npz", "--epochs", "1ep"];
    let message = place.fails(2, &arguments);
    assert!(message.contains("no labels"), "{message}");

    std::fs::write(place.path("there.onnx"), b"something").unwrap();
    let started = Instant::now();
    let endless = ["--data", "digits-test.npz", "--epochs", "1000000ep"];
    let message = place.fails(2, &[&["finetune", "digits.onnx", "-o", "there.onnx"], &endless[..]].concat());
    assert!(message.contains("there.onnx") && message.contains("--force"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(bytes(&place.path("there.onnx")), b"something");
}

#[test]
fn a_damaged_training_is_not_resumed() {
    let place = Place::new();
    std::fs::write(place.path("out.onnx.training.safetensors"), b"damaged").unwrap();
    let message = place.fails(2, &finetune("digits.onnx", "out.onnx", &[]));
    assert!(message.contains("out.onnx.training.safetensors"), "{message}");
}
