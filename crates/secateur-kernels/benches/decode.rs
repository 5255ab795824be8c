//! One row times the cold weights of a linear layer, sparse and dense of the same type.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench decode [part of a line's name]`. Each round runs
//! everything once, interleaved, so that other load affects all alike. Before each run, more memory is read than the caches
//! hold, which also measures the read bandwidth. A line names the value type, the zeros and the layout (`*`: the one that is
//! chosen). It gives the bytes of the weights, the fastest time and the median, the share of the read bandwidth that the
//! median reaches, and the gain over dense, best and median. Uneven rows have log-normal densities (σ = 0.5).

mod common;

use common::{noise, summary};
use secateur_kernels::decode::{Layout, RowWeights};
use secateur_kernels::{Activation, Buffer, ValueType, instruction_set, read_bandwidth};
use std::time::Instant;

const ROUNDS: usize = 15;

/// Outputs and inputs.
const SIZES: [[usize; 2]; 2] = [[11008, 4096], [4096, 4096]];

const TYPES: [(ValueType, &str); 3] =
    [(ValueType::F32, "f32"), (ValueType::F16, "f16"), (ValueType::Int8, "int8")];

const LAYOUTS: [Layout; 4] = [Layout::Dense, Layout::Mask, Layout::Slots, Layout::Pairs];

/// f32 values that exceed the caches.
const COLD: usize = 128 << 20;

/// Which weights are zero.
#[derive(Clone, Copy)]
enum Zeros {
    None,
    Even(f32),
    /// Rows with densities around this one.
    Uneven(f32),
    /// Two of every four.
    TwoOfFour,
}

const ZEROS: [(Zeros, &str); 10] = [
    (Zeros::None, "none"),
    (Zeros::Even(0.5), "50 %"),
    (Zeros::Even(0.8), "80 %"),
    (Zeros::Even(0.9), "90 %"),
    (Zeros::Even(0.95), "95 %"),
    (Zeros::Even(0.98), "98 %"),
    (Zeros::Uneven(0.5), "50 % uneven"),
    (Zeros::Uneven(0.8), "80 % uneven"),
    (Zeros::Uneven(0.9), "90 % uneven"),
    (Zeros::TwoOfFour, "2:4"),
];

fn weights([outputs, inputs]: [usize; 2], zeros: Zeros) -> Vec<f32> {
    let mut weights: Vec<f32> = noise(outputs * inputs, 1).iter().map(|w| w - 0.5).collect();
    let chance = noise(weights.len(), 2);
    // The sum of twelve uniform values is about normal with variance 1.
    let normal: Vec<f32> = noise(12 * outputs, 3).chunks(12).map(|c| c.iter().sum::<f32>() - 6.0).collect();
    for (o, (row, chance)) in weights.chunks_mut(inputs).zip(chance.chunks(inputs)).enumerate() {
        let density = match zeros {
            Zeros::None => continue,
            Zeros::Even(sparsity) => 1.0 - sparsity,
            Zeros::Uneven(sparsity) => (1.0 - sparsity) * (0.5 * normal[o] - 0.125).exp(),
            Zeros::TwoOfFour => {
                for (row, chance) in row.chunks_mut(4).zip(chance.chunks(4)) {
                    let mut order = [0, 1, 2, 3];
                    order.sort_by(|&a, &b| chance[a].total_cmp(&chance[b]));
                    order[..2].iter().for_each(|&i| row[i] = 0.0);
                }
                continue;
            }
        };
        row.iter_mut().zip(chance).filter(|(_, c)| **c >= density).for_each(|(w, _)| *w = 0.0);
    }
    weights
}

/// A layer, its name, and the name of the dense one.
struct Line {
    name: String,
    dense: &'static str,
    chosen: bool,
    layer: RowWeights,
    times: Vec<f64>,
}

fn lines(size: [usize; 2], wanted: &str) -> Vec<Line> {
    let mut lines = vec![];
    for (zeros, zeros_name) in ZEROS {
        let weights = weights(size, zeros);
        for (values, dense) in TYPES {
            let chosen = RowWeights::new(size[1], &weights, None, values).layout();
            for layout in LAYOUTS {
                let none = matches!(zeros, Zeros::None);
                let name = format!("{dense} {zeros_name} {layout:?}");
                let fits = match layout {
                    Layout::Dense => none,
                    Layout::Pairs => matches!(zeros, Zeros::TwoOfFour),
                    _ => !none,
                };
                if !fits || !(none || name.contains(wanted)) {
                    continue;
                }
                let layer = RowWeights::with_layout(layout, size[1], &weights, None, values);
                lines.push(Line { name, dense, chosen: layout == chosen, layer, times: vec![] });
            }
        }
    }
    lines
}

fn main() {
    // This thread is part of the pool, so that no call waits for another thread to start.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("a thread pool");
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let mut cold = Buffer::zeroed(COLD);
    cold.as_mut_slice().fill(1.0);
    for size in SIZES {
        let [outputs, inputs] = size;
        let mut lines = lines(size, &wanted);
        let (x, mut out) = (noise(inputs, 4), vec![0.0; outputs]);
        let mut bandwidths = vec![];
        for _ in 0..ROUNDS {
            for line in &mut lines {
                bandwidths.push(read_bandwidth(cold.as_slice()));
                let start = Instant::now();
                line.layer.run(&x, None, Activation::None, &mut out);
                line.times.push(start.elapsed().as_secs_f64());
            }
        }
        bandwidths.sort_by(|a, b| b.total_cmp(a));
        let (best, median) = (bandwidths[0], bandwidths[bandwidths.len() / 2]);
        println!(
            "{outputs} x {inputs}, {} on {} threads; memory is read at {:.1} GB/s at best, {:.1} in the median",
            instruction_set(),
            rayon::current_num_threads(),
            best / 1e9,
            median / 1e9
        );
        let times: Vec<[f64; 2]> = lines.iter_mut().map(|line| summary(&mut line.times)).collect();
        for (line, [best, middle]) in lines.iter().zip(&times) {
            let dense = lines.iter().position(|l| l.name.starts_with(&format!("{} none", line.dense)));
            let dense = times[dense.expect("a dense layer of each type")];
            let bytes = line.layer.bytes() as f64;
            println!(
                "  {:1} {:24} {:6.1} MB  {:6.2} / {:6.2} ms  {:3.0} %  {:4.2} / {:4.2}",
                if line.chosen { "*" } else { "" },
                line.name,
                bytes / 1e6,
                best * 1e3,
                middle * 1e3,
                bytes / middle / median * 100.0,
                dense[0] / best,
                dense[1] / middle
            );
        }
    }
}
