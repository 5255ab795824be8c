//! The k-th lowest key: among a few that a sample tells, or digit by digit where the sample was misleading.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use super::{Chunk, FEW, Key, Pool};

/// The k-th lowest key, how many are lower and how many equal it.
pub(super) struct Threshold<K> {
    pub(super) key: K,
    pub(super) lower: u64,
    pub(super) equal: u64,
}

impl<K: Key> Pool<'_, K> {
    /// The `k`-th lowest key, for `1 ≤ k ≤ total`.
    pub(super) fn threshold(&self, k: u64, small: u64) -> Threshold<K> {
        if self.total <= small {
            let mut keys = Vec::with_capacity(self.total as usize);
            for chunk in &self.chunks {
                self.for_each_block(chunk, |_, block| keys.extend_from_slice(block));
            }
            return among(&mut keys, k, 0);
        }
        let [low, high] = self.bracket(k);
        self.between(k, low, high).unwrap_or_else(|| self.by_digits(k))
    }

    /// Two keys that the `k`-th lowest very likely lies between: four standard errors of its rank
    /// in a sample of evenly spaced keys to each side.
    pub(super) fn bracket(&self, k: u64) -> [K; 2] {
        // The more there are, the more a wide bracket would gather.
        let size = (self.total / 1024).clamp(1 << 14, 1 << 20);
        let step = self.total.div_ceil(size);
        let mut ends = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors {
            ends.push(ends.last().copied().unwrap_or(0) + tensor.len() as u64);
        }
        let positions = (0..(self.total / step) as usize).into_par_iter().map(|i| step / 2 + i as u64 * step);
        let mut sample: Vec<K> = positions
            .map(|at| {
                let tensor = ends.partition_point(|&end| end <= at);
                let start = tensor.checked_sub(1).map_or(0, |before| ends[before]);
                let mut key = [K::default()];
                self.tensors[tensor].fill((at - start) as usize, &mut key);
                key[0]
            })
            .collect();
        sample.par_sort_unstable();
        let (size, share) = (sample.len() as f64, k as f64 / self.total as f64);
        let margin = 4.0 * (size * share * (1.0 - share)).sqrt() + 2.0;
        let position = |rank: f64| sample[(rank.max(0.0) as usize).min(sample.len() - 1)];
        let (low, high) = (size * share - margin, size * share + margin);
        [
            if low < 0.0 { K::default() } else { position(low) },
            if high >= size { K::from_bits(u64::MAX) } else { position(high) },
        ]
    }

    /// The `k`-th lowest key where it lies between two keys with few others; `None` where it does not.
    pub(super) fn between(&self, k: u64, low: K, high: K) -> Option<Threshold<K>> {
        /// Keys looked at together: most such groups hold none that is gathered.
        const GROUP: usize = 16;
        #[derive(Default)]
        struct Found<K> {
            below: u64,
            low: u64,
            between: Vec<K>,
            high: u64,
        }
        let gathered = AtomicU64::new(0);
        let look = |chunk: &Chunk| {
            let mut found = Found::default();
            self.for_each_block(chunk, |_, block| {
                if gathered.load(Relaxed) > self.total / FEW {
                    return;
                }
                let before = found.between.len();
                for group in block.chunks(GROUP) {
                    let (mut below, mut above) = (0u32, 0u32);
                    for &key in group {
                        below += u32::from(key < low);
                        above += u32::from(key > high);
                    }
                    found.below += u64::from(below);
                    if (below + above) as usize == group.len() {
                        continue;
                    }
                    for &key in group.iter().filter(|&&key| low <= key && key <= high) {
                        if key == low {
                            found.low += 1;
                        } else if key == high {
                            found.high += 1;
                        } else {
                            found.between.push(key);
                        }
                    }
                }
                gathered.fetch_add((found.between.len() - before) as u64, Relaxed);
            });
            found
        };
        let found: Vec<Found<K>> = self.chunks.par_iter().map(look).collect();
        let sum = |of: fn(&Found<K>) -> u64| found.iter().map(of).sum::<u64>();
        let below = sum(|f| f.below);
        let (lows, highs) = (sum(|f| f.low), sum(|f| f.high));
        let between = sum(|f| f.between.len() as u64);
        if gathered.into_inner() > self.total / FEW || k <= below || k > below + lows + between + highs {
            return None;
        }
        Some(if k <= below + lows {
            Threshold { key: low, lower: below, equal: lows }
        } else if k > below + lows + between {
            Threshold { key: high, lower: below + lows + between, equal: highs }
        } else {
            let mut keys: Vec<K> = found.into_iter().flat_map(|f| f.between).collect();
            among(&mut keys, k, below + lows)
        })
    }

    /// The `k`-th lowest key, from histograms of the keys that share the digits found so far.
    pub(super) fn by_digits(&self, k: u64) -> Threshold<K> {
        /// Bits of a digit: the counters stay in the first-level cache.
        const DIGIT: u32 = 11;
        let (mut lower, mut equal) = (0, self.total);
        // The bits from `shift` on that are found.
        let (mut prefix, mut shift) = (0, K::BITS);
        while shift > 0 {
            let digit = DIGIT.min(shift);
            let (low, mask) = (shift - digit, (1u64 << digit) - 1);
            let empty = || vec![0u64; 1 << digit];
            let count = |mut counts: Vec<u64>, chunk: &Chunk| {
                self.for_each_block(chunk, |_, keys| {
                    for key in keys.iter().filter(|key| shift == K::BITS || key.shifted(shift) == prefix) {
                        counts[(key.shifted(low) & mask) as usize] += 1;
                    }
                });
                counts
            };
            let add = |mut a: Vec<u64>, b: Vec<u64>| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            };
            let histogram = self.chunks.par_iter().fold(empty, count).reduce(empty, add);
            let mut bin = 0;
            while lower + histogram[bin] < k {
                lower += histogram[bin];
                bin += 1;
            }
            equal = histogram[bin];
            prefix = (prefix << digit) | bin as u64;
            shift = low;
        }
        Threshold { key: K::from_bits(prefix), lower, equal }
    }
}

/// The `k`-th lowest key where it is among `keys` and `lower` others are lower than all of them.
pub(super) fn among<K: Key>(keys: &mut [K], k: u64, lower: u64) -> Threshold<K> {
    let (_, &mut key, _) = keys.select_nth_unstable((k - lower - 1) as usize);
    let count = |of: fn(&K, &K) -> bool| keys.iter().filter(|x| of(x, &key)).count() as u64;
    Threshold { key, lower: lower + count(K::lt), equal: count(K::eq) }
}
