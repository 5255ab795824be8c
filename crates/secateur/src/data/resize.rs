//! Resizing, bit for bit as Pillow does it: networks are trained and evaluated on its images.
//!
//! Two passes, first along rows, then along columns, each a weighted sum with the filter stretched by
//! the scale where the image gets smaller. Weights are integers of 22 fractional bits, and the
//! image between the passes has 8 bits again, so the order of the passes matters.

use super::image::Filter;

/// Fractional bits of the weights: 8 bits of the pixel and 2 for overshoot are left of 32.
const BITS: u32 = 22;

/// The source pixels that make a target pixel, along one axis.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Filter {
    /// Half the width of the filter.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Filter::Bicubic => 0.0,
        }
    }
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let tap = |target: usize| {
        let center = (target as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let raw: Vec<f64> =
            (first..end).map(|x| filter.at((x as f64 - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |w: &f64| (w / sum * f64::from(1 << BITS)).round() as i32;
        Taps { first, weights: raw.iter().map(fixed).collect() }
    };
    (0..to).map(tap).collect()
}

fn to_pixel(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Half a level, so that the shift rounds.
const HALF: i32 = 1 << (BITS - 1);

/// Resizes rows of `from` pixels of `channels` interleaved bytes to rows of `to` pixels.
pub(super) fn resize_rows(pixels: &[u8], channels: usize, from: usize, to: usize, filter: Filter) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let taps = taps(from, to, filter);
    let mut out = Vec::with_capacity(pixels.len() / from * to);
    for row in pixels.chunks_exact(from * channels) {
        for tap in &taps {
            let window = &row[tap.first * channels..][..tap.weights.len() * channels];
            for channel in 0..channels {
                let values = window[channel..].iter().step_by(channels);
                let sum: i32 = values.zip(&tap.weights).map(|(&v, w)| i32::from(v) * w).sum();
                out.push(to_pixel(sum + HALF));
            }
        }
    }
    out
}

/// Resizes an image of `from` rows, each of `row` bytes, to `to` rows.
pub(super) fn resize_columns(pixels: &[u8], row: usize, from: usize, to: usize, filter: Filter) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let mut out = Vec::with_capacity(row * to);
    let mut sums = vec![0; row];
    for tap in taps(from, to, filter) {
        sums.fill(HALF);
        for (source, weight) in pixels[tap.first * row..].chunks_exact(row).zip(&tap.weights) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_pixel(sum)));
    }
    out
}
