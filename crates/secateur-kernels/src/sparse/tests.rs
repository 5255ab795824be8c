use super::{Form, SparseConv};
use crate::activation::{Activation, apply};
use crate::conv::ConvSpec;
use crate::simd::Isa;
use crate::testing::{Rng, assert_sums, in_pool};
use crate::threads::Buffer;
use crate::tiled::Tiling;

/// x W + bias + residual in double precision, and the same of the magnitudes.
fn reference(
    [tokens, inputs, outputs]: [usize; 3],
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> (Vec<f64>, Vec<f64>) {
    let terms = |i: usize| {
        let (t, o) = (i / outputs, i % outputs);
        let products = (0..inputs).map(move |k| x[t * inputs + k] as f64 * weights[o * inputs + k] as f64);
        products.chain(bias.map(|b| b[o] as f64)).chain(residual.map(|r| r[i] as f64))
    };
    let all = 0..tokens * outputs;
    (all.clone().map(|i| terms(i).sum()).collect(), all.map(|i| terms(i).map(f64::abs).sum()).collect())
}

/// Rows cut into tiles, with NaN where there are no tokens.
fn tiled(tiling: &Tiling, rows: &[f32]) -> Buffer {
    let mut tiles = Buffer::zeroed(tiling.len(1));
    tiles.as_mut_slice().fill(f32::NAN);
    tiling.from_rows(rows, tiles.as_mut_slice());
    tiles
}

fn one_case(rng: &mut Rng, size: [usize; 3], sparsity: f32) {
    let [tokens, inputs, outputs] = size;
    let weights = rng.sparse(inputs * outputs, sparsity);
    let (x, bias, residual) =
        (rng.values(tokens * inputs), rng.values(outputs), rng.values(tokens * outputs));
    let bias = (rng.below(3) > 0).then_some(&bias[..]);
    let residual = (rng.below(2) == 0).then_some(&residual[..]);
    let (want, scale) = reference(size, &x, &weights, bias, residual);
    for isa in Isa::available() {
        let input = Tiling::of_tokens_with(isa, inputs, tokens);
        let spec = ConvSpec::new(inputs, outputs, &input.size(), &[1; 2]);
        let on_tiles = SparseConv::new(Form::Rows, &weights, bias, &spec, &input);
        let nnz = weights.iter().filter(|w| **w != 0.0).count();
        assert_eq!(on_tiles.nnz(), nnz);
        let run = |act| {
            let (x, residual) = (tiled(&input, &x), residual.map(|r| tiled(on_tiles.output(), r)));
            let mut out = Buffer::zeroed(on_tiles.output().len(1));
            let residual = residual.as_ref().map(Buffer::as_slice);
            on_tiles.run(1, x.as_slice(), residual, act, out.as_mut_slice());
            let mut rows = vec![f32::NAN; tokens * outputs];
            on_tiles.output().to_rows(out.as_slice(), &mut rows);
            rows
        };
        let what = format!("{isa:?} {size:?} {sparsity}");
        let plain = run(Activation::None);
        assert_sums(&plain, &want, &scale, inputs + 2, &what);
        for act in [Activation::Relu, Activation::Gelu] {
            let mut acted = plain.clone();
            apply(isa, act, &mut acted);
            assert_eq!(run(act), acted, "{what} {act:?}");
            assert_eq!(in_pool(3, || run(act)), acted, "{what} {act:?} on three threads");
        }
    }
}

#[test]
fn random_layers_agree_with_the_definition() {
    let mut rng = Rng::new(61);
    for _ in 0..60 {
        let size = [1 + rng.below(150), 1 + rng.below(80), 1 + rng.below(60)];
        let sparsity = rng.pick(&[0.0, 0.5, 0.9, 1.0]);
        one_case(&mut rng, size, sparsity);
    }
}

/// Several blocks of inputs, work for several threads.
#[test]
fn large_layers_agree_with_the_definition() {
    let mut rng = Rng::new(62);
    for size in [[128, 768, 96], [17, 1000, 64], [1, 2048, 300], [2, 40_000, 20], [1, 5, 4000]] {
        one_case(&mut rng, size, 0.8);
    }
}
