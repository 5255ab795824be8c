//! Files as strangers make them: pipes, devices, links, names that are no text, and absurd claims. Each command
//! ends within seconds, with a message and without a panic.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Place, json};

/// Runs a command that must end by itself, within half a minute on a busy machine.
fn ends(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// The message of a command that must end with exit code 2.
fn refused(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = ends(command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{shown}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// A safetensors file of one tensor of 4 × 4 with these metadata.
fn checkpoint(path: &Path, metadata: &str) {
    let header = format!(
        r#"{{"__metadata__":{metadata},"l.weight":{{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}}}"#
    );
    let weights: Vec<u8> = (1..=16).flat_map(|i| ((i * i % 17) as f32).to_le_bytes()).collect();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &weights].concat())
        .unwrap();
}

/// A checkpoint with this recipe in its metadata.
fn with_recipe(path: &Path, prune: &serde_json::Value) {
    let recipe = serde_json::json!({ "prune": prune }).to_string();
    checkpoint(path, &serde_json::json!({ "secateur.recipe": recipe }).to_string());
}

#[test]
fn recipes_in_files_are_bounded() {
    let p = Place::new();
    let file = p.path("a.safetensors");
    let nested = format!("{}a{}", "{".repeat(300), "}".repeat(300));
    let many: Vec<String> = (0..5000).map(|i| format!("*{i}*")).collect();
    let long = "x".repeat(1 << 19);
    let said = |key: &str, value: serde_json::Value| {
        let mut prune = serde_json::json!({ "method": "l1", "sparsity": 0.5 });
        prune[key] = value;
        prune
    };
    for (prune, word) in [
        (said("module", serde_json::json!([nested])), "nested"),
        (said("include", serde_json::json!([nested])), "nested"),
        (said("exclude", serde_json::json!([nested])), "nested"),
        (said("layer", serde_json::json!([format!("{nested}=0.5")])), "nested"),
        (said("include", serde_json::json!(["*".repeat(10_000)])), "4096"),
        (said("include", serde_json::json!(many)), "4096 at most"),
        (said("include", serde_json::json!([long])), "bytes"),
        (said("method", "l1/1:18446744073709551615".into()), "fixes the sparsity"),
    ] {
        with_recipe(&file, &prune);
        let message = refused(p.command(&["verify", "a.safetensors"]));
        assert!(message.contains(word), "{word}: {message}");
        assert!(message.len() < 1000, "{message}");
    }
    // A block may be larger than the tensor, which is one block then: half of it is none.
    with_recipe(&file, &said("method", "l1/18446744073709551615x18446744073709551615".into()));
    let output = ends(p.command(&["verify", "a.safetensors"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("OK: the tensor matches"), "{output:?}");
}

#[test]
fn steps_that_are_too_fine_are_a_mistake() {
    let p = Place::new();
    for step in ["1e-9", "1e-300", "0"] {
        let step = format!("--step={step}");
        for command in [
            &["sizes", "digits.onnx", "-o", "sizes", &step][..],
            &["sweep", "digits.onnx", "--data", "digits-test.npz", "-o", "run", &step],
            &["sensitivity", "digits.onnx", "--data", "digits-test.npz", "-o", "run", &step],
        ] {
            let message = refused(p.command(command));
            assert!(message.contains("at least 0.001"), "{message}");
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn fifo(path: &Path) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn pipes_and_devices_are_refused_and_not_waited_for() {
        let p = Place::new();
        fifo(&p.path("pipe"));
        fs::create_dir(p.path("pictures")).unwrap();
        fifo(&p.path("pictures/a_1.png"));
        fs::create_dir(p.path("folder")).unwrap();
        fifo(&p.path("folder/model.safetensors"));
        p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5", "--masks", "sidecar"]);
        fs::remove_file(p.path("a.onnx.masks.safetensors")).unwrap();
        fifo(&p.path("a.onnx.masks.safetensors"));
        let with = ["-m", "l1", "-s", "0.5", "-o", "out.onnx"];
        for (command, what) in [
            (&["inspect", "pipe"][..], "a pipe"),
            (&["inspect", "/dev/zero"], "a device"),
            (&["inspect", "folder"], "model.safetensors"),
            (&["inspect", "digits.onnx", "--graph", "pipe"], "a pipe"),
            (&["diff", "digits.onnx", "pipe"], "a pipe"),
            (&["verify", "digits.onnx", "--recipe", "pipe"], "a pipe"),
            (&["verify", "digits.onnx", "--recipe", "/dev/zero"], "a device"),
            (&["eval", "digits.onnx", "--data", "pipe"], "a pipe"),
            (&["eval", "digits.onnx", "--data", "digits-test.npz", "--labels", "pipe"], "pipe"),
            (&["eval", "digits.onnx", "--data", "pictures"], ""),
            (&["run", "digits.onnx", "--input", "pipe", "-o", "out.npz"], "a pipe"),
            (&["run", "digits.onnx", "--costs", "pipe", "--input", "digits-test.npz", "-o", "o"], "a pipe"),
            (&[&["prune", "digits.onnx", "--mask", "pipe"], &with[..]].concat(), "a pipe"),
            (&[&["prune", "a.onnx"], &with[..]].concat(), "a pipe"),
        ] {
            let message = refused(p.command(command));
            assert!(message.contains(what), "{command:?}: {message}");
        }
    }

    #[test]
    fn a_recipe_may_come_from_standard_input() {
        let p = Place::new();
        fs::write(p.path("r.toml"), "[prune]\nmethod = 'l1'\nsparsity = 0.5\n").unwrap();
        let program = env!("CARGO_BIN_EXE_secateur");
        let script = format!("cat r.toml | {program} prune digits.onnx -o a.onnx --recipe /dev/stdin");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(p.folder.path());
        assert!(ends(shell).status.success());
        // Without end, it is bounded.
        let script = format!("{program} prune digits.onnx -o b.onnx --recipe /dev/stdin < /dev/zero");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(p.folder.path());
        assert!(refused(shell).contains("larger than the limit"));
    }

    #[test]
    fn names_that_are_not_utf_8_are_read_written_and_shown() {
        let p = Place::new();
        let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
        fs::copy(p.path("digits.onnx"), p.folder.path().join(name(b"in\xff.onnx"))).unwrap();
        fs::copy(p.path("digits-test.npz"), p.folder.path().join(name(b"test\xff.npz"))).unwrap();
        let with = |arguments: &[&OsStr]| {
            let mut command = p.command(&[]);
            command.args(arguments).arg("--json");
            let output = ends(command);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            json(&String::from_utf8(output.stdout).unwrap())
        };
        let text = OsStr::new;
        let (model, data) = (name(b"in\xff.onnx"), name(b"test\xff.npz"));
        let out = name(b"out\xfe.onnx");
        let prune = ["-m", "l1", "-s", "0.5", "--masks", "sidecar"].map(text);
        let found = with(&[&[text("prune"), model, text("-o"), out], &prune[..]].concat());
        assert_eq!(found["files"][0], "out\u{fffd}.onnx");
        assert_eq!(found["model"], "in\u{fffd}.onnx");
        let masks = name(b"out\xfe.onnx.masks.safetensors");
        with(&[text("prune"), model, text("-o"), name(b"2\xfe.onnx"), text("--mask"), masks]);
        with(&[text("inspect"), out]);
        with(&[text("verify"), out]);
        with(&[text("diff"), model, out]);
        with(&[text("finalize"), out, text("-o"), name(b"f\xfe.onnx")]);
        with(&[text("convert"), model, text("-o"), name(b"c\xfe.safetensors")]);
        with(&[text("pack"), out, text("-o"), name(b"p\xfe.onnx")]);
        with(&[text("unpack"), name(b"p\xfe.onnx"), text("-o"), name(b"u\xfe.onnx")]);
        with(&[text("eval"), model, text("--data"), data]);
        let few = ["--step", "0.5", "--method", "l1"].map(text);
        with(
            &[&[text("sweep"), model, text("--data"), data, text("-o"), name(b"run\xfe")], &few[..]].concat(),
        );
        with(&[&[text("sizes"), model, text("-o"), name(b"sizes\xfe")], &few[..]].concat());
    }

    #[test]
    fn what_is_replaced_keeps_its_permissions() {
        let p = Place::new();
        let with = ["-m", "l1", "-s", "0.5", "--keep-originals", "--force"];
        let mode = |name: &str| fs::metadata(p.path(name)).unwrap().permissions().mode() & 0o777;
        fs::copy(p.path("digits.onnx"), p.path("a.onnx")).unwrap();
        fs::set_permissions(p.path("a.onnx"), fs::Permissions::from_mode(0o600)).unwrap();
        p.ok(&[&["prune", "a.onnx", "-o", "a.onnx"], &with[..]].concat());
        assert_eq!((mode("a.onnx"), mode("a.onnx.masks.safetensors")), (0o600, 0o600));
        fs::set_permissions(p.path("a.onnx.masks.safetensors"), fs::Permissions::from_mode(0o640)).unwrap();
        p.ok(&[&["prune", "a.onnx", "-o", "a.onnx"], &with[..]].concat());
        assert_eq!((mode("a.onnx"), mode("a.onnx.masks.safetensors")), (0o600, 0o640));
    }

    #[test]
    fn links_that_lead_out_of_a_folder_are_not_copied() {
        let p = Place::new();
        fs::write(p.path("secret"), "key").unwrap();
        // As the cache of Hugging Face has it: a snapshot of links to blobs.
        let snapshot = p.path("models--a--b/snapshots/0123");
        let blobs = p.path("models--a--b/blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        checkpoint(&blobs.join("w"), "{}");
        fs::write(blobs.join("c"), r#"{"model_type":"x"}"#).unwrap();
        symlink("../../blobs/w", snapshot.join("model.safetensors")).unwrap();
        symlink("../../blobs/c", snapshot.join("config.json")).unwrap();
        let prune = ["-m", "l1", "-s", "0.5"];
        let at = "models--a--b/snapshots/0123";
        p.ok(&[&["prune", at, "-o", "out"], &prune[..]].concat());
        assert!(fs::symlink_metadata(p.path("out/config.json")).unwrap().is_file());

        symlink(p.path("secret"), snapshot.join("tokenizer.json")).unwrap();
        let message = refused(p.command(&[&["prune", at, "-o", "out2"], &prune[..]].concat()));
        assert!(message.contains("tokenizer.json") && message.contains("outside"), "{message}");
        assert!(!p.path("out2").exists());
    }

    #[test]
    fn what_killed_runs_left_is_cleared_by_the_next() {
        let p = Place::new();
        fs::write(p.path(".secateur-999999-7.part"), "cut off").unwrap();
        let held = fs::File::create(p.path(".secateur-999999-8.part")).unwrap();
        held.lock().unwrap();
        p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5"]);
        assert!(!p.path(".secateur-999999-7.part").exists());
        assert!(p.path(".secateur-999999-8.part").exists(), "another run is writing it");
    }
}
