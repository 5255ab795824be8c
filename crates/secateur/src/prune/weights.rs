//! Reads stored weights in place, without copying or widening them.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use secateur_kernels::select::{self, SelectKey, Split, fill};
use secateur_model::model::Storage;
use secateur_model::tensor::strides;
use secateur_model::{DType, Data, Error, Result, ResultExt, StoredTensor};

use super::masks::Mask;
use super::units::Units;

/// The weights of a stored tensor. Those that a base mask prunes are zeros, whatever is stored.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    values: Values<'a>,
    base: Option<&'a Mask>,
}

/// The elements of a stored tensor of a prunable type, in memory or as the file's little-endian bytes.
#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    F32(&'a [f32]),
    F32Le(&'a [[u8; 4]]),
    F64(&'a [f64]),
    F64Le(&'a [[u8; 8]]),
    F16(&'a [f16]),
    F16Le(&'a [[u8; 2]]),
    Bf16(&'a [bf16]),
    Bf16Le(&'a [[u8; 2]]),
}

/// Elements a task takes at a time; a multiple of 64, so that tasks write whole words of a mask.
pub(crate) const CHUNK: usize = 1 << 18;

/// Runs an expression over weights that are stored in at most 32 bits, where their magnitude can be told from
/// the bits: `$values` are those of a range, `$key` makes a magnitude's key of one.
macro_rules! by_bits {
    ($of:expr, $range:expr, |$values:ident, $key:ident| $body:expr, else $other:expr) => {{
        const MAGNITUDE: u32 = u32::MAX >> 1;
        macro_rules! of {
            ($v:ident, $bits:expr) => {{
                let ($values, $key) = (&$v[$range], $bits);
                $body
            }};
        }
        match $of {
            Values::F32(v) => of!(v, |w: &f32| w.to_bits() & MAGNITUDE),
            Values::F32Le(v) => of!(v, |&w: &[u8; 4]| u32::from_le_bytes(w) & MAGNITUDE),
            Values::Bf16(v) => of!(v, |w: &bf16| (u32::from(w.to_bits()) << 16) & MAGNITUDE),
            Values::Bf16Le(v) => {
                of!(v, |&w: &[u8; 2]| (u32::from(u16::from_le_bytes(w)) << 16) & MAGNITUDE)
            }
            _ => $other,
        }
    }};
}

impl<'a> Weights<'a> {
    /// The weights of a stored tensor; of a packed one those of [`StoredTensor::dense`].
    ///
    /// # Errors
    /// Where the tensor is packed, the type is not f32, f64, f16 or bf16, or the stored bytes do not fill the shape.
    pub fn of(stored: &'a StoredTensor) -> Result<Self> {
        let len = stored.len();
        let values = match &stored.storage {
            Storage::Data(data) | Storage::Computed(data, _) => match &**data {
                Data::F32(v) => Values::F32(v),
                Data::F64(v) => Values::F64(v),
                Data::F16(v) => Values::F16(v),
                Data::BF16(v) => Values::Bf16(v),
                _ => return Err(not_prunable(stored)),
            },
            Storage::Bytes(bytes) => {
                if stored.dtype.bytes_for(len) != Some(bytes.len()) {
                    return Err(unfilled(stored, bytes.len(), "bytes"));
                }
                match stored.dtype {
                    DType::F32 => Values::F32Le(bytes.as_chunks().0),
                    DType::F64 => Values::F64Le(bytes.as_chunks().0),
                    DType::F16 => Values::F16Le(bytes.as_chunks().0),
                    DType::BF16 => Values::Bf16Le(bytes.as_chunks().0),
                    _ => return Err(not_prunable(stored)),
                }
            }
            Storage::Packed(_) | Storage::Lazy(_) => {
                let message =
                    "packed and lazy weights cannot be read in place: `StoredTensor::dense` expands them";
                return Err(Error::internal(message).at_tensor(&stored.path));
            }
        };
        if values.len() != len {
            return Err(unfilled(stored, values.len(), "elements"));
        }
        Ok(Weights { values, base: None })
    }

    /// These weights, of which those that a mask prunes are zeros.
    ///
    /// # Errors
    /// `Input` where the mask is of another length.
    pub fn masked_by(self, base: &'a Mask) -> Result<Self> {
        if base.len() != self.len() {
            let (found, expected) = (base.len(), self.len());
            return Err(Error::input(format!(
                "the base mask has {found} elements, the tensor {expected}: it belongs to another tensor"
            )));
        }
        Ok(Weights { base: Some(base), ..self })
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether magnitudes need f64 to be told apart.
    pub fn is_f64(&self) -> bool {
        matches!(self.values, Values::F64(_) | Values::F64Le(_))
    }

    /// The bits of the magnitudes of `out.len()` weights from `start` on, as f32: they order as the
    /// magnitudes do, infinities and then NaN last, and 0 is the magnitude 0. f64 weights are
    /// rounded, so they must not be ranked by this ([`Weights::is_f64`]).
    pub fn magnitudes32(&self, start: usize, out: &mut [u32]) {
        self.values.magnitudes32(start, out);
        self.zero_pruned(start, out);
    }

    /// Divides the keys of [`Weights::magnitudes32`] in a range at two bounds, the first key at position 0: see
    /// [`select::split`]. Returns false, with nothing done, where keys cannot be read from the bits of the weights
    /// alone.
    pub fn split32(
        &self,
        range: Range<usize>,
        bounds: [u32; 2],
        words: &mut [u64],
        found: &mut Split<u32>,
    ) -> bool {
        if self.base.is_some() {
            return false;
        }
        by_bits!(
            &self.values, range,
            |values, key| select::split(values, key, bounds, 0, words, found), else return false
        );
        true
    }

    /// The bits of the magnitudes as f64: exact for every type; otherwise as
    /// [`Weights::magnitudes32`].
    pub fn magnitudes64(&self, start: usize, out: &mut [u64]) {
        self.values.magnitudes64(start, out);
        self.zero_pruned(start, out);
    }

    /// Writes the numbers themselves from `start` on; base masks have no effect.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        self.values.read(start, out, |w| w);
    }

    /// Writes all weights; those that the base mask prunes are zeros.
    pub fn read_pruned(&self, out: &mut [f64]) {
        self.read(0, out);
        self.zero_pruned(0, out);
    }

    /// A reader of magnitudes, which holds its buffer.
    pub fn magnitudes(&self) -> Numbers<'a> {
        Numbers { source: Source::Magnitudes(*self), buffer: [0.0; BUFFER] }
    }

    /// A reader of the numbers themselves; base masks have no effect.
    pub fn numbers(&self) -> Numbers<'a> {
        Numbers { source: Source::Numbers(*self), buffer: [0.0; BUFFER] }
    }

    /// Sets the keys of the elements that the base mask prunes to 0; the first is of element `start`.
    fn zero_pruned<K: Default>(&self, start: usize, out: &mut [K]) {
        let Some(words) = self.base.map(Mask::words) else { return };
        for (i, key) in (start..).zip(out) {
            if words[i / 64] >> (i % 64) & 1 == 0 {
                *key = K::default();
            }
        }
    }

    /// Sets the keys of weights that are 0 or −0 to 0; the first is of element `start`.
    pub fn zero_keys_of_zeros(&self, start: usize, keys: &mut [u64]) {
        self.magnitudes().for_each_block(start..start + keys.len(), |at, block| {
            for (key, _) in keys[at - start..].iter_mut().zip(block).filter(|(_, m)| **m == 0.0) {
                *key = 0;
            }
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
        let at = position_of_nan(self.magnitudes(), stored).unwrap_or_default();
        Err(Error::input(format!(
            "the weight at {at:?} is NaN: it has no magnitude to rank; repair or exclude the tensor"
        )))
        .at_tensor(&stored.path)
    }

    fn count_all(&self) -> (usize, bool) {
        (0..self.len().div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| self.count(chunk * CHUNK, self.len().min((chunk + 1) * CHUNK)))
            .reduce(|| (0, false), |a, b| (a.0 + b.0, a.1 | b.1))
    }

    /// Zeros and the largest key of [`Weights::magnitudes32`] in a range; `None` where keys cannot be read
    /// from the bits of the weights alone.
    fn tally32(&self, range: Range<usize>) -> Option<(u64, u32)> {
        if self.base.is_some() {
            return None;
        }
        Some(by_bits!(&self.values, range, |values, key| select::tally(values, key), else return None))
    }

    /// Zeros in a range, and whether it holds a NaN.
    fn count(&self, start: usize, end: usize) -> (usize, bool) {
        fn of<K: SelectKey>(
            range: Range<usize>,
            infinity: K,
            fill: impl Fn(usize, &mut [K]),
        ) -> (usize, bool) {
            let mut buffer = [K::default(); BUFFER];
            let (mut zeros, mut nan) = (0, false);
            for at in range.clone().step_by(BUFFER) {
                let keys = &mut buffer[..BUFFER.min(range.end - at)];
                fill(at, keys);
                let (found, largest) = select::tally(keys, |&key| key);
                zeros += found as usize;
                nan |= largest > infinity;
            }
            (zeros, nan)
        }
        if let Some((zeros, largest)) = self.tally32(start..end) {
            return (zeros as usize, largest > f32::INFINITY.to_bits());
        }
        match self.is_f64() {
            true => of(start..end, f64::INFINITY.to_bits(), |at, keys| self.magnitudes64(at, keys)),
            false => of(start..end, f32::INFINITY.to_bits(), |at, keys| self.magnitudes32(at, keys)),
        }
    }
}

/// Reads numbers in chunks.
pub struct Numbers<'a> {
    source: Source<'a>,
    buffer: [f64; BUFFER],
}

enum Source<'a> {
    Magnitudes(Weights<'a>),
    Numbers(Weights<'a>),
    Computed(&'a dyn Fn(usize, &mut [f64])),
}

impl<'a> Numbers<'a> {
    /// A reader of what a function computes: it fills a slice with the numbers from a position on.
    pub fn of(computed: &'a dyn Fn(usize, &mut [f64])) -> Self {
        Numbers { source: Source::Computed(computed), buffer: [0.0; BUFFER] }
    }

    /// Calls `visit` with the numbers of a range, in order and in chunks, and the position of each chunk.
    pub fn for_each_block(&mut self, range: Range<usize>, mut visit: impl FnMut(usize, &[f64])) {
        for start in range.clone().step_by(BUFFER) {
            let out = &mut self.buffer[..BUFFER.min(range.end - start)];
            match &self.source {
                Source::Magnitudes(weights) => {
                    weights.values.read(start, out, f64::abs);
                    weights.zero_pruned(start, out);
                }
                Source::Numbers(weights) => weights.read(start, out),
                Source::Computed(fill) => fill(start, out),
            }
            visit(start, out);
        }
    }
}

/// Folds the numbers of each unit. A run of one unit is folded in four lanes, so that one
/// element need not wait for the one before; the order is the same each time.
pub fn fold_units<T: Copy>(
    mut numbers: Numbers<'_>,
    units: &Units,
    init: T,
    of: impl Fn(f64) -> T,
    combine: impl Fn(T, T) -> T,
) -> Vec<T> {
    const LANES: usize = 4;
    let mut folded = vec![init; units.count()];
    units.for_each_run(|start, len, first, step| {
        let run = start..start + len;
        if step == 0 {
            let mut lanes = [init; LANES];
            numbers.for_each_block(run, |_, block| {
                let (whole, rest) = block.as_chunks::<LANES>();
                for four in whole {
                    for (lane, &m) in lanes.iter_mut().zip(four) {
                        *lane = combine(*lane, of(m));
                    }
                }
                for (lane, &m) in lanes.iter_mut().zip(rest) {
                    *lane = combine(*lane, of(m));
                }
            });
            folded[first] = lanes.into_iter().fold(folded[first], &combine);
        } else {
            numbers.for_each_block(run, |at, block| {
                for (slot, &m) in folded[first + (at - start)..].iter_mut().zip(block) {
                    *slot = combine(*slot, of(m));
                }
            });
        }
    });
    folded
}

/// The index of the first NaN of a tensor's numbers.
pub fn position_of_nan(mut numbers: Numbers<'_>, stored: &StoredTensor) -> Option<Vec<usize>> {
    let mut found = None;
    numbers.for_each_block(0..stored.len(), |start, block| {
        found = found.or_else(|| block.iter().position(|w| w.is_nan()).map(|i| start + i));
    });
    let (at, strides) = (found?, strides(&stored.shape));
    Some(strides.iter().zip(&stored.shape).map(|(s, extent)| at / s % extent).collect())
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::F32Le(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::F64Le(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::F16Le(v) | Values::Bf16Le(v) => v.len(),
            Values::Bf16(v) => v.len(),
        }
    }

    fn magnitudes32(&self, start: usize, out: &mut [u32]) {
        let range = start..start + out.len();
        by_bits!(self, range.clone(), |values, key| fill(out, values, key), else match self {
            Values::F16(v) => half_magnitudes(out, |o, buffer| {
                v[start + o..][..buffer.len()].convert_to_f32_slice(buffer);
            }),
            Values::F16Le(v) => half_magnitudes(out, |o, buffer| {
                let mut halves = [f16::ZERO; BUFFER];
                let halves = &mut halves[..buffer.len()];
                fill(halves, &v[start + o..], |&le| f16::from_le_bytes(le));
                halves.convert_to_f32_slice(buffer);
            }),
            _ => self.read(start, out, |w| (w as f32).abs().to_bits()),
        });
    }

    fn magnitudes64(&self, start: usize, out: &mut [u64]) {
        self.read(start, out, |w| w.abs().to_bits());
    }

    /// Writes a function of the elements from `start` on.
    fn read<T>(&self, start: usize, out: &mut [T], of: impl Fn(f64) -> T) {
        let range = start..start + out.len();
        match self {
            Values::F32(v) => fill(out, &v[range], |&w| of(w.into())),
            Values::F32Le(v) => fill(out, &v[range], |&w| of(f32::from_le_bytes(w).into())),
            Values::F64(v) => fill(out, &v[range], |&w| of(w)),
            Values::F64Le(v) => fill(out, &v[range], |&w| of(f64::from_le_bytes(w))),
            Values::F16(v) => fill(out, &v[range], |&w| of(w.into())),
            Values::F16Le(v) => fill(out, &v[range], |&w| of(f16::from_le_bytes(w).into())),
            Values::Bf16(v) => fill(out, &v[range], |&w| of(w.into())),
            Values::Bf16Le(v) => fill(out, &v[range], |&w| of(bf16::from_le_bytes(w).into())),
        }
    }
}

/// A score as a key: orders as the numbers do and is never 0, which stands for what is pruned already.
pub fn ordered(score: f64) -> u64 {
    // −0 is 0.
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Elements converted at a time: a buffer that stays in the first-level cache.
pub(crate) const BUFFER: usize = 2048;

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
