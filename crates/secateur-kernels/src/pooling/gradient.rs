//! Gradients of pooling over windows.

use super::{PoolOp, PoolSpec, divide};
use crate::conv::spec::Geometry;
use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads;

/// The gradient of max pooling: each window's goes to its maximum, whose index in the plane is given (−1 for none), as by
/// [`crate::max_pool_indices`]. `dx` is overwritten.
///
/// # Panics
/// If the lengths don't fit `planes`, or an index is outside of the plane.
pub fn max_pool_gradient(planes: usize, indices: &[i64], d: &[f32], dx: &mut [f32]) {
    assert_eq!(indices.len(), d.len(), "indices of {planes} planes");
    if planes == 0 || dx.is_empty() {
        return;
    }
    assert!(d.len().is_multiple_of(planes) && dx.len().is_multiple_of(planes), "values of {planes} planes");
    let (out_plane, in_plane) = (d.len() / planes, dx.len() / planes);
    threads::chunks(dx, in_plane, in_plane + 2 * out_plane, |first, dx| {
        dx.fill(0.0);
        for (plane, dx) in dx.chunks_exact_mut(in_plane).enumerate() {
            let of = (first + plane) * out_plane..(first + plane + 1) * out_plane;
            for (&index, d) in indices[of.clone()].iter().zip(&d[of]) {
                if let Ok(index) = usize::try_from(index) {
                    dx[index] += d;
                }
            }
        }
    });
}

/// The gradient of pooling by means or by norms; `x` and `y` are argument and result of a norm, and empty for a mean. `d` is
/// ∂L/∂y and is overwritten too.
///
/// ```text
/// mean:      ∂x = Σ d / count                                over the windows that x is in
/// p-norm:    ∂x = |x|ᵖ⁻¹ · sign x · Σ d · y¹⁻ᵖ                0 where the norm is 0
/// ```
///
/// # Panics
/// If the spec is invalid, a length doesn't match it, or `op` is a maximum: see [`max_pool_gradient`].
pub fn pool_gradient(
    op: PoolOp,
    spec: &PoolSpec,
    planes: usize,
    (x, y): (&[f32], &[f32]),
    d: &mut [f32],
    dx: &mut [f32],
) {
    pool_gradient_with(Isa::best(), op, spec, planes, (x, y), d, dx);
}

fn pool_gradient_with(
    isa: Isa,
    op: PoolOp,
    spec: &PoolSpec,
    planes: usize,
    (x, y): (&[f32], &[f32]),
    d: &mut [f32],
    dx: &mut [f32],
) {
    let w = spec.windows();
    let geometry = &w.geometry;
    let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
    assert!(
        d.len() == size::of(&[planes, out_plane]) && dx.len() == size::of(&[planes, in_plane]),
        "gradients of a pooling of {planes} planes"
    );
    match op {
        PoolOp::Max => panic!("a maximum has its own gradient"),
        PoolOp::Average { count_include_pad } => {
            let each = out_plane.max(1);
            d.chunks_exact_mut(each).for_each(|d| divide(&w, count_include_pad, d));
        }
        PoolOp::Lp(p) => {
            assert!(x.len() == dx.len() && y.len() == d.len(), "argument and result of a norm");
            for (d, &y) in d.iter_mut().zip(y) {
                *d = if y == 0.0 { 0.0 } else { *d * y.powf(1.0 - p) };
            }
        }
    }
    let d = &*d;
    threads::chunks(dx, in_plane, size::work(&[out_plane, geometry.taps()]) + in_plane, |first, dx| {
        for (plane, out) in dx.chunks_exact_mut(in_plane).enumerate() {
            let d = &d[(first + plane) * out_plane..][..out_plane];
            isa.run(Spread { geometry, d, dx: out });
        }
        if let PoolOp::Lp(p) = op {
            let x = &x[first * in_plane..][..dx.len()];
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx *= if p == 2.0 { x } else { slope(x, p) };
            }
        }
    });
}

/// |x|ᵖ⁻¹ · sign x.
fn slope(x: f32, p: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.abs().powf(p - 1.0).copysign(x) }
}

/// dx = for each element the sum of d over the windows that it is in.
struct Spread<'a> {
    geometry: &'a Geometry,
    d: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Spread { geometry, d, dx } = self;
        let [depth, height, width] = geometry.axes;
        dx.fill(0.0);
        for row in 0..depth.out * height.out {
            let d = &d[row * width.out..][..width.out];
            for td in 0..depth.kernel {
                let Some(id) = depth.input(row / height.out, td) else { continue };
                for th in 0..height.kernel {
                    let Some(ih) = height.input(row % height.out, th) else { continue };
                    let to = &mut dx[(id * height.size + ih) * width.size..][..width.size];
                    for tap in 0..width.kernel {
                        let valid = width.valid(tap);
                        let (Some(from), false) = (width.input(valid.start, tap), valid.is_empty()) else {
                            continue;
                        };
                        let d = &d[valid];
                        if width.stride == 1 {
                            add(s, &mut to[from..][..d.len()], d);
                        } else {
                            to[from..].iter_mut().step_by(width.stride).zip(d).for_each(|(to, d)| *to += d);
                        }
                    }
                }
            }
        }
    }
}

