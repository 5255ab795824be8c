//! What a new user tries: flags without an effect, values written another way, output that nobody reads to the end.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, bytes, json};

const PRUNE: [&str; 8] =
    ["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l1@global", "--sparsity", "0.8"];

/// The messages of a command that succeeds.
fn said(p: &Place, arguments: &[&str]) -> String {
    let output = p.run(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message
}

#[test]
fn more_threads_than_cores_are_capped() {
    let p = Place::new();
    let message = said(&p, &["inspect", "digits.onnx", "--threads", "9999"]);
    assert!(message.contains("--threads 9999: using"), "{message}");
    assert_eq!(said(&p, &["inspect", "digits.onnx", "--threads", "9999", "--quiet"]), "");
}

#[test]
fn verify_ends_with_2_where_it_cannot_check() {
    let p = Place::new();
    assert!(p.fails(2, &["verify", "nosuch.onnx"]).contains("nosuch.onnx"));
    p.ok(&PRUNE);
    assert!(p.ok(&["verify", "pruned.onnx"]).contains("tensors match the recipe"));
    p.fails(1, &["verify", "pruned.onnx", "--method", "l1", "--sparsity", "95%"]);
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let p = Place::new();
    for arguments in [&["inspect", "digits.onnx", "--json"][..], &["inspect", "digits.onnx"], &["man"]] {
        let mut command = p.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert!(output.status.success(), "{arguments:?}");
    }
}

#[test]
fn flags_without_an_effect_are_refused() {
    let p = Place::new();
    p.ok(&PRUNE);
    let data = ["--data", "digits-test.npz", "--scale", "1/16"];
    let sweep = [&["sweep", "digits.onnx", "-o", "run", "--step", "0.5"], &data[..]].concat();
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&sweep, &["--count", "7"], "--count"),
        (&sweep, &["--keep-originals"], "--keep-originals"),
        (&sweep, &["--masks", "pairs"], "--masks"),
        (&sweep, &["--force"], "--force"),
        (&sweep, &["-s", "0.5"], "--sparsity"),
        (&sweep, &["-m", "l1", "--random-seeds", "3"], "--random-seeds"),
        (&sweep, &["-m", "l1", "--scores", "x.npz"], "--scores"),
        (&["sensitivity", "digits.onnx", "-o", "run"], &["--no-sizes"], "--no-sizes"),
        (&["sensitivity", "digits.onnx", "-o", "run"], &["--layer", "*=0.5"], "--layer"),
        (&["sizes", "digits.onnx", "-o", "sizes"], &["--keep-originals"], "--keep-originals"),
        (&["sizes", "digits.onnx", "-o", "sizes"], &["--count", "3"], "--count"),
        (&["bench", "digits.onnx"], &["--count", "3"], "--count"),
        (&["bench", "digits.onnx"], &["--force"], "--force"),
        (&["predict", "digits.onnx"], &["--masks", "sidecar"], "--masks"),
        (&["predict", "digits.onnx"], &["--weights-only", "-m", "l1"], "--weights-only"),
        (&["verify", "pruned.onnx"], &["--keep-originals"], "--keep-originals"),
        (&["verify", "pruned.onnx"], &["--seed", "3"], "--seed"),
        (&["inspect", "digits.onnx"], &["--seed", "3"], "--seed"),
        (&["inspect", "digits.onnx"], &["--force"], "--force"),
        (&["diff", "digits.onnx", "pruned.onnx"], &["--recipe", "r.toml"], "--recipe"),
        (&["methods"], &["--threads", "2"], "--threads"),
        (&PRUNE, &["--weights-only", "--force"], "--weights-only"),
        (&["eval", "digits.onnx", data[0], data[1]], &["--filter", "bicubic"], "--filter"),
        (
            &["eval", "digits.onnx", "--reference", "pruned.onnx", data[0], data[1]],
            &["--loss", "mse"],
            "--loss",
        ),
        (&["inspect", "digits.onnx"], &["--dim", "heigth=4"], "heigth"),
    ];
    for (command, flag, named) in cases {
        let message = p.fails(2, &[command, *flag].concat());
        assert!(message.contains(named), "{command:?} {flag:?}: {message}");
    }
    assert!(!p.path("run").exists() && !p.path("sizes").exists());
    // What a command does not use, its help does not offer.
    let help = p.ok(&["sweep", "--help"]);
    assert!(!help.contains("--keep-originals") && !help.contains("--count") && help.contains("--sparsity"));
}

