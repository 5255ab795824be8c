//! How a graph becomes a plan: constants are folded, nodes fused, values laid out in tiles, the lifetime of every
//! value fixed, and kernels built.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use secateur_model::ops::{self, FOLD_LIMIT, Fact, Facts};
use secateur_model::{DType, Graph, Node, Result, ResultExt, TensorId, ValueId};

use super::segment::Segment;
use super::step::check_output;
use super::{Plan, Step, control};
use crate::buffers::Pool;
use crate::item::{Choices, Item};
use crate::kernels::{self, Build, Choice, Kernel, VIEWS};
use crate::nested::{captured, is_control};
use crate::weights::Weights;
use crate::{fuse, tile};

impl Plan {
    /// Compiles a graph for inputs (then captures) of the given facts. The values in `observed` are handed out, and
    /// layers run as in `kept`, where it is given.
    pub(crate) fn compile(
        graph: &Graph,
        weights: &Arc<Weights>,
        given: &[Fact],
        observed: &[ValueId],
        kept: Option<&Choices>,
    ) -> Result<Plan> {
        let mut compiler = Compiler::new(graph, weights, given, kept, &NONE);
        let items = compiler.fold(observed)?;
        let items = compiler.fuse(items);
        let items = compiler.lay_out(items)?;
        let lifetimes = compiler.lifetimes(&items);
        let (steps, segments) = compiler.lower(items, &lifetimes)?;
        compiler.finish(steps, segments)
    }
}

static NONE: BTreeMap<TensorId, usize> = BTreeMap::new();

/// Folds and fuses a graph for training: the nodes that are left for one of its values, and what is known of all
/// values. The tensors of `held` are no constants, and no node is fused with another but to become one operator.
pub(crate) fn compile_for_training(
    graph: &Graph,
    weights: &Arc<Weights>,
    given: &[Fact],
    held: &BTreeMap<TensorId, usize>,
    output: ValueId,
) -> Result<(Vec<Item>, Vec<Option<Fact>>)> {
    let mut compiler = Compiler::new(graph, weights, given, None, held);
    let items = compiler.fold(&[])?;
    let items = fuse::for_training(items, &mut compiler.facts, &[output], weights);
    Ok((needed(items, &[output]), compiler.facts))
}

/// A graph on its way to a plan.
struct Compiler<'a> {
    graph: &'a Graph,
    weights: &'a Arc<Weights>,
    /// Inputs, then captures.
    inputs: Vec<ValueId>,
    /// By value: what is known of it. Passes add values of their own behind those of the graph.
    facts: Vec<Option<Fact>>,
    /// Counts what folded constants take.
    pool: Pool,
    /// How layers are to run; chosen by their costs where nothing is given.
    kept: Option<&'a Choices>,
    /// Tensors that are no constants, since they change from run to run.
    held: &'a BTreeMap<TensorId, usize>,
    /// How layers run.
    choices: Choices,
}

/// By value: the last item that uses it; `usize::MAX` where none does.
struct Lifetimes(Vec<usize>);

impl<'a> Compiler<'a> {
    fn new(
        graph: &'a Graph,
        weights: &'a Arc<Weights>,
        given: &[Fact],
        kept: Option<&'a Choices>,
        held: &'a BTreeMap<TensorId, usize>,
    ) -> Self {
        let mut facts: Vec<Option<Fact>> = vec![None; graph.values.len()];
        let inputs: Vec<ValueId> = graph.inputs.iter().chain(&graph.captures).copied().collect();
        for (&id, fact) in inputs.iter().zip(given) {
            facts[id.index()] = Some(fact.clone());
        }
        let (pool, choices) = (Pool::within(weights.limits), Choices::new());
        Compiler { graph, weights, inputs, facts, pool, kept, held, choices }
    }

    /// Computes what follows from constants and shapes, and returns the nodes that are left, with an item for each
    /// value that is handed out right behind the one that computes it.
    fn fold(&mut self, observed: &[ValueId]) -> Result<Vec<Item>> {
        let nodes = self
            .graph
            .nodes
            .iter()
            .map(|node| with_captures(node, self.graph))
            .collect::<Result<Vec<_>>>()?;
        let needed_now = needed_now(&nodes, &self.graph.outputs);
        for (&id, &tensor) in &self.graph.constants {
            let stored = self.weights.model.tensor(tensor);
            let fact = if self.held.contains_key(&tensor) {
                Fact::new(stored.dtype, stored.shape.clone())
            } else if needed_now.contains(&id) || stored.len() < FOLD_LIMIT {
                self.weights.load(tensor)?.into()
            } else {
                Fact::stored(tensor, stored)
            };
            self.facts[id.index()] = Some(fact);
        }
        let given = self.inputs.iter().chain(self.graph.constants.keys()).copied();
        let mut items = hand_out(observed, given);
        for node in nodes {
            let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
            let operands = operands(&node, &self.facts);
            if let (Some(fact), &[Some(output)]) = (transposed_weight(&node, &operands)?, &node.outputs[..])
                && !needed_now.contains(&output)
            {
                self.facts[output.index()] = Some(fact);
            } else if !self.infer(&node, operands)? {
                self.check_outputs(&node)?;
                items.push(Item { node, ..Item::default() });
            }
            items.extend(hand_out(observed, outputs.into_iter()));
        }
        Ok(items)
    }

