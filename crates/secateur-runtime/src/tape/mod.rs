//! Training: a plan of forward and backward passes over a graph, in which chosen tensors are variables.
//!
//! A [`Tape`] runs the nodes that a session runs, with weights that change from step to step: those are neither folded
//! nor packed when the plan is made. [`Tape::forward`] keeps what the backward pass of each node reads,
//! [`Tape::backward`] gives the gradients of the variables. Sums have an order of their own, so that gradients are the
//! same bits on any number of threads. Buffers come from one pool and are free again as soon as the last pass that
//! reads them ran: after the first step nothing is allocated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use secateur_model::ops::Fact;
use secateur_model::{DType, Error, Graph, Model, Patch, Result, Tensor, TensorId, ValueId};

use crate::buffers::Pool;
use crate::costs::Costs;
use crate::input::InputInfo;
use crate::kernels::Random;
use crate::limits::Limits;
use crate::part;
use crate::weights::Weights;

mod compile;
mod placed;
mod plan;

pub use compile::running_statistics;

use plan::TapePlan;

/// What trains, and how.
#[derive(Clone, Debug, Default)]
pub struct TapeOptions {
    /// The tensors that are trained, each once: f32 constants of the main graph.
    pub variables: Vec<TensorId>,
    /// The value that the loss is computed from, by its name or that of its node; the first output by default.
    pub output: Option<String>,
    /// Whether batch-norms keep their running statistics and use them, as at inference.
    pub freeze_norms: bool,
    /// Seed of dropout.
    pub seed: u64,
}

/// A tensor that changes from step to step.
struct Held {
    tensor: Tensor,
    /// The sum of the gradients since [`Tape::clear`]; `None` for running statistics, and before there are any.
    gradient: Option<Tensor>,
    /// 1 for elements that a mask keeps, 0 for the others.
    mask: Option<Arc<[f32]>>,
}

/// A model that is trained.
pub struct Tape {
    graph: Arc<Graph>,
    weights: Arc<Weights>,
    inputs: Vec<InputInfo>,
    output: ValueId,
    freeze_norms: bool,
    random: Random,
    limits: Limits,
    /// The variables in the order in which they were given, then running statistics.
    held: Vec<Held>,
    ids: Vec<TensorId>,
    variables: usize,
    /// Plans by the inputs they are for.
    plans: Vec<(Vec<Fact>, TapePlan)>,
    /// The plan whose forward pass ran last, until its backward pass runs.
    pending: Option<usize>,
    pool: Pool,
}

/// Plans kept at the same time: whole batches, and the last one of an epoch.
const PLANS_KEPT: usize = 4;

impl Tape {
    /// Prepares a model for training, with changes laid over it. Compiling waits for the first inputs.
    ///
    /// # Errors
    /// `Usage` where there is no such output, or a variable is no f32 constant of the main graph; where the model has no
    /// graph or the patch does not fit.
    pub fn new(model: &Arc<Model>, patch: &Patch, options: &TapeOptions) -> Result<Self> {
        let model = Arc::new(patch.apply(model)?);
        let graph = Arc::new(model.graph()?.clone());
        let output = match &options.output {
            Some(name) => part::find(&graph, name)?,
            None => *graph.outputs.first().ok_or_else(|| Error::input("the graph has no output"))?,
        };
        let constants: BTreeMap<TensorId, ValueId> = graph.constants.iter().map(|(&v, &t)| (t, v)).collect();
        for &id in &options.variables {
            let stored = model.tensor(id);
            if !constants.contains_key(&id) || stored.dtype != DType::F32 {
                let found = stored.dtype;
                let message = format!("expected an f32 constant of the main graph to train, found {found}");
                return Err(Error::usage(message).at_tensor(&stored.path));
            }
        }
        let mut ids = options.variables.clone();
        if !options.freeze_norms {
            ids.extend(running_statistics(&graph).into_iter().filter(|id| !options.variables.contains(id)));
        }
        let load = |&id: &TensorId| Ok(Held { tensor: model.tensor(id).load()?, gradient: None, mask: None });
        let held = ids.iter().map(load).collect::<Result<Vec<_>>>()?;
        let random = Random { seed: options.seed, node: 0, step: Arc::new(AtomicU64::new(0)) };
        Ok(Tape {
            inputs: InputInfo::of(&graph),
            output,
            freeze_norms: options.freeze_norms,
            random,
            limits: Limits::of_machine(),
            held,
            ids,
            variables: options.variables.len(),
            plans: Vec::new(),
            pending: None,
            pool: Pool::default(),
            weights: Arc::new(Weights::new(model, Patch::new(), true, Costs::SHIPPED)),
            graph,
        })
    }

