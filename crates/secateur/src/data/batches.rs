//! Batches of preprocessed samples, decoded ahead of time.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use secateur_model::text::quoted;
use secateur_model::{Element, Error, Result, ResultExt, Tensor, with_elements};
use secateur_runtime::InputInfo;

use super::dataset::{Dataset, Value};
use super::input::InputSpec;
use super::preprocess::Preprocess;
use super::sampling::Sampling;

/// The batch size where neither the user nor the model sets one.
const DEFAULT_BATCH: usize = 32;

/// Up to this many bytes of preprocessed batches are cached for the next pass.
const CACHE_BYTES: usize = 2 << 30;

/// A batch: the samples for one run of the model.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The model's inputs by name, the samples along the first axis. Where the model fixes the batch
    /// and fewer samples are left, the last is repeated: rows beyond [`Batch::indices`] are padding.
    pub inputs: Vec<(String, Tensor)>,
    /// The labels `[samples, …]` without padding, where the data have labels: i64 classes or f32
    /// targets.
    pub labels: Option<Tensor>,
    /// The samples' indices in the data set.
    pub indices: Vec<usize>,
}

impl Batch {
    /// The number of rows of each input, padding included.
    pub fn rows(&self) -> usize {
        self.inputs.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(0)
    }

    /// The inputs in the order of these, by their names.
    pub fn tensors(&self, inputs: &[InputInfo]) -> Vec<Tensor> {
        let by_name = |name: &str| self.inputs.iter().find(|(own, _)| own == name).map(|(_, t)| t.clone());
        inputs.iter().filter_map(|info| by_name(&info.name)).collect()
    }
}

/// The batches of a data set for a model's inputs; every pass gives the same ones in the same order. Clones share what is
/// cached.
#[derive(Clone)]
pub struct Batches {
    pub(super) inner: Arc<Inner>,
}

/// What is done to a sample, by its index, before it is preprocessed.
pub(super) type Change<'a> = dyn Fn(usize, Vec<Value>) -> Result<Vec<Value>> + Sync + 'a;

pub(super) struct Inner {
    dataset: Box<dyn Dataset>,
    preprocess: Preprocess,
    inputs: Vec<InputSpec>,
    /// For each input the position of its value in a sample.
    routes: Vec<usize>,
    /// The shape of a sample for each input.
    shapes: Vec<Vec<usize>>,
    pub(super) indices: Vec<usize>,
    pub(super) batch: usize,
    /// Whether the last batch is padded.
    pub(super) fixed: bool,
    /// The first batches, kept once they have been made; as many as fit [`CACHE_BYTES`].
    cache: Vec<OnceLock<Batch>>,
    /// The preprocessed samples by their index, kept once they have been made: training puts them together anew in each
    /// epoch. Empty where they would take more than [`CACHE_BYTES`].
    samples: OnceLock<Vec<OnceLock<Vec<Tensor>>>>,
    /// Bytes of a preprocessed sample.
    bytes: usize,
}

impl Batches {
    /// Prepares batches of `dataset` for a model with these inputs, and tries the first sample.
    ///
    /// # Errors
    /// Where the data set is empty, an input has no values, the batch size is not the one the model fixes,
    /// or the first sample does not fit the inputs.
    pub fn new(
        dataset: Box<dyn Dataset>,
        preprocess: Preprocess,
        inputs: Vec<InputSpec>,
        sampling: &Sampling,
    ) -> Result<Self> {
        preprocess.check()?;
        if dataset.is_empty() {
            return Err(Error::input("the data set has no samples"));
        }
        let routes = route(&inputs, dataset.input_names())?;
        let fixed = fixed_batch(&inputs)?;
        let batch = match (sampling.batch, fixed) {
            (Some(0), _) => return Err(Error::usage("option `batch` is 0: a batch has at least one sample")),
            (Some(asked), Some(fixed)) if asked != fixed => {
                return Err(Error::usage(format!("the model takes batches of {fixed} only, not of {asked}")));
            }
            (asked, fixed) => fixed.or(asked).unwrap_or(DEFAULT_BATCH),
        };
        let indices = sampling.indices(dataset.len())?;
        let mut inner = Inner {
            dataset,
            preprocess,
            inputs,
            routes,
            shapes: Vec::new(),
            indices,
            batch,
            fixed: fixed.is_some(),
            cache: Vec::new(),
            samples: OnceLock::new(),
            bytes: 0,
        };
        let first = inner.sample(inner.indices[0])?;
        inner.shapes = first.iter().map(|t| t.shape().to_vec()).collect();
        inner.bytes = first.iter().map(|t| t.len() * t.dtype().bits() / 8).sum();
        let kept = CACHE_BYTES / inner.bytes.saturating_mul(batch).max(1);
        inner.cache = (0..kept.min(inner.count())).map(|_| OnceLock::new()).collect();
        Ok(Batches { inner: Arc::new(inner) })
    }

