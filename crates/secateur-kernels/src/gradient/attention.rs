//! The gradient of attention, a head at a time, so that its scores stay in the cache between the products.

use super::softmax_gradient;
use crate::activation::{Activation, activate};
use crate::attention::{AttentionSpec, HeadStrides};
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

/// The backward pass of attention. With scores S = scale · Q Kᵀ (capped, masked), weights P = softmax S and Y = P V:
///
/// ```text
/// ∂V = Pᵀ ∂Y        ∂P = ∂Y Vᵀ        ∂S = P · (∂P − Σ ∂P · P)        ∂Q = scale · ∂S K        ∂K = scale · ∂Sᵀ Q
/// ```
///
/// Keys and values that several heads share get the sum over these.
#[derive(Clone, Debug)]
pub struct AttentionGradient {
    spec: AttentionSpec,
    places: [(usize, usize, HeadStrides); 3],
    /// By buffer: its length, and whether gradients cover it wholly.
    buffers: Vec<(usize, bool)>,
}

impl AttentionGradient {
    /// `places` says for queries, keys and values where their gradients lie: the buffer, the first element and the strides.
    /// `lens` are the buffers' lengths; several gradients may share a buffer. `None` where two elements of gradients would
    /// have the same place, or one is outside of its buffer.
    ///
    /// # Panics
    /// If key heads do not divide the heads.
    pub fn new(
        spec: &AttentionSpec,
        places: [(usize, usize, HeadStrides); 3],
        lens: &[usize],
    ) -> Option<Self> {
        let AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, .. } = *spec;
        assert!(
            heads == 0 || key_heads > 0 && heads.is_multiple_of(key_heads),
            "{heads} heads share {key_heads} of the keys"
        );
        let mut taken: Vec<Vec<bool>> = lens.iter().map(|&len| vec![false; len]).collect();
        let shapes = [[heads, queries, width], [key_heads, keys, width], [key_heads, keys, value_width]];
        for ((buffer, start, lay), [heads, rows, columns]) in places.into_iter().zip(shapes) {
            let axes = [(samples, lay.sample), (heads, lay.head), (rows, lay.row), (columns, lay.column)];
            if !claim(taken.get_mut(buffer)?, start, axes) {
                return None;
            }
        }
        let buffers = taken.iter().map(|t| (t.len(), t.iter().all(|&t| t))).collect();
        Some(AttentionGradient { spec: *spec, places, buffers })
    }

    /// Computes the gradients into the buffers. Elements of these that belong to no gradient become 0. `ds` gets ∂S with a
    /// mask's share, `[samples, heads, queries, keys]`, where it is asked for.
    ///
    /// # Panics
    /// If an operand is shorter than its strides require, or a buffer has another length.
    pub fn run(
        &self,
        operands: &AttentionOperands<'_>,
        gradients: &mut [&mut [f32]],
        ds: Option<&mut [f32]>,
    ) {
        assert_eq!(gradients.len(), self.buffers.len(), "buffers of gradients");
        for (gradient, (len, whole)) in gradients.iter_mut().zip(&self.buffers) {
            assert_eq!(gradient.len(), *len, "a buffer of gradients");
            if !whole {
                gradient.fill(0.0);
            }
        }
        // SAFETY: the buffers have the lengths for which no two elements have the same place.
        unsafe { run(&self.spec, operands, self.places, gradients, ds) };
    }
}

/// Takes the elements of axes `(extent, stride)`; whether all of them are there and were free.
fn claim(taken: &mut [bool], start: usize, axes: [(usize, usize); 4]) -> bool {
    let extents = axes.map(|(extent, _)| extent);
    if extents.contains(&0) {
        return start <= taken.len();
    }
    let reach = axes.map(|(extent, stride)| size::of(&[extent - 1, stride]));
    if size::sum(&[start, size::sum(&reach)]) >= taken.len() || size::of(&extents) > taken.len() {
        return false;
    }
    let [samples, heads, rows, columns] = axes.map(|(extent, stride)| (0..extent).map(move |i| i * stride));
    samples.into_iter().all(|sample| {
        heads.clone().all(|head| {
            rows.clone().all(|row| {
                let first = start + sample + head + row;
                columns.clone().all(|column| !std::mem::replace(&mut taken[first + column], true))
            })
        })
    })
}

