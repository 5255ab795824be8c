//! Means, second moments, magnitudes and zeros of each channel of a value.

use rayon::prelude::*;
use secateur_model::{Error, Result};

use super::{Rows, Statistic};

/// The axis of a value's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// The second axis, as of convolutions.
    Second,
    /// The last axis, as of linear layers.
    Last,
}

/// Sums over each channel, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    along: Along,
    /// Elements of a channel so far.
    count: u64,
    sums: Vec<Sums>,
}

/// The sums of x, x², |x| and the number of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    values: f64,
    squares: f64,
    magnitudes: f64,
    zeros: u64,
}

/// Channels that a thread takes at a time.
const TOGETHER: usize = 8;

impl Channels {
    /// No rows yet.
    pub fn new(along: Along) -> Self {
        Channels { along, count: 0, sums: Vec::new() }
    }

    /// The number of channels; 0 before there are rows.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of elements of each channel.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn each(&self, of: impl Fn(&Sums, f64) -> f64) -> Vec<f64> {
        self.sums.iter().map(|sums| of(sums, self.count as f64)).collect()
    }

    /// The mean of x: Σx ÷ n.
    pub fn means(&self) -> Vec<f64> {
        self.each(|sums, n| sums.values / n)
    }

    /// The second moment: Σx² ÷ n.
    pub fn squares(&self) -> Vec<f64> {
        self.each(|sums, n| sums.squares / n)
    }

    /// The unbiased variance: (Σx² − n·mean²) ÷ (n − 1); 0 of a single element.
    pub fn variances(&self) -> Vec<f64> {
        let about_mean = |sums: &Sums, n: f64| (sums.squares - sums.values * (sums.values / n)).max(0.0);
        self.each(|sums, n| about_mean(sums, n) / (n - 1.0).max(1.0))
    }

    /// The mean magnitude: Σ|x| ÷ n.
    pub fn magnitudes(&self) -> Vec<f64> {
        self.each(|sums, n| sums.magnitudes / n)
    }

    /// The share of elements that are zero.
    pub fn zeros(&self) -> Vec<f64> {
        self.each(|sums, n| sums.zeros as f64 / n)
    }
}

impl Statistic for Channels {
    fn add(&mut self, rows: Rows<'_>) -> Result<()> {
        let &[samples, ref inside @ ..] = rows.shape else {
            return Err(Error::unsupported("has no axes to observe"));
        };
        let axis = match self.along {
            Along::Second => 0,
            Along::Last => inside.len().saturating_sub(1),
        };
        let Some(&channels) = inside.get(axis) else {
            return Err(Error::unsupported(format!("its shape {:?} has no axis of channels", rows.shape)));
        };
        if self.sums.is_empty() {
            self.sums = vec![Sums::default(); channels];
        }
        if self.sums.len() != channels {
            let before = self.sums.len();
            return Err(Error::unsupported(format!("it has {channels} channels, before it had {before}")));
        }
        let outer = samples * inside[..axis].iter().product::<usize>();
        let inner: usize = inside[axis + 1..].iter().product();
        self.count += (outer * inner) as u64;
        self.sums.par_chunks_mut(TOGETHER).enumerate().for_each(|(chunk, sums)| {
            for row in 0..outer {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let start = (row * channels + chunk * TOGETHER + i) * inner;
                    sums.add(&rows.values[start..start + inner]);
                }
            }
        });
        Ok(())
    }
}

impl Sums {
    /// Adds a run, in four lanes so that one element need not wait for the one before.
    fn add(&mut self, run: &[f32]) {
        const LANES: usize = 4;
        let mut lanes = [[0f64; 3]; LANES];
        let (whole, rest) = run.as_chunks::<LANES>();
        let mut take = |values: &[f32]| {
            for (lane, &x) in lanes.iter_mut().zip(values) {
                let x = f64::from(x);
                *lane = [lane[0] + x, lane[1] + x * x, lane[2] + x.abs()];
            }
        };
        whole.iter().for_each(|four| take(four));
        take(rest);
        let total = |i: usize| lanes.iter().map(|lane| lane[i]).sum::<f64>();
        self.values += total(0);
        self.squares += total(1);
        self.magnitudes += total(2);
        self.zeros += run.iter().filter(|x| **x == 0.0).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of two positions in three rows, by hand; however the rows are divided.
    #[test]
    fn statistics_are_those_computed_by_hand() {
        let values = [1.0, 3.0, 0.0, -2.0, 5.0, 7.0, 0.0, 2.0, 0.0, 2.0, 4.0, 2.0f32];
        let mut whole = Channels::new(Along::Second);
        whole.add(Rows { values: &values, shape: &[3, 2, 2] }).unwrap();
        let mut parts = Channels::new(Along::Second);
        parts.add(Rows { values: &values[..4], shape: &[1, 2, 2] }).unwrap();
        parts.add(Rows { values: &values[4..], shape: &[2, 2, 2] }).unwrap();
        assert_eq!(whole, parts);
        assert_eq!((whole.len(), whole.count()), (2, 6));
        assert_eq!(whole.means(), [3.0, 1.0]);
        assert_eq!(whole.squares(), [88.0 / 6.0, 28.0 / 6.0]);
        assert_eq!(whole.variances(), [34.0 / 5.0, 22.0 / 5.0]);
        assert_eq!(whole.magnitudes(), [3.0, 10.0 / 6.0]);
        assert_eq!(whole.zeros(), [1.0 / 6.0, 2.0 / 6.0]);
        let mut last = Channels::new(Along::Last);
        last.add(Rows { values: &values, shape: &[3, 2, 2] }).unwrap();
        assert_eq!(last.means(), [10.0 / 6.0, 14.0 / 6.0]);
        let error = last.add(Rows { values: &values, shape: &[3, 4] }).unwrap_err().to_string();
        assert!(error.contains("4 channels, before it had 2"), "{error}");
    }
}
