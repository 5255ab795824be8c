//! `secateur lottery`: what it writes, that it resumes after a kill, and what it refuses.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{Place, files, json};

fn lottery<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["lottery", "digits.onnx", "-o", output, "--data", "digits-test.npz", "--scale", "0.0625"];
    let training = ["--batch", "32", "--optimizer", "adam", "--hold-out", "100"];
    [&base[..], &training, more].concat()
}

const SHORT: &[&str] = &["--epochs", "6it", "--levels", "2", "--evaluate-every", "2it", "--seeds", "2"];

#[test]
fn tickets_are_found_shown_and_kept() {
    let place = Place::new();
    let output = place.command(&lottery("run", SHORT)).env("COLUMNS", "80").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(err.contains("14/14: level 2 of 2") && err.contains("early stop at"), "{err}");
    assert!(out.contains("51.2 %") || out.contains("64 %"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80 || line.starts_with("report: ")), "{out}");
    assert!(out.contains("dense network") && out.contains("report: run/report.html"), "{out}");
    for name in ["report.html", "results.jsonl", "summary.json", "levels.csv", "early-stop.svg", "curves.png"]
    {
        assert!(place.path("run").join(name).exists(), "{name}");
    }
    // What a training keeps are files like any other.
    let found = json(&place.ok(&lottery("run", &[SHORT, &["--json"]].concat())));
    let levels = found["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2 * (1 + 2 * 3));
    let ticket = levels.iter().find(|l| l["kind"] == "ticket" && l["level"] == 2).unwrap();
    let trained = format!("run/{}/trained.onnx", ticket["id"].as_str().unwrap());
    place.ok(&["verify", &trained, "--method", "l1", "--sparsity", "0.36"]);
    place.ok(&["eval", &trained, "--data", "digits-test.npz", "--scale", "0.0625"]);
    let mask = format!("run/{}/mask.safetensors", ticket["id"].as_str().unwrap());
    place.ok(&[
        "finetune",
        &trained,
        "-o",
        "on.onnx",
        "--data",
        "digits-test.npz",
        "--epochs",
        "1it",
        "--mask",
        &mask,
    ]);

    let recipe = "[data]\ndata = \"digits-test.npz\"\nscale = 0.0625\nbatch = 32\n\n[train]\noptimizer = \"adam\"\n\
                  hold-out = 100\nepochs = \"6it\"\n\n[lottery]\nlevels = 2\nevaluate-every = \"2it\"\nseeds = 2\n";
    std::fs::write(place.path("recipe.toml"), recipe).unwrap();
    place.ok(&["lottery", "digits.onnx", "-o", "by-recipe", "--recipe", "recipe.toml"]);
    assert_eq!(files(&place.path("run")), files(&place.path("by-recipe")));
}

#[test]
fn tickets_are_found_by_criteria_that_look_at_data() {
    let place = Place::new();
    let more = [SHORT, &["--method", "taylor@global", "--controls", "none"]].concat();
    place.ok(&lottery("own", &more));
    // The training data, without those that are held out, are what it looks at by default.
    let said = ["--calibrate", "digits-test.npz", "--calibrate-samples", "50"];
    place.ok(&lottery("said", &[&more[..], &said].concat()));
    let level = |folder: &str| {
        let found = json(&place.ok(&lottery(folder, &[&more[..], &["--json"]].concat())));
        found["levels"].as_array().unwrap().clone()
    };
    assert_eq!(level("own").len(), 2 * 3);
    let settings = files(&place.path("own"));
    let settings = settings.iter().filter(|(name, _)| name.ends_with("settings.json"));
    let texts: Vec<String> = settings.map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap()).collect();
    assert_eq!(
        texts.iter().filter(|text| text.contains("\"calibrate\"") && text.contains("Train(100)")).count(),
        2 * 2
    );
    let message = place.fails(2, &lottery("other", &[SHORT, &["--calibrate-samples", "5"]].concat()));
    assert!(message.contains("--calibrate-samples has no effect"), "{message}");
}

#[test]
fn a_killed_experiment_resumes_to_the_same_bytes() {
    let place = Place::new();
    let more = ["--epochs", "160it", "--levels", "1", "--evaluate-every", "20it", "--controls", "random"];
    place.ok(&lottery("whole", &more));
    let whole = files(&place.path("whole"));
    for threads in ["1", "2"] {
        let folder = format!("killed-{threads}");
        let arguments = [lottery(&folder, &more), vec!["--threads", threads]].concat();
        let mut kills = 0;
        loop {
            let mut command = place.command(&arguments);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let mut moments: u32 = 30 + 17 * kills;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if kills < 6 && moments == 0 {
                    break None;
                }
                moments = moments.saturating_sub(1);
                std::thread::sleep(Duration::from_millis(10));
            };
            match status {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                }
                Some(status) => {
                    let err = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
                    assert!(status.success(), "{err}");
                    break;
                }
            }
        }
        assert!(kills > 0, "the experiment ended before it was killed");
        let resumed = files(&place.path(&folder));
        assert_eq!(resumed.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        for (name, bytes) in &whole {
            assert!(resumed[name] == *bytes, "{threads} threads: {name}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_training() {
    let place = Place::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--epochs", "6it"], &["--levels 15"]),
        (&["--levels", "2"], &["--epochs"]),
        (&["--epochs", "6it", "--levels", "2", "--rewind", "soon"], &["500it", "learning-rate"]),
        (&["--epochs", "6it", "--levels", "2", "--schedule", "cubic"], &["--schedule", "--levels"]),
        (&["--epochs", "6it", "--levels", "2", "--patience", "3"], &["--patience"]),
        (&["--epochs", "6it", "--levels", "2", "--of-remaining"], &["--of-remaining", "--rate"]),
        (&["--epochs", "6it", "--levels", "2", "--test", "digits-test.npz"], &["--data and with --test"]),
        (&["--epochs", "6it", "--levels", "2", "--layer", "nothing*=0.1"], &["nothing*"]),
        (&["--epochs", "6it", "--levels", "2", "--method", "l1,l2"], &["one method"]),
    ];
    for (flags, words) in cases {
        let message = place.fails(2, &lottery("out", flags));
        assert!(words.iter().all(|word| message.contains(word)), "{flags:?}: {message}");
    }
    let without = [
        "lottery",
        "digits.onnx",
        "-o",
        "out",
        "--data",
        "digits-test.npz",
        "--epochs",
        "6it",
        "--levels",
        "1",
    ];
    assert!(place.fails(2, &without).contains("--hold-out 5000"));
    let net = ["lottery", "--net", "lenet-5", "-o", "out", "--data", "digits-test.npz", "--epochs", "6it"];
    let message = place.fails(2, &net);
    assert!(message.contains("lenet-300-100"), "{message}");
    let message = place.fails(2, &["lottery", "-o", "out", "--data", "digits-test.npz"]);
    assert!(message.contains("--net lenet-300-100"), "{message}");
}
