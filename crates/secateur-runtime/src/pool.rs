//! Memory of values whose life has ended, kept for the next values.

/// Buffers in wait for their next use. A plan fixes where each value's life ends, so every run of a
/// plan takes and returns the same buffers in the same order: after the first run nothing is
/// allocated.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Ascending by length.
    free: Vec<Vec<f32>>,
}

impl Pool {
    /// A buffer of `len` elements with arbitrary content: the free one of this very length, else
    /// the next longer one, else a new one.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let at = self.free.partition_point(|b| b.len() < len);
        // Much longer buffers stay for values of their own size.
        if self.free.get(at).is_some_and(|b| b.len() / 2 <= len) {
            let mut buffer = self.free.remove(at);
            buffer.truncate(len);
            return buffer;
        }
        vec![0.0; len]
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, mut buffer: Vec<f32>) {
        // A buffer that was cut to a shorter value gets its full length again, at no cost where the
        // allocation is exact.
        if buffer.len() < buffer.capacity() {
            buffer.resize(buffer.capacity(), 0.0);
        }
        if buffer.is_empty() {
            return;
        }
        let at = self.free.partition_point(|b| b.len() < buffer.len());
        self.free.insert(at, buffer);
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
        assert_eq!(again.as_ptr(), pointer);
        assert_eq!(pool.take(10).len(), 10);
    }
}
