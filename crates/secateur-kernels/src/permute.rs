//! Transposition: axes in another order.

use crate::size;
use crate::threads::{self, SharedMut};

/// Side of the square tiles in which two axes are transposed.
const TILE: usize = 16;

/// Copies `x` of shape `shape` so that axis i of `out` is axis `perm[i]` of `x` (numpy's `transpose`), on the current rayon
/// pool if there is enough to do.
///
/// # Panics
/// If `perm` is not a permutation of the axes or the lengths do not match the shape.
pub fn permute<T: Copy + Send + Sync>(x: &[T], shape: &[usize], perm: &[usize], out: &mut [T]) {
    let rank = shape.len();
    let mut seen = vec![false; rank];
    assert!(
        perm.len() == rank && perm.iter().all(|&p| p < rank && !std::mem::replace(&mut seen[p], true)),
        "{perm:?} isn't a permutation of {rank} axes"
    );
    let count = size::of(shape);
    assert!(
        x.len() == count && out.len() == count,
        "{} and {} values for shape {shape:?}",
        x.len(),
        out.len()
    );
    if count == 0 {
        return;
    }

    let mut strides = vec![1; rank];
    for i in (1..rank).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    // The output's axes, slowest first, without axes of size 1, and with axes merged that stay adjacent.
    let mut axes: Vec<Axis> = vec![];
    for &p in perm {
        if shape[p] == 1 {
            continue;
        }
        match axes.last_mut() {
            Some(last) if last.src == strides[p] * shape[p] => {
                *last = Axis { len: last.len * shape[p], src: strides[p], dst: 0 };
            }
            _ => axes.push(Axis { len: shape[p], src: strides[p], dst: 0 }),
        }
    }
    let mut dst = 1;
    for axis in axes.iter_mut().rev() {
        axis.dst = dst;
        dst *= axis.len;
    }

    let Some(&last) = axes.last() else {
        out.copy_from_slice(x);
        return;
    };
    axes.pop();
    if last.src == 1 {
        threads::chunks(out, last.len, last.len, |first, out| {
            for (i, run) in out.chunks_exact_mut(last.len).enumerate() {
                let (src, _) = offsets(&axes, first + i);
                run.copy_from_slice(&x[src..src + last.len]);
            }
        });
        return;
    }
    // The source has another innermost axis: copy in tiles over both.
    let at = axes.iter().position(|a| a.src == 1).expect("an axis is innermost in the source");
    let inner = axes.remove(at);
    let outer: usize = axes.iter().map(|a| a.len).product();
    let strips = inner.len.div_ceil(TILE);
    let shared = SharedMut::new(out);
    threads::ranges(outer * strips, TILE * last.len * 2, |range| {
        for i in range {
            let (src, dst) = offsets(&axes, i / strips);
            let strip = i % strips * TILE;
            let rows = TILE.min(inner.len - strip);
            for col in (0..last.len).step_by(TILE) {
                let cols = TILE.min(last.len - col);
                for r in 0..rows {
                    let from = src + (strip + r) + col * last.src;
                    // SAFETY: each task writes its own rows of the output, `cols` elements of each here.
                    let to = unsafe { shared.slice(dst + (strip + r) * inner.dst + col, cols) };
                    for (c, y) in to.iter_mut().enumerate() {
                        *y = x[from + c * last.src];
                    }
                }
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    src: usize,
    dst: usize,
}

/// Offsets of item `i` of the axes' product in the source and the output.
fn offsets(axes: &[Axis], mut i: usize) -> (usize, usize) {
    let (mut src, mut dst) = (0, 0);
    for a in axes.iter().rev() {
        src += i % a.len * a.src;
        dst += i % a.len * a.dst;
        i /= a.len;
    }
    (src, dst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn every_element_lands_where_it_belongs() {
        let mut rng = Rng::new(9);
        for _ in 0..300 {
            let rank = rng.below(6);
            let shape: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 2, 3, 5, 17, 20])).collect();
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, rng.below(i + 1));
            }
            let count = shape.iter().product();
            let x: Vec<u32> = (0..count as u32).collect();
            let mut out = vec![0; count];
            permute(&x, &shape, &perm, &mut out);
            for (i, &got) in out.iter().enumerate() {
                let (mut rest, mut at) = (i, 0);
                for d in (0..rank).rev() {
                    let coordinate = rest % shape[perm[d]];
                    rest /= shape[perm[d]];
                    at += coordinate * shape[perm[d] + 1..].iter().product::<usize>();
                }
                assert_eq!(got as usize, at, "{shape:?} {perm:?}");
            }
        }
    }

    #[test]
    fn empty_tensors_are_fine() {
        permute::<f32>(&[], &[3, 0, 2], &[2, 0, 1], &mut []);
    }
}
