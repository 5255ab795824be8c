//! Each operation of each instruction set, lane by lane, against its definition.

use super::{Isa, Kernel, MAX_LANES, Simd};
use half::f16;

/// Zeros, denormal and normal numbers, halves between whole ones, the ends of the range; prime in number, so that
/// every pair meets when two run past each other.
const VALUES: [f32; 23] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.3,
    -0.7,
    3.999_999_8,
    1e-40,
    -1e-40,
    f32::MIN_POSITIVE,
    8_388_607.5,
    -16_777_216.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e-7,
];

/// The lanes that begin with value `from`.
fn lanes(from: usize) -> [f32; MAX_LANES] {
    std::array::from_fn(|i| VALUES[(from + i) % VALUES.len()])
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn assert_lanes<S: Simd>(s: S, got: S::V, want: impl Fn(usize) -> f32, what: &str) {
    let got = s.to_array(got);
    for (i, &x) in got[..S::LANES].iter().enumerate() {
        assert!(same(x, want(i)), "{what}, {} lanes: lane {i} is {x:e}, want {:e}", S::LANES, want(i));
    }
}

/// Calls a kernel with every instruction set of this processor.
fn with_each(kernel: impl Kernel + Copy) {
    for isa in Isa::available() {
        isa.run(kernel);
    }
}

#[derive(Clone, Copy)]
struct Arithmetic;

impl Kernel for Arithmetic {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..VALUES.len() {
            let x = lanes(i);
            // SAFETY: `lanes` gives the widest vector's values.
            let a = unsafe { s.load(x.as_ptr()) };
            let one = |got, of: fn(f32) -> f32, what| assert_lanes(s, got, |l| of(x[l]), what);
            one(s.abs(a), f32::abs, "abs");
            one(s.neg(a), |x| -x, "neg");
            one(s.sqrt(a), f32::sqrt, "sqrt");
            one(s.floor(a), f32::floor, "floor");
            one(s.ceil(a), f32::ceil, "ceil");
            one(s.round(a), f32::round_ties_even, "round");
            for j in 0..VALUES.len() {
                let y = lanes(j);
                // SAFETY: as above.
                let b = unsafe { s.load(y.as_ptr()) };
                let two = |got, of: fn(f32, f32) -> f32, what| assert_lanes(s, got, |l| of(x[l], y[l]), what);
                two(s.add(a, b), |x, y| x + y, "add");
                two(s.sub(a, b), |x, y| x - y, "sub");
                two(s.mul(a, b), |x, y| x * y, "mul");
                two(s.div(a, b), |x, y| x / y, "div");
                two(s.max(a, b), |x, y| if x > y { x } else { y }, "max");
                two(s.min(a, b), |x, y| if x < y { x } else { y }, "min");
                two(s.copysign(a, b), f32::copysign, "copysign");
                let (yes, no) = (s.splat(1.0), s.zero());
                two(s.select(s.lt(a, b), yes, no), |x, y| f32::from(x < y), "lt");
                two(s.select(s.eq(a, b), yes, no), |x, y| f32::from(x == y), "eq");
                let below = (0..S::LANES).map(|l| u32::from(x[l].to_bits() < y[l].to_bits()) << l).sum();
                assert_eq!(s.below_bits(a, b), below, "below_bits of {x:?} and {y:?}");
            }
        }
        // Products of small whole numbers are exact, rounded once or twice.
        let (a, b, c) = (s.splat(3.0), s.splat(-7.0), s.splat(100.0));
        assert_lanes(s, s.fma(a, b, c), |_| 79.0, "fma");
        assert_lanes(s, s.fnma(a, b, c), |_| 121.0, "fnma");
        for n in -252..=254 {
            let want = 1.5 * f64::powi(2.0, n);
            assert_lanes(s, s.scale2(s.splat(1.5), s.splat(n as f32)), |_| want as f32, "scale2");
        }
        for bits in (f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits()).step_by(99_991) {
            let a = f32::from_bits(bits);
            let inverse = f64::from(s.to_array(s.recip(s.splat(a)))[0]) * f64::from(a);
            let near = (inverse - 1.0).abs() <= 2.0 * f64::from(f32::EPSILON);
            assert!(
                near || !(-100..=100).contains(&(f64::from(a).log2() as i32)),
                "recip of {a:e}: {inverse}"
            );
            let (m, e) = s.frexp(s.splat(a));
            let (m, e) = (s.to_array(m)[0], s.to_array(e)[0]);
            let unit = f64::from(m) * f64::from(m);
            assert!((0.5..2.0).contains(&unit) && e.fract() == 0.0, "frexp of {a:e}: {m}, {e}");
            assert_eq!(f64::from(m) * f64::powi(2.0, e as i32), f64::from(a), "frexp of {a:e}: {m}, {e}");
        }
    }
}

