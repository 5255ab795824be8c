//! Exactly the k lowest scores, ties by position, at memory speed and without a copy of the scores.
//!
//! Scores come as integer keys that order as the scores do. The k-th lowest key is found digit by
//! digit from histograms of the keys that share the digits found so far; once few are left they are
//! gathered and selected from. Counts add up the same in any order, so neither the number of
//! threads nor the division into tasks changes the result.

use std::ops::Range;

use rayon::prelude::*;

use super::Mask;
use super::units::Units;
use crate::score::weights::{BUFFER, CHUNK};

/// An unsigned integer that orders as a score does.
pub trait Key: Copy + Ord + Default + Send + Sync + 'static {
    /// Bits of the type.
    const BITS: u32;
    /// The key shifted right by `shift < BITS`.
    fn shifted(self, shift: u32) -> u64;
    /// The key with these bits.
    fn from_bits(bits: u64) -> Self;
}

impl Key for u32 {
    const BITS: u32 = 32;
    fn shifted(self, shift: u32) -> u64 {
        (self >> shift).into()
    }
    fn from_bits(bits: u64) -> Self {
        bits as u32
    }
}

impl Key for u64 {
    const BITS: u32 = 64;
    fn shifted(self, shift: u32) -> u64 {
        self >> shift
    }
    fn from_bits(bits: u64) -> Self {
        bits
    }
}

/// The scores of a tensor as keys, computed when asked for.
pub trait Keys<K>: Sync {
    /// The number of elements.
    fn len(&self) -> usize;
    /// Whether there are no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Writes the keys of the elements from `start` on.
    fn fill(&self, start: usize, out: &mut [K]);
}

/// Bits of a histogram's digit: its counters stay in the first-level cache.
const DIGIT: u32 = 11;
/// Keys up to which the rest is gathered instead of counted once more.
const GATHER: u64 = 1 << 20;

/// A task's part of a tensor.
#[derive(Clone)]
struct Chunk {
    tensor: usize,
    range: Range<usize>,
}

fn chunks<K>(tensors: &[&dyn Keys<K>]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (tensor, keys) in tensors.iter().enumerate() {
        let len = keys.len();
        chunks.extend(
            (0..len).step_by(CHUNK).map(|start| Chunk { tensor, range: start..len.min(start + CHUNK) }),
        );
    }
    chunks
}

/// Calls `visit` with the keys of a range, some at a time and in their order, with the position of
/// the first.
fn for_each_block<K: Key>(keys: &dyn Keys<K>, range: Range<usize>, mut visit: impl FnMut(usize, &[K])) {
    let mut buffer = [K::default(); BUFFER];
    let mut at = range.start;
    while at < range.end {
        let block = &mut buffer[..BUFFER.min(range.end - at)];
        keys.fill(at, block);
        visit(at, block);
        at += block.len();
    }
}

/// The k-th lowest key, how many are lower and how many equal it.
struct Threshold<K> {
    key: K,
    lower: u64,
    equal: u64,
}

