//! `Einsum`: operands contracted one after the other, each contraction a batched product.

use secateur_kernels::{Batch, Gemm, MatRef};
use secateur_model::ops::len_of;
use secateur_model::ops::matmul::{Equation, equation};
use secateur_model::tensor::strides;
use secateur_model::{DType, Result, Tensor};

use super::{Backward, Differentiated, GradientFn, Reads, Training};
use super::{Build, BuildFn, Kernel, operand};
use crate::buffers::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Einsum", build)];

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[("Einsum", gradient)];

struct Einsum {
    equation: Equation,
    extents: Vec<(char, usize)>,
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let shapes = (0..build.inputs.len()).map(|i| build.shape(i)).collect::<Result<Vec<_>>>()?;
    let equation = equation(build.node, &shapes)?;
    let extents = equation.extents(&shapes)?;
    Ok(Some(Box::new(Einsum { equation, extents })))
}

/// The gradient of an operand is the sum of products of ∂Y and the other operands over all labels that it lacks.
fn gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let count = build.inputs.len();
    if (0..count).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let shapes = (0..count).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let references: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
    let equation = equation(build.node, &references)?;
    let extents = equation.extents(&references)?;
    let einsum = Einsum { equation, extents };
    let others = |i: usize| (0..count).any(|other| other != i && training.wants(other));
    let reads: Vec<usize> = (0..count).filter(|&i| others(i)).collect();
    Ok(Some(Differentiated::of(Reads::inputs(reads), move |at: &mut Backward<'_>| {
        let gradient = at.take_gradient()?;
        let mut found = vec![None; count];
        for i in (0..count).filter(|&i| at.wanted[i]) {
            found[i] = Some(einsum.gradient(i, &shapes[i], &gradient, at)?);
        }
        at.pool.reclaim(gradient);
        Ok(found)
    })))
}

/// An operand with a label for each axis, each label once.
struct Term {
    labels: Vec<char>,
    values: Vec<f32>,
}

impl Einsum {
    fn extent(&self, label: char) -> usize {
        self.extents.iter().find(|(l, _)| *l == label).map_or(1, |(_, e)| *e)
    }

    fn size(&self, labels: &[char]) -> usize {
        labels.iter().map(|&l| self.extent(l)).product()
    }

    /// The labels of an operand with the distances of their elements: repeated labels take the diagonal, extents of 1
    /// that broadcast are dropped.
    fn steps(&self, labels: &[char], shape: &[usize]) -> Vec<(char, usize)> {
        let mut kept: Vec<(char, usize)> = Vec::new();
        for ((&label, step), &extent) in labels.iter().zip(strides(shape)).zip(shape) {
            if extent == 1 && self.extent(label) != 1 {
                continue;
            }
            match kept.iter_mut().find(|(l, _)| *l == label) {
                Some((_, known)) => *known += step,
                None => kept.push((label, step)),
            }
        }
        kept
    }

    /// Reads an operand.
    fn term(&self, labels: &[char], tensor: &Tensor, pool: &mut Pool) -> Result<Term> {
        let kept = self.steps(labels, tensor.shape());
        let labels: Vec<char> = kept.iter().map(|(l, _)| *l).collect();
        let shape: Vec<usize> = labels.iter().map(|&l| self.extent(l)).collect();
        let steps: Vec<usize> = kept.iter().map(|(_, s)| *s).collect();
        Ok(Term { labels, values: strided(tensor.values()?, &shape, &steps, pool)? })
    }

    /// The term with its axes in another order; labels it lacks are not asked for.
    fn ordered(&self, term: Term, order: &[char], pool: &mut Pool) -> Result<Term> {
        if term.labels == order {
            return Ok(term);
        }
        let shape: Vec<usize> = term.labels.iter().map(|&l| self.extent(l)).collect();
        let steps = strides(&shape);
        let step = |l: &char| term.labels.iter().position(|k| k == l).map_or(0, |i| steps[i]);
        let to: Vec<usize> = order.iter().map(|&l| self.extent(l)).collect();
        let values = strided(&term.values, &to, &order.iter().map(step).collect::<Vec<_>>(), pool)?;
        pool.give(term.values);
        Ok(Term { labels: order.to_vec(), values })
    }

    /// Sums over the labels that are not in `keep`.
    fn summed(&self, term: Term, keep: &[char], pool: &mut Pool) -> Result<Term> {
        let (kept, gone): (Vec<char>, Vec<char>) = term.labels.iter().partition(|l| keep.contains(l));
        if gone.is_empty() {
            return Ok(term);
        }
        let inner = self.size(&gone);
        let term = self.ordered(term, &[kept.clone(), gone].concat(), pool)?;
        let mut values = pool.take(self.size(&kept))?;
        values.fill(0.0);
        for (sum, row) in values.iter_mut().zip(term.values.chunks_exact(inner.max(1))) {
            *sum = row.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
        }
        pool.give(term.values);
        Ok(Term { labels: kept, values })
    }

