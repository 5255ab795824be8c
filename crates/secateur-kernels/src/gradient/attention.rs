//! The gradient of attention, a head at a time, so that its scores stay in the cache between the products.

use super::softmax_gradient;
use crate::activation::{Activation, activate};
use crate::attention::{AttentionSpec, HeadStrides, are_apart};
use crate::gemm::{Epilogue, Gemm, MIN_PARALLEL, MatRef};
use crate::simd::Isa;
use crate::size;
use crate::threads::{self, SharedMut, with_workspace};

/// What the backward pass of [`crate::attention`] reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOperands<'a> {
    /// Queries `[samples, heads, queries, width]`.
    pub q: (&'a [f32], HeadStrides),
    /// Keys `[samples, key_heads, keys, width]`.
    pub k: (&'a [f32], HeadStrides),
    /// Values `[samples, key_heads, keys, value_width]`.
    pub v: (&'a [f32], HeadStrides),
    /// The weights P = softmax S, `[samples, heads, queries, keys]`.
    pub weights: &'a [f32],
    /// The gradient of the result, `[samples, heads, queries, value_width]`.
    pub dy: (&'a [f32], HeadStrides),
    /// Scores are softcap · tanh(s / softcap) where this is above 0.
    pub softcap: f32,
}

/// With scores S = scale · Q Kᵀ (capped, masked), weights P = softmax S and Y = P V:
///
/// ```text
/// ∂V = Pᵀ ∂Y        ∂P = ∂Y Vᵀ        ∂S = P · (∂P − Σ ∂P · P)        ∂Q = scale · ∂S K        ∂K = scale · ∂Sᵀ Q
/// ```
///
/// Keys and values that several heads share get the sum over these. `[dq, dk, dv]` have the strides of their operands;
/// `ds` gets ∂S with a mask's share, `[samples, heads, queries, keys]`.
///
/// # Panics
/// If an operand is shorter than its strides require, or elements of one overlap.
pub fn attention_gradient(
    spec: &AttentionSpec,
    operands: &AttentionOperands<'_>,
    [dq, dk, dv]: [&mut [f32]; 3],
    ds: Option<&mut [f32]>,
) {
    let AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, .. } = *spec;
    let plane = size::of(&[queries, keys]);
    if size::of(&[samples, heads, plane]) == 0 {
        [Some(dq), Some(dk), Some(dv), ds].into_iter().flatten().for_each(|all| all.fill(0.0));
        return;
    }
    assert!(key_heads > 0 && heads.is_multiple_of(key_heads), "{heads} heads share {key_heads} of the keys");
    assert_eq!(operands.weights.len(), samples * heads * plane, "weights of {spec:?}");
    assert!(
        ds.as_ref().is_none_or(|ds| ds.len() == operands.weights.len()),
        "gradient of the scores of {spec:?}"
    );
    for (lay, [heads, rows, columns]) in [
        (operands.q.1, [heads, queries, width]),
        (operands.k.1, [key_heads, keys, width]),
        (operands.v.1, [key_heads, keys, value_width]),
    ] {
        let axes = [(samples, lay.sample), (heads, lay.head), (rows, lay.row), (columns, lay.column)];
        assert!(are_apart(axes), "elements overlap: {lay:?} for {spec:?}");
    }
    let [dq, dk, dv] = [dq, dk, dv].map(SharedMut::new);
    let ds = ds.map(SharedMut::new);
    // Heads that share keys add to the same gradient, one after the other.
    let task = |task: usize| {
        let (sample, key_head) = (task / key_heads, task % key_heads);
        let group = heads / key_heads;
        with_workspace(2 * plane, |space| {
            let (own, slopes) = space.split_at_mut(plane);
            for head in key_head * group..(key_head + 1) * group {
                let at = (sample * heads + head) * plane;
                let scores = match &ds {
                    // SAFETY: tasks differ in the sample or in the heads, so in these elements.
                    Some(ds) => unsafe { ds.slice(at, plane) },
                    None => &mut *own,
                };
                let one = Head { spec, operands, sample, head, key_head, first: head == key_head * group };
                // SAFETY: likewise, and elements of an operand are apart.
                unsafe { one.run(scores, slopes, [dq, dk, dv]) };
            }
        });
    };
    let tasks = samples * key_heads;
    let work = size::work(&[samples, heads, plane, width + value_width]);
    threads::tasks(tasks, work >= MIN_PARALLEL, |i| threads::alone(|| task(i)));
}

/// A head of queries, with the head of keys and values that it uses.
struct Head<'a> {
    spec: &'a AttentionSpec,
    operands: &'a AttentionOperands<'a>,
    sample: usize,
    head: usize,
    key_head: usize,
    /// Whether it is the first that uses these keys.
    first: bool,
}

impl Head<'_> {
    fn matrix<'a>(&self, (data, lay): (&'a [f32], HeadStrides), head: usize) -> MatRef<'a> {
        lay.matrix(data, self.sample, head, 0)
    }

    /// Computes ∂S of the head into `ds`, and its share of the gradients of the operands.
    ///
    /// # Safety
    /// Nobody else uses the head's elements of `dq`, and those of its keys of `dk` and `dv`.
    unsafe fn run(&self, ds: &mut [f32], slopes: &mut [f32], [dq, dk, dv]: [SharedMut<'_, f32>; 3]) {
        let AttentionSpec { heads, queries, keys, width, value_width, scale, .. } = *self.spec;
        let AttentionOperands { q, k, v, weights, dy, softcap } = *self.operands;
        let (queried, result) = (self.matrix(q, self.head), self.matrix(dy, self.head));
        let (key, value) = (self.matrix(k, self.key_head), self.matrix(v, self.key_head));
        let p = &weights[(self.sample * heads + self.head) * ds.len()..][..ds.len()];
        let beta = if self.first { 0.0 } else { 1.0 };
        let product = |to, lay: HeadStrides, head, size, a, b, epilogue| {
            let start = self.sample * lay.sample + head * lay.head;
            // SAFETY: guaranteed by the caller.
            unsafe { add_product(SharedMut::skip(to, start), lay, size, a, b, epilogue) };
        };
        let by_key = MatRef::row_major(p, keys).transposed();
        let epilogue = Epilogue { beta, ..Epilogue::default() };
        product(dv, v.1, self.key_head, [keys, value_width, queries], by_key, result, epilogue);
        if value_width == 0 {
            ds.fill(0.0);
        } else {
            Gemm::new([queries, keys, value_width], result, value.transposed()).run(ds);
        }
        softmax_gradient(p, ds, queries, keys, 1);
        let mut inner = &*ds;
        if softcap > 0.0 && width > 0 {
            let epilogue = Epilogue { alpha: scale / softcap, ..Epilogue::default() };
            Gemm { epilogue, ..Gemm::new([queries, keys, width], queried, key.transposed()) }.run(slopes);
            activate(Activation::Tanh, slopes);
            slopes.iter_mut().zip(&*ds).for_each(|(t, d)| *t = d * (1.0 - *t * *t));
            inner = slopes;
        }
        let inner = MatRef::row_major(inner, keys);
        let epilogue = Epilogue { alpha: scale, ..Epilogue::default() };
        product(dq, q.1, self.head, [queries, width, keys], inner, key, epilogue);
        let epilogue = Epilogue { alpha: scale, beta, ..Epilogue::default() };
        product(dk, k.1, self.key_head, [keys, width, queries], inner.transposed(), queried, epilogue);
    }
}

