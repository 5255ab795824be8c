//! Shapes of convolutions and transposed convolutions.

use crate::size;

/// A convolution over one to three spatial axes, without the batch size.
///
/// Every list has one entry for each spatial axis; `pads` has the pads before each axis, then those after each,
/// as in ONNX. With in = `in_size`, the output size along an axis is
/// ⌊(in + pads − dilation · (kernel − 1) − 1) / stride⌋ + 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvSpec {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of channels that do not mix; divides both channel counts.
    pub groups: usize,
    /// Input size along each spatial axis.
    pub in_size: Vec<usize>,
    /// Kernel size along each axis.
    pub kernel: Vec<usize>,
    /// Distance of neighbouring windows along each axis.
    pub stride: Vec<usize>,
    /// Distance of neighbouring kernel elements along each axis.
    pub dilation: Vec<usize>,
    /// Zeros before each axis, then after each axis.
    pub pads: Vec<usize>,
}

impl ConvSpec {
    /// A convolution without groups, stride, dilation and pads; use struct update syntax to set them.
    pub fn new(in_channels: usize, out_channels: usize, in_size: &[usize], kernel: &[usize]) -> Self {
        let n = in_size.len();
        ConvSpec {
            in_channels,
            out_channels,
            groups: 1,
            in_size: in_size.to_vec(),
            kernel: kernel.to_vec(),
            stride: vec![1; n],
            dilation: vec![1; n],
            pads: vec![0; 2 * n],
        }
    }

    /// Output size along each spatial axis; 0 if the kernel does not fit into the padded input.
    pub fn out_size(&self) -> Vec<usize> {
        (0..self.in_size.len()).map(|d| self.axis(d).out).collect()
    }

    /// Multiply-adds for one image.
    pub fn macs(&self) -> u64 {
        let outputs = size::of(&self.out_size()) as u64 * self.out_channels as u64;
        outputs.saturating_mul(self.depth() as u64)
    }

    /// Weights of an output channel.
    pub(crate) fn depth(&self) -> usize {
        size::of(&[self.in_channels / self.groups, size::of(&self.kernel)])
    }

    /// Axis `d` of windows over an input of `size` positions, of which there are `out`.
    fn axis_of(&self, d: usize, size: usize, out: usize) -> Axis {
        let (kernel, stride, dilation) = (self.kernel[d], self.stride[d], self.dilation[d]);
        Axis { size, out, kernel, stride, dilation, pad: self.pads[d] }
    }

    fn axis(&self, d: usize) -> Axis {
        let axis = self.axis_of(d, self.in_size[d], 0);
        let padded = size::sum(&[axis.size, axis.pad, self.pads[self.in_size.len() + d]]);
        let window = axis.window();
        Axis { out: if padded < window { 0 } else { (padded - window) / axis.stride + 1 }, ..axis }
    }

    /// # Panics
    /// If the lists differ in length, there are no axes or more than three, or an entry is invalid.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry_of(|d| self.axis(d))
    }

    /// The checked geometry of the spatial axes that `axis` gives.
    fn geometry_of(&self, axis: impl Fn(usize) -> Axis) -> Geometry {
        let n = self.in_size.len();
        assert!((1..=3).contains(&n), "1 to 3 spatial axes, not {n}");
        assert!(
            [&self.kernel, &self.stride, &self.dilation].iter().all(|l| l.len() == n)
                && self.pads.len() == 2 * n,
            "kernel, stride, dilation and pads (twice) need {n} entries"
        );
        assert!(self.kernel.iter().chain(&self.stride).chain(&self.dilation).all(|&x| x > 0), "sizes of 0");
        assert!(
            self.groups > 0
                && self.in_channels.is_multiple_of(self.groups)
                && self.out_channels.is_multiple_of(self.groups),
            "groups divide the channels"
        );
        let mut axes = [Axis::TRIVIAL; 3];
        for d in 0..n {
            axes[3 - n + d] = axis(d);
        }
        Geometry::new(axes)
    }
}

/// A transposed convolution over one to three spatial axes, without the batch size.
///
/// The output size along an axis is stride · (in − 1) + output_padding + dilation · (kernel − 1) + 1 − pads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvTransposeSpec {
    /// Channels, groups, input size and windows. Windows lie in the output: `stride` is their distance there, and
    /// `pads` are cropped from it.
    pub conv: ConvSpec,
    /// Added after each axis of the output.
    pub output_padding: Vec<usize>,
}

