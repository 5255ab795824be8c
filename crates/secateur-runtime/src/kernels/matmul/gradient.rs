//! Gradients of matrix products: ∂A = ∂Y Bᵀ and ∂B = Aᵀ ∂Y, summed over the axes that a stack was broadcast along.

use secateur_kernels::{Batch, Gemm, MatRef};
use secateur_model::ops::broadcast;
use secateur_model::{DType, Result, Tensor};

use super::{even, offsets, widened_shape};
use crate::buffers::Pool;
use crate::kernels::Build;
use crate::kernels::summed::summed_to;
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] = &[("MatMul", matmul), ("Gemm", gemm)];

/// The operands that the gradients asked for are computed from: that of one reads the other.
fn reads(training: &Training<'_>) -> Reads {
    Reads::inputs((0..2).filter(|&i| training.wants(1 - i)).collect::<Vec<_>>())
}

/// A matrix of a stack: where it begins, and its strides.
#[derive(Clone)]
struct Matrices<'a> {
    values: &'a [f32],
    offsets: Vec<usize>,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrices<'a> {
    /// The matrices of a tensor that is broadcast to a stack.
    fn of(values: &'a [f32], shape: &[usize], stack: &[usize]) -> Self {
        let row_stride = shape[shape.len() - 1];
        Matrices { values, offsets: offsets(shape, stack), row_stride, col_stride: 1 }
    }

    fn transposed(self) -> Self {
        Matrices { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn at(&self, offset: usize) -> MatRef<'a> {
        let data = &self.values[offset..];
        MatRef { data, row_stride: self.row_stride, col_stride: self.col_stride }
    }
}

/// The products of two stacks of matrices of [m, k] and [k, n], one after the other.
fn products([m, n, k]: [usize; 3], a: &Matrices<'_>, b: &Matrices<'_>, pool: &mut Pool) -> Result<Vec<f32>> {
    let mut out = pool.take(a.offsets.len() * m * n)?;
    if out.is_empty() || k == 0 {
        out.fill(0.0);
        return Ok(out);
    }
    match even(&a.offsets, &b.offsets, m * n) {
        Some(batch) => Gemm { batch, ..Gemm::new([m, n, k], a.at(0), b.at(0)) }.run(&mut out),
        None => {
            let items = a.offsets.iter().zip(&b.offsets);
            for ((&a_at, &b_at), out) in items.zip(out.chunks_exact_mut(m * n)) {
                Gemm { batch: Batch::ONE, ..Gemm::new([m, n, k], a.at(a_at), b.at(b_at)) }.run(out);
            }
        }
    }
    Ok(out)
}

fn matmul(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.inputs.dtype(1) != Some(DType::F32) {
        return Ok(None);
    }
    let (a_shape, b_shape) = (build.shape(0)?.to_vec(), build.shape(1)?.to_vec());
    let (mut a, b) = (widened_shape(&a_shape, true), widened_shape(&b_shape, false));
    if b.len() == 2 {
        // One matrix for the whole stack: one tall product.
        a = vec![a[..a.len() - 1].iter().product(), a[a.len() - 1]];
    }
    let (m, k, n) = (a[a.len() - 2], a[a.len() - 1], b[b.len() - 1]);
    let stack = broadcast(&[&a[..a.len() - 2], &b[..b.len() - 2]])?;
    Ok(Some(Differentiated::of(reads(training), move |at: &mut Backward<'_>| {
        let of = |rows: usize, columns: usize| [&stack[..], &[rows, columns]].concat();
        let gradient = at.take_gradient()?;
        let dy = Matrices::of(gradient.values()?, &of(m, n), &stack);
        let mut found = vec![None, None];
        if at.wants(0) {
            let b = Matrices::of(at.input(1)?, &b, &stack).transposed();
            let full = Tensor::new(of(m, k), products([m, k, n], &dy, &b, at.pool)?)?;
            found[0] = Some(summed_to(full, &a, at.pool)?.reshaped(a_shape.clone())?);
        }
        if at.wants(1) {
            let a = Matrices::of(at.input(0)?, &a, &stack).transposed();
            let full = Tensor::new(of(k, n), products([k, n, m], &a, &dy, at.pool)?)?;
            found[1] = Some(summed_to(full, &b, at.pool)?.reshaped(b_shape.clone())?);
        }
        at.pool.reclaim(gradient);
        Ok(found)
    })))
}

/// Y = alpha · A′ B′ + beta · C, where A′ and B′ are A and B or their transposes.
fn gemm(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if (0..2).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let node = build.node;
    let shapes = [build.shape(0)?.to_vec(), build.shape(1)?.to_vec()];
    let flags = [node.int_or("transA", 0)? != 0, node.int_or("transB", 0)? != 0];
    let (alpha, beta) = (node.float_or("alpha", 1.0)?, node.float_or("beta", 1.0)?);
    let addend = build.inputs.shape(2).map(<[usize]>::to_vec);
    let (m, n) = (build.out_shape(0)?[0], build.out_shape(0)?[1]);
    let k = shapes[0][usize::from(!flags[0])];
    Ok(Some(Differentiated::of(reads(training), move |at: &mut Backward<'_>| {
        let gradient = at.take_gradient()?;
        let dy = Matrices::of(gradient.values()?, &[m, n], &[]);
        // The operands as they are multiplied.
        let operand = |i: usize| -> Result<Matrices<'_>> {
            let stored =
                Matrices::of(at.inputs[i].as_ref().map_or(Ok(&[][..]), Tensor::values)?, &shapes[i], &[]);
            Ok(if flags[i] { stored.transposed() } else { stored })
        };
        let mut found = vec![None, None, None];
        if at.wants(0) {
            let (b, dy) = (operand(1)?.transposed(), dy.clone());
            let product = match flags[0] {
                false => products([m, k, n], &dy, &b, at.pool)?,
                true => products([k, m, n], &b.transposed(), &dy.transposed(), at.pool)?,
            };
            found[0] = Some(times(Tensor::new(shapes[0].clone(), product)?, alpha)?);
        }
        if at.wants(1) {
            let (a, dy) = (operand(0)?.transposed(), dy.clone());
            let product = match flags[1] {
                false => products([k, n, m], &a, &dy, at.pool)?,
                true => products([n, k, m], &dy.transposed(), &a.transposed(), at.pool)?,
            };
            found[1] = Some(times(Tensor::new(shapes[1].clone(), product)?, alpha)?);
        }
        match &addend {
            Some(shape) if at.wants(2) => {
                let sum = summed_to(gradient, shape, at.pool)?;
                found[2] = Some(times(sum, beta)?);
            }
            _ => at.pool.reclaim(gradient),
        }
        Ok(found)
    })))
}

/// The tensor times a factor.
fn times(mut tensor: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(tensor);
    }
    tensor.values_mut::<f32>()?.iter_mut().for_each(|v| *v *= factor);
    Ok(tensor)
}
