//! Pruning schedules: at which steps of a training the model is pruned, and to which sparsity.
//!
//! A schedule is pure: from the number of a step to a sparsity. One is a file here and a line in [`ScheduleOptions::at`].

mod gradual;
mod iterative;
mod length;
mod one_shot;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

pub use self::length::Length;

/// When a model is pruned while it trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScheduleOptions {
    /// The course of the sparsity.
    pub schedule: Schedule,
    /// When pruning begins; at once by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Length>,
    /// When the last pruning is done; three quarters of the training by default. One-shot pruning has no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Length>,
    /// How often gradual schedules prune; every 100 iterations by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Length>,
    /// How often `iterative` prunes; 5 times by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
}

/// The course of the sparsity from its start s₀ to its target s over the share p of the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// All at once.
    #[default]
    OneShot,
    /// In rounds at equal distances, each of which prunes the same share of what remains.
    Iterative,
    /// s₀ + (s − s₀) p.
    Linear,
    /// 1 − (1 − s₀) ((1 − s) / (1 − s₀))ᵖ: the same share of what remains with every step.
    Exponential,
    /// s + (s₀ − s) (1 − p)³ (Zhu and Gupta 2017).
    Cubic,
}

/// The length of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Steps in all.
    pub steps: u64,
    /// Steps of an epoch.
    pub of_epoch: u64,
}

impl ScheduleOptions {
    /// Checks the options for a training.
    ///
    /// # Errors
    /// `Usage` where the end is not behind the start, pruning begins after the training, or an option has no effect.
    pub fn check(&self, extent: Extent) -> Result<()> {
        let (start, end) = self.range(extent);
        let of_one = [("end", self.end.is_some()), ("every", self.every.is_some())];
        let unused = match self.schedule {
            Schedule::OneShot => of_one.into_iter().find(|(_, given)| *given).map(|(name, _)| name),
            Schedule::Iterative => self.every.map(|_| "every"),
            _ => None,
        };
        let rounds = self.rounds.filter(|_| self.schedule != Schedule::Iterative).map(|_| "rounds");
        if let Some(name) = unused.or(rounds) {
            return Err(Error::usage(format!("{name} has no effect on this schedule of pruning")));
        }
        if self.rounds == Some(0) || self.every.is_some_and(|every| every.iterations(extent.of_epoch) == 0) {
            return Err(Error::usage("a schedule prunes at least once, at a distance of at least one step"));
        }
        if start >= extent.steps {
            let steps = extent.steps;
            return Err(Error::usage(format!("pruning begins at step {start}, the training has {steps}")));
        }
        if self.schedule != Schedule::OneShot && (end <= start || end > extent.steps) {
            let steps = extent.steps;
            return Err(Error::usage(format!(
                "pruning ends at step {end}: expected one behind its start, {start}, within the training's {steps}"
            )));
        }
        Ok(())
    }

    /// The steps at which pruning begins and ends.
    fn range(&self, extent: Extent) -> (u64, u64) {
        let of = |length: Length| length.iterations(extent.of_epoch);
        (self.start.map_or(0, of), self.end.map_or(extent.steps * 3 / 4, of))
    }

    /// The step before which the model is pruned for the last time.
    pub fn last(&self, extent: Extent) -> u64 {
        let (start, end) = self.range(extent);
        match self.schedule {
            Schedule::OneShot => start,
            Schedule::Iterative if self.rounds == Some(1) => start,
            _ => end,
        }
    }

    /// The sparsity that the model is pruned to before a step; `None` where it is not pruned there.
    pub fn at(&self, step: u64, extent: Extent, initial: f64, target: f64) -> Option<f64> {
        let (start, end) = self.range(extent);
        let every = self.every.map_or(100, |every| every.iterations(extent.of_epoch)).max(1);
        let gradual = |curve: fn(f64, f64, f64) -> f64| {
            gradual::share(step, start, end, every).map(|share| curve(initial, target, share))
        };
        match self.schedule {
            Schedule::OneShot => one_shot::at(step, start, target),
            Schedule::Iterative => iterative::at(step, start, end, self.rounds.unwrap_or(5), initial, target),
            Schedule::Linear => gradual(gradual::linear),
            Schedule::Exponential => gradual(gradual::exponential),
            Schedule::Cubic => gradual(gradual::cubic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { steps: 400, of_epoch: 100 };

    fn course(options: &ScheduleOptions) -> Vec<(u64, f64)> {
        options.check(EXTENT).unwrap();
        let at = |step| Some((step, (options.at(step, EXTENT, 0.2, 0.9)? * 1e4).round() / 1e4));
        let course: Vec<(u64, f64)> = (0..=EXTENT.steps).filter_map(at).collect();
        assert_eq!(course.last().map(|(step, _)| *step), Some(options.last(EXTENT)));
        course
    }

    #[test]
    fn schedules_end_at_their_target() {
        let of = |schedule| ScheduleOptions { schedule, ..ScheduleOptions::default() };
        assert_eq!(course(&of(Schedule::OneShot)), [(0, 0.9)]);
        let later = ScheduleOptions { start: Some(Length::Epochs(1)), ..of(Schedule::OneShot) };
        assert_eq!(course(&later), [(100, 0.9)]);
        let rounds = ScheduleOptions { rounds: Some(3), ..of(Schedule::Iterative) };
        assert_eq!(course(&rounds), [(0, 0.6), (150, 0.8), (300, 0.9)]);
        assert_eq!(course(&of(Schedule::Linear)), [(0, 0.2), (100, 0.4333), (200, 0.6667), (300, 0.9)]);
        assert_eq!(course(&of(Schedule::Cubic)), [(0, 0.2), (100, 0.6926), (200, 0.8741), (300, 0.9)]);
        assert_eq!(course(&of(Schedule::Exponential)), [(0, 0.2), (100, 0.6), (200, 0.8), (300, 0.9)]);
        // The last pruning is at the end, even between two multiples.
        let odd = ScheduleOptions { end: Some(Length::Iterations(250)), ..of(Schedule::Linear) };
        assert_eq!(course(&odd).last(), Some(&(250, 0.9)));
    }

    #[test]
    fn options_without_effect_are_refused() {
        let one = ScheduleOptions { end: Some(Length::Epochs(1)), ..ScheduleOptions::default() };
        assert!(one.check(EXTENT).unwrap_err().to_string().contains("end"));
        let late = ScheduleOptions { start: Some(Length::Epochs(4)), ..ScheduleOptions::default() };
        assert!(late.check(EXTENT).is_err());
        let empty = ScheduleOptions {
            schedule: Schedule::Cubic,
            start: Some(Length::Epochs(3)),
            end: Some(Length::Epochs(3)),
            ..ScheduleOptions::default()
        };
        assert!(empty.check(EXTENT).is_err());
    }
}
