//! Transposed convolutions: a matrix product, whose columns are then added up where windows overlap (col2im).

use super::spec::{ConvTransposeSpec, Geometry};
use crate::activation::{Activation, apply};
use crate::gemm::{Gemm, MatRef, PackedMatrix};
use crate::simd::Isa;
use crate::size;
use crate::threads;

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
    /// If the spec is invalid or a slice's length does not match it.
    pub fn new(spec: ConvTransposeSpec, weights: &[f32], bias: Option<&[f32]>) -> Self {
        let (conv, geometry) = (&spec.conv, spec.geometry());
        let (rows, depth) =
            (size::of(&[conv.out_channels / conv.groups, geometry.taps()]), conv.in_channels / conv.groups);
        assert_eq!(weights.len(), size::of(&[conv.in_channels, rows]), "weights of {spec:?}");
        assert!(bias.is_none_or(|b| b.len() == conv.out_channels), "bias of {spec:?}");
        let weights = (0..conv.groups)
            .map(|g| {
                let w = MatRef::row_major(&weights[g * rows * depth..(g + 1) * rows * depth], rows);
                PackedMatrix::left(rows, depth, w.transposed())
            })
            .collect();
        PackedConvTranspose { spec, geometry, bias: bias.map(<[f32]>::to_vec), weights }
    }

    /// The shape that the weights were packed for.
    pub fn spec(&self) -> &ConvTransposeSpec {
        &self.spec
    }

    /// out = act(conv_transpose(x) + bias) for `batch` images, on the current rayon pool.
    ///
    /// `x` is `[batch, in_channels, in_size…]`, `out` is `[batch, out_channels, out_size…]`.
    ///
    /// # Panics
    /// If a slice's length does not match the shape.
    pub fn run(&self, batch: usize, x: &[f32], out: &mut [f32], act: Activation) {
        let (spec, geometry) = (&self.spec.conv, &self.geometry);
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
                Gemm::new([outs * taps, in_plane, ins], &self.weights[group], x).run(columns);
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

/// Adds the products of kernel element `tap` with each input position to their output positions.
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
