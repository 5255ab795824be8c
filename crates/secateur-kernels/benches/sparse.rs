//! Sparse convolutions of ResNet-50 and ResNeXt-50 on one image, compared with dense ones.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench sparse [part of a layer's name]`. Each round runs all
//! layers once in each form, one after the other as in a network: weights are out of the near caches, branches are no longer
//! predicted, and a layer reads what its predecessor wrote. A line names a layer and gives its dense time on tensors, and for
//! each form of the weights and each sparsity the time, the share of peak that the nonzero weights reach, and the gain over
//! dense.

mod common;

use common::{noise, summary};
use secateur_kernels::sparse::{Form, SparseConv};
use secateur_kernels::tiled::Tiling;
use secateur_kernels::{Activation, Buffer, ConvSpec, PackedConv, instruction_set, peak_flops};
use std::time::Instant;

const CASES: [(Form, f32); 6] = [
    (Form::Panels, 0.0),
    (Form::Panels, 0.5),
    (Form::Rows, 0.5),
    (Form::Panels, 0.8),
    (Form::Rows, 0.8),
    (Form::Rows, 0.9),
];
const ROUNDS: usize = 40;

/// A square convolution with "same" padding.
struct Layer {
    /// Number of occurrences in the network.
    times: usize,
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    /// Adds a residual before the activation.
    residual: bool,
}

const fn layer(times: usize, i: usize, o: usize, size: usize, kernel: usize, stride: usize) -> Layer {
    Layer { times, channels: [i, o], size, kernel, stride, groups: 1, residual: false }
}

const fn residual(times: usize, i: usize, o: usize, size: usize) -> Layer {
    Layer { residual: true, ..layer(times, i, o, size, 1, 1) }
}

const fn grouped(channels: usize, size: usize, stride: usize) -> Layer {
    Layer { groups: 32, ..layer(0, channels, channels, size, 3, stride) }
}

const LAYERS: [Layer; 30] = [
    layer(0, 3, 64, 224, 7, 2),
    layer(1, 64, 64, 56, 1, 1),
    layer(3, 64, 64, 56, 3, 1),
    residual(4, 64, 256, 56),
    layer(2, 256, 64, 56, 1, 1),
    layer(1, 256, 128, 56, 1, 1),
    layer(1, 128, 128, 56, 3, 2),
    layer(1, 256, 512, 56, 1, 2),
    residual(4, 128, 512, 28),
    layer(3, 512, 128, 28, 1, 1),
    layer(3, 128, 128, 28, 3, 1),
    layer(1, 512, 256, 28, 1, 1),
    layer(1, 256, 256, 28, 3, 2),
    layer(1, 512, 1024, 28, 1, 2),
    residual(6, 256, 1024, 14),
    layer(5, 1024, 256, 14, 1, 1),
    layer(5, 256, 256, 14, 3, 1),
    layer(1, 1024, 512, 14, 1, 1),
    layer(1, 512, 512, 14, 3, 2),
    layer(1, 1024, 2048, 14, 1, 2),
    residual(3, 512, 2048, 7),
    layer(2, 2048, 512, 7, 1, 1),
    layer(2, 512, 512, 7, 3, 1),
    grouped(128, 56, 1),
    grouped(256, 56, 2),
    grouped(256, 28, 1),
    grouped(512, 28, 2),
    grouped(512, 14, 1),
    grouped(1024, 14, 2),
    grouped(1024, 7, 1),
];

/// Memory of activations: two buffers that alternate as input and output, and one for residuals.
struct Maps([Buffer; 3]);

impl Maps {
    /// For maps of `len` values.
    fn new(len: usize) -> Maps {
        Maps([1, 2, 3].map(|seed| {
            let mut buffer = Buffer::zeroed(len);
            buffer.as_mut_slice().copy_from_slice(&noise(len, seed));
            buffer
        }))
    }

    /// The last output as the input, memory for the output, and the residual.
    fn next(&mut self) -> (&[f32], &mut [f32], &[f32]) {
        let [a, b, residual] = &mut self.0;
        std::mem::swap(a, b);
        (a.as_slice(), b.as_mut_slice(), residual.as_slice())
    }
}

/// A layer in all its forms, with its measurements.
struct Case {
    layer: Layer,
    dense: PackedConv,
    convs: Vec<SparseConv>,
    /// Lengths of the input and the output, on tensors.
    lens: [usize; 2],
    /// Seconds of each round: dense on tensors, then each of [`CASES`].
    times: Vec<Vec<f64>>,
}

