//! `Attention`: scores, mask, softmax and the weighted sum of values, a few heads at a time.

use rayon::prelude::*;
use secateur_kernels::{Activation, Batch, Epilogue, MatRef, activate, gemm_batched, softmax};
use secateur_model::ops::attention::Heads;
use secateur_model::tensor::strides;
use secateur_model::{DType, Data, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s};
use crate::pool::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Attention", build)];

/// Scores held at a time, so that the softmax finds them in the cache.
const SCORES_AT_ONCE: usize = 256 * 1024;

/// Where the elements of `[batch, heads, rows, width]` lie in an operand's memory.
#[derive(Clone, Copy, Debug)]
struct Lay {
    batch: usize,
    head: usize,
    row: usize,
    column: usize,
}

impl Lay {
    fn heads_first(heads: usize, rows: usize, width: usize) -> Self {
        Lay { batch: heads * rows * width, head: rows * width, row: width, column: 1 }
    }

    fn packed(heads: usize, rows: usize, width: usize) -> Self {
        Lay { batch: rows * heads * width, head: width, row: heads * width, column: 1 }
    }

    /// Axes of a stored tensor in another order; without a batch where there are three.
    fn viewed(shape: &[usize], perm: &[usize]) -> Self {
        let steps = strides(shape);
        let at = |axis_from_last: usize| {
            perm.len().checked_sub(axis_from_last + 1).map_or(0, |axis| steps[perm[axis]])
        };
        Lay { batch: at(3), head: at(2), row: at(1), column: at(0) }
    }

    fn matrix(self, data: &[f32], sample: usize, head: usize) -> MatRef<'_> {
        let start = sample * self.batch + head * self.head;
        MatRef { data: &data[start..], row_stride: self.row, col_stride: self.column }
    }
}

/// The attribute that fusion gives attention it found among plain nodes: an [`EmptyRows`].
pub(crate) const EMPTY_ROWS: &str = "secateur_empty_rows";

/// What the weights of a query are that sees no key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum EmptyRows {
    /// Zero: the operator's meaning.
    Zero = 0,
    /// Not a number, as softmax gives.
    NotANumber = 1,
    /// Whatever is not a number is 0, whyever it is not.
    Guarded = 2,
}

/// What the fourth output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scores {
    Raw,
    Capped,
    Biased,
    Softmaxed,
}

struct Attention {
    heads: Heads,
    q: Lay,
    k: Lay,
    v: Lay,
    out: Lay,
    out_shape: Vec<usize>,
    empty: EmptyRows,
    scale: f32,
    softcap: f32,
    causal: bool,
    /// Keys visible to the left and right of a query.
    window: [Option<usize>; 2],
    scores_out: Option<Scores>,
    caches_out: bool,
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let f32_at = |i: usize| build.inputs.get(i).is_none_or(|f| f.dtype == Some(DType::F32));
    let mask = build.inputs.dtype(3).unwrap_or(DType::F32);
    if ![0, 1, 2, 4, 5].into_iter().all(f32_at) || !matches!(mask, DType::F32 | DType::Bool) {
        return Ok(None);
    }
    let node = build.node;
    if !build.views.is_plain() {
        return viewed(build).map(Some);
    }
    let past = if build.inputs.get(4).is_some() { Some(build.shape(4)?) } else { None };
    let heads = Heads::new(node, build.shape(0)?, build.shape(1)?, build.shape(2)?, past)?;
    if build.inputs.get(4).is_some() != build.inputs.get(5).is_some() {
        return Err(Error::input("earlier keys and values (inputs 4 and 5) come together"));
    }
    let asked = |i: usize| node.outputs.get(i).is_some_and(Option::is_some);
    let scores_out = match node.int_or("qk_matmul_output_mode", 0)? {
        _ if !asked(3) => None,
        0 => Some(Scores::Raw),
        1 => Some(Scores::Capped),
        2 => Some(Scores::Biased),
        3 => Some(Scores::Softmaxed),
        other => return Err(Error::input(format!("attribute `qk_matmul_output_mode` is {other}"))),
    };
    let Heads { q_heads, kv_heads, queries, keys, width, value_width, .. } = heads;
    let lay = if heads.packed { Lay::packed } else { Lay::heads_first };
    Ok(Some(Box::new(Attention {
        q: lay(q_heads, queries, width),
        k: lay(kv_heads, keys, width),
        v: lay(kv_heads, keys, value_width),
        out: lay(q_heads, queries, value_width),
        out_shape: heads.output(),
        empty: EmptyRows::Zero,
        scale: node.float("scale")?.unwrap_or(1.0 / (heads.width as f32).sqrt()),
        softcap: node.float_or("softcap", 0.0)?,
        causal: node.int_or("is_causal", 0)? != 0,
        window: [bound(node, "left_window_size")?, bound(node, "right_window_size")?],
        scores_out,
        caches_out: asked(1) || asked(2) || asked(3),
        heads,
    })))
}

