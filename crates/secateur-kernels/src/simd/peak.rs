//! What the processor could do at best.

use super::{Isa, Kernel, Simd};
use crate::threads;
use std::hint::black_box;
use std::time::Instant;

/// Floating-point operations that a thread does each second when it does nothing but multiply-adds (two
/// operations for each lane) in registers; measured in about half a millisecond, the best of some tries.
pub fn peak_flops() -> f64 {
    let burst = |_| {
        let start = Instant::now();
        let operations = Isa::best().run(Burst);
        operations / start.elapsed().as_secs_f64()
    };
    (0..10).map(burst).fold(0.0, f64::max)
}

/// Bytes a second at which the threads of the current rayon pool read `memory`, once, and do little else.
pub fn read_bandwidth(memory: &[f32]) -> f64 {
    let start = Instant::now();
    let threads = rayon::current_num_threads();
    threads::tasks(threads, true, |i| {
        Isa::best().run(Read(&memory[threads::split(memory.len(), threads, i)]));
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

/// Reads four streams side by side, which a core does faster than one.
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
                        // SAFETY: whole visits of whole quarters lie in the slice.
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
        /// Sums that don't wait for each other, enough to hide the latency of each.
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
