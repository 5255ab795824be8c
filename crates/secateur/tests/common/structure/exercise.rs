//! What is done with a damaged model: it is read, looked at, pruned in plan, packed in plan, patched, written and run. An
//! error is fine, whatever it says; a panic or an abort is a defect.

use std::sync::Arc;

use secateur::inspect::{InspectOptions, inspect};
use secateur::pack::PackOptions;
use secateur::prune::Amount;
use secateur::prune::masks::Masks;
use secateur::prune::{self, PruneOptions};
use secateur_model::infer::Binding;
use secateur_model::model::Patch;
use secateur_model::{Model, Tensor, io};
use secateur_runtime::{Limits, Session};

use super::damage::Damaged;
use super::{Numbers, patches};

/// Methods that take the different ways through a plan.
const METHODS: &[&str] =
    &["l1", "l1@global", "l1/channel", "l2/2:4", "l1/channel:in", "lamp@global", "l1+erk"];

/// Bounds on a run: what a machine has would take minutes to fill.
const LIMITS: Limits = Limits { memory: 256 << 20, steps: 100_000 };

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub read: bool,
    pub planned: bool,
    pub ran: bool,
}

/// Everything up to running.
pub fn look(model: &Model, seed: u64) -> bool {
    let options = InspectOptions { binding: Binding::default(), scan: false, sizes: false };
    let _ = inspect(model, &Masks::default(), &options);
    let method = METHODS[(seed % METHODS.len() as u64) as usize].parse().expect("a method");
    let options = PruneOptions::new(method, Amount::Sparsity(0.5));
    let planned = prune::plan(model, &options);
    let _ = secateur::pack::plan(model, &PackOptions::default());
    let Ok(pruning) = planned else { return false };
    let patch = pruning.patch(model);
    let _ = io::write_stream(model, &patch, &[], &mut std::io::sink());
    true
}

/// Runs a model once.
///
/// # Errors
/// Where it cannot be run, or refuses its inputs.
pub fn run(model: Model, inputs: &[(String, Tensor)]) -> secateur_model::Result<Vec<(String, Tensor)>> {
    let session = Session::new(Arc::new(model), Patch::new())?.within(LIMITS);
    let known = |name: &str| session.inputs().iter().any(|input| input.name == name);
    let given = inputs.iter().filter(|(name, _)| known(name)).cloned().collect();
    let outputs = session.run(given)?;
    Ok(session.outputs().iter().cloned().zip(outputs).collect())
}

/// Does everything with a damaged model.
pub fn all(damaged: &Damaged, seed: u64) -> Reached {
    let Ok(model) = io::read_bytes(damaged.model.clone()) else { return Reached::default() };
    let planned = look(&model, seed);
    let mut numbers = Numbers(seed);
    patches::check(&model, &patches::random(&model, &mut |end| numbers.below(end)));
    let ran = run(model, &damaged.inputs).is_ok();
    Reached { read: true, planned, ran }
}
