//! Exactly the k lowest scores, ties by position, at memory speed and without a copy of the scores.
//!
//! Scores come as integer keys that order as the scores do. A sample tells two keys that the k-th
//! lowest very likely lies between; one pass counts the keys below and gathers those between, and a
//! second writes the masks. Where the sample was misleading, the key is found digit by digit from
//! histograms. Either way the result is exact: neither the sample, the number of threads nor the
//! division into tasks changes it.

pub(super) mod sets;
mod threshold;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;
use secateur_kernels::select::{self, SelectKey, Split};

use self::threshold::{Threshold, among};
use super::masks::Mask;
use super::units::Units;
use crate::prune::weights::{BUFFER, CHUNK};

/// An unsigned integer that orders as a score does.
pub trait Key: SelectKey {
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
    /// Divides the keys of a range at two bounds, its first key at position 0: see [`select::split`]. Returns
    /// false, with nothing done, where that takes the keys themselves.
    fn split(&self, range: Range<usize>, bounds: [K; 2], words: &mut [u64], found: &mut Split<K>) -> bool {
        let _ = (range, bounds, words, found);
        false
    }
}

/// Keys up to which all are gathered and selected from.
const SMALL: u64 = 1 << 18;

/// Of how many keys one may lie between two bounds before histograms, which gather none, are the better way.
const FEW: u64 = 8;

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

/// What is ranked together, and the tasks it is divided into.
struct Pool<'a, K> {
    tensors: &'a [&'a dyn Keys<K>],
    chunks: Vec<Chunk>,
    total: u64,
}

impl<K: Key> Pool<'_, K> {
    fn for_each_block(&self, chunk: &Chunk, visit: impl FnMut(usize, &[K])) {
        for_each_block(self.tensors[chunk.tensor], chunk.range.clone(), visit);
    }
}

/// Masks that prune exactly the `k` lowest keys of all tensors together; among equal keys those of
/// earlier tensors, and within a tensor those of lower positions, go first.
///
/// # Panics
/// Where `k` is more than there are keys.
pub fn prune_lowest<K: Key>(tensors: &[&dyn Keys<K>], k: usize) -> Vec<Mask> {
    let pool = Pool { tensors, chunks: chunks(tensors), total: tensors.iter().map(|t| t.len() as u64).sum() };
    assert!(k as u64 <= pool.total, "{k} of {} keys", pool.total);
    if k == 0 {
        return tensors.iter().map(|t| Mask::all(t.len())).collect();
    }
    if pool.total > SMALL
        && let Some(masks) = pool.split(k as u64, pool.bracket(k as u64))
    {
        return masks;
    }
    pool.prune(k as u64, &pool.threshold(k as u64, SMALL))
}

