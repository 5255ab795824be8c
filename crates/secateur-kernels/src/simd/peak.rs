//! Peak performance of the processor.

use super::{Isa, Kernel, Simd};
use crate::threads;
use std::hint::black_box;
use std::time::Instant;

/// Peak floating-point operations per second of a thread: multiply-adds (two operations per lane) in registers only.
/// Measured in about half a millisecond, the best of several tries.
pub fn peak_flops() -> f64 {
    let burst = |_| {
        let start = Instant::now();
        let operations = Isa::best().run(Burst);
        operations / start.elapsed().as_secs_f64()
    };
    (0..10).map(burst).fold(0.0, f64::max)
}

/// Bytes per second at which the threads of the current rayon pool read `memory` once.
pub fn read_bandwidth(memory: &[f32]) -> f64 {
    let start = Instant::now();
    let threads = rayon::current_num_threads();
    threads::tasks(threads, true, |i| {
        Isa::best().run(Read(&memory[threads::split(memory.len(), threads, i)]));
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

/// Reads four parallel streams, which a core does faster than one.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Values of a stream at a time: two cache lines.
        const VISIT: usize = 32;
        let quarter = self.0.len() / 4;
        let mut sums = [[s.zero(); 2]; 4];
        for i in 0..quarter / VISIT {
            for (stream, sums) in sums.iter_mut().enumerate() {
                for at in (0..VISIT).step_by(2 * S::LANES) {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        let at = stream * quarter + i * VISIT + at + k * S::LANES;
                        // SAFETY: only whole visits of whole quarters are read.
                        *sum = s.add(*sum, unsafe { s.load(self.0.as_ptr().add(at)) });
                    }
                }
            }
        }
        black_box(sums.map(|sums| sums.map(|sum| s.to_array(sum))));
    }
}

struct Burst;

impl Kernel for Burst {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        /// Independent sums, enough to hide the latency of each.
        const SUMS: usize = 12;
        const ROUNDS: usize = 10_000;
        let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut sums = [b; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        black_box(sums.map(|sum| s.to_array(sum)));
        (2 * SUMS * S::LANES * ROUNDS) as f64
    }
}
