//! Deformable convolution: windows sampled at computed places, then a matrix product.

use rayon::prelude::*;
use secateur_kernels::{Epilogue, Gemm, MatRef};
use secateur_model::ops::conv::{Window, groups, offset_groups, window};
use secateur_model::{DType, Error, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s, from_fn};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("DeformConv", build)];

/// Sampling of windows over a plane of two axes.
struct Sampling {
    input: [usize; 2],
    window: Window,
    /// Groups of channels that share offsets.
    offset_groups: usize,
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !build.inputs.0.iter().flatten().all(|f| f.dtype == Some(DType::F32)) {
        return Ok(None);
    }
    let (node, x, w) = (build.node, build.shape(0)?, build.shape(1)?);
    let &[batch, channels, height, width] = x else {
        return Err(Error::unsupported(format!("{} spatial axes, supported are 2", x.len() - 2)));
    };
    let groups = groups(node)?;
    let offset_groups = offset_groups(node, channels)?;
    let sampling =
        Sampling { input: [height, width], window: window(node, &w[2..], &x[2..])?, offset_groups };
    let taps: usize = w[2..].iter().product();
    let positions: usize = sampling.window.output.iter().product();
    let (outputs, depth) = (w[0], channels / groups * taps);
    let out_shape = build.out_shape(0)?.to_vec();
    let (has_bias, has_mask) = (build.inputs.get(3).is_some(), build.inputs.get(4).is_some());
    from_fn(move |inputs, pool| {
        let (x, w, offsets) = (f32s(inputs, 0)?, f32s(inputs, 1)?, f32s(inputs, 2)?);
        let bias = if has_bias { Some(f32s(inputs, 3)?) } else { None };
        let mask = if has_mask { Some(f32s(inputs, 4)?) } else { None };
        let mut out = pool.take(batch * outputs * positions)?;
        let mut columns = pool.take(channels * taps * positions)?;
        for sample in 0..batch {
            let per = offset_groups * taps * positions;
            sampling.columns(
                &x[sample * channels * height * width..][..channels * height * width],
                &offsets[sample * per * 2..][..per * 2],
                mask.map(|m| &m[sample * per..][..per]),
                taps,
                &mut columns,
            );
            if positions == 0 {
                continue;
            }
            let rows = outputs / groups;
            for group in 0..groups {
                let epilogue = Epilogue {
                    row_bias: bias.map(|b| &b[group * rows..(group + 1) * rows]),
                    ..Epilogue::default()
                };
                let left = MatRef::row_major(&w[group * rows * depth..], depth);
                let right = MatRef::row_major(&columns[group * depth * positions..], positions);
                let out = &mut out[(sample * outputs + group * rows) * positions..][..rows * positions];
                Gemm { epilogue, ..Gemm::new([rows, positions, depth], left, right) }.run(out);
            }
        }
        pool.give(columns);
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

impl Sampling {
    /// The matrix (channel, tap) × position of one sample.
    fn columns(&self, x: &[f32], offsets: &[f32], mask: Option<&[f32]>, taps: usize, out: &mut [f32]) {
        let [height, width] = self.input;
        let [rows, cols] = [self.window.output[0], self.window.output[1]];
        let positions = rows * cols;
        let channels = x.len() / (height * width).max(1);
        out.par_chunks_mut((taps * positions).max(1)).enumerate().for_each(|(channel, out)| {
            let plane = &x[channel * height * width..][..height * width];
            let group = channel / (channels / self.offset_groups);
            for (tap, out) in out.chunks_exact_mut(positions.max(1)).enumerate() {
                let tap_of_group = group * taps + tap;
                let [dy, dx] = [0, 1].map(|i| &offsets[(tap_of_group * 2 + i) * positions..][..positions]);
                let start = |axis: usize, at: usize, tap: usize| {
                    let w = &self.window;
                    (at * w.strides[axis] + tap * w.dilations[axis]) as f32 - w.before[axis] as f32
                };
                let (ty, tx) = (tap / self.window.kernel[1], tap % self.window.kernel[1]);
                for (position, out) in out.iter_mut().enumerate() {
                    let y = start(0, position / cols, ty) + dy[position];
                    let x = start(1, position % cols, tx) + dx[position];
                    let weight = mask.map_or(1.0, |m| m[tap_of_group * positions + position]);
                    *out = weight * bilinear(plane, height, width, y, x);
                }
            }
        });
    }
}

/// A plane between its elements; zero outside.
fn bilinear(plane: &[f32], height: usize, width: usize, y: f32, x: f32) -> f32 {
    let (y0, x0) = (y.floor(), x.floor());
    let (fy, fx) = (y - y0, x - x0);
    let at = |y: f32, x: f32| {
        let inside = y >= 0.0 && x >= 0.0 && y < height as f32 && x < width as f32;
        if inside { plane[y as usize * width + x as usize] } else { 0.0 }
    };
    let top = at(y0, x0) * (1.0 - fx) + at(y0, x0 + 1.0) * fx;
    let bottom = at(y0 + 1.0, x0) * (1.0 - fx) + at(y0 + 1.0, x0 + 1.0) * fx;
    top * (1.0 - fy) + bottom * fy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_elements_and_over_the_edge() {
        let plane = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(bilinear(&plane, 2, 2, 0.5, 0.5), 2.5);
        assert_eq!(bilinear(&plane, 2, 2, 1.5, 0.0), 1.5);
        assert_eq!(bilinear(&plane, 2, 2, -1.0, 0.0), 0.0);
    }
}