#[test]
fn a_graph_that_the_output_cannot_hold_is_said() {
    let p = Place::new();
    let prune = |to: &str| ["prune", "digits.onnx", "-o", to, "-m", "l1", "-s", "0.5"].map(str::to_string);
    for to in ["x.pth", "x.safetensors"] {
        let arguments = prune(to);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let message = said(&p, &arguments);
        assert!(message.contains("graph is left out") && message.contains(to), "{message}");
        let force = [&arguments[..], &["--force", "--quiet"]].concat();
        assert_eq!(said(&p, &force), "");
    }
    let message = p.fails(2, &["eval", "x.pth", "--data", "digits-test.npz"]);
    assert!(message.contains("x.pth") && message.contains("--graph model.onnx"), "{message}");
    let message = p.fails(1, &["verify", "x.pth", "-m", "l1", "-s", "0.9"]);
    assert!(message.contains("pruned with `--graph`"), "{message}");
}

#[test]
fn tensors_that_the_output_cannot_hold_are_said() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("SECATEUR_DATA").map_or_else(beside, PathBuf::from);
    let model = folder.join("models/mobilenetv1-025/mobilenetV1X0.25_pretrain.tar");
    if !model.exists() {
        println!("skipped: there is no {} (set SECATEUR_DATA)", model.display());
        return;
    }
    let p = Place::new();
    let model = model.display().to_string();
    for (command, to, left_out) in [
        (&["prune", "-m", "l1", "-s", "0.5"][..], "a.safetensors", true),
        (&["finalize"][..], "b.safetensors", true),
        (&["convert"][..], "c.safetensors", true),
        (&["pack"][..], "d.safetensors", true),
        (&["prune", "-m", "l1", "-s", "0.5"][..], "e.tar", false),
    ] {
        let message = said(&p, &[command, &[model.as_str(), "-o", to]].concat());
        assert_eq!(message.contains("left out 84 tensors outside"), left_out, "{command:?}: {message}");
    }
}

#[test]
fn shares_are_fractions_or_percentages_everywhere() {
    let p = Place::new();
    p.ok(&PRUNE);
    let percent: Vec<&str> =
        PRUNE.iter().map(|&w| if w == "0.8" { "80%" } else { w }).chain(["--force"]).collect();
    let before = bytes(&p.path("pruned.onnx"));
    p.ok(&percent);
    assert!(before == bytes(&p.path("pruned.onnx")));
    std::fs::write(p.path("r.toml"), "[prune]\nmethod = 'l1@global'\nsparsity = '80%'\n").unwrap();
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--recipe", "r.toml", "--force"]);
    assert!(before == bytes(&p.path("pruned.onnx")));
    for command in ["prune", "sweep", "sizes", "bench", "predict", "sensitivity", "verify"] {
        let message = p.fails(2, &[command, "digits.onnx", "-s", "80"]);
        assert!(message.contains("did you mean 0.8 (80 %)?"), "{command}: {message}");
    }
    let message = p.fails(2, &["prune", "digits.onnx", "-o", "y.onnx", "-m", "l1,l2", "-s", "0.5"]);
    assert!(message.contains("l1, l2") && message.contains("secateur sweep"), "{message}");
}

