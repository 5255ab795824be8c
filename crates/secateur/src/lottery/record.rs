//! What came of trainings, as it is kept and read back.

use std::path::{Path, PathBuf};

use secateur_model::{Error, Result, ResultExt, io};
use serde::{Deserialize, Serialize};

use super::options::Rewind;
use crate::format;
use crate::records::{CurvePoint, read_curve};
use crate::train::Init;

/// The file of a training with what came of it.
pub(super) const LEVEL_FILE: &str = "level.json";
/// The file of a training with what was measured on the way.
pub(super) const CURVE_FILE: &str = "curve.jsonl";
/// The file of an experiment: a header, then what came of each training.
pub const RESULTS_FILE: &str = "results.jsonl";

/// The longest record that is read.
const MOST_BYTES: u64 = 1 << 24;

/// What a training starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Kept weights put back to those of the dense network; at level 0 the dense network itself.
    Ticket,
    /// The ticket's mask, weights drawn anew.
    Reinitialised,
    /// The ticket's weights, a random mask.
    Random,
}

impl Kind {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ticket => "ticket",
            Kind::Reinitialised => "reinitialised",
            Kind::Random => "random pruning",
        }
    }
}

/// How many of a layer's weights are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCount {
    /// Path of the tensor.
    pub name: String,
    /// Weights that the mask keeps.
    pub kept: usize,
    /// All of them.
    pub size: usize,
}

/// A training at one of its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// On the validation data.
    pub validation: CurvePoint,
    /// On the test data, where there are any.
    pub test: Option<CurvePoint>,
}

impl Stop {
    /// Steps so far.
    pub fn iteration(&self) -> u64 {
        self.validation.iteration
    }

    /// What is reported: the measures of the test data where there are any.
    pub fn reported(&self) -> &CurvePoint {
        self.test.as_ref().unwrap_or(&self.validation)
    }
}

/// What came of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// The name of its folder: the hash of its settings.
    pub id: String,
    /// What it started from.
    pub kind: Kind,
    /// How many times its mask was pruned.
    pub level: u64,
    /// The seed of the replicate.
    pub seed: u64,
    /// The layers that are pruned.
    pub layers: Vec<LayerCount>,
    /// Where the validation loss is least, the first time.
    pub early_stop: Stop,
    /// At the end.
    pub last: Stop,
    /// What was measured on the way.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
}

/// What messages call a training.
pub(super) fn name(kind: Kind, level: u64, levels: u64, seed: u64) -> String {
    match level {
        0 => format!("dense, seed {seed}"),
        _ => format!("level {level} of {levels}, {}, seed {seed}", kind.name()),
    }
}

impl Level {
    /// The share of weights that are kept.
    pub fn remaining(&self) -> f64 {
        let (kept, size) = self.layers.iter().fold((0, 0), |(k, s), layer| (k + layer.kept, s + layer.size));
        kept as f64 / size.max(1) as f64
    }

    /// A line of a log.
    pub(super) fn in_words(&self, levels: u64) -> String {
        let stop = self.early_stop.reported();
        let accuracy = match stop.value("top1") {
            Some(value) => format!("top-1 {:.2} %", 100.0 * value),
            None => format!("loss {:.4}", stop.loss()),
        };
        format!(
            "{}: {} of the weights, early stop at {}, {accuracy} there",
            name(self.kind, self.level, levels, self.seed),
            format::percent(self.remaining()),
            format::grouped(self.early_stop.iteration() as i64),
        )
    }

    /// Reads what came of a training from its folder.
    ///
    /// # Errors
    /// Where a file cannot be read or is damaged.
    pub(super) fn read(folder: &Path) -> Result<Level> {
        let path = folder.join(LEVEL_FILE);
        let text = io::read_small_text(&path, MOST_BYTES)?;
        let level: Level = serde_json::from_str(&text).map_err(|e| {
            Error::input(format!("is damaged: {e}; remove the folder to train again")).at_file(&path)
        })?;
        Ok(Level { curve: read_curve(&folder.join(CURVE_FILE))?, ..level })
    }

    /// Writes it; a training with this file is done.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::internal(e.to_string()))? + "\n";
        write_text(&folder.join(LEVEL_FILE), &text)
    }
}

/// Writes a text under a name as a whole or not at all.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    io::write_file(path, true, |out| out.write_all(text.as_bytes()).map_err(|e| Error::io(path, e)))
}

/// What is known of an experiment besides its trainings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The network, or the file name of the model.
    pub model: String,
    /// The data in words.
    pub data: String,
    /// Samples of training, validation and test.
    pub samples: [usize; 3],
    /// Steps of a training of the dense network.
    pub steps: u64,
    /// The method that prunes.
    pub method: String,
    /// The share of what remains that each level prunes.
    pub rate: f64,
    /// What becomes of the kept weights.
    pub rewind: Rewind,
    /// What the dense network begins with.
    pub init: Init,
    /// The recipe: exactly what the flags said.
    pub recipe: serde_json::Value,
    /// The version of secateur.
    pub version: String,
}

/// A line of the results.
#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line {
    Lottery(Box<Header>),
    Level(Box<Level>),
}

/// An experiment whose trainings are done.
#[derive(Clone, Debug)]
pub struct Lottery {
    /// Its folder.
    pub folder: PathBuf,
    /// What is known of it.
    pub header: Header,
    /// By kind, level and seed.
    pub levels: Vec<Level>,
}

impl Lottery {
    /// Writes the results beside the trainings.
    pub(super) fn written(self) -> Result<Self> {
        let header = Line::Lottery(Box::new(self.header.clone()));
        let lines = self.levels.iter().map(|level| Line::Level(Box::new(level.clone())));
        let mut text = String::new();
        for line in std::iter::once(header).chain(lines) {
            text += &serde_json::to_string(&line).map_err(|e| Error::internal(e.to_string()))?;
            text.push('\n');
        }
        write_text(&self.folder.join(RESULTS_FILE), &text)?;
        Ok(self)
    }

    /// Reads an experiment that is done.
    ///
    /// # Errors
    /// Where a file cannot be read or is damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(RESULTS_FILE);
        let text = io::read_regular(&path)?;
        let (mut header, mut levels) = (None, Vec::new());
        for (i, line) in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let line = serde_json::from_slice(line)
                .map_err(|e| Error::input(format!("not a record of an experiment: {e}")))
                .at(|| format!("line {}", i + 1))
                .at_file(&path)?;
            match line {
                Line::Lottery(found) => header = Some(*found),
                Line::Level(level) => {
                    let curve = read_curve(&folder.join(&level.id).join(CURVE_FILE))?;
                    levels.push(Level { curve, ..*level });
                }
            }
        }
        let header = header.ok_or_else(|| Error::input("lacks its header").at_file(&path))?;
        Ok(Lottery { folder: folder.to_path_buf(), header, levels })
    }
}
