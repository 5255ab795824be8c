//! A graph compiled for inputs of given types and shapes.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secateur_model::ops::{self, Fact, Facts};
use secateur_model::tensor::checked_len;
use secateur_model::{DType, Error, Graph, Node, Result, ResultExt, Tensor, ValueId};

use crate::control;
use crate::fuse::{self, Epilogue, Views};
use crate::kernels::{self, Build, Kernel};
use crate::pool::{Pool, tensor_bytes as bytes};
use crate::session::{NodeTime, PlannedNode, Weights};
use crate::stretch::Stretch;
use crate::tile::{self, Costs};

/// A node on its way to a step, and what was fused into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) epilogue: Epilogue,
    pub(crate) views: Views,
    /// The kernel, where a pass has chosen it already.
    pub(crate) kernel: Option<Prepared>,
    /// What it takes by the costs that kernels are chosen by, in nanoseconds, where they say it.
    pub(crate) estimate: Option<f64>,
    /// How many samples it computes one by one; less than 2 where it computes everything at once.
    pub(crate) samples: usize,
}

/// A kernel that is built.
#[derive(Clone)]
pub(crate) struct Prepared(Arc<dyn Kernel>);

impl Prepared {
    pub(crate) fn new(kernel: impl Kernel + 'static) -> Self {
        Prepared(Arc::new(kernel))
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

impl Kernel for Prepared {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        self.0.run(inputs, pool)
    }

    fn held(&self) -> &[usize] {
        self.0.held()
    }

    fn name(&self) -> Option<&'static str> {
        self.0.name()
    }

    fn estimate(&self, costs: &Costs) -> Option<f64> {
        self.0.estimate(costs)
    }
}

/// A list of steps for one signature of inputs.
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// The steps in their order, those in stretches that are walked through sample by sample.
    stretches: Vec<Stretch>,
    /// Inputs, then captures.
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    constants: Vec<(ValueId, Tensor)>,
    /// Bytes of constants that the file does not have: what was folded.
    folded: u64,
    values: usize,
}

pub(crate) struct Step {
    node: Node,
    /// The operator with what is fused into it.
    kind: String,
    kernel: Box<dyn Kernel>,
    /// Inputs, each with whether its life ends here.
    pub(crate) inputs: Vec<Option<(ValueId, bool)>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    /// The outputs' shapes where inferred; kernels rely on those of their operands.
    pub(crate) shapes: Vec<Option<Vec<usize>>>,
    /// The outputs' element types where inferred.
    dtypes: Vec<Option<DType>>,
    /// Outputs that nobody uses.
    unused: Vec<ValueId>,
    estimate: Option<Duration>,
}

impl Step {
    /// A node of constants, on its way to be folded.
    fn folded(
        item: Item,
        kernel: Box<dyn Kernel>,
        shapes: Vec<Option<Vec<usize>>>,
        dtypes: Vec<Option<DType>>,
    ) -> Self {
        let (inputs, outputs, kind, unused) = (Vec::new(), Vec::new(), String::new(), Vec::new());
        Step { node: item.node, kind, kernel, inputs, outputs, shapes, dtypes, unused, estimate: None }
    }

