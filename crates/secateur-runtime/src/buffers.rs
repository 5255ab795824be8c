//! Memory of values whose life has ended, kept for the next values; and what a run may take.

use secateur_model::{Error, Result, Tensor};

use crate::limits::{Limits, Size};

/// Buffers in wait for their next use. A plan fixes where each value's life ends, so every run of a
/// plan takes and returns the same buffers in the same order: after the first run nothing is
/// allocated. What a whole run had no use for is freed at its end.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Ascending by capacity.
    free: Vec<Free>,
    /// The number of the current run.
    run: u64,
    /// Those of threads that compute samples of their own.
    parts: Vec<Pool>,
    /// Bytes that may be in use at the same time, and steps of nested graphs.
    memory: u64,
    max_steps: u64,
    /// Bytes of values that are alive.
    live: u64,
    /// Bytes that the step in work took and that are no value yet.
    taken: u64,
    /// Steps of nested graphs so far, and how many graphs deep the run is.
    steps: u64,
    depth: usize,
}

#[derive(Debug)]
struct Free {
    buffer: Vec<f32>,
    /// The last run in which it was in use.
    used: u64,
}

/// A free buffer serves values down to this fraction of its size.
const WASTE: usize = 2;

/// Elements for which a node in a nested graph counts as one step more.
const STEP_ELEMENTS: u64 = 1 << 18;

/// Bytes from which on it is found out whether the machine has them.
const LARGE: usize = 1 << 22;

fn bytes_of<T>(len: usize) -> u64 {
    (len as u64).saturating_mul(size_of::<T>() as u64)
}

impl Pool {
    /// A pool of a run within limits.
    pub(crate) fn within(limits: Limits) -> Self {
        let mut pool = Pool::default();
        pool.begin_run(limits);
        pool
    }

    /// Counts runs, so that buffers without use are seen.
    pub(crate) fn begin_run(&mut self, limits: Limits) {
        self.run += 1;
        (self.memory, self.max_steps) = (limits.memory, limits.steps);
        (self.live, self.taken, self.steps, self.depth) = (0, 0, 0, 0);
        self.parts.iter_mut().for_each(|part| part.begin_run(limits));
    }

    /// Bytes of values that are alive.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Says which bytes of values are alive, where it is known better than from the steps.
    pub(crate) fn set_live(&mut self, bytes: u64) {
        self.live = bytes;
    }

    /// Counts a value that begins to live.
    pub(crate) fn hold(&mut self, tensor: &Tensor) {
        self.live = self.live.saturating_add(tensor_bytes(tensor));
    }

    /// Counts a value whose life has ended.
    pub(crate) fn release(&mut self, tensor: &Tensor) {
        self.live = self.live.saturating_sub(tensor_bytes(tensor));
    }

    /// A step is done: what it took is among the values, or free again.
    pub(crate) fn end_step(&mut self) {
        self.taken = 0;
    }

    /// Makes sure that so many bytes more are within the bound.
    ///
    /// # Errors
    /// `Unsupported` where they are not; `what` says what they are for.
    pub(crate) fn check(&mut self, bytes: u64, what: impl FnOnce() -> String) -> Result<()> {
        let used = self.live.saturating_add(self.taken);
        let kept = |pool: &Pool| pool.free.iter().map(|f| bytes_of::<f32>(f.buffer.capacity())).sum::<u64>();
        if used.saturating_add(bytes).saturating_add(kept(self)) > self.memory {
            self.free.clear();
        }
        if used.saturating_add(bytes) > self.memory {
            return Err(Error::unsupported(format!(
                "{} {}, but only {} of the {} memory limit is left; raise it with option `memory`",
                what(),
                Size(bytes),
                Size(self.memory.saturating_sub(used)),
                Size(self.memory)
            )));
        }
        Ok(())
    }

    /// Counts steps of a node that gave so many elements, in a nested graph.
    ///
    /// # Errors
    /// `Unsupported` where there were too many.
    pub(crate) fn count(&mut self, nodes: usize, elements: usize) -> Result<()> {
        if self.depth > 0 {
            self.steps += nodes as u64 + elements as u64 / STEP_ELEMENTS;
            if self.steps > self.max_steps {
                return Err(Error::unsupported(format!(
                    "loops ran more than {} nodes; raise the limit with option `max_steps`",
                    self.max_steps
                )));
            }
        }
        Ok(())
    }

    /// Runs what a nested graph does.
    pub(crate) fn nested<T>(&mut self, run: impl FnOnce(&mut Pool) -> Result<T>) -> Result<T> {
        let (live, taken) = (self.live, self.taken);
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        (self.live, self.taken) = (live, taken);
        result
    }

    /// Frees the buffers that the run had no use for: operators that bring their own memory would
    /// let the pool grow.
    pub(crate) fn end_run(&mut self) {
        let run = self.run;
        self.free.retain(|f| f.used >= run);
        self.parts.iter_mut().for_each(Pool::end_run);
    }

