//! Fourier transforms and the weights of mel spectra. Complex numbers are a last axis of two.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection, FftPlanner};

use super::cells::{filled, len_of, room};
use super::create::type_or;
use super::number::Float;
use super::params::{constants, shape_from, single_float, single_int};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("DFT", 17, infer_dft).eval(eval_dft),
    Op::new("STFT", 17, infer_stft).eval(eval_stft),
    Op::new("MelWeightMatrix", 17, infer_mel).eval(eval_mel),
];

/// The transform of one length: Σₙ x(n)·exp(∓2πikn/N), in O(N log N) steps for any N.
struct Fourier {
    fft: Arc<dyn Fft<f64>>,
}

/// The most bytes that a transform takes for each of its elements: the roots, and the two powers of two that a prime
/// length is turned into (Bluestein, 1970).
const TRANSFORM_BYTES: usize = 256;

impl Fourier {
    /// # Errors
    /// Where there is no memory for a transform of this length.
    fn new(length: usize, inverse: bool) -> Result<Self> {
        // The plan takes its memory without asking.
        drop(room::<u8>(length.saturating_mul(TRANSFORM_BYTES))?);
        let direction = if inverse { FftDirection::Inverse } else { FftDirection::Forward };
        Ok(Fourier { fft: FftPlanner::new().plan_fft(length, direction) })
    }

    /// Transforms a line of as many elements in place.
    fn transform(&self, line: &mut [Complex<f64>]) {
        if !line.is_empty() {
            self.fft.process(line);
        }
    }
}

/// What a `DFT` node asks for.
struct Plan {
    axis: usize,
    length: usize,
    inverse: bool,
    /// Only the first half of a real signal's spectrum, which determines the rest.
    onesided: bool,
    shape: Vec<usize>,
}

fn dft_plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Plan> {
    let axis = match inputs.get(2) {
        Some(axis) => single_int(axis)?,
        None if node.opset < 20 => node.int_or("axis", 1)?,
        None => -2,
    };
    let axis = axis_index(axis, shape.len())?;
    if axis + 1 >= shape.len() || !matches!(shape[shape.len() - 1], 1 | 2) {
        return Err(Error::input(format!(
            "axis {axis} of shape {shape:?}: expected a last axis of 1 or 2 after it"
        )));
    }
    let (inverse, onesided) = (node.int_or("inverse", 0)? != 0, node.int_or("onesided", 0)? != 0);
    let length = match inputs.get(1) {
        Some(length) => shape_from(&[single_int(length)?])?[0],
        None if inverse && onesided => 2 * shape[axis].saturating_sub(1),
        None => shape[axis],
    };
    let mut transformed = shape.to_vec();
    transformed[axis] = if onesided && !inverse { length / 2 + 1 } else { length };
    transformed[shape.len() - 1] = if onesided && inverse { 1 } else { 2 };
    len_of(&transformed)?;
    Ok(Plan { axis, length, inverse, onesided, shape: transformed })
}

fn infer_dft(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    super::params::infer_one(inputs, |shape, params| Ok(dft_plan(node, shape, params)?.shape))
}

/// `DFT` along an axis; the signal is cut or filled with zeros to the length.
fn eval_dft(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let plan = dft_plan(node, data.shape(), inputs)?;
    let fourier = Fourier::new(plan.length, plan.inverse)?;
    let parts = data.shape()[data.rank() - 1];
    let inner: usize = data.shape()[plan.axis + 1..data.rank() - 1].iter().product();
    let (extent, made, out_parts) =
        (data.shape()[plan.axis], plan.shape[plan.axis], plan.shape[data.rank() - 1]);
    let values = <f64 as Float>::load(data)?;
    let mut out = filled(len_of(&plan.shape)?, 0.0)?;
    let scale = if plan.inverse { 1.0 / plan.length as f64 } else { 1.0 };
    let outer = data.shape()[..plan.axis].iter().product::<usize>();
    for line in 0..outer * inner {
        let (block, offset) = (line / inner, line % inner);
        let mut signal: Vec<Complex<f64>> = room(plan.length)?;
        signal.extend(
            (0..extent.min(plan.length))
                .map(|i| ((block * extent + i) * inner + offset) * parts)
                .map(|at| Complex::new(values[at], if parts == 2 { values[at + 1] } else { 0.0 })),
        );
        signal.resize(plan.length, Complex::default());
        if plan.inverse && plan.onesided {
            // The second half mirrors the first, conjugated.
            for i in plan.length / 2 + 1..plan.length {
                signal[i] = signal[plan.length - i].conj();
            }
        }
        fourier.transform(&mut signal);
        for (i, value) in signal.into_iter().take(made).enumerate() {
            let at = ((block * made + i) * inner + offset) * out_parts;
            out[at] = value.re * scale;
            if out_parts == 2 {
                out[at + 1] = value.im * scale;
            }
        }
    }
    Ok(vec![<f64 as Float>::store(out, data.dtype(), &plan.shape)?])
}

