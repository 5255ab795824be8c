//! How a graph becomes a forward and a backward pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use secateur_model::ops::{Fact, Facts};
use secateur_model::text::listed;
use secateur_model::{DType, Error, Graph, Result, ResultExt, TensorId, ValueId};

use super::placed::{self, Move, Moved, Place};
use super::plan::{BackwardStep, TapePlan, TapeStep};
use crate::item::Item;
use crate::kernels::{self, Build, Differentiated, Kernel, Layouts, Random, Training};
use crate::plan::compile_for_training;
use crate::weights::Weights;

/// The tensors that hold running statistics of a graph's batch-norms: means and variances.
pub fn running_statistics(graph: &Graph) -> BTreeSet<TensorId> {
    let norms =
        graph.nodes.iter().filter(|node| node.domain.is_empty() && node.op_type == "BatchNormalization");
    let inputs = norms.flat_map(|node| node.inputs.iter().skip(3).take(2).flatten());
    inputs.filter_map(|id| graph.constants.get(id).copied()).collect()
}

/// What a plan is made of.
pub(super) struct Compile<'a> {
    pub(super) graph: &'a Graph,
    pub(super) weights: &'a Arc<Weights>,
    /// The tensors that change, with their places: first those that are trained.
    pub(super) held: &'a BTreeMap<TensorId, usize>,
    pub(super) trained: usize,
    /// The masks on those that are trained.
    pub(super) masks: &'a [Option<Arc<[f32]>>],
    pub(super) output: ValueId,
    pub(super) batch_statistics: bool,
    pub(super) random: &'a Random,
}

/// A node with its passes, before the lives of values are known.
struct Draft {
    item: Item,
    kernel: Arc<dyn Kernel>,
    outputs: Vec<Option<ValueId>>,
    updates: Vec<(ValueId, usize)>,
    backward: Option<(Differentiated, Vec<bool>)>,
}

