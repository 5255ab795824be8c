//! One kernel call of a plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use secateur_model::ops;
use secateur_model::tensor::checked_len;
use secateur_model::{DType, Error, Node, Result, ResultExt, Tensor, ValueId};

use super::NodeTime;
use crate::buffers::{Pool, tensor_bytes as bytes};
use crate::item::Item;
use crate::kernels::Kernel;
use crate::kernels::VIEWS;

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

/// A node with its kernel, and what becomes of the values that it reads and writes.
pub(crate) struct Step {
    pub(super) node: Node,
    /// The operator with what is fused into it.
    pub(super) kind: String,
    pub(super) kernel: Arc<dyn Kernel>,
    /// Inputs, each with whether its life ends here.
    pub(crate) inputs: Vec<Option<(ValueId, bool)>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    /// The outputs' shapes where inferred; kernels rely on those of their operands.
    pub(crate) shapes: Vec<Option<Vec<usize>>>,
    /// The outputs' element types where inferred.
    pub(super) dtypes: Vec<Option<DType>>,
    /// Outputs that nobody uses.
    pub(super) unused: Vec<ValueId>,
    pub(super) estimate: Option<Duration>,
    /// Where it only hands out its input: the place of that among the values that are asked for.
    pub(super) observes: Option<usize>,
}

impl Step {
    /// A node of constants, on its way to be folded.
    pub(super) fn folded(
        item: Item,
        kernel: Arc<dyn Kernel>,
        shapes: Vec<Option<Vec<usize>>>,
        dtypes: Vec<Option<DType>>,
    ) -> Self {
        let (inputs, outputs, kind, unused) = (Vec::new(), Vec::new(), String::new(), Vec::new());
        let (node, estimate, observes) = (item.node, None, None);
        Step { node, kind, kernel, inputs, outputs, shapes, dtypes, unused, estimate, observes }
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

    /// Runs a node of constants.
    pub(super) fn evaluate(&self, operands: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        self.check_memory(operands, pool).at_node(&self.node)?;
        self.kernel.run(operands, pool).at_node(&self.node)
    }

    /// Makes sure that the outputs are within the bound on memory, before a kernel or an evaluation makes them.
    fn check_memory(&self, operands: &[Option<Tensor>], pool: &mut Pool) -> Result<()> {
        if VIEWS.contains(&self.node.op_type.as_str()) {
            return Ok(());
        }
        // Shapes that were open are known from the operands: all of them are handed over then.
        let found = if self.shapes.iter().all(Option::is_some) {
            Vec::new()
        } else {
            ops::infer_only(&self.node, operands)
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

    pub(super) fn planned(&self) -> PlannedNode {
        PlannedNode {
            name: self.node.label().to_string(),
            kind: self.kind.clone(),
            kernel: self.kernel.name(),
            shape: self.shapes.first().cloned().flatten().unwrap_or_default(),
            estimate: self.estimate,
        }
    }
}

/// Makes sure that an output of a shape is within the bound on memory.
pub(super) fn check_output(shape: &[usize], dtype: Option<DType>, pool: &mut Pool) -> Result<()> {
    let len = checked_len(shape).and_then(|len| dtype.unwrap_or(DType::F32).bytes_for(len));
    match len.map_or(u64::MAX, |len| len as u64) {
        0 => Ok(()),
        bytes => pool.check(bytes, || format!("the output of shape {shape:?} takes")),
    }
}
