//! The operator table of the runtime: how each operator runs.
//!
//! A kernel is built once for operands of known types and shapes, with constants packed as it likes,
//! and then run many times. A family of operators is a file; its `KERNELS` names the builders.
//! Operators that are not here run by [`secateur_model::ops::Op::eval`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

use half::{bf16, f16};
use secateur_kernels::decode::Layout;
use secateur_kernels::sparse::Form;
use secateur_model::ops::{self, EvalFn, Fact, Facts, Inputs};
use secateur_model::{DType, Error, Graph, Node, Result, Tensor};

use crate::buffers::Pool;
use crate::costs::Costs;
use crate::nested::is_control;
use crate::weights::Weights;

mod attention;
mod binary;
mod constants;
mod conv;
mod deform;
mod einsum;
mod elementwise;
mod fused;
mod gradient;
mod matmul;
mod movement;
mod norm;
mod pooling;
mod quantized;
mod recurrent;
mod reduce;
mod softmax;
mod summed;
mod transpose;

pub(crate) use attention::{EMPTY_ROWS, EmptyRows};
pub(crate) use constants::{Packed, kernel_name};
pub(crate) use conv::{ConvConstants, conv_constants, trained_conv};
pub(crate) use elementwise::{activation, derives_from_output};
pub(crate) use fused::{Epilogue, Lay, Views};
pub(crate) use gradient::{
    Backward, Differentiated, Gradient, GradientFn, Layouts, Random, Reads, SPARSE_CONV, Training,
};
pub(crate) use matmul::{FEW_ROWS, linear_constants};
pub(crate) use norm::is_affine;
pub(crate) use pooling::pooling;
pub(crate) use transpose::permutation;

const FAMILIES: &[&[(&str, BuildFn)]] = &[
    attention::KERNELS,
    binary::KERNELS,
    conv::KERNELS,
    deform::KERNELS,
    einsum::KERNELS,
    elementwise::KERNELS,
    matmul::KERNELS,
    norm::KERNELS,
    pooling::KERNELS,
    quantized::KERNELS,
    recurrent::KERNELS,
    reduce::KERNELS,
    softmax::KERNELS,
    transpose::KERNELS,
];

const GRADIENTS: &[&[(&str, GradientFn)]] = &[
    attention::GRADIENTS,
    binary::GRADIENTS,
    conv::GRADIENTS,
    einsum::GRADIENTS,
    elementwise::GRADIENTS,
    matmul::GRADIENTS,
    movement::GRADIENTS,
    norm::GRADIENTS,
    pooling::GRADIENTS,
    reduce::GRADIENTS,
    softmax::GRADIENTS,
    transpose::GRADIENTS,
];

/// Operators whose output is their first input under another shape: they take no memory.
pub(crate) const VIEWS: &[&str] = &["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Runs one node.
pub(crate) trait Kernel: Send + Sync {
    /// Computes the outputs. Operands whose life ends here are the only owner of their data, so a
    /// kernel may take one and work in place.
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>>;

    /// Constant inputs that the kernel keeps packed; they are not handed over at run time.
    fn prepacked_inputs(&self) -> &[usize] {
        &[]
    }

    /// How its weights lie in memory, where it was chosen for one row or a few.
    fn layout(&self) -> Option<Layout> {
        None
    }

    /// What kind of kernel it is, where there are several for the operator.
    fn name(&self) -> Option<&'static str> {
        None
    }

    /// What it takes on one thread by these costs, in nanoseconds, where they say it and the pass that chose the
    /// kernel does not.
    fn estimate(&self, _costs: &Costs) -> Option<f64> {
        None
    }
}

impl fmt::Debug for dyn Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("kernel"))
    }
}

/// How a layer runs, where that follows from how many of its weights are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// On tensors, by a kernel for dense weights.
    Tensors,
    /// On tiles; where it has weights, these in a form.
    Tiles(Option<Form>),
    /// On one row or a few, its weights in a layout.
    FewRows(Layout),
}

/// What a builder knows of the node: types and shapes of all operands, and which are constants.
pub(crate) struct Build<'a> {
    pub(crate) node: &'a Node,
    pub(crate) inputs: Facts<'a>,
    pub(crate) outputs: &'a [Fact],
    pub(crate) epilogue: &'a Epilogue,
    pub(crate) views: &'a Views,
    pub(crate) weights: &'a Arc<Weights>,
    /// How the layer is to run, where that does not follow from its weights.
    pub(crate) kept: Option<Choice>,
}

impl Build<'_> {
    /// The shape of a required input.
    pub(crate) fn shape(&self, index: usize) -> Result<&[usize]> {
        self.inputs
            .need(index)?
            .shape()
            .ok_or_else(|| Error::internal(format!("shape of input {index} is open")))
    }

    /// The shape of an output.
    pub(crate) fn out_shape(&self, index: usize) -> Result<&[usize]> {
        self.outputs
            .get(index)
            .and_then(Fact::shape)
            .ok_or_else(|| Error::internal(format!("shape of output {index} is open")))
    }
}

