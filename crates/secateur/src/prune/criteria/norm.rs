//! Norms: of a single weight its magnitude, whatever the order; of a channel or block the mean of the
//! norm's terms over its weights.

use secateur_model::{Error, Result};

use crate::prune::units::Units;
use crate::prune::weights::{Numbers, Weights};

/// The order P of a norm (Σ|w|^P)^(1/P): any P > 0, also 0 (how many are not zero), ∞ (the largest
/// magnitude) and −∞ (the smallest).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Order(f64);

impl Order {
    /// The number of weights that are not zero.
    pub const ZERO: Order = Order(0.0);
    /// Order ½.
    pub const HALF: Order = Order(0.5);
    /// The sum of magnitudes.
    pub const L1: Order = Order(1.0);
    /// The Euclidean norm.
    pub const L2: Order = Order(2.0);
    /// The largest magnitude.
    pub const INF: Order = Order(f64::INFINITY);
    /// The smallest magnitude.
    pub const MINUS_INF: Order = Order(f64::NEG_INFINITY);

    /// An order.
    ///
    /// # Errors
    /// `Usage` for negative finite numbers and NaN.
    pub fn new(p: f64) -> Result<Self> {
        if p >= 0.0 || p == f64::NEG_INFINITY {
            // −0 is 0.
            Ok(Order(p + 0.0))
        } else {
            Err(Error::usage(format!("the order of a norm is at least 0, inf or -inf; found {p}")))
        }
    }

    /// Reads an order: a number, `inf` or `-inf`.
    ///
    /// # Errors
    /// `Usage` where it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        let p = text.parse().map_err(|_| {
            Error::usage(format!("`{text}` is not the order of a norm: a number ≥ 0, inf or -inf"))
        })?;
        Order::new(p)
    }

    /// Whether [`unit_scores`] gives logarithms for the order.
    pub fn is_logarithmic(self) -> bool {
        ![Order::ZERO, Order::L1, Order::L2, Order::INF, Order::MINUS_INF].contains(&self)
    }

    /// The order as a number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// The score of each unit, which grows with the norm of its weights: the mean of the norm's terms,
/// Σ|w|^P ÷ n over a unit's n weights, so that units of different sizes compare; of the order 0 the
/// share of weights that are not zero, of ∞ and −∞ the largest and the smallest magnitude.
///
/// For orders that are none of 0, 1, 2, ∞ and −∞ the score is the mean's logarithm, which neither
/// over- nor underflows ([`Order::is_logarithmic`]). Sums are taken in f64 in a fixed order, so they
/// do not depend on the number of threads. A unit with an infinite weight has the score ∞ for every
/// order but 0 and −∞.
pub fn unit_scores(weights: &Weights<'_>, units: &Units, order: Order) -> Vec<f64> {
    let mean = |of: fn(f64) -> f64| {
        let sums = fold_units(weights.magnitudes(), units, 0.0, of, |a, b| a + b);
        sums.into_iter().zip(units.sizes()).map(|(sum, n)| sum / n as f64).collect()
    };
    let largest = || fold_units(weights.magnitudes(), units, 0.0, |m| m, f64::max);
    match order {
        Order::ZERO => mean(|m| if m == 0.0 { 0.0 } else { 1.0 }),
        Order::L1 => mean(|m| m),
        Order::L2 => mean(|m| m * m),
        Order::INF => largest(),
        Order::MINUS_INF => fold_units(weights.magnitudes(), units, f64::INFINITY, |m| m, f64::min),
        Order(p) => {
            let largest = largest();
            let mut sums = vec![0.0; units.count()];
            let mut magnitudes = weights.magnitudes();
            units.for_each_run(|start, len, first, step| {
                magnitudes.for_each_block(start..start + len, |at, block| {
                    for (i, &m) in (at - start..).zip(block) {
                        let unit = first + i * step;
                        sums[unit] += (m / largest[unit]).powf(p);
                    }
                });
            });
            let log_mean = |((&m, s), n): ((&f64, f64), usize)| match m {
                0.0 => f64::NEG_INFINITY,
                m if m.is_infinite() => f64::INFINITY,
                m => p * m.ln() + (s / n as f64).ln(),
            };
            largest.iter().zip(sums).zip(units.sizes()).map(log_mean).collect()
        }
    }
}

/// Divides the scores of a layer's units by their mean over the units that are not zero as a whole,
/// so that units of different layers compare, as Torch-Pruning does (DepGraph, Fang et al. 2023).
pub fn relate_to_mean(scores: &mut [f64], order: Order, nonzeros: &[u32]) {
    let units = nonzeros.iter().filter(|&&n| n > 0).count() as f64;
    let infinite = |score: f64| score == f64::INFINITY;
    if order.is_logarithmic() {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest.is_finite() {
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let log_mean = largest + (sum / units).ln();
            scores.iter_mut().for_each(|s| *s -= log_mean);
        }
        return;
    }
    let mean = scores.iter().sum::<f64>() / units;
    if mean > 0.0 {
        scores.iter_mut().filter(|s| !infinite(**s)).for_each(|s| *s /= mean);
    }
}

/// How many weights of each unit are not zero.
pub fn unit_nonzeros(weights: &Weights<'_>, units: &Units) -> Vec<u32> {
    fold_units(weights.magnitudes(), units, 0, |m| u32::from(m != 0.0), |a, b| a + b)
}

/// Folds the numbers of each unit. A run of one unit is folded in four lanes, so that one
/// element need not wait for the one before; the order is the same each time.
pub(super) fn fold_units<T: Copy>(
    mut numbers: Numbers<'_>,
    units: &Units,
    init: T,
    of: impl Fn(f64) -> T,
    combine: impl Fn(T, T) -> T,
) -> Vec<T> {
    const LANES: usize = 4;
    let mut folded = vec![init; units.count()];
    units.for_each_run(|start, len, first, step| {
        let run = start..start + len;
        if step == 0 {
            let mut lanes = [init; LANES];
            numbers.for_each_block(run, |_, block| {
                let (whole, rest) = block.as_chunks::<LANES>();
                for four in whole {
                    for (lane, &m) in lanes.iter_mut().zip(four) {
                        *lane = combine(*lane, of(m));
                    }
                }
                for (lane, &m) in lanes.iter_mut().zip(rest) {
                    *lane = combine(*lane, of(m));
                }
            });
            folded[first] = lanes.into_iter().fold(folded[first], &combine);
        } else {
            numbers.for_each_block(run, |at, block| {
                for (slot, &m) in folded[first + (at - start)..].iter_mut().zip(block) {
                    *slot = combine(*slot, of(m));
                }
            });
        }
    });
    folded
}
