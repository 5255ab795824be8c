//! How much worse a pruned model may be and still count as free.

use std::fmt;
use std::str::FromStr;

use secateur::{Error, Result, format};
use serde::{Deserialize, Serialize};

use super::{FREE_THRESHOLD, Scale, higher_is_better};

/// How much worse than the unpruned model still counts as free, by which measure: `loss:1%`, `top1:1pt`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Tolerance {
    /// The measure that judges: one of [`secateur::records::RunHeader::measures`], or `loss` for the first of them.
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
    fn default() -> Self {
        FREE_THRESHOLD.into()
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
    pub(super) fn place(&self, measures: &[String]) -> Result<usize> {
        if self.measure == "loss" {
            return Ok(0);
        }
        measures.iter().position(|m| *m == self.measure).ok_or_else(|| {
            Error::usage(format!(
                "`--free {self}`: this run has no measure `{}`; it has {}",
                self.measure,
                measures.join(", ")
            ))
        })
    }

    /// What happens to the model where pruning stops being free: `the loss rises by 1 %`. `deciding` is the run's
    /// first measure, `scale` how it is read, `amount` what it changes by.
    pub(super) fn harm(&self, deciding: &str, scale: Scale, amount: &str) -> String {
        let measure = if self.measure == "loss" { deciding } else { &self.measure };
        let name = format::measure(measure);
        let verb = match scale {
            Scale::Absolute if measure == deciding => "reaches",
            _ if higher_is_better(measure) => "falls by",
            _ => "rises by",
        };
        let the = if name.starts_with("top-") { "" } else { "the " };
        format!("{the}{name} {verb} {amount}")
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
    fn harm_is_a_clause() {
        let harm = |text: &str, deciding, scale| {
            let tolerance = text.parse::<Tolerance>().unwrap();
            tolerance.harm(deciding, scale, &tolerance.amount_text(tolerance.amount()))
        };
        let relative = Scale::Relative { unpruned: 0.4 };
        assert_eq!(harm("loss:1%", "loss", relative), "the loss rises by 1 %");
        assert_eq!(harm("top1:1pt", "loss", relative), "top-1 accuracy falls by 1 point");
        assert_eq!(harm("loss:5%", "relative_l2", Scale::Absolute), "the relative output error reaches 5 %");
    }
}
