use super::*;
use crate::conv::tests::{random_spec, reference};
use crate::simd::Isa;
use crate::testing::{Rng, assert_sums, in_pool};
use crate::threads::Buffer;
use crate::tiled::tests::tiled;

fn one_case(rng: &mut Rng, spec: &ConvSpec, batch: usize, sparsity: f32) {
    let depth = spec.in_channels / spec.groups * spec.kernel.iter().product::<usize>();
    let weights = rng.sparse(spec.out_channels * depth, sparsity);
    let x = rng.values(batch * spec.in_channels * spec.in_size.iter().product::<usize>());
    let bias = rng.values(spec.out_channels);
    let bias = (rng.below(3) > 0).then_some(&bias[..]);
    let out_len = batch * spec.out_channels * spec.out_size().iter().product::<usize>();
    let add = rng.values(out_len);
    let add = (rng.below(2) == 0).then_some(&add[..]);
    let (want, scale) = reference(spec, batch, &x, &weights, bias, add);
    for isa in Isa::available() {
        let input = Tiling::with(isa, spec.in_channels, spec.in_size[0], spec.in_size[1]);
        let x = tiled(&input, batch, &x);
        for form in [Form::Rows, Form::Panels] {
            let conv = SparseConv::new(form, &weights, bias, spec, &input);
            assert_eq!(conv.nnz(), weights.iter().filter(|w| **w != 0.0).count());
            let add = add.map(|a| tiled(conv.output(), batch, a));
            let add = add.as_ref().map(Buffer::as_slice);
            let run = |act| {
                let mut out = Buffer::zeroed(conv.output().len(batch));
                conv.run(batch, x.as_slice(), add, act, out.as_mut_slice());
                let mut nchw = vec![f32::NAN; out_len];
                conv.output().to_nchw(batch, out.as_slice(), &mut nchw);
                nchw
            };
            let plain = run(Activation::None);
            assert_sums(&plain, &want, &scale, depth + 2, &format!("{isa:?} {spec:?} {sparsity}"));
            for act in [Activation::Relu, Activation::Clip { min: 0.0, max: 0.5 }, Activation::Silu] {
                let mut acted = plain.clone();
                crate::activation::apply(isa, act, &mut acted);
                assert_eq!(run(act), acted, "{isa:?} {act:?} {spec:?}");
                let threaded = in_pool(3, || run(act));
                assert_eq!(threaded, acted, "{isa:?} {act:?} {spec:?} on three threads");
            }
        }
    }
}

#[test]
fn random_shapes_agree_with_the_definition() {
    let mut rng = Rng::new(51);
    for _ in 0..60 {
        let spec = random_spec(&mut rng, 2);
        let sparsity = rng.pick(&[0.0, 0.5, 0.9, 1.0]);
        let batch = 1 + rng.below(2);
        one_case(&mut rng, &spec, batch, sparsity);
    }
}

/// Several blocks of channels, all of a real network's kernels, grouped ones among them.
#[test]
fn layers_of_networks_agree_with_the_definition() {
    let mut rng = Rng::new(52);
    for (channels, size, kernel, stride, groups) in [
        ([300, 10], 14, 1, 1, 1),
        ([260, 12], 8, 1, 2, 1),
        ([90, 9], 14, 3, 1, 1),
        ([40, 6], 28, 3, 2, 1),
        ([3, 8], 30, 7, 2, 1),
        ([96, 96], 7, 3, 1, 24),
        ([64, 64], 8, 3, 2, 8),
        ([1100, 5], 1, 1, 1, 1),
    ] {
        let spec = ConvSpec {
            stride: vec![stride; 2],
            pads: vec![kernel / 2; 4],
            groups,
            ..ConvSpec::new(channels[0], channels[1], &[size; 2], &[kernel; 2])
        };
        one_case(&mut rng, &spec, 1, 0.8);
    }
}
