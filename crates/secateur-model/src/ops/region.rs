//! Operators on regions of images: pooling them, choosing among them.

use super::axes::Statement;
use super::cells::{empty, len_of, room};
use super::number::{Float, Number, with_float};
use super::params::{shape_from, single_float, single_int};
use super::{Fact, Facts, Inputs, ONE_TYPE, Op};
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("RoiAlign", 10, infer_roi_align).types(&[&[0, 1]]).axes(axes_regions).eval(eval_roi_align),
    Op::new("MaxRoiPool", 1, infer_max_roi_pool).types(ONE_TYPE).axes(axes_regions).eval(eval_max_roi_pool),
    Op::new("NonMaxSuppression", 10, infer_non_max_suppression).eval(eval_non_max_suppression),
];

/// The output's shape for regions of an image batch.
fn region_shape(data: &[usize], regions: &[usize], columns: usize, size: &[i64]) -> Result<Vec<usize>> {
    match (data, regions) {
        (&[_, channels, _, _], &[count, found]) if found == columns && size.len() == 2 => {
            let shape = [&[count, channels][..], &shape_from(size)?].concat();
            len_of(&shape)?;
            Ok(shape)
        }
        _ => Err(Error::input(format!(
            "regions of shape {regions:?} in data of shape {data:?}: expected [count, {columns}] in a batch of images"
        ))),
    }
}

fn infer_regions(inputs: Facts<'_>, columns: usize, size: &[i64]) -> Result<Vec<Fact>> {
    let (data, regions) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (data.shape(), regions.shape()) {
        (Some(data), Some(regions)) => Some(region_shape(data, regions, columns, size)?),
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// An image of the batch, by an index that the file gives.
fn image_of(index: i64, batch: usize) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < batch)
        .ok_or_else(|| Error::input(format!("image {index} of a batch of {batch}")))
}

fn align_size(node: &Node) -> Result<[i64; 2]> {
    Ok([node.int_or("output_height", 1)?, node.int_or("output_width", 1)?])
}

fn infer_roi_align(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_regions(inputs, 4, &align_size(node)?)
}

/// `RoiAlign`: each region becomes a grid of bins, each bin the mean or the maximum of samples at even
/// distances, linear between pixels (He et al., "Mask R-CNN", 2017). The maximum is of the weighted
/// pixels, as all implementations have it.
fn eval_roi_align(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, regions) = (inputs.need(0)?, inputs.need(1)?);
    let shape = region_shape(data.shape(), regions.shape(), 4, &align_size(node)?)?;
    if len_of(&shape)? == 0 {
        return empty(data.dtype(), shape);
    }
    let images = inputs.need(2)?.to_i64s()?;
    if images.len() != shape[0] {
        return Err(Error::input(format!("{} batch indices for {} regions", images.len(), shape[0])));
    }
    let maximum = match node.str_or("mode", "avg")? {
        "avg" => false,
        "max" => true,
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    // Operator set 10 has no such attribute and does not move the pixels' centres.
    let default = if node.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = node.str_or("coordinate_transformation_mode", default)? == "half_pixel";
    let scale = node.float_or("spatial_scale", 1.0)?;
    let ratio = node.int_or("sampling_ratio", 0)?;
    let corners = regions.to_f32s()?;
    let offset = if half_pixel { 0.5 } else { 0.0 };
    let pooled = with_float!(data.dtype(), F => {
        let values = F::load(data)?;
        let mut out = room(len_of(&shape)?)?;
        for (region, &image) in corners.chunks_exact(4).zip(&images) {
            let [x, y] = [0, 1].map(|axis| {
                let start = region[axis] * scale - offset;
                let extent = region[axis + 2] * scale - offset - start;
                Span { start, extent: if half_pixel { extent } else { extent.max(1.0) }, bins: shape[3 - axis] }
            });
            let area = data.shape()[2] * data.shape()[3];
            let each = data.shape()[1] * area;
            let image = &values[image_of(image, data.shape()[0])? * each..][..each];
            let samples = (y.samples(data.shape()[2], ratio)?, x.samples(data.shape()[3], ratio)?);
            for channel in image.chunks_exact(area.max(1)) {
                pool(channel, data.shape()[3], &samples, maximum, &mut out);
            }
        }
        F::store(out, data.dtype(), &shape)
    })?;
    Ok(vec![pooled])
}