    /// The tape with other bounds on memory than [`Limits::of_machine`].
    #[must_use]
    pub fn within(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[InputInfo] {
        &self.inputs
    }

    /// Runs the forward pass in training mode on the inputs in the model's order; gives the value that the loss is
    /// computed from. The counter of steps says which random numbers dropout draws.
    ///
    /// # Errors
    /// `Unsupported` where a node between a variable and the output has no backward pass: all are named. Otherwise as
    /// [`crate::Session::run`].
    pub fn forward(&mut self, inputs: Vec<Tensor>, step: u64) -> Result<Tensor> {
        self.discard();
        let inputs =
            self.inputs.iter().zip(inputs).map(|(info, t)| info.accept(t)).collect::<Result<Vec<_>>>()?;
        if inputs.len() != self.inputs.len() {
            let message = format!("{} inputs are given, the model has {}", inputs.len(), self.inputs.len());
            return Err(Error::usage(message));
        }
        self.random.step.store(step, Ordering::Relaxed);
        let at = self.plan(&inputs)?;
        self.pool.begin_run(self.limits);
        self.pending = Some(at);
        let result = self.plans[at].1.forward(inputs, &mut self.held, &mut self.pool);
        if result.is_err() {
            self.discard();
        }
        result
    }

    /// Runs the backward pass from the gradient of what [`Tape::forward`] gave last: the gradients of the variables are
    /// added to those that are there.
    ///
    /// # Errors
    /// `Usage` where no forward pass ran; those of nodes.
    pub fn backward(&mut self, gradient: Tensor) -> Result<()> {
        let at = self.pending.take().ok_or_else(|| Error::usage("a backward pass follows a forward pass"))?;
        let trained = self.variables;
        let result = self.plans[at].1.backward(gradient, &mut self.held[..trained], &mut self.pool);
        self.plans[at].1.clear(&mut self.pool);
        self.pool.end_run();
        result
    }

    /// Drops what the last forward pass kept, where no backward pass follows.
    fn discard(&mut self) {
        if let Some(at) = self.pending.take() {
            self.plans[at].1.clear(&mut self.pool);
            self.pool.end_run();
        }
    }

    /// Forgets the gradients.
    pub fn clear(&mut self) {
        for gradient in self.held.iter_mut().filter_map(|held| held.gradient.take()) {
            self.pool.reclaim(gradient);
        }
    }

    /// The variables, in the order in which they were given.
    pub fn variables(&self) -> &[TensorId] {
        &self.ids[..self.variables]
    }

    /// A variable's values, by its place.
    ///
    /// # Errors
    /// None: variables are f32.
    pub fn values(&self, variable: usize) -> Result<&[f32]> {
        self.held[variable].tensor.values()
    }

    /// The sum of a variable's gradients since [`Tape::clear`]; `None` where the loss does not depend on it.
    ///
    /// # Errors
    /// None: gradients are f32.
    pub fn gradient(&self, variable: usize) -> Result<Option<&[f32]>> {
        self.held[variable].gradient.as_ref().map(Tensor::values).transpose()
    }

    /// Holds a mask on a variable: 1 for elements that it keeps, 0 for the others. These have to be zero whenever a forward pass
    /// runs. Where most are, the gradients of the others alone are computed, and those of pruned weights are 0.
    ///
    /// # Errors
    /// `Internal` where the mask has another length than the variable.
    pub fn hold(&mut self, variable: usize, mask: Option<Arc<[f32]>>) -> Result<()> {
        let held = &mut self.held[variable];
        if mask.as_ref().is_some_and(|mask| mask.len() != held.tensor.len()) {
            return Err(Error::internal("a mask has another length than its tensor"));
        }
        held.mask = mask;
        self.discard();
        self.plans.clear();
        Ok(())
    }

    /// A variable's values to change, with its gradient.
    ///
    /// # Errors
    /// None: variables are f32.
    pub fn update(&mut self, variable: usize) -> Result<(&mut [f32], Option<&[f32]>)> {
        let Held { tensor, gradient, .. } = &mut self.held[variable];
        Ok((tensor.values_mut()?, gradient.as_ref().map(Tensor::values).transpose()?))
    }

    /// The running statistics that training updates: tensors and their values.
    pub fn statistics(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.ids[self.variables..].iter().copied().zip(self.held[self.variables..].iter().map(|h| &h.tensor))
    }

    /// Puts other values in the place of running statistics.
    ///
    /// # Errors
    /// `Usage` where the tensor is none of them, or has another shape.
    pub fn set_statistics(&mut self, id: TensorId, tensor: Tensor) -> Result<()> {
        let at = self.ids[self.variables..].iter().position(|own| *own == id);
        let held = at.and_then(|at| self.held.get_mut(self.variables + at));
        let held = held.filter(|held| held.tensor.shape() == tensor.shape() && tensor.dtype() == DType::F32);
        let held = held.ok_or_else(|| Error::usage("no running statistics of this shape"))?;
        held.tensor = tensor;
        Ok(())
    }

    /// The variables and running statistics as changes of the model's tensors.
    pub fn patch(&self) -> Patch {
        let mut patch = Patch::by("training");
        for (&id, held) in self.ids.iter().zip(&self.held) {
            patch.set(id, held.tensor.clone());
        }
        patch
    }

    fn plan(&mut self, inputs: &[Tensor]) -> Result<usize> {
        let facts: Vec<Fact> = inputs.iter().map(|t| Fact::new(t.dtype(), t.shape())).collect();
        if let Some(at) = self.plans.iter().position(|(known, _)| *known == facts) {
            return Ok(at);
        }
        let held: BTreeMap<TensorId, usize> = self.ids.iter().copied().zip(0..).collect();
        let compiled = compile::Compile {
            graph: &self.graph,
            weights: &self.weights,
            held: &held,
            masks: &self.held[..self.variables].iter().map(|held| held.mask.clone()).collect::<Vec<_>>(),
            trained: self.variables,
            output: self.output,
            batch_statistics: !self.freeze_norms,
            random: &self.random,
        }
        .plan(&facts)?;
        if self.plans.len() == PLANS_KEPT {
            self.plans.remove(0);
        }
        self.plans.push((facts, compiled));
        Ok(self.plans.len() - 1)
    }
}
