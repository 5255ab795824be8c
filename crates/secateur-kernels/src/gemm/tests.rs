use super::*;
use crate::testing::{Rng, assert_sums, in_pool};

/// alpha · A·B + beta · C + biases in double precision, and the same of the magnitudes.
#[allow(clippy::too_many_arguments)]
fn reference(
    m: usize,
    n: usize,
    k: usize,
    a: MatRef,
    b: MatRef,
    c: &[f32],
    ldc: usize,
    e: &Epilogue,
) -> (Vec<f64>, Vec<f64>) {
    let (mut want, mut scale) = (vec![], vec![]);
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..k {
                let product = a.data[i * a.row_stride + p * a.col_stride] as f64
                    * b.data[p * b.row_stride + j * b.col_stride] as f64;
                sum += product;
                size += product.abs();
            }
            (sum, size) = (sum * e.alpha as f64, size * e.alpha.abs() as f64);
            let mut extra = |v: f64| {
                sum += v;
                size += v.abs();
            };
            if e.beta != 0.0 {
                extra(e.beta as f64 * c[i * ldc + j] as f64);
            }
            extra(e.row_bias.map_or(0.0, |v| v[i] as f64));
            extra(e.col_bias.map_or(0.0, |v| v[j] as f64));
            want.push(sum);
            scale.push(size);
        }
    }
    (want, scale)
}

/// A matrix with gaps between its rows (or columns), and its memory.
fn matrix(rng: &mut Rng, rows: usize, cols: usize) -> (Vec<f32>, usize, usize) {
    let gap = rng.below(3);
    let (rs, cs) = if rng.below(2) == 0 { (cols + gap, 1) } else { (1, rows + gap) };
    (rng.values(rows.max(1) * cols.max(1) + gap * rows.max(cols) + 4), rs, cs)
}

