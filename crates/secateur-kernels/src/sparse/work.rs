//! Operation counts of convolutions on tiles, for cost estimates.

use super::panel::ROWS;
use super::{Form, SparseConv};
use crate::conv::ConvSpec;
use crate::size;
use crate::tiled::{COLUMNS, Pack, Source, Tiling};
use std::ops::Range;

/// Operation counts of a convolution of one image on tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvWork {
    /// Pixels computed per output channel, including those beyond the map.
    pub pixels: usize,
    /// Nonzero weights.
    pub weights: usize,
    /// Pairs of an input and an output (or a panel of outputs) with nonzero weights.
    pub columns: usize,
    /// Number of times that sums are loaded and stored: for each output (or panel), tile and block of inputs with weights.
    pub rows: usize,
    /// Number of loops over a pattern of weights; single outputs have one pattern.
    pub patterns: usize,
    /// Values of rows gathered together with their neighbours.
    pub lines: usize,
    /// The same for stride 2, with even and odd values separated.
    pub split_lines: usize,
    /// Values gathered window by window.
    pub windows: usize,
}

impl SparseConv {
    /// Operation counts of a convolution in a form, for images tiled as `input`.
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

/// The part of a block that lies in the `depth` columns from `start` on, relative to `start`.
fn within(block: &Range<usize>, start: usize, depth: usize) -> Range<usize> {
    let at = |column: usize| column.clamp(start, start + depth) - start;
    at(block.start)..at(block.end)
}