/// The pass of an [`AttentionGradient`].
///
/// # Safety
/// No two elements of gradients have the same place.
unsafe fn run(
    spec: &AttentionSpec,
    operands: &AttentionOperands<'_>,
    places: [(usize, usize, HeadStrides); 3],
    gradients: &mut [&mut [f32]],
    ds: Option<&mut [f32]>,
) {
    let AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, .. } = *spec;
    let plane = size::of(&[queries, keys]);
    if size::of(&[samples, heads, plane]) == 0 {
        gradients.iter_mut().map(|all| &mut **all).chain(ds).for_each(|all| all.fill(0.0));
        return;
    }
    assert_eq!(operands.weights.len(), samples * heads * plane, "weights of {spec:?}");
    assert!(
        ds.as_ref().is_none_or(|ds| ds.len() == operands.weights.len()),
        "gradient of the scores of {spec:?}"
    );
    let shared: Vec<SharedMut<'_, f32>> = gradients.iter_mut().map(|all| SharedMut::new(all)).collect();
    let to = places.map(|(buffer, start, lay)| (shared[buffer].skip(start), lay));
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
                // SAFETY: likewise, and elements of gradients are apart.
                unsafe { one.run(scores, slopes, to) };
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
    unsafe fn run(
        &self,
        ds: &mut [f32],
        slopes: &mut [f32],
        [dq, dk, dv]: [(SharedMut<'_, f32>, HeadStrides); 3],
    ) {
        let AttentionSpec { heads, queries, keys, width, value_width, scale, .. } = *self.spec;
        let AttentionOperands { q, k, v, weights, dy, softcap } = *self.operands;
        let (queried, result) = (self.matrix(q, self.head), self.matrix(dy, self.head));
        let (key, value) = (self.matrix(k, self.key_head), self.matrix(v, self.key_head));
        let p = &weights[(self.sample * heads + self.head) * ds.len()..][..ds.len()];
        let beta = if self.first { 0.0 } else { 1.0 };
        let product = |(to, lay): (_, HeadStrides), head, size, a, b, epilogue| {
            let start = self.sample * lay.sample + head * lay.head;
            // SAFETY: guaranteed by the caller.
            unsafe { add_product(SharedMut::skip(to, start), lay, size, a, b, epilogue) };
        };
        let by_key = MatRef::row_major(p, keys).transposed();
        let epilogue = Epilogue { beta, ..Epilogue::default() };
        product(dv, self.key_head, [keys, value_width, queries], by_key, result, epilogue);
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
        product(dq, self.head, [queries, width, keys], inner, key, epilogue);
        let epilogue = Epilogue { alpha: scale, beta, ..Epilogue::default() };
        product(dk, self.key_head, [keys, width, queries], inner.transposed(), queried, epilogue);
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
            // SAFETY: guaranteed by the caller.
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

        /// A random order of the axes in memory, `times` of them in it side by side; how far apart these are.
        fn drawn(rng: &mut Rng, [samples, heads, rows, columns]: [usize; 4], times: usize) -> (Self, usize) {
            let shape = [samples, heads, rows, columns, times];
            let mut order = [0, 1, 2, 3, 4];
            (1..5).for_each(|i| order.swap(i, rng.below(i + 1)));
            let (mut steps, mut step) = ([0; 5], 1);
            for axis in order {
                (steps[axis], step) = (step, step * shape[axis]);
            }
            let [sample, head, row, column, apart] = steps;
            (Lay(HeadStrides { sample, head, row, column }), apart)
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

    /// Where gradients lie in the test: each in a buffer of its own, in one with gaps, or in one that they fill.
    #[derive(Clone, Copy, PartialEq)]
    enum Joined {
        Apart,
        Gaps,
        Packed,
    }

    #[test]
    fn gradients_follow_their_formulas_for_any_order_of_axes() {
        let mut rng = Rng::new(7);
        for round in 0..60 {
            let joined = [Joined::Apart, Joined::Gaps, Joined::Packed][round % 3];
            let (samples, key_heads, mut group) = (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
            let [queries, mut keys, width, mut value_width] = [(); 4].map(|()| 1 + rng.below(20));
            if joined == Joined::Packed {
                (group, keys, value_width) = (1, queries, width);
            }
            let (heads, scale) = (key_heads * group, 0.3);
            let spec = AttentionSpec { samples, heads, key_heads, queries, keys, width, value_width, scale };
            let shapes = [
                [samples, heads, queries, width],
                [samples, key_heads, keys, width],
                [samples, key_heads, keys, value_width],
            ];
            let sizes = shapes.map(|shape| shape.iter().product::<usize>());
            // Buffer, start and strides of each gradient, which are those of its operand.
            let (lens, places) = if joined == Joined::Packed {
                let (lay, apart) = Lay::drawn(&mut rng, shapes[0], 3);
                (vec![3 * sizes[0]], [0, 1, 2].map(|i| (0, i * apart, lay.0)))
            } else {
                let lays = shapes.map(|shape| Lay::drawn(&mut rng, shape, 1).0.0);
                match joined {
                    Joined::Gaps => {
                        let starts = [2, 2 + sizes[0], 5 + sizes[0] + sizes[1]];
                        let places = [0, 1, 2].map(|i| (0, starts[i], lays[i]));
                        (vec![6 + sizes.iter().sum::<usize>()], places)
                    }
                    _ => (sizes.to_vec(), [0, 1, 2].map(|i| (i, 0, lays[i]))),
                }
            };
            let stored: Vec<Vec<f32>> = lens.iter().map(|&len| rng.values(len)).collect();
            let [q, k, v] = places.map(|(buffer, start, lay)| (&stored[buffer][start..], lay));
            let shape = [samples, heads, queries, value_width];
            let (out, _) = Lay::drawn(&mut rng, shape, 1);
            let dy = rng.values(shape.iter().product());
            let mut weights = rng.values(samples * heads * queries * keys);
            weights.iter_mut().for_each(|p| *p = p.abs() / keys as f32);
            let softcap = if round % 4 == 0 { 1.5 } else { 0.0 };
            let [lq, lk, lv] = [q, k, v].map(|(_, lay)| Lay(lay));
            let found = naive(&spec, [(q.0, &lq), (k.0, &lk), (v.0, &lv), (&dy, &out)], &weights, softcap);
            let mut want: Vec<Vec<f64>> = lens.iter().map(|&len| vec![0.0; len]).collect();
            for (found, (buffer, start, _)) in found.iter().zip(places) {
                want[buffer][start..].iter_mut().zip(found).for_each(|(sum, v)| *sum += v);
            }
            let operands = AttentionOperands { q, k, v, weights: &weights, dy: (&dy, out.0), softcap };
            // What was there before does not matter.
            let mut got: Vec<Vec<f32>> = lens.iter().map(|&len| vec![f32::NAN; len]).collect();
            let mut ds = vec![f32::NAN; weights.len()];
            let asked = (round % 2 == 0).then_some(&mut ds[..]);
            let pass = AttentionGradient::new(&spec, places, &lens).unwrap();
            pass.run(&operands, &mut got.iter_mut().map(|all| &mut all[..]).collect::<Vec<_>>(), asked);
            if round % 2 == 0 {
                got.push(ds);
                want.push(found[3].clone());
            }
            for (got, want) in got.iter().zip(&want) {
                for (got, want) in got.iter().zip(want) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5 * (1.0 + want.abs()),
                        "{got} {want} of {spec:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_that_overlap_are_refused() {
        let spec = AttentionSpec {
            samples: 2,
            heads: 2,
            key_heads: 2,
            queries: 5,
            keys: 5,
            width: 4,
            value_width: 4,
            scale: 1.0,
        };
        // Rows of 3 · 2 · 4 elements.
        let lay = HeadStrides { sample: 120, head: 4, row: 24, column: 1 };
        let holds = |starts: [usize; 3], lay: HeadStrides, len: usize| {
            AttentionGradient::new(&spec, starts.map(|start| (0, start, lay)), &[len]).is_some()
        };
        assert!(holds([0, 8, 16], lay, 240) && holds([16, 0, 8], lay, 300));
        assert!(!holds([0, 8, 8], lay, 240) && !holds([0, 7, 16], lay, 240));
        assert!(!holds([0, 8, 17], lay, 240) && !holds([0, 8, 16], lay, 239));
        assert!(!holds([0, 8, 16], HeadStrides { head: 0, ..lay }, 240));
        assert!(AttentionGradient::new(&spec, [0, 1, 2].map(|buffer| (buffer, 0, lay)), &[240; 2]).is_none());
    }
}
