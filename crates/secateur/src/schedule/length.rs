//! How long training lasts.

use std::fmt;
use std::str::FromStr;

use secateur_model::Error;
use serde::{Deserialize, Serialize};

/// A number of epochs or of iterations, written `160ep` or `500it`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Length {
    /// Passes over the training samples.
    Epochs(u64),
    /// Steps of the optimiser.
    Iterations(u64),
}

impl Length {
    /// In iterations, where an epoch has this many.
    pub fn iterations(self, of_epoch: u64) -> u64 {
        match self {
            Length::Epochs(epochs) => epochs.saturating_mul(of_epoch),
            Length::Iterations(iterations) => iterations,
        }
    }
}

impl FromStr for Length {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let expected = || {
            Error::usage(format!(
                "`{text}` is no length of training: expected epochs or iterations, such as 10ep or 500it"
            ))
        };
        let (number, unit): (_, fn(u64) -> Length) = match (text.strip_suffix("ep"), text.strip_suffix("it"))
        {
            (Some(number), _) => (number, Length::Epochs),
            (_, Some(number)) => (number, Length::Iterations),
            _ => return Err(expected()),
        };
        number.trim().parse().map(unit).map_err(|_| expected())
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Epochs(epochs) => write!(f, "{epochs}ep"),
            Length::Iterations(iterations) => write!(f, "{iterations}it"),
        }
    }
}

impl TryFrom<String> for Length {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Length> for String {
    fn from(length: Length) -> String {
        length.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_with_their_unit() {
        for (text, length) in [("160ep", Length::Epochs(160)), ("500it", Length::Iterations(500))] {
            assert_eq!(text.parse::<Length>().unwrap(), length);
            assert_eq!(length.to_string(), text);
        }
        for text in ["160", "ep", "-1ep", "1.5ep", "10 epochs", "99999999999999999999it"] {
            assert!(text.parse::<Length>().unwrap_err().to_string().contains("10ep or 500it"), "{text}");
        }
        assert_eq!(Length::Epochs(3).iterations(100), 300);
        assert_eq!(Length::Iterations(3).iterations(100), 3);
    }
}
