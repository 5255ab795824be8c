//! Functions of two values, element by element, with broadcasting.

use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads::{self, SharedMut};
use std::ops::Range;

/// A function of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
    /// a / b.
    Div,
    /// The greater; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// aᵇ.
    Pow,
    /// Remainder of a / b with the sign of a (C's `fmod`).
    Fmod,
    /// Remainder of a / b with the sign of b (Python's `%`).
    Modulo,
    /// a where a >= 0, else a · b.
    Prelu,
}

/// out = op(a, b) with numpy's broadcasting to `out_shape`, on the current rayon pool.
///
/// Shapes align at their last axes; an axis of size 1 (or a missing one) repeats.
///
/// # Panics
/// If a shape does not broadcast to `out_shape` or a slice's length does not match its shape.
pub fn binary(
    op: BinaryOp,
    a: &[f32],
    a_shape: &[usize],
    b: &[f32],
    b_shape: &[usize],
    out: &mut [f32],
    out_shape: &[usize],
) {
    binary_with(Isa::best(), op, a, a_shape, b, b_shape, out, out_shape);
}

#[allow(clippy::too_many_arguments)]
fn binary_with(
    isa: Isa,
    op: BinaryOp,
    a: &[f32],
    a_shape: &[usize],
    b: &[f32],
    b_shape: &[usize],
    out: &mut [f32],
    out_shape: &[usize],
) {
    assert_eq!(a.len(), size::of(a_shape), "left operand of shape {a_shape:?}");
    assert_eq!(b.len(), size::of(b_shape), "right operand of shape {b_shape:?}");
    assert_eq!(out.len(), size::of(out_shape), "output of shape {out_shape:?}");
    let dims = Dims::new(a_shape, b_shape, out_shape);
    if out.is_empty() {
        return;
    }
    let shared = SharedMut::new(out);
    let work = if matches!(op, BinaryOp::Pow | BinaryOp::Fmod | BinaryOp::Modulo) { 16 } else { 1 };
    if dims.outer == 1 {
        threads::ranges(dims.inner.len, work, |r| {
            // SAFETY: ranges are disjoint.
            let out = unsafe { shared.slice(r.start, r.len()) };
            isa.run(BinaryRows { op, a, b, out, dims: &dims, rows: 0..1, skip: r.start });
        });
    } else {
        threads::ranges(dims.outer, work * dims.inner.len, |r| {
            // SAFETY: ranges are disjoint.
            let out = unsafe { shared.slice(r.start * dims.inner.len, r.len() * dims.inner.len) };
            isa.run(BinaryRows { op, a, b, out, dims: &dims, rows: r, skip: 0 });
        });
    }
}

#[derive(Clone, Copy, Debug)]
struct Dim {
    len: usize,
    a: usize,
    b: usize,
}

/// The output's axes with both operands' strides; adjacent axes are merged where both operands allow it.
#[derive(Debug)]
struct Dims {
    /// All but the last, the slowest first.
    axes: Vec<Dim>,
    /// Product of their lengths.
    outer: usize,
    /// The last one; its strides are 0 or 1.
    inner: Dim,
}

impl Dims {
    fn new(a_shape: &[usize], b_shape: &[usize], out_shape: &[usize]) -> Dims {
        let rank = out_shape.len();
        assert!(
            a_shape.len() <= rank && b_shape.len() <= rank,
            "an operand has more axes than {out_shape:?}"
        );
        let mut merged: Vec<Dim> = vec![];
        let (mut a_stride, mut b_stride) = (1, 1);
        for i in 0..rank {
            let len = out_shape[rank - 1 - i];
            let stride_of = |shape: &[usize], stride: &mut usize| {
                let size = if i < shape.len() { shape[shape.len() - 1 - i] } else { 1 };
                assert!(size == len || size == 1, "{shape:?} doesn't broadcast to {out_shape:?}");
                let used = if size == 1 { 0 } else { *stride };
                *stride *= size;
                used
            };
            let dim = Dim { len, a: stride_of(a_shape, &mut a_stride), b: stride_of(b_shape, &mut b_stride) };
            if len == 1 {
                continue;
            }
            match merged.last_mut() {
                Some(last) if dim.a == last.a * last.len && dim.b == last.b * last.len => last.len *= len,
                _ => merged.push(dim),
            }
        }
        let mut inner = Dim { len: 1, a: 0, b: 0 };
        if let Some(&first) = merged.first() {
            inner = first;
            merged.remove(0);
        }
        merged.reverse();
        Dims { outer: merged.iter().map(|d| d.len).product(), axes: merged, inner }
    }

