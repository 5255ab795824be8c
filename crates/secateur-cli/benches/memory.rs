//! How much memory pruning a large file takes: makes a safetensors file of 4 GB, prunes it in several ways
//! and prints the most memory that was the process's own (the memory-mapped file, which the system takes back
//! when it needs the room, is shown apart).
//!
//! ```text
//! cargo bench -p secateur-cli --bench memory
//! cargo bench -p secateur-cli --bench memory -- --gigabytes 1
//! ```

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LAYER: usize = 16 << 20;

/// A file of layers of f16 or f32 weights, 16 Mi each.
fn write_model(path: &Path, gigabytes: f64, dtype: &str) -> std::io::Result<usize> {
    let size = if dtype == "F16" { 2 } else { 4 };
    let layers = ((gigabytes * 1e9) as usize / (LAYER * size)).max(1);
    let infos: Vec<String> = (0..layers)
        .map(|l| {
            let (from, to) = (l * LAYER * size, (l + 1) * LAYER * size);
            let info = format!(r#"{{"dtype":"{dtype}","shape":[4096,4096],"data_offsets":[{from},{to}]}}"#);
            format!(r#""layers.{l}.weight":{info}"#)
        })
        .collect();
    let mut header = format!("{{{}}}", infos.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    // Numbers of a linear congruence between −1 and 1: cheap, and without a pattern that matters here.
    let mut state = 1u32;
    for _ in 0..layers * LAYER {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        if dtype == "F16" {
            // The upper bits of the f32 moved into place: exact enough for a number that nobody reads.
            let bits = value.abs().max(1e-3).to_bits();
            let half = ((bits >> 13) - (112 << 10)) as u16 | ((state >> 16) as u16 & 0x8000);
            out.write_all(&half.to_le_bytes())?;
        } else {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(layers * LAYER)
}

/// Runs a command; the most memory of its own and of mapped files, in kB, and the time.
fn watch(command: &mut Command) -> std::io::Result<(u64, u64, Duration)> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let (mut own, mut mapped) = (0, 0);
    let code = loop {
        if let Some(code) = child.try_wait()? {
            break code;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = text.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        own = own.max(field("RssAnon:"));
        mapped = mapped.max(field("RssFile:"));
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(code.success(), "{command:?}");
    Ok((own, mapped, start.elapsed()))
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = arguments.iter().position(|a| a == "--gigabytes").and_then(|i| arguments.get(i + 1));
    let gigabytes = value.map_or(4.0, |v| v.parse().expect("a number"));
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("model.safetensors"), folder.path().join("out.safetensors"));
    for dtype in ["F32", "F16"] {
        let weights = write_model(&input, gigabytes, dtype)?;
        println!("{gigabytes} GB, {weights} {dtype} weights in layers of {LAYER}:");
        for method in ["l1", "l1@global", "l1@row", "random@global", "l2/channel", "l1/2:4", "lamp@global"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_secateur"));
            command.arg("prune").arg(&input).arg("-o").arg(&output);
            command.args(["--method", method, "--force", "--json"]);
            if !method.contains("2:4") {
                command.args(["--sparsity", "0.5"]);
            }
            let (own, mapped, time) = watch(&mut command)?;
            println!(
                "  {method:<14} {:7.1} MB of its own ({:4.1} % of the file), {:7.1} MB mapped, {:6.1} s",
                own as f64 / 1e3,
                own as f64 * 1024.0 / (gigabytes * 1e9) * 100.0,
                mapped as f64 / 1e3,
                time.as_secs_f64()
            );
        }
    }
    Ok(())
}