    /// Runs on values, and tells how long that took.
    pub(crate) fn run(&self, values: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Duration> {
        let mut operands: Vec<Option<Tensor>> = self
            .inputs
            .iter()
            .map(|input| match *input {
                None => None,
                Some((id, true)) => values[id.index()].take(),
                Some((id, false)) => values[id.index()].clone(),
            })
            .collect();
        let dies = |input: &Option<(ValueId, bool)>| input.is_some_and(|(_, dies)| dies);
        let dying = self.inputs.iter().zip(&operands).filter(|(input, _)| dies(input));
        let freed: u64 = dying.filter_map(|(_, tensor)| Some(bytes(tensor.as_ref()?))).sum();
        self.check_memory(&operands, pool).at_node(&self.node)?;
        let before = pool.live();
        let start = Instant::now();
        let results = self.kernel.run(&mut operands, pool).at_node(&self.node)?;
        let time = start.elapsed();
        if results.len() < self.outputs.len() {
            return Err(Error::unsupported(format!(
                "{} outputs are asked for, {} can be computed",
                self.outputs.len(),
                results.len()
            ))
            .at_node(&self.node));
        }
        let (mut made, mut elements) = (0, 0);
        for ((id, shape), tensor) in self.outputs.iter().zip(&self.shapes).zip(results) {
            if shape.as_ref().is_some_and(|s| s != tensor.shape()) {
                return Err(Error::internal(format!(
                    "shape {:?} was computed where {shape:?} was inferred",
                    tensor.shape()
                ))
                .at_node(&self.node));
            }
            if let Some(id) = id {
                made += bytes(&tensor);
                elements += tensor.len();
                values[id.index()] = Some(tensor);
            }
        }
        operands.into_iter().flatten().for_each(|tensor| pool.reclaim(tensor));
        for id in &self.unused {
            made -= values[id.index()].take().as_ref().map_or(0, bytes);
        }
        pool.end_step();
        pool.set_live(before.saturating_sub(freed));
        // What was known only by computing it, such as how many elements are not zero.
        pool.check(made, || "its outputs take".to_string()).at_node(&self.node)?;
        pool.set_live((before + made).saturating_sub(freed));
        pool.count(1, elements).at_node(&self.node)?;
        Ok(time)
    }

    /// Makes sure that the outputs are within the bound on memory, before a kernel or an evaluation makes them.
    fn check_memory(&self, operands: &[Option<Tensor>], pool: &mut Pool) -> Result<()> {
        if VIEWS.contains(&self.node.op_type.as_str()) {
            return Ok(());
        }
        // Shapes that were open are known from the operands: all of them are handed over then.
        let found = match self.shapes.iter().all(Option::is_some) {
            true => Vec::new(),
            false => ops::infer_only(&self.node, operands),
        };
        for (i, shape) in self.shapes.iter().enumerate() {
            let late = found.get(i);
            let Some(shape) = shape.as_deref().or_else(|| late?.shape()) else { continue };
            check_output(shape, self.dtypes[i].or_else(|| late?.dtype), pool)?;
        }
        Ok(())
    }

    /// What a profile says of it, given the values after its run.
    pub(crate) fn timed(&self, values: &[Option<Tensor>], time: Duration) -> NodeTime {
        let planned = self.planned();
        let output = self.outputs.first().copied().flatten().and_then(|id| values[id.index()].as_ref());
        let shape = output.map_or(planned.shape, |tensor| tensor.shape().to_vec());
        NodeTime { node: PlannedNode { shape, ..planned }, time }
    }

    fn planned(&self) -> PlannedNode {
        PlannedNode {
            name: self.node.label().to_string(),
            kind: self.kind.clone(),
            kernel: self.kernel.name(),
            shape: self.shapes.first().cloned().flatten().unwrap_or_default(),
            estimate: self.estimate,
        }
    }
}

impl Plan {
    /// The steps.
    pub(crate) fn nodes(&self) -> Vec<PlannedNode> {
        self.steps.iter().map(Step::planned).collect()
    }