/// A region along an axis.
struct Span {
    start: f32,
    extent: f32,
    bins: usize,
}

/// The samples of each bin along an axis: two neighbours and their weights; none outside the image.
type Samples = Vec<Vec<Option<[(usize, f32); 2]>>>;

impl Span {
    fn samples(&self, length: usize, ratio: i64) -> Result<Samples> {
        let size = self.extent / self.bins as f32;
        let count = if ratio > 0 { ratio as f32 } else { size.ceil().max(0.0) };
        // A region that large against the image, or samples that dense, cannot be meant.
        let most = 4.0 * length as f32 + 64.0;
        if count.is_nan() || count > most {
            return Err(Error::input(format!(
                "{count} samples a bin for a region of extent {}, expected at most {most} where the image has {length} \
                 pixels",
                self.extent
            )));
        }
        let sample = |place: f32| {
            if !(-1.0..=length as f32).contains(&place) {
                return None;
            }
            let place = place.max(0.0);
            let low = place as usize;
            if low + 1 >= length {
                return Some([(length - 1, 1.0), (length - 1, 0.0)]);
            }
            let rest = place - low as f32;
            Some([(low, 1.0 - rest), (low + 1, rest)])
        };
        let bin = |bin: usize| {
            let start = self.start + bin as f32 * size;
            (0..count as usize).map(|i| sample(start + (i as f32 + 0.5) * size / count)).collect()
        };
        Ok((0..self.bins).map(bin).collect())
    }
}

/// Appends the bins of one channel.
fn pool<F: Float>(
    channel: &[F],
    width: usize,
    (rows, columns): &(Samples, Samples),
    maximum: bool,
    out: &mut Vec<F>,
) {
    for ys in rows {
        for xs in columns {
            let (mut sum, mut most) = (F::ZERO, None);
            for y in ys {
                for x in xs {
                    let parts = match (y, x) {
                        (Some(y), Some(x)) => [(y[0], x[0]), (y[0], x[1]), (y[1], x[0]), (y[1], x[1])]
                            .map(|((y, v), (x, w))| channel[y * width + x] * F::from_f64((v * w).into())),
                        _ => [F::ZERO; 4],
                    };
                    let largest = parts[1..].iter().fold(parts[0], |a, &b| a.max(b));
                    most = Some(most.map_or(largest, |most: F| most.max(largest)));
                    sum = parts.iter().fold(sum, |sum, &part| sum + part);
                }
            }
            out.push(if maximum {
                most.unwrap_or(F::ZERO)
            } else {
                let count = (ys.len() * xs.len()).max(1);
                sum / F::from_f64(count as f64)
            });
        }
    }
}

fn pooled_size(node: &Node) -> Result<&[i64]> {
    node.ints("pooled_shape")?.ok_or_else(|| Error::input("the attribute `pooled_shape` is missing"))
}

fn infer_max_roi_pool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_regions(inputs, 5, pooled_size(node)?)
}

/// `MaxRoiPool`: the maxima of a grid of bins over each region, whose corners are rounded to pixels
/// (Girshick, "Fast R-CNN", 2015). A bin without pixels is 0.
fn eval_max_roi_pool(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, regions) = (inputs.need(0)?, inputs.need(1)?);
    let shape = region_shape(data.shape(), regions.shape(), 5, pooled_size(node)?)?;
    if len_of(&shape)? == 0 {
        return empty(data.dtype(), shape);
    }
    let scale = node.float_or("spatial_scale", 1.0)?;
    let (height, width) = (data.shape()[2], data.shape()[3]);
    let pooled = with_float!(data.dtype(), F => {
        let values = F::load(data)?;
        let mut out = room(len_of(&shape)?)?;
        for region in regions.to_f32s()?.chunks_exact(5) {
            let each = data.shape()[1] * height * width;
            let image = &values[image_of(region[0] as i64, data.shape()[0])? * each..][..each];
            let corner = |k: usize| (region[k] * scale).round();
            let rows = pixel_bins(corner(2), corner(4), shape[2], height);
            let columns = pixel_bins(corner(1), corner(3), shape[3], width);
            for channel in image.chunks_exact((height * width).max(1)) {
                for (top, bottom) in &rows {
                    for (left, right) in &columns {
                        let mut most: Option<F> = None;
                        for row in *top..*bottom {
                            for &value in &channel[row * width..][*left..*right] {
                                most = Some(most.map_or(value, |most| most.max(value)));
                            }
                        }
                        out.push(most.unwrap_or(F::ZERO));
                    }
                }
            }
        }
        F::store(out, data.dtype(), &shape)
    })?;
    Ok(vec![pooled])
}

