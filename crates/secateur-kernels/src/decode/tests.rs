use super::*;
use crate::activation::apply;
use crate::testing::{Rng, assert_sums, in_pool};

const LAYOUTS: [Layout; 4] = [Layout::Dense, Layout::Mask, Layout::Slots, Layout::Pairs];
const TYPES: [ValueType; 3] = [ValueType::F32, ValueType::F16, ValueType::Int8];

/// Which weights are zero.
#[derive(Clone, Copy, Debug)]
enum Zeros {
    Even(f32),
    /// Rows of any density, some of them empty; columns too.
    Uneven,
    TwoOfFour,
}

fn weights(rng: &mut Rng, inputs: usize, outputs: usize, zeros: Zeros) -> Vec<f32> {
    match zeros {
        Zeros::Even(sparsity) => rng.sparse(inputs * outputs, sparsity),
        Zeros::Uneven => {
            let columns = rng.values(inputs);
            let row = |_| {
                let density = rng.value();
                (0..inputs)
                    .map(|i| if rng.value().abs() < density * columns[i] { rng.value() } else { 0.0 })
                    .collect::<Vec<f32>>()
            };
            (0..outputs).flat_map(row).collect()
        }
        Zeros::TwoOfFour => {
            let mut weights = rng.values(inputs * outputs);
            for row in weights.chunks_mut(inputs) {
                for group in row.chunks_mut(4) {
                    let (a, b) = (rng.below(4), rng.below(4));
                    let kept = |i: usize| i == a || i == b;
                    group.iter_mut().enumerate().filter(|(i, _)| !kept(*i)).for_each(|(_, w)| *w = 0.0);
                }
            }
            weights
        }
    }
}

/// x Wᵀ + bias + residual in double precision, the same of the magnitudes, and the largest error that rounding
/// weights and inputs to the type of values may add.
#[allow(clippy::too_many_arguments)]
fn reference(
    values: ValueType,
    inputs: usize,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> [Vec<f64>; 3] {
    let outputs = weights.len() / inputs;
    let mut results = [vec![], vec![], vec![]];
    let largest = |v: &[f32]| v.iter().fold(0.0, |m: f64, v| m.max(v.abs() as f64));
    for (t, x) in x.chunks(inputs).enumerate() {
        for (o, w) in weights.chunks(inputs).enumerate() {
            let products = x.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64);
            let others = [bias.map(|b| b[o] as f64), residual.map(|r| r[t * outputs + o] as f64)];
            let terms = products.clone().chain(others.into_iter().flatten());
            results[0].push(terms.clone().sum());
            results[1].push(terms.map(f64::abs).sum());
            results[2].push(match values {
                ValueType::F32 => 0.0,
                ValueType::F16 => {
                    let off = |w: f32| (w as f64 / 2048.0).abs().max(2f64.powi(-25));
                    x.iter().zip(w).map(|(x, w)| x.abs() as f64 * if *w == 0.0 { 0.0 } else { off(*w) }).sum()
                }
                ValueType::Int8 => {
                    let (w_off, x_off) = (largest(w) / 254.0, largest(x) / 254.0);
                    let kept = || x.iter().zip(w).filter(|(_, w)| **w != 0.0);
                    kept().map(|(x, w)| w_off * x.abs() as f64 + x_off * w.abs() as f64 + w_off * x_off).sum()
                }
            });
        }
    }
    results
}

/// The weights and inputs as the kernels see them.
fn rounded(values: ValueType, per: usize, data: &[f32], of_weights: bool) -> Vec<f32> {
    match values {
        ValueType::F16 if of_weights => data.iter().map(|w| f16::from_f32(*w).to_f32()).collect(),
        ValueType::Int8 => {
            let row = |row: &[f32]| {
                let mut bytes = vec![0; row.len()];
                let scale = byte_scale(to_bytes(Isa::best(), row, &mut bytes));
                bytes.iter().map(|b| f32::from(*b) * scale).collect::<Vec<f32>>()
            };
            data.chunks(per).flat_map(row).collect()
        }
        _ => data.to_vec(),
    }
}