/// Attention that fusion found among plain nodes; its operands are read as they are stored.
fn viewed(build: &Build<'_>) -> Result<Box<dyn Kernel>> {
    let view = |i: usize| -> Result<(Lay, [usize; 4])> {
        let stored = build.shape(i)?;
        let perm = build.views.input(i).ok_or_else(|| Error::internal("an operand without a view"))?;
        // Without a batch, heads are all there is.
        let mut shape = [1; 4];
        for (extent, &axis) in shape.iter_mut().rev().zip(perm.iter().rev()) {
            *extent = stored[axis];
        }
        Ok((Lay::viewed(stored, perm), shape))
    };
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (view(0)?, view(1)?, view(2)?);
    let heads = Heads::new(build.node, &q_shape, &k_shape, &v_shape, None)?;
    let out_shape = build.out_shape(0)?.to_vec();
    // Axis i of the stored result is axis `perm[i]` of the computed one: the view back is its inverse.
    let stored: Vec<usize> = match &build.views.output {
        Some(perm) => perm.clone(),
        None => (0..out_shape.len()).collect(),
    };
    let mut inverse = vec![0; stored.len()];
    stored.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
    Ok(Box::new(Attention {
        q,
        k,
        v,
        out: Lay::viewed(&out_shape, &inverse),
        out_shape,
        empty: match build.node.int_or(EMPTY_ROWS, 0)? {
            1 => EmptyRows::NotANumber,
            2 => EmptyRows::Guarded,
            _ => EmptyRows::Zero,
        },
        scale: build.node.float_or("scale", 1.0)?,
        softcap: 0.0,
        causal: false,
        window: [None, None],
        scores_out: None,
        caches_out: false,
        heads,
    }))
}

fn bound(node: &Node, name: &str) -> Result<Option<usize>> {
    match node.int_or(name, -1)? {
        -1 => Ok(None),
        n => usize::try_from(n).map(Some).map_err(|_| Error::input(format!("attribute `{name}` is {n}"))),
    }
}

/// A mask over `[batch, heads, queries, keys]`, aligned at the last axes.
struct Mask<'a> {
    tensor: &'a Tensor,
    /// Elements of a row; keys after them are masked.
    row: usize,
    /// Steps along batch, heads and queries; 0 where the mask repeats.
    steps: [usize; 3],
}

impl<'a> Mask<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        let shape = tensor.shape();
        let all = strides(shape);
        let mut steps = [0; 3];
        for (step, axis) in steps.iter_mut().rev().zip((0..shape.len().saturating_sub(1)).rev()) {
            *step = if shape[axis] == 1 { 0 } else { all[axis] };
        }
        Mask { tensor, row: shape.last().copied().unwrap_or(1), steps }
    }

    /// Adds the mask's row to scores; whether any key stays visible.
    fn add(&self, at: [usize; 3], first: usize, scores: &mut [f32]) -> bool {
        let start: usize = at.iter().zip(self.steps).map(|(i, s)| i * s).sum::<usize>() + first;
        let mut visible = false;
        match self.tensor.data() {
            Data::Bool(mask) => {
                for (s, &keep) in scores.iter_mut().zip(&mask[start..]) {
                    if keep {
                        visible = true;
                    } else {
                        *s = f32::NEG_INFINITY;
                    }
                }
            }
            Data::F32(mask) => {
                for (s, &m) in scores.iter_mut().zip(&mask[start..]) {
                    *s += m;
                    visible |= m != f32::NEG_INFINITY;
                }
            }
            _ => {}
        }
        visible
    }
}

