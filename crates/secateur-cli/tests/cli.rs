//! What a user does, from the outside: files in, files and messages out, exit codes.

mod common;

use std::path::Path;

use common::{Place, bytes, json};

#[test]
fn a_pruned_model_has_exactly_the_sparsity_that_was_asked_for() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1@global", "--sparsity", "0.7"]);
    let found = json(&p.ok(&["inspect", "pruned.onnx", "--json"]));
    let (nonzero, total) =
        (found["prunable"]["nonzero"].as_u64().unwrap(), found["prunable"]["total"].as_u64().unwrap());
    assert_eq!(total - nonzero, (total as f64 * 0.7).round_ties_even() as u64);
    let keys: Vec<&str> =
        found["metadata"].as_array().unwrap().iter().map(|m| m[0].as_str().unwrap()).collect();
    assert!(keys.contains(&"secateur.recipe") && keys.contains(&"secateur.input_sha256"), "{keys:?}");
}

#[test]
fn the_same_input_and_seed_give_the_same_bytes_on_any_thread_count() {
    let p = Place::new();
    for (name, threads) in [("a.onnx", "1"), ("b.onnx", "3")] {
        p.ok(&[
            "prune",
            "digits.onnx",
            "-o",
            name,
            "--method",
            "random",
            "--sparsity",
            "0.5",
            "--seed",
            "7",
            "--threads",
            threads,
        ]);
    }
    assert_eq!(bytes(&p.path("a.onnx")), bytes(&p.path("b.onnx")));
    p.ok(&["prune", "digits.onnx", "-o", "c.onnx", "--method", "random", "--sparsity", "0.5", "--seed", "8"]);
    assert_ne!(bytes(&p.path("a.onnx")), bytes(&p.path("c.onnx")));
}

#[test]
fn a_recipe_says_what_flags_say() {
    let p = Place::new();
    std::fs::write(
        p.path("r.toml"),
        "seed = 3\n[prune]\nmethod = 'l2/channel'\nsparsity = 0.25\nops = ['Conv']\nlayer = ['*=0.5']\n",
    )
    .unwrap();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "--recipe", "r.toml"]);
    p.ok(&[
        "prune",
        "digits.onnx",
        "-o",
        "b.onnx",
        "--method",
        "l2/channel",
        "--sparsity",
        "0.25",
        "--ops",
        "Conv",
        "--layer",
        "*=0.5",
        "--seed",
        "3",
    ]);
    assert_eq!(bytes(&p.path("a.onnx")), bytes(&p.path("b.onnx")));
}

#[test]
fn outputs_are_not_overwritten_unless_asked() {
    let p = Place::new();
    let before = bytes(&p.path("digits.onnx"));
    let prune = ["prune", "digits.onnx", "-o", "digits.onnx", "--method", "l1", "--sparsity", "0.5"];
    let message = p.fails(2, &prune);
    assert!(message.contains("--force"), "{message}");
    assert_eq!(bytes(&p.path("digits.onnx")), before);
    p.ok(&[&prune[..], &["--force"]].concat());
    assert_ne!(bytes(&p.path("digits.onnx")), before);
}

#[test]
fn a_dry_run_writes_nothing() {
    let p = Place::new();
    let count = || std::fs::read_dir(p.folder.path()).unwrap().count();
    let before = count();
    let text = p.ok(&["prune", "digits.onnx", "--method", "l1/channel", "--sparsity", "0.5", "--dry-run"]);
    assert!(text.contains("nothing is written"), "{text}");
    assert_eq!(count(), before);
}

#[test]
fn evaluation_finds_the_accuracy_of_the_demo() {
    let p = Place::new();
    let found =
        json(&p.ok(&["eval", "digits.onnx", "--data", "digits-test.npz", "--scale", "1/16", "--json"]));
    let measure = |name: &str| {
        let all = found["measures"].as_array().unwrap();
        all.iter().find(|m| m["name"] == name).unwrap()["value"].as_f64().unwrap()
    };
    // Measured with ONNX Runtime: see the demo's README.
    assert!((measure("top1") - 0.996).abs() < 1e-9);
    assert!((measure("cross-entropy") - 0.01252).abs() < 1e-4);
}

