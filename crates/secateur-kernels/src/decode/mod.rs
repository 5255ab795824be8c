//! Linear layers for one row or a few, as in decoding a token: each weight is used once per row, so the time is that of
//! reading the weights from memory, and fewer bytes take less time.

mod choose;
mod dense;
mod mask;
mod pairs;
mod rows;
mod slots;
#[cfg(test)]
mod tests;
mod value;

use crate::activation::{Activation, apply_in};
use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads::{self, SharedMut};
use crate::value::{ValueType, byte_scale, to_bytes};
pub use choose::{Layout, Zeros};
use dense::Dense;
use half::f16;
use mask::Mask;
use pairs::Pairs;
use slots::Slots;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use value::Input;

/// A linear layer for a row or a few, y = act(W x + bias + residual), with weights in one of several types and
/// layouts. For more rows, sparse weights are faster on tiles (see
/// [`Tiling::of_tokens`](crate::tiled::Tiling::of_tokens)).
///
/// Inputs should be finite: NaN and infinities may reach every output, even through zero weights.
///
/// Errors, in addition to those of sums in single precision (whose order differs from that of a plain loop):
/// - [`ValueType::F16`]: each weight is off by at most 2⁻¹¹ of itself (2⁻²⁵ where it's below 2⁻¹⁴), and is infinite
///   from 65520 on.
/// - [`ValueType::Int8`]: inputs are rounded to bytes in each call. With the largest weight of an output `w` and the
///   largest input `x`, each weight is off by at most `w` / 254 and each input by at most `x` / 254; so an output is off
///   by at most (w Σ|xᵢ| + x Σ|wᵢ|) / 254 + n w x / 254² over its n weights. Sums are exact.
#[derive(Clone, Debug)]
pub struct RowWeights {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    nnz: usize,
    values: ValueType,
    layout: Layout,
    form: Arc<dyn PackedRows>,
    /// Scale per output of the stored weights, if they have one.
    scales: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

/// Weights packed in a layout.
trait PackedRows: Debug + Send + Sync {
    fn bytes(&self) -> usize;
    /// Number of parts, which have disjoint rows.
    fn parts(&self) -> usize;
    /// Writes the sums of products of the rows of `parts`.
    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: RowSums);
}

/// Destination of the rows' sums; each row is written by one part.
#[derive(Clone, Copy)]
struct RowSums<'a>(SharedMut<'a, f32>);

impl RowSums<'_> {
    /// # Safety
    /// No other thread uses this row's sum at the same time.
    #[inline(always)]
    unsafe fn write(&self, row: usize, sum: f32) {
        assert!(row < self.0.len());
        // SAFETY: in bounds by the assertion; exclusive by the caller's guarantee.
        unsafe { *self.0.at(row) = sum };
    }
}

impl RowWeights {
    /// Packs `weights` (`[outputs, inputs]`) and `bias` (`[outputs]`) in the layout chosen by [`Layout::choose`].
    ///
    /// # Panics
    /// If the weights are not a whole number of rows, the bias has another length, or there are more than
    /// [`Layout::MAX_INPUTS`] inputs.
    pub fn new(inputs: usize, weights: &[f32], bias: Option<&[f32]>, values: ValueType) -> RowWeights {
        RowWeights::with_factors(None, inputs, weights, None, bias, values)
    }

    /// As [`RowWeights::new`], in a given layout if there is one, and with a scale per output, `factors` (`[outputs]`). It
    /// multiplies the sums, so weights that the type holds exactly stay exact.
    ///
    /// # Panics
    /// As [`RowWeights::new`], if there is not one factor per output, and for [`Layout::Pairs`] if the weights are not 2:4.
    pub fn with_factors(
        layout: Option<Layout>,
        inputs: usize,
        weights: &[f32],
        factors: Option<&[f32]>,
        bias: Option<&[f32]>,
        values: ValueType,
    ) -> RowWeights {
        RowWeights::with(Isa::best(), layout, inputs, weights, factors, bias, values)
    }

    /// As [`RowWeights::new`], in a given layout.
    ///
    /// # Panics
    /// As [`RowWeights::new`].
    pub fn with_layout(
        layout: Layout,
        inputs: usize,
        weights: &[f32],
        bias: Option<&[f32]>,
        values: ValueType,
    ) -> RowWeights {
        RowWeights::with(Isa::best(), Some(layout), inputs, weights, None, bias, values)
    }

    fn with(
        isa: Isa,
        layout: Option<Layout>,
        inputs: usize,
        weights: &[f32],
        factors: Option<&[f32]>,
        bias: Option<&[f32]>,
        values: ValueType,
    ) -> RowWeights {
        let scales = factors.map(<[f32]>::to_vec);
        match values {
            ValueType::F32 => RowWeights::pack(isa, layout, inputs, weights, values, scales, bias),
            ValueType::F16 => {
                let halves: Vec<f16> = weights.iter().map(|&w| f16::from_f32(w)).collect();
                RowWeights::pack(isa, layout, inputs, &halves, values, scales, bias)
            }
            ValueType::Int8 => {
                let mut bytes = vec![0; weights.len()];
                let rows = weights.chunks(inputs.max(1)).zip(bytes.chunks_mut(inputs.max(1)));
                let factor = |o: usize| factors.map_or(1.0, |f| f[o]);
                let scale = |(o, (row, bytes))| byte_scale(to_bytes(isa, row, bytes)) * factor(o);
                let scales = rows.enumerate().map(scale).collect();
                RowWeights::pack(isa, layout, inputs, &bytes, values, Some(scales), bias)
            }
        }
    }

