//! A model ready to run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use half::{bf16, f16};
use secateur_kernels::permute;
use secateur_model::graph::Dim;
use secateur_model::ops::{Fact, Stored};
use secateur_model::text::listed;
use secateur_model::{DType, Data, Error, Graph, Model, Patch, Result, Tensor, TensorId};

use crate::limits::Limits;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::tile::Costs;

/// Plans kept for a graph at the same time: batches of two sizes and a few image sizes.
const PLANS_KEPT: usize = 8;

/// Steps of a nested graph that compiling a node takes as long as.
const COMPILE_STEPS: usize = 10;

/// The weights a session runs with: the model's, with changes laid over them.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) model: Arc<Model>,
    patch: Patch,
    /// Whether nodes are fused.
    pub(crate) fuse: bool,
    /// What kernels are chosen by.
    pub(crate) costs: Costs,
    /// What a run may take.
    pub(crate) limits: Limits,
}

impl Weights {
    pub(crate) fn load(&self, id: TensorId) -> Result<Tensor> {
        self.patch.load(&self.model, id)
    }

    /// The elements of a constant, loaded where they are not.
    ///
    /// # Errors
    /// Where they cannot be loaded; `Internal` where the value is no constant.
    pub(crate) fn elements(&self, constant: &Fact) -> Result<Tensor> {
        match (&constant.value, constant.stored) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(Stored { tensor, transposed: false })) => self.load(tensor),
            (None, Some(Stored { tensor, transposed: true })) => transposed(&self.load(tensor)?),
            (None, None) => Err(Error::internal("a computed value was taken for a constant")),
        }
    }

    /// The element type of the values that a constant is packed with, where it is stored so.
    pub(crate) fn packed_type(&self, constant: &Fact) -> Option<DType> {
        let (spec, _) = self.patch.packing(&self.model, constant.stored?.tensor)?;
        Some(spec.value_type)
    }
}

/// The transpose of a matrix of f32.
pub(crate) fn transposed(matrix: &Tensor) -> Result<Tensor> {
    let shape = matrix.shape();
    let mut transposed = vec![0f32; matrix.len()];
    permute(matrix.values()?, shape, &[1, 0], &mut transposed);
    Tensor::new([shape[1], shape[0]], transposed)
}

/// A graph with the plans compiled for it so far: the main graph, or the body of a control-flow node.
pub(crate) struct Program {
    pub(crate) graph: Arc<Graph>,
    pub(crate) weights: Arc<Weights>,
    plans: Mutex<Vec<(Vec<Fact>, Arc<Plan>)>>,
}

impl Program {
    pub(crate) fn new(graph: Arc<Graph>, weights: Arc<Weights>) -> Self {
        Program { graph, weights, plans: Mutex::default() }
    }

    /// The plan for inputs (then captures) of the given types and shapes; whoever waits for a new one counts that
    /// as steps.
    fn plan(&self, facts: Vec<Fact>, pool: Option<&mut Pool>) -> Result<Arc<Plan>> {
        let lock = || self.plans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, plan)) = lock().iter().find(|(f, _)| *f == facts) {
            return Ok(plan.clone());
        }
        if let Some(pool) = pool {
            pool.count(COMPILE_STEPS * self.graph.nodes.len(), 0)?;
        }
        let plan = Arc::new(Plan::compile(&self.graph, &self.weights, &facts)?);
        let mut plans = lock();
        if plans.len() == PLANS_KEPT {
            plans.remove(0);
        }
        plans.push((facts, plan.clone()));
        Ok(plan)
    }

    /// How the graph runs on inputs such as these, then captures.
    pub(crate) fn nodes(&self, inputs: &[Tensor]) -> Result<Vec<PlannedNode>> {
        Ok(self.plan(facts(inputs), None)?.nodes())
    }

    /// Runs the graph on the values of its inputs, then its captures.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        pool: &mut Pool,
        times: Option<&mut Vec<NodeTime>>,
    ) -> Result<Vec<Tensor>> {
        self.plan(facts(&inputs), Some(pool))?.run(inputs, pool, times)
    }
}

/// The types and shapes of tensors.
fn facts(tensors: &[Tensor]) -> Vec<Fact> {
    tensors.iter().map(|t| Fact::new(t.dtype(), t.shape())).collect()
}

/// An input of the model.
#[derive(Clone, Debug)]
pub struct InputInfo {
    /// The name.
    pub name: String,
    /// The declared element type.
    pub dtype: Option<DType>,
    /// The declared shape.
    pub shape: Option<Vec<Dim>>,
}

impl InputInfo {
    fn of(graph: &Graph) -> Vec<InputInfo> {
        graph
            .inputs
            .iter()
            .map(|&id| {
                let value = &graph.values[id.index()];
                InputInfo { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() }
            })
            .collect()
    }

