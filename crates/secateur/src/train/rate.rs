//! Learning rates: from the number of a step to its rate.

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::schedule::Length;

/// How the learning rate changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rate {
    /// The rate that the schedule begins with, after the warm-up.
    pub rate: f64,
    /// How it goes on.
    pub schedule: RateSchedule,
    /// The rate rises linearly from 0 for so long; not at all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Length>,
    /// `step` multiplies the rate by this at each milestone.
    pub gamma: f64,
    /// The milestones of `step`; a half and three quarters of the training by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub milestones: Vec<Length>,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateSchedule {
    /// It stays.
    Constant,
    /// It falls at milestones.
    Step,
    /// It falls to 0 along half a cosine (Loshchilov and Hutter 2017).
    #[default]
    Cosine,
    /// It rises from a 25th for 30 % of the training, then falls to a 10,000th of that, along half cosines (Smith and Topin
    /// 2018, as in PyTorch's `OneCycleLR`).
    OneCycle,
}

impl Default for Rate {
    fn default() -> Self {
        Rate {
            rate: 0.01,
            schedule: RateSchedule::default(),
            warmup: None,
            gamma: 0.1,
            milestones: Vec::new(),
        }
    }
}

impl Rate {
    /// Checks what can be checked without data.
    ///
    /// # Errors
    /// `Usage` where a rate is not positive and finite.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("the learning rate", self.rate), ("gamma", self.gamma)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::usage(format!("{name} is {value}, expected a number above 0")));
            }
        }
        Ok(())
    }

    /// The rate of a step, from 0 on, of a training of so many, with so many in an epoch.
    pub fn at(&self, step: u64, steps: u64, of_epoch: u64) -> f64 {
        let warmup = self.warmup.map_or(0, |length| length.iterations(of_epoch));
        if step < warmup {
            return self.rate * (step + 1) as f64 / warmup as f64;
        }
        let (step, steps) = (step - warmup, steps.saturating_sub(warmup).max(1));
        let done = step as f64 / steps as f64;
        self.rate
            * match self.schedule {
                RateSchedule::Constant => 1.0,
                RateSchedule::Cosine => cosine(1.0, 0.0, done),
                RateSchedule::Step => {
                    let default = [steps / 2, steps * 3 / 4];
                    let given = self.milestones.iter().map(|length| length.iterations(of_epoch));
                    let given: Vec<u64> = given.map(|at| at.saturating_sub(warmup)).collect();
                    let milestones = if given.is_empty() { &default[..] } else { &given };
                    self.gamma.powi(milestones.iter().filter(|&&at| step >= at).count() as i32)
                }
                RateSchedule::OneCycle => {
                    // As in PyTorch the last step of each part has the part's last rate.
                    let last = (steps.max(2) - 1) as f64;
                    let peak = (0.3 * steps as f64 - 1.0).max(0.0);
                    let low = 1.0 / 25.0;
                    match step as f64 {
                        step if step <= peak && peak > 0.0 => cosine(low, 1.0, step / peak),
                        step => cosine(1.0, low / 1e4, ((step - peak) / (last - peak).max(1.0)).min(1.0)),
                    }
                }
            }
    }
}

/// From `start` to `end` along half a cosine.
fn cosine(start: f64, end: f64, done: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(rate: &Rate, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| (rate.at(step, steps, 10) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn rates_follow_their_schedules() {
        let of = |schedule| Rate { rate: 1.0, schedule, ..Rate::default() };
        assert_eq!(course(&of(RateSchedule::Constant), 3), [1.0, 1.0, 1.0]);
        assert_eq!(course(&of(RateSchedule::Cosine), 4), [1.0, 0.8536, 0.5, 0.1464]);
        assert_eq!(course(&of(RateSchedule::Step), 8), [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
        let step = Rate { milestones: vec![Length::Iterations(2)], gamma: 0.5, ..of(RateSchedule::Step) };
        assert_eq!(course(&step, 4), [1.0, 1.0, 0.5, 0.5]);
        let warm = Rate { warmup: Some(Length::Iterations(2)), ..of(RateSchedule::Constant) };
        assert_eq!(course(&warm, 4), [0.5, 1.0, 1.0, 1.0]);
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=10)
        let cycle = [0.04, 0.52, 1.0, 0.9505, 0.8117, 0.6113, 0.3887, 0.1883, 0.0495, 0.0];
        assert_eq!(course(&of(RateSchedule::OneCycle), 10), cycle);
    }

    #[test]
    fn rates_are_positive_numbers() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = Rate { rate, ..Rate::default() }.check().unwrap_err().to_string();
            assert!(message.contains("above 0"), "{message}");
        }
    }
}