    /// Finds out what is known of a node's outputs; whether their elements are.
    fn infer(&mut self, node: &Node, mut operands: Vec<Option<Fact>>) -> Result<bool> {
        let constant = operands.iter().flatten().all(Fact::is_constant) && !operands.is_empty();
        if constant {
            for fact in operands.iter_mut().flatten() {
                *fact = self.weights.elements(fact)?.into();
            }
        }
        let mut found = ops::infer(node, Facts(&operands))?;
        if constant && found.iter().any(|f| f.value.is_none()) {
            found = self.evaluate(node, &operands, &found)?;
        }
        let known = node.outputs.iter().zip(&found).all(|(o, f)| o.is_none() || f.value.is_some())
            && found.len() >= node.outputs.len();
        for (output, fact) in node.outputs.iter().zip(found) {
            if let Some(output) = output {
                self.facts[output.index()] = Some(fact);
            }
        }
        Ok(known)
    }

    /// Runs a node of constants.
    fn evaluate(&mut self, node: &Node, operands: &[Option<Fact>], found: &[Fact]) -> Result<Vec<Fact>> {
        let item = Item { node: node.clone(), ..Item::default() };
        let mut tensors: Vec<_> = operands.iter().map(|f| f.as_ref().and_then(|f| f.value.clone())).collect();
        let (dtypes, shapes) = found.iter().map(|f| (f.dtype, f.shape.clone())).unzip();
        let kernel = build(&item, operands, found, self.weights, None)?;
        let step = Step::folded(item, kernel, shapes, dtypes);
        let results = step.evaluate(&mut tensors, &mut self.pool)?;
        self.pool.end_step();
        results.iter().for_each(|tensor| self.pool.hold(tensor));
        Ok(results.into_iter().map(Fact::from).collect())
    }

    /// Makes sure that a node's outputs are within the bound on memory, before kernels are made for it: their tables
    /// grow with the output.
    fn check_outputs(&mut self, node: &Node) -> Result<()> {
        if VIEWS.contains(&node.op_type.as_str()) {
            return Ok(());
        }
        let facts = node.outputs.iter().flatten().filter_map(|o| self.facts[o.index()].as_ref());
        for fact in facts {
            if let Some(shape) = fact.shape() {
                check_output(shape, fact.dtype, &mut self.pool).at_node(node)?;
            }
        }
        Ok(())
    }

    /// Puts nodes together that are one computation, and drops those whose results nobody uses.
    fn fuse(&mut self, items: Vec<Item>) -> Vec<Item> {
        let fused = if self.weights.fuse {
            fuse::fuse(items, &mut self.facts, &self.graph.outputs, self.weights)
        } else {
            items
        };
        needed(fused, &self.graph.outputs)
    }

    /// Chooses which items run on tiles.
    fn lay_out(&mut self, items: Vec<Item>) -> Result<Vec<Item>> {
        if !self.weights.fuse {
            return Ok(items);
        }
        let layers = tile::Layers { outputs: &self.graph.outputs, weights: self.weights, kept: self.kept };
        tile::lay_out(items, &mut self.facts, layers, &mut self.choices)
    }

    fn lifetimes(&self, items: &[Item]) -> Lifetimes {
        let mut last_use = vec![usize::MAX; self.facts.len()];
        for (i, item) in items.iter().enumerate() {
            for input in item.node.inputs.iter().flatten() {
                last_use[input.index()] = i;
            }
        }
        Lifetimes(last_use)
    }

