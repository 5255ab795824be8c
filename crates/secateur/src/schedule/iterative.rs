//! Pruning in rounds, each of the same share of what remains, with training between them.

/// Round k of n, at equal distances from start to end: 1 − (1 − s₀) ((1 − s) / (1 − s₀))^(k / n).
pub(super) fn at(step: u64, start: u64, end: u64, rounds: u64, initial: f64, target: f64) -> Option<f64> {
    let place = |round: u64| start + (end - start) * round / (rounds - 1).max(1);
    let round = (0..rounds).rev().find(|&round| place(round) == step)?;
    Some(super::gradual::exponential(initial, target, (round + 1) as f64 / rounds as f64))
}
