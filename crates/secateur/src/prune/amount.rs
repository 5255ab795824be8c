//! How much is pruned.

use std::fmt;

use secateur_model::{Error, Result};

/// How many are pruned in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The total number pruned, including those pruned before.
    pub pruned: usize,
    /// Whether more than asked for were pruned before; then nothing changes.
    pub exceeded: bool,
}

/// How much is pruned of what is ranked together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A share in [0, 1].
    Sparsity(f64),
    /// A number of weights, or of channels.
    Count(usize),
}

impl Amount {
    /// Checks that a sparsity is a share.
    ///
    /// # Errors
    /// `Usage` where it is not in [0, 1].
    pub fn check(self) -> Result<()> {
        match self {
            Amount::Sparsity(s) if !(0.0..=1.0).contains(&s) => {
                Err(Error::usage(format!("a sparsity is a share between 0 and 1, found {s}")))
            }
            _ => Ok(()),
        }
    }

    /// How many of `size` are pruned in the end, `already` of them included: never fewer than
    /// `already`, since nothing is revived.
    ///
    /// A share becomes a count by rounding half to even, as Python's `round` does. With
    /// `of_remaining` the amount is of the `size − already` that are left, which is what
    /// `torch.nn.utils.prune` means.
    ///
    /// # Errors
    /// `Usage` where the sparsity is not a share or the count is more than there are.
    pub fn target(self, size: usize, already: usize, of_remaining: bool) -> Result<Target> {
        self.check()?;
        let base = if of_remaining { size - already } else { size };
        let count = match self {
            Amount::Sparsity(s) => (s * base as f64).round_ties_even() as usize,
            Amount::Count(n) if n > base => {
                let left = if of_remaining { " left" } else { "" };
                return Err(Error::usage(format!("{n} are to be pruned, but there are only {base}{left}")));
            }
            Amount::Count(n) => n,
        };
        let wanted = if of_remaining { already + count } else { count };
        Ok(Target { pruned: wanted.max(already), exceeded: wanted < already })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Sparsity(s) => write!(f, "sparsity {s}"),
            Amount::Count(n) => write!(f, "count {n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(amount: Amount, size: usize, already: usize, of_remaining: bool) -> usize {
        amount.target(size, already, of_remaining).unwrap().pruned
    }

    /// Counts that `torch.nn.utils.prune` gives for tensors of 5 and 7 elements.
    #[test]
    fn shares_round_half_to_even() {
        let of = |s: f64, n| pruned(Amount::Sparsity(s), n, 0, false);
        assert_eq!([of(0.1, 5), of(0.5, 5), of(0.5, 7)], [0, 2, 4]);
        assert_eq!([of(0.0, 7), of(1.0, 7), of(0.3, 0)], [0, 7, 0]);
    }

    #[test]
    fn what_is_pruned_already_counts_and_stays() {
        assert_eq!(pruned(Amount::Sparsity(0.5), 10, 2, false), 5);
        assert_eq!(Amount::Sparsity(0.5).target(10, 8, false).unwrap(), Target { pruned: 8, exceeded: true });
        assert_eq!(pruned(Amount::Sparsity(0.5), 10, 2, true), 6);
        assert_eq!(pruned(Amount::Count(3), 10, 2, true), 5);
        assert!(Amount::Count(9).target(10, 2, true).is_err());
        assert!(Amount::Count(11).target(10, 0, false).is_err());
        assert!(Amount::Sparsity(1.5).target(10, 0, false).is_err());
        assert!(Amount::Sparsity(f64::NAN).target(10, 0, false).is_err());
    }
}
