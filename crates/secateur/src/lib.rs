//! Prunes trained neural networks and shows what that costs.

pub mod report;
