//! Transposed convolutions: a matrix product, then its columns added up where windows overlap.

use super::spec::{Axis, Geometry};
use crate::activation::{Activation, apply};
use crate::gemm::{Epilogue, MatRef, PackedMatrix, gemm};
use crate::simd::Isa;
use crate::size;
use crate::threads;

/// A transposed convolution over one to three spatial axes, without the batch size.
///
/// The output size along an axis is stride · (in − 1) + output_padding + dilation · (kernel − 1) + 1 − pads.
/// Lists as in [`super::ConvSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvTransposeSpec {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of channels that don't mix; divides both counts of channels.
    pub groups: usize,
    /// Input size along each spatial axis.
    pub in_size: Vec<usize>,
    /// Kernel size along each axis.
    pub kernel: Vec<usize>,
    /// Distance of neighbouring windows in the output along each axis.
    pub stride: Vec<usize>,
    /// Distance of neighbouring kernel elements along each axis.
    pub dilation: Vec<usize>,
    /// Cut off the output before each axis, then after each axis.
    pub pads: Vec<usize>,
    /// Added after each axis of the output.
    pub output_padding: Vec<usize>,
}

impl ConvTransposeSpec {
    /// Output size along each spatial axis.
    pub fn out_size(&self) -> Vec<usize> {
        let n = self.in_size.len();
        (0..n)
            .map(|d| {
                let full = size::sum(&[
                    size::of(&[self.stride[d], self.in_size[d].saturating_sub(1)]),
                    self.output_padding[d],
                    size::of(&[self.dilation[d], self.kernel[d] - 1]),
                    1,
                ]);
                full.saturating_sub(size::sum(&[self.pads[d], self.pads[n + d]]))
            })
            .collect()
    }

    /// Multiply-adds for one image.
    pub fn macs(&self) -> u64 {
        let inputs = size::of(&self.in_size) as u64 * self.in_channels as u64;
        let each = size::of(&[self.out_channels / self.groups, size::of(&self.kernel)]);
        inputs.saturating_mul(each as u64)
    }

    /// The convolution whose transpose this is: its input is our output.
    fn geometry(&self) -> Geometry {
        let n = self.in_size.len();
        assert!((1..=3).contains(&n), "1 to 3 spatial axes, not {n}");
        assert!(
            [&self.kernel, &self.stride, &self.dilation, &self.output_padding].iter().all(|l| l.len() == n)
                && self.pads.len() == 2 * n,
            "kernel, stride, dilation, output_padding and pads (twice) need {n} entries"
        );
        assert!(self.kernel.iter().chain(&self.stride).chain(&self.dilation).all(|&x| x > 0), "sizes of 0");
        assert!(
            self.groups > 0
                && self.in_channels.is_multiple_of(self.groups)
                && self.out_channels.is_multiple_of(self.groups),
            "groups divide the channels"
        );
        let out = self.out_size();
        let mut axes = [Axis::TRIVIAL; 3];
        for d in 0..n {
            axes[3 - n + d] = Axis {
                size: out[d],
                out: self.in_size[d],
                kernel: self.kernel[d],
                stride: self.stride[d],
                dilation: self.dilation[d],
                pad: self.pads[d],
            };
        }
        Geometry::new(axes)
    }
}

/// A transposed convolution with its weights packed.
#[derive(Clone, Debug)]
pub struct PackedConvTranspose {
    spec: ConvTransposeSpec,
    geometry: Geometry,
    bias: Option<Vec<f32>>,
    /// Weights of each group: (out channel, kernel element) × in channels.
    weights: Vec<PackedMatrix>,
}

