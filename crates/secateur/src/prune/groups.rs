//! The lowest scores of small groups along an axis.

use rayon::prelude::*;

use super::Mask;
use super::ranking::{Key, Keys};
use crate::prune::weights::{BUFFER, CHUNK};

/// A tensor seen as `[outer, extent, inner]`, whose middle axis is divided into groups of `m`; the
/// last group of each may be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Elements of the axes outside.
    pub outer: usize,
    /// The extent of the axis with the groups.
    pub extent: usize,
    /// Elements of the axes inside.
    pub inner: usize,
    /// Elements of a group.
    pub m: usize,
}

/// A mask that keeps at most the `n` highest keys of each group; among equal keys those of lower
/// positions go first. Keys that are 0 are pruned already and stay so.
///
/// # Panics
/// Where the groups do not divide the tensor.
pub fn prune_lowest_in_groups<K: Key>(tensor: &dyn Keys<K>, groups: &Groups, n: usize) -> Mask {
    let &Groups { outer, extent, inner, m } = groups;
    let (len, row) = (tensor.len(), extent * inner);
    assert_eq!(len, outer * row);
    if len == 0 {
        return Mask::all(0);
    }
    // Tasks of whole rows that fill whole words of the mask.
    let rows = 64 / gcd(row, 64);
    let rows = rows * CHUNK.div_ceil(rows * row);
    // Whole groups whose keys are filled in together.
    let block = (BUFFER / (m * inner)).max(1) * m;
    let mut words = vec![u64::MAX; len.div_ceil(64)];
    words.par_chunks_mut(rows * row / 64).enumerate().for_each(|(task, words)| {
        let (mut keys, mut order) = (Vec::new(), Vec::new());
        let first = task * rows * row;
        for start in (first..len.min(first + rows * row)).step_by(row) {
            for from in (0..extent).step_by(block) {
                let filled = block.min(extent - from);
                keys.resize(filled * inner, K::default());
                tensor.fill(start + from * inner, &mut keys);
                for group in (0..filled).step_by(m) {
                    let members = m.min(filled - group);
                    for at in 0..inner {
                        order.clear();
                        order.extend((0..members).map(|i| (keys[(group + i) * inner + at], i)));
                        order.sort_unstable();
                        let already = order.iter().filter(|(key, _)| *key == K::default()).count();
                        for (_, i) in &order[..members.saturating_sub(n).max(already)] {
                            let bit = start - first + (from + group + i) * inner + at;
                            words[bit / 64] &= !(1 << (bit % 64));
                        }
                    }
                }
            }
        }
    });
    Mask::from_words(len, words).expect("a word for every 64 keys")
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Few(Vec<u32>);

    impl Keys<u32> for Few {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn fill(&self, start: usize, out: &mut [u32]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    proptest! {
        /// A key goes where at least `n` of its group are above it: higher, or equal and later.
        #[test]
        fn the_highest_of_each_group_stay(
            (outer, extent, inner, m, n) in (1..70usize, 1..9usize, 1..4usize, 2..6usize, 1..5usize),
            draws in prop::collection::vec(0..6u32, 70 * 9 * 4),
        ) {
            let groups = Groups { outer, extent, inner, m };
            let keys = draws[..outer * extent * inner].to_vec();
            let mask = prune_lowest_in_groups(&Few(keys.clone()) as &dyn Keys<u32>, &groups, n);
            for (at, &key) in keys.iter().enumerate() {
                let (row, position, inside) = (at / inner / extent, at / inner % extent, at % inner);
                let group = position / m * m..extent.min(position / m * m + m);
                let above = group
                    .filter(|&p| (keys[(row * extent + p) * inner + inside], p) > (key, position))
                    .count();
                prop_assert_eq!(mask.keeps(at), above < n && key != 0);
            }
        }
    }
}
