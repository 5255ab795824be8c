//! Resampling along one axis: which source elements an output element is made of, and the passes
//! that apply that to a tensor.

use super::cells::{filled, len_of, room};
use super::number::Float;
use crate::{Error, Result};

/// From a position in the output to a place in the source (ONNX's `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Operator set 11 only.
    TfHalfPixelForNearest,
    TfCropAndResize,
}

/// One axis to resample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// Extent in the source.
    pub(super) from: usize,
    /// Extent in the output.
    pub(super) to: usize,
    /// Output elements per source element; `from · scale` may be fractional.
    pub(super) scale: f32,
    /// The part of the source that is shown, in parts of its extent; for [`Coordinates::TfCropAndResize`].
    pub(super) region: (f32, f32),
}

impl Axis {
    /// Where each output position lies in the source; computed in f32, as other runtimes do, since
    /// rounding decides which neighbour is the nearest.
    pub(super) fn places(&self, mode: Coordinates) -> Vec<f32> {
        let (scale, from, (start, end)) = (self.scale, self.from as f32, self.region);
        let resized = scale * from;
        let place = |i: usize| {
            let x = i as f32;
            match mode {
                Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
                Coordinates::HalfPixelSymmetric => {
                    let offset = from / 2.0 * (1.0 - self.to as f32 / resized);
                    offset + (x + 0.5) / scale - 0.5
                }
                Coordinates::PytorchHalfPixel if self.to <= 1 => 0.0,
                Coordinates::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
                Coordinates::AlignCorners if resized == 1.0 => 0.0,
                Coordinates::AlignCorners => x * (from - 1.0) / (resized - 1.0),
                Coordinates::Asymmetric => x / scale,
                Coordinates::TfHalfPixelForNearest => (x + 0.5) / scale,
                Coordinates::TfCropAndResize if resized <= 1.0 => 0.5 * (start + end) * (from - 1.0),
                Coordinates::TfCropAndResize => {
                    start * (from - 1.0) + x * (end - start) * (from - 1.0) / (resized - 1.0)
                }
            }
        };
        (0..self.to).map(place).collect()
    }

    /// Whether a place is outside the source.
    pub(super) fn is_outside(&self, place: f32) -> bool {
        place < 0.0 || place > self.from as f32 - 1.0
    }

    /// A position that may be outside, moved to the edge.
    pub(super) fn clamp(&self, position: f32) -> usize {
        position.clamp(0.0, self.from as f32 - 1.0) as usize
    }
}

/// How elements between source elements are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kernel {
    Linear,
    /// Keys' cubic convolution with its coefficient.
    Cubic(f32),
}

impl Kernel {
    /// The distance from which on weights are zero.
    pub(super) fn reach(self) -> u8 {
        match self {
            Kernel::Linear => 1,
            Kernel::Cubic(_) => 2,
        }
    }

    pub(super) fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Kernel::Linear => (1.0 - x).max(0.0),
            Kernel::Cubic(a) => {
                let a = f64::from(a);
                if x <= 1.0 {
                    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
                } else {
                    0.0
                }
            }
        }
    }
}

/// The weighted source positions of each output position, equally many for all.
pub(super) struct Taps {
    each: usize,
    positions: Vec<usize>,
    weights: Vec<f32>,
    /// What output positions outside the source are instead.
    outside: Vec<bool>,
}

/// What the weights depend on besides the places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    pub(super) kernel: Kernel,
    /// Widen the kernel where the axis shrinks, so that every source element counts.
    pub(super) antialias: bool,
    /// Give no weight to positions outside the source; otherwise the edge stands for them.
    pub(super) exclude_outside: bool,
}