fn one_case(rng: &mut Rng, [rows, inputs, outputs]: [usize; 3], zeros: Zeros) {
    let weights = weights(rng, inputs, outputs, zeros);
    let (x, bias, residual) = (rng.values(rows * inputs), rng.values(outputs), rng.values(rows * outputs));
    let bias = (rng.below(3) > 0).then_some(&bias[..]);
    let residual = (rng.below(2) == 0).then_some(&residual[..]);
    for values in TYPES {
        let [want, scale, off] = reference(values, inputs, &x, &weights, bias, residual);
        let seen = (rounded(values, inputs, &x, false), rounded(values, inputs, &weights, true));
        let [exact, ..] = reference(ValueType::F32, inputs, &seen.0, &seen.1, bias, residual);
        for isa in Isa::available() {
            for layout in LAYOUTS {
                if layout == Layout::Pairs && !pairs::holds(inputs, &weights) {
                    continue;
                }
                let layer = RowWeights::with(isa, Some(layout), inputs, &weights, None, bias, values);
                let run = |act| {
                    let mut out = vec![f32::NAN; rows * outputs];
                    layer.run(&x, residual, act, &mut out);
                    out
                };
                let what = format!("{isa:?} {values:?} {layout:?} {:?} {zeros:?}", [rows, inputs, outputs]);
                assert_eq!(layer.nnz(), seen.1.iter().filter(|w| **w != 0.0).count(), "{what}");
                let plain = run(Activation::None);
                assert_sums(&plain, &exact, &scale, inputs + 2, &what);
                for (i, y) in plain.iter().enumerate() {
                    let error = (*y as f64 - want[i]).abs();
                    let most = off[i] * 1.001 + scale[i] * 1e-5;
                    assert!(error <= most, "{what}: {i} is {y}, want {} within {most:.2e}", want[i]);
                }
                for act in [Activation::Relu, Activation::Gelu] {
                    let mut acted = plain.clone();
                    apply(isa, act, &mut acted);
                    assert_eq!(run(act), acted, "{what} {act:?}");
                    assert_eq!(in_pool(3, || run(act)), acted, "{what} {act:?} on three threads");
                    assert_eq!(in_pool(1, || run(act)), acted, "{what} {act:?} on one thread");
                }
            }
        }
    }
}

#[test]
fn random_layers_agree_with_the_definition() {
    let mut rng = Rng::new(71);
    for _ in 0..40 {
        let size = [1 + rng.below(3), 1 + rng.below(300), 1 + rng.below(150)];
        let zeros = match rng.below(6) {
            0 => Zeros::Uneven,
            1 => Zeros::TwoOfFour,
            _ => Zeros::Even(rng.pick(&[0.0, 0.5, 0.9, 0.99, 1.0])),
        };
        one_case(&mut rng, size, zeros);
    }
}

/// Several blocks, bands and streams; work for several threads.
#[test]
fn large_layers_agree_with_the_definition() {
    let mut rng = Rng::new(72);
    for (size, zeros) in [
        ([1, 1000, 517], Zeros::Even(0.5)),
        ([2, 769, 301], Zeros::Even(0.9)),
        ([1, 2048, 333], Zeros::Uneven),
        ([5, 640, 400], Zeros::TwoOfFour),
        ([1, 40_000, 9], Zeros::Even(0.8)),
    ] {
        one_case(&mut rng, size, zeros);
    }
}

#[test]
fn bytes_are_multiplied_exactly() {
    let mut rng = Rng::new(73);
    let (inputs, outputs) = (501, 70);
    let bytes: Vec<i8> = rng.values(inputs * outputs).iter().map(|v| (v * 127.0) as i8).collect();
    // Inputs that are bytes with a scale of 1, so nothing is rounded; the extremes among them.
    let mut x: Vec<f32> = rng.values(inputs).iter().map(|v| (v * 127.0).trunc()).collect();
    x[..3].copy_from_slice(&[127.0, -127.0, 127.0]);
    let scales: Vec<f32> = (0..outputs).map(|o| 2f32.powi(o as i32 % 9 - 4)).collect();
    let mut out = vec![f32::NAN; outputs];
    let dot = |row: &[i8]| row.iter().zip(&x).map(|(w, x)| i32::from(*w) * *x as i32).sum::<i32>() as f32;
    let want: Vec<f32> = bytes.chunks(inputs).zip(&scales).map(|(row, s)| dot(row) * s).collect();
    for isa in Isa::available() {
        for layout in [Layout::Dense, Layout::Mask, Layout::Slots] {
            let layer = RowWeights::pack(
                isa,
                Some(layout),
                inputs,
                &bytes,
                ValueType::Int8,
                Some(scales.clone()),
                None,
            );
            layer.run(&x, None, Activation::None, &mut out);
            assert_eq!(out, want, "{isa:?} {layout:?}");
        }
    }
}

