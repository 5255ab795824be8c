//! What a family of operators says of its backward pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use secateur_kernels::Planes;
use secateur_kernels::gradient::Kept;
use secateur_model::{Error, Result, Tensor};

use super::{Build, Kernel};
use crate::buffers::Pool;

/// Builds the backward pass of a node; `None` where the family has none for these operands.
pub(crate) type GradientFn = fn(&Build<'_>, &Training<'_>) -> Result<Option<Differentiated>>;

/// How a node takes part in training.
pub(crate) struct Training<'a> {
    /// By input: whether its gradient is asked for.
    pub(crate) wanted: &'a [bool],
    /// By output: whether the loss depends on it.
    pub(crate) needed: &'a [bool],
    /// By input: the mask that is held on it, 1 for elements that are kept and 0 for the others, which are zero.
    pub(crate) masks: &'a [Option<Arc<[f32]>>],
    /// Whether batch-norms use the statistics of the batch.
    pub(crate) batch_statistics: bool,
    /// Random numbers of this node.
    pub(crate) random: Random,
    /// By input: the planes in which it lies, where it is no tensor.
    pub(crate) places: &'a [Option<Arc<Planes>>],
    /// The planes for outputs of convolutions; `None` where the first output is to be a tensor.
    pub(crate) layouts: Option<&'a Layouts>,
}

/// The planes for outputs of convolutions, by batch and size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layouts(pub(crate) BTreeMap<(usize, Vec<usize>), Arc<Planes>>);

impl Layouts {
    /// Those of a batch of maps of this size.
    pub(crate) fn get(&self, batch: usize, size: &[usize]) -> Option<Arc<Planes>> {
        self.0.get(&(batch, size.to_vec())).cloned()
    }
}

/// The share of kept weights of a convolution up to which passes over these alone are faster than over all.
pub(crate) const SPARSE_CONV: f64 = 0.4;

impl Training<'_> {
    /// The weights that the mask of an input keeps, as rows of `columns`, where at most this share of them is kept.
    pub(crate) fn kept(&self, input: usize, columns: usize, density: f64) -> Option<Kept> {
        let mask = self.masks.get(input)?.as_ref().filter(|mask| !mask.is_empty() && columns > 0)?;
        let kept = Kept::new(columns, mask.len(), |i| mask[i] != 0.0);
        (kept.density() <= density).then_some(kept)
    }

    /// The planes in which an input lies.
    pub(crate) fn place(&self, input: usize) -> Option<Arc<Planes>> {
        self.places.get(input).cloned().flatten()
    }

    /// Whether the gradient of an input is asked for.
    pub(crate) fn wants(&self, input: usize) -> bool {
        self.wanted.get(input).copied().unwrap_or(false)
    }

    /// Whether the gradient of any input is asked for. A node without one keeps the forward pass of inference, unless
    /// training computes something else, such as dropout.
    pub(crate) fn wants_any(&self) -> bool {
        self.wanted.contains(&true)
    }

    /// Whether the loss depends on the first output alone.
    pub(crate) fn first_only(&self) -> bool {
        !self.needed.iter().skip(1).any(|&needed| needed)
    }
}

/// Random numbers of one node, other ones at each step: a function of seed, node and step alone.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    pub(crate) seed: u64,
    pub(crate) node: u64,
    pub(crate) step: Arc<AtomicU64>,
}

impl Random {
    /// The seed of the step in work.
    pub(crate) fn of_step(&self) -> u64 {
        let step = self.step.load(Ordering::Relaxed);
        mix(mix(self.seed ^ mix(self.node)) ^ step)
    }

