//! Attention, a few queries of a head at a time, so that their scores stay in the cache between the two products.

use crate::gemm::{Epilogue, Gemm, MIN_PARALLEL, MatRef};
use crate::simd::Isa;
use crate::size;
use crate::threads::{self, SharedMut, with_workspace};

/// Scores held at a time, unless one query has more.
const SCORES: usize = 32 * 1024;

/// Strides of an operand `[samples, heads, rows, width]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadStrides {
    /// From sample to sample.
    pub sample: usize,
    /// From head to head.
    pub head: usize,
    /// From query to query, or from key to key.
    pub row: usize,
    /// From element to element.
    pub column: usize,
}

impl HeadStrides {
    pub(crate) fn matrix(self, data: &[f32], sample: usize, head: usize, row: usize) -> MatRef<'_> {
        let start = size::sum(&[
            size::of(&[sample, self.sample]),
            size::of(&[head, self.head]),
            size::of(&[row, self.row]),
        ]);
        MatRef { data: &data[start.min(data.len())..], row_stride: self.row, col_stride: self.column }
    }
}

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSpec {
    /// Samples.
    pub samples: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys and values, each shared by the same number of neighbouring query heads.
    pub key_heads: usize,
    /// Queries per head.
    pub queries: usize,
    /// Keys (and values) per head.
    pub keys: usize,
    /// Elements per query and key.
    pub width: usize,
    /// Elements per value.
    pub value_width: usize,
    /// Scale of the scores.
    pub scale: f32,
}

/// Scores of some queries of a head.
#[derive(Debug)]
pub struct Scores<'a> {
    /// The sample.
    pub sample: usize,
    /// The queries' head.
    pub head: usize,
    /// The first of the queries.
    pub query: usize,
    /// One row per query, with a score per key.
    pub values: &'a mut [f32],
}

/// out = weigh(scale · Q Kᵀ) V per head, on the current rayon pool. `weigh` turns scores into weights in place: it masks
/// them and computes their softmax. Each operand comes with its strides; rows of the output are contiguous.
///
/// # Panics
/// If an operand is shorter than its strides require, or the output's rows are not contiguous or overlap.
pub fn attention(
    spec: &AttentionSpec,
    q: (&[f32], HeadStrides),
    k: (&[f32], HeadStrides),
    v: (&[f32], HeadStrides),
    out: (&mut [f32], HeadStrides),
    weigh: impl Fn(Scores<'_>) + Sync,
) {
    let AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, scale } = *spec;
    let (out, to) = out;
    assert!(to.column == 1 || value_width <= 1, "the output's elements are {} apart", to.column);
    if samples == 0 || heads == 0 || queries == 0 || keys == 0 || value_width == 0 {
        out.fill(0.0);
        return;
    }
    assert!(key_heads > 0 && heads.is_multiple_of(key_heads), "{heads} heads share {key_heads} of the keys");
    let rows = [(samples, to.sample), (heads, to.head), (queries, to.row), (value_width, to.column)];
    assert!(are_apart(rows), "rows of the output overlap: {to:?} for {spec:?}");
    let at_once = (SCORES / keys).clamp(1, queries.max(1));
    let parts = queries.div_ceil(at_once);
    let out = SharedMut::new(out);
    let one = |task: usize| {
        let (item, part) = (task / parts, task % parts);
        let (sample, head) = (item / heads, item % heads);
        let some = threads::split(queries, parts, part);
        let key_head = head / (heads / key_heads);
        with_workspace(some.len() * keys, |scores| {
            let left = q.1.matrix(q.0, sample, head, some.start);
            let right = k.1.matrix(k.0, sample, key_head, 0).transposed();
            let epilogue = Epilogue { alpha: scale, ..Epilogue::default() };
            if width == 0 {
                scores.fill(0.0);
            } else {
                Gemm { epilogue, ..Gemm::new([some.len(), keys, width], left, right) }.run(scores);
            }
            weigh(Scores { sample, head, query: some.start, values: scores });
            let (left, right) = (MatRef::row_major(scores, keys), v.1.matrix(v.0, sample, key_head, 0));
            let c = out.skip(sample * to.sample + head * to.head + some.start * to.row);
            let product = Gemm { ldc: to.row, ..Gemm::new([some.len(), value_width, keys], left, right) };
            // SAFETY: tasks differ in their sample, head or queries, whose elements `are_apart`.
            unsafe { product.run_shared(Isa::best(), c) };
        });
    };
    let tasks = size::of(&[samples, heads, parts]);
    if tasks >= threads::available() {
        threads::tasks(tasks, size::work(&[tasks, at_once, keys, width]) >= MIN_PARALLEL, |task| {
            threads::alone(|| one(task))
        });
    } else {
        (0..tasks).for_each(one);
    }
}

/// Whether no two elements overlap, given `(size, stride)` of each axis.
pub(crate) fn are_apart(mut axes: [(usize, usize); 4]) -> bool {
    axes.sort_by_key(|&(_, stride)| stride);
    let mut reach = 0;
    axes.into_iter().filter(|&(extent, _)| extent > 1).all(|(extent, stride)| {
        let apart = stride > reach;
        reach = size::sum(&[reach, size::of(&[extent - 1, stride])]);
        apart
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_side_by_side_or_one_after_the_other_are_apart() {
        // Two samples of three heads, five rows of four elements.
        assert!(are_apart([(2, 60), (3, 4), (5, 12), (4, 1)]));
        assert!(are_apart([(2, 60), (3, 20), (5, 4), (4, 1)]));
        assert!(are_apart([(1, 0), (3, 20), (5, 4), (4, 1)]));
        assert!(!are_apart([(2, 60), (3, 3), (5, 12), (4, 1)]));
        assert!(!are_apart([(2, 60), (3, 0), (5, 4), (4, 1)]));
    }
}