    /// Builds the kernels, with constants packed.
    fn lower(&mut self, items: Vec<Item>, lifetimes: &Lifetimes) -> Result<(Vec<Step>, Vec<Segment>)> {
        let mut steps = Vec::with_capacity(items.len());
        let mut segments: Vec<Segment> = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            match segments.last_mut() {
                Some(segment) if segment.samples == item.samples.max(1) => segment.steps.end = i + 1,
                _ => segments.push(Segment::new(i, item.samples)),
            }
            steps.push(self.step(i, item, lifetimes)?);
        }
        for segment in segments.iter_mut().filter(|segment| segment.samples > 1) {
            segment.find_values(&steps, &self.graph.outputs);
        }
        Ok((steps, segments))
    }

    /// The item at `index` as a step.
    fn step(&mut self, index: usize, item: Item, lifetimes: &Lifetimes) -> Result<Step> {
        let outputs = &self.graph.outputs;
        let operands = operands(&item.node, &self.facts);
        let found: Vec<Fact> = item
            .node
            .outputs
            .iter()
            .map(|o| o.and_then(|o| self.facts[o.index()].clone()).unwrap_or_default())
            .collect();
        let kernel = match item.kernel.clone() {
            Some(kernel) => kernel,
            None => {
                let output = item.node.outputs.first().copied().flatten();
                let kept = output.and_then(|id| Some(self.kept?.get(&id)?.0));
                let kernel = build(&item, &operands, &found, self.weights, kept)?;
                let choice = kernel.layout().map_or(Choice::Tensors, Choice::FewRows);
                self.choices.extend(output.map(|id| (id, (choice, item.estimate))));
                kernel
            }
        };
        let prepacked = kernel.prepacked_inputs();
        let inputs = item.node.inputs.iter().enumerate().map(|(k, input)| {
            let id = input.filter(|_| !prepacked.contains(&k))?;
            let dies = lifetimes.0[id.index()] == index
                && !outputs.contains(&id)
                && !self.is_constant(id)
                // A value used twice by one node is handed over at its last place.
                && !item.node.inputs[k + 1..].contains(input);
            Some((id, dies))
        });
        let inputs = inputs.collect();
        let written = item.node.outputs.iter().flatten().copied();
        let unused =
            written.filter(|o| lifetimes.0[o.index()] == usize::MAX && !outputs.contains(o)).collect();
        let name = kernel.name().map(|name| format!(" ({name})")).unwrap_or_default();
        let kind = format!("{}{}{name}", item.node.op_type, item.epilogue);
        let dtypes = found.iter().map(|f| f.dtype).collect();
        let mut shapes: Vec<Option<Vec<usize>>> = found.into_iter().map(|f| f.shape).collect();
        if item.samples > 1 {
            // Tiles are of a sample already.
            shapes.iter_mut().flatten().filter(|s| s.len() > 1).for_each(|s| s[0] /= item.samples);
        }
        let estimate = item.estimate.or_else(|| kernel.estimate(&self.weights.costs));
        let seconds = |nanoseconds: f64| Duration::try_from_secs_f64(nanoseconds / 1e9);
        let estimate = estimate.map(|nanoseconds| seconds(nanoseconds).unwrap_or(Duration::MAX));
        let outputs = item.node.outputs.clone();
        let (node, observes) = (item.node, item.observes);
        Ok(Step { node, kind, kernel, inputs, outputs, shapes, dtypes, unused, estimate, observes })
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.facts[value.index()].as_ref().is_some_and(Fact::is_constant)
    }

    /// The plan, with the constants that its steps read.
    fn finish(self, steps: Vec<Step>, segments: Vec<Segment>) -> Result<Plan> {
        let outputs = self.graph.outputs.clone();
        let read = steps.iter().flat_map(|step| step.inputs.iter().flatten()).map(|(id, _)| *id);
        let mut read: Vec<ValueId> = outputs.iter().copied().chain(read).collect();
        read.sort_unstable();
        read.dedup();
        let constants = read
            .into_iter()
            .filter_map(|id| Some((id, self.facts[id.index()].as_ref().filter(|fact| fact.is_constant())?)))
            .map(|(id, fact)| Ok((id, self.weights.elements(fact)?)))
            .collect::<Result<_>>()?;
        let (folded, values) = (self.pool.live(), self.facts.len());
        let Compiler { inputs, choices, .. } = self;
        Ok(Plan { steps, segments, inputs, outputs, constants, folded, values, choices })
    }
}

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

/// Items that hand out those of the values that are asked for.
fn hand_out(observed: &[ValueId], values: impl Iterator<Item = ValueId>) -> Vec<Item> {
    let place = |value: ValueId| observed.iter().position(|id| *id == value);
    let item = |(value, at)| Item {
        node: Node { op_type: "Observe".into(), inputs: vec![Some(value)], ..Node::default() },
        kernel: Some(Arc::new(kernels::Nothing)),
        observes: Some(at),
        ..Item::default()
    };
    values.filter_map(|value| Some((value, place(value)?))).map(item).collect()
}

/// The node with the values that its nested graphs capture as further inputs.
fn with_captures(node: &Node, graph: &Graph) -> Result<Node> {
    let mut node = node.clone();
    node.inputs.extend(captured(&node, graph)?.into_iter().map(Some));
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
    kept: Option<Choice>,
) -> Result<Arc<dyn Kernel>> {
    if is_control(&item.node) {
        return control::build(&item.node, weights).at_node(&item.node).map(Arc::from);
    }
    let build = Build {
        node: &item.node,
        inputs: Facts(operands),
        outputs: found,
        epilogue: &item.epilogue,
        views: &item.views,
        weights,
        kept,
    };
    kernels::build(&build).at_node(&item.node).map(Arc::from)
}

/// Drops nodes whose results nobody uses.
fn needed(items: Vec<Item>, outputs: &[ValueId]) -> Vec<Item> {
    let mut used: HashSet<ValueId> = outputs.iter().copied().collect();
    let mut kept: Vec<Item> = Vec::with_capacity(items.len());
    for item in items.into_iter().rev() {
        if item.observes.is_some() || item.node.outputs.iter().flatten().any(|o| used.contains(o)) {
            used.extend(item.node.inputs.iter().flatten());
            kept.push(item);
        }
    }
    kept.reverse();
    kept
}
