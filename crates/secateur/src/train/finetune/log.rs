//! The log of a fine-tuning: its course, written line by line.

use secateur_model::Result;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::records::{LogLine, Logged, Measure, MeasuredOn};
use crate::train::Stepped;

/// Into how many equal parts the log divides a training, with a line on training data at the end of each.
const PARTS: u64 = 100;

/// How far a log is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// Lines so far.
    pub(super) lines: usize,
    /// Sums over the steps since the last line on training data, and how many steps these are.
    loss: f64,
    top1: Option<f64>,
    steps: u64,
}

impl Run<'_> {
    /// Appends a line to the log, where there is one.
    pub(super) fn log(&mut self, what: Logged) -> Result<()> {
        let (iteration, rate, sparsity) =
            (self.trainer.step_number(), self.trainer.last_rate(), self.sparsity());
        let Some(log) = &mut self.log else { return Ok(()) };
        self.record.log.lines += 1;
        log.append(&LogLine { iteration, what, rate, sparsity })
    }

    /// Adds a step to what the log says of the training data.
    pub(super) fn add_to_log(&mut self, Stepped { loss, top1 }: Stepped) -> Result<()> {
        let position = &mut self.record.log;
        position.steps += 1;
        position.loss += loss;
        position.top1 = top1.map(|share| position.top1.unwrap_or(0.0) + share);
        let (step, steps) = (self.trainer.step_number(), self.trainer.steps());
        if step * PARTS / steps == (step - 1) * PARTS / steps {
            return Ok(());
        }
        let Position { lines, loss, top1, steps } = *position;
        *position = Position { lines, ..Position::default() };
        let sums = [Some((self.options.train.loss.loss.name(), loss)), top1.map(|sum| ("top1", sum))];
        let mean = |(name, sum): (&str, f64)| Measure {
            name: name.into(),
            value: sum / steps as f64,
            standard_error: f64::NAN,
        };
        let measures = sums.into_iter().flatten().map(mean).collect();
        self.log(Logged::Measured { on: MeasuredOn::Training, measures })
    }
}
