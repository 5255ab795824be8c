//! A model ready to run.

use std::sync::{Arc, Mutex, PoisonError};

use secateur_model::text::{listed, quoted};
use secateur_model::{Error, Graph, Model, Patch, Result, Tensor, ValueId};

use crate::buffers::Pool;
use crate::costs::Costs;
use crate::input::InputInfo;
use crate::limits::Limits;
use crate::part;
use crate::plan::{NodeTime, PlannedNode, Program, Watch};
use crate::weights::Weights;

/// A value inside the graph, as [`Session::observe`] hands it out.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The name it was asked for by.
    pub name: &'a str,
    /// The elements in row-major order: images are NCHW, whatever layout the kernels use.
    pub tensor: &'a Tensor,
    /// Where the tensor begins along the first axis of the whole value: 0, or the sample where samples are computed
    /// one after the other.
    pub offset: usize,
}

/// Which kernels run after [`Session::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Each layer keeps its kind of kernel, however many of its weights are zero.
    Keep,
    /// Those that the costs say, as in a new session.
    Choose,
}

/// A model ready to run, on any input shapes it allows.
pub struct Session {
    program: Program,
    inputs: Vec<InputInfo>,
    outputs: Vec<String>,
    pool: Mutex<Pool>,
}

impl Session {
    /// Prepares a model, with changed weights laid over it. Compiling waits for the first input shapes.
    ///
    /// # Errors
    /// Where the model has no graph, or uses operators that cannot be run (all are named).
    pub fn new(model: Arc<Model>, patch: Patch) -> Result<Self> {
        Self::with_costs(model, patch, Costs::SHIPPED)
    }

