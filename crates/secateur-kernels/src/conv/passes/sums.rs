//! Sums of shifted rows.

use super::plan::{Results, Target, row_block};
use crate::planes::keep;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Vectors of a row that are computed together with those of other rows.
const WIDE: usize = 3;

/// Vectors of a row that are computed together where it is the only one.
const ALONE: usize = 8;

/// result\[row, i\] = bias\[row\] + Σ over terms of weight\[row, term\] · source\[place(term) + i\].
pub(super) struct Dense<'a> {
    pub(super) target: Target<'a>,
    pub(super) places: &'a [usize],
    /// For each block of rows the weights of a term of all of them, term by term.
    pub(super) weights: &'a [f32],
    pub(super) sources: &'a [f32],
}

impl Kernel for Dense<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dense { target, places, weights, sources } = self;
        check(&target, places, sources);
        assert_eq!(weights.len(), target.rows * places.len(), "weights of a panel");
        let vectors = target.results.pitch / S::LANES;
        // A stretch of all rows before the next one: its sources stay in the first-level cache.
        let mut v = 0;
        while v < vectors {
            let many = if target.rows == 1 { ALONE } else { WIDE };
            let count = if vectors - v >= many { many } else { 1 };
            let x = sources.as_ptr().wrapping_add(v * S::LANES);
            let (mut row, mut w) = (0, weights.as_ptr());
            while row < target.rows {
                let rows = row_block(S::LANES, target.rows - row);
                // SAFETY: by the assertions the vectors of the stretch can be read from each term's source on, and the rows'
                // weights follow one another.
                unsafe {
                    match (rows, count) {
                        (8, WIDE) => s.call(Block::<8, WIDE> { target: &target, places, w, x, row, v }),
                        (8, _) => s.call(Block::<8, 1> { target: &target, places, w, x, row, v }),
                        (4, WIDE) => s.call(Block::<4, WIDE> { target: &target, places, w, x, row, v }),
                        (4, _) => s.call(Block::<4, 1> { target: &target, places, w, x, row, v }),
                        (2, WIDE) => s.call(Block::<2, WIDE> { target: &target, places, w, x, row, v }),
                        (2, _) => s.call(Block::<2, 1> { target: &target, places, w, x, row, v }),
                        (_, ALONE) => s.call(Block::<1, ALONE> { target: &target, places, w, x, row, v }),
                        (_, WIDE) => s.call(Block::<1, WIDE> { target: &target, places, w, x, row, v }),
                        _ => s.call(Block::<1, 1> { target: &target, places, w, x, row, v }),
                    }
                    w = w.add(rows * places.len());
                }
                row += rows;
            }
            v += count;
        }
    }
}

/// Every term's row can be read for all vectors, and every result written.
#[inline(always)]
fn check(target: &Target<'_>, places: &[usize], sources: &[f32]) {
    let Target { first, step, rows, results: Results { pitch, bias, out, inside } } = target;
    assert!(pitch % MAX_LANES == 0 && *rows > 0, "rows of whole vectors");
    let last = first + (rows - 1) * step;
    assert!((last + 1) * pitch <= out.len() && bias.is_none_or(|bias| last < bias.len()), "rows of results");
    assert!(inside.is_none_or(|inside| inside.len() >= *pitch), "elements of maps");
    let reach = places.iter().max().map_or(0, |&place| place);
    assert!(reach + pitch <= sources.len(), "a source ends early");
}

/// `N` vectors from vector `v` on of `R` rows from `row` on.
struct Block<'a, 'b, const R: usize, const N: usize> {
    target: &'a Target<'b>,
    places: &'a [usize],
    w: *const f32,
    x: *const f32,
    row: usize,
    v: usize,
}

