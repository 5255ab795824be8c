//! Every command's output fits a terminal of 80 columns.

mod common;

use common::Place;
use unicode_width::UnicodeWidthStr;

/// The lines that are wider than 80 columns: names of files, which are as long as they are, aside.
fn too_wide(shown: &str) -> Vec<&str> {
    let names_a_file = |line: &str| line.starts_with("wrote ") || line.starts_with("report: ");
    shown.lines().filter(|line| line.width() > 80 && !names_a_file(line)).collect()
}

#[test]
fn tables_fit_eighty_columns() {
    let p = Place::new();
    let data = ["--data", "digits-test.npz", "--samples", "40"];
    let sweep = ["--step", "0.3", "--method", "l1,l1@global,random", "--random-seeds", "2"];
    let commands: Vec<Vec<&str>> = vec![
        vec!["inspect", "digits.onnx"],
        vec!["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1/2:4"],
        vec!["inspect", "pruned.onnx", "--all", "--sizes"],
        vec!["verify", "pruned.onnx"],
        vec!["diff", "digits.onnx", "pruned.onnx", "--all"],
        vec!["pack", "pruned.onnx", "-o", "packed.onnx"],
        vec!["inspect", "packed.onnx"],
        [&["eval", "digits.onnx"][..], &data].concat(),
        [&["sweep", "digits.onnx", "-o", "sweep", "--latency"][..], &data, &sweep].concat(),
        [&["sweep", "digits.onnx", "-o", "free", "--free", "top1:1pt"][..], &data, &sweep].concat(),
        [&["sensitivity", "digits.onnx", "-o", "alone"][..], &data].concat(),
        [&["sizes", "digits.onnx", "-o", "sizes"][..], &sweep[..4]].concat(),
        vec!["predict", "digits.onnx", "--costs", "shipped", "--layers", "--threads", "1"],
        vec![
            "bench",
            "digits.onnx",
            "--rounds",
            "1",
            "--sparsity",
            "0.5,0.9",
            "--profile",
            "--batch",
            "1,4",
            "--threads",
            "1",
        ],
        vec!["methods"],
    ];
    for arguments in commands {
        let output = p.command(&arguments).env("COLUMNS", "80").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(too_wide(&shown), [""; 0], "{arguments:?}:\n{shown}");
    }
}

#[test]
fn costs_of_kernels_are_shown_where_they_are_wanted() {
    let p = Place::new();
    for command in
        [&["bench", "digits.onnx", "--rounds", "1"][..], &["predict", "digits.onnx", "--sparsity", "0.9"]]
    {
        let brief = p.ok(&[command, &["--costs", "shipped"]].concat());
        assert!(brief.contains("shipped costs") && !brief.contains(" ns)"), "{brief}");
        assert!(p.ok(&[command, &["--costs", "shipped", "--verbose"]].concat()).contains(" ns)"));
    }
}
