//! Which samples of a data set are used, and which of them are held out.

use secateur_model::text::counted;
use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::random::Stream;

/// Which samples are used, and the batch size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Use this many samples, drawn without replacement by `seed`; all by default. A larger number
    /// under the same seed contains the smaller one's samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The seed of the draw.
    pub seed: u64,
    /// The batch size; by default the one the model fixes, or else 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The part of the samples that is used.
    #[serde(skip)]
    pub split: Split,
    /// Of these at most so many, drawn by the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
}

/// A part of the samples: some are held out from training, to validate on. Which ones, the seed says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// All of them.
    #[default]
    All,
    /// All but so many.
    Train(usize),
    /// Only these.
    HeldOut(usize),
}

impl Sampling {
    /// The indices of the samples used out of `len`, rising: those with the smallest hash of seed and index.
    ///
    /// # Errors
    /// Where more samples are asked for than there are, or none.
    pub fn indices(&self, len: usize) -> Result<Vec<usize>> {
        let part = self.part(len)?;
        match self.most {
            Some(0) => Err(Error::usage("at least one sample is needed, found 0")),
            Some(most) if most < part.len() => {
                let stream = Stream::new(self.seed, "at most");
                let mut order = part;
                order.sort_by_cached_key(|&i| (stream.draw(i as u64), i));
                order.truncate(most);
                order.sort_unstable();
                Ok(order)
            }
            _ => Ok(part),
        }
    }

    fn part(&self, len: usize) -> Result<Vec<usize>> {
        let drawn = self.drawn(len)?;
        let (held_out, count) = match self.split {
            Split::All => return Ok(drawn),
            Split::Train(count) => (false, count),
            Split::HeldOut(count) => (true, count),
        };
        if count == 0 || count >= drawn.len() {
            let most = counted(drawn.len(), "sample");
            return Err(Error::usage(format!("{count} of {most} cannot be held out for validation")));
        }
        let mut order = drawn;
        let stream = Stream::new(self.seed, "held out");
        order.sort_by_cached_key(|&i| (stream.draw(i as u64), i));
        let mut part = if held_out { order[..count].to_vec() } else { order[count..].to_vec() };
        part.sort_unstable();
        Ok(part)
    }

    fn drawn(&self, len: usize) -> Result<Vec<usize>> {
        let Some(samples) = self.samples else {
            return Ok((0..len).collect());
        };
        if samples == 0 || samples > len {
            let most = counted(len, "sample");
            return Err(Error::usage(match samples {
                0 => "option `samples` is 0: at least one sample is needed".to_string(),
                _ => format!("option `samples` is {samples}: the data set has only {most}"),
            }));
        }
        let mut drawn: Vec<usize> = (0..len).collect();
        let hash = |value: u64| Stream::seeded(value).draw(0);
        drawn.sort_by_cached_key(|&i| (hash(self.seed ^ hash(i as u64)), i));
        drawn.truncate(samples);
        drawn.sort_unstable();
        Ok(drawn)
    }
}