#[test]
fn a_sweep_that_was_cut_off_ends_in_the_same_results() {
    let p = Place::new();
    let sweep = |folder: &str| {
        p.ok(&[
            "sweep",
            "digits.onnx",
            "--data",
            "digits-test.npz",
            "--scale",
            "1/16",
            "--methods",
            "l1@global,random",
            "--step",
            "0.3",
            "--random-seeds",
            "2",
            "-o",
            folder,
        ])
    };
    sweep("whole");
    let whole = bytes(&p.path("whole/results.jsonl"));
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 2 + 3 + 3 * 2, "header, unpruned, points");
    for cut in [whole.len() / 3, whole.len() - 10] {
        let folder = format!("cut-{cut}");
        std::fs::create_dir_all(p.path(&folder)).unwrap();
        std::fs::write(p.path(&folder).join("results.jsonl"), &whole[..cut]).unwrap();
        sweep(&folder);
        assert!(bytes(&p.path(&folder).join("results.jsonl")) == whole, "cut at {cut}");
    }
    for file in ["report.html", "results.csv"] {
        assert!(p.path("whole").join(file).exists(), "{file}");
    }
    let html = String::from_utf8(bytes(&p.path("whole/report.html"))).unwrap();
    assert!(!html.contains("src=\"http") && !html.contains("href=\"http"), "the report needs no network");
}

#[test]
fn sensitivity_prunes_one_layer_at_a_time() {
    let p = Place::new();
    let found = json(&p.ok(&[
        "sensitivity",
        "digits.onnx",
        "--data",
        "digits-test.npz",
        "--scale",
        "1/16",
        "--samples",
        "100",
        "--step",
        "0.45",
        "-o",
        "layers",
        "--json",
    ]));
    let points = found["points"].as_array().unwrap();
    let layers = json(&p.ok(&["inspect", "digits.onnx", "--json"]))["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["reason"].is_null())
        .count();
    assert_eq!(points.len(), 2 * layers);
    for point in points {
        assert_eq!(point["layers"].as_array().unwrap().len(), 1, "{point}");
    }
    assert!(p.path("layers/report.html").exists());
}

#[test]
fn without_labels_outputs_are_compared_with_the_unpruned_model() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1@global", "--sparsity", "0.5"]);
    let arguments = ["--reference", "digits.onnx", "--data", "digits-test.npz", "--scale", "1/16", "--json"];
    let measure = |model: &str| {
        let found = json(&p.ok(&[&["eval", model][..], &arguments[..]].concat()));
        let all = found["measures"].as_array().unwrap();
        all.iter().find(|m| m["name"] == "relative-l2").unwrap()["value"].as_f64().unwrap()
    };
    assert_eq!(measure("digits.onnx"), 0.0);
    assert!(measure("pruned.onnx") > 0.0);
}

#[test]
fn mistakes_end_in_a_sentence_and_exit_code_2() {
    let p = Place::new();
    std::fs::write(p.path("text.onnx"), "this is no model").unwrap();
    std::fs::write(p.path("empty.onnx"), "").unwrap();
    std::fs::write(p.path("bad.toml"), "[prune]\nsparsty = 0.5").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["inspect", "text.onnx"], "text.onnx"),
        (&["inspect", "empty.onnx"], "empty.onnx"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--method", "l1", "--sparsity", "1.5"], "1.5"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--method", "l1"], "--sparsity"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--sparsity", "0.5"], "--method"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--method", "l7x", "--sparsity", "0.5"], "l7x"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--method", "l0", "--sparsity", "0.5"], "channels"),
        (
            &["prune", "digits.onnx", "-o", "x.onnx", "--method", "l1", "--sparsity", "0.5", "--ops", "Konv"],
            "Konv",
        ),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--recipe", "bad.toml"], "sparsty"),
        (&["eval", "digits.onnx"], "--data"),
        (&["eval", "digits.onnx", "--data", "nothing.npz"], "nothing.npz"),
        (&["eval", "digits.onnx", "--data", "digits.onnx"], "digits.onnx"),
        (&["sweep", "digits.onnx", "--data", "digits-test.npz", "--step", "0", "-o", "r"], "step"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (arguments, word) in cases {
        let message = p.fails(2, arguments);
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    assert!(!p.path("x.onnx").exists());
}

#[test]
fn a_model_has_a_page() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1/channel", "--sparsity", "0.5"]);
    let text = p.ok(&["inspect", "pruned.onnx", "--html", "pruned.html"]);
    assert!(text.contains('█') && text.contains("out ") && !text.contains('\u{1b}'), "{text}");
    let html = String::from_utf8(bytes(&p.path("pruned.html"))).unwrap();
    for word in ["<svg", "zstd", "<h3>Recipe</h3>", "normalisation"] {
        assert!(html.contains(word), "{word}");
    }
    let message = p.fails(2, &["inspect", "digits.onnx", "--html", "pruned.html"]);
    assert!(message.contains("--force"), "{message}");
    p.ok(&["inspect", "digits.onnx", "--html", "pruned.html", "--force"]);
    assert_ne!(html.into_bytes(), bytes(&p.path("pruned.html")));

    // A checkpoint has neither nodes nor costs.
    p.ok(&["convert", "digits.onnx", "-o", "digits.safetensors"]);
    let text = p.ok(&["inspect", "digits.safetensors"]);
    assert!(!text.contains("MACs") && !text.contains("nodes"), "{text}");
}