/// Some heads of a sample.
struct Part<'a> {
    sample: usize,
    first_head: usize,
    mask: Option<&'a Mask<'a>>,
    /// Keys that are no padding.
    valid: Option<usize>,
}

impl Attention {
    /// The keys a query may see, apart from the mask.
    fn visible(&self, query: usize, valid: Option<usize>, row: usize) -> std::ops::Range<usize> {
        let total = self.heads.total();
        // Keys before the first query: the cache's, whoever keeps it.
        let offset = match valid {
            Some(valid) if self.heads.past == 0 => valid as i64 - self.heads.queries as i64,
            _ => self.heads.past as i64,
        };
        let position = query as i64 + offset;
        let mut end = total.min(row).min(valid.unwrap_or(total)) as i64;
        if self.causal {
            end = end.min(position + 1);
        }
        let [left, right] = self.window;
        if let Some(right) = right {
            end = end.min(position.saturating_add(right as i64).saturating_add(1));
        }
        let start = left.map_or(0, |left| position.saturating_sub(left as i64)).max(0);
        start as usize..end.max(start) as usize
    }

    fn limits(&self) -> bool {
        self.causal || self.window != [None, None]
    }

    /// Caps, masks and normalises the scores of some heads of a sample.
    fn weigh(
        &self,
        part: &Part<'_>,
        scores: &mut [f32],
        mut keep: impl FnMut(Scores, &[f32]),
        out: &mut [f32],
    ) {
        let &Part { sample, first_head, mask, valid } = part;
        let (queries, total) = (self.heads.queries, self.heads.total());
        keep(Scores::Raw, scores);
        if self.softcap > 0.0 {
            let factor = 1.0 / self.softcap;
            scores.par_chunks_mut(total).for_each(|row| row.iter_mut().for_each(|s| *s *= factor));
            activate(Activation::Tanh, scores);
            scores.par_chunks_mut(total).for_each(|row| row.iter_mut().for_each(|s| *s *= self.softcap));
        }
        keep(Scores::Capped, scores);
        let mut empty = Vec::new();
        if mask.is_some() || valid.is_some() || self.limits() {
            empty = scores
                .par_chunks_mut(total)
                .with_min_len((8192 / total).max(1))
                .enumerate()
                .map(|(r, row)| {
                    let (head, query) = (first_head + r / queries, r % queries);
                    let seen = self.visible(query, valid, mask.map_or(total, |m| m.row));
                    row[..seen.start].fill(f32::NEG_INFINITY);
                    row[seen.end..].fill(f32::NEG_INFINITY);
                    let row = &mut row[seen.clone()];
                    !mask.map_or(!row.is_empty(), |m| m.add([sample, head, query], seen.start, row))
                })
                .collect();
        }
        keep(Scores::Biased, scores);
        softmax(scores, out, out.len() / total, total, 1);
        match self.empty {
            EmptyRows::Zero => {
                let rows = out.chunks_exact_mut(total).zip(&empty);
                rows.filter(|(_, empty)| **empty).for_each(|(row, _)| row.fill(0.0));
            }
            EmptyRows::NotANumber => {}
            // One that is not a number makes the whole row so.
            EmptyRows::Guarded => {
                out.chunks_exact_mut(total).filter(|row| row[0].is_nan()).for_each(|row| row.fill(0.0));
            }
        }
        keep(Scores::Softmaxed, out);
    }

    /// Earlier and new keys (or values) as `[batch, heads, total, width]`.
    fn joined(&self, past: Option<&[f32]>, new: &[f32], lay: Lay, width: usize) -> Vec<f32> {
        let Heads { batch, kv_heads, keys, .. } = self.heads;
        let earlier = self.heads.past * width;
        let mut out = Vec::with_capacity(batch * kv_heads * self.heads.total() * width);
        for item in 0..batch * kv_heads {
            if let Some(past) = past {
                out.extend_from_slice(&past[item * earlier..(item + 1) * earlier]);
            }
            let start = item / kv_heads * lay.batch + item % kv_heads * lay.head;
            for key in 0..keys {
                out.extend_from_slice(&new[start + key * lay.row..][..width]);
            }
        }
        out
    }
}

