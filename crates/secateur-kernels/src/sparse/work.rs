//! What a convolution on tiles does, from which its time is estimated.

use super::panel::ROWS;
use super::{Form, SparseConv};
use crate::conv::ConvSpec;
use crate::size;
use crate::tiled::{COLUMNS, Pack, Source, Tiling};
use std::ops::Range;

/// What a convolution of an image on tiles does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvWork {
    /// Pixels that are computed of each output channel, those beyond the map among them.
    pub pixels: usize,
    /// Weights that aren't zero.
    pub weights: usize,
    /// Pairs of an input and an output, or a panel of outputs, between which there are weights.
    pub columns: usize,
    /// How often sums are taken up: those of an output, or of a panel, for each tile and each block of inputs that
    /// it meets.
    pub rows: usize,
    /// How often the sums go on to inputs with another pattern of weights; outputs by themselves have one.
    pub patterns: usize,
    /// Values of rows that are brought together with those beside them.
    pub lines: usize,
    /// The same where every second value of a row is taken, the others apart.
    pub split_lines: usize,
    /// Values that are brought together window by window.
    pub windows: usize,
}

impl SparseConv {
    /// What a convolution in a form would do on images tiled as `input`.
    ///
    /// # Panics
    /// As [`SparseConv::new`].
    pub fn work(form: Form, weights: &[f32], spec: &ConvSpec, input: &Tiling) -> ConvWork {
        let (geometry, output) = input.convolved(spec);
        let pack = Pack::of_products(&geometry, input, &output, spec.out_channels / spec.groups, form.deep());
        let packed = size::work(&[output.tiles(), pack.packed()]);
        let of = |source: bool| if source { packed } else { 0 };
        let lines = !matches!(pack.source, Source::Tile | Source::Windows);
        let mut work = ConvWork {
            pixels: size::work(&[output.tiles(), output.rows, COLUMNS]),
            weights: weights.iter().filter(|w| **w != 0.0).count(),
            lines: of(lines && geometry.axes[2].stride == 1),
            split_lines: of(lines && geometry.axes[2].stride == 2),
            windows: of(pack.source == Source::Windows),
            ..ConvWork::default()
        };
        let height = match form {
            Form::Rows => 1,
            Form::Panels => ROWS,
        };
        let depth = weights.len() / spec.out_channels;
        let mut patterns = vec![0u8; depth];
        for (g, group) in weights.chunks(spec.out_channels / spec.groups * depth).enumerate() {
            for panel in group.chunks(height * depth) {
                patterns.fill(0);
                for (r, row) in panel.chunks(depth).enumerate() {
                    patterns.iter_mut().zip(row).for_each(|(p, w)| *p |= u8::from(*w != 0.0) << r);
                }
                work.columns += patterns.iter().filter(|p| **p != 0).count();
                for block in &pack.blocks {
                    let here = &patterns[within(block, g * depth, depth)];
                    let seen = here.iter().fold(0u16, |seen, p| seen | 1 << p) & !1;
                    let rows = output.tiles() * usize::from(!here.is_empty());
                    let patterns = size::work(&[output.tiles(), seen.count_ones() as usize]);
                    work.rows = work.rows.saturating_add(rows);
                    work.patterns = work.patterns.saturating_add(patterns);
                }
            }
        }
        work
    }
}

/// The part of the `depth` columns from `start` on that lies in a block, counted from `start`.
fn within(block: &Range<usize>, start: usize, depth: usize) -> Range<usize> {
    let at = |column: usize| column.clamp(start, start + depth) - start;
    at(block.start)..at(block.end)
}
