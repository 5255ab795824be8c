//! Models whose structure is damaged, not their bytes: an error with a reason, no panic, no abort, no hang. The mutator
//! of `fuzz/structure` does the same for hours.

mod common {
    pub(crate) mod structure;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::structure::damage::{Case, damage, inputs};
use common::structure::wire::{Kind, Msg};
use common::structure::{exercise, seeds};
use secateur_model::io;

/// Runs each case with a few seeds; says which ended badly.
fn check(cases: &[Case], seeds: std::ops::Range<u64>) {
    let mut bad = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for seed in seeds.clone() {
            let seed = seed * 1_000_003 + number as u64;
            let damaged = damage(case, seed);
            if catch_unwind(AssertUnwindSafe(|| exercise::all(&damaged, seed))).is_err() {
                bad.push(format!("{} (seed {seed}): {}", case.name, damaged.damage.join("; ")));
            }
        }
    }
    assert!(bad.is_empty(), "{} models end in a panic:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn nodes_of_every_operator() {
    check(&seeds::singles(), 0..2);
}

#[test]
fn onnx_node_tests() {
    let folder = std::env::var_os("SECATEUR_DATA").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data").into(),
        std::path::PathBuf::from,
    );
    let cases = seeds::node_tests(&folder.join("onnx-node-tests.tar.xz"));
    if cases.is_empty() {
        println!("skipped: no node tests in {}", folder.display());
    }
    check(&cases, 0..1);
}

#[test]
fn the_same_seed_does_the_same_damage() {
    for case in seeds::singles().iter().step_by(7) {
        let (a, b) = (damage(case, 5), damage(case, 5));
        assert_eq!((a.model, a.damage), (b.model, b.damage));
    }
}

/// What is written is what was read, and a valid node still runs.
#[test]
fn an_undamaged_case_runs() {
    let relu = secateur_model::ops::all().find(|op| op.name == "Relu").unwrap();
    let ran = (0..20).filter(|&seed| {
        let case = common::structure::damage::single(relu, seed);
        let bytes = case.model.write();
        assert_eq!(Msg::parse(Kind::Model, &bytes).unwrap().write(), bytes);
        io::read_bytes(bytes).and_then(|model| exercise::run(model, &inputs(&case))).is_ok()
    });
    assert!(ran.count() > 3);
}