impl Taps {
    pub(super) fn new(axis: &Axis, mode: Coordinates, filter: Filter) -> Result<Self> {
        let stretch = if filter.antialias { axis.scale.min(1.0) } else { 1.0 };
        let reach = f32::from(filter.kernel.reach()) / stretch;
        let each = (reach.ceil() as usize).saturating_mul(2);
        let mut taps = Taps {
            each,
            positions: room(len_of(&[axis.to, each])?)?,
            weights: room(len_of(&[axis.to, each])?)?,
            outside: Vec::new(),
        };
        for place in axis.places(mode) {
            let first = place.floor() + 1.0 - (each / 2) as f32;
            let at = taps.weights.len();
            for k in 0..each {
                let position = first + k as f32;
                let excluded = filter.exclude_outside && axis.is_outside(position);
                let weight = if excluded {
                    0.0
                } else {
                    filter.kernel.weight(((position - place) * stretch).into()) as f32
                };
                taps.positions.push(axis.clamp(position));
                taps.weights.push(weight);
            }
            let sum: f32 = taps.weights[at..].iter().sum();
            if (filter.exclude_outside || filter.antialias) && sum != 0.0 {
                taps.weights[at..].iter_mut().for_each(|w| *w /= sum);
            }
            taps.outside.push(mode == Coordinates::TfCropAndResize && axis.is_outside(place));
        }
        Ok(taps)
    }

    /// The positions and weights, with zeros for what is outside of the source.
    pub(super) fn into_weights(mut self) -> (Vec<usize>, Vec<f32>) {
        let rows = self.weights.chunks_exact_mut(self.each.max(1)).zip(&self.outside);
        rows.filter(|(_, outside)| **outside).for_each(|(weights, _)| weights.fill(0.0));
        (self.positions, self.weights)
    }

    /// Resamples the middle axis of elements seen as outer × extent × inner; positions outside the
    /// source become `outside`.
    pub(super) fn apply<T: Float>(
        &self,
        cells: &[T],
        extent: usize,
        inner: usize,
        outside: T,
    ) -> Result<Vec<T>> {
        let block = extent * inner;
        let outer = cells.len().checked_div(block).unwrap_or(0);
        let mut out = room(len_of(&[outer, self.outside.len(), inner])?)?;
        let weights: Vec<T> = self.weights.iter().map(|&w| T::from_f64(w.into())).collect();
        let pairs = (self.positions.as_chunks::<2>().0, weights.as_chunks::<2>().0);
        for source in cells.chunks_exact(block.max(1)) {
            match (self.each, inner) {
                (2, 1) => out.extend(
                    pairs.0.iter().zip(pairs.1).map(|(&[a, b], &[u, v])| source[a] * u + source[b] * v),
                ),
                (2, _) => {
                    for (&[a, b], &[u, v]) in pairs.0.iter().zip(pairs.1) {
                        let (a, b) = (&source[a * inner..][..inner], &source[b * inner..][..inner]);
                        out.extend(a.iter().zip(b).map(|(&a, &b)| a * u + b * v));
                    }
                }
                (each, 1) => {
                    out.extend(self.positions.chunks_exact(each).zip(weights.chunks_exact(each)).map(
                        |(positions, weights)| {
                            positions.iter().zip(weights).fold(T::ZERO, |sum, (&p, &w)| sum + source[p] * w)
                        },
                    ))
                }
                (each, _) => {
                    let mut row = filled(inner, T::ZERO)?;
                    for (positions, weights) in
                        self.positions.chunks_exact(each).zip(weights.chunks_exact(each))
                    {
                        row.fill(T::ZERO);
                        for (&p, &w) in positions.iter().zip(weights) {
                            for (sum, &cell) in row.iter_mut().zip(&source[p * inner..][..inner]) {
                                *sum = *sum + cell * w;
                            }
                        }
                        out.extend_from_slice(&row);
                    }
                }
            }
        }
        if self.outside.contains(&true) {
            for (n, row) in out.chunks_exact_mut(inner.max(1)).enumerate() {
                if self.outside[n % self.outside.len()] {
                    row.fill(outside);
                }
            }
        }
        Ok(out)
    }
}

/// A mode by its name in the file.
///
/// # Errors
/// Where there is none of that name.
pub(super) fn coordinates(name: &str) -> Result<Coordinates> {
    Ok(match name {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        _ => return Err(Error::unsupported(format!("coordinate_transformation_mode `{name}`"))),
    })
}