/// The pixels from and up to which each bin goes; none where the end is the start.
fn pixel_bins(start: f32, end: f32, bins: usize, length: usize) -> Vec<(usize, usize)> {
    let size = (end - start + 1.0).max(1.0) / bins as f32;
    let clamp = |pixel: f32| pixel.clamp(0.0, length as f32) as usize;
    let bin = |i: usize| {
        let first = clamp((i as f32 * size).floor() + start);
        (first, clamp(((i + 1) as f32 * size).ceil() + start).max(first))
    };
    (0..bins).map(bin).collect()
}

fn infer_non_max_suppression(_: &Node, _: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![Fact::unknown(Some(DType::I64))])
}

/// A box by its corners.
struct Corners([f32; 4]);

impl Corners {
    /// From two opposite corners (y, x), or from the centre (x, y), width and height.
    fn new(numbers: &[f32], centre: bool) -> Self {
        let &[a, b, c, d] = numbers else { return Corners([0.0; 4]) };
        if centre {
            return Corners([b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0]);
        }
        Corners([a.min(c), b.min(d), a.max(c), b.max(d)])
    }

    fn area(&self) -> f32 {
        (self.0[2] - self.0[0]) * (self.0[3] - self.0[1])
    }

    /// Whether the intersection is more than `threshold` of the union.
    fn overlaps(&self, other: &Corners, threshold: f32) -> bool {
        let side = |axis: usize| self.0[axis + 2].min(other.0[axis + 2]) - self.0[axis].max(other.0[axis]);
        let (height, width) = (side(0), side(1));
        if height <= 0.0 || width <= 0.0 || self.area() <= 0.0 || other.area() <= 0.0 {
            return false;
        }
        let shared = height * width;
        let union = self.area() + other.area() - shared;
        union > 0.0 && shared / union > threshold
    }
}

/// `NonMaxSuppression`: per image and class the boxes by falling score, without those that overlap a
/// chosen one too much; rows of (image, class, box).
fn eval_non_max_suppression(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (boxes, scores) = (inputs.need(0)?, inputs.need(1)?);
    let (&[batch, count, 4], &[score_batch, classes, score_count]) = (boxes.shape(), scores.shape()) else {
        return Err(wrong_boxes(boxes, scores));
    };
    if (score_batch, score_count) != (batch, count) {
        return Err(wrong_boxes(boxes, scores));
    }
    let given = |index| inputs.get(index).filter(|tensor| !tensor.is_empty());
    let most = given(2).map_or(Ok(0), single_int)?.clamp(0, count as i64) as usize;
    let overlap = given(3).map_or(Ok(0.0), single_float)? as f32;
    let least = given(4).map(single_float).transpose()?.map(|score| score as f32);
    let centre = node.int_or("center_point_box", 0)? != 0;
    let (boxes, scores) = (boxes.to_f32s()?, scores.to_f32s()?);
    let mut out = Vec::new();
    for image in 0..batch {
        let corners: Vec<Corners> = boxes[image * count * 4..][..count * 4]
            .chunks_exact(4)
            .map(|numbers| Corners::new(numbers, centre))
            .collect();
        for class in 0..classes {
            let scores = &scores[(image * classes + class) * count..][..count];
            let mut candidates: Vec<usize> =
                (0..count).filter(|&i| least.is_none_or(|least| scores[i] > least)).collect();
            candidates.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut chosen: Vec<usize> = Vec::new();
            for candidate in candidates {
                if chosen.len() == most {
                    break;
                }
                if !chosen.iter().any(|&c| corners[candidate].overlaps(&corners[c], overlap)) {
                    chosen.push(candidate);
                }
            }
            out.extend(chosen.into_iter().flat_map(|c| [image as i64, class as i64, c as i64]));
        }
    }
    Ok(vec![Tensor::new([out.len() / 3, 3], out)?])
}

