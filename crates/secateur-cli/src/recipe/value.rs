//! Values that flags and recipes write in the same way: shares, and lists of which one is written alone.

use std::fmt;
use std::str::FromStr;

use secateur::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A share from 0 to 1, written `0.8` or `80%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub(crate) struct Share(f64);

impl Share {
    /// A share.
    ///
    /// # Errors
    /// `Usage` where it is not between 0 and 1; what looks like a percentage is said to.
    pub(crate) fn new(value: f64) -> Result<Share> {
        if (0.0..=1.0).contains(&value) {
            return Ok(Share(value));
        }
        if value > 1.0 && value <= 100.0 {
            // Without the noise of binary fractions: 0.8 and not 0.8000000000000002.
            let share = (value * 1e10).round() / 1e12;
            // Of `0,5`, which lists two shares, only the 5 is wrong.
            let point = if value < 10.0 && value.fract() == 0.0 {
                format!(" Commas separate shares: write 0.{value} with a point.")
            } else {
                String::new()
            };
            return Err(Error::usage(format!(
                "{value} is more than 1: did you mean {share} ({value} %)?{point}"
            )));
        }
        Err(Error::usage(format!("{value} is not a share between 0 and 1, such as 0.8 or 80%")))
    }

    /// The share, from 0 to 1.
    pub(crate) fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Share> {
        let (number, percent) = match text.trim().strip_suffix('%') {
            Some(number) => (number.trim_end(), true),
            None => (text.trim(), false),
        };
        let value: f64 = number.parse().map_err(|_| {
            Error::usage(format!("`{text}` is not a share between 0 and 1, such as 0.8 or 80%"))
        })?;
        if percent && (0.0..=100.0).contains(&value) {
            return Ok(Share(value / 100.0));
        }
        if percent {
            return Err(Error::usage(format!("`{text}` is not between 0% and 100%")));
        }
        Share::new(value)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a share between 0 and 1, such as 0.8 or \"80%\"")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Share, E> {
                Share::new(value).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Share, E> {
                self.visit_f64(value as f64)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Share, E> {
                self.visit_f64(value as f64)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Share, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// How many samples are held out: a share of them, or a number from 2 on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum HeldOut {
    /// That many.
    Samples(usize),
    /// A share of all.
    Share(Share),
}

impl FromStr for HeldOut {
    type Err = Error;

    fn from_str(text: &str) -> Result<HeldOut> {
        match text.trim().parse() {
            Ok(count) if count > 1 => Ok(HeldOut::Samples(count)),
            _ => text.parse().map(HeldOut::Share),
        }
    }
}

/// Lists of which a single value is written without brackets: `method = "l1"`, `method = ["l1", "l2"]`.
pub(crate) mod list {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{self, IntoDeserializer, value::SeqAccessDeserializer};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match values {
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        struct OneOrMore<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for OneOrMore<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|one| vec![one])
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|one| vec![one])
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|one| vec![one])
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|one| vec![one])
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, values: A) -> Result<Vec<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(values))
            }
        }
        deserializer.deserialize_any(OneOrMore(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fractions_or_percentages() {
        let share = |text: &str| text.parse::<Share>().map(Share::get).map_err(|e| e.to_string());
        assert_eq!(share("0.8"), Ok(0.8));
        assert_eq!(share("80%"), Ok(0.8));
        assert_eq!(share("62.5 %"), Ok(0.625));
        assert_eq!(share("80"), Err("80 is more than 1: did you mean 0.8 (80 %)?".into()));
        assert_eq!(share("1.5"), Err("1.5 is more than 1: did you mean 0.015 (1.5 %)?".into()));
        for text in ["-0.1", "101", "120%", "nan", "", "half"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_held_out_is_a_share_or_a_number() {
        let share = |value| HeldOut::Share(Share::new(value).unwrap());
        for (text, expected) in
            [("0.1", share(0.1)), ("10%", share(0.1)), ("1", share(1.0)), ("5000", HeldOut::Samples(5000))]
        {
            assert_eq!(text.parse::<HeldOut>().unwrap(), expected);
        }
        let read = |json: &str| serde_json::from_str::<HeldOut>(json).unwrap();
        assert_eq!([read("0.1"), read("5000")], [share(0.1), HeldOut::Samples(5000)]);
        assert!("1.5".parse::<HeldOut>().is_err());
    }
}
