use super::*;
use crate::testing::{Rng, assert_sums, in_pool};

/// The convolution by its definition in double precision, and the same of the magnitudes.
pub(crate) fn reference(
    spec: &ConvSpec,
    batch: usize,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    add: Option<&[f32]>,
) -> (Vec<f64>, Vec<f64>) {
    let Geometry { axes: [d, h, v] } = spec.geometry();
    let (ic, oc) = (spec.in_channels / spec.groups, spec.out_channels / spec.groups);
    let (mut want, mut scale) = (vec![], vec![]);
    for b in 0..batch {
        for o in 0..spec.out_channels {
            for od in 0..d.out {
                for oh in 0..h.out {
                    for ow in 0..v.out {
                        let extra = add.map_or(0.0, |a| a[want.len()] as f64);
                        let bias = bias.map_or(0.0, |b| b[o] as f64);
                        let (mut sum, mut size) = (extra + bias, extra.abs() + bias.abs());
                        for i in 0..ic {
                            let c = b * spec.in_channels + o / oc * ic + i;
                            for td in 0..d.kernel {
                                for th in 0..h.kernel {
                                    for tw in 0..v.kernel {
                                        let (Some(id), Some(ih), Some(iw)) =
                                            (d.input(od, td), h.input(oh, th), v.input(ow, tw))
                                        else {
                                            continue;
                                        };
                                        let xv = x[((c * d.size + id) * h.size + ih) * v.size + iw];
                                        let at = ((o * ic + i) * d.kernel + td) * h.kernel + th;
                                        let product = xv as f64 * w[at * v.kernel + tw] as f64;
                                        sum += product;
                                        size += product.abs();
                                    }
                                }
                            }
                        }
                        want.push(sum);
                        scale.push(size);
                    }
                }
            }
        }
    }
    (want, scale)
}

fn one_case(rng: &mut Rng, spec: ConvSpec, batch: usize) {
    let taps: usize = spec.kernel.iter().product();
    let depth = spec.in_channels / spec.groups * taps;
    let w = rng.values(spec.out_channels * depth);
    let x = rng.values(batch * spec.in_channels * spec.in_size.iter().product::<usize>());
    let out_len = batch * spec.out_channels * spec.out_size().iter().product::<usize>();
    let bias = rng.values(spec.out_channels);
    let bias = (rng.below(3) > 0).then_some(&bias[..]);
    let add = rng.values(out_len);
    let add = (rng.below(2) == 0).then_some(&add[..]);
    let (want, scale) = reference(&spec, batch, &x, &w, bias, add);
    for isa in Isa::available() {
        let conv = PackedConv::with(isa, spec.clone(), &w, bias);
        let run = |act| {
            let mut out = vec![f32::NAN; out_len];
            conv.run(batch, &x, &mut out, add, act);
            out
        };
        let plain = run(Activation::None);
        assert_sums(&plain, &want, &scale, depth + 2, &format!("{isa:?} {spec:?}"));
        for act in [Activation::Relu, Activation::Clip { min: 0.0, max: 0.5 }, Activation::Silu] {
            let mut acted = plain.clone();
            crate::activation::apply(isa, act, &mut acted);
            assert_eq!(run(act), acted, "{isa:?} {act:?} {spec:?}");
        }
    }
}

/// A random convolution over `n` axes whose kernel fits its input.
pub(crate) fn random_spec(rng: &mut Rng, n: usize) -> ConvSpec {
    let sizes: &[usize] = if n == 3 { &[3, 4, 7] } else { &[5, 7, 14, 17, 30] };
    let groups = rng.pick(&[1, 1, 2, 3]);
    let mut draw = |from: &[usize], n: usize| -> Vec<usize> { (0..n).map(|_| rng.pick(from)).collect() };
    let mut spec = ConvSpec {
        in_size: draw(sizes, n),
        kernel: draw(&[1, 2, 3, 3, 5], n),
        stride: draw(&[1, 1, 2, 3], n),
        dilation: draw(&[1, 1, 2], n),
        pads: draw(&[0, 1, 2], 2 * n),
        in_channels: groups * draw(&[1, 2, 3, 8], 1)[0],
        out_channels: groups * draw(&[1, 2, 5, 16, 30], 1)[0],
        groups,
    };
    for d in 0..n {
        while spec.dilation[d] * (spec.kernel[d] - 1) + 1 > spec.in_size[d] + spec.pads[d] + spec.pads[n + d]
        {
            spec.kernel[d] -= 1;
        }
    }
    spec
}

#[test]
fn random_shapes_agree_with_the_definition() {
    let mut rng = Rng::new(31);
    for _ in 0..150 {
        let n = rng.pick(&[1, 2, 2, 2, 2, 3]);
        let spec = random_spec(&mut rng, n);
        let batch = 1 + rng.below(2);
        one_case(&mut rng, spec, batch);
    }
}

