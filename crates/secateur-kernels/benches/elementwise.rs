//! Activations, and softmax with and without masked keys, at the sizes of BERT-base with 128 tokens: items are
//! elements.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench elementwise [name]`.

use divan::counter::ItemsCount;
use secateur_kernels::{Activation, activate, softmax};

fn main() {
    divan::main();
}

/// Values in −3..3, like those of activations.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 6007) as f32 / 1001.0 - 3.0).collect()
}

#[divan::bench(args = ["relu", "gelu", "gelu_tanh", "silu", "tanh", "hard_swish", "mish"])]
fn activations(bencher: divan::Bencher, name: &str) {
    let act = match name {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "silu" => Activation::Silu,
        "tanh" => Activation::Tanh,
        "hard_swish" => Activation::HardSwish,
        _ => Activation::Mish,
    };
    let given = values(128 * 3072);
    let mut out = given.clone();
    bencher.counter(ItemsCount::new(out.len())).bench_local(|| {
        out.copy_from_slice(&given);
        activate(act, &mut out);
    });
}

/// Rows of 128 scores, a share of which is −∞.
#[divan::bench(args = [0.0, 0.5])]
fn softmaxes(bencher: divan::Bencher, masked: f64) {
    let mut scores = values(12 * 128 * 128);
    for row in scores.chunks_mut(128) {
        let from = (128.0 * (1.0 - masked)) as usize;
        row[from..].fill(f32::NEG_INFINITY);
    }
    let mut out = vec![0.0; scores.len()];
    bencher.counter(ItemsCount::new(out.len())).bench_local(|| softmax(&scores, &mut out, 12 * 128, 128, 1));
}
