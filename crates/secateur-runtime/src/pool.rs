//! Memory of values whose life has ended, kept for the next values.

use secateur_model::Tensor;

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
}

#[derive(Debug)]
struct Free {
    buffer: Vec<f32>,
    /// The last run in which it was in use.
    used: u64,
}

/// A free buffer serves values down to this fraction of its size.
const WASTE: usize = 2;

impl Pool {
    /// Counts runs, so that buffers without use are seen.
    pub(crate) fn begin_run(&mut self) {
        self.run += 1;
        self.parts.iter_mut().for_each(Pool::begin_run);
    }

    /// Frees the buffers that the run had no use for: operators that bring their own memory would
    /// let the pool grow.
    pub(crate) fn end_run(&mut self) {
        let run = self.run;
        self.free.retain(|f| f.used >= run);
        self.parts.iter_mut().for_each(Pool::end_run);
    }

    /// Pools for so many threads.
    pub(crate) fn parts(&mut self, count: usize) -> &mut [Pool] {
        if self.parts.len() < count {
            self.parts.resize_with(count, Pool::default);
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
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let at = self.free.partition_point(|f| f.buffer.capacity() < len);
        if self.free.get(at).is_some_and(|f| f.buffer.capacity() / WASTE <= len) {
            let mut buffer = self.free.remove(at).buffer;
            // Only what lies beyond its last, shorter value is filled.
            buffer.resize(len, 0.0);
            return buffer;
        }
        vec![0.0; len]
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            let at = self.free.partition_point(|f| f.buffer.capacity() < buffer.capacity());
            self.free.insert(at, Free { buffer, used: self.run });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::default();
        let a = pool.take(100);
        let pointer = a.as_ptr();
        pool.give(a);
        let again = pool.take(90);
        assert_eq!((again.as_ptr(), again.len()), (pointer, 90));
        pool.give(again);
        let whole = pool.take(100);
        assert_eq!((whole.as_ptr(), whole.len()), (pointer, 100));
        pool.give(whole);
        // A much shorter value gets a buffer of its own.
        let short = pool.take(10);
        assert_ne!(short.as_ptr(), pointer);
    }

    #[test]
    fn buffers_without_use_are_freed() {
        let mut pool = Pool::default();
        for _ in 0..3 {
            pool.begin_run();
            let used = pool.take(100);
            // From an operator that brings its own memory.
            pool.give(vec![0.0; 1000]);
            pool.give(used);
            pool.end_run();
        }
        assert!(pool.free.len() <= 2);
        pool.begin_run();
        pool.end_run();
        assert!(pool.free.is_empty());
    }
}
