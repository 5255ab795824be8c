//! `Attention`: scores, mask, softmax and the weighted sum of values.

use std::sync::Mutex;

use secateur_kernels::{Activation, AttentionSpec, HeadStrides, Scores, activate, attention, softmax_rows};
use secateur_model::ops::attention::Heads;
use secateur_model::ops::len_of;
use secateur_model::tensor::strides;
use secateur_model::{DType, Data, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel, Lay, f32s};
use crate::buffers::Pool;

mod gradient;

pub(super) use gradient::GRADIENTS;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Attention", build)];

fn heads_first(heads: usize, rows: usize, width: usize) -> HeadStrides {
    HeadStrides { sample: heads * rows * width, head: rows * width, row: width, column: 1 }
}

fn packed(heads: usize, rows: usize, width: usize) -> HeadStrides {
    HeadStrides { sample: rows * heads * width, head: width, row: heads * width, column: 1 }
}

/// Without a batch where there are three axes.
fn viewed_strides(lay: &Lay) -> HeadStrides {
    let mut axes = [0; 4];
    axes.iter_mut().rev().zip(lay.strides.iter().rev()).for_each(|(to, &stride)| *to = stride);
    let [sample, head, row, column] = axes;
    HeadStrides { sample, head, row, column }
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

/// What the fourth output holds: scores after a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Raw,
    Capped,
    Biased,
    Softmaxed,
}

struct Attention {
    heads: Heads,
    q: HeadStrides,
    k: HeadStrides,
    v: HeadStrides,
    /// Where queries, keys and values begin in their tensors.
    starts: [usize; 3],
    out: HeadStrides,
    out_shape: Vec<usize>,
    empty: EmptyRows,
    scale: f32,
    softcap: f32,
    causal: bool,
    /// Keys visible to the left and right of a query.
    window: [Option<usize>; 2],
    scores_out: Option<Stage>,
    caches_out: bool,
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !supported(build) {
        return Ok(None);
    }
    Ok(Some(Box::new(if build.views.is_plain() { plain(build)? } else { viewed(build)? })))
}

/// Whether the types of the operands are those that [`Attention`] takes.
fn supported(build: &Build<'_>) -> bool {
    let f32_at = |i: usize| build.inputs.get(i).is_none_or(|f| f.dtype == Some(DType::F32));
    let mask = build.inputs.dtype(3).unwrap_or(DType::F32);
    [0, 1, 2, 4, 5].into_iter().all(f32_at) && matches!(mask, DType::F32 | DType::Bool)
}

/// The operator as it is in files.
fn plain(build: &Build<'_>) -> Result<Attention> {
    let node = build.node;
    let past = if build.inputs.get(4).is_some() { Some(build.shape(4)?) } else { None };
    let heads = Heads::new(node, build.shape(0)?, build.shape(1)?, build.shape(2)?, past)?;
    if build.inputs.get(4).is_some() != build.inputs.get(5).is_some() {
        return Err(Error::input("earlier keys and values (inputs 4 and 5) come together"));
    }
    let asked = |i: usize| node.outputs.get(i).is_some_and(Option::is_some);
    let scores_out = match node.int_or("qk_matmul_output_mode", 0)? {
        _ if !asked(3) => None,
        0 => Some(Stage::Raw),
        1 => Some(Stage::Capped),
        2 => Some(Stage::Biased),
        3 => Some(Stage::Softmaxed),
        other => return Err(Error::input(format!("attribute `qk_matmul_output_mode` is {other}"))),
    };
    let Heads { q_heads, kv_heads, queries, keys, width, value_width, .. } = heads;
    let lay = if heads.packed { packed } else { heads_first };
    Ok(Attention {
        q: lay(q_heads, queries, width),
        k: lay(kv_heads, keys, width),
        v: lay(kv_heads, keys, value_width),
        starts: [0; 3],
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
    })
}