/// The product of `a` and `b` into a head of these strides.
///
/// # Safety
/// Nobody else uses the head's elements.
unsafe fn add_product(
    to: SharedMut<'_, f32>,
    lay: HeadStrides,
    [m, n, k]: [usize; 3],
    a: MatRef<'_>,
    b: MatRef<'_>,
    epilogue: Epilogue<'_>,
) {
    // Rows of results are contiguous: the rows of a head, or else its columns.
    if lay.column == 1 || n <= 1 {
        let product = Gemm { ldc: lay.row, epilogue, ..Gemm::new([m, n, k], a, b) };
        // SAFETY: guaranteed by the caller.
        return unsafe { product.run_shared(Isa::best(), to) };
    }
    with_workspace(m * n, |space| {
        let own = Epilogue { beta: 0.0, ..epilogue };
        Gemm { epilogue: own, ..Gemm::new([m, n, k], a, b) }.run(space);
        for (i, &value) in space.iter().enumerate() {
            // SAFETY: guaranteed by the caller; `matrix` of the operand found its memory long enough.
            let to = unsafe { &mut to.slice(i / n * lay.row + i % n * lay.column, 1)[0] };
            *to = if epilogue.beta == 0.0 { value } else { *to + value };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Elements `[samples, heads, rows, columns]` by strides, in f64.
    struct Lay(HeadStrides);

    impl Lay {
        fn at(&self, [sample, head, row, column]: [usize; 4]) -> usize {
            let HeadStrides { sample: s, head: h, row: r, column: c } = self.0;
            sample * s + head * h + row * r + column * c
        }

        /// A random order of the axes in memory.
        fn drawn(rng: &mut Rng, shape: [usize; 4]) -> Self {
            let mut order = [0, 1, 2, 3];
            (1..4).for_each(|i| order.swap(i, rng.below(i + 1)));
            let (mut steps, mut step) = ([0; 4], 1);
            for axis in order {
                (steps[axis], step) = (step, step * shape[axis]);
            }
            Lay(HeadStrides { sample: steps[0], head: steps[1], row: steps[2], column: steps[3] })
        }
    }

    /// The formulas in f64 loops, from the weights and the slope of the cap.
    fn naive(
        spec: &AttentionSpec,
        [q, k, v, dy]: [(&[f32], &Lay); 4],
        weights: &[f32],
        softcap: f32,
    ) -> [Vec<f64>; 4] {
        let AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, scale } = *spec;
        let mut found = [q.0.len(), k.0.len(), v.0.len(), weights.len()].map(|len| vec![0f64; len]);
        let of = |(values, lay): (&[f32], &Lay), at| f64::from(values[lay.at(at)]);
        for (s, h, i) in
            (0..samples * heads * queries).map(|t| (t / queries / heads, t / queries % heads, t % queries))
        {
            let kh = h / (heads / key_heads);
            let at = ((s * heads + h) * queries + i) * keys;
            let p: Vec<f64> = weights[at..at + keys].iter().map(|&p| p.into()).collect();
            let dot = |j| (0..value_width).map(|c| of(dy, [s, h, i, c]) * of(v, [s, kh, j, c])).sum::<f64>();
            let dp: Vec<f64> = (0..keys).map(dot).collect();
            let mean: f64 = dp.iter().zip(&p).map(|(d, p)| d * p).sum();
            for j in 0..keys {
                let mut ds = p[j] * (dp[j] - mean);
                found[3][at + j] = ds;
                if softcap > 0.0 {
                    let score: f64 = (0..width).map(|c| of(q, [s, h, i, c]) * of(k, [s, kh, j, c])).sum();
                    ds *= 1.0 - (score * f64::from(scale) / f64::from(softcap)).tanh().powi(2);
                }
                for c in 0..width {
                    found[0][q.1.at([s, h, i, c])] += f64::from(scale) * ds * of(k, [s, kh, j, c]);
                    found[1][k.1.at([s, kh, j, c])] += f64::from(scale) * ds * of(q, [s, h, i, c]);
                }
                (0..value_width).for_each(|c| found[2][v.1.at([s, kh, j, c])] += p[j] * of(dy, [s, h, i, c]));
            }
        }
        found
    }

    #[test]
    fn gradients_follow_their_formulas_for_any_order_of_axes() {
        let mut rng = Rng::new(7);
        for round in 0..40 {
            let (samples, key_heads, group) = (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
            let [queries, keys, width, value_width] = [(); 4].map(|()| 1 + rng.below(20));
            let (heads, scale) = (key_heads * group, 0.3);
            let spec = AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, scale };
            let shapes = [
                [samples, heads, queries, width],
                [samples, key_heads, keys, width],
                [samples, key_heads, keys, value_width],
                [samples, heads, queries, value_width],
            ];
            let lays = shapes.map(|shape| Lay::drawn(&mut rng, shape));
            let [q, k, v, dy] = shapes.map(|shape| rng.values(shape.iter().product()));
            let mut weights = rng.values(samples * heads * queries * keys);
            weights.iter_mut().for_each(|p| *p = p.abs() / keys as f32);
            let softcap = if round % 3 == 0 { 1.5 } else { 0.0 };
            let [lq, lk, lv, ly] = &lays;
            let want = naive(&spec, [(&q, lq), (&k, lk), (&v, lv), (&dy, ly)], &weights, softcap);
            let operands = AttentionOperands {
                q: (&q, lq.0),
                k: (&k, lk.0),
                v: (&v, lv.0),
                weights: &weights,
                dy: (&dy, ly.0),
                softcap,
            };
            // What was there before does not matter.
            let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|all| vec![f32::NAN; all.len()]);
            let mut ds = vec![f32::NAN; weights.len()];
            let asked = (round % 2 == 0).then_some(&mut ds[..]);
            attention_gradient(&spec, &operands, [&mut dq, &mut dk, &mut dv], asked);
            if round % 2 == 1 {
                ds = want[3].iter().map(|&v| v as f32).collect();
            }
            for (got, want) in [dq, dk, dv, ds].iter().zip(&want) {
                for (got, want) in got.iter().zip(want) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5 * (1.0 + want.abs()),
                        "{got} {want} of {spec:?}"
                    );
                }
            }
        }
    }
}