impl Compile<'_> {
    /// The passes for inputs of the given types and shapes.
    ///
    /// # Errors
    /// As [`super::Tape::forward`].
    pub(super) fn plan(&self, given: &[Fact]) -> Result<TapePlan> {
        let (items, mut facts) =
            compile_for_training(self.graph, self.weights, given, self.held, self.output)?;
        let place: HashMap<ValueId, usize> =
            self.graph.constants.iter().filter_map(|(&v, t)| Some((v, *self.held.get(t)?))).collect();
        let wanted = self.on_path(&items, &facts, &place);
        let layouts = Layouts::new(&items, &facts, &wanted)?;
        let drafts = self.draft(items, &wanted, &place, &layouts, &mut facts)?;
        let lives = Lives::new(&drafts, self.output, facts.len());
        let steps: Vec<TapeStep> =
            drafts.into_iter().enumerate().map(|(at, draft)| lives.step(at, draft, &facts, &place)).collect();
        let constants = constants(&steps, self.output, &facts, self.weights)?;
        let mut variables = vec![None; facts.len()];
        for (value, &place) in place.iter().filter(|(_, place)| **place < self.trained) {
            variables[value.index()] = Some(place);
        }
        let mut held: Vec<(ValueId, usize)> = place.into_iter().collect();
        held.sort_unstable();
        Ok(TapePlan {
            steps,
            inputs: self.graph.inputs.clone(),
            output: self.output,
            constants,
            held,
            variables,
            values: vec![None; facts.len()],
            gradients: vec![None; facts.len()],
        })
    }

    /// By value: whether its gradient is needed, since it depends on a variable and the output depends on it.
    fn on_path(&self, items: &[Item], facts: &[Option<Fact>], place: &HashMap<ValueId, usize>) -> Vec<bool> {
        let is_float = |id: ValueId| {
            let dtype = facts[id.index()].as_ref().and_then(|fact| fact.dtype);
            dtype.is_none_or(|dtype| matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16))
        };
        let mut depends = vec![false; facts.len()];
        for (value, _) in place.iter().filter(|(_, place)| **place < self.trained) {
            depends[value.index()] = true;
        }
        for item in items {
            if item.node.inputs.iter().flatten().any(|id| depends[id.index()]) {
                let outputs = item.node.outputs.iter().flatten().filter(|id| is_float(**id));
                outputs.for_each(|id| depends[id.index()] = true);
            }
        }
        let mut reaches = vec![false; facts.len()];
        reaches[self.output.index()] = true;
        for item in items.iter().rev() {
            if item.node.outputs.iter().flatten().any(|id| reaches[id.index()] && depends[id.index()]) {
                item.node.inputs.iter().flatten().for_each(|id| reaches[id.index()] = true);
            }
        }
        depends.iter().zip(&reaches).map(|(depends, reaches)| *depends && *reaches).collect()
    }

    fn draft(
        &self,
        items: Vec<Item>,
        needed: &[bool],
        place: &HashMap<ValueId, usize>,
        layouts: &Layouts,
        facts: &mut Vec<Option<Fact>>,
    ) -> Result<Vec<Draft>> {
        let mut drafts = Vec::with_capacity(items.len());
        let mut places: HashMap<ValueId, Place> = HashMap::new();
        let mut missing: Vec<String> = Vec::new();
        for (number, item) in (0..).zip(items) {
            let wanted: Vec<bool> =
                item.node.inputs.iter().map(|id| id.is_some_and(|id| needed[id.index()])).collect();
            let needed: Vec<bool> =
                item.node.outputs.iter().map(|id| id.is_some_and(|id| needed[id.index()])).collect();
            let own: Vec<Place> = item
                .node
                .inputs
                .iter()
                .map(|id| id.and_then(|id| places.get(&id).cloned().flatten()))
                .collect();
            let passes = self.passes(&item, number, [&wanted, &needed], place, (&own, layouts), facts);
            match passes.at_node(&item.node)? {
                Some((kernel, found, lies)) => {
                    if let (Some(id), Some(_)) = (item.node.outputs.first().copied().flatten(), &lies) {
                        places.insert(id, lies);
                    }
                    let mut outputs = item.node.outputs.clone();
                    let saved = found.as_ref().map_or(0, |found| found.saved);
                    for _ in 0..saved {
                        facts.push(None);
                        outputs.push(Some(ValueId(facts.len() as u32 - 1)));
                    }
                    let mut updates = Vec::new();
                    for &(output, input) in found.iter().flat_map(|found| &found.updates) {
                        let held = item.node.inputs.get(input).copied().flatten();
                        let held = held.and_then(|id| place.get(&id)).copied();
                        updates.extend(outputs[output].zip(held));
                    }
                    let backward = found.map(|found| (found, wanted));
                    drafts.push(Draft { item, kernel, outputs, updates, backward });
                }
                None => missing.push(format!("node `{}` ({})", item.node.label(), item.node.op_type)),
            }
        }
        if missing.is_empty() {
            return Ok(drafts);
        }
        Err(Error::unsupported(format!(
            "training does not go through {}: freeze the layers in front of {}, or train the layers behind",
            listed(&missing),
            if missing.len() == 1 { "it" } else { "them" }
        )))
    }

    /// A node's kernel and, where it trains, its backward pass; `None` where it has none.
    #[allow(clippy::type_complexity)]
    fn passes(
        &self,
        item: &Item,
        number: u64,
        [wanted, needed]: [&[bool]; 2],
        place: &HashMap<ValueId, usize>,
        (places, layouts): (&[Place], &Layouts),
        facts: &[Option<Fact>],
    ) -> Result<Option<(Arc<dyn Kernel>, Option<Differentiated>, Place)>> {
        let of = |ids: &[Option<ValueId>]| -> Vec<Option<Fact>> {
            ids.iter().map(|id| id.map(|id| facts[id.index()].clone().unwrap_or_default())).collect()
        };
        let mut operands = of(&item.node.inputs);
        let mut outputs: Vec<Fact> =
            of(&item.node.outputs).into_iter().map(Option::unwrap_or_default).collect();
        let layouts = (!item.node.outputs.contains(&Some(self.output))).then_some(layouts);
        let trains = needed.contains(&true) && wanted.contains(&true);
        // In planes, what is computed element by element is computed on these as they are.
        let elementwise = layouts.and_then(|_| placed::elementwise(item, places, facts)).filter(|_| trains);
        if let Some(planes) = &elementwise {
            for (fact, _) in operands.iter_mut().flatten().zip(places).filter(|(_, place)| place.is_some()) {
                let channels = fact.shape().map_or(0, |shape| shape[1]);
                *fact = Fact::new(DType::F32, [planes.len(channels)]);
                outputs[0] = fact.clone();
            }
        }
        let build = Build {
            node: &item.node,
            inputs: Facts(&operands),
            outputs: &outputs,
            epilogue: &item.epilogue,
            views: &item.views,
            weights: self.weights,
            kept: None,
        };
        let random = Random { node: number, ..self.random.clone() };
        let mask = |id: &Option<ValueId>| self.masks.get(*place.get(id.as_ref()?)?)?.clone();
        let masks: Vec<_> = item.node.inputs.iter().map(mask).collect();
        let batch_statistics = self.batch_statistics;
        let training = Training { wanted, needed, masks: &masks, batch_statistics, random, places, layouts };
        // What is behind no variable runs in training mode all the same, such as dropout.
        let differentiate = kernels::gradient(&item.node);
        let mut found = match differentiate {
            Some(gradient) => gradient(&build, &training)?,
            None => None,
        };
        if trains && found.is_none() {
            return Ok(None);
        }
        let kernel: Arc<dyn Kernel> = match found.as_mut().and_then(|found| found.forward.take()) {
            Some(kernel) => Arc::from(kernel),
            None => Arc::from(kernels::build(&build)?),
        };
        if let (Some(found), Some(_)) = (&mut found, &elementwise) {
            (found.takes, found.place) = (places.to_vec(), elementwise);
        }
        let lies = found.as_ref().and_then(|found| found.place.clone());
        let takes = |k: usize| found.as_ref().and_then(|found| found.takes.get(k).cloned().flatten());
        let moves = (0..places.len()).filter(|&k| places[k] != takes(k));
        let moves = moves.map(|index| {
            let shape = item.node.inputs[index].and_then(|id| facts[id.index()].as_ref()?.shape());
            let shape =
                shape.ok_or_else(|| Error::internal("the shape of a value in planes is open"))?.to_vec();
            Ok(Move { index, from: places[index].clone(), to: takes(index), shape })
        });
        let moves = moves.collect::<Result<Vec<_>>>()?;
        let found = found.filter(|_| trains);
        if moves.is_empty() {
            return Ok(Some((kernel, found, lies)));
        }
        let found = found.map(|found| placed::move_operands(found, moves.clone()));
        Ok(Some((Arc::new(Moved { kernel, moves }), found, lies)))
    }
}