    /// The number of batches.
    pub fn len(&self) -> usize {
        self.inner.count()
    }

    /// Always false: there is at least one batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of samples.
    pub fn samples(&self) -> usize {
        self.inner.indices.len()
    }

    /// The number of samples in a batch.
    pub fn batch(&self) -> usize {
        self.inner.batch
    }

    /// How samples become inputs.
    pub fn preprocess(&self) -> &Preprocess {
        &self.inner.preprocess
    }

    /// The first sample as a batch: of as many rows as the model fixes, or of one.
    ///
    /// # Errors
    /// Where the sample cannot be read.
    pub fn first(&self) -> Result<Vec<(String, Tensor)>> {
        let Inner { inputs, indices, fixed, batch, .. } = &*self.inner;
        let rows = if *fixed { *batch } else { 1 };
        let sample = self.inner.sample(indices[0])?;
        inputs
            .iter()
            .zip(&sample)
            .map(|(i, tensor)| Ok((i.name.clone(), stack(&vec![tensor; rows])?)))
            .collect()
    }

    /// The data set.
    pub fn dataset(&self) -> &dyn Dataset {
        self.inner.dataset.as_ref()
    }

    /// Whether the data have labels.
    ///
    /// # Errors
    /// Where the first label cannot be read.
    pub fn has_labels(&self) -> Result<bool> {
        Ok(self.inner.dataset.label(self.inner.indices[0])?.is_some())
    }

    /// The samples of a batch as batches of their own: of as many rows as the model fixes, all of them the sample, or of
    /// one.
    ///
    /// # Errors
    /// Where a tensor cannot be divided.
    pub fn singly(&self, batch: &Batch) -> Result<Vec<Batch>> {
        let rows = if self.inner.fixed { self.inner.batch } else { 1 };
        let single = |at: usize, index: usize| {
            let repeated =
                |(name, tensor): &(String, Tensor)| Ok((name.clone(), repeated_row(tensor, at, rows)?));
            let labels = batch.labels.as_ref().map(|labels| repeated_row(labels, at, 1)).transpose()?;
            let inputs = batch.inputs.iter().map(repeated).collect::<Result<_>>()?;
            Ok(Batch { inputs, labels, indices: vec![index] })
        };
        batch.indices.iter().enumerate().map(|(at, &index)| single(at, index)).collect()
    }

    /// One pass over the batches. Those that are not cached are made on another thread, a few batches
    /// ahead; the samples of a batch are decoded in parallel.
    pub fn iter(&self) -> BatchIter {
        let inner = &self.inner;
        let kept = inner.cache.iter().take_while(|b| b.get().is_some()).count();
        let ahead = (kept < inner.count()).then(|| produce(inner.clone(), kept));
        BatchIter { inner: inner.clone(), next: 0, kept, ahead }
    }
}

impl IntoIterator for &Batches {
    type Item = Result<Batch>;
    type IntoIter = BatchIter;

    fn into_iter(self) -> BatchIter {
        self.iter()
    }
}

/// One pass over [`Batches`]; ends after the first error.
pub struct BatchIter {
    inner: Arc<Inner>,
    next: usize,
    /// Batches before this one come from the cache, the others from the thread.
    kept: usize,
    ahead: Option<Receiver<Result<Batch>>>,
}

