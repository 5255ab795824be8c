//! Running models: evaluation, sweeps and sensitivity analyses, file sizes against sparsity, single runs.

pub mod evaluate;
mod repaired;
pub mod run;
pub mod sizes;
mod sparsities;
pub mod sweep;
