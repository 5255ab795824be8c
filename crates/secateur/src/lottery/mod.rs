//! Lottery tickets: train from an initialisation, prune, put the kept weights back, repeat (Frankle and Carbin 2019).
//!
//! A training is the dense network, a ticket of a level, or one of its controls: the ticket's mask with another
//! initialisation, or the ticket's initialisation with a random mask of as many weights in each layer. Each has a folder,
//! named by the hash of its settings: the same training is never done twice, and one that was interrupted goes on.
//! Trainings that do not depend on each other run side by side, one thread each.
//!
//! | file of a training | holds |
//! |---|---|
//! | `settings.json` | what the folder is named after |
//! | `mask.safetensors` | 1 for weights that are kept; not there where all are |
//! | `initial.onnx`, `trained.onnx` | the model before and after training |
//! | `rewind.onnx` | of the dense network: the model at the step that tickets are put back to, where that is not the first |
//! | `curve.jsonl` | what was measured on the way: see [`CurvePoint`](crate::records::CurvePoint) |
//! | `level.json` | what came of it: see [`Level`]; written last |

mod masks;
mod options;
mod queue;
mod record;
mod settings;
#[cfg(test)]
mod tests;
mod training;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secateur_model::{Error, Model, Patch, Result, io};

pub use options::{Control, LotteryOptions, Rewind};
pub use record::{Header, Kind, LayerCount, Level, Lottery, RESULTS_FILE, Stop};

use crate::calib;
use crate::data::Batches;
use crate::eval::evaluate::Evaluator;
use crate::progress::Progress;
use crate::prune::Subject;
use crate::schedule::Extent;
use crate::train::{Init, Masks, Masters, Variables, held};
use settings::Settings;

/// A training: what starts it, which level, which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    kind: Kind,
    level: u64,
    seed: u64,
}

/// What all trainings of a command share.
struct Experiment<'a> {
    options: &'a LotteryOptions,
    model: Arc<Model>,
    variables: Variables,
    /// The masks that the model itself comes with: of the file's own zeros, where its weights are the initialisation.
    base: Masks,
    settings: Settings,
    batches: Batches,
    validation: Evaluator,
    test: Option<Evaluator>,
    extent: Extent,
    folder: PathBuf,
    progress: &'a dyn Progress,
}

/// Runs what is not done yet of an experiment, in a folder, and gives all of it.
///
/// `model` is a graph with or without weights of its own; `header` says what is recorded of it besides.
///
/// # Errors
/// Where options contradict each other or data do not fit; `Usage` where another process works in the folder; those of
/// trainings, with the level and the seed.
pub fn lottery(
    model: &Arc<Model>,
    options: &LotteryOptions,
    header: Header,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Lottery> {
    options.check()?;
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let _lock = locked(folder)?;
    let experiment = Experiment::new(model, options, folder, progress)?;
    experiment.variables.notes.iter().for_each(|note| progress.note(note));
    let header = Header { steps: experiment.extent.steps, samples: experiment.samples(), ..header };
    experiment.run(&header)
}

/// Holds a folder as long as the file lives, so that two commands never train the same.
fn locked(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::usage("another process works in this folder; wait for it or name another")
                .at_file(&path))
        }
        // Some file systems have no locks; the results are still right where nobody else writes.
        Err(fs::TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
        Ok(()) => Ok(file),
    }
}

impl<'a> Experiment<'a> {
    fn new(
        model: &Arc<Model>,
        options: &'a LotteryOptions,
        folder: &Path,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        calib::check_data(model, &options.prune.method, options.calibrate.as_ref())?;
        let masters = Masters::of(model, &Masks::new())?;
        let subject = Subject::of(masters.in_f32());
        let variables = Variables::of(&subject, &options.train.train, &options.train.freeze)?;
        let own = if options.keeps_file() {
            held(&subject, &Masks::new(), &variables.tensors)?
        } else {
            Masks::new()
        };
        let batches = options.data.batches(model)?;
        let steps_of_epoch = batches.samples() as u64 / options.train.batch as u64;
        let extent =
            Extent { steps: options.train.length.iterations(steps_of_epoch), of_epoch: steps_of_epoch };
        options.check_extent(extent)?;
        let evaluator = |data: &crate::eval::evaluate::EvalOptions, what: &str| -> Result<Evaluator> {
            let evaluator = Evaluator::new(model, data, None)?;
            if !evaluator.has_labels() {
                return Err(Error::usage(format!("the {what} data have no labels")));
            }
            Ok(match options.limits {
                Some(limits) => evaluator.within(limits),
                None => evaluator,
            })
        };
        let validation = evaluator(&options.validation, "validation")?;
        let test = options.test.as_ref().map(|data| evaluator(data, "test")).transpose()?;
        Ok(Experiment {
            options,
            model: model.clone(),
            variables,
            base: own,
            settings: Settings::new(model, options)?,
            batches,
            validation,
            test,
            extent,
            folder: folder.to_path_buf(),
            progress,
        })
    }