    fn contract(&self, a: Term, b: Term, keep: &[char], pool: &mut Pool) -> Result<Term> {
        let (keep_a, keep_b) = ([keep, &b.labels].concat(), [keep, &a.labels].concat());
        let (a, b) = (self.summed(a, &keep_a, pool)?, self.summed(b, &keep_b, pool)?);
        let both = |l: &&char| b.labels.contains(l);
        let (stack, inner): (Vec<char>, Vec<char>) =
            a.labels.iter().filter(both).partition(|l| keep.contains(l));
        let only_a: Vec<char> = a.labels.iter().filter(|l| !b.labels.contains(l)).copied().collect();
        let only_b: Vec<char> = b.labels.iter().filter(|l| !a.labels.contains(l)).copied().collect();
        let a = self.ordered(a, &[stack.clone(), only_a.clone(), inner.clone()].concat(), pool)?;
        let b = self.ordered(b, &[stack.clone(), inner.clone(), only_b.clone()].concat(), pool)?;
        let (count, m, n, k) = (self.size(&stack), self.size(&only_a), self.size(&only_b), self.size(&inner));
        let mut values = pool.take(len_of(&[count, m, n])?)?;
        if values.is_empty() || k == 0 {
            values.fill(0.0);
        } else {
            let (left, right) = (MatRef::row_major(&a.values, k), MatRef::row_major(&b.values, n));
            let batch = Batch { count, a: m * k, b: k * n, c: m * n };
            Gemm { batch, ..Gemm::new([m, n, k], left, right) }.run(&mut values);
        }
        pool.give(a.values);
        pool.give(b.values);
        Ok(Term { labels: [stack, only_a, only_b].concat(), values })
    }
}

impl Einsum {
    /// The gradient of operand `index`, of the given shape.
    fn gradient(&self, index: usize, shape: &[usize], dy: &Tensor, at: &mut Backward<'_>) -> Result<Tensor> {
        let Equation { inputs: labels, output } = &self.equation;
        let own = self.steps(&labels[index], shape);
        let order: Vec<char> = own.iter().map(|(label, _)| *label).collect();
        let mut result = self.term(output, dy, at.pool)?;
        let others: Vec<usize> = (0..labels.len()).filter(|&i| i != index).collect();
        for (n, &i) in others.iter().enumerate() {
            let later: Vec<char> =
                others[n + 1..].iter().flat_map(|&i| &labels[i]).chain(&order).copied().collect();
            let term = self.term(&labels[i], operand(at.inputs, i)?, at.pool)?;
            result = self.contract(result, term, &later, at.pool)?;
        }
        let result = self.summed(result, &order, at.pool)?;
        let result = self.ordered(result, &order, at.pool)?;
        if order.len() == labels[index].len() {
            return Tensor::new(shape, result.values);
        }
        // Off the diagonal nothing is read; dropped extents are 1.
        let mut out = at.pool.take(len_of(shape)?)?;
        out.fill(0.0);
        for (n, &value) in result.values.iter().enumerate() {
            let (mut rest, mut place) = (n, 0);
            for &(label, step) in own.iter().rev() {
                let extent = self.extent(label);
                place += rest % extent * step;
                rest /= extent;
            }
            out[place] = value;
        }
        at.pool.give(result.values);
        Tensor::new(shape, out)
    }
}

/// Copies elements of a strided view in row-major order.
fn strided(values: &[f32], shape: &[usize], steps: &[usize], pool: &mut Pool) -> Result<Vec<f32>> {
    let total = len_of(shape)?;
    let mut out = pool.take(total)?;
    out.clear();
    let (inner, step) = match (shape.last(), steps.last()) {
        (Some(&n), Some(&s)) => (n, s),
        _ => (1, 0),
    };
    let mut index = vec![0usize; shape.len().saturating_sub(1)];
    while out.len() < total {
        let start: usize = index.iter().zip(steps).map(|(i, s)| i * s).sum();
        out.extend((0..inner).map(|i| values[start + i * step]));
        for (i, &extent) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < extent {
                break;
            }
            *i = 0;
        }
    }
    Ok(out)
}

impl Kernel for Einsum {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let Equation { inputs: labels, output } = &self.equation;
        let mut result = self.term(&labels[0], operand(inputs, 0)?, pool)?;
        for (i, own) in labels.iter().enumerate().skip(1) {
            let later: Vec<char> = labels.iter().skip(i + 1).flatten().chain(output).copied().collect();
            let term = self.term(own, operand(inputs, i)?, pool)?;
            result = self.contract(result, term, &later, pool)?;
        }
        let result = self.summed(result, output, pool)?;
        let result = self.ordered(result, output, pool)?;
        let shape: Vec<usize> = output.iter().map(|&l| self.extent(l)).collect();
        Ok(vec![Tensor::new(shape, result.values)?])
    }
}
