//! Which positions stay, by their scores.

use secateur_model::dims::{Group, Kept};
use secateur_model::{Error, Result};

use crate::prune::{Amount, Scope};

/// The positions that stay where a share of all goes: of each group, or of all together. A group never empties, and keeps
/// a multiple of `round_to` where it has as many. Ties go by position.
pub(super) fn keep(
    groups: &[&Group],
    scores: &[Vec<f64>],
    scope: Scope,
    sparsity: f64,
    round_to: usize,
) -> Result<Kept> {
    Amount::Sparsity(sparsity).check()?;
    let removed: Vec<usize> = match scope {
        Scope::Layer => groups
            .iter()
            .map(|group| Ok(Amount::Sparsity(sparsity).target(group.extent, 0, false)?.pruned))
            .collect::<Result<_>>()?,
        Scope::Global => globally(groups, scores, sparsity)?,
        Scope::Row => return Err(Error::usage("channels are ranked by layer or globally, not by row")),
    };
    let mut kept = Kept::new();
    for ((group, scores), removed) in groups.iter().zip(scores).zip(removed) {
        let count = (group.extent - removed).max(1).next_multiple_of(round_to).min(group.extent);
        if count < group.extent {
            let mut order: Vec<usize> = (0..group.extent).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            order.truncate(count);
            order.sort_unstable();
            kept.insert(group.dim, order);
        }
    }
    Ok(kept)
}

/// How many positions of each group are among the lowest of all.
fn globally(groups: &[&Group], scores: &[Vec<f64>], sparsity: f64) -> Result<Vec<usize>> {
    let mut all: Vec<(f64, usize)> = scores
        .iter()
        .enumerate()
        .flat_map(|(group, scores)| scores.iter().map(move |&s| (s, group)))
        .collect();
    let count = Amount::Sparsity(sparsity).target(all.len(), 0, false)?.pruned;
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut removed = vec![0; groups.len()];
    all[..count].iter().for_each(|&(_, group)| removed[group] += 1);
    Ok(removed)
}