impl Kernel for Attention {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let Heads { batch, q_heads, kv_heads, queries, width, value_width, .. } = self.heads;
        let total = self.heads.total();
        let (q_lay, mut k_lay, mut v_lay, out_lay) = (self.q, self.k, self.v, self.out);
        let (q, mut k, mut v) = (f32s(inputs, 0)?, f32s(inputs, 1)?, f32s(inputs, 2)?);
        let optional = |i: usize| match inputs.get(i).and_then(Option::as_ref) {
            Some(t) => t.values::<f32>().map(Some),
            None => Ok(None),
        };
        let (past_k, past_v) = (optional(4)?, optional(5)?);
        let mut caches = None;
        if self.caches_out || past_k.is_some() {
            let joined = [self.joined(past_k, k, k_lay, width), self.joined(past_v, v, v_lay, value_width)];
            k_lay = Lay::heads_first(kv_heads, total, width);
            v_lay = Lay::heads_first(kv_heads, total, value_width);
            let [k_all, v_all] = caches.insert(joined);
            (k, v) = (k_all, v_all);
        }
        let mask = inputs.get(3).and_then(Option::as_ref).map(Mask::new);
        let valid = match inputs.get(6).and_then(Option::as_ref) {
            Some(t) if t.len() != batch => {
                return Err(Error::input(format!("{} lengths for a batch of {batch}", t.len())));
            }
            Some(t) => Some(t.to_i64s()?),
            None => None,
        };

        let mut out = pool.take(batch * q_heads * queries * value_width);
        let mut asked = self.scores_out.map(|_| vec![0.0; batch * q_heads * queries * total]);
        let per_head = queries * total;
        if per_head == 0 || out.is_empty() {
            out.fill(0.0);
        } else {
            // Heads that share keys are one batch; else as many heads as fit.
            let shared = q_heads / kv_heads;
            let at_once = if shared > 1 { shared } else { (SCORES_AT_ONCE / per_head).clamp(1, kv_heads) };
            let mut scores = pool.take(at_once * per_head);
            let mut weights = pool.take(at_once * per_head);
            for sample in 0..batch {
                for first in (0..q_heads).step_by(at_once) {
                    let count = at_once.min(q_heads - first);
                    let (scores, weights) =
                        (&mut scores[..count * per_head], &mut weights[..count * per_head]);
                    let kv = first / shared;
                    let step = |lay: Lay| if shared > 1 { 0 } else { lay.head };
                    let steps = Batch { count, a: q_lay.head, b: step(k_lay), c: per_head };
                    let product = Epilogue { alpha: self.scale, ..Epilogue::default() };
                    let (left, right) =
                        (q_lay.matrix(q, sample, first), k_lay.matrix(k, sample, kv).transposed());
                    if width > 0 {
                        gemm_batched(
                            steps,
                            queries,
                            total,
                            width,
                            left.into(),
                            right.into(),
                            scores,
                            total,
                            product,
                        );
                    } else {
                        scores.fill(0.0);
                    }
                    let valid = valid.as_ref().map(|v| v[sample].clamp(0, total as i64) as usize);
                    let place = (sample * q_heads + first) * per_head;
                    let keep = |stage: Scores, values: &[f32]| {
                        if let (Some(out), true) = (&mut asked, self.scores_out == Some(stage)) {
                            out[place..place + values.len()].copy_from_slice(values);
                        }
                    };
                    let part = Part { sample, first_head: first, mask: mask.as_ref(), valid };
                    self.weigh(&part, scores, keep, weights);
                    let steps = Batch { count, a: per_head, b: step(v_lay), c: out_lay.head };
                    let (left, right) = (MatRef::row_major(weights, total), v_lay.matrix(v, sample, kv));
                    let out = &mut out[sample * out_lay.batch + first * out_lay.head..];
                    let product = Epilogue::default();
                    gemm_batched(
                        steps,
                        queries,
                        value_width,
                        total,
                        left.into(),
                        right.into(),
                        out,
                        out_lay.row,
                        product,
                    );
                }
            }
            pool.give(scores);
            pool.give(weights);
        }
        let mut outputs = vec![Tensor::new(self.out_shape.clone(), out)?];
        if let Some([k, v]) = caches {
            outputs.push(Tensor::new([batch, kv_heads, total, width], k)?);
            outputs.push(Tensor::new([batch, kv_heads, total, value_width], v)?);
        }
        if let Some(scores) = asked {
            outputs.push(Tensor::new(self.heads.scores(), scores)?);
        }
        Ok(outputs)
    }
}
