//! Passes over unsigned keys, to find and mark the lowest ones.

use crate::simd::{Isa, Kernel, Simd};

mod sealed {
    use crate::simd::Simd;

    /// Comparisons of 64 keys at a time.
    #[allow(private_bounds)] // nobody outside calls or implements it
    pub trait Lanes: Copy + Ord + Default + Send + Sync + 'static {
        /// Bit i: whether key i is below another.
        fn below<S: Simd>(s: S, keys: &[Self; 64], other: Self) -> u64;
        /// Bit i: whether key i is above another.
        fn above<S: Simd>(s: S, keys: &[Self; 64], other: Self) -> u64;
    }
}
use sealed::Lanes;

/// A type of keys: u32 or u64.
pub trait SelectKey: Lanes {}
impl SelectKey for u32 {}
impl SelectKey for u64 {}

#[allow(private_bounds)] // sealed
impl Lanes for u32 {
    #[inline(always)]
    fn below<S: Simd>(s: S, keys: &[u32; 64], other: u32) -> u64 {
        let other = s.splat(f32::from_bits(other));
        lanes(s, keys, |key| s.below_bits(key, other))
    }

    #[inline(always)]
    fn above<S: Simd>(s: S, keys: &[u32; 64], other: u32) -> u64 {
        let other = s.splat(f32::from_bits(other));
        lanes(s, keys, |key| s.below_bits(other, key))
    }
}

/// Bits of comparisons, vector by vector.
#[inline(always)]
fn lanes<S: Simd>(s: S, keys: &[u32; 64], compare: impl Fn(S::V) -> u32) -> u64 {
    let mut bits = 0;
    for i in (0..64).step_by(S::LANES) {
        // SAFETY: i + LANES <= 64, and LANES divides 64. Vectors only carry the bits.
        let key = unsafe { s.load(keys.as_ptr().add(i).cast()) };
        bits |= u64::from(compare(key)) << i;
    }
    bits
}

#[allow(private_bounds)] // sealed
impl Lanes for u64 {
    #[inline(always)]
    fn below<S: Simd>(_: S, keys: &[u64; 64], other: u64) -> u64 {
        packed(keys, |key| key < other)
    }

    #[inline(always)]
    fn above<S: Simd>(_: S, keys: &[u64; 64], other: u64) -> u64 {
        packed(keys, |key| key > other)
    }
}

/// Number of zero keys, and the largest key (0 if there are none). `key` maps a value to its key.
pub fn tally<T, K: SelectKey>(values: &[T], key: impl Fn(&T) -> K) -> (u64, K) {
    Isa::best().run(Tallying { values, key })
}

struct Tallying<'a, T, F> {
    values: &'a [T],
    key: F,
}

impl<T, K: SelectKey, F: Fn(&T) -> K> Kernel for Tallying<'_, T, F> {
    type Output = (u64, K);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (u64, K) {
        const LANES: usize = 32;
        let zero = K::default();
        let (groups, rest) = self.values.as_chunks::<LANES>();
        let (mut zeros, mut largest) = ([0u32; LANES], [zero; LANES]);
        for group in groups {
            for (lane, value) in group.iter().enumerate() {
                let key = (self.key)(value);
                zeros[lane] += u32::from(key == zero);
                largest[lane] = if key > largest[lane] { key } else { largest[lane] };
            }
        }
        let mut count = zeros.iter().map(|&z| u64::from(z)).sum::<u64>();
        let mut largest = largest.into_iter().fold(zero, K::max);
        for key in rest.iter().map(self.key) {
            count += u64::from(key == zero);
            largest = largest.max(key);
        }
        (count, largest)
    }
}

/// Result of [`split`], accumulated over all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split<K> {
    /// Keys at or below the lower bound.
    pub below: u64,
    /// Keys at or above the upper bound.
    pub above: u64,
    /// Keys between the bounds with their positions, in their order.
    pub between: Vec<(u32, K)>,
}

/// Divides keys at two bounds, `low < high`, with few keys between them. Writes one bit per key, like [`mark_above`]: 1 if it
/// is at or above `high`. Collects the keys in between; the first key has position `first`. `key` maps a value to its key.
///
/// # Panics
/// If there are too few words for the keys.
pub fn split<T, K: SelectKey>(
    values: &[T],
    key: impl Fn(&T) -> K,
    [low, high]: [K; 2],
    first: u32,
    words: &mut [u64],
    found: &mut Split<K>,
) {
    assert!(words.len() >= values.len().div_ceil(64), "{} words for {} keys", words.len(), values.len());
    Isa::best().run(Splitting { values, key, low, high, first, words, found });
}

struct Splitting<'a, T, K, F> {
    values: &'a [T],
    key: F,
    low: K,
    high: K,
    first: u32,
    words: &'a mut [u64],
    found: &'a mut Split<K>,
}

impl<T, K: SelectKey, F: Fn(&T) -> K> Kernel for Splitting<'_, T, K, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Splitting { values, key, low, high, first, words, found } = self;
        let (groups, rest) = values.as_chunks::<64>();
        let mut keys = [K::default(); 64];
        let (mut aboves, mut belows) = (0, 0);
        for (i, (word, group)) in words.iter_mut().zip(groups).enumerate() {
            for (key_of, value) in keys.iter_mut().zip(group) {
                *key_of = key(value);
            }
            let above = !K::below(s, &keys, high);
            let below = !K::above(s, &keys, low);
            *word = above;
            aboves += u64::from(above.count_ones());
            belows += u64::from(below.count_ones());
            let mut between = !(above | below);
            while between != 0 {
                let bit = between.trailing_zeros();
                found.between.push((first + 64 * i as u32 + bit, keys[bit as usize]));
                between &= between - 1;
            }
        }
        if let Some(word) = words.get_mut(groups.len()).filter(|_| !rest.is_empty()) {
            *word = 0;
            for (bit, key) in rest.iter().map(key).enumerate() {
                *word |= u64::from(key >= high) << bit;
                aboves += u64::from(key >= high);
                belows += u64::from(key <= low);
                if low < key && key < high {
                    found.between.push((first + (64 * groups.len() + bit) as u32, key));
                }
            }
        }
        found.above += aboves;
        found.below += belows;
    }
}