/// Frame length, step, and the output's shape of `STFT`.
fn stft_plan(
    node: &Node,
    shape: &[usize],
    window: Option<usize>,
    inputs: Inputs<'_>,
) -> Result<(usize, usize, Vec<usize>)> {
    let refuse = |what: String| Error::input(format!("{what} of a signal of shape {shape:?}"));
    // PyTorch's older exporter leaves out the last axis of a real signal; ONNX Runtime takes it so.
    let (&[batch, length] | &[batch, length, 1 | 2]) = shape else {
        return Err(refuse("expected [batch, length, 1 or 2], or [batch, length]: frames".into()));
    };
    let step = single_int(inputs.need(1)?)?;
    let frame = match inputs.get(3) {
        Some(frame) => shape_from(&[single_int(frame)?])?[0],
        None => window.unwrap_or(length),
    };
    if step < 1 || frame == 0 || frame > length || window.is_some_and(|w| w > frame) {
        return Err(refuse(format!("frames of {frame} every {step}")));
    }
    let bins = if node.int_or("onesided", 1)? != 0 { frame / 2 + 1 } else { frame };
    let frames = 1 + (length - frame) / step as usize;
    Ok((frame, step as usize, vec![batch, frames, bins, 2]))
}

fn infer_stft(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let window = inputs.get(2).map(|window| window.shape().map(<[usize]>::len));
    let params = [None, inputs.value(1), None, inputs.value(3)];
    let known = inputs.value(1).is_some() && (inputs.get(3).is_none() || inputs.value(3).is_some());
    let shape = match (data.shape(), known, window) {
        (Some(shape), true, None) => Some(stft_plan(node, shape, None, Inputs(&params))?.2),
        (Some(shape), true, Some(Some(1))) => {
            let window = inputs.shape(2).map(|shape| shape[0]);
            Some(stft_plan(node, shape, window, Inputs(&params))?.2)
        }
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// `STFT`: the spectra of frames of a signal, weighted with a window.
fn eval_stft(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let window = inputs.get(2).map(<f64 as Float>::load).transpose()?;
    let (frame, step, shape) = stft_plan(node, data.shape(), window.as_ref().map(|w| w.len()), inputs)?;
    let fourier = Fourier::new(frame, false)?;
    let (length, parts) = (data.shape()[1], data.shape().get(2).copied().unwrap_or(1));
    let values = <f64 as Float>::load(data)?;
    let mut out = room(len_of(&shape)?)?;
    for signal in values.chunks_exact(length * parts) {
        for start in (0..shape[1]).map(|n| n * step) {
            let weight =
                |i: usize| window.as_ref().map_or(1.0, |window| window.get(i).copied().unwrap_or(0.0));
            let part = |i: usize, k: usize| {
                if k < parts { signal[(start + i) * parts + k] * weight(i) } else { 0.0 }
            };
            let mut line: Vec<_> = (0..frame).map(|i| Complex::new(part(i, 0), part(i, 1))).collect();
            fourier.transform(&mut line);
            out.extend(line.into_iter().take(shape[2]).flat_map(|value| [value.re, value.im]));
        }
    }
    Ok(vec![<f64 as Float>::store(out, data.dtype(), &shape)?])
}

fn mel_shape(inputs: Inputs<'_>) -> Result<[usize; 2]> {
    let bins = shape_from(&[single_int(inputs.need(0)?)?, single_int(inputs.need(1)?)?])?;
    let shape = [bins[1] / 2 + 1, bins[0]];
    len_of(&shape)?;
    Ok(shape)
}

fn infer_mel(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = match constants(inputs, 0) {
        Some(params) => Some(mel_shape(Inputs(&params))?.to_vec()),
        None => None,
    };
    Ok(vec![Fact { dtype: type_or(node, "output_datatype", Some(DType::F32))?, shape, ..Fact::default() }])
}

/// `MelWeightMatrix`: a triangle over the bins of a spectrum for each of the mel bins, which are evenly
/// spaced on the scale 2595·log₁₀(1 + f/700).
fn eval_mel(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let [spectrum, bins] = mel_shape(inputs)?;
    let length = single_int(inputs.need(1)?)?;
    let numbers = [2, 3, 4].map(|index| inputs.need(index).and_then(single_float));
    let [rate, lowest, highest] = numbers;
    let (rate, lowest, highest) = (rate?, lowest?, highest?);
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / std::f64::consts::LN_10;
    let step = (mel(highest) - mel(lowest)) / (bins + 2) as f64;
    let bin_of = |i: usize| {
        let hertz = 700.0 * ((mel(lowest) + i as f64 * step) / 2595.0 * std::f64::consts::LN_10).exp_m1();
        ((length + 1) as f64 * hertz / rate).floor()
    };
    let mut out = filled(spectrum * bins, 0.0)?;
    for column in 0..bins {
        let [left, centre, right] = [0, 1, 2].map(|k| bin_of(column + k));
        if !(left >= 0.0 && centre < spectrum as f64 && right <= spectrum as f64) {
            return Err(Error::input(format!("edges {lowest} to {highest} Hz lie outside the spectrum")));
        }
        for row in left as usize..(centre as usize + 1).max(right as usize) {
            let at = row as f64;
            let weight = match at.total_cmp(&centre) {
                std::cmp::Ordering::Less => (at - left) / (centre - left),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => (right - at) / (right - centre),
            };
            out[row * bins + column] = weight;
        }
    }
    let dtype = type_or(node, "output_datatype", Some(DType::F32))?.unwrap_or(DType::F32);
    Ok(vec![<f64 as Float>::store(out, dtype, &[spectrum, bins])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval, eval_optional, node, with_attr};
    use super::*;
    use crate::Attr;

    #[test]
    fn transforms_of_any_length_equal_the_sum_that_defines_them() {
        for length in [1usize, 2, 5, 6, 7, 12, 30, 49, 67, 211] {
            let signal: Vec<Complex<f64>> =
                (0..length).map(|i| Complex::new((i * i % 7) as f64 - 2.0, (i % 3) as f64)).collect();
            let mut fast = signal.clone();
            Fourier::new(length, false).unwrap().transform(&mut fast);
            for (k, value) in fast.iter().enumerate() {
                let terms = signal.iter().enumerate().map(|(n, x)| {
                    x * Complex::cis(-std::f64::consts::TAU * (k * n % length) as f64 / length as f64)
                });
                let sum: Complex<f64> = terms.sum();
                assert!((value - sum).norm() < 1e-9, "{length}");
            }
        }
    }

    /// A sum over all pairs would take an hour.
    #[test]
    fn a_long_prime_length_takes_no_more_than_others() {
        let length = (1 << 20) + 7;
        let mut impulse = vec![0f32; length];
        impulse[1] = 1.0;
        let data = Tensor::new([1, length, 1], impulse).unwrap();
        let out = eval(&node("DFT", 20), &[&data]).unwrap();
        let values = out[0].values::<f32>().unwrap();
        for k in [0, 1, 5, length / 2, length - 1] {
            let (sin, cos) = (-std::f64::consts::TAU * k as f64 / length as f64).sin_cos();
            assert!((f64::from(values[2 * k]) - cos).abs() < 1e-6, "{k}");
            assert!((f64::from(values[2 * k + 1]) - sin).abs() < 1e-6, "{k}");
        }
    }

    #[test]
    fn a_length_beyond_memory_is_an_error() {
        assert!(Fourier::new(1 << 60, false).is_err());
    }

    #[test]
    fn half_a_spectrum_gives_the_signal_back() {
        let signal = [1.0, 2.0, 0.0, -1.0, 3.0, 5.0];
        let data = Tensor::new([1, 6, 1], signal.map(|v| v as f32).to_vec()).unwrap();
        let half = with_attr(node("DFT", 20), "onesided", Attr::Int(1));
        let spectrum = eval(&half, &[&data]).unwrap().remove(0);
        // numpy.fft.rfft of the signal.
        close(&spectrum, &[10.0, 0.0, 4.0, 5.19615, -5.0, 0.0, -2.0, 0.0], 2e-6);
        let back = with_attr(half, "inverse", Attr::Int(1));
        let out = eval(&back, &[&spectrum]).unwrap();
        assert_eq!(out[0].shape(), [1, 6, 1]);
        close(&out[0], &signal, 1e-6);
    }

    #[test]
    fn frames_of_a_signal() {
        let data = Tensor::new([1, 5, 1], vec![1f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let (step, window) = (Tensor::scalar(2i64), Tensor::vector(vec![1f32, 0.5]));
        let out = eval(&node("STFT", 17), &[&data, &step, &window]).unwrap();
        assert_eq!(out[0].shape(), [1, 2, 2, 2]);
        close(&out[0], &[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0], 1e-6);
        let real = data.reshaped([1, 5]).unwrap();
        assert_eq!(eval(&node("STFT", 17), &[&real, &step, &window]).unwrap(), out);
        let long = Tensor::scalar(6i64);
        assert!(eval_optional(&node("STFT", 17), &[Some(&data), Some(&step), None, Some(&long)]).is_err());
    }
}
