//! Which windows of inputs the steps of some rows see, and which weights meet them there.

use super::Shape;

/// The instructions of a spilled weight take as long as so many bytes of slots.
const SPILL_WORK: f64 = 24.0;

/// Share of the slots that steps are planned to fill.
const FILLS: [f32; 13] = [0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0];

/// Where a weight went.
pub(super) enum Placement {
    /// Into a slot of a step, with its place in the window.
    Slot { step: usize, slot: usize, pick: usize },
    /// It found none.
    Spill,
}

/// Each input's number of weights over the mean; even where they differ by no more than chance.
pub(super) fn shares(columns: &[u32]) -> Vec<f32> {
    let mean = columns.iter().map(|&c| f64::from(c)).sum::<f64>() / columns.len() as f64;
    let variance = columns.iter().map(|&c| (f64::from(c) - mean).powi(2)).sum::<f64>() / columns.len() as f64;
    // Counts of independent weights vary by less than their mean.
    let even = variance <= 1.5 * mean;
    columns.iter().map(|&c| if even { 1.0 } else { (f64::from(c) / mean) as f32 }).collect()
}

/// Where the windows of steps begin, each step after so many inputs that a row has about `fill` weights among
/// them, and never so many that inputs are skipped. A row has `density` weights to an input, times the input's
/// share.
fn starts(columns: &[f32], density: f32, fill: f32, window: usize) -> Vec<u32> {
    let mut starts = vec![0];
    let (mut weights, mut last) = (0.0, 0);
    for (i, share) in columns.iter().enumerate() {
        if i > last && (weights >= fill || i - last == window) {
            starts.push(i as u32);
            weights = (weights - fill).clamp(0.0, fill);
            last = i;
        }
        weights += (share * density).min(1.0);
    }
    starts
}

/// Puts the weights of a row, given by their inputs in ascending order, into slots, as soon as the window has them.
pub(super) fn fill(starts: &[u32], shape: Shape, columns: &[u32], mut put: impl FnMut(usize, Placement)) {
    let mut next = 0;
    for (step, &start) in starts.iter().enumerate() {
        while next < columns.len() && columns[next] < start {
            put(next, Placement::Spill);
            next += 1;
        }
        for slot in 0..shape.slots {
            if next == columns.len() || columns[next] as usize >= start as usize + shape.window {
                break;
            }
            put(next, Placement::Slot { step, slot, pick: (columns[next] - start) as usize });
            next += 1;
        }
    }
    (next..columns.len()).for_each(|i| put(i, Placement::Spill));
}

/// The steps that are cheapest for rows like `rows`, given by the inputs of their weights; none where it's cheaper
/// to spill all. `columns` are the inputs' shares.
pub(super) fn cheapest(columns: &[f32], rows: &[Vec<u32>], shape: Shape, spill_bytes: usize) -> Vec<u32> {
    let weights = rows.iter().map(Vec::len).sum::<usize>();
    let density = weights as f32 / (rows.len() * columns.len()).max(1) as f32;
    let spill_cost = spill_bytes as f64 + SPILL_WORK;
    let step_bytes = shape.bytes as f64 / (shape.steps * shape.lanes) as f64;
    let mut best = (weights as f64 * spill_cost, vec![]);
    for fill_of in FILLS {
        let steps = starts(columns, density, fill_of * shape.slots as f32, shape.window);
        let mut spills = 0;
        for row in rows {
            fill(&steps, shape, row, |_, place| spills += usize::from(matches!(place, Placement::Spill)));
        }
        let cost = (rows.len() * steps.len()) as f64 * step_bytes + spills as f64 * spill_cost;
        if cost < best.0 {
            best = (cost, steps);
        }
    }
    best.1
}
