//! Which elements of a tensor are kept.

use half::{bf16, f16};
use secateur_model::{Data, Error, Result};

/// Which elements of a tensor are kept: true = keep. One bit per element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    len: usize,
    /// Bit i % 64 of word i / 64 is element i; bits past the end are 0.
    words: Vec<u64>,
}

impl Mask {
    /// A mask that keeps all of `len` elements.
    pub fn all(len: usize) -> Self {
        let mut mask = Mask { len, words: vec![u64::MAX; len.div_ceil(64)] };
        mask.clear_tail();
        mask
    }

    /// A mask that keeps none of `len` elements.
    pub fn none(len: usize) -> Self {
        Mask { len, words: vec![0; len.div_ceil(64)] }
    }

    /// A mask from a function that says which elements are kept.
    pub fn from_fn(len: usize, keep: impl Fn(usize) -> bool) -> Self {
        let mut mask = Mask::none(len);
        for (w, word) in mask.words.iter_mut().enumerate() {
            for i in w * 64..len.min(w * 64 + 64) {
                *word |= u64::from(keep(i)) << (i % 64);
            }
        }
        mask
    }

    /// A mask from its words: bit i % 64 of word i / 64 is element i. Bits past the end are ignored.
    ///
    /// # Errors
    /// `Internal` where the number of words does not fit.
    pub fn from_words(len: usize, words: Vec<u64>) -> Result<Self> {
        if words.len() != len.div_ceil(64) {
            return Err(Error::internal(format!("{} words for a mask of {len} elements", words.len())));
        }
        let mut mask = Mask { len, words };
        mask.clear_tail();
        Ok(mask)
    }

    fn clear_tail(&mut self) {
        if let (Some(last), tail @ 1..) = (self.words.last_mut(), self.len % 64) {
            *last &= (1 << tail) - 1;
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The words: bit i % 64 of word i / 64 is element i.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether element `i` is kept.
    ///
    /// # Panics
    /// Where `i` is past the end.
    pub fn keeps(&self, i: usize) -> bool {
        assert!(i < self.len, "element {i} of a mask of {}", self.len);
        self.words[i / 64] >> (i % 64) & 1 == 1
    }

    /// Prunes the elements of a range.
    pub fn prune(&mut self, range: std::ops::Range<usize>) {
        let mut at = range.start;
        let end = range.end.min(self.len);
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            let ones = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            self.words[at / 64] &= !(ones << (at % 64));
            at += bits;
        }
    }

    /// How many elements are kept.
    pub fn kept(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// How many elements are pruned.
    pub fn pruned(&self) -> usize {
        self.len - self.kept()
    }

    /// Which elements are kept, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|i| self.words[i / 64] >> (i % 64) & 1 == 1)
    }

    /// What both masks keep: several rules one after the other.
    ///
    /// # Errors
    /// `Internal` where the lengths differ.
    pub fn and(&self, other: &Mask) -> Result<Mask> {
        if self.len != other.len {
            return Err(Error::internal(format!("masks of {} and {} elements", self.len, other.len)));
        }
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Ok(Mask { len: self.len, words })
    }

    /// Sets the pruned elements to +0; kept elements keep their bits.
    ///
    /// # Errors
    /// `Internal` where the length differs or the type is not prunable.
    pub fn apply(&self, data: &mut Data) -> Result<()> {
        if data.len() != self.len {
            let text = format!("a mask of {} elements for {} elements", self.len, data.len());
            return Err(Error::internal(text));
        }
        match data {
            Data::F32(v) => self.zero(v, 0.0),
            Data::F64(v) => self.zero(v, 0.0),
            Data::F16(v) => self.zero(v, f16::ZERO),
            Data::BF16(v) => self.zero(v, bf16::ZERO),
            _ => return Err(Error::internal(format!("a mask for elements of type {}", data.dtype()))),
        }
        Ok(())
    }

    fn zero<T: Copy>(&self, values: &mut [T], zero: T) {
        for (&word, values) in self.words.iter().zip(values.chunks_mut(64)) {
            if word != u64::MAX {
                for (bit, value) in values.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *value = zero;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_are_no_multiple_of_a_word() {
        for len in [0, 1, 63, 64, 65, 130] {
            assert_eq!(Mask::all(len).kept(), len);
            assert_eq!(Mask::none(len).pruned(), len);
            let third = Mask::from_fn(len, |i| i % 3 == 0);
            assert_eq!(third.kept(), len.div_ceil(3));
            assert_eq!(third.iter().filter(|&k| k).count(), len.div_ceil(3));
            assert_eq!(third.and(&Mask::all(len)).unwrap(), third);
        }
        assert!(Mask::all(3).and(&Mask::all(4)).is_err());
    }

    #[test]
    fn a_range_is_pruned() {
        let mut mask = Mask::all(200);
        mask.prune(60..130);
        assert_eq!(mask, Mask::from_fn(200, |i| !(60..130).contains(&i)));
    }

    #[test]
    fn pruned_elements_become_plus_zero_and_others_keep_their_bits() {
        let mut data = Data::F32(vec![-0.0, -0.0, f32::INFINITY, -3.0]);
        Mask::from_fn(4, |i| i == 1 || i == 2).apply(&mut data).unwrap();
        let Data::F32(v) = data else { unreachable!() };
        let bits: Vec<u32> = v.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0, 0x8000_0000, f32::INFINITY.to_bits(), 0]);
        assert!(Mask::all(1).apply(&mut Data::I32(vec![1])).is_err());
    }
}
