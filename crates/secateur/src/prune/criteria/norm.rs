//! Norms: of a single weight its magnitude, whatever the order; of a channel or block the mean of the
//! norm's terms over its weights.

use secateur_model::{Error, Result};

use super::{Criterion, Scores, TORCH, UnitScores};
use crate::prune::evidence::Evidence;
use crate::prune::patterns::Pattern;
use crate::prune::registry::{About, Described, Parameter};
use crate::prune::scope::Scope;
use crate::prune::units::Units;
use crate::prune::weights::{Weights, fold_units};

/// The norm of the weight (its magnitude) or of the unit.
#[derive(Debug)]
pub(super) struct Norm {
    about: About,
    /// The order; `None` where the method says it.
    order: Option<Order>,
}

const fn norm(
    name: &'static str,
    order: Order,
    source: &'static str,
    summary: &'static str,
    formula: &'static str,
) -> Norm {
    let about = About { name, aliases: &[], parameter: None, summary, formula, source, needs: &[] };
    Norm { about, order: Some(order) }
}

pub(super) static L1: Norm = norm(
    "l1",
    Order::L1,
    "torch.nn.utils.prune; filters: Li et al. 2017, arXiv:1608.08710",
    "magnitude of the weight, mean magnitude of the channel or block",
    "Σ|w_i| ÷ n",
);

pub(super) static L2: Norm = norm(
    "l2",
    Order::L2,
    TORCH,
    "magnitude of the weight, Euclidean norm of the channel or block",
    "√(Σw_i² ÷ n)",
);

pub(super) static LN: Norm = Norm {
    about: About {
        name: "ln",
        aliases: &[],
        parameter: Some(Parameter {
            symbol: "P",
            example: Order::HALF.0,
            read: |text| Order::parse(text).map(Order::value),
            named: &[
                (Order::L1.0, "l1"),
                (Order::L2.0, "l2"),
                (Order::ZERO.0, "l0"),
                (Order::INF.0, "linf"),
                (Order::MINUS_INF.0, "l-inf"),
            ],
        }),
        summary: "norm of any order P > 0, such as ln:0.5",
        formula: "(Σ|w_i|^P ÷ n)^(1/P)",
        source: TORCH,
        needs: &[],
    },
    order: None,
};

pub(super) static L0: Norm = norm(
    "l0",
    Order::ZERO,
    TORCH,
    "share of weights of the channel or block that are not zero",
    "#{w_i ≠ 0} ÷ n",
);

pub(super) static LINF: Norm = norm(
    "linf",
    Order::INF,
    TORCH,
    "magnitude of the weight, largest magnitude of the channel or block",
    "max|w_i|",
);

pub(super) static MINUS_INF: Norm = norm(
    "l-inf",
    Order::MINUS_INF,
    TORCH,
    "magnitude of the weight, smallest magnitude of the channel or block",
    "min|w_i|",
);

impl Norm {
    fn order(&self, parameter: Option<f64>) -> Order {
        self.order.or(parameter.map(Order)).unwrap_or(Order::L1)
    }
}

impl Described for Norm {
    fn about(&self) -> &About {
        &self.about
    }
}

impl Criterion for Norm {
    /// Of a single weight every norm is the magnitude.
    fn weights<'a>(&self, _: &Evidence<'a>) -> Result<Scores<'a>> {
        Ok(Scores::Magnitude)
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        Ok(UnitScores::Numbers(unit_scores(layer.weights, units, self.order(layer.parameter))))
    }

    fn relate(&self, layer: &Evidence<'_>, scores: &mut [f64], nonzeros: &[u32]) {
        relate_to_mean(scores, self.order(layer.parameter), nonzeros);
    }

    fn refuses(&self, parameter: Option<f64>, pattern: Pattern, _: Scope) -> Option<&'static str> {
        let single = matches!(pattern, Pattern::Unstructured | Pattern::Nm(_));
        (single && self.order(parameter) == Order::ZERO).then_some(
            "the order 0 gives every weight that is not zero the same score: use it for channels or blocks",
        )
    }
}

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
