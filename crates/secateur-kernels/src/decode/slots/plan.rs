//! Plans the windows of inputs of the steps, and the slots of the weights.

use super::Shape;

/// A spilled weight takes as long as reading this many bytes of slots.
const SPILL_WORK: f64 = 24.0;

/// Shares of filled slots that are tried.
const FILLS: [f32; 13] = [0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0];

/// Where a weight is stored.
pub(super) enum Placement {
    /// In a slot of a step, with its position in the window.
    Slot { step: usize, slot: usize, pick: usize },
    /// Among the spills.
    Spill,
}

/// Each input's number of weights ÷ the mean; 1 for all if they differ by no more than chance.
pub(super) fn shares(columns: &[u32]) -> Vec<f32> {
    let mean = columns.iter().map(|&c| f64::from(c)).sum::<f64>() / columns.len() as f64;
    let variance = columns.iter().map(|&c| (f64::from(c) - mean).powi(2)).sum::<f64>() / columns.len() as f64;
    // The counts of independent weights have a variance below their mean.
    let even = variance <= 1.5 * mean;
    columns.iter().map(|&c| if even { 1.0 } else { (f64::from(c) / mean) as f32 }).collect()
}

/// Start of each step's window: a step covers as many inputs as hold about `fill` weights of a row, and never so many that
/// inputs are skipped. A row has `density` weights per input, times the input's share.
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

/// Assigns the weights of a row, given by their inputs in ascending order, to the first free slots whose window has them.
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

/// The cheapest steps for rows like `rows`, given by the inputs of their weights; none if spilling all is cheaper.
/// `columns` are the inputs' shares.
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