impl Case {
    fn new(layer: Layer) -> Case {
        let Layer { channels: [i, o], size, kernel, stride, groups, .. } = layer;
        let spec = ConvSpec {
            stride: vec![stride; 2],
            pads: vec![kernel / 2; 4],
            groups,
            ..ConvSpec::new(i, o, &[size; 2], &[kernel; 2])
        };
        let count = o * i / groups * kernel * kernel;
        let (weights, chance) = (noise(count, 1), noise(count, 2));
        let bias = vec![0.1; o];
        let input = Tiling::new(i, size, size);
        let convs = CASES.map(|(form, sparsity)| {
            // Scaled so that values neither vanish nor overflow from layer to layer.
            let scale = (24.0 / ((1.0 - sparsity) * (count / o) as f32)).sqrt();
            let kept = |(w, c): (&f32, &f32)| if *c < sparsity { 0.0 } else { scale * (w - 0.5) };
            let weights: Vec<f32> = weights.iter().zip(&chance).map(kept).collect();
            SparseConv::new(form, &weights, Some(&bias), &spec, &input)
        });
        let lens = [i * size * size, o * spec.out_size().iter().product::<usize>()];
        let weights: Vec<f32> =
            weights.iter().map(|w| (24.0 / (count / o) as f32).sqrt() * (w - 0.5)).collect();
        Case {
            dense: PackedConv::new(spec, &weights, Some(&bias)),
            times: vec![vec![]; 1 + CASES.len()],
            convs: convs.into(),
            layer,
            lens,
        }
    }

    /// Length of the largest map.
    fn most(&self) -> usize {
        let tiled = self.convs.iter().flat_map(|conv| [conv.input().len(1), conv.output().len(1)]);
        tiled.chain(self.lens).max().unwrap_or(0)
    }

    /// Runs in one form; 0 is dense on tensors.
    fn run(&mut self, form: usize, maps: &mut Maps) {
        let (x, out, add) = maps.next();
        let add = self.layer.residual.then_some(add);
        let start = Instant::now();
        if form == 0 {
            let [from, to] = self.lens;
            self.dense.run(1, &x[..from], &mut out[..to], add.map(|a| &a[..to]), Activation::Relu);
        } else {
            let conv = &self.convs[form - 1];
            let (from, to) = (conv.input().len(1), conv.output().len(1));
            conv.run(1, &x[..from], add.map(|a| &a[..to]), Activation::Relu, &mut out[..to]);
        }
        self.times[form].push(start.elapsed().as_secs_f64());
    }

    /// Operations with nonzero weights, by form.
    fn flops(&self, form: usize) -> f64 {
        2.0 * self.convs[form - 1].nnz() as f64 * (self.lens[1] / self.layer.channels[1]) as f64
    }
}

fn main() {
    // This thread is part of the pool, so that no call waits for another thread to start.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("a thread pool");
    let threads = rayon::current_num_threads() as f64;
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{} on {threads} threads; µs fastest / median, % of peak, gain", instruction_set());
    let name = |layer: &Layer| {
        let Layer { channels: [i, o], size, kernel, stride, groups, .. } = layer;
        format!("{kernel}x{kernel}/{stride} {i}->{o} @{size} g{groups}")
    };
    let wanted = LAYERS.into_iter().filter(|layer| name(layer).contains(&wanted));
    let mut cases: Vec<Case> = wanted.map(Case::new).collect();
    let mut maps = Maps::new(cases.iter().map(Case::most).max().unwrap_or(0));
    let mut peak = 0.0f64;
    for _ in 0..ROUNDS {
        peak = peak.max(peak_flops());
        for form in 0..=CASES.len() {
            cases.iter_mut().for_each(|case| case.run(form, &mut maps));
        }
    }
    let mut sums = vec![[0.0; 2]; 1 + CASES.len()];
    for case in &mut cases {
        let times: Vec<[f64; 2]> = case.times.iter_mut().map(|t| summary(t)).collect();
        let [best, median] = times[0];
        print!("{:24} dense {:6.0} / {:6.0}", name(&case.layer), best * 1e6, median * 1e6);
        for (k, (form, sparsity)) in CASES.iter().enumerate() {
            let [b, m] = times[k + 1];
            let share = case.flops(k + 1) / b / (peak * threads) * 100.0;
            print!(
                " | {} {:.0} %: {:5.0} / {:5.0} {share:3.0} % {:4.1}x",
                if *form == Form::Rows { "rows" } else { "panels" },
                sparsity * 100.0,
                b * 1e6,
                m * 1e6,
                best / b
            );
        }
        println!();
        for (sum, time) in sums.iter_mut().zip(&times) {
            *sum = [sum[0] + case.layer.times as f64 * time[0], sum[1] + case.layer.times as f64 * time[1]];
        }
    }
    print!("ResNet-50's, summed, ms ");
    for [best, median] in sums {
        print!(" | {:6.2} / {:6.2}", best * 1e3, median * 1e3);
    }
    println!();
}
