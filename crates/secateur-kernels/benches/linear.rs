//! Sparse linear layers of BERT-base and MiniLM on 128 tokens, some on fewer, compared with dense ones.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench linear [part of a layer's name]`. Each round runs
//! everything once, interleaved, so that other load affects all alike. A line gives the times of the dense product and of the
//! conversions to tiles and back to rows, and for each sparsity the time, the share of peak that the nonzero weights reach,
//! and the gain over dense, without and with the conversions. Weights without zeros are packed in panels; one token is
//! multiplied as a row, without conversions.

mod common;

use common::{noise, summary};
use secateur_kernels::ValueType;
use secateur_kernels::decode::RowWeights;
use secateur_kernels::sparse::{Form, SparseConv};
use secateur_kernels::tiled::Tiling;
use secateur_kernels::{Activation, Buffer, ConvSpec, Epilogue, Gemm, MatRef, PackedMatrix};
use secateur_kernels::{instruction_set, peak_flops};
use std::time::Instant;

const SPARSITIES: [f32; 4] = [0.0, 0.5, 0.8, 0.9];
const ROUNDS: usize = 40;

/// Tokens, inputs, outputs.
const LAYERS: [[usize; 3]; 10] = [
    [128, 768, 768],
    [128, 768, 3072],
    [128, 3072, 768],
    [128, 384, 384],
    [128, 384, 1536],
    [128, 1536, 384],
    [32, 768, 768],
    [8, 768, 768],
    [1, 768, 768],
    [1, 2048, 1000],
];

/// Times of the dense product, of the conversions to tiles and to rows, and of each sparsity; operations of each sparsity; the
/// peak while they ran.
fn measure([tokens, inputs, outputs]: [usize; 3]) -> (Vec<[f64; 2]>, [f64; SPARSITIES.len()], f64) {
    let (weights, chance) = (noise(inputs * outputs, 1), noise(inputs * outputs, 2));
    let bias = vec![0.1; outputs];
    let x = noise(tokens * inputs, 3);
    let dense = PackedMatrix::right(inputs, outputs, MatRef::row_major(&weights, inputs).transposed());
    let (input, output) = (Tiling::of_tokens(inputs, tokens), Tiling::of_tokens(outputs, tokens));
    let layers = SPARSITIES.map(|sparsity| {
        let kept = |(w, c): (&f32, &f32)| if *c < sparsity { 0.0 } else { w - 0.5 };
        let weights: Vec<f32> = weights.iter().zip(&chance).map(kept).collect();
        let spec = ConvSpec::new(inputs, outputs, &input.size(), &[1; 2]);
        let form = if sparsity == 0.0 { Form::Panels } else { Form::Rows };
        (
            SparseConv::new(form, &weights, Some(&bias), &spec, &input),
            RowWeights::new(inputs, &weights, Some(&bias), ValueType::F32),
        )
    });
    let flops = layers.each_ref().map(|(layer, _)| 2.0 * layer.nnz() as f64 * tokens as f64);
    let (mut tiles, mut tiled_out) = (Buffer::zeroed(input.len(1)), Buffer::zeroed(output.len(1)));
    let mut out = vec![0.0; tokens * outputs];
    let mut times = vec![vec![]; 3 + layers.len()];
    let mut peak = 0.0f64;
    for round in 0..ROUNDS {
        peak = peak.max(peak_flops());
        let mut time = |i: usize, f: &mut dyn FnMut()| {
            f();
            let start = Instant::now();
            f();
            if round > 0 {
                times[i].push(start.elapsed().as_secs_f64());
            }
        };
        let epilogue = Epilogue { col_bias: Some(&bias), ..Epilogue::default() };
        let rows = MatRef::row_major(&x, inputs);
        let product = Gemm { epilogue, ..Gemm::new([tokens, outputs, inputs], rows, &dense) };
        time(0, &mut || product.run(&mut out));
        time(1, &mut || input.from_rows(&x, tiles.as_mut_slice()));
        time(2, &mut || output.to_rows(tiled_out.as_slice(), &mut out));
        for (i, (on_tiles, on_rows)) in layers.iter().enumerate() {
            time(i + 3, &mut || match tokens {
                1 => on_rows.run(&x, None, Activation::None, &mut out),
                _ => on_tiles.run(1, tiles.as_slice(), None, Activation::None, tiled_out.as_mut_slice()),
            });
        }
    }
    (times.iter_mut().map(|t| summary(t)).collect(), flops, peak)
}

fn main() {
    // This thread is part of the pool, so that no call waits for another thread to start.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("a thread pool");
    let threads = rayon::current_num_threads() as f64;
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{} on {threads} threads; µs fastest / median, % of peak, gains", instruction_set());
    for layer in LAYERS {
        let [tokens, inputs, outputs] = layer;
        let name = format!("{tokens}x {inputs}->{outputs}");
        if !name.contains(&wanted) {
            continue;
        }
        let (times, flops, peak) = measure(layer);
        let share = |flops: f64, time: f64| flops / time / (peak * threads) * 100.0;
        let [best, median] = times[0];
        let dense = share(2.0 * (tokens * inputs * outputs) as f64, best);
        let conversions = if tokens > 1 { times[1][0] + times[2][0] } else { 0.0 };
        print!("{name:16} dense {:5.0} / {:5.0} {dense:2.0} %", best * 1e6, median * 1e6);
        print!(" | conversions {:4.1} + {:4.1}", times[1][0] * 1e6, times[2][0] * 1e6);
        for (i, sparsity) in SPARSITIES.iter().enumerate() {
            let [b, m] = times[i + 3];
            let share = share(flops[i], b);
            print!(" | {:.0} %: {:5.0} / {:5.0} {share:3.0} %", sparsity * 100.0, b * 1e6, m * 1e6);
            print!(" {:4.1}x {:4.1}x", best / b, best / (b + conversions));
        }
        println!();
    }
}
