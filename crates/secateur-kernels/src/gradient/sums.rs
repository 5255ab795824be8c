//! Sums over the rows of a matrix.

use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads;

/// Rows that are summed in f32 before they go into the sum in f64.
const BLOCK: usize = 64;

/// Columns that one task sums.
const COLUMNS: usize = 256;

/// sums\[c\] = Σ over r of x\[r, c\], each in an order of its own.
///
/// # Panics
/// If the lengths aren't `rows · columns` and `columns`.
pub fn column_sums(x: &[f32], rows: usize, columns: usize, sums: &mut [f32]) {
    column_sums_with(Isa::best(), x, rows, columns, sums);
}

fn column_sums_with(isa: Isa, x: &[f32], rows: usize, columns: usize, sums: &mut [f32]) {
    assert_eq!(x.len(), size::of(&[rows, columns]), "a matrix of {rows} rows and {columns} columns");
    assert_eq!(sums.len(), columns, "sums of {columns} columns");
    let shared = threads::SharedMut::new(sums);
    let parallel = x.len() >= 2 * threads::GRAIN;
    threads::tasks(columns.div_ceil(COLUMNS), parallel, |task| {
        let first = task * COLUMNS;
        let width = COLUMNS.min(columns - first);
        // SAFETY: each task has columns of its own.
        let out = unsafe { shared.slice(first, width) };
        isa.run(Sums { x, rows, columns, first, out });
    });
}

struct Sums<'a> {
    x: &'a [f32],
    rows: usize,
    columns: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { x, rows, columns, first, out } = self;
        let mut totals = [0f64; COLUMNS];
        let mut block = [0f32; COLUMNS];
        let width = out.len();
        for start in (0..rows).step_by(BLOCK) {
            block[..width].fill(0.0);
            for row in start..rows.min(start + BLOCK) {
                let values = &x[row * columns + first..][..width];
                let p = block.as_mut_ptr();
                for i in (0..width).step_by(S::LANES) {
                    let lanes = S::LANES.min(width - i);
                    // SAFETY: lanes values from i on lie in the row and in the block.
                    unsafe {
                        let sum = s.add(s.load_n(p.add(i), lanes), s.load_n(values.as_ptr().add(i), lanes));
                        s.store_n(p.add(i), sum, lanes);
                    }
                }
            }
            totals.iter_mut().zip(&block).take(width).for_each(|(total, &part)| *total += f64::from(part));
        }
        out.iter_mut().zip(totals).for_each(|(out, total)| *out = total as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_sums, in_pool};

    #[test]
    fn agree_with_the_definition_on_any_threads() {
        let mut rng = Rng::new(5);
        for _ in 0..20 {
            let (rows, columns) = (rng.below(300), 1 + rng.below(600));
            let x = rng.values(rows * columns);
            let column = |c: usize| (0..rows).map(move |r| r * columns + c);
            let want: Vec<f64> = (0..columns).map(|c| column(c).map(|i| f64::from(x[i])).sum()).collect();
            let scale: Vec<f64> =
                (0..columns).map(|c| column(c).map(|i| f64::from(x[i].abs())).sum()).collect();
            let sums = |isa, threads| {
                let mut sums = vec![f32::NAN; columns];
                in_pool(threads, || column_sums_with(isa, &x, rows, columns, &mut sums));
                sums
            };
            for isa in Isa::available() {
                let got = sums(isa, 1);
                assert_sums(&got, &want, &scale, rows, &format!("{rows}x{columns}"));
                assert_eq!(got, sums(isa, 3));
            }
        }
    }
}
