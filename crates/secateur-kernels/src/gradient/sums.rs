//! Sums over the rows of a matrix.

use crate::planes::Planes;
use crate::reduce::{ReduceOp, reduce};
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

/// sums\[c\] = Σ over samples and positions of a tensor that lies in these planes.
///
/// # Panics
/// If the lengths don't fit the planes.
pub fn channel_sums(planes: &Planes, values: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    assert_eq!(values.len(), planes.len(channels), "a tensor of {channels} channels");
    let rows = &values[planes.margin()..values.len() - planes.margin()];
    threads::with_workspace(planes.blocks() * channels, |of_rows| {
        reduce(ReduceOp::Sum, rows, of_rows.len(), planes.pitch(), 1, of_rows);
        column_sums(of_rows, planes.blocks(), channels, sums);
    });
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
    fn channels_are_summed_wherever_they_lie() {
        let mut rng = Rng::new(52);
        let (batch, channels, size) = (6, 5, [4, 7]);
        let x = rng.values(batch * channels * 28);
        let of = |c: usize| x.iter().enumerate().filter(move |(i, _)| i / 28 % channels == c).map(|(_, x)| x);
        let want: Vec<f64> = (0..channels).map(|c| of(c).map(|&x| f64::from(x)).sum()).collect();
        let scale: Vec<f64> = (0..channels).map(|c| of(c).map(|&x| f64::from(x).abs()).sum()).collect();
        for planes in [Planes::plain(batch, &size), Planes::padded(batch, &size, [1, 5, 9], 20)] {
            let mut packed = vec![f32::NAN; planes.len(channels)];
            planes.pack(channels, &x, &mut packed);
            let mut sums = vec![f32::NAN; channels];
            channel_sums(&planes, &packed, &mut sums);
            assert_sums(&sums, &want, &scale, batch * 28, &format!("{planes:?}"));
        }
    }

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
