//! How much worse a pruned model may be.

use std::fmt;
use std::str::FromStr;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::data::metrics::Metrics;
use crate::format;

/// Whether more of a measure is better: it is for accuracies and similarities, not for losses and errors.
pub fn higher_is_better(measure: &str) -> bool {
    matches!(measure, "top1" | "top5" | "cosine" | "argmax_equal")
}

/// How much worse than the unpruned model a pruned one may be, by which measure: `loss:1%`, `top1:1pt`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Tolerance {
    /// The measure that judges: one of [`crate::records::RunHeader::measures`], or `loss` for the first of them.
    pub measure: String,
    /// How much worse it may be.
    pub by: Worse,
}

/// How much worse a measure may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Worse {
    /// By this share of the unpruned model's value: 0.01 is `1%`. A measure that is a distance from the unpruned
    /// model may reach it.
    Share(f64),
    /// By this difference: 0.01 is `1pt`, a point of per cent.
    Points(f64),
}

impl Default for Tolerance {
    /// The deciding measure may be worse by 1 %.
    fn default() -> Self {
        0.01.into()
    }
}

impl From<f64> for Tolerance {
    /// The deciding measure may be worse by this share.
    fn from(share: f64) -> Self {
        Tolerance { measure: "loss".into(), by: Worse::Share(share) }
    }
}

impl Tolerance {
    /// The share or difference.
    pub fn amount(&self) -> f64 {
        match self.by {
            Worse::Share(amount) | Worse::Points(amount) => amount,
        }
    }

    /// The measure's place among a run's.
    ///
    /// # Errors
    /// `Usage` where the run has no such measure.
    pub fn place(&self, measures: &[String]) -> Result<usize> {
        if self.measure == "loss" {
            return Ok(0);
        }
        measures.iter().position(|m| *m == self.measure).ok_or_else(|| {
            Error::usage(format!(
                "`{self}`: there is no measure `{}`; there are {}",
                self.measure,
                measures.join(", ")
            ))
        })
    }

    /// Whether figures are worse than those of the unpruned model by more than this.
    ///
    /// # Errors
    /// As [`Tolerance::place`].
    pub fn is_exceeded(&self, unpruned: &Metrics, now: &Metrics) -> Result<bool> {
        let names: Vec<String> = unpruned.values.iter().map(|measure| measure.name.clone()).collect();
        let name = &names[self.place(&names)?];
        let of = |metrics: &Metrics| metrics.get(name).map_or(f64::NAN, |measure| measure.value);
        let (from, to) = (of(unpruned), of(now));
        let worse = if higher_is_better(name) { from - to } else { to - from };
        let most = match self.by {
            Worse::Share(share) => share * from.abs(),
            Worse::Points(points) => points,
        };
        Ok(worse.is_nan() || worse > most)
    }

    /// An amount in the tolerance's unit: `1 %`, `0.5 points`.
    pub fn amount_text(&self, amount: f64) -> String {
        match self.by {
            Worse::Share(_) => format::asked(amount),
            Worse::Points(_) => format::points(amount),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded so that 0.07 · 100 is 7.
        let shown = (self.amount() * 1e8).round() / 1e6;
        let unit = if matches!(self.by, Worse::Share(_)) { "%" } else { "pt" };
        write!(f, "{}:{shown}{unit}", self.measure)
    }
}

impl From<Tolerance> for String {
    fn from(tolerance: Tolerance) -> String {
        tolerance.to_string()
    }
}

impl TryFrom<String> for Tolerance {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Tolerance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (measure, amount) = text.split_once(':')?;
            let (number, of): (&str, fn(f64) -> Worse) = match amount.strip_suffix('%') {
                Some(number) => (number, Worse::Share),
                None => (amount.strip_suffix("pt")?, Worse::Points),
            };
            let number: f64 = number.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)?;
            (!measure.is_empty()).then(|| Tolerance { measure: measure.into(), by: of(number / 100.0) })
        };
        parsed().ok_or_else(|| {
            Error::usage(format!(
                "`{text}`: expected a measure and how much worse it may be, such as loss:1% (a share of the unpruned \
                 model's) or top1:1pt (percentage points)"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::metrics::Measure;

    #[test]
    fn what_is_written_is_read() {
        for text in ["loss:1%", "top1:1pt", "top5:0.5pt", "relative_l2:7%"] {
            assert_eq!(text.parse::<Tolerance>().unwrap().to_string(), text);
        }
        assert_eq!("loss:1%".parse::<Tolerance>().unwrap(), Tolerance::default());
        for text in ["", "loss", "loss:", "loss:1", "loss:0%", "loss:-1%", ":1%", "top1:NaNpt", "top1:onept"]
        {
            let message = text.parse::<Tolerance>().unwrap_err().to_string();
            assert!(message.contains("loss:1%"), "{message}");
        }
    }

    #[test]
    fn what_is_worse_by_more_exceeds_it() {
        let of = |loss: f32, top1: f32| Metrics {
            samples: 1,
            values: vec![Measure::new("loss", vec![loss]), Measure::new("top1", vec![top1])],
            notes: Vec::new(),
        };
        let exceeded = |text: &str, now: Metrics| {
            text.parse::<Tolerance>().unwrap().is_exceeded(&of(0.5, 0.9), &now).unwrap()
        };
        assert!(!exceeded("top1:1pt", of(0.9, 0.895)) && exceeded("top1:1pt", of(0.4, 0.885)));
        assert!(!exceeded("loss:10%", of(0.54, 0.1)) && exceeded("loss:10%", of(0.56, 0.9)));
        assert!(exceeded("loss:10%", of(f32::NAN, 0.9)));
        let unknown = "top3:1pt".parse::<Tolerance>().unwrap().is_exceeded(&of(0.5, 0.9), &of(0.5, 0.9));
        assert!(unknown.unwrap_err().to_string().contains("top3"));
    }
}
