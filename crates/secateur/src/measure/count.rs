//! Counts of nonzero weights, and the bytes they need at least.

use secateur_model::{DType, Data};
use serde::{Deserialize, Serialize};

/// How many of some things are not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Those that are not zero.
    pub nonzero: u64,
    /// All of them.
    pub total: u64,
}

impl Count {
    /// Zeros ÷ total, in [0, 1]; 0 where there is nothing.
    pub fn sparsity(self) -> f64 {
        if self.total == 0 { 0.0 } else { 1.0 - self.nonzero as f64 / self.total as f64 }
    }

    /// Bytes that these weights need at least if zeros are independent of each other:
    /// (H(s) + (1 − s)·b)/8 per weight, H the binary entropy and b the bits that a kept weight still needs: 30
    /// for f32, 15 for f16, 13 for bf16, 61 for f64, 7.5 for values packed as int8.
    ///
    /// Regular zeros, such as whole channels, can take less.
    pub fn entropy_bytes(self, dtype: DType) -> f64 {
        let s = self.sparsity();
        let part = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        self.total as f64 * (part(s) + part(1.0 - s) + (1.0 - s) * bits_of_a_kept_weight(dtype)) / 8.0
    }
}

/// Bits that a kept weight still needs, about: its sign and mantissa are noise, its exponent is not. Measured
/// as what gzip leaves of normally distributed weights.
fn bits_of_a_kept_weight(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 61.0,
        DType::F16 => 15.0,
        DType::BF16 => 13.0,
        DType::I8 => 7.5,
        _ => 30.0,
    }
}

/// Elements of float data that are not zero; all elements of other data.
pub fn nonzeros(data: &Data) -> u64 {
    match data {
        Data::F32(v) => v.iter().filter(|x| **x != 0.0).count() as u64,
        Data::F64(v) => v.iter().filter(|x| **x != 0.0).count() as u64,
        Data::F16(v) => v.iter().filter(|x| x.to_bits() & 0x7fff != 0).count() as u64,
        Data::BF16(v) => v.iter().filter(|x| x.to_bits() & 0x7fff != 0).count() as u64,
        other => other.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_bound_at_known_sparsities() {
        let at = |nonzero| Count { nonzero, total: 800 }.entropy_bytes(DType::F32);
        assert_eq!(at(800), 3000.0); // 30 bits a weight
        assert_eq!(at(400), 1600.0); // 1 + 15 bits a weight
        assert_eq!(at(0), 0.0);
        assert_eq!(Count { nonzero: 800, total: 800 }.entropy_bytes(DType::F16), 1500.0);
        assert_eq!(Count::default().entropy_bytes(DType::F32), 0.0);
    }
}
