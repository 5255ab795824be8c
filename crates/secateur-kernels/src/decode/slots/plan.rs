//! Which windows of inputs the steps of some rows see, and which weights meet them there.

use super::super::value::WINDOW;

/// Spilled weights take 8 bytes and several instructions each; as costly as so many bytes of slots.
const SPILL_COST: f64 = 20.0;

/// Share of the slots that steps are planned to fill.
const FILLS: [f32; 11] = [0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

/// Where a weight went.
pub(super) enum Place {
    /// Into a slot of a step, with its place in the window.
    Slot { step: usize, slot: usize, pick: usize },
    /// It found none.
    Spill,
}

/// Where the windows of steps begin, each step after so many inputs that a row has about `fill` weights among
/// them, and never so many that inputs are skipped. `columns` has each input's share of rows that aren't zero there.
fn starts(columns: &[f32], density: f32, fill: f32) -> Vec<u32> {
    let mut starts = vec![0];
    let (mut weights, mut last) = (0.0, 0);
    for (i, share) in columns.iter().enumerate() {
        let here = (share * density).min(1.0);
        if i > last && (weights + here > fill || i - last == WINDOW) {
            starts.push(i as u32);
            weights = (weights - fill).max(0.0);
            last = i;
        }
        weights += here;
    }
    starts
}

/// Puts the weights of a row, given by their inputs in ascending order, into slots, as soon as the window has them.
pub(super) fn fill(starts: &[u32], slots: usize, columns: &[u32], mut put: impl FnMut(usize, Place)) {
    let mut next = 0;
    for (step, &start) in starts.iter().enumerate() {
        while next < columns.len() && columns[next] < start {
            put(next, Place::Spill);
            next += 1;
        }
        for slot in 0..slots {
            if next == columns.len() || columns[next] as usize >= start as usize + WINDOW {
                break;
            }
            put(next, Place::Slot { step, slot, pick: (columns[next] - start) as usize });
            next += 1;
        }
    }
    (next..columns.len()).for_each(|i| put(i, Place::Spill));
}

/// The steps that are cheapest for rows like `rows`; none where it's cheaper to spill all. `columns` has each
/// input's number of weights over `mean`, the mean of the inputs.
pub(super) fn cheapest(columns: &[f32], rows: &[Vec<u32>], slots: usize, step_bytes: f64) -> Vec<u32> {
    let weights = rows.iter().map(Vec::len).sum::<usize>();
    let density = weights as f32 / (rows.len() * columns.len()).max(1) as f32;
    let mut best = (weights as f64 * SPILL_COST, vec![]);
    for fill_of in FILLS {
        let steps = starts(columns, density, fill_of * slots as f32);
        let mut spills = 0;
        for row in rows {
            fill(&steps, slots, row, |_, place| spills += usize::from(matches!(place, Place::Spill)));
        }
        let cost = (rows.len() * steps.len()) as f64 * step_bytes + spills as f64 * SPILL_COST;
        if cost < best.0 {
            best = (cost, steps);
        }
    }
    best.1
}
