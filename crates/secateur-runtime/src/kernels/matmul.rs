//! Matrix products.

use std::sync::Arc;

use secateur_kernels::decode::{Layout, RowWeights, Zeros};
use secateur_kernels::{
    Activation, Batch, Epilogue as GemmEpilogue, Gemm, MatRef, Operand, PackedMatrix, activate,
};
use secateur_model::ops::{Fact, Facts, broadcast};
use secateur_model::tensor::strides;
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::constants::{LayerWeights, Packed, folded_bias, kernel_name};
use super::{Build, BuildFn, Choice, Epilogue, Kernel, f32s};
use crate::buffers::Pool;
use crate::costs::Costs;
use crate::packed::Bits;

mod gradient;

pub(super) use gradient::GRADIENTS;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("MatMul", matmul), ("Gemm", gemm)];

/// A stack of products: for each of `items` the offsets of A and B; C's follow one another.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    /// Row and column strides of A and B.
    a: [usize; 2],
    b: [usize; 2],
    /// Offsets of each item's A and B, where there are several.
    items: Items,
    packed: Option<Arc<PackedMatrix>>,
    prepacked: Vec<usize>,
    alpha: f32,
    /// Which input is added, how it broadcasts, and its factor.
    addend: Option<(usize, Addend, f32)>,
    /// Added to each column; holds constant biases and folded shifts.
    col_bias: Option<Vec<f32>>,
    act: Activation,
    out_shape: Vec<usize>,
}

enum Items {
    /// Equal steps from item to item.
    Even(Batch),
    /// Broadcast stacks: offsets item by item.
    Uneven(Vec<(usize, usize)>),
}

#[derive(Clone, Copy)]
enum Addend {
    /// A tensor of the output's shape.
    Full,
    /// One element a column.
    Column,
    /// One element a row.
    Row,
    /// One element.
    Scalar,
}

/// Where the matrices of a stack begin that broadcasts to `stack`; `own` and `steps` are the extents
/// and strides of its own stack.
fn starts(own: &[usize], steps: &[usize], stack: &[usize]) -> Vec<usize> {
    let skip = stack.len() - own.len();
    let total: usize = stack.iter().product();
    (0..total)
        .map(|item| {
            let mut rest = item;
            let mut offset = 0;
            for axis in (0..stack.len()).rev() {
                let index = rest % stack[axis];
                rest /= stack[axis];
                if axis >= skip && own[axis - skip] != 1 {
                    offset += index * steps[axis - skip];
                }
            }
            offset
        })
        .collect()
}

/// The offsets of the contiguous matrices of `shape` within the broadcast stack `stack`.
pub(super) fn offsets(shape: &[usize], stack: &[usize]) -> Vec<usize> {
    let own = shape.len() - 2;
    starts(&shape[..own], &strides(shape)[..own], stack)
}

/// Equal steps where there are any, so that the whole stack is one call.
fn even(a: &[usize], b: &[usize], c: usize) -> Option<Batch> {
    let step = |o: &[usize]| {
        let step = o.get(1).copied().unwrap_or(0);
        o.iter().enumerate().all(|(i, &x)| x == i * step).then_some(step)
    };
    Some(Batch { count: a.len(), a: step(a)?, b: step(b)?, c })
}

/// A vector is a matrix of one row (left) or one column (right).
pub(super) fn widened_shape(shape: &[usize], left: bool) -> Vec<usize> {
    match shape {
        &[n] if left => vec![1, n],
        &[n] => vec![n, 1],
        s => s.to_vec(),
    }
}

/// An operand's extents and strides, a transposition read through.
fn operand_layout(build: &Build<'_>, index: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let shape = build.shape(index)?;
    match build.views.input(index) {
        None => {
            let shape = widened_shape(shape, index == 0);
            let steps = strides(&shape);
            Ok((shape, steps))
        }
        Some(lay) => Ok((lay.shape.clone(), lay.strides.clone())),
    }
}

