//! Prunes trained neural networks and shows what that costs.

pub mod data;
pub mod mask;
pub mod method;
mod near;
pub mod prune;
pub mod report;
pub mod score;
pub mod select;