#[test]
fn arithmetic_is_as_defined() {
    with_each(Arithmetic);
}

#[derive(Clone, Copy)]
struct Memory;

impl Kernel for Memory {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x: [f32; 2 * MAX_LANES] = std::array::from_fn(|i| i as f32 + 1.0);
        let p = x.as_ptr();
        // SAFETY: `x` and `out` have two of the widest vectors' values, and lanes whose bits are clear are not
        // touched.
        unsafe {
            let all = s.load(p);
            for n in 0..=S::LANES {
                assert_lanes(s, s.load_n(p, n), |l| if l < n { x[l] } else { 0.0 }, "load_n");
                let mut out = [0.5; 2 * MAX_LANES];
                s.store_n(out.as_mut_ptr().add(1), all, n);
                for (i, got) in out.into_iter().enumerate() {
                    let want = if (1..=n).contains(&i) { x[i - 1] } else { 0.5 };
                    assert_eq!(got, want, "store_n of {n}: value {i}");
                }
            }
            for bits in 0..1u32 << S::LANES {
                let set = |l: usize| bits >> l & 1 == 1;
                assert_lanes(s, s.load_bits(p, bits), |l| if set(l) { x[l] } else { 0.0 }, "load_bits");
                let even = (0..S::LANES).map(|l| u32::from(set(l)) << (2 * l)).sum();
                let want = |l: usize| if set(l) { x[2 * l] } else { 0.0 };
                assert_lanes(s, s.load_even_bits(p, even), want, "load_even_bits");
            }
            assert_lanes(s, s.load_bits(std::ptr::null(), 0), |_| 0.0, "load_bits of none");
            assert_lanes(s, s.load_even_bits(std::ptr::null(), 0), |_| 0.0, "load_even_bits of none");
        }
    }
}

#[test]
fn loads_and_stores_touch_what_they_are_told() {
    with_each(Memory);
}

#[derive(Clone, Copy)]
struct Order;

impl Kernel for Order {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x: [f32; 2 * MAX_LANES] = std::array::from_fn(|i| i as f32 + 1.0);
        // SAFETY: `x` has two of the widest vectors' values.
        let (a, b, quads) =
            unsafe { (s.load(x.as_ptr()), s.load(x.as_ptr().add(S::LANES)), s.load_quads(x.as_ptr())) };
        assert_lanes(s, quads, |l| x[l % 4], "load_quads");
        let quad = |l: usize| l / 4 * 4;
        assert_lanes(s, s.splat_quads::<0>(a), |l| x[quad(l)], "splat_quads");
        assert_lanes(s, s.splat_quads::<1>(a), |l| x[quad(l) + 1], "splat_quads");
        assert_lanes(s, s.splat_quads::<2>(a), |l| x[quad(l) + 2], "splat_quads");
        assert_lanes(s, s.splat_quads::<3>(a), |l| x[quad(l) + 3], "splat_quads");
        let (even, odd) = s.unzip(a, b);
        assert_lanes(s, even, |l| x[2 * l], "unzip");
        assert_lanes(s, odd, |l| x[2 * l + 1], "unzip");
        let half = S::LANES / 2;
        let halves = |l: usize| if l < half { l + 1 } else { l + 3 };
        let mut out = [0.0; 2 * MAX_LANES];
        // SAFETY: `x` and `out` have two of the widest vectors' values.
        unsafe {
            let v = s.load_halves(x.as_ptr().add(1), x.as_ptr().add(half + 3));
            assert_lanes(s, v, |l| x[halves(l)], "load_halves");
            s.store_halves(out.as_mut_ptr().add(1), out.as_mut_ptr().add(half + 3), v);
        }
        for (i, got) in out.into_iter().enumerate() {
            let stored = (0..S::LANES).any(|l| halves(l) == i);
            assert_eq!(got, if stored { x[i] } else { 0.0 }, "store_halves: value {i}");
        }