/// Where the lives of values end: at a position among all forward steps, then all backward steps.
struct Lives {
    last: Vec<usize>,
    steps: usize,
    output: ValueId,
}

impl Lives {
    fn new(drafts: &[Draft], output: ValueId, values: usize) -> Self {
        let steps = drafts.len();
        let mut last = vec![usize::MAX; values];
        for (at, draft) in drafts.iter().enumerate() {
            draft.item.node.inputs.iter().flatten().for_each(|id| last[id.index()] = at);
        }
        // The last backward step is that of the first node.
        for (at, draft) in drafts.iter().enumerate().rev() {
            for id in reads(draft).into_iter().flatten().flatten() {
                last[id.index()] = 2 * steps - at;
            }
        }
        Lives { last, steps, output }
    }

    /// A step with the lives that end in it.
    fn step(
        &self,
        at: usize,
        draft: Draft,
        facts: &[Option<Fact>],
        place: &HashMap<ValueId, usize>,
    ) -> TapeStep {
        let lasts = |id: ValueId| {
            place.contains_key(&id) || facts[id.index()].as_ref().is_some_and(Fact::is_constant)
        };
        let [read_inputs, read_outputs] = reads(&draft);
        let Draft { item, kernel, outputs, updates, backward } = draft;
        let node = item.node;
        let prepacked = kernel.prepacked_inputs();
        let inputs = node.inputs.iter().enumerate().map(|(k, input)| {
            let id = input.filter(|_| !prepacked.contains(&k))?;
            let dies = self.last[id.index()] == at
                && id != self.output
                && !lasts(id)
                // A value used twice by one node is handed over at its last place.
                && !node.inputs[k + 1..].contains(input);
            Some((id, dies))
        });
        let inputs = inputs.collect();
        let kept = |id: &ValueId| *id != self.output && !updates.iter().any(|(update, _)| update == id);
        let unused = outputs.iter().flatten().copied();
        let unused = unused.filter(|id| self.last[id.index()] == usize::MAX && kept(id)).collect();
        let backward = backward.map(|(found, wanted)| {
            let mut last: Vec<ValueId> = read_inputs.iter().chain(&read_outputs).flatten().copied().collect();
            last.retain(|id| self.last[id.index()] == 2 * self.steps - at && !lasts(*id));
            last.sort_unstable();
            last.dedup();
            BackwardStep {
                gradient: found.backward,
                wanted,
                inputs: node.inputs.clone(),
                read_inputs,
                read_outputs,
                outputs: node.outputs.len(),
                last,
            }
        });
        TapeStep { node, kernel, inputs, outputs, unused, updates, backward }
    }
}

/// The inputs and the outputs that a backward pass reads, at their places.
fn reads(draft: &Draft) -> [Vec<Option<ValueId>>; 2] {
    let Some((found, _)) = &draft.backward else { return [Vec::new(), Vec::new()] };
    let of = |ids: &[Option<ValueId>], read: &[usize]| {
        ids.iter().enumerate().map(|(at, id)| id.filter(|_| read.contains(&at))).collect()
    };
    [of(&draft.item.node.inputs, &found.reads.inputs), of(&draft.outputs, &found.reads.outputs)]
}

/// The constants that the passes read.
fn constants(
    steps: &[TapeStep],
    output: ValueId,
    facts: &[Option<Fact>],
    weights: &Weights,
) -> Result<Vec<(ValueId, secateur_model::Tensor)>> {
    let forward = steps.iter().flat_map(|step| step.inputs.iter().flatten().map(|(id, _)| *id));
    let backward = steps.iter().filter_map(|step| step.backward.as_ref());
    let backward = backward.flat_map(|step| step.read_inputs.iter().flatten().copied());
    let read: BTreeSet<ValueId> = forward.chain(backward).chain([output]).collect();
    let constant = |id: ValueId| Some((id, facts[id.index()].as_ref().filter(|fact| fact.is_constant())?));
    read.into_iter().filter_map(constant).map(|(id, fact)| Ok((id, weights.elements(fact)?))).collect()
}
