//! A training in progress as a file, to go on from.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use secateur_model::model::{Storage, StoredTensor};
use secateur_model::{Data, Error, Model, Patch, Result, ResultExt, Tensor, TensorId, io};

use super::{Masks, Trainer};
use crate::prune::Mask;

/// The keys of the metadata: the number of steps, and what is written beside by whoever trains.
const STEP: &str = "secateur.train.step";
const RECORD: &str = "secateur.train.record";

/// The shortest and the longest time between two saves of a training in progress.
const SAVED_EVERY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(45)];

/// Between saves a training runs this many times as long as a save takes.
const SAVING_SHARE: u32 = 20;

/// When a training in progress is saved.
pub(crate) struct Pace {
    saved: Instant,
    pause: Duration,
}

impl Pace {
    /// That of a training that begins.
    pub(crate) fn new() -> Self {
        Pace { saved: Instant::now(), pause: SAVED_EVERY[0] }
    }

    /// Saves where it is time to.
    ///
    /// # Errors
    /// Those of `save`.
    pub(crate) fn keep(&mut self, save: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.saved.elapsed() >= self.pause {
            let started = Instant::now();
            save()?;
            self.saved = Instant::now();
            self.pause = (SAVING_SHARE * started.elapsed()).clamp(SAVED_EVERY[0], SAVED_EVERY[1]);
        }
        Ok(())
    }
}

/// What a training was saved with.
pub struct Resumed {
    /// The masks that hold.
    pub masks: Masks,
    /// The other weights, with their masks.
    pub other: Option<(Patch, Masks)>,
    /// The text.
    pub record: String,
}

impl Trainer {
    /// Writes variables, masks, running statistics and what the optimiser keeps, with other weights and a text of whoever
    /// trains. The file appears as a whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path, other: Option<(&Patch, &Masks)>, record: &str) -> Result<()> {
        let mut tensors = IndexMap::new();
        let mut put = |name: String, data: Data| {
            let (dtype, shape) = (data.dtype(), vec![data.len()]);
            let storage = Storage::Data(Arc::new(data));
            tensors.insert(name.clone(), StoredTensor { path: name, dtype, shape, storage });
        };
        for (place, variable) in self.variables.iter().enumerate() {
            let path = &self.masters.model().tensor(variable.id).path;
            put(format!("weights/{path}"), Data::F32(self.tape.values(place)?.to_vec()));
            if let Some(kept) = &variable.kept {
                put(format!("kept/{path}"), Data::U8(kept.iter().map(|&kept| kept as u8).collect()));
            }
            for (name, values) in self.optimiser.state().iter().zip(&variable.state) {
                put(format!("{name}/{path}"), Data::F32(values.clone()));
            }
        }
        for (id, tensor) in self.tape.statistics() {
            let name = format!("statistics/{}", self.masters.model().tensor(id).path);
            put(name, Data::F32(tensor.values::<f32>()?.to_vec()));
        }
        if let Some((patch, masks)) = other {
            let path = |id: TensorId| &self.masters.model().tensor(id).path;
            for id in patch.ids() {
                let values = patch.load(self.masters.model(), id)?.to_f32s()?;
                put(format!("other/{}", path(id)), Data::F32(values));
            }
            for (id, mask) in masks {
                let kept = (0..mask.len()).map(|i| u8::from(mask.keeps(i))).collect();
                put(format!("other-kept/{}", path(*id)), Data::U8(kept));
            }
        }
        let model = Model { tensors, graph: None, path: None, source: io::Source::memory() };
        let metadata = [(STEP.to_string(), self.step.to_string()), (RECORD.to_string(), record.to_string())];
        io::write(&model, &Patch::new(), &metadata, path, io::WriteOptions { overwrite: true })?;
        Ok(())
    }

    /// Goes on from a file that [`Trainer::save`] wrote; gives what was written besides.
    ///
    /// # Errors
    /// Where the file cannot be read or is not of this training.
    pub fn resume(&mut self, path: &Path) -> Result<Resumed> {
        let saved = io::read(path)?;
        self.load(&saved).at_file(path)
    }

    fn load(&mut self, saved: &Model) -> Result<Resumed> {
        let metadata = saved.source.metadata();
        let get = |key: &str| metadata.iter().find(|(own, _)| *own == key).map(|(_, value)| value.clone());
        let step = get(STEP).and_then(|text| text.parse().ok());
        let step =
            step.ok_or_else(|| Error::input("is no training in progress: it has no number of steps"))?;
        let values = |name: String, len: usize| -> Result<Vec<f32>> {
            let stored = saved.tensors.get(&name);
            let stored =
                stored.ok_or_else(|| Error::input(format!("lacks `{name}`: it is of another training")))?;
            let values = stored.load()?.to_f32s()?;
            match values.len() == len {
                true => Ok(values),
                false => Err(Error::input(format!("`{name}` has {} elements, expected {len}", values.len()))),
            }
        };
        for (place, variable) in self.variables.iter_mut().enumerate() {
            let path = &self.masters.model().tensor(variable.id).path;
            let (weights, _) = self.tape.update(place)?;
            weights.copy_from_slice(&values(format!("weights/{path}"), weights.len())?);
            for (name, state) in self.optimiser.state().iter().zip(&mut variable.state) {
                *state = values(format!("{name}/{path}"), state.len())?;
            }
        }
        let statistics: Vec<_> =
            self.tape.statistics().map(|(id, tensor)| (id, tensor.shape().to_vec())).collect();
        for (id, shape) in statistics {
            let name = format!("statistics/{}", self.masters.model().tensor(id).path);
            let values = values(name, shape.iter().product())?;
            self.tape.set_statistics(id, Tensor::new(shape, values)?)?;
        }
        let mask = |name: &str, stored: &StoredTensor| -> Result<Option<Arc<Mask>>> {
            let Some(kept) = saved.tensors.get(&format!("{name}/{}", stored.path)) else { return Ok(None) };
            let kept = kept.load()?.to_i64s()?;
            match kept.len() == stored.len() {
                true => Ok(Some(Arc::new(Mask::from_fn(kept.len(), |i| kept[i] != 0)))),
                false => {
                    let (path, found) = (&stored.path, kept.len());
                    Err(Error::input(format!("the mask of `{path}` has {found} elements")))
                }
            }
        };
        let mut masks = Masks::new();
        let mut other: Option<(Patch, Masks)> = None;
        for (id, stored) in (0..).map(TensorId).zip(self.masters.model().tensors.values()) {
            masks.extend(mask("kept", stored)?.map(|mask| (id, mask)));
            if let Some(values) = saved.tensors.get(&format!("other/{}", stored.path)) {
                let values = Tensor::new(stored.shape.clone(), values.load()?.to_f32s()?)?;
                let (patch, masks) = other.get_or_insert_with(|| (Patch::by("training"), Masks::new()));
                self.masters.store(id, &values, patch)?;
                masks.extend(mask("other-kept", stored)?.map(|mask| (id, mask)));
            }
        }
        self.set_masks(&masks)?;
        self.step = step;
        Ok(Resumed { masks, other, record: get(RECORD).unwrap_or_default() })
    }
}
