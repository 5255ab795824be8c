//! Evaluates a model at several sparsities, without a run's folder: `cargo run --example curve`.

use std::sync::Arc;

use secateur::evaluate::Evaluator;
use secateur::progress::Silent;
use secateur::{Amount, Patch, Result, demo, io, prune};

fn main() -> Result<()> {
    let files = demo::unpack(&std::env::temp_dir().join("secateur-example-curve"))?;
    let model = Arc::new(io::read(&files.model)?);
    let mut evaluator = Evaluator::new(&model, &demo::eval_options(&files), None)?;
    let baseline = evaluator.baseline(&Silent)?;
    for percent in (0..100).step_by(20) {
        let amount = Amount::Sparsity(f64::from(percent) / 100.0);
        let patch = match percent {
            0 => Patch::new(),
            _ => prune::plan(&model, &prune::PruneOptions::new("l1@global".parse()?, amount))?.patch(&model),
        };
        let metrics = evaluator.evaluate(patch, &Silent)?;
        let relative = &metrics.relative_to(&baseline)[0];
        println!("{percent:3} %  loss × {:6.2} ± {:.2}", relative.value, relative.standard_error);
    }
    Ok(())
}
