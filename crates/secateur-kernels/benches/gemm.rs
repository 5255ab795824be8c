//! Matrix products of BERT-base at 128 tokens, attention and classifier heads, compared with the `gemm` crate (on one
//! thread): items are multiply-adds.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p secateur-kernels --bench gemm [name]`.

#![allow(unsafe_code)] // The `gemm` crate has an unsafe interface.

use divan::counter::ItemsCount;
use secateur_kernels::{AttentionSpec, Gemm, HeadStrides, MatRef, PackedMatrix, softmax_rows};
use std::fmt;

fn main() {
    // This thread is part of the pool, so that no call waits for another thread to start.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("a thread pool");
    divan::main();
}

/// Rows, columns and depth of a product.
#[derive(Clone, Copy)]
struct Size(usize, usize, usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.0, self.1, self.2)
    }
}

const SIZES: [Size; 8] = [
    // BERT-base: query, key, value and output; up; down; scores and context of a head.
    Size(128, 768, 768),
    Size(128, 3072, 768),
    Size(128, 768, 3072),
    Size(128, 128, 64),
    Size(128, 64, 128),
    // A classifier's head, and decoding.
    Size(1, 1000, 2048),
    Size(1, 4096, 4096),
    Size(8, 4096, 4096),
];

fn operands(Size(m, n, k): Size) -> [Vec<f32>; 3] {
    let values = |len: usize, p: usize| (0..len).map(|i| (i % p) as f32 * 0.1 - 0.8).collect();
    [values(m * k, 17), values(k * n, 13), vec![0.0; m * n]]
}

#[divan::bench(args = SIZES)]
fn packed_weights(bencher: divan::Bencher, size: Size) {
    let Size(m, n, k) = size;
    let [a, b, mut c] = operands(size);
    let b = PackedMatrix::right(k, n, MatRef::row_major(&b, n));
    let a = MatRef::row_major(&a, k);
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| Gemm::new([m, n, k], a, &b).run(&mut c));
}

#[divan::bench(args = SIZES)]
fn both_in_memory(bencher: divan::Bencher, size: Size) {
    let Size(m, n, k) = size;
    let [a, b, mut c] = operands(size);
    let (a, b) = (MatRef::row_major(&a, k), MatRef::row_major(&b, n));
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| Gemm::new([m, n, k], a, b).run(&mut c));
}

#[divan::bench(args = SIZES)]
fn right_transposed(bencher: divan::Bencher, size: Size) {
    let Size(m, n, k) = size;
    let [a, b, mut c] = operands(size);
    let (a, b) = (MatRef::row_major(&a, k), MatRef::row_major(&b, k).transposed());
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| Gemm::new([m, n, k], a, b).run(&mut c));
}

#[divan::bench(args = SIZES)]
fn gemm_crate(bencher: divan::Bencher, size: Size) {
    let Size(m, n, k) = size;
    let [a, b, mut c] = operands(size);
    bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| {
        // SAFETY: the matrices have the sizes and strides given.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                1,
                k as isize,
                b.as_ptr(),
                1,
                n as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

/// Attention of BERT-base and of MiniLM (head width 64 and 32), 128 tokens, twelve interleaved heads.
#[divan::bench(args = [64, 32])]
fn attention(bencher: divan::Bencher, width: usize) {
    let (heads, tokens) = (12, 128);
    let strides = HeadStrides { sample: 0, head: width, row: heads * width, column: 1 };
    let spec = AttentionSpec {
        samples: 1,
        heads,
        key_heads: heads,
        queries: tokens,
        keys: tokens,
        width,
        value_width: width,
        scale: 0.125,
    };
    let [q, k, v] = [17, 13, 11].map(|p| {
        let values = (0..tokens * heads * width).map(|i| (i % p) as f32 * 0.1 - 0.6);
        values.collect::<Vec<f32>>()
    });
    let mut out = vec![0.0; q.len()];
    bencher.counter(ItemsCount::new(2 * heads * tokens * tokens * width)).bench_local(|| {
        let operands = [&q, &k, &v].map(|x| (&x[..], strides));
        let [q, k, v] = operands;
        secateur_kernels::attention(&spec, q, k, v, (&mut out, strides), |scores| {
            softmax_rows(scores.values, tokens);
        });
    });
}