impl<K: Key> Pool<'_, K> {
    /// Masks that prune the `k` lowest keys in one pass, where the `k`-th lowest lies between two bounds with
    /// few others; `None` where it does not.
    fn split(&self, k: u64, [low, high]: [K; 2]) -> Option<Vec<Mask>> {
        if low >= high {
            return None;
        }
        let mut words = self.words();
        let mut tasks = self.tasks(&mut words);
        let gathered = AtomicU64::new(0);
        let mut found: Vec<Split<K>> = tasks
            .par_iter_mut()
            .map(|(chunk, words)| {
                let mut found = Split::default();
                if gathered.load(Relaxed) > self.total / FEW {
                    return found;
                }
                let tensor = self.tensors[chunk.tensor];
                if !tensor.split(chunk.range.clone(), [low, high], words, &mut found) {
                    self.for_each_block(chunk, |at, keys| {
                        let at = at - chunk.range.start;
                        let words = &mut words[at / 64..];
                        select::split(keys, |&key| key, [low, high], at as u32, words, &mut found);
                    });
                }
                gathered.fetch_add(found.between.len() as u64, Relaxed);
                found
            })
            .collect();
        let below: u64 = found.iter().map(|f| f.below).sum();
        let mut between: Vec<K> = found.iter().flat_map(|f| &f.between).map(|&(_, key)| key).collect();
        if gathered.into_inner() > self.total / FEW || k <= below || k > below + between.len() as u64 {
            return None;
        }
        let threshold = among(&mut between, k, below);
        // Of the keys that equal the threshold the first go.
        let mut quota = k - threshold.lower;
        for ((_, words), found) in tasks.iter_mut().zip(&mut found) {
            for &(at, key) in &found.between {
                let keeps = key > threshold.key || (key == threshold.key && quota == 0);
                quota -= u64::from(key == threshold.key && quota > 0);
                words[at as usize / 64] |= u64::from(keeps) << (at % 64);
            }
        }
        Some(self.masks(words))
    }

    /// The words of the masks, all 0.
    fn words(&self) -> Vec<Vec<u64>> {
        self.tensors.iter().map(|t| vec![0; t.len().div_ceil(64)]).collect()
    }

    /// The tasks with the words they write.
    fn tasks<'w>(&self, words: &'w mut [Vec<u64>]) -> Vec<(&Chunk, &'w mut [u64])> {
        let parts = words.iter_mut().flat_map(|words| words.chunks_mut(CHUNK / 64));
        self.chunks.iter().zip(parts).collect()
    }

    fn masks(&self, words: Vec<Vec<u64>>) -> Vec<Mask> {
        let masks = self.tensors.iter().zip(words).map(|(t, words)| Mask::from_words(t.len(), words));
        masks.map(|mask| mask.expect("a word for every 64 keys")).collect()
    }

    /// Masks that prune the `k` lowest keys, given the `k`-th lowest.
    fn prune(&self, k: u64, threshold: &Threshold<K>) -> Vec<Mask> {
        let &Threshold { key, lower, equal } = threshold;
        let mut quota = k - lower;
        let mut words = self.words();
        let mut tasks = self.tasks(&mut words);
        // Each task counts its ties.
        let ties: Vec<u64> = tasks
            .par_iter_mut()
            .map(|(chunk, words)| {
                let mut ties = 0;
                self.for_each_block(chunk, |at, keys| {
                    ties += select::mark_above(keys, key, &mut words[(at - chunk.range.start) / 64..]);
                });
                ties
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
                    self.for_each_block(chunk, |at, keys| {
                        for (i, _) in keys.iter().enumerate().filter(|&(_, &x)| x == key) {
                            let bit = at + i - chunk.range.start;
                            words[bit / 64] |= u64::from(quota == 0) << (bit % 64);
                            quota = quota.saturating_sub(1);
                        }
                    });
                }
            });
        }
        self.masks(words)
    }
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
    // The keys unit by unit, each in the order of its elements.
    let firsts = || (0..count).map(|unit| unit * size).collect::<Vec<_>>();
    let mut keys = vec![K::default(); len];
    let (mut next, mut run_keys) = (firsts(), Vec::new());
    units.for_each_run(|start, run, first, step| {
        run_keys.resize(run, K::default());
        tensor.fill(start, &mut run_keys);
        if step == 0 {
            keys[next[first]..][..run].copy_from_slice(&run_keys);
            next[first] += run;
        } else {
            for (slot, &key) in next[first..].iter_mut().zip(&run_keys) {
                keys[*slot] = key;
                *slot += 1;
            }
        }
    });
    // For each unit its highest key that goes, and how many that equal it go; none where none goes.
    let mut cuts: Vec<Option<(K, usize)>> = keys
        .par_chunks(size)
        .zip(targets)
        .map(|(keys, &target)| {
            let k = target.checked_sub(1)? as u64 + 1;
            let cut = among(&mut keys.to_vec(), k, 0);
            Some((cut.key, (k - cut.lower) as usize))
        })
        .collect();
    let mut next = firsts();
    let mut words = vec![0u64; len.div_ceil(64)];
    units.for_each_run(|start, run, first, step| {
        for i in 0..run {
            let unit = first + i * step;
            let key = keys[next[unit]];
            next[unit] += 1;
            let kept = match &mut cuts[unit] {
                Some((cut, ties)) if key == *cut && *ties > 0 => {
                    *ties -= 1;
                    false
                }
                Some((cut, _)) => key >= *cut,
                None => true,
            };
            words[(start + i) / 64] |= u64::from(kept) << ((start + i) % 64);
        }
    });
    Mask::from_words(len, words).expect("a word for every 64 keys")
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

    /// Every way to find the k-th lowest key.
    fn thresholds<K: Key>(pool: &Pool<'_, K>, k: u64) -> Vec<Threshold<K>> {
        let [low, high] = pool.bracket(k);
        let mut found = vec![pool.threshold(k, SMALL), pool.threshold(k, 0), pool.by_digits(k)];
        found.extend(pool.between(k, low, high));
        found.extend(pool.between(k, K::default(), K::from_bits(u64::MAX)));
        found
    }

    fn check_width<K: Key>(tensors: &[&dyn Keys<K>], k: usize, expected: &[Mask]) {
        assert_eq!(prune_lowest(tensors, k), expected);
        let total = tensors.iter().map(|t| t.len() as u64).sum();
        let pool = Pool { tensors, chunks: chunks(tensors), total };
        if k > 0 {
            for threshold in thresholds(&pool, k as u64) {
                assert_eq!(pool.prune(k as u64, &threshold), expected);
            }
        }
    }

    fn check(tensors: &[Vec<u32>], k: usize) {
        let expected = naive(tensors, k);
        let narrow: Vec<&dyn Keys<u32>> = tensors.iter().map(|t| t as _).collect();
        check_width(&narrow, k, &expected);
        let wide: Vec<WideKeys> = tensors.iter().map(|t| wide(t)).collect();
        let wide: Vec<&dyn Keys<u64>> = wide.iter().map(|t| t as _).collect();
        check_width(&wide, k, &expected);
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

    /// Every 256th key is large, and those are all the sample sees.
    #[test]
    fn a_sample_that_misleads() {
        let n = 1usize << 22;
        let keys: Vec<u32> = (0..n).map(|i| if i % 256 == 128 { 1 << 30 } else { i as u32 }).collect();
        let tensors: [&dyn Keys<u32>; 1] = [&keys];
        let pool = Pool { tensors: &tensors, chunks: chunks(&tensors), total: n as u64 };
        let k = n as u64 / 3;
        let [low, high] = pool.bracket(k);
        assert!(pool.between(k, low, high).is_none());
        let mask = &prune_lowest(&tensors, k as usize)[0];
        assert_eq!(mask.pruned() as u64, k);
        assert!(!mask.keeps(0) && mask.keeps(n / 2));
    }

    /// More than one task, with few ties, with many, and with nothing else.
    #[test]
    fn large_tensors_on_any_number_of_threads() {
        let stream = crate::random::Stream::new(7, "large");
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
                let found = pool.install(|| prune_lowest(&keys, k));
                assert!(found == expected, "{shift} {}", pool.current_num_threads());
            }
        }
    }
}