    /// Pools for so many threads, which share what is left of the memory.
    pub(crate) fn parts(&mut self, count: usize) -> &mut [Pool] {
        if self.parts.len() < count {
            let run = self.run;
            self.parts.resize_with(count, || Pool { run, ..Pool::default() });
        }
        let left = self.memory.saturating_sub(self.live.saturating_add(self.taken));
        for part in &mut self.parts[..count] {
            (part.memory, part.live, part.taken) = (left / count.max(1) as u64, 0, 0);
        }
        &mut self.parts[..count]
    }

    /// Takes a tensor's memory back, where nobody else has it.
    pub(crate) fn reclaim(&mut self, tensor: Tensor) {
        if let Some(buffer) = tensor.reclaim() {
            self.give(buffer);
        }
    }

    /// A buffer of `len` elements with arbitrary content: the smallest free one that holds them and is
    /// not much longer, else a new one.
    ///
    /// # Errors
    /// `Unsupported` beyond the bound on memory.
    pub(crate) fn take(&mut self, len: usize) -> Result<Vec<f32>> {
        let at = self.free.partition_point(|f| f.buffer.capacity() < len);
        if self.free.get(at).is_some_and(|f| f.buffer.capacity() / WASTE <= len) {
            let mut buffer = self.free.remove(at).buffer;
            self.taken = self.taken.saturating_add(bytes_of::<f32>(buffer.capacity()));
            // Only what lies beyond its last, shorter value is filled.
            buffer.resize(len, 0.0);
            return Ok(buffer);
        }
        self.filled(len, 0.0)
    }

    /// A new vector of `len` copies of a value, for what is no f32 or stays with the kernel.
    ///
    /// # Errors
    /// `Unsupported` beyond the bound on memory.
    pub(crate) fn filled<T: Clone>(&mut self, len: usize, value: T) -> Result<Vec<T>> {
        let bytes = bytes_of::<T>(len);
        self.check(bytes, || "it needs".to_string())?;
        if len > LARGE / size_of::<T>().max(1) {
            // Reserving first finds out whether there is room; `vec!` gets zeros from the allocator for free.
            let refused = |_| {
                Error::unsupported(format!("needs {}, but the system refused the allocation", Size(bytes)))
            };
            Vec::<T>::new().try_reserve_exact(len).map_err(refused)?;
        }
        self.taken = self.taken.saturating_add(bytes);
        Ok(vec![value; len])
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.taken = self.taken.saturating_sub(bytes_of::<f32>(buffer.capacity()));
            let at = self.free.partition_point(|f| f.buffer.capacity() < buffer.capacity());
            self.free.insert(at, Free { buffer, used: self.run });
        }
    }
}

/// The bytes of a tensor's elements; those of texts are not counted.
pub(crate) fn tensor_bytes(tensor: &Tensor) -> u64 {
    tensor.dtype().bytes_for(tensor.len()).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Limits = Limits { memory: u64::MAX, steps: 10 };

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::within(FREE);
        let a = pool.take(100).unwrap();
        let pointer = a.as_ptr();
        pool.give(a);
        let again = pool.take(90).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (pointer, 90));
        pool.give(again);
        let whole = pool.take(100).unwrap();
        assert_eq!((whole.as_ptr(), whole.len()), (pointer, 100));
        pool.give(whole);
        // A much shorter value gets a buffer of its own.
        let short = pool.take(10).unwrap();
        assert_ne!(short.as_ptr(), pointer);
    }

    #[test]
    fn buffers_without_use_are_freed() {
        let mut pool = Pool::within(FREE);
        for _ in 0..3 {
            pool.begin_run(FREE);
            let used = pool.take(100).unwrap();
            // From an operator that brings its own memory.
            pool.give(vec![0.0; 1000]);
            pool.give(used);
            pool.end_run();
        }
        assert!(pool.free.len() <= 2);
        pool.begin_run(FREE);
        pool.end_run();
        assert!(pool.free.is_empty());
    }

    #[test]
    fn what_is_asked_for_stays_within_the_bound() {
        let mut pool = Pool::within(Limits { memory: 1000, steps: 10 });
        let first = pool.take(150).unwrap();
        let message = pool.take(150).unwrap_err().to_string();
        assert!(message.contains("600 B") && message.contains("400 B of the 1.0 kB"), "{message}");
        assert!(pool.filled(101, 0u32).is_err() && pool.filled(usize::MAX, 0u64).is_err());
        // What is free gives way to what is asked for.
        pool.give(first);
        assert_eq!(pool.take(250).unwrap().len(), 250);
        pool.end_step();
        pool.hold(&Tensor::vector(vec![0f32; 200]));
        assert!(pool.check(201, String::new).is_err() && pool.check(200, String::new).is_ok());
    }

    #[test]
    fn steps_count_in_nested_graphs_only() {
        let mut pool = Pool::within(FREE);
        assert!(pool.count(100, 0).is_ok());
        let counted = pool.nested(|pool| (0..11).try_for_each(|_| pool.count(1, 0)));
        assert!(counted.unwrap_err().to_string().contains("option `max_steps`"));
    }
}