/// Attention that fusion found among plain nodes; its operands are read as they are stored.
fn viewed(build: &Build<'_>) -> Result<Attention> {
    let view = |i: usize| -> Result<(HeadStrides, usize, [usize; 4])> {
        let lay = build.views.input(i).ok_or_else(|| Error::internal("an operand without a view"))?;
        // Without a batch, heads are all there is.
        let mut shape = [1; 4];
        shape.iter_mut().rev().zip(lay.shape.iter().rev()).for_each(|(to, &extent)| *to = extent);
        Ok((viewed_strides(lay), lay.offset, shape))
    };
    let ((q, q_start, q_shape), (k, k_start, k_shape), (v, v_start, v_shape)) =
        (view(0)?, view(1)?, view(2)?);
    let heads = Heads::new(build.node, &q_shape, &k_shape, &v_shape, None)?;
    let out_shape = build.out_shape(0)?.to_vec();
    let written = build.views.output.clone().unwrap_or_else(|| Lay::of(&out_shape));
    Ok(Attention {
        q,
        k,
        v,
        starts: [q_start, k_start, v_start],
        out: viewed_strides(&written),
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
    })
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

/// What limits the keys that are seen.
struct Visible<'a> {
    mask: Option<Mask<'a>>,
    /// Keys of each sample that are no padding.
    valid: Option<Vec<i64>>,
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
            end = end.min(position.saturating_add_unsigned(right as u64).saturating_add(1));
        }
        let end = end.max(0);
        let start = left.map_or(0, |left| position.saturating_sub_unsigned(left as u64)).clamp(0, end);
        start as usize..end as usize
    }

    fn limits(&self) -> bool {
        self.causal || self.window != [None, None]
    }

    /// Caps, masks and normalises scores.
    fn weigh(&self, scores: Scores<'_>, visible: &Visible<'_>, mut keep: impl FnMut(Stage, &[f32])) {
        let Scores { sample, head, query, values } = scores;
        let total = self.heads.total();
        keep(Stage::Raw, values);
        if self.softcap > 0.0 {
            let factor = 1.0 / self.softcap;
            values.iter_mut().for_each(|s| *s *= factor);
            activate(Activation::Tanh, values);
            values.iter_mut().for_each(|s| *s *= self.softcap);
        }
        keep(Stage::Capped, values);
        let Visible { mask, valid } = visible;
        let valid = valid.as_ref().map(|valid| valid[sample].clamp(0, total as i64) as usize);
        let mut empty = Vec::new();
        if mask.is_some() || valid.is_some() || self.limits() {
            for (r, row) in values.chunks_exact_mut(total).enumerate() {
                let query = query + r;
                let seen = self.visible(query, valid, mask.as_ref().map_or(total, |m| m.row));
                row[..seen.start].fill(f32::NEG_INFINITY);
                row[seen.end..].fill(f32::NEG_INFINITY);
                let row = &mut row[seen.clone()];
                let add = |m: &Mask<'_>| m.add([sample, head, query], seen.start, row);
                empty.push(!mask.as_ref().map_or(!seen.is_empty(), add));
            }
        }
        keep(Stage::Biased, values);
        softmax_rows(values, total);
        match self.empty {
            EmptyRows::Zero => {
                let rows = values.chunks_exact_mut(total).zip(&empty);
                rows.filter(|(_, empty)| **empty).for_each(|(row, _)| row.fill(0.0));
            }
            EmptyRows::NotANumber => {}
            // One that is not a number makes the whole row so.
            EmptyRows::Guarded => {
                values.chunks_exact_mut(total).filter(|row| row[0].is_nan()).for_each(|row| row.fill(0.0));
            }
        }
        keep(Stage::Softmaxed, values);
    }

    /// Earlier and new keys (or values) as `[batch, heads, total, width]`.
    fn joined(
        &self,
        past: Option<&[f32]>,
        new: &[f32],
        lay: HeadStrides,
        width: usize,
        pool: &mut Pool,
    ) -> Result<Vec<f32>> {
        let Heads { batch, kv_heads, keys, .. } = self.heads;
        let earlier = self.heads.past * width;
        let mut out = pool.take(batch * kv_heads * self.heads.total() * width)?;
        out.clear();
        for item in 0..batch * kv_heads {
            if let Some(past) = past {
                out.extend_from_slice(&past[item * earlier..(item + 1) * earlier]);
            }
            let start = item / kv_heads * lay.sample + item % kv_heads * lay.head;
            for key in 0..keys {
                out.extend_from_slice(&new[start + key * lay.row..][..width]);
            }
        }
        Ok(out)
    }
}

impl Kernel for Attention {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let Heads { batch, q_heads, kv_heads, queries, width, value_width, .. } = self.heads;
        let total = self.heads.total();
        let (q_lay, mut k_lay, mut v_lay) = (self.q, self.k, self.v);
        let operand = |i: usize| Ok(&f32s(inputs, i)?[self.starts[i]..]);
        let (q, mut k, mut v) = (operand(0)?, operand(1)?, operand(2)?);
        let optional = |i: usize| match inputs.get(i).and_then(Option::as_ref) {
            Some(t) => t.values::<f32>().map(Some),
            None => Ok(None),
        };
        let (past_k, past_v) = (optional(4)?, optional(5)?);
        let mut caches = None;
        if self.caches_out || past_k.is_some() {
            let joined = [
                self.joined(past_k, k, k_lay, width, pool)?,
                self.joined(past_v, v, v_lay, value_width, pool)?,
            ];
            k_lay = heads_first(kv_heads, total, width);
            v_lay = heads_first(kv_heads, total, value_width);
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

        let spec = AttentionSpec {
            samples: batch,
            heads: q_heads,
            key_heads: kv_heads,
            queries,
            keys: total,
            width,
            value_width,
            scale: self.scale,
        };
        let visible = Visible { mask, valid };
        let asked = match self.scores_out {
            Some(_) => Some(Mutex::new(pool.filled(len_of(&[batch, q_heads, queries, total])?, 0.0)?)),
            None => None,
        };
        let mut out = pool.take(batch * q_heads * queries * value_width)?;
        attention(&spec, (q, q_lay), (k, k_lay), (v, v_lay), (&mut out, self.out), |scores| {
            let place = ((scores.sample * q_heads + scores.head) * queries + scores.query) * total;
            self.weigh(scores, &visible, |stage, values| {
                if let (Some(out), true) = (&asked, self.scores_out == Some(stage)) {
                    let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    out[place..place + values.len()].copy_from_slice(values);
                }
            });
        });
        let mut outputs = vec![Tensor::new(self.out_shape.clone(), out)?];
        if let Some([k, v]) = caches {
            outputs.push(Tensor::new([batch, kv_heads, total, width], k)?);
            outputs.push(Tensor::new([batch, kv_heads, total, value_width], v)?);
        }
        if let Some(scores) = asked {
            let scores = scores.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            outputs.push(Tensor::new(self.heads.scores(), scores)?);
        }
        Ok(outputs)
    }
}