#[test]
fn largest_bytes_do_not_overflow() {
    let inputs = Layout::MAX_INPUTS;
    for (w, x) in [(127, 127.0), (-127, 127.0), (127, -127.0)] {
        for isa in Isa::available() {
            for layout in [Layout::Dense, Layout::Mask, Layout::Slots] {
                let layer = RowWeights::pack(
                    isa,
                    Some(layout),
                    inputs,
                    &vec![w; inputs],
                    ValueType::Int8,
                    Some(vec![1.0]),
                    None,
                );
                let mut out = [f32::NAN];
                layer.run(&vec![x; inputs], None, Activation::None, &mut out);
                assert_eq!(out, [inputs as f32 * f32::from(w) * x], "{isa:?} {layout:?}");
            }
        }
    }
}

/// A byte is off by half a step at most, evenly, so sums are off by √n / 12 of it in the root mean square.
#[test]
fn rounding_to_bytes_errs_as_quantisation_theory_says() {
    let mut rng = Rng::new(74);
    let (inputs, outputs) = (4096, 256);
    let (weights, x) = (rng.values(inputs * outputs), rng.values(inputs));
    let layer = RowWeights::new(inputs, &weights, None, ValueType::Int8);
    let mut out = vec![0.0; outputs];
    layer.run(&x, None, Activation::None, &mut out);
    let [want, ..] = reference(ValueType::F32, inputs, &x, &weights, None, None);
    let squares = out.iter().zip(&want).map(|(y, w)| (*y as f64 - w).powi(2)).sum::<f64>();
    let got = (squares / outputs as f64).sqrt();
    // Weights and inputs are uniform in [−1, 1), of variance 1/3; each of the two errs by step² / 12.
    let step = 1.0 / 127.0;
    let expected = (inputs as f64 * 2.0 / 3.0 * step * step / 12.0).sqrt();
    assert!((0.8..1.25).contains(&(got / expected)), "{got:.2e}, want {expected:.2e}");
}

#[test]
fn zeros_and_values_that_are_not_finite() {
    for values in TYPES {
        for layout in LAYOUTS {
            let layer = RowWeights::with_layout(layout, 5, &[0.0; 15], Some(&[1.0, 2.0, 3.0]), values);
            let mut out = [f32::NAN; 3];
            layer.run(&[0.0; 5], None, Activation::None, &mut out);
            assert_eq!(out, [1.0, 2.0, 3.0]);
            let layer = RowWeights::with_layout(layout, 2, &[1.0, 0.0], None, values);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut out = [0.0];
                layer.run(&[bad, 1.0], None, Activation::None, &mut out);
                assert!(!out[0].is_finite(), "{values:?} {layout:?} {bad}: {}", out[0]);
                let layer = RowWeights::with_layout(layout, 2, &[bad, 1.0], None, values);
                layer.run(&[1.0, 1.0], None, Activation::None, &mut out);
                assert!(!out[0].is_finite(), "{values:?} {layout:?} weight {bad}: {}", out[0]);
            }
        }
    }
}

