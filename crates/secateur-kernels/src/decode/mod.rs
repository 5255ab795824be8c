//! Linear layers for a row or a few, as in decoding a token: every weight is used once for each row, so the time is
//! that of reading the weights from memory, and fewer bytes of them are what makes it shorter.

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
/// layouts. Where there are more rows, sparse weights belong on tiles (see
/// [`Tiling::of_tokens`](crate::tiled::Tiling::of_tokens)).
///
/// Inputs should be finite: NaN and infinities may reach every output, also where weights are zero.
///
/// Errors, beside those of sums in single precision (which have another order than a plain loop):
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
    form: Arc<dyn Form>,
    /// What a weight of each output counts, where it isn't itself.
    scales: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

/// Weights in a layout.
trait Form: Debug + Send + Sync {
    fn bytes(&self) -> usize;
    /// Parts, each with rows of its own.
    fn parts(&self) -> usize;
    /// Writes the sums of products of the rows of `parts`.
    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: Rows);
}

/// Where sums of rows go; each row is written by one part.
#[derive(Clone, Copy)]
struct Rows<'a>(SharedMut<'a, f32>);

impl Rows<'_> {
    /// # Safety
    /// Nobody else uses this row meanwhile.
    #[inline(always)]
    unsafe fn write(&self, row: usize, sum: f32) {
        assert!(row < self.0.len());
        // SAFETY: an element, which is the caller's.
        unsafe { *self.0.at(row) = sum };
    }
}

impl RowWeights {
    /// Packs `weights` (`[outputs, inputs]`) and `bias` (`[outputs]`) in the layout that [`Layout::choose`] says.
    ///
    /// # Panics
    /// If the weights aren't a whole number of rows, the bias has another length, or there are more than
    /// [`Layout::MAX_INPUTS`] inputs.
    pub fn new(inputs: usize, weights: &[f32], bias: Option<&[f32]>, values: ValueType) -> RowWeights {
        RowWeights::with_factors(None, inputs, weights, None, bias, values)
    }

    /// As [`RowWeights::new`], in a layout of the caller's choice where one is given, and with the weights of each output
    /// times its factor (`[outputs]`): sums are multiplied by it, so that what the values hold exactly stays exact.
    ///
    /// # Panics
    /// As [`RowWeights::new`], if there isn't a factor for each output, and for [`Layout::Pairs`] if the weights don't have
    /// that pattern.
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

    /// As [`RowWeights::new`], in a layout of the caller's choice.
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
        let form: Arc<dyn Form> = match layout {
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

    /// Weights that aren't zero, as stored.
    pub fn nnz(&self) -> usize {
        self.nnz
    }

    /// Memory that the weights take up.
    pub fn bytes(&self) -> usize {
        self.form.bytes() + self.scales.as_ref().map_or(0, |s| size_of_val(&s[..]))
    }

    /// What the weights are kept as.
    pub fn values(&self) -> ValueType {
        self.values
    }

    /// How the weights lie in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// out = act(x Wᵀ + bias + residual) for rows `[rows, inputs]`, on the current rayon pool.
    ///
    /// # Panics
    /// If a slice's length doesn't fit the others or the sizes.
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
        let room = Input::room(self.inputs);
        threads::with_workspace(size::of(&[rows, room]), |memory| {
            for (x, room) in x.chunks_exact(self.inputs).zip(memory.chunks_exact_mut(room)) {
                Input::write(self.isa, x, self.values, room);
            }
            let inputs = |row: usize| Input::read(self.values, &memory[row * room..(row + 1) * room]);
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
        /// Bytes that stay in the cache for the next row.
        const CACHED: usize = 256 << 10;
        let shared = SharedMut::new(out);
        let parts = self.form.parts();
        threads::ranges(parts, size::work(&[rows, self.nnz.max(self.outputs)]) / parts, |range| {
            let some = if rows == 1 { range.len() } else { (CACHED * parts / self.bytes()).max(4) };
            for start in range.clone().step_by(some) {
                for row in 0..rows {
                    // SAFETY: ranges have rows of their own, and so have `row`s.
                    let out = unsafe { shared.slice(row * self.outputs, self.outputs) };
                    let out = Rows(SharedMut::new(out));
                    self.form.run(self.isa, start..range.end.min(start + some), &inputs(row), out);
                }
            }
        });
    }
}

/// Weights that there are all layouts for.
trait Stored: dense::Dot + mask::Masked + slots::Slotted + pairs::Paired {}

impl<T: dense::Dot + mask::Masked + slots::Slotted + pairs::Paired> Stored for T {}

/// Turns sums into outputs.
struct Ending<'a> {
    out: &'a mut [f32],
    /// What a weight counts for each output, and what an input counts.
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