impl PackedConvTranspose {
    /// Packs `weights` (`[in_channels, out_channels / groups, kernel…]`) and `bias` (`[out_channels]`).
    ///
    /// # Panics
    /// If the spec has no meaning or a slice's length doesn't fit it.
    pub fn new(spec: ConvTransposeSpec, weights: &[f32], bias: Option<&[f32]>) -> Self {
        let geometry = spec.geometry();
        let (rows, depth) =
            (size::of(&[spec.out_channels / spec.groups, geometry.taps()]), spec.in_channels / spec.groups);
        assert_eq!(weights.len(), size::of(&[spec.in_channels, rows]), "weights of {spec:?}");
        assert!(bias.is_none_or(|b| b.len() == spec.out_channels), "bias of {spec:?}");
        let weights = (0..spec.groups)
            .map(|g| {
                let w = MatRef::row_major(&weights[g * rows * depth..(g + 1) * rows * depth], rows);
                PackedMatrix::left(rows, depth, w.transposed())
            })
            .collect();
        PackedConvTranspose { spec, geometry, bias: bias.map(<[f32]>::to_vec), weights }
    }

    /// The shape it was packed for.
    pub fn spec(&self) -> &ConvTransposeSpec {
        &self.spec
    }

    /// out = act(conv_transpose(x) + bias) for `batch` images, on the current rayon pool.
    ///
    /// `x` is `[batch, in_channels, in_size…]`, `out` is `[batch, out_channels, out_size…]`.
    ///
    /// # Panics
    /// If a slice's length doesn't fit the shape.
    pub fn run(&self, batch: usize, x: &[f32], out: &mut [f32], act: Activation) {
        let (spec, geometry) = (&self.spec, &self.geometry);
        let (in_plane, out_plane, taps) = (geometry.out_plane(), geometry.in_plane(), geometry.taps());
        assert_eq!(x.len(), size::of(&[batch, spec.in_channels, in_plane]), "input of {spec:?}");
        assert_eq!(out.len(), size::of(&[batch, spec.out_channels, out_plane]), "output of {spec:?}");
        if out.is_empty() {
            return;
        }
        let (outs, ins) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        threads::with_workspace(size::of(&[outs, taps, in_plane]), |columns| {
            for (item, out) in out.chunks_exact_mut(outs * out_plane).enumerate() {
                let group = item % spec.groups;
                let x = MatRef::row_major(&x[item * ins * in_plane..(item + 1) * ins * in_plane], in_plane);
                gemm(
                    outs * taps,
                    in_plane,
                    ins,
                    (&self.weights[group]).into(),
                    x.into(),
                    columns,
                    in_plane,
                    Epilogue::default(),
                );
                threads::chunks(
                    out,
                    out_plane,
                    size::work(&[taps, in_plane]).saturating_add(out_plane),
                    |first, planes| {
                        for (i, plane) in planes.chunks_exact_mut(out_plane).enumerate() {
                            let o = first + i;
                            plane.fill(self.bias.as_ref().map_or(0.0, |b| b[group * outs + o]));
                            for (tap, column) in columns[o * taps * in_plane..(o + 1) * taps * in_plane]
                                .chunks_exact(in_plane.max(1))
                                .enumerate()
                            {
                                scatter(geometry, tap, column, plane);
                            }
                        }
                        apply(Isa::best(), act, planes);
                    },
                );
            }
        });
    }
}

/// Adds what kernel element `tap` gives for each input position to the output positions it falls on.
fn scatter(geometry: &Geometry, tap: usize, column: &[f32], plane: &mut [f32]) {
    let [d, h, w] = geometry.axes;
    let (td, th, tw) = (tap / (h.kernel * w.kernel), tap / w.kernel % h.kernel, tap % w.kernel);
    let valid = w.valid(tw);
    if valid.is_empty() {
        return;
    }
    for od in d.valid(td) {
        for oh in h.valid(th) {
            let (Some(id), Some(ih)) = (d.input(od, td), h.input(oh, th)) else {
                continue;
            };
            let start = (id * h.size + ih) * w.size + valid.start * w.stride + tw * w.dilation - w.pad;
            let row = &column[(od * h.out + oh) * w.out..][valid.clone()];
            for (y, x) in plane[start..].iter_mut().step_by(w.stride).zip(row) {
                *y += x;
            }
        }
    }
}