/// to += d.
#[inline(always)]
fn add<S: Simd>(s: S, to: &mut [f32], d: &[f32]) {
    let (n, p, q) = (d.len(), to.as_mut_ptr(), d.as_ptr());
    assert_eq!(to.len(), n);
    for i in (0..n).step_by(S::LANES) {
        let lanes = S::LANES.min(n - i);
        // SAFETY: lanes values from i on lie in both slices.
        unsafe { s.store_n(p.add(i), s.add(s.load_n(p.add(i), lanes), s.load_n(q.add(i), lanes)), lanes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};
    use crate::{max_pool_indices, pool};

    /// ∂L/∂x of one plane by the definition: every window and every element of it.
    fn by_definition(op: PoolOp, spec: &PoolSpec, x: &[f32], d: &[f32]) -> Vec<f64> {
        let w = spec.windows();
        let [a, b, c] = w.geometry.axes;
        let mut dx = vec![0.0; x.len()];
        for (at, &d) in d.iter().enumerate() {
            let o = [at / (b.out * c.out), at / c.out % b.out, at % c.out];
            let mut inside = Vec::new();
            for t in 0..a.kernel * b.kernel * c.kernel {
                let t = [t / (b.kernel * c.kernel), t / c.kernel % b.kernel, t % c.kernel];
                let places = (a.input(o[0], t[0]), b.input(o[1], t[1]), c.input(o[2], t[2]));
                if let (Some(i), Some(j), Some(k)) = places {
                    inside.push((i * b.size + j) * c.size + k);
                }
            }
            let d = f64::from(d);
            match op {
                PoolOp::Max => {
                    let best = inside.iter().copied().reduce(|m, i| if x[i] > x[m] { i } else { m });
                    best.into_iter().for_each(|i| dx[i] += d);
                }
                PoolOp::Average { count_include_pad } => {
                    let count: usize = (0..3).map(|i| w.elements(i, o[i], count_include_pad)).product();
                    inside.iter().for_each(|&i| dx[i] += d / count as f64);
                }
                PoolOp::Lp(p) => {
                    let p = f64::from(p);
                    let sum: f64 = inside.iter().map(|&i| f64::from(x[i]).abs().powf(p)).sum();
                    for &i in inside.iter().filter(|_| sum > 0.0) {
                        let v = f64::from(x[i]);
                        dx[i] += d * sum.powf(1.0 / p - 1.0) * v.abs().powf(p - 1.0) * v.signum();
                    }
                }
            }
        }
        dx
    }

    #[test]
    fn agree_with_the_definition_on_any_threads() {
        let mut rng = Rng::new(14);
        let ops = [
            PoolOp::Max,
            PoolOp::Average { count_include_pad: true },
            PoolOp::Average { count_include_pad: false },
            PoolOp::Lp(2.0),
            PoolOp::Lp(3.0),
        ];
        for case in 0..100 {
            let axes = 1 + rng.below(3);
            let mut draw = |from: &[usize]| -> Vec<usize> { (0..axes).map(|_| rng.pick(from)).collect() };
            let in_size = draw(&[4, 5, 8, 19]);
            let (kernel, stride, dilation) = (draw(&[1, 2, 3]), draw(&[1, 2, 3]), draw(&[1, 1, 2]));
            let pads: Vec<usize> = [draw(&[0, 0, 1]), draw(&[0, 1])].concat();
            let out_size: Vec<usize> = (0..axes)
                .map(|a| {
                    let room = in_size[a] + pads[a] + pads[axes + a];
                    room.saturating_sub(dilation[a] * (kernel[a] - 1) + 1) / stride[a] + 1
                })
                .collect();
            let spec = PoolSpec { in_size, out_size, kernel, stride, dilation, pads };
            let (op, planes) = (ops[case % ops.len()], 1 + rng.below(5));
            let (n_in, n_out): (usize, usize) =
                (spec.in_size.iter().product(), spec.out_size.iter().product());
            let (mut x, given) = (rng.values(planes * n_in), rng.values(planes * n_out));
            if op == PoolOp::Max {
                // Many equal ones: the first gets it all.
                x.iter_mut().for_each(|v| *v = (*v * 2.0).round());
            }
            let (mut y, mut indices) = (vec![0.0; given.len()], vec![0; given.len()]);
            match op {
                PoolOp::Max => max_pool_indices(&spec, planes, &x, &mut y, &mut indices),
                _ => pool(op, &spec, planes, &x, &mut y),
            }
            let run = |isa, threads| {
                let (mut d, mut dx) = (given.clone(), vec![f32::NAN; x.len()]);
                in_pool(threads, || match op {
                    PoolOp::Max => max_pool_gradient(planes, &indices, &d, &mut dx),
                    _ => pool_gradient_with(isa, op, &spec, planes, (&x, &y), &mut d, &mut dx),
                });
                dx
            };
            for isa in Isa::available() {
                let got = run(isa, 1);
                assert_eq!(got, run(isa, 3));
                for plane in 0..planes {
                    let x = &x[plane * n_in..][..n_in];
                    let want = by_definition(op, &spec, x, &given[plane * n_out..][..n_out]);
                    for (&got, want) in got[plane * n_in..].iter().zip(want) {
                        let error = (f64::from(got) - want).abs();
                        assert!(error < 1e-5 * (1.0 + want.abs()), "{op:?} {spec:?}: {got} for {want}");
                    }
                }
            }
        }
    }
}
