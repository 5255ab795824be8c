//! What the processor could do at best.

use super::{Isa, Kernel, Simd};
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