        let (n, src_stride, dst_stride) = (S::SQUARE, S::SQUARE + 1, S::SQUARE + 2);
        let src: Vec<f32> = (0..n * src_stride).map(|i| i as f32 + 1.0).collect();
        let mut dst = vec![0.0; n * dst_stride];
        // SAFETY: both have as many rows as the square, each at least as long.
        unsafe { s.transpose(src.as_ptr(), src_stride, dst.as_mut_ptr(), dst_stride) };
        for (at, got) in dst.into_iter().enumerate() {
            let (i, j) = (at / dst_stride, at % dst_stride);
            let want = if j < n { src[j * src_stride + i] } else { 0.0 };
            assert_eq!(got, want, "transpose: row {i}, column {j}");
        }
    }
}

#[test]
fn lanes_are_put_in_order_as_defined() {
    with_each(Order);
}

#[derive(Clone, Copy)]
struct Stored;

impl Kernel for Stored {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x: [f32; MAX_LANES] = std::array::from_fn(|i| i as f32 + 1.0);
        let halves: [f16; MAX_LANES] = std::array::from_fn(|i| f16::from_f32(VALUES[i]));
        // Words whose nibbles, and pairs of bits, differ between lanes and steps.
        let words: [u32; MAX_LANES] = std::array::from_fn(|i| 0x9e37_79b9u32.wrapping_mul(i as u32 + 1));
        // SAFETY: the arrays have the widest vector's values, and the widest window's.
        unsafe {
            assert_lanes(s, s.load_f16(halves.as_ptr()), |l| halves[l].to_f32(), "load_f16");
            let window: [f32; 1 << 5] = std::array::from_fn(|i| i as f32 - 7.5);
            let mut loaded = s.load_words(words.as_ptr());
            for step in 0..8 {
                let word = |l: usize| words[l] as usize >> (4 * step);
                let picked = |l: usize| window[word(l) % (1 << S::PICK_BITS)];
                assert_lanes(s, s.pick(window.as_ptr(), loaded), picked, "pick");
                let quads = s.pick_quads(s.load(x.as_ptr()), loaded);
                assert_lanes(s, quads, |l| x[l / 4 * 4 + (word(l) & 3)], "pick_quads");
                loaded = s.shift_right::<4>(loaded);
            }
            for bits in 0..1u32 << S::LANES {
                let set = |l: usize| bits >> l & 1 == 1;
                let before = |l: usize| (bits & ((1 << l) - 1)).count_ones() as usize;
                let want = |l: usize| if set(l) { x[before(l)] } else { 0.0 };
                assert_lanes(s, s.expand(s.load(x.as_ptr()), bits), want, "expand");
            }
        }
    }
}

#[test]
fn stored_weights_are_read_as_defined() {
    with_each(Stored);
}

#[derive(Clone, Copy)]
struct Bytes;

impl Kernel for Bytes {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The extremes −127 and 127 among them, side by side too.
        let byte = |i: usize| [127, 127, -127, -127, 0, 5, -90][i % 7];
        let (w, x): ([i8; 32], [i8; 32]) =
            (std::array::from_fn(byte), std::array::from_fn(|i| byte(i * 3 / 2)));
        let picks: [u8; 32] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        // SAFETY: the arrays are as long as it takes.
        let (all, low, high, two) = unsafe {
            let zero = s.zero_sums();
            (
                s.add_bytes(s.add_bytes(zero, w.as_ptr(), x.as_ptr()), w.as_ptr(), x.as_ptr()),
                s.add_picked::<0, 4>(zero, w.as_ptr(), picks.as_ptr(), x.as_ptr()),
                s.add_picked::<4, 4>(zero, w.as_ptr(), picks.as_ptr(), x.as_ptr()),
                s.add_picked::<2, 2>(zero, w.as_ptr(), picks.as_ptr(), x.as_ptr()),
            )
        };
        let product = |w: i8, x: i8| i32::from(w) * i32::from(x);
        let want: i32 = w.iter().zip(x).map(|(w, x)| 2 * product(*w, x)).sum();
        assert_eq!(s.sums_to_array(all).iter().sum::<i32>(), want, "add_bytes, {} lanes", S::LANES);
        for (got, shift, mask) in [(low, 0, 15), (high, 4, 15), (two, 2, 3)] {
            let picked = |i: usize| product(w[i], x[picks[i] as usize >> shift & mask]);
            let want: [i32; 16] = std::array::from_fn(|i| picked(2 * i) + picked(2 * i + 1));
            assert_eq!(s.sums_to_array(got), want, "add_picked, {} lanes", S::LANES);
        }
    }
}

#[test]
fn bytes_are_summed_as_defined() {
    with_each(Bytes);
}
