//! Segments of a plan, some of which run sample by sample.
//!
//! What layers compute of a batch leaves the caches before the next layer reads it; of one sample it stays. Threads
//! compute samples of their own, so that they need not wait for each other.

use std::ops::Range;

use rayon::prelude::*;
use secateur_kernels::{alone, split};
use secateur_model::{Error, Result, Tensor, ValueId};

use super::{Step, Watch};
use crate::buffers::Pool;

/// Neighbouring steps.
pub(crate) struct Segment {
    pub(crate) steps: Range<usize>,
    /// Samples that the steps compute one by one; 1 where they compute everything at once.
    pub(crate) samples: usize,
    /// Values from other segments, each with whether its life ends here; where there are samples.
    reads: Vec<(ValueId, bool)>,
    /// Values that other segments need; where there are samples.
    writes: Vec<Write>,
}

/// A value that other segments need.
struct Write {
    id: ValueId,
    /// The shape for all samples; `None` for tiles, which stay apart.
    shape: Option<Vec<usize>>,
}

/// The values of a run that per-sample segments read and write.
pub(crate) struct Values {
    /// By value: the elements, of all samples together.
    pub(crate) whole: Vec<Option<Tensor>>,
    /// By value: the tiles of each sample.
    tiles: Vec<Vec<Tensor>>,
}

impl Values {
    /// Room for `count` values.
    pub(crate) fn new(count: usize) -> Values {
        Values { whole: vec![None; count], tiles: vec![Vec::new(); count] }
    }
}

impl Segment {
    /// The step `at`.
    pub(crate) fn new(at: usize, samples: usize) -> Segment {
        Segment { steps: at..at + 1, samples: samples.max(1), reads: Vec::new(), writes: Vec::new() }
    }

    /// Finds which values a per-sample segment shares with the other steps of the plan.
    pub(crate) fn find_values(&mut self, all: &[Step], outputs: &[ValueId]) {
        let own = &all[self.steps.clone()];
        let made = |id: ValueId| own.iter().any(|step| step.outputs.contains(&Some(id)));
        for &(id, dies) in own.iter().flat_map(|step| step.inputs.iter().flatten()) {
            match self.reads.iter_mut().find(|(known, _)| *known == id) {
                Some((_, known)) => *known |= dies,
                None if !made(id) => self.reads.push((id, dies)),
                None => {}
            }
        }
        let elsewhere = |id: ValueId| {
            let later = &all[self.steps.end..];
            outputs.contains(&id)
                || later.iter().any(|step| step.inputs.iter().flatten().any(|(input, _)| *input == id))
        };
        for (id, shape) in own.iter().flat_map(|step| step.outputs.iter().zip(&step.shapes)) {
            let Some(id) = id.filter(|&id| elsewhere(id)) else { continue };
            let tensor = shape.as_ref().filter(|shape| shape.len() > 1);
            let shape = tensor.map(|shape| [&[shape[0] * self.samples], &shape[1..]].concat());
            self.writes.push(Write { id, shape });
        }
    }

    /// Runs the segment's steps for one sample after the other, or for as many at once as there are threads. Where
    /// somebody watches, all threads compute each step of each sample.
    pub(crate) fn run(
        &self,
        all: &[Step],
        values: &mut Values,
        pool: &mut Pool,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let threads = rayon::current_num_threads();
        let found = if threads > 1 && self.samples >= threads && !watch.watches() {
            self.on_threads(threads, all, values, pool)?
        } else {
            (0..self.samples)
                .map(|sample| self.sample(sample, all, values, pool, watch))
                .collect::<Result<Vec<_>>>()?
        };
        self.release_reads(values, pool);
        self.write(found, values, pool)
    }

    /// Divides the samples among threads.
    fn on_threads(
        &self,
        threads: usize,
        all: &[Step],
        values: &Values,
        pool: &mut Pool,
    ) -> Result<Vec<Vec<Tensor>>> {
        let parts = pool.parts(threads).par_iter_mut().enumerate().with_max_len(1);
        let found: Result<Vec<Vec<Vec<Tensor>>>> = parts
            .map(|(part, pool)| {
                alone(|| {
                    split(self.samples, threads, part)
                        .map(|sample| self.sample(sample, all, values, pool, &mut Watch::default()))
                        .collect()
                })
            })
            .collect();
        let found: Vec<Vec<Tensor>> = found?.into_iter().flatten().collect();
        found.iter().flatten().for_each(|tensor| pool.hold(tensor));
        Ok(found)
    }

    /// Runs the steps on one sample; returns what other segments need.
    fn sample(
        &self,
        sample: usize,
        all: &[Step],
        values: &Values,
        pool: &mut Pool,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let mut own: Vec<Option<Tensor>> = vec![None; values.whole.len()];
        let before = pool.live();
        for &(id, _) in &self.reads {
            let read = match (values.tiles[id.index()].get(sample), &values.whole[id.index()]) {
                (Some(tiles), _) => tiles.clone(),
                (None, Some(whole)) => self.part(whole, sample, pool)?,
                (None, None) => return Err(Error::internal("a sample's value is missing")),
            };
            pool.end_step();
            pool.hold(&read);
            own[id.index()] = Some(read);
        }
        for index in self.steps.clone() {
            let step = &all[index];
            watch.before(step, &own, sample)?;
            let time = step.run(&mut own, pool)?;
            watch.after(index, step, &own, time);
        }
        let missing = || Error::internal("a sample's value was not computed");
        let written = self.writes.iter().map(|write| own[write.id.index()].take().ok_or_else(missing));
        let written = written.collect::<Result<Vec<_>>>()?;
        pool.set_live(before);
        written.iter().for_each(|tensor| pool.hold(tensor));
        Ok(written)
    }

    /// Frees the values whose life ends in the segment.
    fn release_reads(&self, values: &mut Values, pool: &mut Pool) {
        for &(id, _) in self.reads.iter().filter(|(_, dies)| *dies) {
            values.tiles[id.index()].drain(..).for_each(|tensor| pool.release(&tensor));
            if let Some(tensor) = values.whole[id.index()].take() {
                pool.release(&tensor);
                pool.reclaim(tensor);
            }
        }
    }

    /// Puts together what other segments need of each sample.
    fn write(&self, found: Vec<Vec<Tensor>>, values: &mut Values, pool: &mut Pool) -> Result<()> {
        let mut of_samples: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
        for write in &self.writes {
            let parts: Vec<Tensor> = of_samples.iter_mut().flat_map(Iterator::next).collect();
            let Some(shape) = &write.shape else {
                values.tiles[write.id.index()] = parts;
                continue;
            };
            let mut whole = pool.take(shape.iter().product())?;
            let len = whole.len() / self.samples;
            for (to, part) in whole.chunks_exact_mut(len.max(1)).zip(parts) {
                to.copy_from_slice(part.values()?);
                pool.release(&part);
                pool.reclaim(part);
            }
            let whole = Tensor::new(shape.clone(), whole)?;
            pool.end_step();
            pool.hold(&whole);
            values.whole[write.id.index()] = Some(whole);
        }
        Ok(())
    }

    /// A sample of a value.
    fn part(&self, whole: &Tensor, sample: usize, pool: &mut Pool) -> Result<Tensor> {
        let mut shape = whole.shape().to_vec();
        shape[0] /= self.samples;
        let values = whole.values::<f32>()?;
        let len = values.len() / self.samples;
        let mut part = pool.take(len)?;
        part.copy_from_slice(&values[sample * len..][..len]);
        Tensor::new(shape, part)
    }
}