    fn samples(&self) -> [usize; 3] {
        let test = self.test.as_ref().map_or(0, Evaluator::samples);
        [self.batches.samples(), self.validation.samples(), test]
    }

    /// All trainings, tickets first: others wait for them.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let seeds = || self.options.replicates();
        for level in 0..=self.options.levels {
            tasks.extend(seeds().map(|seed| Task { kind: Kind::Ticket, level, seed }));
        }
        for level in 1..=self.options.levels {
            for &control in &self.options.controls {
                tasks.extend(seeds().map(|seed| Task { kind: control.kind(), level, seed }));
            }
        }
        tasks
    }

    fn run(&self, header: &Header) -> Result<Lottery> {
        let tasks = self.tasks();
        let mut todo: Vec<Task> = Vec::new();
        let mut steps = 0;
        for &task in &tasks {
            if !self.folder_of(task).join(record::LEVEL_FILE).exists() {
                todo.push(task);
                steps += self.extent.steps - self.first_step(task);
            }
        }
        let done = tasks.len() - todo.len();
        if done > 0 {
            self.progress.note(&format!("{done} of {} trainings are done already", tasks.len()));
        }
        self.progress.begin("training", steps);
        let finished = Mutex::new(done);
        let after = |task: &Task| {
            let parent = Task { kind: Kind::Ticket, level: task.level.checked_sub(1)?, seed: task.seed };
            todo.iter().position(|other| *other == parent)
        };
        let waits: Vec<Option<usize>> = todo.iter().map(after).collect();
        queue::run(&waits, rayon::current_num_threads(), &|at, stop| {
            let task = todo[at];
            let Some(level) = training::run(self, task, stop).map_err(|e| e.at(self.name_of(task)))? else {
                return Ok(());
            };
            let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
            *finished += 1;
            self.progress.note(&format!(
                "{}/{}: {}",
                *finished,
                tasks.len(),
                level.in_words(self.options.levels)
            ));
            Ok(())
        })?;
        let mut levels = Vec::new();
        for &task in &tasks {
            levels.push(Level::read(&self.folder_of(task))?);
        }
        levels.sort_by_key(|level| (level.kind, level.level, level.seed));
        Lottery { folder: self.folder.clone(), header: header.clone(), levels }.written()
    }

    fn folder_of(&self, task: Task) -> PathBuf {
        self.folder.join(self.settings.of(task).id)
    }

    /// The step that a training begins at.
    fn first_step(&self, task: Task) -> u64 {
        match self.options.rewind {
            Rewind::To(length) if task.level > 0 && task.kind != Kind::Reinitialised => {
                length.iterations(self.extent.of_epoch)
            }
            _ => 0,
        }
    }

    /// What messages call a training.
    fn name_of(&self, task: Task) -> String {
        record::name(task.kind, task.level, self.options.levels, task.seed)
    }

    /// The weights that a training draws.
    fn initial(&self, task: Task) -> Result<Patch> {
        let masters = Masters::of(&self.model, &self.base)?;
        let init = match (task.kind, self.options.init) {
            // What the file has once cannot be drawn anew.
            (Kind::Reinitialised, Init::File) => Init::default(),
            (_, init) => init,
        };
        let found = init.apply(&masters, &self.variables, settings::seed_of_weights(task))?;
        if task.level == 0 {
            found.notes.iter().for_each(|note| self.progress.note(note));
        }
        Ok(found.patch)
    }

    /// A model that another training wrote.
    fn written(&self, task: Task, file: &str) -> Result<Arc<Model>> {
        Ok(Arc::new(io::read(self.folder_of(task).join(file))?))
    }
}
