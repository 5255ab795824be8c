//! What is measured of a model while it trains: a line per measurement, appended as it is made.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use secateur_model::io::{check_target, read_regular};
use secateur_model::{Error, Result, ResultExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Measure;
use crate::data::metrics::Metrics;

/// The data that something is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredOn {
    /// The data that are trained on.
    Training,
    /// The data that choose: by them a training is compared with itself.
    Validation,
    /// The data that choose nothing.
    Test,
}

/// A measurement in a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps of the optimiser so far.
    pub iteration: u64,
    /// The data.
    pub on: MeasuredOn,
    /// The measures, the loss first.
    pub measures: Vec<Measure>,
}

impl CurvePoint {
    /// A measurement at an iteration.
    pub fn new(iteration: u64, on: MeasuredOn, metrics: &Metrics) -> Self {
        CurvePoint { iteration, on, measures: measures(metrics) }
    }

    /// The value of a measure.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.measures.iter().find(|m| m.name == name).map(|m| m.value)
    }

    /// The value of the first measure, the loss.
    pub fn loss(&self) -> f64 {
        self.measures.first().map_or(f64::NAN, |m| m.value)
    }
}

/// The measures of an evaluation, without those of single samples.
pub(crate) fn measures(metrics: &Metrics) -> Vec<Measure> {
    let measure = |m: &crate::data::metrics::Measure| Measure {
        name: m.name.clone(),
        value: m.value,
        standard_error: m.standard_error,
    };
    metrics.values.iter().map(measure).collect()
}

/// A line of the log of a training that prunes: what was measured, or what was done to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Steps of the optimiser so far.
    pub iteration: u64,
    /// What there is to say.
    #[serde(flatten)]
    pub what: Logged,
    /// The learning rate of the step before; 0 before the first.
    pub rate: f64,
    /// The share of zeros among the weights that masks are on.
    pub sparsity: f64,
}

/// What a line of a log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Logged {
    /// A measurement. On training data the means over the batches since the last one, each before its step.
    Measured {
        /// The data.
        on: MeasuredOn,
        /// The measures, the loss first.
        measures: Vec<Measure>,
    },
    /// A change besides the steps of training.
    Changed {
        /// Which.
        event: Event,
    },
}

/// What changes a model while it trains, besides the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It was pruned, to the line's sparsity.
    Pruned,
    /// Its batch-norm statistics or biases were set anew.
    Repaired,
}

/// Reads a curve of [`CurvePoint`]s or [`LogLine`]s. A torn last line is left out.
///
/// # Errors
/// Io where the file cannot be read, Input where a line is no measurement.
pub fn read_curve<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    Ok(parse(&read_regular(path)?).at_file(path)?.into_iter().map(|(point, _)| point).collect())
}

/// The measurements of a curve's whole lines, each with the bytes up to its end.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<Vec<(T, usize)>> {
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
    let (mut points, mut end) = (Vec::new(), 0);
    for (i, line) in text[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
        end += line.len();
        let point = serde_json::from_slice(line)
            .map_err(|e| Error::input(format!("not a measurement: {e}")).at(format!("line {}", i + 1)))?;
        points.push((point, end));
    }
    Ok(points)
}

/// Appends to a curve.
#[derive(Debug)]
pub struct CurveWriter {
    path: PathBuf,
    file: File,
}

impl CurveWriter {
    /// Goes on with a curve, as it was when the training was at step `iteration` and nothing was measured there: what was
    /// measured later is measured again.
    ///
    /// # Errors
    /// Io where the file cannot be written, Input where it is no curve.
    pub fn open(path: &Path, iteration: u64) -> Result<Self> {
        check_target(path, true)?;
        let text = if path.exists() { read_regular(path)? } else { Vec::new() };
        let points = parse::<CurvePoint>(&text).at_file(path)?;
        let kept = points.iter().take_while(|(point, _)| point.iteration < iteration).last();
        Self::cut(path, kept.map_or(0, |(_, end)| *end))
    }

