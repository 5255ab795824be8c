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

const TYPES: [ValueType; 3] = [ValueType::F32, ValueType::F16, ValueType::Int8];

/// Weights as they are stored: what the type rounds them to, times the factor of their output.
fn rounded(values: ValueType, weights: &[f32], factors: Option<&[f32]>, depth: usize) -> Vec<f32> {
    let row = |(o, row): (usize, &[f32])| {
        let largest = row.iter().fold(0f32, |m, w| m.max(w.abs()));
        let factor = factors.map_or(1.0, |f| f[o]);
        let of = move |w: &f32| match values {
            ValueType::F32 => *w,
            ValueType::F16 => half::f16::from_f32(*w).to_f32(),
            ValueType::Int8 if largest == 0.0 => 0.0,
            ValueType::Int8 => (w / largest * 127.0).round_ties_even() * (largest / 127.0),
        };
        row.iter().map(|w| of(w) * factor).collect::<Vec<_>>()
    };
    weights.chunks(depth).enumerate().flat_map(row).collect()
}

/// Halves and bytes, with factors and without; more weights in a row than are widened at a time.
#[test]
fn narrow_weights_agree_with_the_definition() {
    let (mut rng, mut narrow) = (Rng::new(53), 0);
    for ([inputs, outputs], size, kernel, groups) in [
        ([6, 7], 9, 3, 1),
        ([96, 50], 14, 1, 1),
        ([40, 24], 8, 3, 4),
        ([5000, 9], 2, 1, 1),
        ([300, 70], 7, 3, 1),
    ] {
        let spec = ConvSpec {
            pads: vec![kernel / 2; 4],
            groups,
            ..ConvSpec::new(inputs, outputs, &[size; 2], &[kernel; 2])
        };
        let depth = inputs / groups * kernel * kernel;
        let (x, bias) = (rng.values(inputs * size * size), rng.values(outputs));
        let (add, factors) = (rng.values(outputs * size * size), rng.values(outputs));
        for sparsity in [0.3, 0.8, 1.0] {
            let weights = rng.sparse(outputs * depth, sparsity);
            for factors in [None, Some(&factors[..])] {
                let wanted = TYPES.map(|values| {
                    let stored = rounded(values, &weights, factors, depth);
                    reference(&spec, 1, &x, &stored, Some(&bias), Some(&add))
                });
                for isa in Isa::available() {
                    let input = Tiling::with(isa, inputs, size, size);
                    let x = tiled(&input, 1, &x);
                    for (values, form) in TYPES.into_iter().flat_map(|v| [(v, Form::Rows), (v, Form::Panels)])
                    {
                        let bias = Some(&bias[..]);
                        let conv =
                            SparseConv::with_values(form, values, &weights, factors, bias, &spec, &input);
                        let add = tiled(conv.output(), 1, &add);
                        // f32 where there are many tiles.
                        let kept = TYPES.iter().position(|v| *v == conv.values()).expect("one of the types");
                        assert!(kept == 0 || conv.values() == values);
                        narrow += usize::from(kept > 0);
                        let (want, scale) = &wanted[kept];
                        let run = || {
                            let mut out = Buffer::zeroed(conv.output().len(1));
                            let add = Some(add.as_slice());
                            conv.run(1, x.as_slice(), add, Activation::None, out.as_mut_slice());
                            let mut nchw = vec![f32::NAN; want.len()];
                            conv.output().to_nchw(1, out.as_slice(), &mut nchw);
                            nchw
                        };
                        let what = format!("{isa:?} {form:?} {values:?} {spec:?} {sparsity}");
                        assert_sums(&run(), want, scale, depth + 3, &what);
                        assert_eq!(in_pool(3, run), in_pool(1, run), "{what}");
                    }
                }
            }
        }
    }
    assert!(narrow > 50, "{narrow} layers");
}

#[test]
fn narrow_weights_take_less_memory() {
    let mut rng = Rng::new(54);
    let (spec, weights) = (ConvSpec::new(512, 256, &[8; 2], &[1; 2]), rng.sparse(512 * 256, 0.5));
    for (form, most) in [(Form::Rows, [6.5, 4.5, 3.5]), (Form::Panels, [5.5, 3.5, 2.5])] {
        for (values, most) in TYPES.into_iter().zip(most) {
            let input = Tiling::new(512, 8, 8);
            let conv = SparseConv::with_values(form, values, &weights, None, None, &spec, &input);
            let each = conv.bytes() as f64 / conv.nnz() as f64;
            assert!(each < most, "{form:?} {values:?}: {each} bytes a weight");
        }
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
