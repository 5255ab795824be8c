//! The sparsities that methods are compared at.

use secateur_model::{Error, Result};

use crate::prune::Method;

/// The default step between sparsities.
pub const DEFAULT_STEP: f64 = 0.05;
/// The default largest sparsity.
pub const DEFAULT_MAX: f64 = 0.95;
/// The default step between the sparsities of a sensitivity run.
pub const DEFAULT_SENSITIVITY_STEP: f64 = 0.2;

/// The smallest step between sparsities: a thousand points of each method.
const MIN_STEP: f64 = 0.001;

/// The sparsities that methods are compared at. A pattern that fixes the sparsity has that one.
#[derive(Clone, Debug, PartialEq)]
pub enum Sparsities {
    /// These.
    Listed(Vec<f64>),
    /// Multiples of a step up to the largest.
    Steps {
        /// The step between them: [`DEFAULT_STEP`] or [`DEFAULT_SENSITIVITY_STEP`] where none is given.
        step: Option<f64>,
        /// The largest: [`DEFAULT_MAX`] where none is given.
        max: Option<f64>,
    },
}

impl Default for Sparsities {
    fn default() -> Self {
        Sparsities::Steps { step: None, max: None }
    }
}

impl Sparsities {
    /// Those of a method, rising.
    ///
    /// # Errors
    /// `Usage` where the steps are too fine to tell apart, or go beyond 1.
    pub(crate) fn of(&self, method: Method, default_step: f64) -> Result<Vec<f64>> {
        if let Some(fixed) = method.pattern.sparsity() {
            return Ok(vec![fixed]);
        }
        let (step, max) = match self {
            Sparsities::Listed(listed) => {
                let mut listed = listed.clone();
                listed.sort_by(f64::total_cmp);
                listed.dedup();
                return Ok(listed);
            }
            Sparsities::Steps { step, max } => (step.unwrap_or(default_step), max.unwrap_or(DEFAULT_MAX)),
        };
        let meant = step >= MIN_STEP && (step..=1.0).contains(&max);
        if !meant {
            return Err(Error::usage(format!(
                "steps of {step:?} up to {max}: expected a step of at least {MIN_STEP} and a largest sparsity from \
                 there to 1"
            )));
        }
        let count = (max / step + 1e-9).floor() as usize;
        // Rounded so that 3 · 0.05 is 0.15 in every record.
        Ok((1..=count).map(|i| (i as f64 * step * 1e6).round() / 1e6).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_not_finer_than_can_be_told_apart() {
        let points =
            |step: f64| Sparsities::Steps { step: Some(step), max: None }.of("l1".parse().unwrap(), 0.25);
        assert_eq!(points(0.001).unwrap().len(), 950);
        for step in [0.0009, 1e-9, 1e-300, 0.0] {
            let error = points(step).unwrap_err();
            assert_eq!(error.kind(), secateur_model::ErrorKind::Usage);
            assert!(error.to_string().contains("at least 0.001"), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_fixes_the_sparsity_is_one_point() {
        let points = |method: &str| Sparsities::default().of(method.parse().unwrap(), 0.25).unwrap();
        assert_eq!(points("l1"), [0.25, 0.5, 0.75]);
        assert_eq!(points("l1/1:4"), [0.75]);
    }
}
