//! Norms: of a single weight its magnitude, whatever the order; of a channel the norm over its
//! weights.

use secateur_model::{Error, Result};

use super::weights::Weights;
use crate::mask::units::Units;

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

    /// The order as a number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// The score of each channel: a number that grows with the norm of the channel's weights.
///
/// For the orders 0, 1, 2, ∞ and −∞ it is the norm; for others the norm's logarithm, which neither
/// over- nor underflows for extreme orders. Sums are taken in f64 in a fixed order, so they do not
/// depend on the number of threads. A channel with an infinite weight has the score ∞
/// for every order but 0 and −∞.
pub fn unit_norms(weights: &Weights<'_>, units: &Units, order: Order) -> Vec<f64> {
    let sum = |of: fn(f64) -> f64| fold_units(weights, units, 0.0, of, |a, b| a + b);
    let largest = || fold_units(weights, units, 0.0, |m| m, f64::max);
    match order {
        Order::ZERO => sum(|m| if m == 0.0 { 0.0 } else { 1.0 }),
        Order::L1 => sum(|m| m),
        Order::L2 => sum(|m| m * m).into_iter().map(f64::sqrt).collect(),
        Order::INF => largest(),
        Order::MINUS_INF => fold_units(weights, units, f64::INFINITY, |m| m, f64::min),
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
            let log_norm = |(&m, s): (&f64, f64)| match m {
                0.0 => f64::NEG_INFINITY,
                m if m.is_infinite() => f64::INFINITY,
                m => m.ln() + s.ln() / p,
            };
            largest.iter().zip(sums).map(log_norm).collect()
        }
    }
}

/// How many weights of each channel are not zero.
pub fn unit_nonzeros(weights: &Weights<'_>, units: &Units) -> Vec<usize> {
    fold_units(weights, units, 0, |m| usize::from(m != 0.0), |a, b| a + b)
}

/// Folds the magnitudes of each unit. A run of one unit is folded in four lanes, so that one
/// element need not wait for the one before; the order is the same each time.
fn fold_units<T: Copy>(
    weights: &Weights<'_>,
    units: &Units,
    init: T,
    of: impl Fn(f64) -> T,
    combine: impl Fn(T, T) -> T,
) -> Vec<T> {
    const LANES: usize = 4;
    let mut folded = vec![init; units.count()];
    let mut magnitudes = weights.magnitudes();
    units.for_each_run(|start, len, first, step| {
        let run = start..start + len;
        if step == 0 {
            let mut lanes = [init; LANES];
            magnitudes.for_each_block(run, |_, block| {
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
            magnitudes.for_each_block(run, |at, block| {
                for (slot, &m) in folded[first + (at - start)..].iter_mut().zip(block) {
                    *slot = combine(*slot, of(m));
                }
            });
        }
    });
    folded
}
