//! Pruning a little at a time.

/// The share of the way from start to end at a step that prunes: every so many steps, and at the end.
pub(super) fn share(step: u64, start: u64, end: u64, every: u64) -> Option<f64> {
    let prunes = step >= start && step <= end && ((step - start).is_multiple_of(every) || step == end);
    prunes.then(|| (step - start) as f64 / (end - start) as f64)
}

pub(super) fn linear(initial: f64, target: f64, share: f64) -> f64 {
    initial + (target - initial) * share
}

pub(super) fn exponential(initial: f64, target: f64, share: f64) -> f64 {
    1.0 - (1.0 - initial) * ((1.0 - target) / (1.0 - initial)).powf(share)
}

pub(super) fn cubic(initial: f64, target: f64, share: f64) -> f64 {
    target + (initial - target) * (1.0 - share).powi(3)
}
