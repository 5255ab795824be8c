//! Helpers of the kernels' tests.

/// A small deterministic generator (xorshift64*).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 32) as usize % n
    }

    /// In [−1, 1).
    pub(crate) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Values, of which a share `sparsity` is zero.
    pub(crate) fn sparse(&mut self, n: usize, sparsity: f32) -> Vec<f32> {
        let draw = |_| if (self.value() + 1.0) / 2.0 < sparsity { 0.0 } else { self.value() };
        (0..n).map(draw).collect()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Asserts that the error of `got` against the double-precision `want` is at most about twice that of a plain f32 loop. Each
/// sum has `terms` products, whose magnitudes add up to `scale`.
pub(crate) fn assert_sums(
    got: &[f32],
    want: &[f64],
    scale: &[f64],
    terms: usize,
    what: &dyn std::fmt::Display,
) {
    assert_eq!(got.len(), want.len());
    // A loop over n terms errs by about √n/2 roundings of typical partial sums; this covers outliers.
    let roundings = 2.0 + 2.0 * (terms as f64).sqrt();
    for (i, ((&g, &w), &s)) in got.iter().zip(want).zip(scale).enumerate() {
        let tolerance = roundings * 6e-8 * s + 1e-37;
        assert!(
            (g as f64 - w).abs() <= tolerance,
            "{what}: element {i} is {g}, want {w} within {tolerance:.2e}"
        );
    }
}

/// Runs `f` in a rayon pool of `threads` threads.
pub(crate) fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(f)
}

/// erf in double precision, by its series; for |x| < 2.5.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

/// The error function in double precision.
pub(crate) fn erf64(x: f64) -> f64 {
    if x.abs() < 2.5 { erf_series(x) } else { 1.0 - erfc64(x) }
}

/// The complementary error function in double precision, by the continued fraction for large arguments.
pub(crate) fn erfc64(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc64(-x);
    }
    if x < 2.5 {
        return 1.0 - erf_series(x);
    }
    let mut f = 0.0;
    for n in (1..200).rev() {
        f = n as f64 / 2.0 / (x + f);
    }
    (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + f)
}
