//! Running models: evaluation, sweeps and sensitivity analyses, file sizes against sparsity, single runs.

pub mod evaluate;
pub mod run;
pub mod sizes;
pub mod sweep;
