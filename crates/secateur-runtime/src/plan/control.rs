//! Control flow: `If`, `Loop` and `Scan` run nested graphs.

use std::sync::Arc;

use secateur_model::ops::axis_index;
use secateur_model::{Error, Graph, Node, Result, Tensor};

use super::{Program, Watch};
use crate::buffers::Pool;
use crate::kernels::Kernel;
use crate::nested::captures;
use crate::weights::Weights;

/// Builds the kernel of a control-flow node.
pub(crate) fn build(node: &Node, weights: &Arc<Weights>) -> Result<Box<dyn Kernel>> {
    let body = |name: &str| -> Result<Body> {
        let graph = node.graph(name)?;
        // Where this graph's captures stand among those of all nested graphs.
        let first = node.graphs().take_while(|(n, _)| *n != name).map(|(_, g)| g.captures.len()).sum();
        Ok(Body { captures: first..first + graph.captures.len(), program: program(graph, weights) })
    };
    let own_inputs = node.inputs.len() - captures(node).len();
    Ok(match node.op_type.as_str() {
        "If" => Box::new(If { own_inputs, then: body("then_branch")?, otherwise: body("else_branch")? }),
        "Loop" => Box::new(Loop { own_inputs, body: body("body")? }),
        _ => Box::new(Scan::new(node, own_inputs, body("body")?)?),
    })
}

fn program(graph: &Graph, weights: &Arc<Weights>) -> Program {
    Program::new(Arc::new(graph.clone()), weights.clone())
}

struct Body {
    program: Program,
    captures: std::ops::Range<usize>,
}

impl Body {
    fn run(&self, mut own: Vec<Tensor>, captured: &[Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        for tensor in &captured[self.captures.clone()] {
            own.push(tensor.clone().ok_or_else(|| Error::internal("a captured value is missing"))?);
        }
        pool.nested(|pool| {
            pool.count(1, 0)?;
            self.program.run(own, &[], pool, &mut Watch::default())
        })
    }
}

fn truth(tensor: &Tensor) -> Result<bool> {
    tensor.values::<bool>()?.first().copied().ok_or_else(|| Error::input("the condition is an empty tensor"))
}

struct If {
    own_inputs: usize,
    then: Body,
    otherwise: Body,
}

impl Kernel for If {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let (own, captured) = inputs.split_at(self.own_inputs);
        let condition =
            own.first().and_then(Option::as_ref).ok_or_else(|| Error::input("no condition is given"))?;
        let body = if truth(condition)? { &self.then } else { &self.otherwise };
        body.run(Vec::new(), captured, pool)
    }
}

struct Loop {
    own_inputs: usize,
    body: Body,
}

impl Kernel for Loop {
    /// Inputs: trip count, condition, carried values. Outputs: carried values, then what each
    /// iteration yields, stacked.
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let (own, captured) = inputs.split_at(self.own_inputs);
        let trips = match own.first().and_then(Option::as_ref) {
            Some(t) => t.to_i64s()?.first().copied(),
            None => None,
        };
        let condition = own.get(1).and_then(Option::as_ref);
        let mut go_on = condition.map_or(Ok(true), truth)?;
        let mut carried: Vec<Tensor> = own
            .iter()
            .skip(2)
            .map(|t| t.clone().ok_or_else(|| Error::unsupported("a carried value is left out")))
            .collect::<Result<_>>()?;
        let states = carried.len();
        let scans = self.body.program.graph.outputs.len().saturating_sub(1 + states);
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); scans];
        let mut trip = 0i64;
        while go_on && trips.is_none_or(|n| trip < n) {
            let mut given = vec![Tensor::scalar(trip), Tensor::scalar(true)];
            given.append(&mut carried);
            let mut results = self.body.run(given, captured, pool)?;
            go_on = truth(results.first().ok_or_else(|| Error::input("the body yields no condition"))?)?;
            for (stack, t) in stacks.iter_mut().zip(results.split_off((1 + states).min(results.len()))) {
                pool.hold(&t);
                stack.push(t);
            }
            carried = results.split_off(1);
            trip += 1;
        }
        for stack in stacks {
            carried.push(pile(&stack, 0)?);
        }
        Ok(carried)
    }
}

struct Scan {
    own_inputs: usize,
    body: Body,
    scan_inputs: usize,
    input_axes: Vec<i64>,
    input_reversed: Vec<bool>,
    output_axes: Vec<i64>,
    output_reversed: Vec<bool>,
    /// Opset 8 puts a batch axis first and takes optional sequence lengths as input 0.
    batched: bool,
}

impl Scan {
    fn new(node: &Node, own_inputs: usize, body: Body) -> Result<Self> {
        let batched = node.opset < 9;
        let states_and_scans = own_inputs - usize::from(batched);
        let scan_inputs = usize::try_from(node.int_or("num_scan_inputs", 0)?)
            .ok()
            .filter(|&n| n >= 1 && n <= states_and_scans)
            .ok_or_else(|| Error::input("attribute `num_scan_inputs` does not fit the inputs"))?;
        let states = states_and_scans - scan_inputs;
        let scan_outputs = body.program.graph.outputs.len().saturating_sub(states);
        let list = |name: &str, n: usize| -> Result<Vec<i64>> {
            let values = node.ints(name)?.map_or_else(|| vec![0; n], <[i64]>::to_vec);
            if values.len() == n {
                Ok(values)
            } else {
                Err(Error::input(format!("attribute `{name}` has {} numbers, expected {n}", values.len())))
            }
        };
        let flags = |name: &str, n: usize| Ok::<_, Error>(list(name, n)?.iter().map(|&v| v != 0).collect());
        Ok(Scan {
            own_inputs,
            scan_inputs,
            input_axes: list("scan_input_axes", scan_inputs)?,
            input_reversed: flags(if batched { "directions" } else { "scan_input_directions" }, scan_inputs)?,
            output_axes: list("scan_output_axes", scan_outputs)?,
            output_reversed: flags("scan_output_directions", scan_outputs)?,
            body,
            batched,
        })
    }

