//! Sizes that slices are checked against.

/// The largest size: beyond any memory, and so far below 2⁶⁴ that the sum of a few sizes, or a size rounded up to vectors
/// and panels, cannot wrap. Models' shapes have at most 2⁴⁶ elements and never reach it, although tiles of narrow maps take
/// up to 16 times as much memory.
pub(crate) const MAX: usize = if usize::BITS < 64 { isize::MAX as usize / 16 } else { 1 << 52 };

/// The product of dimensions: the length of a slice. Every length that `unsafe` code relies on is computed here.
///
/// # Panics
/// If the product of the nonzero dimensions is above [`MAX`].
#[track_caller]
pub(crate) fn of(extents: &[usize]) -> usize {
    let nonzero = extents.iter().filter(|&&d| d != 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    assert!(nonzero.is_some_and(|n| n <= MAX), "sizes {extents:?} are too large");
    if extents.contains(&0) { 0 } else { nonzero.unwrap_or(0) }
}

/// The sum of sizes.
///
/// # Panics
/// If it is above [`MAX`].
#[track_caller]
pub(crate) fn sum(sizes: &[usize]) -> usize {
    let sum = sizes.iter().try_fold(0usize, |n, &d| n.checked_add(d)).filter(|&n| n <= MAX);
    assert!(sum.is_some(), "sizes {sizes:?} are too large");
    sum.unwrap_or(0)
}

/// The product of dimensions as a measure of work, for dividing tasks; saturates.
pub(crate) fn work(factors: &[usize]) -> usize {
    factors.iter().fold(1, |n, &d| n.saturating_mul(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wraps_is_refused() {
        assert_eq!(of(&[2, 3, 4]), 24);
        assert_eq!(of(&[]), 1);
        assert_eq!(of(&[5, 0]), 0);
        assert_eq!(sum(&[1, 2]), 3);
        let panics = |f: fn() -> usize| std::panic::catch_unwind(f).is_err();
        assert!(panics(|| of(&[usize::MAX, 2])));
        assert!(panics(|| of(&[1 << 62, 4])));
        assert!(panics(|| of(&[0, 1 << 62, 4])));
        assert!(panics(|| sum(&[usize::MAX, 1])));
    }
}
