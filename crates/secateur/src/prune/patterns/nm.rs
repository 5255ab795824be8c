//! N:M: at most N of each M consecutive input channels.

use std::fmt;

use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use super::axes::{Axis, ordered_axes};
use super::{Pattern, PatternInfo};
use crate::prune::Amount;
use crate::prune::groups::Groups;

pub(super) const INFO: PatternInfo = PatternInfo {
    name: "N:M",
    summary: "all but N of each M consecutive input channels at the same output and position, for any \
              N < M; the pattern fixes the sparsity",
    source: "Mishra et al. 2021, arXiv:2104.08378",
    pattern: Pattern::Nm(NofM { n: 2, m: 4 }),
    parse,
};

/// At most N of each M are kept, with 0 < N < M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NofM {
    n: usize,
    m: usize,
}

fn parse(text: &str) -> Option<Result<Pattern>> {
    let (n, m) = text.split_once(':')?;
    if !n.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let numbers = n.parse().ok().zip(m.parse().ok());
    Some(numbers.ok_or_else(|| NofM::refused(text)).and_then(|(n, m)| NofM::new(n, m)).map(Pattern::Nm))
}

impl NofM {
    /// At most `n` of each `m`.
    ///
    /// # Errors
    /// `Usage` unless 0 < n < m.
    pub fn new(n: usize, m: usize) -> Result<Self> {
        if 0 < n && n < m { Ok(NofM { n, m }) } else { Err(NofM::refused(&format!("{n}:{m}"))) }
    }

    fn refused(text: &str) -> Error {
        Error::usage(format!("`{text}` is no pattern N:M: expected 0 < N < M, such as 2:4"))
    }

    /// How many of a group are kept at most.
    pub fn n(self) -> usize {
        self.n
    }

    /// The input channels of a group.
    pub fn m(self) -> usize {
        self.m
    }

    /// The share that is pruned where M divides the input channels: 1 − N ÷ M.
    pub fn sparsity(self) -> f64 {
        (self.m - self.n) as f64 / self.m as f64
    }

    /// Whether an amount is what the pattern makes of it: the sparsity, to three digits.
    pub fn fixes(self, amount: Amount) -> bool {
        matches!(amount, Amount::Sparsity(s) if (s - self.sparsity()).abs() < 1e-3)
    }

    /// The groups of a weight of this shape.
    ///
    /// # Errors
    /// `Usage` where the weight has no input axis, `Unsupported` where its input channels have no
    /// order or its groups cannot be told apart.
    pub fn groups(self, view: &PrunableView, shape: &[usize]) -> Result<Groups> {
        let axes = ordered_axes(view, shape, &[Axis::In])?;
        let extents = |axes: &[(Axis, usize)]| axes.iter().map(|a| a.1).product();
        let at = axes.iter().position(|a| a.0 == Axis::In).unwrap_or(axes.len());
        Ok(Groups {
            outer: extents(&axes[..at]),
            extent: axes[at].1,
            inner: extents(&axes[at + 1..]),
            m: self.m,
        })
    }
}

impl fmt::Display for NofM {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.n, self.m)
    }
}