fn one_case(rng: &mut Rng, m: usize, n: usize, k: usize) {
    let ((ad, ars, acs), (bd, brs, bcs)) = (matrix(rng, m, k), matrix(rng, k, n));
    let a = MatRef { data: &ad, row_stride: ars, col_stride: acs };
    let b = MatRef { data: &bd, row_stride: brs, col_stride: bcs };
    let ldc = n + if n == 1 { 0 } else { rng.below(3) };
    let before = rng.values(m * ldc);
    let (row_bias, col_bias) = (rng.values(m), rng.values(n));
    let epilogue = Epilogue {
        alpha: rng.pick(&[1.0, 1.0, 0.25]),
        beta: rng.pick(&[0.0, 0.0, 1.0, -0.5]),
        row_bias: (rng.below(2) == 0).then_some(&row_bias),
        col_bias: (rng.below(2) == 0).then_some(&col_bias),
        act: Activation::None,
    };
    let (want, scale) = reference(m, n, k, a, b, &before, ldc, &epilogue);
    for isa in Isa::available() {
        let packed_a = PackedMatrix::with(isa, Side::Left, m, k, a);
        let packed_b = PackedMatrix::with(isa, Side::Right, k, n, b);
        let mut first: Option<Vec<f32>> = None;
        for (pa, pb) in [(false, false), (true, false), (false, true), (true, true)] {
            let ao = if pa { Operand::Packed(&packed_a) } else { Operand::Ref(a) };
            let bo = if pb { Operand::Packed(&packed_b) } else { Operand::Ref(b) };
            let mut c = before.clone();
            let shared = SharedMut::new(&mut c);
            // SAFETY: nobody else uses C.
            unsafe { Gemm { ldc, epilogue, ..Gemm::new([m, n, k], ao, bo) }.run_shared(isa, shared) };
            let got: Vec<f32> = (0..m * n).map(|i| c[i / n * ldc + i % n]).collect();
            assert_sums(
                &got,
                &want,
                &scale,
                k + 3,
                &format!("{isa:?} {m}x{n}x{k} packed {pa} {pb} {epilogue:?}"),
            );
            for i in (0..m * ldc).filter(|i| i % ldc >= n) {
                assert_eq!(c[i], before[i], "wrote between the rows");
            }
            // Few rows by a matrix in memory have a way of their own.
            if m > vector::MAX_ROWS && n > 1 {
                assert_eq!(&got, first.get_or_insert(got.clone()), "packing changed a bit");
            }
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    let mut rng = Rng::new(1);
    for _ in 0..60 {
        let (m, n, k) = (1 + rng.below(40), 1 + rng.below(120), rng.below(80));
        one_case(&mut rng, m, n, k);
    }
    for (m, n, k) in [
        (1, 1, 1),
        (1, 500, 300),
        (1, 2100, 37),
        (3, 1050, 65),
        (4, 130, 600),
        (700, 1, 90),
        (3, 49, 700),
        (200, 7, 513),
        (197, 400, 260),
        (8, 48, 256),
        (5, 3, 0),
    ] {
        one_case(&mut rng, m, n, k);
    }
}

#[test]
fn activations_come_last() {
    let mut rng = Rng::new(2);
    let (m, n, k) = (13, 61, 300);
    let (a, b, bias) = (rng.values(m * k), rng.values(k * n), rng.values(m));
    for isa in Isa::available() {
        for act in
            [Activation::Relu, Activation::Clip { min: -0.5, max: 0.25 }, Activation::Silu, Activation::Gelu]
        {
            let run = |act| {
                let mut c = vec![0.0; m * n];
                let epilogue = Epilogue { row_bias: Some(&bias), act, ..Epilogue::default() };
                let product = Gemm::new([m, n, k], MatRef::row_major(&a, k), MatRef::row_major(&b, n));
                let shared = SharedMut::new(&mut c);
                // SAFETY: nobody else uses C.
                unsafe { Gemm { epilogue, ..product }.run_shared(isa, shared) };
                c
            };
            let mut want = run(Activation::None);
            crate::activation::apply(isa, act, &mut want);
            assert_eq!(run(act), want, "{isa:?} {act:?}");
        }
    }
}

#[test]
fn batches_apart_and_side_by_side() {
    let mut rng = Rng::new(3);
    let (count, m, n, k) = (5, 9, 20, 33);
    let (a, b) = (rng.values(count * m * k), rng.values(count * k * n));
    let one = |i: usize| {
        let mut c = vec![0.0; m * n];
        let (a, b) = (MatRef::row_major(&a[i * m * k..], k), MatRef::row_major(&b[i * k * n..], n));
        Gemm::new([m, n, k], a, b).run(&mut c);
        c
    };
    let (ar, br) = (MatRef::row_major(&a, k), MatRef::row_major(&b, n));
    let mut apart = vec![0.0; count * m * n];
    let batch = Batch { count, a: m * k, b: k * n, c: m * n };
    Gemm { batch, ..Gemm::new([m, n, k], ar, br) }.run(&mut apart);
    let mut beside = vec![0.0; count * m * n];
    let batch = Batch { c: n, ..batch };
    Gemm { batch, ldc: count * n, ..Gemm::new([m, n, k], ar, br) }.run(&mut beside);
    for i in 0..count {
        let want = one(i);
        assert_eq!(apart[i * m * n..(i + 1) * m * n], want);
        for r in 0..m {
            assert_eq!(beside[(r * count + i) * n..][..n], want[r * n..(r + 1) * n]);
        }
    }
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_results_are_refused() {
    let x = [0.0; 64];
    let m = MatRef::row_major(&x, 4);
    let batch = Batch { count: 2, a: 0, b: 0, c: 3 };
    Gemm { batch, ..Gemm::new([4; 3], m, m) }.run(&mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "needs")]
fn short_operands_are_refused() {
    let x = [0.0; 15];
    let m = MatRef::row_major(&x, 4);
    Gemm::new([4; 3], m, m).run(&mut [0.0; 16]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = Rng::new(4);
    for (m, n, k) in
        [(128, 768, 768), (1, 3000, 700), (3, 2500, 300), (4000, 1, 300), (300, 49, 900), (64, 3136, 64)]
    {
        let (a, b) = (rng.values(m * k), rng.values(k * n));
        let run = |threads| {
            in_pool(threads, || {
                let mut c = vec![0.0; m * n];
                let (a, b) = (MatRef::row_major(&a, k), MatRef::row_major(&b, n));
                Gemm::new([m, n, k], a, b).run(&mut c);
                c
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

#[test]
fn distances_that_wrap_are_refused() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let data = [1.0f32; 8];
    let refused = |rows: usize, stride: usize, ldc: usize, apart: usize| {
        let a = MatRef { data: &data, row_stride: stride, col_stride: 1 };
        let batch = Batch { count: 2, a: apart, b: 0, c: 4 };
        let run = || {
            let product = Gemm::new([rows, 1, 1], a, MatRef::row_major(&data, 1));
            Gemm { batch, ldc, ..product }.run(&mut [0.0; 8]);
        };
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    assert!(!refused(2, 1, 1, 0));
    assert!(refused(2, usize::MAX, 1, 0));
    assert!(refused(3, 1 << 63, 1, 0));
    assert!(refused(2, 1, usize::MAX, 0));
    assert!(refused(2, 1, 1, 1 << 63));
}