    /// Offsets of the operands' rows for outer index `i`.
    fn row(&self, mut i: usize) -> (usize, usize) {
        let (mut a, mut b) = (0, 0);
        for d in self.axes.iter().rev() {
            a += i % d.len * d.a;
            b += i % d.len * d.b;
            i /= d.len;
        }
        (a, b)
    }
}

/// Output rows `rows`, from element `skip` of each on.
struct BinaryRows<'a> {
    op: BinaryOp,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
    dims: &'a Dims,
    rows: Range<usize>,
    skip: usize,
}

impl Kernel for BinaryRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inner = self.dims.inner;
        let n = self.out.len() / self.rows.len();
        for (row, out) in self.rows.zip(self.out.chunks_exact_mut(n)) {
            let (a, b) = self.dims.row(row);
            let (a, b) = (a + self.skip * inner.a, b + self.skip * inner.b);
            let span = |step: usize| if step == 0 { 1 } else { n };
            let (a, b) = (&self.a[a..a + span(inner.a)], &self.b[b..b + span(inner.b)]);
            combine(s, self.op, a, b, out);
        }
    }
}

/// Evaluates an expression for each vector of `out`; an operand of one value repeats.
macro_rules! zip_vectors {
    ($s:ident, $a:ident, $b:ident, $out:ident, |$x:ident, $y:ident| $e:expr) => {{
        let n = $out.len();
        let (pa, pb, po) = ($a.as_ptr(), $b.as_ptr(), $out.as_mut_ptr());
        let (va, vb) = ($s.splat($a[0]), $s.splat($b[0]));
        let (many_a, many_b) = ($a.len() == n, $b.len() == n);
        let mut i = 0;
        while i + S::LANES <= n {
            // SAFETY: i + LANES <= n, the length of out and of the operands that aren't one value.
            unsafe {
                let $x = if many_a { $s.load(pa.add(i)) } else { va };
                let $y = if many_b { $s.load(pb.add(i)) } else { vb };
                $s.store(po.add(i), $e);
            }
            i += S::LANES;
        }
        if i < n {
            // SAFETY: n - i < LANES values are left.
            unsafe {
                let $x = if many_a { $s.load_n(pa.add(i), n - i) } else { va };
                let $y = if many_b { $s.load_n(pb.add(i), n - i) } else { vb };
                $s.store_n(po.add(i), $e, n - i);
            }
        }
    }};
}

#[inline(always)]
fn combine<S: Simd>(s: S, op: BinaryOp, a: &[f32], b: &[f32], out: &mut [f32]) {
    match op {
        BinaryOp::Add => zip_vectors!(s, a, b, out, |x, y| s.add(x, y)),
        BinaryOp::Sub => zip_vectors!(s, a, b, out, |x, y| s.sub(x, y)),
        BinaryOp::Mul => zip_vectors!(s, a, b, out, |x, y| s.mul(x, y)),
        BinaryOp::Div => zip_vectors!(s, a, b, out, |x, y| s.div(x, y)),
        // The vector extrema return y if an operand is NaN; if x is NaN, select x.
        BinaryOp::Max => zip_vectors!(s, a, b, out, |x, y| s.select(s.eq(x, x), s.max(x, y), x)),
        BinaryOp::Min => zip_vectors!(s, a, b, out, |x, y| s.select(s.eq(x, x), s.min(x, y), x)),
        BinaryOp::Prelu => zip_vectors!(s, a, b, out, |x, y| s.select(s.lt(x, s.zero()), s.mul(x, y), x)),
        BinaryOp::Pow => match *b {
            [2.0] if out.len() != 1 => zip_vectors!(s, a, a, out, |x, y| s.mul(x, y)),
            _ => zip(a, b, out, f32::powf),
        },
        BinaryOp::Fmod => zip(a, b, out, |x, y| x % y),
        BinaryOp::Modulo => zip(a, b, out, |x, y| {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }),
    }
}

