//! Vectors as arrays of four f32, which compilers map to the target's 128-bit vectors.

use super::{Kernel, Simd};
use half::f16;

const N: usize = 4;

/// Vectors for any processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($($name:ident($($arg:ident),*) = $e:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: [f32; N]),*) -> [f32; N] {
            let mut out = [0.0; N];
            for i in 0..N {
                $(let $arg = $arg[i];)*
                out[i] = $e;
            }
            out
        }
    )* };
}

#[inline(never)]
fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` calls the C library.
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn pow2(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Lane i from `p + i` if bit i is set, else 0.
///
/// # Safety
/// `p + i` can be read for every set bit i below 4.
#[inline(always)]
unsafe fn gather(p: *const f32, bits: u32) -> [f32; N] {
    if bits & 15 == 15 {
        // SAFETY: guaranteed by the caller.
        return unsafe { p.cast::<[f32; N]>().read_unaligned() };
    }
    let mut out = [0.0; N];
    for (i, o) in out.iter_mut().enumerate() {
        if bits >> i & 1 == 1 {
            // SAFETY: guaranteed by the caller.
            *o = unsafe { *p.wrapping_add(i) };
        }
    }
    out
}

impl Simd for Portable {
    type V = [f32; N];
    type M = [bool; N];
    type I = [u32; N];
    type Sums = [i32; 16];
    const LANES: usize = N;
    const MR: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
    const NV: usize = if cfg!(target_arch = "aarch64") { 3 } else { 2 };
    const SQUARE: usize = 4;
    const PICK_BITS: u32 = 4;
    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        run(kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V {
        let mut out = [0.0; N];
        for (i, o) in out.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller guarantees n readable values.
            *o = unsafe { *p.add(i) };
        }
        out
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller guarantees n writable values.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn load_bits(self, p: *const f32, bits: u32) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { gather(p, bits) }
    }
    #[inline(always)]
    unsafe fn load_even_bits(self, p: *const f32, bits: u32) -> Self::V {
        let mut out = [0.0; N];
        for (i, o) in out.iter_mut().enumerate() {
            if bits >> (2 * i) & 1 == 1 {
                // SAFETY: guaranteed by the caller.
                *o = unsafe { *p.wrapping_add(2 * i) };
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        for i in 0..N {
            for j in 0..N {
                // SAFETY: guaranteed by the caller.
                unsafe { *dst.add(j * dst_stride + i) = *src.add(i * src_stride + j) };
            }
        }
    }

    #[inline(always)]
    unsafe fn load_quads(self, p: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { self.load(p) }
    }
    #[inline(always)]
    fn splat_quads<const I: usize>(self, a: Self::V) -> Self::V {
        [a[I]; N]
    }
    #[inline(always)]
    unsafe fn load_halves(self, low: *const f32, high: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { [*low, *low.add(1), *high, *high.add(1)] }
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: Self::V) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            low.cast::<[f32; N / 2]>().write_unaligned([v[0], v[1]]);
            high.cast::<[f32; N / 2]>().write_unaligned([v[2], v[3]]);
        }
    }
    #[inline(always)]
    fn unzip(self, a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        ([a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]])
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<[f16; N]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    fn expand(self, v: Self::V, bits: u32) -> Self::V {
        let (mut out, mut next) = ([0.0; N], 0);
        for (i, o) in out.iter_mut().enumerate() {
            if bits >> i & 1 == 1 {
                *o = v[next];
                next += 1;
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u32) -> Self::I {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<Self::I>().read_unaligned() }
    }
    #[inline(always)]
    fn shift_right<const BITS: i32>(self, words: Self::I) -> Self::I {
        words.map(|w| w >> BITS)
    }
    #[inline(always)]
    fn pick_quads(self, a: Self::V, words: Self::I) -> Self::V {
        words.map(|w| a[w as usize & 3])
    }
    #[inline(always)]
    unsafe fn pick(self, p: *const f32, words: Self::I) -> Self::V {
        // SAFETY: guaranteed by the caller.
        words.map(|w| unsafe { *p.add(w as usize & 15) })
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [0; 16]
    }
    #[inline(always)]
    fn sums_to_array(self, sums: Self::Sums) -> [i32; 16] {
        sums
    }
    #[inline(always)]
    unsafe fn add_bytes(self, mut sums: Self::Sums, w: *const i8, x: *const i8) -> Self::Sums {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            let product = |i: usize| unsafe { i32::from(*w.add(i)) * i32::from(*x.add(i)) };
            *sum += product(2 * i) + product(2 * i + 1);
        }
        sums
    }
    #[inline(always)]
    unsafe fn add_picked<const SHIFT: i32, const BITS: u32>(
        self,
        mut sums: Self::Sums,
        w: *const i8,
        picks: *const u8,
        x: *const i8,
    ) -> Self::Sums {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            let product = |i: usize| unsafe {
                let pick = *picks.add(i) >> SHIFT & ((1 << BITS) - 1);
                i32::from(*w.add(i)) * i32::from(*x.add(pick.into()))
            };
            *sum += product(2 * i) + product(2 * i + 1);
        }
        sums
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn prefetch_write(self, _: *const f32) {}

    lanes! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        recip(a) = 1.0 / a;
        fma(a, b, c) = mul_add(a, b, c);
        fnma(a, b, c) = mul_add(-a, b, c);
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        abs(a) = a.abs();
        neg(a) = -a;
        copysign(a, b) = a.copysign(b);
        sqrt(a) = a.sqrt();
        floor(a) = a.floor();
        ceil(a) = a.ceil();
        round(a) = a.round_ties_even();
        scale2(a, n) = { let h = (n * 0.5).floor(); a * pow2(h) * pow2(n - h) };
    }

    #[inline(always)]
    fn frexp(self, a: Self::V) -> (Self::V, Self::V) {
        let (mut m, mut e) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            // Subtracting this moves the boundary between exponents from 1 to √½, so m falls in [√½, √2).
            let t = a[i].to_bits().wrapping_sub(SQRT_HALF_BITS);
            e[i] = ((t as i32) >> 23) as f32;
            m[i] = f32::from_bits((t & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
        }
        (m, e)
    }

    #[inline(always)]
    fn lt(self, a: Self::V, b: Self::V) -> Self::M {
        [a[0] < b[0], a[1] < b[1], a[2] < b[2], a[3] < b[3]]
    }
    #[inline(always)]
    fn eq(self, a: Self::V, b: Self::V) -> Self::M {
        [a[0] == b[0], a[1] == b[1], a[2] == b[2], a[3] == b[3]]
    }
    #[inline(always)]
    fn below_bits(self, a: Self::V, b: Self::V) -> u32 {
        (0..N).fold(0, |bits, i| bits | u32::from(a[i].to_bits() < b[i].to_bits()) << i)
    }
    #[inline(always)]
    fn select(self, m: Self::M, t: Self::V, f: Self::V) -> Self::V {
        let mut out = f;
        for i in 0..N {
            if m[i] {
                out[i] = t[i];
            }
        }
        out
    }
}

/// Bits of √½ rounded down to f32.
pub(super) const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