    /// A tensor as the model takes it: numbers of f32 are rounded to the nearest value, ties to even, where
    /// the input is bf16 or f16, and the bit patterns of bf16 may come as u16, since numpy has no bf16.
    ///
    /// # Errors
    /// As [`InputInfo::check`].
    pub fn accept(&self, tensor: Tensor) -> Result<Tensor> {
        let shape = tensor.shape();
        let taken = match (self.dtype, tensor.data()) {
            (Some(DType::BF16), Data::F32(values)) => {
                Tensor::new(shape, values.iter().map(|&v| bf16::from_f32(v)).collect())?
            }
            (Some(DType::BF16), Data::U16(bits)) => {
                Tensor::new(shape, bits.iter().map(|&bits| bf16::from_bits(bits)).collect())?
            }
            (Some(DType::F16), Data::F32(values)) => {
                Tensor::new(shape, values.iter().map(|&v| f16::from_f32(v)).collect())?
            }
            _ => tensor,
        };
        self.check(&taken)?;
        Ok(taken)
    }

    /// Checks that a tensor has the declared type and shape.
    ///
    /// # Errors
    /// `Input` where it has another.
    pub fn check(&self, tensor: &Tensor) -> Result<()> {
        let fits = self.shape.as_ref().is_none_or(|dims| {
            dims.len() == tensor.rank()
                && dims.iter().zip(tensor.shape()).all(|(d, &n)| match d {
                    Dim::Known(k) => *k == n,
                    _ => true,
                })
        });
        if !fits || self.dtype.is_some_and(|d| d != tensor.dtype()) {
            let dims: Vec<String> = self
                .shape
                .iter()
                .flatten()
                .map(|d| match d {
                    Dim::Known(n) => n.to_string(),
                    Dim::Symbol(s) => s.clone(),
                    Dim::Unknown => "?".to_string(),
                })
                .collect();
            return Err(Error::input(format!(
                "input `{}`: expected {} [{}], found {} {:?}",
                self.name,
                self.dtype.map_or("any type", DType::name),
                dims.join(", "),
                tensor.dtype(),
                tensor.shape()
            )));
        }
        Ok(())
    }
}

/// A node as it runs.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// The node's name.
    pub name: String,
    /// The operator, with what was fused into it, such as `Conv+add+Relu`.
    pub kind: String,
    /// The kind of kernel, where there are several for the operator: those that skip zeros are `sparse`, and the type
    /// of the weights is named where it is not f32 (`sparse int8`).
    pub kernel: Option<&'static str>,
    /// The shape of its first output.
    pub shape: Vec<usize>,
    /// The time on one thread by the costs that kernels are chosen by, where they say it.
    pub estimate: Option<Duration>,
}

impl PlannedNode {
    /// Whether its kernel skips zeros.
    pub fn is_sparse(&self) -> bool {
        self.kernel.is_some_and(|kernel| kernel.starts_with("sparse"))
    }
}

/// How long a node took.
#[derive(Clone, Debug)]
pub struct NodeTime {
    /// The node.
    pub node: PlannedNode,
    /// The time.
    pub time: Duration,
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
        let graph = Arc::new(model.graph()?.clone());
        let missing = crate::kernels::missing(&graph);
        if !missing.is_empty() {
            return Err(Error::unsupported(format!("the runtime does not know {}", listed(&missing))));
        }
        let inputs = InputInfo::of(&graph);
        let outputs = graph.outputs.iter().map(|&o| graph.value_name(o).to_string()).collect();
        let weights = Arc::new(Weights { model, patch, fuse, costs, limits: Limits::of_machine() });
        Ok(Session { program: Program::new(graph, weights), inputs, outputs, pool: Mutex::default() })
    }

    /// The session with other bounds on a run than [`Limits::of_machine`].
    #[must_use]
    pub fn within(mut self, limits: Limits) -> Self {
        let weights = Weights { limits, ..(*self.program.weights).clone() };
        self.program = Program::new(self.program.graph, Arc::new(weights));
        self
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
        self.run_timed(given, None)
    }

    /// Runs the model and tells how long each node took, in the order in which they ran. What was
    /// fused into a node counts there, what was folded does not appear, and a control-flow node
    /// stands for its nested graphs.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn profile(&self, given: Vec<(String, Tensor)>) -> Result<(Vec<Tensor>, Vec<NodeTime>)> {
        let mut times = Vec::new();
        let outputs = self.run_timed(given, Some(&mut times))?;
        Ok((outputs, times))
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
            let known: Vec<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(Error::usage(format!("the model has no input `{name}`; it has {known:?}")));
        }
        Ok(tensors)
    }

    fn run_timed(
        &self,
        given: Vec<(String, Tensor)>,
        times: Option<&mut Vec<NodeTime>>,
    ) -> Result<Vec<Tensor>> {
        let tensors = self.in_order(given)?;
        // Runs at the same time use a pool each; one after the other they share it.
        let mut pool =
            std::mem::take(&mut *self.pool.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        pool.begin_run(self.program.weights.limits);
        let outputs = self.program.run(tensors, &mut pool, times);
        pool.end_run();
        *self.pool.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = pool;
        outputs
    }
}
