//! Measures a model's latency on random inputs, in the words of `scripts/bench_ort.py`.
//!
//! ```text
//! cargo run --release -p secateur-runtime --example bench_model -- resnet50.onnx --threads 2 --rounds 20
//! ```
//!
//! `--profile N` adds the N nodes that take longest and the operators by their share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secateur_model::graph::Dim;
use secateur_model::{DType, Error, Patch, Result, Tensor, io};
use secateur_runtime::{InputInfo, NodeTime, Session};

struct Options {
    model: String,
    threads: usize,
    rounds: usize,
    warmup: usize,
    batch: usize,
    length: usize,
    profile: usize,
}

fn options() -> Result<Options> {
    let mut options = Options {
        model: String::new(),
        threads: 1,
        rounds: 20,
        warmup: 3,
        batch: 1,
        length: 128,
        profile: 0,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let target = match arg.as_str() {
            "--threads" => &mut options.threads,
            "--rounds" => &mut options.rounds,
            "--warmup" => &mut options.warmup,
            "--batch" => &mut options.batch,
            "--length" => &mut options.length,
            "--profile" => &mut options.profile,
            _ => {
                options.model = arg;
                continue;
            }
        };
        *target = args
            .next()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| Error::usage(format!("`{arg}` wants a number")))?;
    }
    if options.model.is_empty() {
        return Err(Error::usage("the model's path is missing"));
    }
    Ok(options)
}

/// Random elements for an input, its open extents filled in; integers are 0 and 1.
fn random(input: &InputInfo, options: &Options, state: &mut u64) -> Result<Tensor> {
    let dims = input
        .shape
        .as_ref()
        .ok_or_else(|| Error::unsupported(format!("input `{}` has no shape", input.name)))?;
    let shape: Vec<usize> = dims
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            Dim::Known(n) => *n,
            _ if axis == 0 => options.batch,
            _ => options.length,
        })
        .collect();
    let mut uniform = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1u64 << 24) as f32
    };
    let len = shape.iter().product();
    match input.dtype {
        Some(DType::F32) => Tensor::new(shape, (0..len).map(|_| 3.4 * (uniform() - 0.5)).collect()),
        Some(DType::I64) => Tensor::new(shape, (0..len).map(|_| i64::from(uniform() < 0.5)).collect()),
        Some(DType::Bool) => Tensor::new(shape, (0..len).map(|_| uniform() < 0.5).collect()),
        other => Err(Error::unsupported(format!("input `{}` is of type {other:?}", input.name))),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn profile(nodes: &[NodeTime], most: usize) {
    let total: f64 = nodes.iter().map(|n| milliseconds(n.time)).sum();
    let mut by_kind: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for node in nodes {
        let entry = by_kind.entry(&node.node.kind).or_default();
        *entry = (entry.0 + 1, entry.1 + milliseconds(node.time));
    }
    let mut kinds: Vec<_> = by_kind.into_iter().collect();
    kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    eprintln!("{total:.3} ms in {} nodes", nodes.len());
    for (kind, (count, ms)) in kinds {
        eprintln!("{ms:9.3} ms {:5.1} % {count:5} {kind}", 100.0 * ms / total);
    }
    let mut slowest: Vec<&NodeTime> = nodes.iter().collect();
    slowest.sort_by_key(|n| std::cmp::Reverse(n.time));
    for NodeTime { node, time } in slowest.into_iter().take(most) {
        eprintln!("{:9.3} ms {} `{}` {:?}", milliseconds(*time), node.kind, node.name, node.shape);
    }
}

fn measure(options: &Options) -> Result<()> {
    let start = Instant::now();
    let session = Session::new(Arc::new(io::read(&options.model)?), Patch::new())?;
    let mut state = 1;
    let inputs = session
        .inputs()
        .iter()
        .map(|i| Ok((i.name.clone(), random(i, options, &mut state)?)))
        .collect::<Result<Vec<_>>>()?;
    session.run(inputs.clone())?;
    let first = milliseconds(start.elapsed());
    let mut times = Vec::new();
    for round in 0..options.warmup + options.rounds {
        let start = Instant::now();
        session.run(inputs.clone())?;
        if round >= options.warmup {
            times.push(milliseconds(start.elapsed()));
        }
    }
    if options.profile > 0 {
        // Each node's median over some runs.
        let mut runs = Vec::new();
        for _ in 0..5 {
            runs.push(session.profile(inputs.clone())?.1);
        }
        let mut nodes = runs[0].clone();
        for (i, node) in nodes.iter_mut().enumerate() {
            let mut times: Vec<Duration> = runs.iter().map(|r| r[i].time).collect();
            times.sort();
            node.time = times[times.len() / 2];
        }
        profile(&nodes, options.profile);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times.get((share * (times.len() - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN)
    };
    println!(
        "{{\"model\": {:?}, \"threads\": {}, \"rounds\": {}, \"first_ms\": {first:.1}, \"median_ms\": {:.3}, \
         \"best_ms\": {:.3}, \"worst_ms\": {:.3}, \"quartiles_ms\": [{:.3}, {:.3}]}}",
        options.model,
        options.threads,
        options.rounds,
        at(0.5),
        at(0.0),
        at(1.0),
        at(0.25),
        at(0.75)
    );
    Ok(())
}

fn main() -> std::process::ExitCode {
    let run = || -> Result<()> {
        let options = options()?;
        rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .build()
            .map_err(|e| Error::internal(e.to_string()))?
            .install(|| measure(&options))
    };
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::from(error.kind().exit_code())
        }
    }
}