/// An operand at run time.
pub(crate) fn operand(inputs: &[Option<Tensor>], index: usize) -> Result<&Tensor> {
    inputs
        .get(index)
        .and_then(Option::as_ref)
        .ok_or_else(|| Error::input(format!("input {index} is missing")))
}

/// The elements of an f32 operand at run time.
pub(crate) fn f32s(inputs: &[Option<Tensor>], index: usize) -> Result<&[f32]> {
    operand(inputs, index)?.values()
}

/// Computes nothing.
pub(crate) struct Nothing;

impl Kernel for Nothing {
    fn run(&self, _: &mut [Option<Tensor>], _: &mut Pool) -> Result<Vec<Tensor>> {
        Ok(Vec::new())
    }
}

struct FromFn<F>(F);

impl<F> Kernel for FromFn<F>
where
    F: Fn(&mut [Option<Tensor>], &mut Pool) -> Result<Vec<Tensor>> + Send + Sync,
{
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        self.0(inputs, pool)
    }
}

/// A kernel that a closure runs, as a builder returns it.
pub(crate) fn from_fn<F>(run: F) -> Result<Option<Box<dyn Kernel>>>
where
    F: Fn(&mut [Option<Tensor>], &mut Pool) -> Result<Vec<Tensor>> + Send + Sync + 'static,
{
    Ok(Some(Box::new(FromFn(run))))
}

/// Builds a kernel; `None` where the family has none for these operands.
pub(crate) type BuildFn = fn(&Build<'_>) -> Result<Option<Box<dyn Kernel>>>;

fn find(node: &Node) -> Option<BuildFn> {
    static TABLE: LazyLock<HashMap<&str, BuildFn>> =
        LazyLock::new(|| FAMILIES.iter().copied().flatten().copied().collect());
    // Contributed operators share the meaning of the name where they are in the model's table.
    ops::find(node)?;
    TABLE.get(node.op_type.as_str()).copied()
}

/// What builds the backward pass of a node; `None` where training does not go through the operator.
pub(crate) fn gradient(node: &Node) -> Option<GradientFn> {
    static TABLE: LazyLock<HashMap<&str, GradientFn>> =
        LazyLock::new(|| GRADIENTS.iter().copied().flatten().copied().collect());
    ops::find(node)?;
    TABLE.get(node.op_type.as_str()).copied()
}

/// The operators that training goes through, by name.
pub fn differentiable() -> Vec<&'static str> {
    GRADIENTS.iter().copied().flatten().map(|(name, _)| *name).collect()
}

/// The nodes of a graph, nested ones included, that nothing here can run.
pub(crate) fn missing(graph: &Graph) -> Vec<String> {
    let mut out = Vec::new();
    for node in &graph.nodes {
        let known =
            is_control(node) || find(node).is_some() || ops::find(node).is_some_and(|op| op.eval.is_some());
        if !known {
            let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
            out.push(format!("node `{}` ({} of {domain} {})", node.label(), node.op_type, node.opset));
        }
        out.extend(node.graphs().flat_map(|(_, g)| missing(g)));
    }
    out
}

/// Builds the kernel of a node: its own, its evaluation, or one that waits for the operands where
/// their types and shapes are open until then.
pub(crate) fn build(build: &Build<'_>) -> Result<Box<dyn Kernel>> {
    let open = |f: &Fact| f.dtype.is_none() || f.shape.is_none();
    let open_inputs = build.inputs.0.iter().flatten().any(open);
    if let Some(make) = find(build.node) {
        if open_inputs || build.outputs.first().is_none_or(|f| f.shape.is_none()) {
            return Ok(Box::new(Deferred {
                node: build.node.clone(),
                constant: build.inputs.0.iter().map(|f| f.as_ref().is_some_and(Fact::is_constant)).collect(),
                epilogue: build.epilogue.clone(),
                views: build.views.clone(),
                weights: build.weights.clone(),
                last: Mutex::default(),
            }));
        }
        if let Some(kernel) = make(build)? {
            return Ok(kernel);
        }
    }
    let op = ops::find(build.node);
    if let Some(eval) = op.and_then(|op| op.eval) {
        return Ok(Box::new(Eval { node: build.node.clone(), eval }));
    }
    if let Some(kernel) = widened(build)? {
        return Ok(kernel);
    }
    let types: Vec<&str> =
        build.inputs.0.iter().map(|f| f.as_ref().and_then(|f| f.dtype).map_or("-", DType::name)).collect();
    Err(Error::unsupported(format!(
        "operator {} of opset {} is not supported for inputs of type {}",
        build.node.op_type,
        build.node.opset,
        types.join(", ")
    )))
}

/// Runs by the operator's evaluation.
struct Eval {
    node: Node,
    eval: EvalFn,
}

impl Kernel for Eval {
    fn run(&self, inputs: &mut [Option<Tensor>], _: &mut Pool) -> Result<Vec<Tensor>> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        (self.eval)(&self.node, Inputs(&inputs))
    }
}

