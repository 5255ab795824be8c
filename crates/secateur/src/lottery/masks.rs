//! The masks of levels: those of tickets, and random ones of as many weights.

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use secateur_model::model::{Storage, StoredTensor};
use secateur_model::{DType, Data, Model, Patch, Result, io};

use super::options::Rewind;
use super::{Experiment, Kind, Task};
use crate::calib;
use crate::progress::Silent;
use crate::prune::masks::Masks as StoredMasks;
use crate::prune::{self, Allocation, Amount, Mask, Method, Override, PruneOptions, Pruning, Scope, Subject};
use crate::random::Stream;
use crate::train::Masks;

/// The file of a training with its masks.
pub(super) const MASK_FILE: &str = "mask.safetensors";

/// The masks of a training, found from the ticket of the level before it.
///
/// # Errors
/// Where that was not trained, or its weights cannot be pruned as asked.
pub(super) fn of(experiment: &Experiment<'_>, task: Task) -> Result<Masks> {
    let Some(before) = task.level.checked_sub(1) else { return Ok(experiment.base.clone()) };
    let parent = Task { kind: Kind::Ticket, level: before, seed: task.seed };
    let trained = experiment.written(parent, super::training::TRAINED_FILE)?;
    let base = match before {
        0 => experiment.base.clone(),
        _ => read(&experiment.folder_of(parent).join(MASK_FILE), &trained)?,
    };
    let subject = Subject::of(&trained);
    let seed = Stream::seed_of(task.seed, "pruning");
    let options = PruneOptions { of_remaining: true, seed, ..experiment.options.prune.clone() };
    let data = experiment.options.calibrate.as_ref();
    let evidence = calib::evidence(&trained, &base, [&options], data, &Silent)?;
    let ticket = calib::plan(&trained, &subject, &options, &base, &evidence)?;
    if task.kind != Kind::Random {
        return ticket.joined(&base);
    }
    // Where kept weights stay as they are trained, those that the parent pruned are zeros and stay so.
    let (base, model) = match experiment.options.rewind {
        Rewind::To(_) => {
            let dense = Task { level: 0, ..parent };
            (experiment.base.clone(), experiment.written(dense, super::training::INITIAL_FILE)?)
        }
        Rewind::LearningRate | Rewind::Nothing => (base, trained.clone()),
    };
    let subject = Subject::of(&model);
    let options = random(&options, &ticket, Stream::seed_of(task.seed, "random pruning"))?;
    prune::plan_on(&subject, &options, &base)?.joined(&base)
}

/// Options that prune as many of each layer as a ticket, at random.
fn random(options: &PruneOptions, ticket: &Pruning, seed: u64) -> Result<PruneOptions> {
    let overrides = ticket.layers.iter().zip(&ticket.masks).map(|(layer, (_, mask))| {
        let (pruned, size) = match layer.channels {
            Some(channels) => (channels.pruned, channels.size),
            None => (mask.pruned(), mask.len()),
        };
        Override { name: layer.tensor.clone(), sparsity: pruned as f64 / size.max(1) as f64 }
    });
    let drawn: Method = "random".parse()?;
    let method = Method {
        pattern: options.method.pattern,
        scope: Scope::Layer,
        allocation: Allocation::Uniform,
        ..drawn
    };
    let overrides = overrides.collect();
    Ok(PruneOptions {
        overrides,
        of_remaining: false,
        seed,
        scores: None,
        ..options.with(method, Amount::Sparsity(0.0))
    })
}

/// Writes masks, each under the name of its tensor: 1 for what is kept.
///
/// # Errors
/// Where the file cannot be written.
pub(super) fn write(path: &Path, masks: &Masks, model: &Model) -> Result<()> {
    let mut tensors = IndexMap::new();
    for (id, mask) in masks {
        let StoredTensor { path, shape, .. } = model.tensor(*id).clone();
        let storage = Storage::Data(Arc::new(Data::U8(mask.iter().map(u8::from).collect())));
        tensors.insert(path.clone(), StoredTensor { path, dtype: DType::U8, shape, storage });
    }
    let model = Model { tensors, graph: None, path: None, source: io::Source::memory() };
    io::write(&model, &Patch::new(), &[], path, io::WriteOptions { overwrite: true })?;
    Ok(())
}

/// Reads masks of a model's tensors.
///
/// # Errors
/// Where the file cannot be read or does not fit the model.
pub(super) fn read(path: &Path, model: &Model) -> Result<Masks> {
    let mut masks = StoredMasks::default();
    masks.intersect_file(path, model)?;
    Ok(masks.masks)
}

/// A patch that makes what masks prune zero, in a model with changes.
///
/// # Errors
/// Where a tensor cannot be read.
pub(super) fn applied(masks: &Masks, model: &Model, patch: &mut Patch) -> Result<()> {
    for (&id, mask) in masks {
        let tensor = patch.load(model, id)?;
        let (shape, mut data) = tensor.into_parts();
        mask.apply(&mut data)?;
        patch.set(id, secateur_model::Tensor::from_data(shape, data)?);
    }
    patch.spread(model);
    Ok(())
}

/// How many of the weights of each layer are kept, in the model's order: of all that can be pruned.
///
/// # Errors
/// Where the model cannot be analysed.
pub(super) fn counts(experiment: &Experiment<'_>, masks: &Masks) -> Result<Vec<super::LayerCount>> {
    let subject = Subject::of(&experiment.model);
    let prune = &experiment.options.prune;
    let views = prune.selector.select(subject.model, prune.entries(&subject)?)?;
    let count = |view: &secateur_model::prunable::PrunableView| {
        let stored = subject.model.tensor(view.tensor);
        let kept = masks.get(&view.tensor).map_or(stored.len(), |mask: &Arc<Mask>| mask.kept());
        super::LayerCount { name: stored.path.clone(), kept, size: stored.len() }
    };
    Ok(views.iter().map(count).collect())
}