#[test]
fn sizes_of_layers_and_file_go_together() {
    let p = Place::new();
    let prune = ["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1", "--sparsity", "0.8"];
    let text = p.ok(&prune);
    assert!(text.contains("packed") && text.contains("entropy bound"), "{text}");
    let text = p.ok(&["inspect", "pruned.onnx", "--sizes"]);
    assert!(text.contains("packed") && text.contains("the file"), "{text}");
    let found = json(&p.ok(&["inspect", "pruned.onnx", "--sizes", "--json"]));
    let size = |of: &serde_json::Value, kind: &str| of["bytes"][kind].as_f64().unwrap();
    let layers: Vec<_> =
        found["tensors"].as_array().unwrap().iter().filter(|t| !t["bytes"].is_null()).collect();
    assert!(!layers.is_empty());
    let sum = |kind: &str| layers.iter().map(|layer| size(layer, kind)).sum::<f64>();
    // The file saves what its layers save; packed, less what names, calls and functions take.
    let saved = |kind: &str| size(&found, "raw") - size(&found, kind);
    let of_layers = |kind: &str| sum("raw") - sum(kind);
    assert!((saved("entropy") - of_layers("entropy")).abs() < 1.0, "{found}");
    assert!(saved("packed") < of_layers("packed") && saved("packed") > 0.95 * of_layers("packed"), "{found}");
    assert!(sum("packed") < 0.4 * sum("raw") && sum("packed") > 0.97 * sum("entropy"));
    // Packing writes about that.
    p.ok(&["pack", "pruned.onnx", "-o", "packed.onnx"]);
    let written = bytes(&p.path("packed.onnx")).len() as f64;
    assert!((size(&found, "packed") / written - 1.0).abs() < 0.01, "{written}: {found}");
}

#[test]
fn sizes_need_no_data() {
    let p = Place::new();
    let arguments =
        ["sizes", "digits.onnx", "--methods", "l1,l1@global", "--step", "0.3", "--ops", "Conv", "-o", "s"];
    let text = p.ok(&arguments);
    for said in ["packed", "entropy bound", "unpruned"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let csv = bytes(&p.path("s/sizes.csv"));
    assert!(p.path("s/sizes.svg").exists() && p.path("s/sizes.png").exists());
    assert!(p.fails(2, &arguments).contains("--force"));
    let found = json(&p.ok(&[&arguments[..], &["--force", "--json", "--threads", "1"]].concat()));
    assert_eq!(found["sizes"]["points"].as_array().unwrap().len(), 2 * 3);
    assert_eq!(bytes(&p.path("s/sizes.csv")), csv);
}

#[test]
fn methods_lists_every_combination() {
    let p = Place::new();
    let cells = json(&p.ok(&["methods", "--json"]));
    assert!(cells.as_array().unwrap().iter().any(|c| c["refused"].is_string()));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/methods.md");
    assert_eq!(
        p.ok(&["methods", "--markdown"]),
        std::fs::read_to_string(committed).unwrap(),
        "docs/methods.md is not what `secateur methods --markdown` prints"
    );
}