#[test]
fn memory_is_what_the_layouts_need() {
    let (inputs, outputs) = (1024, 512);
    let bytes = |layout, values, zeros| {
        let weights = weights(&mut Rng::new(75), inputs, outputs, zeros);
        let layer = RowWeights::with_layout(layout, inputs, &weights, None, values);
        layer.bytes() as f64 / (inputs * outputs) as f64
    };
    for (values, size) in TYPES.into_iter().zip([4.0, 2.0, 1.0]) {
        let dense = bytes(Layout::Dense, values, Zeros::Even(0.0));
        assert!((size..size * 1.02).contains(&dense), "{values:?}: {dense}");
        let mask = bytes(Layout::Mask, values, Zeros::Even(0.8));
        assert!(mask < size * 0.2 + 0.15, "{values:?}: {mask}");
        // A pick has a few bits, or a byte where a step sees many inputs.
        let pick = if values == ValueType::Int8 && Isa::best().has_byte_vectors() { 1.0 } else { 0.5 };
        for (sparsity, most) in [(0.5, 0.62), (0.8, 0.35), (0.9, 0.23)] {
            let slots = bytes(Layout::Slots, values, Zeros::Even(sparsity));
            assert!(slots < (size + pick) * most, "{values:?} {sparsity}: {slots}");
        }
    }
    for (values, size) in TYPES.into_iter().zip([4.0, 2.0, 1.0]) {
        let pairs = bytes(Layout::Pairs, values, Zeros::TwoOfFour);
        assert!(pairs < size / 2.0 + 0.13, "{values:?}: {pairs}");
    }
}

#[test]
fn factors_multiply_sums() {
    let mut rng = Rng::new(76);
    let (inputs, outputs) = (90, 40);
    let weights = rng.sparse(inputs * outputs, 0.5);
    let (x, bias, factors) = (rng.values(inputs), rng.values(outputs), rng.values(outputs));
    let mut scaled = weights.clone();
    scaled.chunks_mut(inputs).zip(&factors).for_each(|(row, f)| row.iter_mut().for_each(|w| *w *= f));
    let [_, scale, _] = reference(ValueType::F32, inputs, &x, &scaled, Some(&bias), None);
    for values in TYPES {
        let (mut got, mut plain) = (vec![0.0; outputs], vec![0.0; outputs]);
        let layer = RowWeights::with_factors(None, inputs, &weights, Some(&factors), Some(&bias), values);
        layer.run(&x, None, Activation::None, &mut got);
        RowWeights::new(inputs, &weights, None, values).run(&x, None, Activation::None, &mut plain);
        let want = plain
            .iter()
            .zip(&factors)
            .zip(&bias)
            .map(|((y, f), b)| f64::from(*y) * f64::from(*f) + f64::from(*b));
        assert_sums(&got, &want.collect::<Vec<_>>(), &scale, inputs + 2, &format!("{values:?}"));
    }
}

#[test]
#[should_panic(expected = "values for rows")]
fn rows_of_another_length_are_refused() {
    let layer = RowWeights::new(2, &[1.0; 4], None, ValueType::F32);
    layer.run(&[0.0; 3], None, Activation::None, &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "aren't 2:4")]
fn pairs_refuse_other_patterns() {
    RowWeights::with_layout(Layout::Pairs, 4, &[1.0; 4], None, ValueType::F32);
}

#[test]
fn the_layout_follows_density_and_pattern() {
    let zeros = |nnz, spread, two_of_four| super::Zeros { weights: 100, nnz, spread, two_of_four };
    let choose =
        |isa, values, nnz, two_of_four| Layout::choose_with(isa, values, zeros(nnz, 0.1, two_of_four));
    for isa in Isa::available() {
        for values in TYPES {
            let bytes = values == ValueType::Int8;
            let masks = if bytes { isa.has_byte_vectors() } else { isa.expands() };
            let half = match masks {
                true => Layout::Mask,
                false => Layout::Slots,
            };
            assert_eq!(choose(isa, values, 100, false), Layout::Dense);
            assert_eq!(choose(isa, values, 50, false), half);
            assert_eq!(choose(isa, values, 0, true), Layout::Slots);
            assert_eq!(choose(isa, values, 50, true), Layout::Pairs);
        }
        // Rows that are sorted are better there.
        assert_eq!(Layout::choose_with(isa, ValueType::F32, zeros(50, 0.5, false)), Layout::Slots);
    }
}

#[test]
fn zeros_are_counted_and_rows_compared() {
    let weights = [1, 2, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1].map(|w| w as f32);
    let found = super::Zeros::of(4, &weights);
    // Two, none and four: the mean is 2 and the variance 8 / 3.
    assert_eq!((found.weights, found.nnz, found.two_of_four), (12, 6, false));
    assert!((found.spread - (8.0f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
    assert!(super::Zeros::of(4, &[0.0f32; 8]).two_of_four);
}