impl Iterator for BatchIter {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next >= self.inner.count() {
            return None;
        }
        let cached = self.inner.cache.get(self.next).filter(|_| self.next < self.kept);
        let batch = match cached.and_then(OnceLock::get) {
            Some(batch) => Ok(batch.clone()),
            None => self
                .ahead
                .as_ref()
                .and_then(|ahead| ahead.recv().ok())
                .unwrap_or_else(|| Err(Error::internal("the thread that decodes data ended early"))),
        };
        self.next = if batch.is_ok() { self.next + 1 } else { usize::MAX };
        Some(batch)
    }
}

/// Starts a thread that makes the batches from `next` on. It waits while three are ready and ends when
/// the receiver is dropped.
fn produce(inner: Arc<Inner>, mut next: usize) -> Receiver<Result<Batch>> {
    let (sender, receiver) = sync_channel(2);
    // Where the thread cannot be started the sender is dropped, which the receiver reports.
    let _ = std::thread::Builder::new().name("secateur-data".into()).spawn(move || {
        // Small batches are made several at a time, to keep all threads busy.
        let group = (2 * rayon::current_num_threads()).div_ceil(inner.batch);
        while next < inner.count() {
            let numbers = next..(next + group).min(inner.count());
            next = numbers.end;
            let batches: Vec<_> = numbers.into_par_iter().map(|number| inner.kept_batch(number)).collect();
            for batch in batches {
                if sender.send(batch).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

impl Inner {
    fn count(&self) -> usize {
        self.indices.len().div_ceil(self.batch)
    }

    /// A batch from the cache, or a new one, which is cached.
    fn kept_batch(&self, number: usize) -> Result<Batch> {
        let place = self.cache.get(number);
        if let Some(batch) = place.and_then(OnceLock::get) {
            return Ok(batch.clone());
        }
        let from = number * self.batch;
        let indices = &self.indices[from..(from + self.batch).min(self.indices.len())];
        let batch = self.make(indices, self.fixed, None)?;
        Ok(place.map_or_else(|| batch.clone(), |place| place.get_or_init(|| batch.clone()).clone()))
    }

    /// A batch of these samples, changed by `change` before they are preprocessed; filled up where asked.
    pub(super) fn make(&self, indices: &[usize], filled: bool, change: Option<&Change<'_>>) -> Result<Batch> {
        let unchanged = |_, values| Ok(values);
        let change = change.unwrap_or(&unchanged);
        let samples = indices.par_iter().map(|&i| self.changed(i, change)).collect::<Result<Vec<_>>>()?;
        self.stacked(&samples.iter().collect::<Vec<_>>(), indices, filled)
    }

    /// As [`Inner::make`], unchanged and from samples that are kept.
    pub(super) fn remember(&self, indices: &[usize]) -> Result<Batch> {
        let kept = self.samples.get_or_init(|| {
            let fits = self.bytes.saturating_mul(self.indices.len()) <= CACHE_BYTES;
            (0..if fits { self.dataset.len() } else { 0 }).map(|_| OnceLock::new()).collect()
        });
        if kept.is_empty() {
            return self.make(indices, false, None);
        }
        let sample = |&i: &usize| -> Result<&Vec<Tensor>> {
            match kept[i].get() {
                Some(sample) => Ok(sample),
                None => self.sample(i).map(|sample| kept[i].get_or_init(|| sample)),
            }
        };
        // Copies are too short to be shared among threads.
        let samples = match indices.iter().all(|&i| kept[i].get().is_some()) {
            true => indices.iter().map(sample).collect::<Result<Vec<_>>>()?,
            false => indices.par_iter().map(sample).collect::<Result<Vec<_>>>()?,
        };
        self.stacked(&samples, indices, false)
    }

    /// Preprocessed samples as a batch.
    fn stacked(&self, samples: &[&Vec<Tensor>], indices: &[usize], filled: bool) -> Result<Batch> {
        for (tensors, &index) in samples.iter().zip(indices) {
            for ((tensor, shape), input) in tensors.iter().zip(&self.shapes).zip(&self.inputs) {
                if tensor.shape() != shape {
                    return Err(Error::input(format!(
                        "sample {index} has shape {:?} for input `{}`, but the first one used has {shape:?}; \
                         options `resize` and `crop` bring images to one size",
                        tensor.shape(),
                        input.name
                    )));
                }
            }
        }
        let mut samples = samples.to_vec();
        if filled && let Some(last) = samples.last().copied() {
            samples.resize(self.batch, last);
        }
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (at, input) in self.inputs.iter().enumerate() {
            let rows: Vec<&Tensor> = samples.iter().map(|s| &s[at]).collect();
            inputs.push((input.name.clone(), stack(&rows)?));
        }
        Ok(Batch { inputs, labels: self.labels(indices)?, indices: indices.to_vec() })
    }

    fn labels(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        let labels = indices.iter().map(|&i| self.dataset.label(i)).collect::<Result<Option<Vec<_>>>>()?;
        labels.map(|labels| stack(&labels.iter().collect::<Vec<_>>()).at(|| "labels")).transpose()
    }

    /// A sample for each input.
    fn sample(&self, index: usize) -> Result<Vec<Tensor>> {
        self.changed(index, &|_, values| Ok(values))
    }

    /// A sample for each input, changed before it is preprocessed.
    fn changed(&self, index: usize, change: &Change<'_>) -> Result<Vec<Tensor>> {
        let only = self.inputs.len() == 1;
        let fitted = |values: Vec<Value>| {
            let values = change(index, values)?;
            let routed = self.inputs.iter().zip(&self.routes);
            routed.map(|(input, &at)| self.preprocess.apply(&values[at], input, only)).collect()
        };
        self.dataset.sample(index).and_then(fitted).at(|| format!("sample {index}"))
    }
}

/// For each input of the model, the index of its value in the data.
fn route(inputs: &[InputSpec], names: &[String]) -> Result<Vec<usize>> {
    let list = |names: &mut dyn Iterator<Item = &String>| quoted(names);
    if let ([_], [_]) = (inputs, names) {
        return Ok(vec![0]);
    }
    if inputs.is_empty() {
        return Err(Error::unsupported("the model has no inputs: there is nothing to evaluate it with"));
    }
    let find = |input: &InputSpec| {
        names.iter().position(|n| *n == input.name).ok_or_else(|| {
            let inputs = list(&mut inputs.iter().map(|i| &i.name));
            Error::usage(match names {
                [name] if name.is_empty() => {
                    format!(
                        "the model has several inputs, {inputs}, and the data have one without a name; \
                             an npz file holds several by name"
                    )
                }
                _ => format!(
                    "the model has the inputs {inputs}, the data hold {}: `{}` is missing",
                    list(&mut names.iter()),
                    input.name
                ),
            })
        })
    };
    inputs.iter().map(find).collect()
}

/// The batch size, where an input fixes it.
fn fixed_batch(inputs: &[InputSpec]) -> Result<Option<usize>> {
    let mut fixed: Option<(&InputSpec, usize)> = None;
    for input in inputs {
        if input.shape.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::unsupported(format!(
                "input `{}` of the model has no axis for samples",
                input.name
            )));
        }
        match (input.fixed_batch(), fixed) {
            (Some(0), _) => return Err(Error::input(format!("input `{}` takes no samples", input.name))),
            (Some(n), Some((other, m))) if n != m => {
                return Err(Error::unsupported(format!(
                    "input `{}` takes batches of {n}, `{}` takes batches of {m}",
                    input.name, other.name
                )));
            }
            (Some(n), None) => fixed = Some((input, n)),
            _ => {}
        }
    }
    Ok(fixed.map(|(_, n)| n))
}

/// One row of a tensor, so many times.
fn repeated_row(tensor: &Tensor, at: usize, rows: usize) -> Result<Tensor> {
    fn typed<T: Element>(values: &[T], shape: &[usize], at: usize, rows: usize) -> Result<Tensor> {
        let len: usize = shape[1..].iter().product();
        let row = &values[at * len..][..len];
        Tensor::new([&[rows], &shape[1..]].concat(), (0..rows).flat_map(|_| row.iter().cloned()).collect())
    }
    with_elements!(tensor, |values| typed(values, tensor.shape(), at, rows), else Err(Error::unsupported(format!(
        "samples of type {}", tensor.dtype()
    ))))
}

/// Stacks tensors of one shape and type.
fn stack(rows: &[&Tensor]) -> Result<Tensor> {
    fn typed<T: Element>(first: &[T], rows: &[&Tensor]) -> Result<Tensor> {
        let shape = rows[0].shape();
        let mut values = Vec::with_capacity(first.len() * rows.len());
        for row in rows {
            if row.shape() != shape {
                return Err(Error::input(format!(
                    "a batch cannot hold both shapes {shape:?} and {:?}",
                    row.shape()
                )));
            }
            values.extend_from_slice(row.values::<T>()?);
        }
        Tensor::new([&[rows.len()], shape].concat(), values)
    }
    let first = rows.first().ok_or_else(|| Error::internal("a batch without samples"))?;
    with_elements!(first, |values| typed(values, rows), else Err(Error::unsupported(format!(
        "samples of type {}", first.dtype()
    ))))
}

#[cfg(test)]
mod tests {
    use secateur_model::DType;

    use super::super::array::Array;
    use super::super::dataset::ArrayDataset;
    use super::*;

    fn floats(shape: &[usize]) -> Array {
        let len: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..len).flat_map(|i| (i as f32).to_le_bytes()).collect();
        Array::new(DType::F32, shape.to_vec(), bytes.into()).unwrap()
    }

    fn labels(len: usize) -> Array {
        Array::new(DType::U8, vec![len], (0..len as u8).collect::<Vec<_>>().into()).unwrap()
    }

    fn spec(name: &str, dtype: DType, shape: &[Option<usize>]) -> InputSpec {
        InputSpec { name: name.into(), dtype, shape: Some(shape.to_vec()) }
    }

    fn set(arrays: &[(&str, Array)], labels: Option<Array>) -> Box<dyn Dataset> {
        let arrays = arrays.iter().map(|(name, a)| (name.to_string(), a.clone())).collect();
        Box::new(ArrayDataset::new(arrays, labels).unwrap())
    }

    fn open(inputs: Vec<InputSpec>, sampling: &Sampling) -> Result<Batches> {
        Batches::new(
            set(&[("", floats(&[10, 2]))], Some(labels(10))),
            Preprocess::default(),
            inputs,
            sampling,
        )
    }

    fn x(batch: Option<usize>) -> Vec<InputSpec> {
        vec![spec("x", DType::F32, &[batch, Some(2)])]
    }

    #[test]
    fn passes_are_equal_and_the_last_batch_is_short() {
        let batches = open(x(None), &Sampling { batch: Some(4), ..Sampling::default() }).unwrap();
        assert_eq!((batches.len(), batches.samples(), batches.batch()), (3, 10, 4));
        for _ in 0..3 {
            let all: Vec<Batch> = batches.iter().collect::<Result<_>>().unwrap();
            assert_eq!(all.iter().map(Batch::rows).collect::<Vec<_>>(), [4, 4, 2]);
            assert_eq!(all[1].inputs[0].0, "x");
            assert_eq!(
                all[1].inputs[0].1.values::<f32>().unwrap(),
                [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
            );
            assert_eq!(all[2].labels.as_ref().unwrap().values::<i64>().unwrap(), [8, 9]);
            assert_eq!(all[2].indices, [8, 9]);
        }
    }

    #[test]
    fn a_pass_may_be_left_and_others_run_beside_it() {
        let batches = open(x(None), &Sampling { batch: Some(1), ..Sampling::default() }).unwrap();
        let mut left = batches.iter();
        left.next().unwrap().unwrap();
        let whole = batches.iter().map(|b| b.unwrap().indices[0]).collect::<Vec<_>>();
        assert_eq!(whole, (0..10).collect::<Vec<_>>());
        assert_eq!(left.next().unwrap().unwrap().indices, [1]);
    }

    #[test]
    fn a_fixed_batch_is_padded() {
        let batches = open(x(Some(4)), &Sampling::default()).unwrap();
        let last = batches.iter().last().unwrap().unwrap();
        assert_eq!(last.rows(), 4);
        assert_eq!(last.indices, [8, 9]);
        assert_eq!(last.labels.unwrap().shape(), [2]);
        assert_eq!(last.inputs[0].1.values::<f32>().unwrap()[4..], [18.0, 19.0, 18.0, 19.0]);
        let error = open(x(Some(4)), &Sampling { batch: Some(8), ..Sampling::default() }).err().unwrap();
        assert!(error.to_string().contains("batches of 4 only, not of 8"));
    }

    #[test]
    fn subsets_are_drawn_by_seed_and_nested() {
        let draw = |samples, seed| {
            Sampling { samples: Some(samples), seed, ..Sampling::default() }.indices(1000).unwrap()
        };
        let (small, large) = (draw(50, 7), draw(200, 7));
        assert!(large.is_sorted() && small.iter().all(|i| large.contains(i)));
        assert_eq!(large.len(), 200);
        assert_ne!(small, draw(50, 8));
        // No half of the set is preferred: 100 ± 4 standard deviations of 200 draws.
        let low = large.iter().filter(|&&i| i < 500).count();
        assert!((75..=125).contains(&low), "{low}");
        assert!(Sampling { samples: Some(11), ..Sampling::default() }.indices(10).is_err());
    }

    #[test]
    fn inputs_are_found_by_name_and_integers_stay() {
        let ids: Vec<u8> = (0..6i32).flat_map(i32::to_le_bytes).collect();
        let ids = Array::new(DType::I32, vec![2, 3], ids.into()).unwrap();
        let arrays = [("mask", floats(&[2, 3])), ("ids", ids)];
        let inputs = vec![spec("ids", DType::I64, &[None, None]), spec("mask", DType::F32, &[None, None])];
        let with =
            |inputs| Batches::new(set(&arrays, None), Preprocess::default(), inputs, &Sampling::default());
        let batch = with(inputs.clone()).unwrap().iter().next().unwrap().unwrap();
        assert_eq!(batch.inputs[0].1.values::<i64>().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.inputs[1].1.shape(), [2, 3]);
        assert!(batch.labels.is_none());

        let missing = vec![inputs[0].clone(), spec("types", DType::I64, &[None, None])];
        let error = with(missing).err().unwrap().to_string();
        assert!(error.contains("`mask`, `ids`") && error.contains("`types` is missing"), "{error}");
    }

    #[test]
    fn wrong_shapes_name_the_input() {
        let error = open(vec![spec("x", DType::F32, &[None, Some(3)])], &Sampling::default()).err().unwrap();
        assert!(
            error.to_string().contains("sample 0: input `x` takes samples of shape [3], found [2]"),
            "{error}"
        );
        let error = open(vec![spec("x", DType::I64, &[None, Some(2)])], &Sampling::default()).err().unwrap();
        assert!(error.to_string().contains("expected integers, found f32"), "{error}");
    }

    /// Fails for one sample.
    struct Damaged;

    impl Dataset for Damaged {
        fn len(&self) -> usize {
            8
        }
        fn input_names(&self) -> &[String] {
            const NAMES: &[String] = &[String::new()];
            NAMES
        }
        fn sample(&self, index: usize) -> Result<Vec<Value>> {
            match index {
                5 => Err(Error::input("damaged")),
                _ => Ok(vec![Value::Tensor(Tensor::vector(vec![0f32; 2]))]),
            }
        }
        fn label(&self, _: usize) -> Result<Option<Tensor>> {
            Ok(None)
        }
    }

    #[test]
    fn an_error_comes_in_its_place_and_ends_the_pass() {
        let sampling = Sampling { batch: Some(2), ..Sampling::default() };
        let batches = Batches::new(Box::new(Damaged), Preprocess::default(), x(None), &sampling).unwrap();
        let results: Vec<_> = batches.iter().collect();
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(results[2].as_ref().unwrap_err().to_string(), "sample 5: damaged");
    }
}
