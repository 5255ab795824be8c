//! What the points of a run say: curves relative to the unpruned model, how far pruning is free, the
//! exponential, and which method is better.

mod compare;
mod curve;
mod fit;
mod front;
mod reader;
mod words;

use secateur::Result;

pub use compare::{Comparison, Pairing, Verdict};
pub use curve::{Curve, CurvePoint, Free, Harm, MeanBytes, Spread};
pub use fit::Fit;
pub use front::{Operating, OperatingPoint};
pub use secateur::data::{Tolerance, Worse, higher_is_better};

use super::draw::slots;
use reader::Reader;
use secateur::format;
use secateur::records::{Run, RunKind};

/// Loss above the unpruned model's by less than this share counts as free.
pub const FREE_THRESHOLD: f64 = 0.01;

/// A run, analysed by its deciding measure: the first of [`secateur::records::RunHeader::measures`].
#[derive(Clone, Debug)]
pub struct Analysis {
    /// How the deciding measure is read.
    pub scale: Scale,
    /// How much worse than the unpruned model still counts as free.
    pub tolerance: Tolerance,
    /// A curve for each method, or in a sensitivity run for each layer, in the header's order.
    pub curves: Vec<Curve>,
    /// Every two methods against each other; none in a sensitivity run.
    pub pairings: Vec<Pairing>,
}

/// How the deciding measure is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// As a multiple of the unpruned model's value, which therefore stands at 1.
    Relative {
        /// The unpruned model's value.
        unpruned: f64,
    },
    /// As it is, where it measures the distance from the unpruned model, which therefore stands at 0.
    Absolute,
}

impl Scale {
    /// Where the unpruned model stands.
    pub fn unpruned(self) -> f64 {
        match self {
            Scale::Relative { .. } => 1.0,
            Scale::Absolute => 0.0,
        }
    }
}

impl Analysis {
    /// Analyses a run with a tolerance such as [`FREE_THRESHOLD`].
    ///
    /// # Errors
    /// Those of [`Run::samples`]; `Usage` where the run lacks the tolerance's measure.
    pub fn of(run: &Run, tolerance: impl Into<Tolerance>) -> Result<Analysis> {
        let tolerance = tolerance.into();
        let header = &run.header;
        let deciding = header.measures.first().map_or("", String::as_str);
        let unpruned = run.unpruned.measure(deciding).map_or(f64::NAN, |m| m.value);
        // A model that is never wrong has no loss to be a multiple of.
        let scale =
            if header.has_labels && unpruned > 0.0 { Scale::Relative { unpruned } } else { Scale::Absolute };
        let reader = Reader::new(run, scale, &tolerance)?;
        let groups = reader::groups(run);
        let slots = slots(groups.iter().map(|g| g.method.as_str()));
        let curves = groups.into_iter().zip(slots).map(|(g, slot)| reader.curve(g, slot));
        let curves = curves.collect::<Result<Vec<_>>>()?;
        let pairings = match header.kind {
            RunKind::Sweep => compare::all(&curves),
            RunKind::Sensitivity => Vec::new(),
        };
        Ok(Analysis { scale, tolerance, curves, pairings })
    }

    /// What counts as free of the deciding measure on the analysis's scale; the default where another measure judges.
    pub fn threshold(&self) -> f64 {
        match &self.tolerance {
            Tolerance { measure, by: Worse::Share(share) } if measure == "loss" => *share,
            _ => FREE_THRESHOLD,
        }
    }

    /// What the deciding measure's values are: `the loss as a multiple of the unpruned model’s`.
    pub fn reading(&self, run: &Run) -> String {
        let deciding = format::measure(run.header.measures.first().map_or("loss", String::as_str));
        match self.scale {
            Scale::Relative { .. } => format!("the {deciding} as a multiple of the unpruned model’s"),
            Scale::Absolute => format!("the {deciding}"),
        }
    }