/// Bit i: `is` of key i. All comparisons come first, so that the compiler vectorises them.
#[inline(always)]
fn packed<K: Copy>(keys: &[K; 64], is: impl Fn(K) -> bool) -> u64 {
    let mut bytes = [0u8; 64];
    for (byte, &key) in bytes.iter_mut().zip(keys) {
        *byte = u8::from(is(key));
    }
    let (eights, _) = bytes.as_chunks::<8>();
    // The product moves the lowest bits of the eight bytes into the highest byte.
    let pack = |&eight: &[u8; 8]| u64::from_le_bytes(eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().enumerate().fold(0, |word, (i, eight)| word | (pack(eight) << (8 * i)))
}

/// Writes one bit per key, 1 if it is above `bound`: bit i % 64 of word i / 64 is key i; bits past the end are 0. Returns
/// how many keys equal the bound.
///
/// # Panics
/// If there are too few words for the keys.
pub fn mark_above<K: SelectKey>(keys: &[K], bound: K, words: &mut [u64]) -> u64 {
    assert!(words.len() >= keys.len().div_ceil(64), "{} words for {} keys", words.len(), keys.len());
    Isa::best().run(Marking { keys, bound, words })
}

struct Marking<'a, K> {
    keys: &'a [K],
    bound: K,
    words: &'a mut [u64],
}

impl<K: SelectKey> Kernel for Marking<'_, K> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        let Marking { keys, bound, words } = self;
        let (groups, rest) = keys.as_chunks::<64>();
        let mut equal = 0;
        for (word, group) in words.iter_mut().zip(groups) {
            *word = K::above(s, group, bound);
            equal += u64::from((!(*word | K::below(s, group, bound))).count_ones());
        }
        if let Some(word) = words.get_mut(groups.len()).filter(|_| !rest.is_empty()) {
            *word = rest.iter().enumerate().fold(0, |word, (i, &key)| word | u64::from(key > bound) << i);
            equal += rest.iter().filter(|&&key| key == bound).count() as u64;
        }
        equal
    }
}

/// Writes the key of each value to `out`, up to the shorter of the two.
pub fn fill<T, K>(out: &mut [K], values: &[T], key: impl Fn(&T) -> K) {
    Isa::best().run(Filling { out, values, key });
}

struct Filling<'a, T, K, F> {
    out: &'a mut [K],
    values: &'a [T],
    key: F,
}

impl<T, K, F: Fn(&T) -> K> Kernel for Filling<'_, T, K, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = (self.key)(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect()
    }

    fn check<K: SelectKey + std::fmt::Debug>(keys: &[K], low: K, high: K) {
        let len = keys.len();
        let count = |of: &dyn Fn(K) -> bool| keys.iter().filter(|&&k| of(k)).count() as u64;
        for isa in Isa::available() {
            let expected = (count(&|k| k == K::default()), keys.iter().copied().max().unwrap_or_default());
            assert_eq!(isa.run(Tallying { values: keys, key: |&k: &K| k }), expected);

            let mut words = vec![u64::MAX; len.div_ceil(64)];
            let equal = isa.run(Marking { keys, bound: low, words: &mut words });
            assert_eq!(equal, count(&|k| k == low));
            let marked = |words: &[u64], is: &dyn Fn(K) -> bool| {
                for (i, &key) in keys.iter().enumerate() {
                    assert_eq!(words[i / 64] >> (i % 64) & 1 == 1, is(key), "key {i} of {len}");
                }
                assert!(len.is_multiple_of(64) || words[len / 64] >> (len % 64) == 0);
            };
            marked(&words, &|key| key > low);

            if low < high {
                let mut found = Split::default();
                let key = |&k: &K| k;
                let (words, split) = (&mut words, &mut found);
                isa.run(Splitting { values: keys, key, low, high, first: 7, words, found: split });
                marked(words, &|key| key >= high);
                let numbered = keys.iter().enumerate().map(|(i, &k)| (7 + i as u32, k));
                let between = numbered.filter(|&(_, k)| low < k && k < high).collect();
                let (below, above) = (count(&|k| k <= low), count(&|k| k >= high));
                assert_eq!(found, Split { below, above, between });
            }
        }
    }

    #[test]
    fn passes_equal_the_plain_count_on_every_instruction_set() {
        for len in [0, 1, 31, 32, 63, 64, 65, 1000] {
            let keys = keys(len);
            let wide: Vec<u64> = keys.iter().map(|&k| u64::from(k) << 40).collect();
            for (low, high) in [(0, 0), (10, 12), (100, 100), (0, 255), (255, 255), (3, 90)] {
                check(&keys, low, high);
                let high_bits: Vec<u32> = keys.iter().map(|k| k << 24).collect();
                check(&high_bits, low << 24, high << 24);
                check(&wide, u64::from(low) << 40, u64::from(high) << 40);
            }
        }
    }

    #[test]
    fn keys_are_filled_in() {
        let mut out = [0; 3];
        fill(&mut out, &[1.5f32, -1.5, -0.0], |v| v.to_bits() & (u32::MAX >> 1));
        assert_eq!(out, [1.5f32, 1.5, 0.0].map(f32::to_bits));
    }
}