    /// Compiles a graph for inputs (then captures) of the given facts.
    pub(crate) fn compile(graph: &Graph, weights: &Arc<Weights>, given: &[Fact]) -> Result<Plan> {
        let mut facts: Vec<Option<Fact>> = vec![None; graph.values.len()];
        let inputs: Vec<ValueId> = graph.inputs.iter().chain(&graph.captures).copied().collect();
        for (&id, fact) in inputs.iter().zip(given) {
            facts[id.index()] = Some(fact.clone());
        }
        let nodes = graph.nodes.iter().map(|node| with_captures(node, graph)).collect::<Result<Vec<_>>>()?;
        let needed_now = needed_now(&nodes, &graph.outputs);
        for (&id, &tensor) in &graph.constants {
            let stored = weights.model.tensor(tensor);
            facts[id.index()] = Some(match needed_now.contains(&id) || stored.len() < LARGE {
                true => weights.load(tensor)?.into(),
                false => Fact::stored(tensor, stored),
            });
        }
        // The nodes that are left once everything that follows from constants and shapes is known.
        let mut items = Vec::new();
        let mut pool = Pool::within(weights.limits);
        for node in nodes {
            let mut operands = operands(&node, &facts);
            if let (Some(fact), &[Some(output)]) = (transposed_weight(&node, &operands)?, &node.outputs[..])
                && !needed_now.contains(&output)
            {
                facts[output.index()] = Some(fact);
                continue;
            }
            let constant = operands.iter().flatten().all(Fact::is_constant) && !operands.is_empty();
            if constant {
                for fact in operands.iter_mut().flatten() {
                    *fact = weights.elements(fact)?.into();
                }
            }
            let mut found = ops::infer(&node, Facts(&operands))?;
            if constant && found.iter().any(|f| f.value.is_none()) {
                let item = Item { node: node.clone(), ..Item::default() };
                let tensors: Vec<_> =
                    operands.iter().map(|f| f.as_ref().and_then(|f| f.value.clone())).collect();
                let (dtypes, shapes) = found.iter().map(|f| (f.dtype, f.shape.clone())).unzip();
                let kernel = build(&item, &operands, &found, weights)?;
                let step = Step::folded(item, kernel, shapes, dtypes);
                step.check_memory(&tensors, &mut pool).at_node(&node)?;
                let results = step.kernel.run(&mut tensors.clone(), &mut pool).at_node(&node)?;
                pool.end_step();
                results.iter().for_each(|tensor| pool.hold(tensor));
                found = results.into_iter().map(Fact::from).collect();
            }
            let known = node.outputs.iter().zip(&found).all(|(o, f)| o.is_none() || f.value.is_some())
                && found.len() >= node.outputs.len();
            for (output, fact) in node.outputs.iter().zip(found) {
                if let Some(output) = output {
                    facts[output.index()] = Some(fact);
                }
            }
            if !known {
                // Before kernels are made for it: their tables grow with the output.
                let outputs = node.outputs.iter().flatten().filter_map(|o| facts[o.index()].as_ref());
                for fact in outputs.filter(|_| !VIEWS.contains(&node.op_type.as_str())) {
                    let shape = fact.shape.as_deref();
                    shape
                        .map_or(Ok(()), |shape| check_output(shape, fact.dtype, &mut pool))
                        .at_node(&node)?;
                }
                items.push(Item { node, ..Item::default() });
            }
        }
        if weights.fuse {
            items = fuse::fuse(items, &mut facts, &graph.outputs, weights);
        }
        let mut items = needed(items, &graph.outputs);
        if weights.fuse {
            items = tile::lay_out(items, &mut facts, &graph.outputs, weights)?;
        }

        let mut last_use = vec![usize::MAX; facts.len()];
        for (i, item) in items.iter().enumerate() {
            for input in item.node.inputs.iter().flatten() {
                last_use[input.index()] = i;
            }
        }
        let is_constant =
            |facts: &[Option<Fact>], id: ValueId| facts[id.index()].as_ref().is_some_and(Fact::is_constant);
        let mut steps = Vec::with_capacity(items.len());
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut wanted: Vec<ValueId> = graph.outputs.clone();
        for (i, item) in items.into_iter().enumerate() {
            let operands = operands(&item.node, &facts);
            let found: Vec<Fact> = item
                .node
                .outputs
                .iter()
                .map(|o| o.and_then(|o| facts[o.index()].clone()).unwrap_or_default())
                .collect();
            let kernel = match item.kernel.clone() {
                Some(kernel) => Box::new(kernel),
                None => build(&item, &operands, &found, weights)?,
            };
            let held = kernel.held();
            let inputs: Vec<Option<(ValueId, bool)>> = item
                .node
                .inputs
                .iter()
                .enumerate()
                .map(|(k, input)| {
                    let id = input.filter(|_| !held.contains(&k))?;
                    let dies = last_use[id.index()] == i
                        && !graph.outputs.contains(&id)
                        && !is_constant(&facts, id)
                        // A value used twice by one node is handed over at its last place.
                        && !item.node.inputs[k + 1..].contains(input);
                    Some((id, dies))
                })
                .collect();
            wanted.extend(inputs.iter().flatten().map(|(id, _)| *id));
            let unused = item
                .node
                .outputs
                .iter()
                .flatten()
                .copied()
                .filter(|o| last_use[o.index()] == usize::MAX && !graph.outputs.contains(o))
                .collect();
            let outputs = item.node.outputs.clone();
            let name = kernel.name().map(|name| format!(" ({name})")).unwrap_or_default();
            let kind = format!("{}{}{name}", item.node.op_type, item.epilogue);
            let dtypes = found.iter().map(|f| f.dtype).collect();
            let mut shapes: Vec<Option<Vec<usize>>> = found.into_iter().map(|f| f.shape).collect();
            if item.samples > 1 {
                // Tiles are of a sample already.
                shapes.iter_mut().flatten().filter(|s| s.len() > 1).for_each(|s| s[0] /= item.samples);
            }
            match stretches.last_mut() {
                Some(stretch) if stretch.samples == item.samples.max(1) => stretch.steps.end = i + 1,
                _ => stretches.push(Stretch::new(i, item.samples)),
            }
            let estimate = item.estimate.or_else(|| kernel.estimate(&weights.costs));
            let seconds = |nanoseconds: f64| Duration::try_from_secs_f64(nanoseconds / 1e9);
            let estimate = estimate.map(|nanoseconds| seconds(nanoseconds).unwrap_or(Duration::MAX));
            let node = item.node;
            steps.push(Step { node, kind, kernel, inputs, outputs, shapes, dtypes, unused, estimate });
        }
        wanted.sort_unstable();
        wanted.dedup();
        let constants = wanted
            .into_iter()
            .filter_map(|id| Some((id, facts[id.index()].as_ref().filter(|fact| fact.is_constant())?)))
            .map(|(id, fact)| Ok((id, weights.elements(fact)?)))
            .collect::<Result<_>>()?;
        for stretch in stretches.iter_mut().filter(|stretch| stretch.samples > 1) {
            stretch.find_values(&steps, &graph.outputs);
        }
        let (outputs, folded) = (graph.outputs.clone(), pool.live());
        Ok(Plan { steps, stretches, inputs, outputs, constants, folded, values: facts.len() })
    }