fn wrong_boxes(boxes: &Tensor, scores: &Tensor) -> Error {
    Error::input(format!(
        "boxes of shape {:?} and scores of shape {:?}: expected [batch, boxes, 4] and [batch, classes, boxes]",
        boxes.shape(),
        scores.shape()
    ))
}

/// Regions count samples and positions; channels stay.
fn axes_regions(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, regions, y) = (axes.need(0, 4)?, axes.need(1, 2)?, axes.need_output(0, 4)?);
    axes.fix_all(&[x[0], x[2], x[3], regions[1], y[2], y[3]]);
    axes.same(x[1], y[1]);
    axes.same(regions[0], y[0]);
    axes.along(2, regions[0]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval, node, with_attr};
    use super::*;
    use crate::Attr;

    /// 10·row + column: linear, so that a mean is the value in the middle.
    fn ramp() -> Tensor {
        Tensor::new([1, 1, 5, 6], (0..30u8).map(|i| f32::from(i / 6 * 10 + i % 6)).collect()).unwrap()
    }

    #[test]
    fn bins_of_a_ramp_are_their_middles() {
        let mut align = node("RoiAlign", 16);
        for (name, value) in [("output_height", 2), ("output_width", 2), ("sampling_ratio", 3)] {
            align = with_attr(align, name, Attr::Int(value));
        }
        let region = Tensor::new([1, 4], vec![1f32, 1.0, 4.0, 3.0]).unwrap();
        let image = Tensor::vector(vec![0i64]);
        // Rows 1..3 in two bins have their middles at 1.5 and 2.5, half a pixel less for pixel centres.
        let out = eval(&align, &[&ramp(), &region, &image]).unwrap();
        close(&out[0], &[11.25, 12.75, 21.25, 22.75], 1e-5);
        let old = Node { opset: 10, ..align.clone() };
        close(&eval(&old, &[&ramp(), &region, &image]).unwrap()[0], &[16.75, 18.25, 26.75, 28.25], 1e-5);
        assert!(eval(&align, &[&ramp(), &region, &Tensor::vector(vec![1i64])]).is_err());
        let huge = Tensor::new([1, 4], vec![0f32, 0.0, f32::INFINITY, 1e9]).unwrap();
        let dense = with_attr(align.clone(), "sampling_ratio", Attr::Int(8192));
        assert!(eval(&dense, &[&ramp(), &region, &image]).is_err());
        let adaptive = with_attr(align, "sampling_ratio", Attr::Int(0));
        assert!(eval(&adaptive, &[&ramp(), &huge, &image]).is_err());
    }

    #[test]
    fn maxima_of_rounded_bins() {
        let pool = with_attr(node("MaxRoiPool", 1), "pooled_shape", Attr::Ints(vec![2, 2]));
        let regions = vec![0f32, 0.6, 1.0, 3.4, 4.0, 0.0, 7.0, 7.0, 9.0, 9.0];
        let out = eval(&pool, &[&ramp(), &Tensor::new([2, 5], regions).unwrap()]).unwrap();
        close(&out[0], &[22.0, 23.0, 42.0, 43.0, 0.0, 0.0, 0.0, 0.0], 1e-6);
    }

    #[test]
    fn boxes_that_overlap_too_much_go() {
        let boxes = vec![0f32, 0.0, 2.0, 2.0, 1.9, 2.0, 0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 6.0, 6.0];
        let boxes = Tensor::new([1, 4, 4], boxes).unwrap();
        let scores = Tensor::new([1, 1, 4], vec![0.5f32, 0.9, 0.7, 0.1]).unwrap();
        let choose = |most: i64, overlap: f32, least: f32| {
            let (most, overlap, least) =
                (Tensor::scalar(most), Tensor::scalar(overlap), Tensor::scalar(least));
            let out =
                eval(&node("NonMaxSuppression", 11), &[&boxes, &scores, &most, &overlap, &least]).unwrap();
            out[0].to_i64s().unwrap().chunks_exact(3).map(|row| row[2]).collect::<Vec<_>>()
        };
        assert_eq!(choose(9, 0.5, 0.0), [1, 2, 3]);
        assert_eq!(choose(9, 0.99, 0.0), [1, 2, 0, 3]);
        assert_eq!(choose(9, 0.1, 0.2), [1]);
        assert_eq!(choose(2, 0.99, 0.0), [1, 2]);
        assert!(choose(0, 0.5, 0.0).is_empty());
    }
}