fn matmul(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.inputs.dtype(1) != Some(DType::F32) {
        return Ok(None);
    }
    if let Some(kernel) = of_few_rows(build)? {
        return Ok(Some(kernel));
    }
    let ((mut a, mut a_steps), (b, b_steps)) = (operand_layout(build, 0)?, operand_layout(build, 1)?);
    if b.len() == 2 && a.len() > 2 {
        // One matrix for the whole stack: one tall product, where A's rows follow one another evenly.
        let rows = a.len() - 1;
        let even = (0..rows - 1)
            .all(|i| a[i] == 1 || a_steps[i] == a[i + 1..rows].iter().product::<usize>() * a_steps[rows - 1]);
        if even {
            (a, a_steps) =
                (vec![a[..rows].iter().product(), a[rows]], vec![a_steps[rows - 1], a_steps[rows]]);
        }
    }
    let (a_stack, b_stack) = (a.len() - 2, b.len() - 2);
    let (m, k, n) = (a[a_stack], a[a_stack + 1], b[b_stack + 1]);
    let stack = broadcast(&[&a[..a_stack], &b[..b_stack]])?;
    let items = match m * n {
        // However long the stack is, there is nothing to compute.
        0 => Items::Uneven(Vec::new()),
        each => {
            let oa = starts(&a[..a_stack], &a_steps[..a_stack], &stack);
            let ob = starts(&b[..b_stack], &b_steps[..b_stack], &stack);
            match even(&oa, &ob, each) {
                Some(batch) => Items::Even(batch),
                None => Items::Uneven(oa.into_iter().zip(ob).collect()),
            }
        }
    };
    let mut product = Product {
        m,
        n,
        k,
        a: [a_steps[a_stack], a_steps[a_stack + 1]],
        b: [b_steps[b_stack], b_steps[b_stack + 1]],
        items,
        packed: None,
        prepacked: Vec::new(),
        alpha: build.views.factor.unwrap_or(1.0),
        addend: build.epilogue.add.map(|i| (i, Addend::Full, 1.0)),
        col_bias: build.epilogue.shift.clone(),
        act: build.epilogue.act,
        out_shape: build.out_shape(0)?.to_vec(),
    };
    if b.len() == 2 {
        pack_right(&mut product, build)?;
    }
    Ok(Some(Box::new(product)))
}

/// A linear layer's constant weights and bias with factors and addends folded in: y = x Wᵀ + bias.
pub(crate) struct LinearConstants {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) rows: LayerWeights,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A product of rows and a constant matrix; `None` for others.
pub(crate) fn linear_constants(
    node: &Node,
    inputs: Facts<'_>,
    epilogue: &Epilogue,
) -> Result<Option<LinearConstants>> {
    let (Some(&[first, last]), Some(weight)) = (inputs.shape(1), inputs.get(1)) else { return Ok(None) };
    let gemm = node.op_type == "Gemm";
    if gemm && node.int_or("transA", 0)? != 0 {
        return Ok(None);
    }
    let across = gemm && node.int_or("transB", 0)? != 0;
    let [depth, outputs] = if across { [last, first] } else { [first, last] };
    let alpha = if gemm { node.float_or("alpha", 1.0)? } else { 1.0 };
    let scale = match &epilogue.scale {
        Some(scale) => Some(scale.iter().map(|s| alpha * s).collect()),
        None => (alpha != 1.0).then(|| vec![alpha; outputs]),
    };
    let Some(rows) = LayerWeights::new(weight, !across, scale) else { return Ok(None) };
    let bias = match inputs.get(2).filter(|_| gemm && epilogue.add != Some(2)) {
        Some(c) if constant_row(c).is_none() => return Ok(None),
        c => column_bias(node, c.and_then(constant_row), outputs, epilogue)?,
    };
    Ok(Some(LinearConstants { inputs: depth, outputs, rows, bias }))
}

/// The addend of a Gemm where it is a constant that has one element for each column, or one for all.
fn constant_row(c: &Fact) -> Option<&Tensor> {
    c.value.as_ref().filter(|c| c.len() == 1 || c.shape().last() == Some(&c.len()))
}

/// What is added to each column of a product: the addend of a Gemm, and the epilogue's.
fn column_bias(
    node: &Node,
    addend: Option<&Tensor>,
    columns: usize,
    epilogue: &Epilogue,
) -> Result<Option<Vec<f32>>> {
    let own = addend.map(Tensor::values::<f32>).transpose()?;
    let beta = if own.is_some() { node.float_or("beta", 1.0)? } else { 1.0 };
    Ok(folded_bias(own, beta, columns, epilogue))
}

/// Rows up to which weights with zeros are read again for each; more of them belong together.
pub(crate) const FEW_ROWS: usize = 3;

