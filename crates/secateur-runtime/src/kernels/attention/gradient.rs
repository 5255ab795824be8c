//! The gradient of `Attention`.
//!
//! With scores S = scale · Q Kᵀ (capped, masked), probabilities P = softmax S and Y = P V:
//!
//! ```text
//! ∂V = Pᵀ ∂Y        ∂P = ∂Y Vᵀ        ∂S = P · (∂P − Σ ∂P · P)        ∂Q = scale · ∂S K        ∂K = scale · ∂Sᵀ Q
//! ```

use secateur_kernels::gradient::softmax_gradient;
use secateur_kernels::{Gemm, HeadStrides, MatRef};
use secateur_model::ops::attention::Heads;
use secateur_model::ops::len_of;
use secateur_model::{Result, Tensor};

use super::{Stage, plain, supported};
use crate::buffers::Pool;
use crate::kernels::summed::summed_to;
use crate::kernels::{Backward, Build, Differentiated, GradientFn, Reads, Training};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] = &[("Attention", gradient)];

/// A head of an operand as a matrix.
fn head(data: &[f32], lay: HeadStrides, [sample, head]: [usize; 2]) -> MatRef<'_> {
    let data = &data[sample * lay.sample + head * lay.head..];
    MatRef { data, row_stride: lay.row, col_stride: lay.column }
}

/// Adds factor · a b to a head of a gradient.
fn add_product(
    [m, n, k]: [usize; 3],
    (a, b): (MatRef<'_>, MatRef<'_>),
    factor: f32,
    (to, lay, [sample, head]): (&mut [f32], HeadStrides, [usize; 2]),
    pool: &mut Pool,
) -> Result<()> {
    let mut product = pool.take(m * n)?;
    if k == 0 {
        product.fill(0.0);
    } else {
        Gemm::new([m, n, k], a, b).run(&mut product);
    }
    let to = &mut to[sample * lay.sample + head * lay.head..];
    for (row, product) in product.chunks_exact(n.max(1)).enumerate() {
        for (i, v) in product.iter().enumerate() {
            to[row * lay.row + i * lay.column] += factor * v;
        }
    }
    pool.give(product);
    Ok(())
}

fn gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    // Keys and values of earlier steps are a matter of inference.
    let past = [4, 5].iter().any(|&i| build.inputs.get(i).is_some());
    if past
        || !training.wants_any()
        || !supported(build)
        || build.node.outputs.len() != 1
        || !build.views.is_plain()
    {
        return Ok(None);
    }
    let mut forward = plain(build)?;
    forward.scores_out = Some(Stage::Softmaxed);
    let (heads, scale, softcap) = (forward.heads.clone(), forward.scale, forward.softcap);
    let lays = [forward.q, forward.k, forward.v];
    let out = forward.out;
    let shapes = (0..3).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let mask = build.inputs.shape(3).map(<[usize]>::to_vec);
    if mask.as_ref().is_some_and(|mask| training.wants(3) && mask.last() != Some(&heads.keys)) {
        return Ok(None);
    }
    let reads = Reads { inputs: vec![0, 1, 2], outputs: vec![1] };
    let backward = Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let Heads { q_heads, kv_heads, queries, keys, width, value_width, .. } = heads;
        let [q, k, v] = [at.input(0)?, at.input(1)?, at.input(2)?];
        let (dy, p) = (at.take_gradient()?, at.output(1)?);
        let dy_values = dy.values::<f32>()?;
        let mut sums = Vec::with_capacity(3);
        for shape in &shapes {
            let mut sum = at.pool.take(shape.iter().product())?;
            sum.fill(0.0);
            sums.push(sum);
        }
        let plane = queries * keys;
        let mut ds = at.pool.take(len_of(&heads.scores())?)?;
        let mut capped = at.pool.take(if softcap > 0.0 { plane } else { 0 })?;
        if !ds.is_empty() {
            for (n, ds) in ds.chunks_exact_mut(plane).enumerate() {
                let own = [n / q_heads, n % q_heads];
                let shared = [own[0], own[1] / (q_heads / kv_heads)];
                let p = &p[n * plane..][..plane];
                let (q, k) = (head(q, lays[0], own), head(k, lays[1], shared));
                let dy = head(dy_values, out, own);
                let by_key = MatRef::row_major(p, keys).transposed();
                let to = (&mut sums[2][..], lays[2], shared);
                add_product([keys, value_width, queries], (by_key, dy), 1.0, to, at.pool)?;
                let v = head(v, lays[2], shared).transposed();
                if value_width == 0 {
                    ds.fill(0.0);
                } else {
                    Gemm::new([queries, keys, value_width], dy, v).run(ds);
                }
                softmax_gradient(p, ds, queries, keys, 1);
                let mut slopes = None;
                if softcap > 0.0 && width > 0 {
                    // S = softcap · tanh(s / softcap): slope 1 − tanh².
                    Gemm::new([queries, keys, width], q, k.transposed()).run(&mut capped);
                    capped.iter_mut().for_each(|s| *s = 1.0 - (*s * scale / softcap).tanh().powi(2));
                    let inner: Vec<f32> = ds.iter().zip(&capped).map(|(d, slope)| d * slope).collect();
                    slopes = Some(inner);
                }
                let inner = slopes.as_deref().unwrap_or(ds);
                let ds = MatRef::row_major(inner, keys);
                let to = (&mut sums[0][..], lays[0], own);
                add_product([queries, width, keys], (ds, k), scale, to, at.pool)?;
                let to = (&mut sums[1][..], lays[1], shared);
                add_product([keys, width, queries], (ds.transposed(), q), scale, to, at.pool)?;
            }
        }
        at.pool.give(capped);
        at.pool.reclaim(dy);
        let mut found = Vec::with_capacity(4);
        for (sum, shape) in sums.into_iter().zip(&shapes) {
            found.push(Some(Tensor::new(shape.clone(), sum)?));
        }
        let ds = Tensor::new(heads.scores(), ds)?;
        match &mask {
            Some(mask) if at.wants(3) => found.push(Some(summed_to(ds, mask, at.pool)?)),
            _ => at.pool.reclaim(ds),
        }
        Ok(found)
    });
    Ok(Some(backward.forward(1, Some(Box::new(forward)))))
}