impl<const R: usize, const N: usize> Kernel for Block<'_, '_, R, N> {
    type Output = ();
    /// Arrays are walked through by indices: loops over iterators of this many registers are not unrolled.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn run<S: Simd>(self, s: S) {
        let Block { target, places, w, x, row, v } = self;
        let mut sums = [[s.zero(); N]; R];
        if let Some(bias) = target.results.bias {
            for r in 0..R {
                sums[r] = [s.splat(bias[target.first + (row + r) * target.step]); N];
            }
        }
        let mut w = w;
        for &place in places {
            // SAFETY: `Dense` has checked that the vectors can be read from each place on, and that there are R weights a term.
            unsafe {
                let x = x.add(place);
                let mut values = [s.zero(); N];
                for i in 0..N {
                    values[i] = s.load(x.add(i * S::LANES));
                }
                for r in 0..R {
                    let weight = s.splat(*w.add(r));
                    for i in 0..N {
                        sums[r][i] = s.fma(weight, values[i], sums[r][i]);
                    }
                }
                w = w.add(R);
            }
        }
        for r in 0..R {
            // SAFETY: `Dense` has checked that the rows of results have the vectors.
            unsafe { store(s, target, row + r, v, &sums[r]) };
        }
    }
}

/// Stores vectors of a row of results.
///
/// # Safety
/// The row is among those that [`check`] has seen, and has these vectors; no one else writes it.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn store<S: Simd, const N: usize>(s: S, target: &Target<'_>, row: usize, v: usize, sums: &[S::V; N]) {
    let at = (target.first + row * target.step) * target.results.pitch + v * S::LANES;
    let out = target.results.out.at(at);
    for i in 0..N {
        let mut sum = sums[i];
        // SAFETY: guaranteed by the caller.
        unsafe {
            if let Some(inside) = target.results.inside {
                sum = keep(s, s.load(inside.as_ptr().add((v + i) * S::LANES)), sum);
            }
            s.store(out.add(i * S::LANES), sum);
        }
    }
}

/// As [`Dense`], each row with terms of its own.
pub(super) struct Sparse<'a> {
    pub(super) target: Target<'a>,
    /// Where the terms of each row begin; one entry more than there are rows.
    pub(super) starts: &'a [usize],
    /// Terms of all rows: where the source begins, and the weight.
    pub(super) places: &'a [usize],
    pub(super) weights: &'a [f32],
    pub(super) sources: &'a [f32],
}

impl Kernel for Sparse<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sparse { target, starts, places, weights, sources } = self;
        let all = starts[0]..starts[target.rows];
        check(&target, &places[all.clone()], sources);
        assert!(all.end <= weights.len(), "weights of rows");
        let vectors = target.results.pitch / S::LANES;
        let mut v = 0;
        while v < vectors {
            let count = if vectors - v >= ALONE { ALONE } else { 1 };
            let x = sources.as_ptr().wrapping_add(v * S::LANES);
            for row in 0..target.rows {
                let own = starts[row]..starts[row + 1];
                let (places, weights) = (&places[own.clone()], &weights[own]);
                // SAFETY: by the assertions the vectors of the stretch can be read from each term's source on, and written.
                unsafe {
                    match count {
                        ALONE => stretch::<S, ALONE>(s, &target, row, v, places, weights, x),
                        _ => stretch::<S, 1>(s, &target, row, v, places, weights, x),
                    }
                }
            }
            v += count;
        }
    }
}

/// `N` vectors of a row.
///
/// # Safety
/// `N` vectors can be read from each place behind `x` on, and the row is as for [`store`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn stretch<S: Simd, const N: usize>(
    s: S,
    target: &Target<'_>,
    row: usize,
    v: usize,
    places: &[usize],
    weights: &[f32],
    x: *const f32,
) {
    let start = target.results.bias.map_or(0.0, |bias| bias[target.first + row * target.step]);
    let mut sums = [s.splat(start); N];
    for (&place, &weight) in places.iter().zip(weights) {
        let weight = s.splat(weight);
        for i in 0..N {
            // SAFETY: guaranteed by the caller.
            let x = unsafe { s.load(x.add(place + i * S::LANES)) };
            sums[i] = s.fma(weight, x, sums[i]);
        }
    }
    // SAFETY: guaranteed by the caller.
    unsafe { store(s, target, row, v, &sums) };
}
