//! Which of all weights together go: `l1@global` beside PyTorch's `global_unstructured`, in turn in one run,
//! and beside a pass that only reads the weights once from memory, all on the same threads.
//!
//! ```text
//! SECATEUR_PYTHON=python3 cargo bench -p secateur --bench global
//! cargo bench -p secateur --bench global -- --weights 1000000000 --alone
//! ```

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rayon::prelude::*;
use secateur::prune::Amount;
use secateur::prune::{PruneOptions, plan};
use secateur::random::Stream;
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::{DType, Model, StoredTensor};

const LAYERS: usize = 10;
const SPARSITY: f64 = 0.8;
const ROUNDS: usize = 7;

/// Layers of f32, roughly normal, as bytes of a file.
fn model(weights: usize) -> Model {
    let stream = Stream::new(0, "bench");
    let len = weights / LAYERS;
    let mut model = Model { tensors: Default::default(), graph: None, path: None, source: Source::memory() };
    for layer in 0..LAYERS {
        let mut bytes = vec![0u8; len * 4];
        bytes.par_chunks_mut(4).enumerate().for_each(|(i, out)| {
            let draw = stream.draw((layer * len + i) as u64);
            // The sum of four uniform draws.
            let sum: i64 = (0..4).map(|k| ((draw >> (16 * k)) & 0xffff) as i64 - 0x8000).sum();
            out.copy_from_slice(&(sum as f32 * 1e-6).to_le_bytes());
        });
        let path = format!("layer{layer}.weight");
        let storage = Storage::Bytes(bytes.into());
        let tensor =
            StoredTensor { path: path.clone(), dtype: DType::F32, shape: vec![1000, len / 1000], storage };
        model.tensors.insert(path, tensor);
    }
    model
}

/// Reads all weights once, on all threads.
fn read_once(model: &Model) -> u32 {
    let sum =
        |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).fold(0, u32::wrapping_add);
    let parts = model.tensors.values().map(|tensor| match &tensor.storage {
        Storage::Bytes(bytes) => bytes.par_chunks(1 << 20).map(sum).reduce(|| 0, u32::wrapping_add),
        Storage::Data(_) | Storage::Packed(_) | Storage::Computed(..) | Storage::Lazy(_) => 0,
    });
    parts.fold(0, u32::wrapping_add)
}

/// PyTorch in a process of its own, which prunes once for each line it is sent.
struct Torch {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Torch {
    fn start(weights: usize, threads: usize) -> Option<Torch> {
        let python = std::env::var_os("SECATEUR_PYTHON").or_else(|| {
            println!("PyTorch: not timed (SECATEUR_PYTHON names no Python with torch)");
            None
        })?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/global_torch.py");
        let arguments = [weights.to_string(), LAYERS.to_string(), SPARSITY.to_string(), threads.to_string()];
        let mut process = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let answers = BufReader::new(process.stdout.take()?);
        let mut torch = Torch { process, answers };
        println!("PyTorch: {}", torch.answer()?);
        Some(torch)
    }

    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        Some(line.trim().to_string()).filter(|l| !l.is_empty())
    }

    fn seconds(&mut self) -> Option<f64> {
        writeln!(self.process.stdin.as_mut()?, "go").ok()?;
        self.answer()?.parse().ok()
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Best and median of some times, in milliseconds.
fn figures(name: &str, times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    let worst = times[times.len() - 1];
    println!(
        "{name:<28} best {:9.1} ms   median {:9.1} ms   worst {:9.1} ms",
        best * 1e3,
        median * 1e3,
        worst * 1e3
    );
    (best, median)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let number =
        |name: &str, otherwise: usize| value(name).map_or(otherwise, |v| v.parse().expect("a number"));
    let threads = number("--threads", std::thread::available_parallelism().map_or(1, |n| n.get()));
    let weights = number("--weights", 100_000_000);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    println!(
        "{weights} f32 weights in {LAYERS} layers, {threads} threads, sparsity {SPARSITY}, {ROUNDS} rounds in turn"
    );
    let model = model(weights);
    let options = PruneOptions::new("l1@global".parse().expect("a method"), Amount::Sparsity(SPARSITY));
    let mut torch =
        if arguments.iter().any(|a| a == "--alone") { None } else { Torch::start(weights, threads) };
    let (mut read, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        std::hint::black_box(read_once(&model));
        read.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let pruning = plan(&model, &options).expect("a plan");
        ours.push(start.elapsed().as_secs_f64());
        assert_eq!(pruning.zeros(), (weights as f64 * SPARSITY).round_ties_even() as usize);
        theirs.extend(torch.as_mut().and_then(Torch::seconds));
    }
    let (read_best, read_median) = figures("reading the weights once", &mut read);
    let (best, median) = figures("secateur l1@global", &mut ours);
    println!("  = {:.2} times reading them once (median {:.2})", best / read_best, median / read_median);
    if !theirs.is_empty() {
        let (torch_best, torch_median) = figures("PyTorch global_unstructured", &mut theirs);
        println!("  = {:.1} times secateur (median {:.1})", torch_best / best, torch_median / median);
    }
}
