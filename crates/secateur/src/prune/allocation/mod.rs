//! How a target is divided among layers.
//!
//! One allocation per file. [`ALLOCATIONS`] is the table of all of them: what a method can name, and
//! what help and docs say.

mod erk;
mod uniform;
mod uniform_plus;

use std::fmt;

use secateur_model::{Error, Result};

/// How a target is divided among layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocation {
    /// The same sparsity for each.
    #[default]
    Uniform,
    /// The same sparsity for each but the first convolution and, at high sparsities, the last layer.
    UniformPlus,
    /// Densities by Erdős–Rényi-Kernel.
    Erk,
}

/// A row of the table of allocations.
#[derive(Clone, Copy, Debug)]
pub struct AllocationInfo {
    /// The name as a method is written.
    pub name: &'static str,
    /// One sentence for help texts.
    pub summary: &'static str,
    /// A layer's density d.
    pub formula: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// The allocation.
    pub allocation: Allocation,
    /// How many stay of each layer, before rounding, where `kept` stay of all together; `None` where
    /// each layer takes the amount by itself.
    kept: Option<Solve>,
}

/// How many stay of each layer where a number stays of all together.
type Solve = fn(layers: &[Share<'_>], kept: f64) -> Result<Vec<f64>>;

/// All allocations.
pub const ALLOCATIONS: &[AllocationInfo] = &[uniform::INFO, uniform_plus::INFO, erk::INFO];

/// A layer that takes part in an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// The extents of its weight.
    pub shape: &'a [usize],
    /// What is ranked of it: weights, channels or blocks.
    pub size: usize,
    /// Those of them that are pruned already.
    pub already: usize,
    /// Its position in the network.
    pub place: Place,
}

impl Share<'_> {
    fn left(&self) -> f64 {
        (self.size - self.already) as f64
    }
}

/// The position of a layer in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first convolution.
    FirstConvolution,
    /// The last layer.
    Last,
    /// Any other.
    Middle,
}

impl Allocation {
    fn info(self) -> &'static AllocationInfo {
        ALLOCATIONS.iter().find(|info| info.allocation == self).unwrap_or(&ALLOCATIONS[0])
    }

    /// The allocation whose name a text begins with, and what follows the `+` behind it. A name may end in `+`
    /// itself.
    pub(super) fn leading(text: &str) -> (Option<Self>, Option<&str>) {
        let rest = |info: &'static AllocationInfo| match text.strip_prefix(info.name)? {
            "" => Some((info, None)),
            rest => Some((info, Some(rest.strip_prefix('+')?))),
        };
        let found = ALLOCATIONS.iter().filter_map(rest).max_by_key(|(info, _)| info.name.len());
        found.map_or((None, Some(text)), |(info, rest)| (Some(info.allocation), rest))
    }

    /// Whether layers get counts of their own, so that the amount is met by all together; otherwise
    /// each takes the amount by itself.
    pub fn divides(self) -> bool {
        self.info().kept.is_some()
    }

    /// How many of each layer are pruned in total where `pruned` of all together are: exactly that
    /// many in sum, and never fewer of a layer than are pruned already.
    ///
    /// # Errors
    /// `Usage` where the allocation cannot meet the sum.
    pub fn targets(self, layers: &[Share<'_>], pruned: usize) -> Result<Vec<usize>> {
        let Some(solve) = self.info().kept else {
            return Err(Error::internal(format!("the allocation `{self}` divides nothing")));
        };
        let size: usize = layers.iter().map(|l| l.size).sum();
        Ok(whole(layers, &solve(layers, (size - pruned) as f64)?, pruned))
    }
}

/// How many of each row are pruned in total where `pruned` of all together are: the same share of
/// each, exactly as many in sum, and never fewer of a row than are pruned already.
pub fn evenly(rows: &[Share<'_>], pruned: usize) -> Vec<usize> {
    let sizes: Vec<f64> = rows.iter().map(|row| row.size as f64).collect();
    let kept = proportional(rows, &sizes, sizes.iter().sum::<f64>() - pruned as f64);
    whole(rows, &kept, pruned)
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// How many are pruned of each layer where `kept` stay, in whole numbers of a given sum: rounded
/// down, and up where most was cut off; among equals earlier layers go first.
fn whole(layers: &[Share<'_>], kept: &[f64], sum: usize) -> Vec<usize> {
    /// Numbers that are whole but for the rounding of sums are not rounded down by one.
    const SLACK: f64 = 1e-6;
    let exact: Vec<f64> = layers.iter().zip(kept).map(|(l, kept)| l.size as f64 - kept).collect();
    let floor = |x: f64| (x + SLACK).floor().max(0.0);
    let mut counts: Vec<usize> =
        layers.iter().zip(&exact).map(|(l, &x)| (floor(x) as usize).clamp(l.already, l.size)).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by(|&a, &b| (exact[b] - floor(exact[b])).total_cmp(&(exact[a] - floor(exact[a]))));
    let missing = sum.saturating_sub(counts.iter().sum());
    let open = order.into_iter().filter(|&l| counts[l] < layers[l].size).take(missing);
    for layer in open.collect::<Vec<_>>() {
        counts[layer] += 1;
    }
    counts
}

/// How many stay of each layer: ε·`weights`, with ε such that they are `kept` in sum. Layers of which
/// that is more than is left stay as they are, and ε is solved again for the others. It grows by that,
/// so that all such layers may be taken at once.
fn proportional(layers: &[Share<'_>], weights: &[f64], kept: f64) -> Vec<f64> {
    let mut found: Vec<Option<f64>> = vec![None; layers.len()];
    loop {
        let rest = kept - found.iter().flatten().sum::<f64>();
        let open: f64 = weights.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(w, _)| w).sum();
        let epsilon = if open > 0.0 { (rest / open).max(0.0) } else { 0.0 };
        let mut done = true;
        for ((layer, weight), found) in layers.iter().zip(weights).zip(&mut found) {
            if found.is_none() && epsilon * weight > layer.left() {
                *found = Some(layer.left());
                done = false;
            }
        }
        if done {
            let share = |(weight, found): (&f64, Option<f64>)| found.unwrap_or(epsilon * weight);
            return weights.iter().zip(found).map(share).collect();
        }
    }
}