    /// A number in [0, 1) for an element, from the seed of a step.
    pub(crate) fn uniform(seed: u64, element: usize) -> f32 {
        (mix(seed.wrapping_add(element as u64)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A node that can be trained through.
pub(crate) struct Differentiated {
    /// The forward pass, where it is another one than at inference. Behind the node's outputs it may give more that the
    /// backward pass reads.
    pub(crate) forward: Option<Box<dyn Kernel>>,
    /// How many outputs the forward pass gives behind the node's own.
    pub(crate) saved: usize,
    /// Outputs that are the next elements of constant inputs, such as running statistics: (output, input).
    pub(crate) updates: Vec<(usize, usize)>,
    /// The inputs and outputs (saved ones behind the node's own) that the backward pass reads.
    pub(crate) reads: Reads,
    /// By input: the planes in which the passes take it and give its gradient; tensors where there are none, or none is said.
    pub(crate) takes: Vec<Option<Arc<Planes>>>,
    /// The planes in which the first output and its gradient lie.
    pub(crate) place: Option<Arc<Planes>>,
    pub(crate) backward: Box<Gradient>,
}

/// Which values a backward pass reads; the others' memory is free before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
}

impl Differentiated {
    /// A node whose forward pass is that of inference; a closure computes the gradients of the inputs that are asked for,
    /// in the order of the inputs (those of others may be `None` or left out).
    pub(crate) fn of<F>(reads: Reads, backward: F) -> Self
    where
        F: Fn(&mut Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let backward = Box::new(backward);
        let (takes, updates) = (Vec::new(), Vec::new());
        Differentiated { forward: None, saved: 0, updates, reads, takes, place: None, backward }
    }

    /// With inputs and the first output in planes.
    pub(crate) fn placed(self, takes: Vec<Option<Arc<Planes>>>, place: Option<Arc<Planes>>) -> Self {
        Differentiated { takes, place, ..self }
    }

    /// With another forward pass, which gives `saved` outputs behind the node's own.
    pub(crate) fn forward(self, saved: usize, forward: Option<Box<dyn Kernel>>) -> Self {
        Differentiated { forward, saved, ..self }
    }
}

impl Reads {
    /// These inputs.
    pub(crate) fn inputs(inputs: impl Into<Vec<usize>>) -> Self {
        Reads { inputs: inputs.into(), outputs: Vec::new() }
    }

    /// These outputs.
    pub(crate) fn outputs(outputs: impl Into<Vec<usize>>) -> Self {
        Reads { inputs: Vec::new(), outputs: outputs.into() }
    }

    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Reads::default()
    }
}

/// The backward pass of a node.
pub(crate) type Gradient = dyn Fn(&mut Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// What a backward pass has at hand.
pub(crate) struct Backward<'a> {
    /// The inputs that are read; `None` for others.
    pub(crate) inputs: &'a [Option<Tensor>],
    /// The outputs that are read; `None` for others.
    pub(crate) outputs: &'a [Option<Tensor>],
    /// The shape of the first output.
    pub(crate) shape: &'a [usize],
    /// The gradients of the node's outputs; `None` where the loss does not depend on one. A backward pass may take one
    /// and work in place.
    pub(crate) gradients: &'a mut [Option<Tensor>],
    pub(crate) wanted: &'a [bool],
    pub(crate) pool: &'a mut Pool,
}

impl<'a> Backward<'a> {
    /// The elements of an input.
    pub(crate) fn input(&self, index: usize) -> Result<&'a [f32]> {
        read(self.inputs, index)
    }

    /// The elements of an output.
    pub(crate) fn output(&self, index: usize) -> Result<&'a [f32]> {
        read(self.outputs, index)
    }

    /// The gradient of the first output.
    pub(crate) fn gradient(&self) -> Result<&[f32]> {
        read(self.gradients, 0)
    }

    /// The gradient of the first output, to keep or to change.
    pub(crate) fn take_gradient(&mut self) -> Result<Tensor> {
        self.gradients[0].take().ok_or_else(|| Error::internal("the gradient of output 0 is missing"))
    }

    /// The gradient of the first output as that of an input of another shape with the same elements.
    pub(crate) fn reshaped_gradient(&mut self, shape: &[usize]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.take_gradient()?.reshaped(shape)?)])
    }

    /// The gradient of the first output in memory of its own, to work in place.
    pub(crate) fn own_gradient(&mut self) -> Result<Vec<f32>> {
        let gradient = self.take_gradient()?;
        if gradient.is_shared() {
            let mut own = self.pool.take(gradient.len())?;
            own.copy_from_slice(gradient.values()?);
            return Ok(own);
        }
        gradient.reclaim().ok_or_else(|| Error::internal("a gradient is no f32"))
    }

    /// Whether the gradient of an input is asked for.
    pub(crate) fn wants(&self, input: usize) -> bool {
        self.wanted.get(input).copied().unwrap_or(false)
    }
}

fn read(tensors: &[Option<Tensor>], index: usize) -> Result<&[f32]> {
    let tensor = tensors.get(index).and_then(Option::as_ref);
    tensor
        .ok_or_else(|| Error::internal(format!("value {index} was not kept for the backward pass")))?
        .values()
}