    /// Runs the steps; notes how long each took where asked.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        pool: &mut Pool,
        mut times: Option<&mut Vec<NodeTime>>,
    ) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.values];
        pool.set_live(pool.live().saturating_add(self.folded));
        for (&id, tensor) in self.inputs.iter().zip(inputs) {
            pool.hold(&tensor);
            values[id.index()] = Some(tensor);
        }
        for (id, tensor) in &self.constants {
            values[id.index()] = Some(tensor.clone());
        }
        // Tiles of each sample that other stretches need.
        let mut tiles: Vec<Vec<Tensor>> = vec![Vec::new(); self.values];
        for stretch in &self.stretches {
            let steps = &self.steps[stretch.steps.clone()];
            if stretch.samples > 1 {
                stretch.run(steps, &mut values, &mut tiles, pool, times.as_deref_mut())?;
            } else {
                for step in steps {
                    let time = step.run(&mut values, pool)?;
                    times.iter_mut().for_each(|times| times.push(step.timed(&values, time)));
                }
            }
        }
        self.outputs
            .iter()
            .map(|&id| {
                values[id.index()].clone().ok_or_else(|| Error::internal("an output was not computed"))
            })
            .collect()
    }
}

/// Operators whose output is their first input under another shape: they take no memory.
const VIEWS: &[&str] = &["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Makes sure that an output of a shape is within the bound on memory.
fn check_output(shape: &[usize], dtype: Option<DType>, pool: &mut Pool) -> Result<()> {
    let len = checked_len(shape).and_then(|len| dtype.unwrap_or(DType::F32).bytes_for(len));
    match len.map_or(u64::MAX, |len| len as u64) {
        0 => Ok(()),
        bytes => pool.check(bytes, || format!("the output of shape {shape:?} takes")),
    }
}

/// Elements from which on a weight that can wait does: what little ones take is no matter.
const LARGE: usize = 4096;

/// The values whose elements are asked for before kernels are built: all but those that are nothing else than the
/// weights of products, transposed or not. To hold a model's weights together takes as much memory as the dense model,
/// however it is stored.
fn needed_now(nodes: &[Node], outputs: &[ValueId]) -> HashSet<ValueId> {
    let mut needed: HashSet<ValueId> = outputs.iter().copied().collect();
    // Nodes stand behind those whose results they use.
    for node in nodes.iter().rev() {
        let waits = |i: usize| match node.op_type.as_str() {
            _ if !node.domain.is_empty() => false,
            "Conv" | "MatMul" | "Gemm" => i == 1,
            "Transpose" => node.outputs.iter().flatten().all(|output| !needed.contains(output)),
            _ => false,
        };
        let now: Vec<ValueId> =
            (0..).zip(&node.inputs).filter(|(i, _)| !waits(*i)).filter_map(|(_, v)| *v).collect();
        needed.extend(now);
    }
    needed
}

/// What a node gives that transposes a weight that is not loaded; `None` for others.
fn transposed_weight(node: &Node, operands: &[Option<Fact>]) -> Result<Option<Fact>> {
    let transposes = node.domain.is_empty()
        && node.op_type == "Transpose"
        && node.ints("perm")?.is_none_or(|perm| perm == [1, 0]);
    let [Some(weight)] = operands else { return Ok(None) };
    Ok(weight.transposed().filter(|weight| transposes && weight.dtype == Some(DType::F32)))
}

/// The node with the values that its nested graphs capture as further inputs.
fn with_captures(node: &Node, graph: &Graph) -> Result<Node> {
    let mut node = node.clone();
    if control::is_control(&node) {
        for name in control::captures(&node) {
            let at = graph.values.iter().position(|v| v.name == name).ok_or_else(|| {
                Error::internal(format!("the captured value `{name}` is not in the enclosing graph"))
            })?;
            node.inputs.push(Some(ValueId(at as u32)));
        }
    }
    Ok(node)
}

fn operands(node: &Node, facts: &[Option<Fact>]) -> Vec<Option<Fact>> {
    node.inputs.iter().map(|input| input.map(|id| facts[id.index()].clone().unwrap_or_default())).collect()
}

fn build(
    item: &Item,
    operands: &[Option<Fact>],
    found: &[Fact],
    weights: &Arc<Weights>,
) -> Result<Box<dyn Kernel>> {
    let build = Build {
        node: &item.node,
        inputs: Facts(operands),
        outputs: found,
        epilogue: &item.epilogue,
        views: &item.views,
        weights,
    };
    kernels::build(&build).at_node(&item.node)
}

/// Drops nodes whose results nobody uses.
fn needed(items: Vec<Item>, outputs: &[ValueId]) -> Vec<Item> {
    let mut used: std::collections::HashSet<ValueId> = outputs.iter().copied().collect();
    let mut kept: Vec<Item> = Vec::with_capacity(items.len());
    for item in items.into_iter().rev() {
        if item.node.outputs.iter().flatten().any(|o| used.contains(o)) {
            used.extend(item.node.inputs.iter().flatten());
            kept.push(item);
        }
    }
    kept.reverse();
    kept
}