/// # Panics
/// Unless `1 ≤ k ≤` the number of keys.
fn threshold<K: Key>(tensors: &[&dyn Keys<K>], chunks: &[Chunk], k: u64, gather_up_to: u64) -> Threshold<K> {
    let mut lower = 0u64;
    let mut candidates: u64 = tensors.iter().map(|t| t.len() as u64).sum();
    // Candidates are the keys whose bits from `shift` on are `prefix`.
    let (mut prefix, mut shift) = (0u64, K::BITS);
    while candidates > gather_up_to && shift > 0 {
        let digit = DIGIT.min(shift);
        let (low, mask) = (shift - digit, (1u64 << digit) - 1);
        let first = shift == K::BITS;
        let empty = || vec![0u64; 1 << digit];
        let histogram = chunks
            .par_iter()
            .fold(empty, |mut counts, chunk| {
                for_each_block(tensors[chunk.tensor], chunk.range.clone(), |_, keys| {
                    if first {
                        keys.iter().for_each(|key| counts[(key.shifted(low) & mask) as usize] += 1);
                    } else {
                        for key in keys.iter().filter(|key| key.shifted(shift) == prefix) {
                            counts[(key.shifted(low) & mask) as usize] += 1;
                        }
                    }
                });
                counts
            })
            .reduce(empty, |mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            });
        let mut bin = 0;
        while lower + histogram[bin] < k {
            lower += histogram[bin];
            bin += 1;
        }
        candidates = histogram[bin];
        prefix = (prefix << digit) | bin as u64;
        shift = low;
    }
    if shift == 0 {
        return Threshold { key: K::from_bits(prefix), lower, equal: candidates };
    }
    let gather = |chunk: &Chunk| {
        let mut gathered = Vec::new();
        for_each_block(tensors[chunk.tensor], chunk.range.clone(), |_, keys| {
            if shift == K::BITS {
                gathered.extend_from_slice(keys);
            } else {
                gathered.extend(keys.iter().copied().filter(|key| key.shifted(shift) == prefix));
            }
        });
        gathered
    };
    let gathered: Vec<Vec<K>> = chunks.par_iter().map(gather).collect();
    let mut keys = gathered.concat();
    let (_, &mut key, _) = keys.select_nth_unstable((k - lower - 1) as usize);
    let equal = keys.iter().filter(|&&x| x == key).count() as u64;
    lower += keys.iter().filter(|&&x| x < key).count() as u64;
    Threshold { key, lower, equal }
}

/// Masks that prune exactly the `k` lowest keys of all tensors together; among equal keys those of
/// earlier tensors, and within a tensor those of lower positions, go first.
///
/// # Panics
/// Where `k` is more than there are keys.
pub fn prune_lowest<K: Key>(tensors: &[&dyn Keys<K>], k: usize) -> Vec<Mask> {
    prune_lowest_gathering(tensors, k, GATHER)
}

fn prune_lowest_gathering<K: Key>(tensors: &[&dyn Keys<K>], k: usize, gather_up_to: u64) -> Vec<Mask> {
    let total: usize = tensors.iter().map(|t| t.len()).sum();
    assert!(k <= total, "{k} of {total} keys");
    if k == 0 {
        return tensors.iter().map(|t| Mask::all(t.len())).collect();
    }
    let chunks = chunks(tensors);
    let Threshold { key, lower, equal } = threshold(tensors, &chunks, k as u64, gather_up_to);
    let mut quota = k as u64 - lower;
    let mut words: Vec<Vec<u64>> = tensors.iter().map(|t| vec![0; t.len().div_ceil(64)]).collect();
    // Tasks write to parts of their own; each counts its ties where not all of them go.
    let parts = words.iter_mut().flat_map(|words| words.chunks_mut(CHUNK / 64));
    let mut tasks: Vec<(&Chunk, &mut [u64])> = chunks.iter().zip(parts).collect();
    let ties: Vec<u64> = tasks
        .par_iter_mut()
        .map(|(chunk, words)| {
            write_kept(tensors[chunk.tensor], chunk.range.clone(), words, |x| x > key);
            if quota == equal { 0 } else { count(tensors[chunk.tensor], chunk.range.clone(), |x| x == key) }
        })
        .collect();
    if quota < equal {
        // The ties past the quota are kept: those of whole tasks, and some of the task it ends in.
        let mut quotas = Vec::with_capacity(ties.len());
        for &ties in &ties {
            quotas.push(quota.min(ties));
            quota -= quota.min(ties);
        }
        tasks.par_iter_mut().zip(quotas).zip(&ties).for_each(|(((chunk, words), mut quota), &ties)| {
            if quota < ties {
                for_each_block(tensors[chunk.tensor], chunk.range.clone(), |at, keys| {
                    for (i, _) in keys.iter().enumerate().filter(|&(_, &x)| x == key) {
                        let bit = at + i - chunk.range.start;
                        words[bit / 64] |= u64::from(quota == 0) << (bit % 64);
                        quota = quota.saturating_sub(1);
                    }
                });
            }
        });
    }
    let masks = tensors.iter().zip(words).map(|(t, words)| Mask::from_words(t.len(), words));
    masks.map(|mask| mask.expect("a word for every 64 keys")).collect()
}