#[test]
fn depthwise_shapes_agree_with_the_definition() {
    let mut rng = Rng::new(32);
    for case in 0..80 {
        let n = rng.pick(&[1, 2, 2, 2, 2, 3]);
        let mut spec = random_spec(&mut rng, n);
        spec.groups = 1 + rng.below(20);
        spec.in_channels = spec.groups;
        spec.out_channels = spec.groups * if case % 4 == 0 { 2 } else { 1 };
        if case % 2 == 0 {
            let k = rng.pick(&[3, 5]);
            spec.kernel = vec![k; n];
            spec.stride = vec![rng.pick(&[1, 2]); n];
            spec.dilation = vec![1; n];
            spec.pads = vec![k / 2; 2 * n];
        }
        one_case(&mut rng, spec, 2);
    }
}

fn square(ic: usize, oc: usize, size: usize, kernel: usize, stride: usize, groups: usize) -> ConvSpec {
    ConvSpec {
        groups,
        stride: vec![stride; 2],
        pads: vec![kernel / 2; 4],
        ..ConvSpec::new(ic, oc, &[size; 2], &[kernel; 2])
    }
}

#[test]
fn shapes_of_real_networks_agree_with_the_definition() {
    let mut rng = Rng::new(33);
    for spec in [
        square(3, 24, 33, 7, 2, 1),
        square(64, 17, 28, 3, 1, 1),
        square(70, 96, 7, 3, 1, 1),
        square(300, 72, 7, 1, 1, 1),
        square(40, 64, 14, 3, 2, 1),
        square(24, 40, 15, 1, 2, 1),
        square(128, 128, 14, 3, 1, 32),
        square(128, 128, 14, 3, 2, 32),
        square(64, 64, 7, 3, 1, 2),
        square(16, 16, 40, 3, 1, 16),
        square(16, 16, 29, 5, 2, 16),
    ] {
        one_case(&mut rng, spec, 1);
    }
}