/// A linear layer of constant weights on one row, or on a few if many weights are zero; `None` for others.
fn of_few_rows(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let shape = build.shape(0)?;
    let Some((&inputs, outer)) = shape.split_last() else { return Ok(None) };
    let rows: usize = outer.iter().product();
    let out_shape = build.out_shape(0)?.to_vec();
    let whole = build.epilogue.add.is_none_or(|i| build.shape(i).is_ok_and(|added| added == out_shape));
    if !(1..=FEW_ROWS).contains(&rows) || inputs > Layout::MAX_INPUTS || !whole || !build.views.is_plain() {
        return Ok(None);
    }
    let Some(layer) = linear_constants(build.node, build.inputs, build.epilogue)? else { return Ok(None) };
    if layer.inputs == 0 || layer.outputs == 0 {
        return Ok(None);
    }
    let kept = match build.kept {
        Some(Choice::FewRows(layout)) => Some(layout),
        Some(_) => return Ok(None),
        None => None,
    };
    if rows > 1 && kept.is_none() {
        let Packed { rows: weights, values, .. } = layer.rows.load_packed(build.weights)?;
        if Layout::choose(values, Zeros::of(layer.inputs, weights.values::<f32>()?)) == Layout::Dense {
            return Ok(None);
        }
    }
    let how = (layer.inputs, kept, layer.bias.as_deref().map(Bits));
    let weights = layer.rows.share(build.weights, how, || {
        let Packed { rows: weights, factors, values } = layer.rows.load_packed(build.weights)?;
        let (weights, bias) = (weights.values::<f32>()?, layer.bias.as_deref());
        // Pairs hold nothing but weights of their pattern.
        let fits = |layout: &Layout| *layout != Layout::Pairs || Zeros::of(layer.inputs, weights).two_of_four;
        Ok(RowWeights::with_factors(kept.filter(fits), layer.inputs, weights, factors, bias, values))
    })?;
    let name = kernel_name((weights.layout() != Layout::Dense).then_some("sparse"), weights.values());
    let prepacked = (1..build.inputs.0.len()).filter(|&i| build.epilogue.add != Some(i)).collect();
    let (add, act) = (build.epilogue.add, build.epilogue.act);
    Ok(Some(Box::new(FewRows { weights, name, prepacked, add, act, out_shape })))
}

struct FewRows {
    weights: Arc<RowWeights>,
    name: Option<&'static str>,
    prepacked: Vec<usize>,
    add: Option<usize>,
    act: Activation,
    out_shape: Vec<usize>,
}

impl Kernel for FewRows {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let residual = self.add.map(|i| f32s(inputs, i)).transpose()?;
        let mut out = pool.take(self.out_shape.iter().product())?;
        self.weights.run(f32s(inputs, 0)?, residual, self.act, &mut out);
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn prepacked_inputs(&self) -> &[usize] {
        &self.prepacked
    }

    fn name(&self) -> Option<&'static str> {
        self.name
    }

    fn layout(&self) -> Option<Layout> {
        Some(self.weights.layout())
    }

    fn estimate(&self, costs: &Costs) -> Option<f64> {
        Some(costs.fetch * self.weights.bytes() as f64)
    }
}

/// Packs the right operand where it is a constant, each column times its factor.
fn pack_right(product: &mut Product, build: &Build<'_>) -> Result<()> {
    let Some(constant) = build.inputs.get(1).filter(|fact| fact.is_constant()) else { return Ok(()) };
    let [row_stride, col_stride] = product.b;
    let ([k, n], scale) = ([product.k, product.n], build.epilogue.scale.as_deref());
    let how = (k, n, row_stride, col_stride, scale.map(Bits));
    let packed = build.weights.share(constant, how, || {
        let mut weight = build.weights.elements(constant)?;
        if let Some(scale) = scale {
            let weight = weight.values_mut::<f32>()?;
            for row in 0..k {
                for (column, s) in scale.iter().enumerate() {
                    weight[row * row_stride + column * col_stride] *= s;
                }
            }
        }
        Ok(PackedMatrix::right(k, n, MatRef { data: weight.values()?, row_stride, col_stride }))
    })?;
    product.packed = Some(packed);
    product.prepacked.push(1);
    Ok(())
}