fn write_kept<K: Key>(keys: &dyn Keys<K>, range: Range<usize>, words: &mut [u64], keep: impl Fn(K) -> bool) {
    let start = range.start;
    for_each_block(keys, range, |at, keys| {
        for (word, keys) in words[(at - start) / 64..].iter_mut().zip(keys.chunks(64)) {
            *word = keys.iter().enumerate().fold(0, |word, (bit, &key)| word | (u64::from(keep(key)) << bit));
        }
    });
}

fn count<K: Key>(keys: &dyn Keys<K>, range: Range<usize>, of: impl Fn(K) -> bool) -> u64 {
    let mut count = 0;
    for_each_block(keys, range, |_, keys| count += keys.iter().filter(|&&key| of(key)).count() as u64);
    count
}

/// A mask that prunes in each unit of a tensor the `targets[unit]` lowest keys; among equal keys
/// those of lower positions go first.
///
/// # Panics
/// Where the units do not divide the tensor, or a target is more than a unit holds.
pub fn prune_lowest_in_units<K: Key>(tensor: &dyn Keys<K>, units: &Units, targets: &[usize]) -> Mask {
    let (len, count, size) = (tensor.len(), units.count(), units.size());
    assert!(len == count * size && targets.len() == count && targets.iter().all(|&t| t <= size));
    if len == 0 {
        return Mask::all(0);
    }
    // Unit by unit, each in the order of its elements.
    let mut keys = vec![K::default(); len];
    let mut next: Vec<usize> = (0..count).map(|unit| unit * size).collect();
    let mut run_keys = Vec::new();
    units.for_each_run(|start, run, first, step| {
        run_keys.resize(run, K::default());
        tensor.fill(start, &mut run_keys);
        for (i, &key) in run_keys.iter().enumerate() {
            let slot = &mut next[first + i * step];
            keys[*slot] = key;
            *slot += 1;
        }
    });
    let cuts: Vec<Option<(K, usize)>> = keys
        .par_chunks(size)
        .zip(targets)
        .map(|(keys, &target)| {
            let k = target.checked_sub(1)?;
            let mut keys = keys.to_vec();
            let (lower, &mut key, _) = keys.select_nth_unstable(k);
            let lower = lower.iter().filter(|&&x| x < key).count();
            Some((key, target - lower))
        })
        .collect();
    let mut mask = Mask::all(len);
    let mut cuts = cuts;
    let mut next: Vec<usize> = (0..count).map(|unit| unit * size).collect();
    units.for_each_run(|start, run, first, step| {
        for i in 0..run {
            let unit = first + i * step;
            let key = keys[next[unit]];
            next[unit] += 1;
            if let Some((cut, quota)) = &mut cuts[unit]
                && (key < *cut || (key == *cut && *quota > 0))
            {
                *quota -= usize::from(key == *cut);
                mask.prune(start + i..start + i + 1);
            }
        }
    });
    mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Keys<u32> for Vec<u32> {
        fn len(&self) -> usize {
            self.as_slice().len()
        }
        fn fill(&self, start: usize, out: &mut [u32]) {
            out.copy_from_slice(&self[start..start + out.len()]);
        }
    }

    fn wide(keys: &[u32]) -> WideKeys {
        WideKeys(keys.iter().map(|&k| u64::from(k) << 31 | 5).collect())
    }

    struct WideKeys(Vec<u64>);

    impl Keys<u64> for WideKeys {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn fill(&self, start: usize, out: &mut [u64]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    /// Sorts everything by (key, tensor, position).
    fn naive(tensors: &[Vec<u32>], k: usize) -> Vec<Mask> {
        let mut all: Vec<(u32, usize, usize)> = tensors
            .iter()
            .enumerate()
            .flat_map(|(t, keys)| keys.iter().enumerate().map(move |(i, &key)| (key, t, i)))
            .collect();
        all.sort_unstable();
        let mut masks: Vec<Mask> = tensors.iter().map(|t| Mask::all(t.as_slice().len())).collect();
        for &(_, t, i) in &all[..k] {
            masks[t].prune(i..i + 1);
        }
        masks
    }

    /// Both key widths, gathering everything at once and counting all digits.
    fn check(tensors: &[Vec<u32>], k: usize) {
        let expected = naive(tensors, k);
        let narrow: Vec<&dyn Keys<u32>> = tensors.iter().map(|t| t as _).collect();
        let wide: Vec<WideKeys> = tensors.iter().map(|t| wide(t)).collect();
        let wide: Vec<&dyn Keys<u64>> = wide.iter().map(|t| t as _).collect();
        for gather_up_to in [0, 16, GATHER] {
            assert_eq!(prune_lowest_gathering(&narrow, k, gather_up_to), expected);
            assert_eq!(prune_lowest_gathering(&wide, k, gather_up_to), expected);
        }
    }

    /// Keys of few values (many ties) or of all.
    fn key() -> impl Strategy<Value = u32> {
        prop_oneof![0..5u32, any::<u32>()]
    }

    proptest! {
        #[test]
        fn equals_sorting(
            tensors in prop::collection::vec(prop::collection::vec(key(), 0..200), 1..4),
            share in 0.0..=1.0f64,
        ) {
            let total: usize = tensors.iter().map(|t| t.as_slice().len()).sum();
            check(&tensors, (share * total as f64) as usize);
        }

        #[test]
        fn masks_are_monotone(keys in prop::collection::vec(key(), 1..300), a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
            let n = keys.as_slice().len() as f64;
            let (few, many) = ((a.min(b) * n) as usize, (a.max(b) * n) as usize);
            let few = &prune_lowest(&[&keys as &dyn Keys<u32>], few)[0];
            let many = &prune_lowest(&[&keys as &dyn Keys<u32>], many)[0];
            prop_assert_eq!(&few.and(many).unwrap(), many);
        }

        #[test]
        fn units_equal_sorting_each(
            keys in prop::collection::vec(key(), 60),
            axis in 0..3usize,
            share in 0.0..=1.0f64,
        ) {
            let units = Units::along(&[3, 5, 4], axis);
            let target = (share * units.size() as f64) as usize;
            let mask = prune_lowest_in_units(&keys as &dyn Keys<u32>, &units, &vec![target; units.count()]);
            let mut members = vec![Vec::new(); units.count()];
            units.for_each_run(|start, len, first, step| {
                (0..len).for_each(|i| members[first + i * step].push(start + i));
            });
            for members in members {
                let own: Vec<u32> = members.iter().map(|&i| keys[i]).collect();
                let expected = &naive(&[own], target)[0];
                let found = Mask::from_fn(members.len(), |i| mask.keeps(members[i]));
                prop_assert_eq!(&found, expected);
            }
        }
    }

    /// More than one task, with few ties, with many, and with nothing else.
    #[test]
    fn large_tensors_on_any_number_of_threads() {
        let stream = crate::score::random::Stream::new(7, "large");
        let draws = |n: usize, shift: u32| -> Vec<u32> {
            (0..n as u64).map(|i| (stream.draw(i) >> 33) as u32 >> shift).collect()
        };
        let pools = [1, 2, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
        for shift in [0, 24, 31] {
            let tensors = [draws(CHUNK + 77, shift), draws(1, shift), draws(CHUNK * 2, shift)];
            let keys: Vec<&dyn Keys<u32>> = tensors.iter().map(|t| t as _).collect();
            let k = tensors.iter().map(|t| t.as_slice().len()).sum::<usize>() / 3;
            let expected = naive(&tensors, k);
            for pool in &pools {
                for gather_up_to in [1000, GATHER] {
                    let found = pool.install(|| prune_lowest_gathering(&keys, k, gather_up_to));
                    assert!(found == expected, "{shift} {gather_up_to} {}", pool.current_num_threads());
                }
            }
        }
    }
}