impl ConvTransposeSpec {
    /// Output size along each spatial axis.
    pub fn out_size(&self) -> Vec<usize> {
        (0..self.conv.in_size.len()).map(|d| self.axis(d).size).collect()
    }

    /// Multiply-adds for one image.
    pub fn macs(&self) -> u64 {
        let conv = &self.conv;
        let inputs = size::of(&conv.in_size) as u64 * conv.in_channels as u64;
        let each = size::of(&[conv.out_channels / conv.groups, size::of(&conv.kernel)]);
        inputs.saturating_mul(each as u64)
    }

    /// Axis `d` of the convolution whose transpose this is: its input is this one's output.
    fn axis(&self, d: usize) -> Axis {
        let ConvSpec { in_size, pads, .. } = &self.conv;
        let axis = self.conv.axis_of(d, 0, in_size[d]);
        let strides = size::of(&[axis.stride, axis.out.saturating_sub(1)]);
        let full = size::sum(&[strides, self.output_padding[d], axis.window()]);
        Axis { size: full.saturating_sub(size::sum(&[pads[d], pads[in_size.len() + d]])), ..axis }
    }

    /// The geometry of the convolution whose transpose this is.
    ///
    /// # Panics
    /// As [`ConvSpec::geometry`].
    pub(crate) fn geometry(&self) -> Geometry {
        assert_eq!(
            self.output_padding.len(),
            self.conv.in_size.len(),
            "output_padding needs an entry per axis"
        );
        self.conv.geometry_of(|d| self.axis(d))
    }
}

/// One spatial axis of a convolution or pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) size: usize,
    pub(crate) out: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) pad: usize,
}

impl Axis {
    pub(crate) const TRIVIAL: Axis = Axis { size: 1, out: 1, kernel: 1, stride: 1, dilation: 1, pad: 0 };

    /// Extent of a window: the distance from its first to its last position, plus 1.
    ///
    /// # Panics
    /// If it is too large.
    pub(crate) fn window(&self) -> usize {
        size::sum(&[size::of(&[self.dilation, self.kernel - 1]), 1])
    }

    /// Extent of all windows together, including padding.
    ///
    /// # Panics
    /// If these are too many.
    fn passed(&self) -> usize {
        let windows = size::sum(&[size::of(&[self.out.saturating_sub(1), self.stride]), self.window()]);
        windows.max(size::sum(&[self.size, self.pad]))
    }

    /// The input position of kernel element `tap` at output position `out`, unless it is padding.
    #[inline(always)]
    pub(crate) fn input(&self, out: usize, tap: usize) -> Option<usize> {
        let i = (out * self.stride + tap * self.dilation).wrapping_sub(self.pad);
        (i < self.size).then_some(i)
    }

    /// The output positions where kernel element `tap` reads the input and not padding.
    pub(crate) fn valid(&self, tap: usize) -> std::ops::Range<usize> {
        let at = tap * self.dilation;
        let start = self.pad.saturating_sub(at).div_ceil(self.stride);
        let end = (self.size + self.pad).saturating_sub(at).div_ceil(self.stride).min(self.out);
        start.min(end)..end
    }
}

/// The spatial axes, extended to three by leading axes of size 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) axes: [Axis; 3],
}

impl Geometry {
    /// # Panics
    /// If the extent of the windows overflows. Everything computed from the axes later, from plane sizes to distances in
    /// memory, is smaller and needs no check.
    pub(crate) fn new(axes: [Axis; 3]) -> Geometry {
        size::of(&axes.map(|axis| axis.passed()));
        size::of(&axes.map(|axis| axis.out));
        Geometry { axes }
    }

    pub(crate) fn in_plane(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    pub(crate) fn out_plane(&self) -> usize {
        self.axes.iter().map(|a| a.out).product()
    }

    pub(crate) fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// Whether each output element depends on the input element at the same position alone.
    pub(crate) fn pointwise(&self) -> bool {
        self.axes.iter().all(|a| a.kernel == 1 && a.stride == 1 && a.pad == 0 && a.out == a.size)
    }
}