    /// Goes on with a log after so many lines: what came later comes again.
    ///
    /// # Errors
    /// Io where the file cannot be written, Usage where it has fewer lines.
    pub fn after(path: &Path, lines: usize) -> Result<Self> {
        check_target(path, true)?;
        let text = if path.exists() { read_regular(path)? } else { Vec::new() };
        let ends: Vec<usize> = (1..=text.len()).filter(|&end| text[end - 1] == b'\n').collect();
        let end = match lines.checked_sub(1) {
            None => Some(0),
            Some(last) => ends.get(last).copied(),
        };
        let end = end.ok_or_else(|| {
            let found = ends.len();
            Error::usage(format!(
                "has {found} of the {lines} lines that the training has written: name the log that it began with, or \
                 remove the file of the training in progress to begin anew"
            ))
            .at_file(path)
        })?;
        Self::cut(path, end)
    }

    /// Opens a file to be written after its first bytes; the others are dropped.
    fn cut(path: &Path, end: usize) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io)?;
        file.set_len(end as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(CurveWriter { path: path.to_path_buf(), file })
    }

    /// Appends a measurement.
    ///
    /// # Errors
    /// Io where the file cannot be written.
    pub fn append(&mut self, point: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(point).map_err(|e| Error::internal(e.to_string()))? + "\n";
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }

    /// Sees to it that what was appended is on the disk.
    ///
    /// # Errors
    /// Io where it cannot be.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(iteration: u64) -> CurvePoint {
        let measures = vec![Measure { name: "cross-entropy".into(), value: f64::NAN, standard_error: 0.5 }];
        CurvePoint { iteration, on: MeasuredOn::Test, measures }
    }

    #[test]
    fn a_curve_goes_on_where_its_training_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.jsonl");
        let mut writer = CurveWriter::open(&path, 0).unwrap();
        (0..5).for_each(|i| writer.append(&point(i)).unwrap());
        let whole = std::fs::read(&path).unwrap();
        // Torn, and further than the training was saved.
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut writer = CurveWriter::open(&path, 3).unwrap();
        writer.sync().unwrap();
        assert_eq!(read_curve::<CurvePoint>(&path).unwrap().len(), 3);
        (3..5).for_each(|i| writer.append(&point(i)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(read_curve::<CurvePoint>(&path).unwrap()[4].iteration, 4);

        std::fs::write(&path, "{}\n").unwrap();
        let message = CurveWriter::open(&path, 3).unwrap_err().to_string();
        assert!(message.contains("line 1") && message.contains("curve.jsonl"), "{message}");
    }

    #[test]
    fn a_log_goes_on_after_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.jsonl");
        let measured = Logged::Measured { on: MeasuredOn::Training, measures: point(3).measures };
        let line = |what| LogLine { iteration: 3, what, rate: 0.01, sparsity: 0.5 };
        let lines = [line(measured), line(Logged::Changed { event: Event::Pruned })];
        let mut writer = CurveWriter::after(&path, 0).unwrap();
        lines.iter().for_each(|line| writer.append(line).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(
            text.ends_with("{\"iteration\":3,\"event\":\"pruned\",\"rate\":0.01,\"sparsity\":0.5}\n"),
            "{text}"
        );
        let found = read_curve::<LogLine>(&path).unwrap();
        assert_eq!(found[1], lines[1]);
        // NaN is no number, also in a log.
        assert!(matches!(&found[0].what, Logged::Measured { measures, .. } if measures[0].value.is_nan()));

        // A line may be torn, or further than the training was saved.
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        CurveWriter::after(&path, 1).unwrap().append(&lines[1]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let message = CurveWriter::after(&path, 3).unwrap_err().to_string();
        assert!(message.contains("2 of the 3 lines") && message.contains("began with"), "{message}");
    }
}