    fn pack<T: Stored>(
        isa: Isa,
        layout: Option<Layout>,
        inputs: usize,
        weights: &[T],
        values: ValueType,
        scales: Option<Vec<f32>>,
        bias: Option<&[f32]>,
    ) -> RowWeights {
        assert!((1..=Layout::MAX_INPUTS).contains(&inputs), "{inputs} inputs");
        let outputs = weights.len() / inputs;
        assert_eq!(weights.len(), size::of(&[outputs, inputs]), "weights of {inputs} inputs");
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias of {outputs} outputs");
        assert!(scales.as_ref().is_none_or(|s| s.len() == outputs), "scales of {outputs} outputs");
        let zeros = Zeros::of(inputs, weights);
        let layout = layout.unwrap_or_else(|| Layout::choose_with(isa, values, zeros));
        let form: Arc<dyn PackedRows> = match layout {
            Layout::Dense => Arc::new(Dense::new(inputs, weights)),
            Layout::Mask => Arc::new(Mask::new(inputs, weights)),
            Layout::Slots => Arc::new(Slots::new(isa, inputs, weights)),
            Layout::Pairs => Arc::new(Pairs::new(isa, inputs, weights)),
        };
        RowWeights {
            isa,
            inputs,
            outputs,
            nnz: zeros.nnz,
            values,
            layout,
            form,
            scales,
            bias: bias.map(<[f32]>::to_vec),
        }
    }

    /// Nonzero weights, as stored.
    pub fn nnz(&self) -> usize {
        self.nnz
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.form.bytes() + self.scales.as_ref().map_or(0, |s| size_of_val(&s[..]))
    }

    /// The type of the stored weights.
    pub fn values(&self) -> ValueType {
        self.values
    }

    /// The layout of the weights in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// out = act(x Wᵀ + bias + residual) for rows `[rows, inputs]`, on the current rayon pool.
    ///
    /// # Panics
    /// If a slice's length does not match the sizes or the other slices.
    pub fn run(&self, x: &[f32], residual: Option<&[f32]>, activation: Activation, out: &mut [f32]) {
        assert!(residual.is_none_or(|r| r.len() == out.len()), "residual of {} values", out.len());
        if out.is_empty() {
            return;
        }
        let rows = out.len() / self.outputs.max(1);
        assert!(
            out.len() == size::of(&[rows, self.outputs]) && x.len() == size::of(&[rows, self.inputs]),
            "{} and {} values for rows of {} and {}",
            x.len(),
            out.len(),
            self.inputs,
            self.outputs
        );
        let len = Input::scratch_len(self.inputs);
        threads::with_workspace(size::of(&[rows, len]), |memory| {
            for (x, scratch) in x.chunks_exact(self.inputs).zip(memory.chunks_exact_mut(len)) {
                Input::write(self.isa, x, self.values, scratch);
            }
            let inputs = |row: usize| Input::read(self.values, &memory[row * len..(row + 1) * len]);
            self.sums(rows, inputs, out);
            let shared = SharedMut::new(out);
            for row in 0..rows {
                let scale = inputs(row).scale;
                threads::ranges(self.outputs, 4, |range| {
                    let at = row * self.outputs + range.start;
                    self.isa.run(Ending {
                        // SAFETY: ranges of a row are disjoint.
                        out: unsafe { shared.slice(at, range.len()) },
                        scales: self.scales.as_ref().map(|s| (&s[range.clone()], scale)),
                        bias: self.bias.as_ref().map(|b| &b[range.clone()]),
                        residual: residual.map(|r| &r[at..at + range.len()]),
                        activation,
                    });
                });
            }
        });
    }

    /// The sums of products of each row.
    fn sums<'a>(&self, rows: usize, inputs: impl Fn(usize) -> Input<'a> + Sync, out: &mut [f32]) {
        /// Bytes of weights that stay in the cache for the next row.
        const CACHED: usize = 256 << 10;
        let shared = SharedMut::new(out);
        let parts = self.form.parts();
        threads::ranges(parts, size::work(&[rows, self.nnz.max(self.outputs)]) / parts, |range| {
            let some = if rows == 1 { range.len() } else { (CACHED * parts / self.bytes()).max(4) };
            for start in range.clone().step_by(some) {
                for row in 0..rows {
                    // SAFETY: parts write disjoint outputs of a row, and tasks differ in their parts.
                    let out = unsafe { shared.slice(row * self.outputs, self.outputs) };
                    let out = RowSums(SharedMut::new(out));
                    self.form.run(self.isa, start..range.end.min(start + some), &inputs(row), out);
                }
            }
        });
    }
}

/// Weights with an implementation of every layout.
trait Stored: dense::Dot + mask::Masked + slots::Slotted + pairs::Paired {}

impl<T: dense::Dot + mask::Masked + slots::Slotted + pairs::Paired> Stored for T {}

/// Turns sums into outputs.
struct Ending<'a> {
    out: &'a mut [f32],
    /// Scales per output, and the scale of the inputs.
    scales: Option<(&'a [f32], f32)>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activation: Activation,
}

impl Kernel for Ending<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Ending { out, scales, bias, residual, activation } = self;
        if let Some((scales, scale)) = scales {
            out.iter_mut().zip(scales).for_each(|(y, w)| *y *= w * scale);
        }
        for terms in [bias, residual].into_iter().flatten() {
            out.iter_mut().zip(terms).for_each(|(y, t)| *y += t);
        }
        apply_in(s, activation, out);
    }
}
