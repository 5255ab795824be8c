//! The seeds in one process.

use std::backtrace::Backtrace;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use secateur::data::write_npz;
use secateur_model::{Tensor, io};

use crate::structure::damage::{Case, Damaged, damage, is_plain};
use crate::structure::{Numbers, exercise, seeds};
use crate::{Options, allocator};

#[global_allocator]
static ALLOCATOR: allocator::Limited = allocator::Limited;

/// All cases in their order.
pub fn cases(options: &Options) -> Vec<Case> {
    let mut cases = seeds::node_tests(&options.data.join("onnx-node-tests.tar.xz"));
    cases.extend(seeds::singles());
    cases.extend(seeds::files(&options.data.join("models")));
    cases.extend(seeds::files(&options.data.join("cases")));
    cases.retain(|case| case.name.contains(&options.only));
    assert!(!cases.is_empty(), "no case of that name");
    cases
}

/// The damaged model of a seed.
pub fn damaged(cases: &[Case], seed: u64) -> (&Case, Damaged) {
    let mut numbers = Numbers(seed);
    let case = numbers.pick(cases);
    (case, damage(case, numbers.next()))
}

/// Writes a damaged model and its inputs beside each other.
pub fn write(folder: &std::path::Path, name: &str, damaged: &Damaged) {
    std::fs::create_dir_all(folder).expect("a folder for finds");
    std::fs::write(folder.join(format!("{name}.m.onnx")), &damaged.model).expect("a model");
    let plain: Vec<(String, Tensor)> = damaged.inputs.clone();
    let mut file = Vec::new();
    if !plain.is_empty() && write_npz(&plain, &mut file).is_ok() {
        std::fs::write(folder.join(format!("{name}.x.npz")), file).expect("inputs");
    }
}

/// Runs seeds; standard output says at which one it is.
pub fn run(options: &Options) {
    let cases = cases(options);
    std::panic::set_hook(Box::new(|info| {
        eprintln!("PANIC {info}\n{}\nEND OF TRACE", Backtrace::force_capture());
    }));
    allocator::limit(options.limit_mb << 20);
    let say = |text: String| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    };
    for seed in options.from..options.from.saturating_add(options.count) {
        eprintln!("SEED {seed}");
        say(format!("seed {seed}"));
        let (_, damaged) = damaged(&cases, seed);
        allocator::take_peak();
        match catch_unwind(AssertUnwindSafe(|| exercise::all(&damaged, seed))) {
            Ok(reached) => say(format!(
                "done {} {} {} {}",
                u8::from(reached.read),
                u8::from(reached.planned),
                u8::from(reached.ran),
                allocator::take_peak() >> 20
            )),
            Err(_) => say("panic".to_string()),
        }
    }
}

/// Says what a seed is, and writes it.
pub fn show(options: &Options) {
    let cases = cases(options);
    let (case, damaged) = damaged(&cases, options.from);
    println!("{}", case.name);
    damaged.damage.iter().for_each(|one| println!("  {one}"));
    write(&options.finds, &format!("seed{}", options.from), &damaged);
}

/// Operators that draw numbers.
const RANDOM: &[&str] = &["Bernoulli", "Dropout", "Multinomial", "Random"];

/// Runs seeds and writes those that run, with their inputs and outputs, to compare with other runtimes.
pub fn outputs(options: &Options) {
    let cases = cases(options);
    let mut written = 0;
    std::panic::set_hook(Box::new(|_| {}));
    allocator::limit(options.limit_mb << 20);
    for seed in options.from..options.from.saturating_add(options.count) {
        let (case, damaged) = damaged(&cases, seed);
        let text = String::from_utf8_lossy(&damaged.model);
        if RANDOM.iter().any(|name| text.contains(name) || case.name.contains(name)) {
            continue;
        }
        let ran = catch_unwind(AssertUnwindSafe(|| {
            exercise::run(io::read_bytes(damaged.model.clone())?, &damaged.inputs)
        }));
        let Ok(Ok(outputs)) = ran else { continue };
        let plain: Vec<_> = outputs.into_iter().filter(|(_, tensor)| is_plain(tensor.dtype())).collect();
        let mut file = Vec::new();
        if damaged.inputs.iter().all(|(_, tensor)| is_plain(tensor.dtype()))
            && write_npz(&plain, &mut file).is_ok()
        {
            write(&options.finds, &format!("seed{seed}"), &damaged);
            std::fs::write(options.finds.join(format!("seed{seed}.y.npz")), file).expect("outputs");
            written += 1;
        }
    }
    println!("{written} models ran");
}
