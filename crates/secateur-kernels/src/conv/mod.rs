//! Convolutions with constant weights.

mod depthwise;
mod direct;
mod im2col;
pub(crate) mod lanes;
mod passes;
pub(crate) mod spec;
mod transpose;
mod work;

pub use passes::TrainedConv;
pub use spec::{ConvSpec, ConvTransposeSpec};
pub use transpose::PackedConvTranspose;
pub use work::DenseWork;

use crate::activation::Activation;
use crate::gemm::{Grid, MatRef, PACK_SLACK, PanelShape, PanelSource, Panels, Product, Source, Target};
use crate::simd::Isa;
use crate::size;
use crate::threads::{Buffer, SharedMut};
use im2col::Windows;
use spec::Geometry;

/// A convolution (cross-correlation, as in ONNX and PyTorch) with its weights packed for one input size.
#[derive(Clone, Debug)]
pub struct PackedConv {
    isa: Isa,
    spec: ConvSpec,
    geometry: Geometry,
    bias: Option<Vec<f32>>,
    algorithm: Algorithm,
    /// For the matrix product, the weights of each group: out channels × (in channel, kernel element).
    weights: Vec<Panels>,
    /// For the other algorithms, the same in panels of undivided depth, group by group.
    direct: Buffer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// A matrix product of the weights and the windows, which are packed one panel at a time.
    Product,
    /// Tiles of outputs that read the image directly.
    Direct,
    /// Plane by plane.
    Depthwise,
}

impl Algorithm {
    /// The best algorithm for a shape.
    fn of(spec: &ConvSpec, geometry: &Geometry) -> Algorithm {
        match (spec.out_channels / spec.groups, spec.depth()) {
            _ if spec.in_channels == spec.groups && spec.groups > 1 => Algorithm::Depthwise,
            (..=direct::MAX_ROWS, 1..) if !geometry.pointwise() => Algorithm::Direct,
            _ => Algorithm::Product,
        }
    }
}

impl PackedConv {
    /// Packs `weights` (`[out_channels, in_channels / groups, kernel…]`) and `bias` (`[out_channels]`).
    ///
    /// The choice of the algorithm depends only on the shape and the processor.
    ///
    /// # Panics
    /// If the spec is invalid (see [`ConvSpec`]) or a slice's length does not match it.
    pub fn new(spec: ConvSpec, weights: &[f32], bias: Option<&[f32]>) -> Self {
        Self::with(Isa::best(), spec, weights, bias)
    }

    fn with(isa: Isa, spec: ConvSpec, weights: &[f32], bias: Option<&[f32]>) -> Self {
        let geometry = spec.geometry();
        let (rows, depth) = (spec.out_channels / spec.groups, spec.depth());
        assert_eq!(weights.len(), size::of(&[spec.out_channels, depth]), "weights of {spec:?}");
        assert!(bias.is_none_or(|b| b.len() == spec.out_channels), "bias of {spec:?}");
        let algorithm = Algorithm::of(&spec, &geometry);
        let shape = PanelShape::lhs(isa.tile());
        let group = |g: usize| MatRef::row_major(&weights[g * rows * depth..(g + 1) * rows * depth], depth);
        let (mut panels, mut direct) = (vec![], Buffer::default());
        match algorithm {
            Algorithm::Product => {
                let pack = |g| Panels::new(isa, depth, rows, shape, &group(g).transposed());
                panels = (0..spec.groups).map(pack).collect();
            }
            Algorithm::Direct => {
                direct = Buffer::zeroed(weights.len() + PACK_SLACK);
                for g in 0..spec.groups {
                    let dst = &mut direct.as_mut_slice()[g * rows * depth..];
                    group(g).transposed().pack(isa, 0..depth, 0..rows, shape, dst);
                }
            }
            Algorithm::Depthwise => {
                direct = Buffer::zeroed(weights.len());
                direct.as_mut_slice()[..weights.len()].copy_from_slice(weights);
            }
        }
        let bias = bias.map(<[f32]>::to_vec);
        PackedConv { isa, spec, geometry, bias, algorithm, weights: panels, direct }
    }

    /// The shape that the weights were packed for.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// out = act(conv(x) + bias + add) for `batch` images, on the current rayon pool.
    ///
    /// `x` is `[batch, in_channels, in_size…]`, `out` and `add` are `[batch, out_channels, out_size…]`.
    ///
    /// # Panics
    /// If a slice's length does not match the shape.
    pub fn run(&self, batch: usize, x: &[f32], out: &mut [f32], add: Option<&[f32]>, act: Activation) {
        let (spec, geometry) = (&self.spec, &self.geometry);
        let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
        assert_eq!(x.len(), size::of(&[batch, spec.in_channels, in_plane]), "input of {spec:?}");
        assert_eq!(out.len(), size::of(&[batch, spec.out_channels, out_plane]), "output of {spec:?}");
        assert!(add.is_none_or(|a| a.len() == out.len()), "added tensor of {spec:?}");
        if out.is_empty() {
            return;
        }
        match self.algorithm {
            Algorithm::Product => self.product(batch, x, out, add, act),
            Algorithm::Direct => direct::run(self, x, out, add, act),
            Algorithm::Depthwise => depthwise::run(self, x, out, add, act),
        }
    }

    fn product(&self, batch: usize, x: &[f32], out: &mut [f32], add: Option<&[f32]>, act: Activation) {
        let (spec, geometry) = (&self.spec, &self.geometry);
        let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
        let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        let depth = channels * geometry.taps();
        let shared = SharedMut::new(out);
        let tile = self.isa.tile();
        Grid::new(tile, batch * spec.groups, rows, out_plane, depth, tile.lanes).run(|item, r, c| {
            let group = item % spec.groups;
            let x = &x[item * channels * in_plane..(item + 1) * channels * in_plane];
            let windows = Windows { x, geometry };
            let direct = MatRef::row_major(x, in_plane);
            let at = item * rows * out_plane;
            let product = Product {
                isa: self.isa,
                k: depth,
                a: Source::Packed(&self.weights[group]),
                b: Source::Pack(if geometry.pointwise() { &direct } else { &windows }),
                target: Target {
                    c: shared.at(at),
                    ldc: out_plane,
                    alpha: 1.0,
                    beta: 0.0,
                    row_bias: self.bias.as_ref().map_or(std::ptr::null(), |b| b[group * rows..].as_ptr()),
                    col_bias: std::ptr::null(),
                    add: add.map_or(std::ptr::null(), |a| a[at..].as_ptr()),
                    act,
                },
            };
            // SAFETY: `run` has checked the lengths, and the grid's parts of the output do not overlap.
            unsafe { product.run(r, c) };
        });
    }
}

#[cfg(test)]
pub(crate) mod tests;
