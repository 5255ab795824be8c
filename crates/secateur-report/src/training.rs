//! A training by its log: as series and as a table.

use secateur::records::{Event, LogLine, Logged, Measure, MeasuredOn, csv_line};

/// A training that is done, by its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// What the model is called.
    pub model: String,
    /// What it trained on.
    pub data: String,
    /// What the command was told.
    pub recipe: serde_json::Value,
    /// The version of secateur.
    pub version: String,
    /// The log.
    pub lines: Vec<LogLine>,
}

impl Training {
    /// The loss among the measures.
    pub fn loss(&self) -> Option<&str> {
        self.lines.iter().find_map(|line| Some(measures(line)?.first()?.name.as_str()))
    }

    /// A measure against the iteration.
    pub fn measured(&self, data: MeasuredOn, name: &str) -> Vec<(f64, f64)> {
        let value = |line: &LogLine| match &line.what {
            Logged::Measured { on, measures } if *on == data => {
                let measure = measures.iter().find(|measure| measure.name == name)?;
                Some((line.iteration as f64, measure.value))
            }
            _ => None,
        };
        self.lines.iter().filter_map(value).collect()
    }

    /// The sparsities that the model was pruned to, with their iterations.
    pub fn prunings(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        let pruned = self.lines.iter().filter(|line| line.what == Logged::Changed { event: Event::Pruned });
        pruned.map(|line| (line.iteration, line.sparsity))
    }
}

fn measures(line: &LogLine) -> Option<&[Measure]> {
    match &line.what {
        Logged::Measured { measures, .. } => Some(measures),
        Logged::Changed { .. } => None,
    }
}

/// The log as a table: a line for each of its own, a column for each measure.
pub(crate) fn csv(training: &Training) -> String {
    let mut names: Vec<&str> = Vec::new();
    for measure in training.lines.iter().filter_map(measures).flatten() {
        if !names.contains(&measure.name.as_str()) {
            names.push(&measure.name);
        }
    }
    let fixed = ["iteration", "what", "learning_rate", "sparsity"];
    let head = csv_line(fixed.into_iter().chain(names.iter().copied()).map(String::from));
    let row = |line: &LogLine| {
        let what = match &line.what {
            Logged::Measured { on: MeasuredOn::Training, .. } => "training",
            Logged::Measured { on: MeasuredOn::Validation, .. } => "validation",
            Logged::Measured { on: MeasuredOn::Test, .. } => "test",
            Logged::Changed { event: Event::Pruned } => "pruned",
            Logged::Changed { event: Event::Repaired } => "repaired",
        };
        let value = |name: &&str| {
            let found = measures(line)?.iter().find(|measure| measure.name == *name)?;
            found.value.is_finite().then(|| found.value.to_string())
        };
        let fixed =
            [line.iteration.to_string(), what.into(), line.rate.to_string(), line.sparsity.to_string()];
        csv_line(fixed.into_iter().chain(names.iter().map(|name| value(name).unwrap_or_default())))
    };
    head + &training.lines.iter().map(row).collect::<String>()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A training of 400 iterations, pruned twice and repaired once.
    pub(crate) fn made_up() -> Training {
        let measured = |on, values: &[(&str, f64)]| {
            let of = |(name, value): &(&str, f64)| Measure {
                name: name.to_string(),
                value: *value,
                standard_error: 0.01,
            };
            Logged::Measured { on, measures: values.iter().map(of).collect() }
        };
        let (mut lines, mut sparsity) = (Vec::new(), 0.0);
        for step in 0..=400u64 {
            let rate = if step == 0 { 0.0 } else { 0.01 };
            let mut put = |what, sparsity| lines.push(LogLine { iteration: step, what, rate, sparsity });
            let loss = 2.0 / (1.0 + step as f64 / 50.0) + sparsity;
            if step > 0 && step % 10 == 0 {
                let values = [("cross-entropy", loss), ("top1", 1.0 - loss / 4.0)];
                put(measured(MeasuredOn::Training, &values), sparsity);
            }
            if step > 0 && step % 100 == 0 {
                let values = [("cross-entropy", loss + 0.1), ("top1", 0.95 - loss / 4.0), ("top5", f64::NAN)];
                put(measured(MeasuredOn::Validation, &values), sparsity);
            }
            if [100, 250].contains(&step) {
                sparsity = 0.9 - 40.0 / step as f64;
                put(Logged::Changed { event: Event::Pruned }, sparsity);
            }
            if step == 250 {
                put(Logged::Changed { event: Event::Repaired }, sparsity);
            }
        }
        Training {
            model: "digits.onnx".into(),
            data: "train.npz".into(),
            recipe: serde_json::json!({
                "prune": { "method": "l1", "sparsity": 0.74 },
                "data": { "data": "train.npz" },
                "train": { "epochs": "400it", "schedule": "cubic", "hold-out": 0.1 },
            }),
            version: "0.1.0".into(),
            lines,
        }
    }

    #[test]
    fn the_log_is_a_table() {
        let training = made_up();
        assert_eq!(training.prunings().collect::<Vec<_>>(), [(100, 0.5), (250, 0.74)]);
        assert_eq!(training.measured(MeasuredOn::Validation, "top1").len(), 4);
        let table = csv(&training);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 1 + 40 + 4 + 3);
        assert_eq!(lines[0], "iteration,what,learning_rate,sparsity,cross-entropy,top1,top5");
        assert!(lines.contains(&"250,repaired,0.01,0.74,,,"));
        let at = lines.iter().position(|line| line.starts_with("100,validation")).unwrap();
        // What is no number is empty.
        assert!(lines[at].ends_with(',') && lines[at + 1] == "100,pruned,0.01,0.5,,,", "{table}");
    }
}
