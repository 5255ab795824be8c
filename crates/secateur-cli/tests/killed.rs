//! A command that is killed while it writes: under the name stands what stood there before, or the whole
//! new file, never a part.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const WEIGHTS: usize = 2_000_000;

/// A safetensors file of two tensors.
fn write_model(path: &Path, names: [&str; 2], value: f32) {
    let half = WEIGHTS / 2 * 4;
    let info = |from: usize| {
        format!(
            r#"{{"dtype":"F32","shape":[1000,{}],"data_offsets":[{from},{}]}}"#,
            WEIGHTS / 2000,
            from + half
        )
    };
    let header = format!(r#"{{"{}":{},"{}":{}}}"#, names[0], info(0), names[1], info(half));
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let data: Vec<u8> = (0..WEIGHTS).flat_map(|i| (value + (i * 7919 % 1009) as f32).to_le_bytes()).collect();
    file.write_all(&data).unwrap();
}

/// Every file under a path with its content's hash; temporary ones, which a kill may leave, left out.
fn content(path: &Path) -> Vec<(String, String)> {
    let hash = |path: &Path| {
        let model = secateur::io::read(path).unwrap();
        secateur::io::content_hash(&model).unwrap()
    };
    if path.is_file() {
        return vec![(String::new(), hash(path))];
    }
    let mut files: Vec<(String, String)> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&p).ok();
            (name, text.unwrap_or_else(|| hash(&p)))
        })
        .collect();
    files.sort();
    files
}

fn prune(input: &Path, output: &Path, sparsity: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateur"));
    command.arg("prune").arg(input).arg("-o").arg(output);
    command.args(["--method", "l1", "--sparsity", sparsity, "--force", "--json"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Copies a file or a folder over another one.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Overwrites `output` again and again, killed at moments spread over the time a whole run takes.
fn kill_while_writing(input: &Path, output: &Path) {
    assert!(prune(input, output, "0.5").status().unwrap().success());
    let old = content(output);
    let saved = output.with_extension("saved");
    copy(output, &saved);
    let started = Instant::now();
    assert!(prune(input, output, "0.75").status().unwrap().success());
    let whole = started.elapsed();
    let new = content(output);
    assert_ne!(old, new);
    let (mut kept, mut replaced) = (0, 0);
    for round in 0..50 {
        copy(&saved, output);
        let mut child = prune(input, output, "0.75").spawn().unwrap();
        std::thread::sleep(whole.mul_f64(0.1 + f64::from(round) / 50.0));
        let _ = child.kill();
        child.wait().unwrap();
        match content(output) {
            now if now == old => kept += 1,
            now if now == new => replaced += 1,
            now => panic!("round {round}: neither the old nor the new: {now:?}"),
        }
    }
    assert!(kept > 0, "every run ended before it was killed ({replaced} of 50)");
    eprintln!("{}: {kept} times the old one, {replaced} times the new one", output.display());
}

#[test]
fn a_large_file() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    write_model(&input, ["a.weight", "b.weight"], 0.5);
    kill_while_writing(&input, &folder.path().join("out.safetensors"));
}

#[test]
fn a_folder_of_shards() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    fs::create_dir(&input).unwrap();
    write_model(&input.join("one.safetensors"), ["a.weight", "b.weight"], 0.5);
    write_model(&input.join("two.safetensors"), ["c.weight", "d.weight"], 1.5);
    let map = [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")]
        .map(|(tensor, file)| format!(r#""{tensor}.weight":"{file}.safetensors""#));
    let index = format!(r#"{{"metadata":{{}},"weight_map":{{{}}}}}"#, map.join(","));
    fs::write(input.join("model.safetensors.index.json"), index).unwrap();
    fs::write(input.join("config.json"), "{}").unwrap();
    kill_while_writing(&input, &folder.path().join("out"));
}