    /// As [`Session::new`], but kernels are chosen by these costs. Other costs may choose other kernels, the
    /// results of which differ in rounding.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_costs(model: Arc<Model>, patch: Patch, costs: Costs) -> Result<Self> {
        Self::prepare(model, patch, true, costs)
    }

    /// As [`Session::new`], but every node runs by itself, as the graph has them: slower, to compare with.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn without_fusion(model: Arc<Model>, patch: Patch) -> Result<Self> {
        Self::prepare(model, patch, false, Costs::SHIPPED)
    }

    fn prepare(model: Arc<Model>, patch: Patch, fuse: bool, costs: Costs) -> Result<Self> {
        // Other elements alone are laid over the weights, so that ids stay those of the model.
        let (model, patch) = if Weights::are_elements(&patch, &model) {
            (model, patch)
        } else {
            (Arc::new(patch.apply(&model)?), Patch::new())
        };
        let graph = Arc::new(model.graph()?.clone());
        let missing = crate::kernels::missing(&graph);
        if !missing.is_empty() {
            return Err(Error::unsupported(format!("the runtime does not know {}", listed(&missing))));
        }
        let inputs = InputInfo::of(&graph);
        Ok(Self::of(graph, Arc::new(Weights::new(model, patch, fuse, costs)), inputs))
    }

    fn of(graph: Arc<Graph>, weights: Arc<Weights>, inputs: Vec<InputInfo>) -> Self {
        let outputs = graph.outputs.iter().map(|&o| graph.value_name(o).to_string()).collect();
        Session { program: Program::new(graph, weights), inputs, outputs, pool: Mutex::default() }
    }

    /// The session with other bounds on a run than [`Limits::of_machine`].
    #[must_use]
    pub fn within(mut self, limits: Limits) -> Self {
        let weights = Arc::new(self.program.weights.within(limits));
        self.program.update(weights, false);
        self
    }

    /// Runs with other weights from here on: the model's, with `patch` laid over them in place of the patch so far.
    ///
    /// Weights that neither patch changes, and those that both change by the same tensor or closure, stay packed. The
    /// others are packed, folded and fused again when the session next runs on input shapes that it knows. Layers in
    /// the bodies of `If`, `Loop` and `Scan`, and those whose shapes are open until they run, always choose their
    /// kernels again.
    ///
    /// # Errors
    /// `Usage` where `patch` changes types, shapes or nodes: that makes another model, which takes a new session. This
    /// one is as before then.
    pub fn update(&mut self, patch: Patch, kernels: Kernels) -> Result<()> {
        if !Weights::are_elements(&patch, &self.program.weights.model) {
            return Err(Error::usage(
                "a session is updated with weights of the same types and shapes only: start a new one for a patch that \
                 changes types, shapes or nodes",
            ));
        }
        let weights = self.program.weights.updated(patch);
        self.program.update(Arc::new(weights), kernels == Kernels::Keep);
        Ok(())
    }

    /// A part of the graph as a session of its own, from `inputs` to `outputs`, as ONNX's `extract_model` takes it out:
    /// names of values, or of nodes for their first outputs. It runs with the weights that this session has now, and
    /// shares those that are packed.
    ///
    /// # Errors
    /// `Usage` where there is no such value, or where the outputs depend on inputs of the model that `inputs` does not
    /// cut off: these are named.
    pub fn extract(&self, inputs: &[&str], outputs: &[&str]) -> Result<Session> {
        let weights = self.program.weights.clone();
        let graph = part::extract(&self.program.graph, inputs, outputs)?;
        let mut infos = InputInfo::of(&graph);
        part::infer(&mut infos, &graph, &weights.model)?;
        Ok(Self::of(Arc::new(graph), weights, infos))
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[InputInfo] {
        &self.inputs
    }

    /// The outputs' names, in the model's order.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the model on its inputs, given by name in any order.
    ///
    /// # Errors
    /// Where inputs are missing, unknown or do not fit, or a node refuses its operands.
    pub fn run(&self, given: Vec<(String, Tensor)>) -> Result<Vec<Tensor>> {
        self.run_watched(given, &[], &mut Watch::default())
    }

    /// Runs the model and tells how long each node took, in the order in which they ran. What was
    /// fused into a node counts there, what was folded does not appear, and a control-flow node
    /// stands for its nested graphs.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn profile(&self, given: Vec<(String, Tensor)>) -> Result<(Vec<Tensor>, Vec<NodeTime>)> {
        let mut watch = Watch { times: Some(Vec::new()), ..Watch::default() };
        let outputs = self.run_watched(given, &[], &mut watch)?;
        Ok((outputs, watch.times.unwrap_or_default()))
    }

    /// Runs the model and hands out values inside it, each right after it is computed and before it is overwritten: only
    /// one of them is in memory beyond what a run takes. They are named by their own names or by those of the nodes
    /// that compute them (their first outputs), in any order.
    ///
    /// A node whose output is observed is not fused with those that use it, so that its results and those after it may
    /// differ in rounding from [`Session::run`]: they are those of a model that has the observed values as outputs.
    /// Where layers compute the samples of a batch one by one, their values come sample by sample.
    ///
    /// # Errors
    /// `Usage` where there is no such value, `Unsupported` where it is in a nested graph: the node is named. Otherwise
    /// as [`Session::run`], and those of `observer`, which end the run.
    pub fn observe(
        &self,
        given: Vec<(String, Tensor)>,
        values: &[&str],
        observer: &mut dyn FnMut(Observed<'_>) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let graph = &self.program.graph;
        let ids = values.iter().map(|name| part::find(graph, name)).collect::<Result<Vec<_>>>()?;
        let mut distinct = ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut hand_out = |at: usize, tensor: &Tensor, offset: usize| {
            let names = values.iter().zip(&ids).filter(|(_, id)| **id == distinct[at]);
            names.map(|(name, _)| Observed { name, tensor, offset }).try_for_each(&mut *observer)
        };
        let mut watch = Watch { observer: Some(&mut hand_out), ..Watch::default() };
        self.run_watched(given, &distinct, &mut watch)
    }

    /// The nodes as they would run on inputs of these shapes, in their order, without running them: each with
    /// its kernel and, where the costs that kernels are chosen by say it, how long it would take.
    ///
    /// # Errors
    /// Where inputs are missing, unknown or do not fit, or a plan cannot be made for them.
    pub fn nodes(&self, given: Vec<(String, Tensor)>) -> Result<Vec<PlannedNode>> {
        self.program.nodes(&self.in_order(given)?)
    }

    /// The inputs in the model's order, checked.
    fn in_order(&self, mut given: Vec<(String, Tensor)>) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for info in &self.inputs {
            let at = given
                .iter()
                .position(|(name, _)| *name == info.name)
                .ok_or_else(|| Error::usage(format!("input `{}` is not given", info.name)))?;
            let (_, tensor) = given.swap_remove(at);
            tensors.push(info.accept(tensor)?);
        }
        if let Some((name, _)) = given.first() {
            if self.inputs.iter().any(|info| info.name == *name) {
                return Err(Error::usage(format!("input `{name}` is given twice")));
            }
            let known = quoted(self.inputs.iter().map(|info| &info.name));
            return Err(Error::usage(format!("the model has no input `{name}`; it has {known}")));
        }
        Ok(tensors)
    }

    fn run_watched(
        &self,
        given: Vec<(String, Tensor)>,
        observed: &[ValueId],
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let tensors = self.in_order(given)?;
        // Runs at the same time use a pool each; one after the other they share it.
        let mut pool = std::mem::take(&mut *self.pool.lock().unwrap_or_else(PoisonError::into_inner));
        pool.begin_run(self.program.weights.limits);
        let outputs = self.program.run(tensors, observed, &mut pool, watch);
        pool.end_run();
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = pool;
        outputs
    }
}
