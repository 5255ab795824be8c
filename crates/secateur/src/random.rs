//! Random draws by counter.
//!
//! A draw depends on the seed, the tensor's path and the position alone, so neither the selection,
//! the order of tensors nor the number of threads changes it. The generator never changes:
//! SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), used by
//! counter.

/// SplitMix64's step of its state.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a tensor: the seed mixed with FNV-1a's 64-bit hash of the path.
    pub fn new(seed: u64, path: &str) -> Self {
        let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| {
            (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Stream(mix(seed.wrapping_add(STEP)) ^ hash)
    }

    /// The stream of SplitMix64 itself, seeded with `seed`.
    pub fn seeded(seed: u64) -> Self {
        Stream(seed)
    }

    /// The draw at a position, uniform over all 64-bit numbers.
    pub fn draw(self, position: u64) -> u64 {
        mix(self.0.wrapping_add(STEP.wrapping_mul(position.wrapping_add(1))))
    }

    /// The draw at a position from the normal distribution of mean 0 and variance 1, made of the draws at 2 · position and
    /// the one after it (Box and Muller 1958).
    pub fn normal(self, position: u64) -> f64 {
        let first = position.wrapping_mul(2);
        let [radius, angle] =
            [0, 1].map(|i| (self.draw(first.wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64);
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// The seed of something that is drawn apart from all else: by its name.
    pub fn seed_of(seed: u64, what: &str) -> u64 {
        Stream::new(seed, what).draw(0)
    }
}

/// SplitMix64's output function.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequence of the generator's published C code for the seed 1234567.
    #[test]
    fn draws_are_those_of_splitmix64() {
        let stream = Stream::seeded(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!(stream.draw(i as u64), expected);
        }
    }

    #[test]
    fn seeds_and_paths_give_other_streams() {
        let a = Stream::new(0, "conv1.weight");
        assert_ne!(a, Stream::new(1, "conv1.weight"));
        assert_ne!(a, Stream::new(0, "conv2.weight"));
        assert_eq!(a, Stream::new(0, "conv1.weight"));
    }

    #[test]
    fn normal_draws_have_the_moments_of_the_distribution() {
        let stream = Stream::new(7, "w");
        let draws: Vec<f64> = (0..100_000).map(|i| stream.normal(i)).collect();
        let mean_of = |power: i32| draws.iter().map(|v| v.powi(power)).sum::<f64>() / draws.len() as f64;
        // Within four standard errors: those of the powers 1 to 4 are √(1, 2, 15, 96) / √n.
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
            let error = (variance / draws.len() as f64).sqrt();
            assert!((mean_of(power) - expected).abs() < 4.0 * error, "{power}: {}", mean_of(power));
        }
    }
}