/// Waits for the operands' types and shapes; keeps the kernel for the last ones it met.
struct Deferred {
    node: Node,
    /// By input: whether it is a constant, and so the same in every run.
    constant: Vec<bool>,
    epilogue: Epilogue,
    views: Views,
    weights: Arc<Weights>,
    last: Mutex<Option<(Signature, Arc<dyn Kernel>)>>,
}

type Signature = Vec<Option<(DType, Vec<usize>)>>;

impl Deferred {
    /// The kernel for operands of these types and shapes.
    fn build(&self, inputs: &[Option<Tensor>]) -> Result<Arc<dyn Kernel>> {
        let facts: Vec<Option<Fact>> = inputs
            .iter()
            .zip(&self.constant)
            .map(|(t, constant)| {
                let t = t.as_ref()?;
                Some(if *constant { t.clone().into() } else { Fact::new(t.dtype(), t.shape()) })
            })
            .collect();
        // Values a shape may depend on, such as a reshape's target, are known by now.
        let known: Vec<Option<Fact>> = inputs.iter().map(|t| t.clone().map(Fact::from)).collect();
        let outputs: Vec<Fact> =
            ops::infer(&self.node, Facts(&known))?.into_iter().map(|f| Fact { value: None, ..f }).collect();
        // What is still open now stays so: waiting again would never end.
        if outputs.first().is_none_or(|f| f.shape.is_none()) {
            let Some(eval) = ops::find(&self.node).and_then(|op| op.eval) else {
                return Err(Error::unsupported("the output's shape does not follow from the inputs"));
            };
            return Ok(Arc::new(Eval { node: self.node.clone(), eval }));
        }
        Ok(build(&Build {
            node: &self.node,
            inputs: Facts(&facts),
            outputs: &outputs,
            epilogue: &self.epilogue,
            views: &self.views,
            weights: &self.weights,
            kept: None,
        })?
        .into())
    }
}

impl Kernel for Deferred {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let signature: Signature =
            inputs.iter().map(|t| t.as_ref().map(|t| (t.dtype(), t.shape().to_vec()))).collect();
        // Not locked while a kernel is built: that waits for threads, which may take up another run meanwhile.
        let last = || self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = last().as_ref().filter(|(of, _)| *of == signature).map(|(_, kernel)| kernel.clone());
        let kernel = match known {
            Some(kernel) => kernel,
            None => {
                let built = self.build(inputs)?;
                let former = last().replace((signature, built.clone()));
                drop(former);
                self.weights.packed.drop_unused();
                built
            }
        };
        kernel.run(inputs, pool)
    }
}

/// A kernel for f32 run on other float types: operands are converted, results rounded once.
fn widened(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(dtype) = build.inputs.dtype(0).filter(|d| matches!(d, DType::F16 | DType::BF16 | DType::F64))
    else {
        return Ok(None);
    };
    let convert = |fact: &Fact| -> Result<Fact> {
        if fact.dtype != Some(dtype) {
            return Ok(fact.clone());
        }
        let value = if fact.is_constant() { Some(to_f32(&build.weights.elements(fact)?)?) } else { None };
        Ok(Fact { dtype: Some(DType::F32), shape: fact.shape.clone(), value, ..Fact::default() })
    };
    let inputs =
        build.inputs.0.iter().map(|f| f.as_ref().map(convert).transpose()).collect::<Result<Vec<_>>>()?;
    let outputs = build.outputs.iter().map(convert).collect::<Result<Vec<_>>>()?;
    let Some(make) = find(build.node) else { return Ok(None) };
    let inner = make(&Build {
        node: build.node,
        inputs: Facts(&inputs),
        outputs: &outputs,
        epilogue: build.epilogue,
        views: build.views,
        weights: build.weights,
        kept: build.kept,
    })?;
    Ok(inner.map(|inner| Box::new(Widened { inner, dtype }) as Box<dyn Kernel>))
}

struct Widened {
    inner: Box<dyn Kernel>,
    dtype: DType,
}

impl Kernel for Widened {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        for input in inputs.iter_mut().flatten().filter(|t| t.dtype() == self.dtype) {
            *input = to_f32(input)?;
        }
        let outputs = self.inner.run(inputs, pool)?;
        outputs
            .into_iter()
            .map(|t| {
                let Ok(values) = t.values::<f32>() else { return Ok(t) };
                match self.dtype {
                    DType::F16 => Tensor::new(t.shape(), values.iter().map(|&v| f16::from_f32(v)).collect()),
                    DType::BF16 => {
                        Tensor::new(t.shape(), values.iter().map(|&v| bf16::from_f32(v)).collect())
                    }
                    _ => Tensor::new(t.shape(), values.iter().map(|&v| f64::from(v)).collect()),
                }
            })
            .collect()
    }

    fn layout(&self) -> Option<Layout> {
        self.inner.layout()
    }

    fn prepacked_inputs(&self) -> &[usize] {
        self.inner.prepacked_inputs()
    }
}

fn to_f32(tensor: &Tensor) -> Result<Tensor> {
    Tensor::new(tensor.shape(), tensor.to_f32s()?)
}