fn zip(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let (step_a, step_b) = ((a.len() > 1) as usize, (b.len() > 1) as usize);
    for (i, o) in out.iter_mut().enumerate() {
        *o = f(a[i * step_a], b[i * step_b]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn reference(op: BinaryOp, x: f32, y: f32) -> f32 {
        match op {
            BinaryOp::Add => x + y,
            BinaryOp::Sub => x - y,
            BinaryOp::Mul => x * y,
            BinaryOp::Div => x / y,
            BinaryOp::Max => {
                if x.is_nan() || y.is_nan() {
                    f32::NAN
                } else {
                    x.max(y)
                }
            }
            BinaryOp::Min => {
                if x.is_nan() || y.is_nan() {
                    f32::NAN
                } else {
                    x.min(y)
                }
            }
            BinaryOp::Pow => x.powf(y),
            BinaryOp::Fmod => x % y,
            BinaryOp::Modulo => x - y * (x / y).floor(),
            BinaryOp::Prelu => {
                if x < 0.0 {
                    x * y
                } else {
                    x
                }
            }
        }
    }

    const ALL: [BinaryOp; 10] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Max,
        BinaryOp::Min,
        BinaryOp::Pow,
        BinaryOp::Fmod,
        BinaryOp::Modulo,
        BinaryOp::Prelu,
    ];

    #[test]
    fn broadcasts_as_numpy() {
        let mut rng = Rng::new(7);
        for case in 0..200 {
            let rank = rng.below(5);
            let out_shape: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 7, 16, 19][rng.below(6)]).collect();
            let mut drop = |shape: &[usize]| -> Vec<usize> {
                let keep = shape.len() - rng.below(shape.len() + 1) * rng.below(2);
                shape[shape.len() - keep..].iter().map(|&d| if rng.below(3) == 0 { 1 } else { d }).collect()
            };
            let (a_shape, b_shape) = (drop(&out_shape), drop(&out_shape));
            let a = rng.values(a_shape.iter().product());
            let b: Vec<f32> = rng.values(b_shape.iter().product()).iter().map(|x| x + 0.01).collect();
            let n = out_shape.iter().product();
            let op = ALL[case % ALL.len()];
            let a: Vec<f32> = if op == BinaryOp::Pow { a.iter().map(|x| x.abs()).collect() } else { a };
            for isa in Isa::available() {
                let mut out = vec![0.0; n];
                binary_with(isa, op, &a, &a_shape, &b, &b_shape, &mut out, &out_shape);
                for (i, &got) in out.iter().enumerate() {
                    let index = |shape: &[usize]| {
                        let (mut rest, mut at, mut stride) = (i, 0, 1);
                        for d in 0..rank {
                            let coordinate = rest % out_shape[rank - 1 - d];
                            rest /= out_shape[rank - 1 - d];
                            if d < shape.len() {
                                let size = shape[shape.len() - 1 - d];
                                at += if size == 1 { 0 } else { coordinate * stride };
                                stride *= size;
                            }
                        }
                        at
                    };
                    let want = reference(op, a[index(&a_shape)], b[index(&b_shape)]);
                    let close = (got - want).abs()
                        <= 1e-5 * want.abs() + if op == BinaryOp::Modulo { 1e-5 } else { 0.0 };
                    assert!(
                        close,
                        "{isa:?} {op:?} {a_shape:?} {b_shape:?} {out_shape:?} [{i}]: {got}, want {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn extrema_carry_nan_from_either_side() {
        for isa in Isa::available() {
            for op in [BinaryOp::Max, BinaryOp::Min] {
                let (a, b) = ([f32::NAN, 1.0, f32::NAN], [1.0, f32::NAN, f32::NAN]);
                let mut out = [0.0; 3];
                binary_with(isa, op, &a, &[3], &b, &[3], &mut out, &[3]);
                assert!(out.iter().all(|x| x.is_nan()), "{isa:?} {op:?}: {out:?}");
            }
        }
    }

    #[test]
    fn large_inputs_are_cut_between_threads() {
        let n = 300_001;
        let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let mut out = vec![0.0; n];
        binary(BinaryOp::Mul, &a, &[n], &[2.0], &[], &mut out, &[n]);
        assert!(out.iter().enumerate().all(|(i, &x)| x == 2.0 * i as f32));
    }
}
