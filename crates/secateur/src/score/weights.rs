//! Reading stored weights where they lie: nothing is copied or widened.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use secateur_model::model::Storage;
use secateur_model::tensor::strides;
use secateur_model::{DType, Data, Error, Result, ResultExt, StoredTensor};

/// The elements of a stored tensor of a prunable type, in memory or as the file's little-endian bytes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // each variant is a type; `Le` the bytes of a file
pub enum Weights<'a> {
    F32(&'a [f32]),
    F32Le(&'a [[u8; 4]]),
    F64(&'a [f64]),
    F64Le(&'a [[u8; 8]]),
    F16(&'a [f16]),
    F16Le(&'a [[u8; 2]]),
    Bf16(&'a [bf16]),
    Bf16Le(&'a [[u8; 2]]),
}

/// A float type that weights are stored in.
pub trait Float: Copy {
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// Whether the value is 0 or −0.
    fn is_zero(self) -> bool;
}

macro_rules! float {
    ($($ty:ty),*) => { $(impl Float for $ty {
        fn to_f64(self) -> f64 { self.into() }
        fn is_zero(self) -> bool { self == <$ty>::from_bits(0) }
    })* };
}
float!(f32, f64, f16, bf16);

/// Runs an expression for the weights' type, with the name bound to a function from an index to the
/// weight there.
macro_rules! each_weight {
    ($weights:expr, |$w:ident| $body:expr) => {
        match $weights {
            $crate::score::weights::Weights::F32(v) => {
                let $w = |i: usize| v[i];
                $body
            }
            $crate::score::weights::Weights::F32Le(v) => {
                let $w = |i: usize| f32::from_le_bytes(v[i]);
                $body
            }
            $crate::score::weights::Weights::F64(v) => {
                let $w = |i: usize| v[i];
                $body
            }
            $crate::score::weights::Weights::F64Le(v) => {
                let $w = |i: usize| f64::from_le_bytes(v[i]);
                $body
            }
            $crate::score::weights::Weights::F16(v) => {
                let $w = |i: usize| v[i];
                $body
            }
            $crate::score::weights::Weights::F16Le(v) => {
                let $w = |i: usize| half::f16::from_le_bytes(v[i]);
                $body
            }
            $crate::score::weights::Weights::Bf16(v) => {
                let $w = |i: usize| v[i];
                $body
            }
            $crate::score::weights::Weights::Bf16Le(v) => {
                let $w = |i: usize| half::bf16::from_le_bytes(v[i]);
                $body
            }
        }
    };
}
pub(crate) use each_weight;

/// Elements a task takes at a time; a multiple of 64, so that tasks write whole words of a mask.
pub(crate) const CHUNK: usize = 1 << 18;

impl<'a> Weights<'a> {
    /// The weights of a stored tensor.
    ///
    /// # Errors
    /// Where the type is not f32, f64, f16 or bf16, or the stored bytes do not fill the shape.
    pub fn of(stored: &'a StoredTensor) -> Result<Self> {
        let len = stored.len();
        let weights = match &stored.storage {
            Storage::Data(data) => match &**data {
                Data::F32(v) => Weights::F32(v),
                Data::F64(v) => Weights::F64(v),
                Data::F16(v) => Weights::F16(v),
                Data::BF16(v) => Weights::Bf16(v),
                _ => return Err(not_prunable(stored)),
            },
            Storage::Bytes(bytes) => {
                if stored.dtype.bytes_for(len) != Some(bytes.len()) {
                    return Err(unfilled(stored, bytes.len(), "bytes"));
                }
                match stored.dtype {
                    DType::F32 => Weights::F32Le(bytes.as_chunks().0),
                    DType::F64 => Weights::F64Le(bytes.as_chunks().0),
                    DType::F16 => Weights::F16Le(bytes.as_chunks().0),
                    DType::BF16 => Weights::Bf16Le(bytes.as_chunks().0),
                    _ => return Err(not_prunable(stored)),
                }
            }
        };
        if weights.len() != len {
            return Err(unfilled(stored, weights.len(), "elements"));
        }
        Ok(weights)
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        match self {
            Weights::F32(v) => v.len(),
            Weights::F32Le(v) => v.len(),
            Weights::F64(v) => v.len(),
            Weights::F64Le(v) => v.len(),
            Weights::F16(v) => v.len(),
            Weights::F16Le(v) | Weights::Bf16Le(v) => v.len(),
            Weights::Bf16(v) => v.len(),
        }
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether magnitudes need f64 to be told apart.
    pub fn is_f64(&self) -> bool {
        matches!(self, Weights::F64(_) | Weights::F64Le(_))
    }

    /// The bits of the magnitudes of `out.len()` weights from `start` on, as f32: they order as the
    /// magnitudes do, infinities and then NaN last, and 0 is the magnitude 0. f64 weights are
    /// rounded, so they must not be ranked by this ([`Weights::is_f64`]).
    pub fn magnitudes32(&self, start: usize, out: &mut [u32]) {
        const MAGNITUDE: u32 = u32::MAX >> 1;
        let range = start..start + out.len();
        match self {
            Weights::F16(v) => half_magnitudes(out, |o, buffer| {
                v[start + o..][..buffer.len()].convert_to_f32_slice(buffer);
            }),
            Weights::F16Le(v) => half_magnitudes(out, |o, buffer| {
                let mut halves = [f16::ZERO; BUFFER];
                let halves = &mut halves[..buffer.len()];
                for (h, &le) in halves.iter_mut().zip(&v[start + o..]) {
                    *h = f16::from_le_bytes(le);
                }
                halves.convert_to_f32_slice(buffer);
            }),
            Weights::F32(v) => fill(out, &v[range], |w| w.to_bits() & MAGNITUDE),
            Weights::F32Le(v) => fill(out, &v[range], |&w| u32::from_le_bytes(w) & MAGNITUDE),
            Weights::Bf16(v) => fill(out, &v[range], |w| (u32::from(w.to_bits()) << 16) & MAGNITUDE),
            Weights::Bf16Le(v) => {
                fill(out, &v[range], |&w| (u32::from(u16::from_le_bytes(w)) << 16) & MAGNITUDE);
            }
            Weights::F64(v) => fill(out, &v[range], |&w| (w as f32).to_bits() & MAGNITUDE),
            Weights::F64Le(v) => {
                fill(out, &v[range], |&w| (f64::from_le_bytes(w) as f32).to_bits() & MAGNITUDE);
            }
        }
    }

    /// The bits of the magnitudes as f64: exact for every type; otherwise as
    /// [`Weights::magnitudes32`].
    pub fn magnitudes64(&self, start: usize, out: &mut [u64]) {
        each_weight!(self, |w| for (i, out) in out.iter_mut().enumerate() {
            *out = w(start + i).to_f64().abs().to_bits();
        });
    }

    /// How many weights are 0 or −0.
    pub fn zeros(&self) -> usize {
        self.count_all().0
    }

    /// How many weights are 0 or −0; NaN is refused.
    ///
    /// # Errors
    /// `Input` where a weight is NaN, with its position.
    pub fn zeros_of_numbers(&self, stored: &StoredTensor) -> Result<usize> {
        let (zeros, nan) = self.count_all();
        if !nan {
            return Ok(zeros);
        }
        let at = each_weight!(self, |w| (0..self.len()).find(|&i| w(i).to_f64().is_nan())).unwrap_or(0);
        let strides = strides(&stored.shape);
        let index: Vec<usize> =
            strides.iter().zip(&stored.shape).map(|(s, extent)| at / s % extent).collect();
        Err(Error::input(format!(
            "the weight at {index:?} is NaN: it has no magnitude to rank; repair or exclude the tensor"
        )))
        .at_tensor(&stored.path)
    }

    fn count_all(&self) -> (usize, bool) {
        (0..self.len().div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| self.count(chunk * CHUNK, self.len().min((chunk + 1) * CHUNK)))
            .reduce(|| (0, false), |a, b| (a.0 + b.0, a.1 | b.1))
    }

    /// Zeros in a range, and whether it holds a NaN.
    fn count(&self, start: usize, end: usize) -> (usize, bool) {
        let (mut zeros, mut nan) = (0, false);
        let mut at = start;
        if self.is_f64() {
            let mut buffer = [0u64; BUFFER];
            while at < end {
                let keys = &mut buffer[..BUFFER.min(end - at)];
                self.magnitudes64(at, keys);
                zeros += keys.iter().filter(|&&k| k == 0).count();
                nan |= keys.iter().any(|&k| k > f64::INFINITY.to_bits());
                at += keys.len();
            }
        } else {
            let mut buffer = [0u32; BUFFER];
            while at < end {
                let keys = &mut buffer[..BUFFER.min(end - at)];
                self.magnitudes32(at, keys);
                let (mut found, mut nans) = (0, 0);
                for &key in &*keys {
                    found += u32::from(key == 0);
                    nans |= u32::from(key > f32::INFINITY.to_bits());
                }
                zeros += found as usize;
                nan |= nans != 0;
                at += keys.len();
            }
        }
        (zeros, nan)
    }
}

/// Elements converted at a time: a buffer that stays in the first-level cache.
pub(crate) const BUFFER: usize = 2048;

fn fill<T, K>(out: &mut [K], from: &[T], key: impl Fn(&T) -> K) {
    for (out, from) in out.iter_mut().zip(from) {
        *out = key(from);
    }
}

fn half_magnitudes(out: &mut [u32], convert: impl Fn(usize, &mut [f32])) {
    let mut buffer = [0f32; BUFFER];
    for (block, out) in out.chunks_mut(BUFFER).enumerate() {
        let buffer = &mut buffer[..out.len()];
        convert(block * BUFFER, buffer);
        fill(out, buffer, |w| w.abs().to_bits());
    }
}

fn unfilled(stored: &StoredTensor, found: usize, what: &str) -> Error {
    let (dtype, shape) = (stored.dtype, &stored.shape);
    Error::input(format!("{found} {what} do not fill {dtype} of shape {shape:?}")).at_tensor(&stored.path)
}

fn not_prunable(stored: &StoredTensor) -> Error {
    Error::unsupported(format!("weights of type {} cannot be pruned", stored.dtype)).at_tensor(&stored.path)
}