    /// What happens where pruning stops being free: `the loss rises by 1 %`; where standard errors decide for some
    /// curve, they are named too.
    pub fn harm(&self, run: &Run) -> String {
        let limits = self.curves.iter().filter_map(|c| c.free.limited_by);
        let amount = self.tolerance.amount_text(self.tolerance.amount());
        self.harm_by(
            run,
            &match limits.reduce(f64::max) {
                None => amount,
                Some(most) => {
                    let most = self.tolerance.amount_text(most);
                    format!("{amount} or its standard error (up to {most}), whichever is larger")
                }
            },
        )
    }

    /// What happens where pruning by this curve stops being free: `the loss rises by 1 %`, or, where that decides,
    /// `the loss rises by its standard error, 7.4 %`.
    pub fn harm_of(&self, run: &Run, curve: &Curve) -> String {
        self.harm_by(
            run,
            &match curve.free.limited_by {
                None => self.tolerance.amount_text(self.tolerance.amount()),
                Some(error) => format!("its standard error, {}", self.tolerance.amount_text(error)),
            },
        )
    }

    fn harm_by(&self, run: &Run, amount: &str) -> String {
        let deciding = run.header.measures.first().map_or("loss", String::as_str);
        words::harm(&self.tolerance, deciding, self.scale, amount)
    }

    /// Says that standard errors are what limits, where they are for some curve.
    pub fn limits(&self, run: &Run) -> Option<String> {
        let limits: Vec<f64> = self.curves.iter().filter_map(|c| c.free.limited_by).collect();
        let most = limits.iter().copied().fold(0.0, f64::max);
        let what = if run.header.kind == RunKind::Sweep { "methods" } else { "layers" };
        (!limits.is_empty()).then(|| {
            format!(
                "for {} of {} {what} the standard error (up to {} on {} samples) and not the tolerance of {} decides: \
                 pruning counts as free up to one standard error; use more samples for a finer result",
                limits.len(),
                self.curves.len(),
                self.tolerance.amount_text(most),
                format::grouped(run.header.samples as i64),
                self.tolerance.amount_text(self.tolerance.amount()),
            )
        })
    }

    /// Where plots cut the deciding measure off: beyond three times the unpruned loss (or an error as large as
    /// the output itself) a network is useless, and the curves explode.
    pub fn shown_limit(&self) -> f64 {
        let values =
            self.curves.iter().flat_map(|c| &c.points).map(|p| p.value.mean).filter(|v| v.is_finite());
        let (unpruned, most) = (
            self.scale.unpruned(),
            match self.scale {
                Scale::Relative { .. } => 3.0,
                Scale::Absolute => 1.0,
            },
        );
        let highest = values.fold(unpruned, f64::max);
        // Flat curves fill the plot, but noise about the baseline doesn't.
        unpruned + (1.05 * (highest - unpruned)).clamp(5.0 * self.threshold(), most - unpruned)
    }

    /// Indices of the curves, those that can bear the least pruning first.
    pub fn by_sensitivity(&self) -> Vec<usize> {
        let total = |c: &Curve| -> f64 { c.points.iter().map(|p| p.value.mean.min(1e6)).sum() };
        let mut order: Vec<usize> = (0..self.curves.len()).collect();
        order.sort_by(|&i, &j| {
            let (a, b) = (&self.curves[i], &self.curves[j]);
            a.free.sparsity.total_cmp(&b.free.sparsity).then(total(b).total_cmp(&total(a)))
        });
        order
    }

    /// The targets of all curves in ascending order, without the unpruned model.
    pub fn targets(&self) -> Vec<f64> {
        let mut targets: Vec<f64> =
            self.curves.iter().flat_map(|c| &c.points[1..]).map(|p| p.target).collect();
        targets.sort_by(f64::total_cmp);
        targets.dedup_by(|a, b| same(*a, *b));
        targets
    }
}

/// Targets are steps such as 3 · 0.05, which rounding must not keep apart.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[cfg(test)]
mod tests;
