//! What the passes of compilation work on.

use std::collections::HashMap;
use std::sync::Arc;

use secateur_model::{Node, ValueId};

use crate::kernels::{Choice, Epilogue, Kernel, Views};

/// A node on its way to a step, and what was fused into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) epilogue: Epilogue,
    pub(crate) views: Views,
    /// The kernel, where a pass has chosen it already.
    pub(crate) kernel: Option<Arc<dyn Kernel>>,
    /// What it takes by the costs that kernels are chosen by, in nanoseconds, where they say it.
    pub(crate) estimate: Option<f64>,
    /// How many samples it computes one by one; less than 2 where it computes everything at once.
    pub(crate) samples: usize,
    /// Where it only hands out its input: the place of that among the values that are asked for.
    pub(crate) observes: Option<usize>,
}

/// By value: how the layer runs that computes it, and how long it takes by the costs in nanoseconds.
pub(crate) type Choices = HashMap<ValueId, (Choice, Option<f64>)>;