fn gemm(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.inputs.dtype(1) != Some(DType::F32) {
        return Ok(None);
    }
    if let Some(kernel) = of_few_rows(build)? {
        return Ok(Some(kernel));
    }
    let node = build.node;
    let (a, b) = (build.shape(0)?, build.shape(1)?);
    let (trans_a, trans_b) = (node.int_or("transA", 0)? != 0, node.int_or("transB", 0)? != 0);
    let out_shape = build.out_shape(0)?.to_vec();
    let (m, n) = (out_shape[0], out_shape[1]);
    let k = if trans_a { a[0] } else { a[1] };
    let mut product = Product {
        m,
        n,
        k,
        a: if trans_a { [1, a[1]] } else { [a[1], 1] },
        b: if trans_b { [1, b[1]] } else { [b[1], 1] },
        items: Items::Even(Batch::ONE),
        packed: None,
        prepacked: Vec::new(),
        alpha: node.float_or("alpha", 1.0)?,
        addend: build.epilogue.add.map(|i| (i, Addend::Full, 1.0)),
        col_bias: build.epilogue.shift.clone(),
        act: build.epilogue.act,
        out_shape,
    };
    pack_right(&mut product, build)?;
    if let Some(c) = build.inputs.get(2).filter(|_| build.epilogue.add != Some(2)) {
        if let Some(row) = constant_row(c) {
            product.col_bias = column_bias(node, Some(row), n, build.epilogue)?;
            product.prepacked.push(2);
        } else if build.epilogue.is_empty() {
            let kind = match c.shape().unwrap_or_default() {
                s if s.iter().all(|&d| d == 1) => Addend::Scalar,
                &[_] | &[1, _] => Addend::Column,
                &[_, 1] => Addend::Row,
                _ => Addend::Full,
            };
            product.addend = Some((2, kind, node.float_or("beta", 1.0)?));
        } else {
            // An addend that is computed and something fused after it: fusion does not make this.
            return Err(Error::internal("a computed addend and a fused epilogue"));
        }
    }
    Ok(Some(Box::new(product)))
}

impl Kernel for Product {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let need = |i: usize| {
            inputs
                .get(i)
                .and_then(Option::as_ref)
                .ok_or_else(|| Error::input(format!("input {i} is missing")))
        };
        let a = need(0)?.values::<f32>()?;
        let mut out = pool.take(self.out_shape.iter().product())?;
        let added = match self.addend {
            Some((index, kind, factor)) => Some((need(index)?.values::<f32>()?, kind, factor)),
            None => None,
        };
        let mut beta = 0.0;
        if let Some((values, kind, factor)) = added {
            beta = factor;
            match kind {
                Addend::Full => out.copy_from_slice(values),
                Addend::Scalar => out.fill(values[0]),
                Addend::Column => {
                    out.chunks_exact_mut(self.n.max(1)).for_each(|row| row.copy_from_slice(values))
                }
                Addend::Row => {
                    out.chunks_exact_mut(self.n.max(1)).zip(values).for_each(|(row, &v)| row.fill(v));
                }
            }
        }
        let epilogue = GemmEpilogue {
            alpha: self.alpha,
            beta,
            col_bias: self.col_bias.as_deref(),
            act: self.act,
            ..GemmEpilogue::default()
        };
        let (m, n, k) = (self.m, self.n, self.k);
        if k == 0 {
            // An empty sum: only what is added remains.
            out.iter_mut().enumerate().for_each(|(i, c)| {
                *c = beta * if beta == 0.0 { 0.0 } else { *c }
                    + self.col_bias.as_ref().map_or(0.0, |b| b[i % n]);
            });
            activate(self.act, &mut out);
            return Ok(vec![Tensor::new(self.out_shape.clone(), out)?]);
        }
        let b = match &self.packed {
            Some(_) => &[][..],
            None => need(1)?.values::<f32>()?,
        };
        let left =
            |offset: usize| MatRef { data: &a[offset..], row_stride: self.a[0], col_stride: self.a[1] };
        let right = |offset: usize| match &self.packed {
            Some(packed) => Operand::Packed(packed),
            None => Operand::Ref(MatRef { data: &b[offset..], row_stride: self.b[0], col_stride: self.b[1] }),
        };
        let product = |a, b| Gemm { epilogue, ..Gemm::new([m, n, k], left(a), right(b)) };
        if !out.is_empty() {
            match &self.items {
                Items::Even(batch) => Gemm { batch: *batch, ..product(0, 0) }.run(&mut out),
                Items::Uneven(items) => {
                    for (&(a, b), c) in items.iter().zip(out.chunks_exact_mut(m * n)) {
                        product(a, b).run(c);
                    }
                }
            }
        }
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn prepacked_inputs(&self) -> &[usize] {
        &self.prepacked
    }
}
