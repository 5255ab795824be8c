//! Convolutions of real networks, one image: items are multiply-adds.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench conv [name]`; on a busy machine, read the
//! column `fastest`.

use divan::counter::ItemsCount;
use secateur_kernels::{Activation, ConvSpec, PackedConv};
use std::fmt;

fn main() {
    // This thread is part of the pool, so that no call waits for another thread to start.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("a thread pool");
    divan::main();
}

/// A square convolution with "same" padding; `add` is a residual added before the activation.
#[derive(Clone, Copy)]
struct Layer {
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    add: bool,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Layer { channels: [i, o], size, kernel, stride, groups, .. } = self;
        write!(f, "{kernel}x{kernel}/{stride} {i}->{o} @{size}")?;
        if *groups > 1 { write!(f, " g{groups}") } else { Ok(()) }
    }
}

const fn layer(i: usize, o: usize, size: usize, kernel: usize, stride: usize) -> Layer {
    Layer { channels: [i, o], size, kernel, stride, groups: 1, add: false }
}

const fn grouped(channels: usize, size: usize, kernel: usize, stride: usize, groups: usize) -> Layer {
    Layer { groups, ..layer(channels, channels, size, kernel, stride) }
}

const fn residual(i: usize, o: usize, size: usize) -> Layer {
    Layer { add: true, ..layer(i, o, size, 1, 1) }
}

/// Each shape of ResNet-50, once.
const RESNET50: [Layer; 23] = [
    layer(3, 64, 224, 7, 2),
    layer(64, 64, 56, 1, 1),
    layer(64, 64, 56, 3, 1),
    residual(64, 256, 56),
    layer(256, 64, 56, 1, 1),
    layer(256, 128, 56, 1, 1),
    layer(128, 128, 56, 3, 2),
    layer(256, 512, 56, 1, 2),
    residual(128, 512, 28),
    layer(512, 128, 28, 1, 1),
    layer(128, 128, 28, 3, 1),
    layer(512, 256, 28, 1, 1),
    layer(256, 256, 28, 3, 2),
    layer(512, 1024, 28, 1, 2),
    residual(256, 1024, 14),
    layer(1024, 256, 14, 1, 1),
    layer(256, 256, 14, 3, 1),
    layer(1024, 512, 14, 1, 1),
    layer(512, 512, 14, 3, 2),
    layer(1024, 2048, 14, 1, 2),
    residual(512, 2048, 7),
    layer(2048, 512, 7, 1, 1),
    layer(512, 512, 7, 3, 1),
];

/// The grouped shapes of ResNeXt-50 32×4d.
const RESNEXT50: [Layer; 7] = [
    grouped(128, 56, 3, 1, 32),
    grouped(256, 56, 3, 2, 32),
    grouped(256, 28, 3, 1, 32),
    grouped(512, 28, 3, 2, 32),
    grouped(512, 14, 3, 1, 32),
    grouped(1024, 14, 3, 2, 32),
    grouped(1024, 7, 3, 1, 32),
];

/// The depthwise shapes of EfficientNet-Lite0.
const DEPTHWISE: [Layer; 10] = [
    grouped(32, 112, 3, 1, 32),
    grouped(96, 112, 3, 2, 96),
    grouped(144, 56, 3, 1, 144),
    grouped(144, 56, 5, 2, 144),
    grouped(240, 28, 5, 1, 240),
    grouped(240, 28, 3, 2, 240),
    grouped(480, 14, 3, 1, 480),
    grouped(480, 14, 5, 1, 480),
    grouped(672, 14, 5, 2, 672),
    grouped(1152, 7, 5, 1, 1152),
];

fn run(bencher: divan::Bencher, layer: Layer) {
    let Layer { channels: [i, o], size, kernel, stride, groups, add } = layer;
    let spec = ConvSpec {
        stride: vec![stride; 2],
        pads: vec![kernel / 2; 4],
        groups,
        ..ConvSpec::new(i, o, &[size; 2], &[kernel; 2])
    };
    let weights: Vec<f32> =
        (0..o * i / groups * kernel * kernel).map(|i| (i % 997) as f32 * 1e-4 - 0.05).collect();
    let x: Vec<f32> = (0..i * size * size).map(|i| (i % 17) as f32 * 0.1).collect();
    let macs = spec.macs();
    let mut out = vec![0.0; o * spec.out_size().iter().product::<usize>()];
    let add = add.then(|| vec![0.5; out.len()]);
    let conv = PackedConv::new(spec, &weights, Some(&vec![0.1; o]));
    bencher
        .counter(ItemsCount::new(macs))
        .bench_local(|| conv.run(1, &x, &mut out, add.as_deref(), Activation::Relu));
}

#[divan::bench(args = RESNET50)]
fn resnet50(bencher: divan::Bencher, layer: Layer) {
    run(bencher, layer);
}

#[divan::bench(args = RESNEXT50)]
fn resnext50_grouped(bencher: divan::Bencher, layer: Layer) {
    run(bencher, layer);
}

#[divan::bench(args = DEPTHWISE)]
fn efficientnet_depthwise(bencher: divan::Bencher, layer: Layer) {
    run(bencher, layer);
}