#[test]
fn every_command_that_prunes_has_the_same_words() {
    let p = Place::new();
    let points = |folder: &str, more: &[&str]| {
        let data = ["--data", "digits-test.npz", "--scale", "1/16", "--samples", "50", "--json"];
        let sweep = [&["sweep", "digits.onnx", "-o", folder, "--random-seeds", "1"], &data[..], more];
        let points = json(&p.ok(&sweep.concat()))["points"].clone();
        let name = |p: &serde_json::Value| format!("{} {}", p["method"].as_str().unwrap(), p["target"]);
        points.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    let expected = ["l1 0.3", "l1 0.6", "random 0.3", "random 0.6"];
    assert_eq!(points("new", &["--method", "l1,random", "--sparsity", "0.3,60%"]), expected);
    assert_eq!(points("old", &["--methods", "l1,random", "--step", "0.3", "--max", "0.6"]), expected);
    std::fs::write(p.path("r.toml"), "[sweep]\nmethods = ['l1', 'random']\nstep = 0.3\nmax = 0.6\n").unwrap();
    assert_eq!(points("recipe", &["--recipe", "r.toml"]), expected);
    assert_eq!(points("both", &["--recipe", "r.toml", "-m", "random", "-s", "0.3"]), ["random 0.3"]);

    let bench = ["bench", "digits.onnx", "--rounds", "1", "--threads", "1", "--json", "--costs", "shipped"];
    let some = ["-m", "l1,l1/channel", "-s", "0.5", "--ops", "Conv", "--exclude", "*head*,*fc*,*Gemm*"];
    let found = json(&p.ok(&[&bench[..], &some[..6]].concat()));
    let methods: Vec<&str> =
        found["versions"].as_array().unwrap().iter().filter_map(|v| v["method"].as_str()).collect();
    assert_eq!(methods, ["l1", "l1/channel"]);
    assert!(found["versions"][1]["sparsity"].as_f64().unwrap() < 0.5, "Gemm stays dense");

    let predict = ["predict", "digits.onnx", "--costs", "shipped", "--threads", "1"];
    let shown =
        p.ok(&[&predict[..], &["--method", "l1/channel", "--sparsity", "0.5", "--ops", "Conv"]].concat());
    assert!(
        shown.contains("once the channels are removed"),
        "channels bring nothing before they are removed: {shown}"
    );
}

#[test]
fn names_in_tables_can_be_pasted() {
    let p = Place::new();
    let predict = ["predict", "digits.onnx", "--costs", "shipped", "--threads", "1", "-m", "l1", "-s", "0.5"];
    let found = json(&p.ok(&[&predict[..], &["--json"]].concat()));
    let before = found["in_selected"].as_f64().unwrap();
    let shown = found["layers"].as_array().unwrap().iter();
    let heavy = shown.filter(|l| l["kernel"].as_str().unwrap().starts_with("Conv"));
    let mut tried = 0;
    for layer in heavy.take(2) {
        let name = layer["name"].as_str().unwrap();
        p.ok(&["prune", "digits.onnx", "--dry-run", "-m", "l1", "-s", "0.5", "--exclude", name]);
        tried += 1;
    }
    assert!(tried == 2 && before > 0.0);
    // Names that a narrow table shortened.
    let layers = json(&p.ok(&["prune", "digits.onnx", "--dry-run", "-m", "l1", "-s", "0.5", "--json"]));
    let name = layers["layers"][0]["tensor"].as_str().unwrap().to_string();
    let short = format!("{}…{}", &name[..3], &name[name.len() - 4..]);
    p.ok(&["prune", "digits.onnx", "--dry-run", "-m", "l1", "-s", "0.5", "--include", &short]);
}

#[test]
fn a_criterion_that_needs_a_file_says_how_to_give_it() {
    let p = Place::new();
    let message = p.fails(2, &["prune", "digits.onnx", "-o", "y.onnx", "-m", "file", "-s", "0.5"]);
    assert!(message.contains("criterion `file` needs a file of scores"), "{message}");
    assert!(message.contains("--scores scores.npz"), "{message}");
}

#[test]
fn an_output_of_an_unknown_kind_is_no_folder() {
    let p = Place::new();
    let message =
        p.fails(2, &["run", "digits.onnx", "--input", "x.npy", "-o", "y.txt", "--costs", "shipped"]);
    assert!(message.contains("y.txt") && message.contains(".npy"), "{message}");
    assert!(!p.path("y.txt").exists());
}

#[test]
fn unknown_costs_say_how_to_make_them_known() {
    let p = Place::new();
    let model = bytes(&p.path("digits.onnx"));
    // Two axes of 8 become one of a name.
    let (known, named) = (b"\x0a\x02\x08\x08\x0a\x02\x08\x08", b"\x0a\x06\x12\x04side");
    let at = model.windows(8).position(|w| w == known).expect("the input's last axes");
    let mut open = model.clone();
    open[at..at + 8].copy_from_slice(named);
    std::fs::write(p.path("open.onnx"), open).unwrap();
    let shown = p.ok(&["inspect", "open.onnx"]);
    assert!(shown.contains("MACs unknown") && shown.contains("--dim side="), "{shown}");
}

#[test]
fn who_stops_a_sweep_is_told_how_to_resume() {
    let p = Place::new();
    let arguments = ["sweep", "digits.onnx", "--data", "digits-test.npz", "--scale", "1/16", "-o", "run"];
    let mut child = p.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let points = || std::fs::read_to_string(p.path("run/results.jsonl")).unwrap_or_default().lines().count();
    while points() < 3 {
        assert!(started.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("run the same command again to resume") && message.contains("run"), "{message}");
}

#[test]
fn the_program_names_itself_and_explains_itself_to_shells() {
    let p = Place::new();
    assert!(p.ok(&["--version"]).starts_with("secateur "));
    for shell in ["bash", "zsh", "fish"] {
        let script = p.ok(&["completions", shell]);
        assert!(script.contains("sensitivity") && script.contains("sparsity"), "{shell}");
    }
    let page = p.ok(&["man", "prune"]);
    assert!(page.contains(".TH") && page.contains("keep\\-originals"), "{page}");
    p.ok(&["man", "-o", "man1"]);
    assert!(p.path("man1/secateur-prune.1").exists() && p.path("man1/secateur.1").exists());
    assert!(p.fails(2, &["man", "prnue"]).contains("prnue"));
}

#[test]
fn colour_is_as_asked() {
    let p = Place::new();
    p.ok(&PRUNE);
    // The tests set NO_COLOR and have no terminal.
    for (flag, coloured) in [("always", true), ("auto", false), ("never", false)] {
        let shown = p.ok(&["inspect", "pruned.onnx", "--color", flag]);
        assert_eq!(shown.contains('\u{1b}'), coloured, "{flag}");
        let error = p.fails(2, &["inspect", "nosuch.onnx", "--color", flag]);
        assert_eq!(error.contains('\u{1b}'), coloured, "{flag}");
    }
}

#[test]
fn counts_and_messages_are_plain() {
    let p = Place::new();
    let same = p.ok(&["diff", "digits.onnx", "digits.onnx"]);
    assert!(same.contains("shared tensors are identical") && same.contains("MACs per sample"), "{same}");
    let shown =
        p.ok(&["bench", "digits.onnx", "--rounds", "1", "--threads", "1", "--costs", "shipped", "--profile"]);
    assert!(shown.contains("1 thread:") && !shown.contains("1 threads"), "{shown}");
    assert!(shown.contains("unpruned digits.onnx"), "{shown}");
    let message = p.fails(2, &["convert", "digits.onnx", "-o", "x.xyz"]);
    assert!(message.contains("unknown output extension"), "{message}");
}

/// What a recipe says that a command does not do is an error, as the flag is.
#[test]
fn masks_of_a_recipe_are_refused_where_nothing_applies_them() {
    let p = Place::new();
    std::fs::write(p.path("r.toml"), "[prune]\nmask = [\"masks.npz\"]\n").unwrap();
    for command in ["sweep", "sensitivity"] {
        let arguments = [command, "digits.onnx", "-o", "run", "--data", "digits.npz", "--recipe", "r.toml"];
        let message = p.fails(2, &arguments);
        assert!(message.contains("masks.npz") && message.contains("prune --mask"), "{message}");
    }
}

#[test]
fn sizes_of_inputs_need_a_graph() {
    let p = Place::new();
    p.ok(&["convert", "digits.onnx", "-o", "digits.safetensors"]);
    for arguments in
        [&["inspect", "digits.safetensors"][..], &["diff", "digits.safetensors", "digits.safetensors"]]
    {
        let message = p.fails(2, &[arguments, &["--dim", "height=8"]].concat());
        assert!(message.contains("digits.safetensors") && message.contains("--dim"), "{message}");
    }
    let message = p.fails(2, &["diff", "digits.onnx", "digits.onnx", "--shape", "nosuch=1x8"]);
    assert!(message.contains("nosuch"), "{message}");
}

#[test]
fn masks_of_other_weights_are_an_error_everywhere() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5", "--masks", "sidecar"]);
    p.ok(&["inspect", "a.onnx"]);
    std::fs::copy(p.path("digits.onnx"), p.path("a.onnx")).unwrap();
    let data = ["--data", "digits-test.npz", "--scale", "1/16"];
    let commands: [&[&str]; 10] = [
        &["inspect", "a.onnx"],
        &["verify", "a.onnx", "-m", "l1", "-s", "0.5"],
        &["eval", "a.onnx", data[0], data[1], data[2], data[3]],
        &["eval", "digits.onnx", "--reference", "a.onnx", data[0], data[1], data[2], data[3]],
        &["pack", "a.onnx", "-o", "b.onnx"],
        &["unpack", "a.onnx", "-o", "b.onnx"],
        &["convert", "a.onnx", "-o", "b.safetensors"],
        &["diff", "digits.onnx", "a.onnx"],
        &["predict", "a.onnx", "--costs", "shipped"],
        &["bench", "a.onnx", "--costs", "shipped"],
    ];
    for command in commands {
        let message = p.fails(2, command);
        assert!(
            message.contains("the masks belong to another version of the model"),
            "{command:?}: {message}"
        );
    }
    assert!(!p.path("b.onnx").exists() && !p.path("b.safetensors").exists());
}

#[test]
fn channels_that_are_the_outputs_stay_unless_named() {
    let p = Place::new();
    let plan = |more: &[&str]| {
        let command = ["prune", "digits.onnx", "--dry-run", "-m", "l1/channel", "-s", "0.5"];
        p.ok(&[&command[..], more].concat())
    };
    let found = json(&plan(&["--json"]));
    let named = |found: &serde_json::Value| {
        let layers = found["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["tensor"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert!(!named(&found).contains(&"head.weight".to_string()), "{found}");
    let shown = plan(&[]);
    assert!(shown.contains("head.weight") && shown.contains("the model's output"), "{shown}");
    let all = json(&plan(&["--json", "--include", "*,head.weight"]));
    assert!(named(&all).contains(&"head.weight".to_string()), "{all}");
    // Single weights of it go as before, and so do the slices that are asked for by their axis.
    for method in ["l1", "l1/channel:0"] {
        let found = p.ok(&["prune", "digits.onnx", "--dry-run", "-m", method, "-s", "0.5", "--json"]);
        assert!(named(&json(&found)).contains(&"head.weight".to_string()), "{method}");
    }
}

#[test]
fn a_checkpoint_is_timed_with_the_graph_of_its_export() {
    let p = Place::new();
    p.ok(&["convert", "digits.onnx", "-o", "digits.safetensors", "--quiet"]);
    let quick = ["--costs", "shipped", "--threads", "1", "-m", "l1", "-s", "0.5", "--json"];
    for command in [&["predict"][..], &["bench", "--rounds", "1"]] {
        let given = [command, &["digits.safetensors", "--graph", "digits.onnx"], &quick].concat();
        let found = json(&p.ok(&given));
        if command[0] == "bench" {
            let again = found["command"].as_str().unwrap();
            assert!(again.contains("--graph digits.onnx") && again.contains("--method l1"), "{again}");
        }
    }
    let sizes =
        ["sizes", "digits.safetensors", "--graph", "digits.onnx", "-o", "sizes", "-m", "l1", "-s", "0.5"];
    p.ok(&sizes);
    let page = String::from_utf8(bytes(&p.path("sizes/sizes.html"))).unwrap();
    assert!(page.contains("secateur sizes digits.safetensors --graph digits.onnx"), "{page}");
    let useless = ["bench", "digits.onnx", "--graph", "digits.onnx", "--costs", "shipped"];
    assert!(p.fails(2, &useless).contains("--graph has no effect"));
}

#[test]
fn a_pattern_with_a_sparsity_of_its_own_is_timed_beside_others() {
    let p = Place::new();
    let given =
        ["-m", "l1,l1/2:4", "-s", "0.9", "--rounds", "1", "--threads", "1", "--costs", "shipped", "--json"];
    let found = json(&p.ok(&[&["bench", "digits.onnx"][..], &given].concat()));
    let targets: Vec<f64> =
        found["versions"].as_array().unwrap().iter().filter_map(|v| v["target"].as_f64()).collect();
    assert_eq!(targets, [0.9, 0.5]);
}

#[test]
fn the_command_of_a_report_has_only_flags_that_it_takes() {
    let p = Place::new();
    let recipe = "[prune]\nmethod = 'l1'\nsparsity = 0.5\nkeep-originals = true\n\
                  [data]\ndata = 'digits-test.npz'\nscale = 0.0625\nsamples = 50\n[sweep]\nmethod = ['l2']\n";
    std::fs::write(p.path("r.toml"), recipe).unwrap();
    p.ok(&["sweep", "digits.onnx", "-o", "run", "--recipe", "r.toml"]);
    p.ok(&["sizes", "digits.onnx", "-o", "sizes", "--recipe", "r.toml"]);
    for (page, command) in [
        ("run/report.html", "secateur sweep digits.onnx"),
        ("sizes/sizes.html", "secateur sizes digits.onnx"),
    ] {
        let html = String::from_utf8(bytes(&p.path(page))).unwrap();
        let at = html.find(command).unwrap_or_else(|| panic!("{page} has no command"));
        let line = html[at..].split('<').next().unwrap();
        assert!(!line.contains("--keep-originals") && line.contains("--method l2"), "{line}");
        assert_eq!(line.matches("--method").count(), 1, "{line}");
        assert_eq!(line.contains("--data"), page.starts_with("run"), "{line}");
    }
}

#[test]
fn an_input_that_the_model_lacks_is_named() {
    let p = Place::new();
    let message = p.fails(2, &["eval", "digits.onnx", "--data", "digits-test.npz", "--input", "foo"]);
    assert!(message.contains("no input `foo`"), "{message}");
}

#[test]
fn files_that_are_not_there_or_in_the_way_are_mistakes() {
    let p = Place::new();
    std::fs::write(p.path("file"), "").unwrap();
    let commands: [(&[&str], &str); 5] = [
        (&["inspect", "nosuch.onnx"], "there is no such file"),
        (&["eval", "digits.onnx", "--data", "nosuch.npz"], "there is no such file"),
        (&["prune", "digits.onnx", "-o", "x.onnx", "--recipe", "nosuch.toml"], "there is no such file"),
        (&["demo", "-o", "file"], "in the way"),
        (&["sweep", "digits.onnx", "--data", "digits-test.npz", "-o", "file"], "not a folder"),
    ];
    for (command, said) in commands {
        let message = p.fails(2, command);
        assert!(message.contains(said) && !message.contains("os error"), "{command:?}: {message}");
    }
}