    fn scan(
        &self,
        mut states: Vec<Tensor>,
        scanned: &[Tensor],
        captured: &[Option<Tensor>],
        pool: &mut Pool,
    ) -> Result<Vec<Tensor>> {
        let count = states.len();
        let mut slices = Vec::with_capacity(scanned.len());
        for ((tensor, &axis), &reversed) in scanned.iter().zip(&self.input_axes).zip(&self.input_reversed) {
            let mut parts = unpile(tensor, axis)?;
            if reversed {
                parts.reverse();
            }
            slices.push(parts);
        }
        let steps = slices.first().map_or(0, Vec::len);
        if slices.iter().any(|s| s.len() != steps) {
            return Err(Error::input("the scanned inputs differ in length"));
        }
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); self.output_axes.len()];
        for step in 0..steps {
            let mut given = std::mem::take(&mut states);
            given.extend(slices.iter().map(|s| s[step].clone()));
            let mut results = self.body.run(given, captured, pool)?;
            for (stack, t) in stacks.iter_mut().zip(results.split_off(count.min(results.len()))) {
                pool.hold(&t);
                stack.push(t);
            }
            states = results;
        }
        for ((stack, &axis), &reversed) in stacks.iter_mut().zip(&self.output_axes).zip(&self.output_reversed)
        {
            if reversed {
                stack.reverse();
            }
            states.push(pile(stack, axis)?);
        }
        Ok(states)
    }
}

impl Kernel for Scan {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let (own, captured) = inputs.split_at(self.own_inputs);
        let skip = usize::from(self.batched);
        if self.batched && own.first().is_some_and(Option::is_some) {
            return Err(Error::unsupported("sequence lengths (input 0 of opset 8) are not supported"));
        }
        let mut all: Vec<Tensor> = own[skip..]
            .iter()
            .map(|t| t.clone().ok_or_else(|| Error::input("an input is left out")))
            .collect::<Result<_>>()?;
        let scanned = all.split_off(all.len() - self.scan_inputs);
        if !self.batched {
            return self.scan(all, &scanned, captured, pool);
        }
        // Each sample of the batch on its own.
        let samples = |t: &Tensor| unpile(t, 0);
        let states: Vec<Vec<Tensor>> = all.iter().map(samples).collect::<Result<_>>()?;
        let scans: Vec<Vec<Tensor>> = scanned.iter().map(samples).collect::<Result<_>>()?;
        let mut outputs: Vec<Vec<Tensor>> = Vec::new();
        for sample in 0..scans.first().map_or(0, Vec::len) {
            let pick = |list: &[Vec<Tensor>]| -> Result<Vec<Tensor>> {
                list.iter()
                    .map(|t| t.get(sample).cloned().ok_or_else(|| Error::input("batch extents differ")))
                    .collect()
            };
            let results = self.scan(pick(&states)?, &pick(&scans)?, captured, pool)?;
            outputs.resize(results.len(), Vec::new());
            for (list, result) in outputs.iter_mut().zip(results) {
                list.push(result);
            }
        }
        outputs.iter().map(|list| pile(list, 0)).collect()
    }
}

/// Runs an operator of the table on tensors, for pieces of control flow that are operators themselves.
fn evaluate(op_type: &str, attrs: &[(&str, i64)], inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    use secateur_model::{Attr, ops};
    let node = Node {
        op_type: op_type.to_string(),
        opset: ops::NEWEST_OPSET,
        inputs: vec![None; inputs.len()],
        outputs: vec![None],
        attrs: attrs.iter().map(|(name, value)| ((*name).to_string(), Attr::Int(*value))).collect(),
        ..Node::default()
    };
    let eval = ops::find(&node)
        .and_then(|op| op.eval)
        .ok_or_else(|| Error::internal(format!("no evaluation of {op_type}")))?;
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
    eval(&node, ops::Inputs(&inputs))
}

/// Stacks tensors of equal shape along a new axis.
fn pile(parts: &[Tensor], axis: i64) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Tensor::new([0], Vec::<f32>::new());
    };
    let axis = axis_index(axis, first.rank() + 1)?;
    let mut shape = first.shape().to_vec();
    shape.insert(axis, 1);
    let expanded = parts.iter().map(|p| p.reshaped(shape.clone())).collect::<Result<Vec<_>>>()?;
    evaluate("Concat", &[("axis", axis as i64)], &expanded)?
        .pop()
        .ok_or_else(|| Error::internal("a concatenation without result"))
}

/// The slices of a tensor along an axis, without the axis.
fn unpile(tensor: &Tensor, axis: i64) -> Result<Vec<Tensor>> {
    let axis = axis_index(axis, tensor.rank())?;
    (0..tensor.shape()[axis])
        .map(|i| {
            evaluate("Gather", &[("axis", axis as i64)], &[tensor.clone(), Tensor::scalar(i as i64)])?
                .pop()
                .ok_or_else(|| Error::internal("a slice without result"))
        })
        .collect()
}
