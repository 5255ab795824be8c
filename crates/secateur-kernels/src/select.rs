//! Passes over unsigned keys that find and mark the lowest of many.

use crate::simd::{Isa, Kernel, Simd};

/// What a pass counts of the keys it is given, added up over all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan<K> {
    /// Keys that are 0.
    pub zeros: u64,
    /// The largest key.
    pub largest: K,
    /// Keys below the lower bound.
    pub below: u64,
    /// Keys that equal the lower bound.
    pub low: u64,
    /// Keys that equal the upper bound and not the lower.
    pub high: u64,
    /// Keys between the bounds, in their order.
    pub between: Vec<K>,
}

/// Counts keys and gathers those between two bounds; made for bounds with few keys between them.
pub fn scan<K: Copy + Ord + Default>(keys: &[K], low: K, high: K, found: &mut Scan<K>) {
    Isa::best().run(Scanning { keys, low, high, found });
}

struct Scanning<'a, K> {
    keys: &'a [K],
    low: K,
    high: K,
    found: &'a mut Scan<K>,
}

impl<K: Copy + Ord + Default> Kernel for Scanning<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        /// Keys looked at together: most such groups hold none between the bounds.
        const GROUP: usize = 32;
        let Scanning { keys, low, high, found } = self;
        let zero = K::default();
        let (groups, rest) = keys.as_chunks::<GROUP>();
        let mut zeros = [0u32; GROUP];
        let mut largest = [zero; GROUP];
        for group in groups {
            let (mut below, mut above) = (0u32, 0u32);
            for (lane, &key) in group.iter().enumerate() {
                zeros[lane] += u32::from(key == zero);
                largest[lane] = if key > largest[lane] { key } else { largest[lane] };
                below += u32::from(key < low);
                above += u32::from(key > high);
            }
            found.below += u64::from(below);
            if (below + above) as usize != GROUP {
                gather(group, low, high, found);
            }
        }
        found.zeros += zeros.iter().map(|&z| u64::from(z)).sum::<u64>();
        found.largest = largest.into_iter().fold(found.largest, K::max);
        for &key in rest {
            found.zeros += u64::from(key == zero);
            found.largest = found.largest.max(key);
            found.below += u64::from(key < low);
        }
        gather(rest, low, high, found);
    }
}

#[inline(never)]
fn gather<K: Copy + Ord>(keys: &[K], low: K, high: K, found: &mut Scan<K>) {
    for &key in keys.iter().filter(|&&key| low <= key && key <= high) {
        if key == low {
            found.low += 1;
        } else if key == high {
            found.high += 1;
        } else {
            found.between.push(key);
        }
    }
}

/// Writes a bit for each key, 1 where it is above `bound`: bit i % 64 of word i / 64 is key i, bits past the end
/// are 0. Returns how many keys equal the bound.
///
/// # Panics
/// Where there are fewer words than the keys take.
pub fn mark_above<K: Copy + Ord + Default>(keys: &[K], bound: K, words: &mut [u64]) -> u64 {
    assert!(words.len() >= keys.len().div_ceil(64), "{} words for {} keys", words.len(), keys.len());
    Isa::best().run(Marking { keys, bound, words })
}

struct Marking<'a, K> {
    keys: &'a [K],
    bound: K,
    words: &'a mut [u64],
}

impl<K: Copy + Ord + Default> Kernel for Marking<'_, K> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let Marking { keys, bound, words } = self;
        let (groups, rest) = keys.as_chunks::<64>();
        let mut equal = 0;
        for (word, group) in words.iter_mut().zip(groups) {
            let mut ties = 0u32;
            // All comparisons first: the compiler does many at once, and packs them.
            let mut bytes = [0u8; 64];
            for (byte, &key) in bytes.iter_mut().zip(group) {
                *byte = u8::from(key > bound);
                ties += u32::from(key == bound);
            }
            equal += u64::from(ties);
            *word = pack(&bytes);
        }
        if !rest.is_empty() {
            let bits = rest.iter().enumerate().map(|(i, &key)| u64::from(key > bound) << i);
            words[groups.len()] = bits.fold(0, |word, bit| word | bit);
            equal += rest.iter().filter(|&&key| key == bound).count() as u64;
        }
        equal
    }
}

/// Bit i of the word is byte i, each 0 or 1.
#[inline(always)]
fn pack(bytes: &[u8; 64]) -> u64 {
    let (eights, _) = bytes.as_chunks::<8>();
    // The product brings the lowest bits of the eight bytes together in the highest byte.
    let pack = |&eight: &[u8; 8]| u64::from_le_bytes(eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().enumerate().fold(0, |word, (i, eight)| word | (pack(eight) << (8 * i)))
}

/// Writes the bits of the magnitudes of little-endian f32.
///
/// # Panics
/// Where the lengths differ.
pub fn magnitudes(values: &[[u8; 4]], out: &mut [u32]) {
    assert_eq!(values.len(), out.len());
    Isa::best().run(Magnitudes { values, out });
}

struct Magnitudes<'a> {
    values: &'a [[u8; 4]],
    out: &'a mut [u32],
}

impl Kernel for Magnitudes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, &value) in self.out.iter_mut().zip(self.values) {
            *out = u32::from_le_bytes(value) & (u32::MAX >> 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect()
    }

    #[test]
    fn passes_equal_the_plain_count_on_every_instruction_set() {
        for len in [0, 1, 31, 32, 63, 64, 65, 1000] {
            let keys = keys(len);
            let wide: Vec<u64> = keys.iter().map(|&k| u64::from(k) << 40).collect();
            for (low, high) in [(0, 0), (10, 12), (100, 100), (0, 255), (255, 255)] {
                let count = |of: &dyn Fn(u32) -> bool| keys.iter().filter(|&&k| of(k)).count() as u64;
                let expected = Scan {
                    zeros: count(&|k| k == 0),
                    largest: keys.iter().copied().max().unwrap_or(0),
                    below: count(&|k| k < low),
                    low: count(&|k| k == low),
                    high: count(&|k| k == high && k != low),
                    between: keys.iter().copied().filter(|&k| low < k && k < high).collect(),
                };
                for isa in Isa::available() {
                    let mut found = Scan::default();
                    isa.run(Scanning { keys: &keys, low, high, found: &mut found });
                    assert_eq!(found, expected, "{len} keys, {low} to {high}");
                    let mut found = Scan::default();
                    let (low, high) = (u64::from(low) << 40, u64::from(high) << 40);
                    isa.run(Scanning { keys: &wide, low, high, found: &mut found });
                    assert_eq!((found.below, found.between.len()), (expected.below, expected.between.len()));
                }
                for isa in Isa::available() {
                    let mut words = vec![u64::MAX; len.div_ceil(64)];
                    let equal = isa.run(Marking { keys: &keys, bound: low, words: &mut words });
                    assert_eq!(equal, count(&|k| k == low));
                    for (i, &key) in keys.iter().enumerate() {
                        assert_eq!(words[i / 64] >> (i % 64) & 1 == 1, key > low);
                    }
                    assert!(len % 64 == 0 || words[len / 64] >> (len % 64) == 0);
                }
            }
        }
    }

    #[test]
    fn magnitudes_have_no_sign() {
        let values = [1.5f32, -1.5, 0.0, -0.0, f32::NEG_INFINITY].map(f32::to_le_bytes);
        let mut out = [0; 5];
        magnitudes(&values, &mut out);
        assert_eq!(out, [1.5f32, 1.5, 0.0, 0.0, f32::INFINITY].map(f32::to_bits));
    }
}