#[test]
fn empty_inputs_are_fine() {
    let spec = square(3, 4, 2, 5, 1, 1);
    let w = vec![0.5; 4 * 3 * 25];
    PackedConv::new(spec.clone(), &w, None).run(0, &[], &mut [], None, Activation::None);
    // No input channels: what is left is the bias.
    let spec = ConvSpec { in_channels: 0, ..spec };
    let conv = PackedConv::new(spec, &[], Some(&[1.0, 2.0, 3.0, -4.0]));
    let mut out = [9.0; 16];
    conv.run(1, &[], &mut out, None, Activation::Relu);
    assert_eq!(out.map(|v| v as i32), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0, 0, 0, 0]);
    // The kernel doesn't fit: there's no output.
    let spec = ConvSpec::new(1, 1, &[2], &[3]);
    assert_eq!(spec.out_size(), [0]);
    PackedConv::new(spec, &[0.0; 3], None).run(1, &[1.0, 2.0], &mut [], None, Activation::None);
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = Rng::new(34);
    for spec in [
        square(64, 64, 56, 3, 1, 1),
        square(512, 96, 7, 3, 1, 1),
        square(256, 128, 14, 1, 1, 1),
        square(128, 128, 28, 3, 1, 32),
        square(96, 96, 56, 3, 2, 96),
        square(3, 64, 112, 7, 2, 1),
    ] {
        let w = rng.values(
            spec.out_channels * spec.in_channels / spec.groups * spec.kernel.iter().product::<usize>(),
        );
        let x = rng.values(spec.in_channels * spec.in_size.iter().product::<usize>());
        let n = spec.out_channels * spec.out_size().iter().product::<usize>();
        let conv = PackedConv::new(spec, &w, None);
        let run = |threads| {
            in_pool(threads, || {
                let mut out = vec![0.0; n];
                conv.run(1, &x, &mut out, None, Activation::Relu);
                out
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

#[test]
fn a_transposed_convolution_is_the_adjoint() {
    // By its definition: every input, times a kernel, added to the output at its window.
    let mut rng = Rng::new(35);
    for _ in 0..80 {
        let n = 1 + rng.below(3);
        let groups = rng.pick(&[1, 1, 2]);
        let mut draw = |from: &[usize], n: usize| -> Vec<usize> { (0..n).map(|_| rng.pick(from)).collect() };
        let conv = ConvSpec {
            in_channels: groups * draw(&[1, 3, 8], 1)[0],
            out_channels: groups * draw(&[1, 2, 5], 1)[0],
            groups,
            in_size: draw(&[1, 2, 4, 6], n),
            kernel: draw(&[2, 3, 4], n),
            stride: draw(&[1, 2, 3], n),
            dilation: draw(&[1, 1, 2], n),
            pads: draw(&[0, 0, 1], 2 * n),
        };
        let transposed = ConvTransposeSpec { conv, output_padding: draw(&[0, 0, 1], n) };
        let spec = &transposed.conv;
        let (ic, oc) = (spec.in_channels / groups, spec.out_channels / groups);
        let (ins, outs): (usize, usize) =
            (spec.in_size.iter().product(), transposed.out_size().iter().product());
        let taps: usize = spec.kernel.iter().product();
        let (w, bias) = (rng.values(spec.in_channels * oc * taps), rng.values(spec.out_channels));
        let batch = 2;
        let x = rng.values(batch * spec.in_channels * ins);
        let mut want: Vec<f64> = (0..batch * spec.out_channels * outs)
            .map(|i| bias[i / outs % spec.out_channels] as f64)
            .collect();
        let mut scale: Vec<f64> = want.iter().map(|v| v.abs()).collect();
        let out_size = transposed.out_size();
        for b in 0..batch {
            for i in 0..spec.in_channels {
                for p in 0..ins {
                    for o in 0..oc {
                        for t in 0..taps {
                            let (mut rp, mut rt, mut at, mut stride, mut inside) = (p, t, 0, 1, true);
                            for d in (0..n).rev() {
                                let to = (rp % spec.in_size[d]) * spec.stride[d]
                                    + (rt % spec.kernel[d]) * spec.dilation[d];
                                (rp, rt) = (rp / spec.in_size[d], rt / spec.kernel[d]);
                                inside &= to >= spec.pads[d] && to - spec.pads[d] < out_size[d];
                                at = to.wrapping_sub(spec.pads[d]).wrapping_mul(stride).wrapping_add(at);
                                stride *= out_size[d];
                            }
                            if inside {
                                let product = x[(b * spec.in_channels + i) * ins + p] as f64
                                    * w[(i * oc + o) * taps + t] as f64;
                                let to = (b * spec.out_channels + i / ic * oc + o) * outs + at;
                                want[to] += product;
                                scale[to] += product.abs();
                            }
                        }
                    }
                }
            }
        }
        let mut out = vec![f32::NAN; want.len()];
        let conv = PackedConvTranspose::new(transposed.clone(), &w, Some(&bias));
        conv.run(batch, &x, &mut out, Activation::None);
        assert_sums(&out, &want, &scale, ic * taps + 1, &format!("{transposed:?}"));
        let mut acted = out.clone();
        crate::activation::apply(Isa::best(), Activation::Tanh, &mut acted);
        conv.run(batch, &x, &mut out, Activation::Tanh);
        assert_eq!(out, acted);
    }
}

#[test]
fn sizes_that_wrap_are_refused() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let refused = |f: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(f)).is_err();
    let plain = ConvSpec::new(2, 3, &[4, 4], &[1, 1]);
    // Output planes of 0 and a few elements, modulo 2⁶⁴.
    for pads in
        [[0, 0, 1 << 62, 0], [1 << 62; 4], [0, 0, (1 << 32) - 4, (1 << 32) - 4], [usize::MAX - 3, 0, 0, 0]]
    {
        for kernel in [1, 3] {
            let w = vec![0.5; 6 * kernel * kernel];
            let spec = ConvSpec { kernel: vec![kernel; 2], pads: pads.to_vec(), ..plain.clone() };
            assert!(refused(&mut || drop(PackedConv::new(spec.clone(), &w, None))), "{spec:?}");
        }
    }
    for (stride, dilation) in [(1, usize::MAX), (1, 1 << 62)] {
        let spec = ConvSpec {
            kernel: vec![3; 2],
            stride: vec![stride; 2],
            dilation: vec![dilation; 2],
            ..plain.clone()
        };
        assert!(refused(&mut || drop(PackedConv::new(spec.clone(), &[0.5; 54], None))), "{spec:?}");
    }
    let conv = PackedConv::new(plain, &[0.5; 6], None);
    // 2⁵⁹ images of 2 · 16 values are none, modulo 2⁶⁴.
    assert!(refused(&mut || conv.run(1 << 59, &[], &mut [], None, Activation::None)));
    let conv = ConvSpec { stride: vec![1 << 62, 1], ..ConvSpec::new(1, 1, &[4; 2], &[1; 2]) };
    let spec = ConvTransposeSpec { conv, output_padding: vec![0; 2] };
    assert!(refused(&mut || drop(PackedConvTranspose::new(spec.clone(), &[0.5], None))));
    // A stride that no output but the first meets is fine, however large.
    let far = ConvSpec { stride: vec![1 << 40; 2], ..ConvSpec::new(2, 3, &[4, 4], &[1, 1]) };
    assert_eq!(far.out_size(), [1, 1]);
    PackedConv::new(far, &[0.5; 6], None).run(1, &[1.0; 32], &mut [0.0; 3], None, Activation::None);
}
