//! One vector type per instruction set, and the choice between them.
//!
//! A kernel is written once, generic over [`Simd`], as the `run` of a [`Kernel`]. [`Isa::run`] calls it inside a function
//! compiled for the instruction set, into which everything marked `#[inline(always)]` is inlined. A value of a `Simd` type
//! proves that the processor has the instructions: only this module creates one, after detection.

#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod portable;
#[cfg(test)]
mod tests;
mod transpose;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
use std::sync::OnceLock;

pub use peak::{peak_flops, read_bandwidth};
pub(crate) use portable::Portable;
pub(crate) use transpose::Transpose;

/// Widest vector of any instruction set, in f32 lanes.
pub(crate) const MAX_LANES: usize = 16;

/// Vectors of f32 and their operations.
///
/// Comparisons with NaN are false. `max(a, b)` and `min(a, b)` return `b` if either is NaN, so NaN survives a clamp if the
/// data are the second operand.
pub(crate) trait Simd: Copy + Send + Sync {
    /// A vector of `LANES` f32.
    type V: Copy;
    /// A truth value for each lane.
    type M: Copy;
    /// A whole number of 32 bits for each lane.
    type I: Copy;
    /// Sixteen sums of products of bytes.
    type Sums: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Rows of a matrix-product tile. With `NV` vectors per row it leaves registers for the operands and one to spare, because
    /// compilers load a row's value ahead.
    const MR: usize;
    /// Vectors per row of a matrix-product tile.
    const NV: usize;
    /// Side of the squares that `transpose` takes.
    const SQUARE: usize;
    /// Bits that select one of the values that `pick` chooses from.
    const PICK_BITS: u32;
    /// Vectors of half the width if those cost half as much, else `Self`.
    type Narrow: Simd;
    fn narrow(self) -> Self::Narrow;

    /// Runs `kernel` in a function of its own, compiled for this instruction set.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` values can be read at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` values can be written at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Loads `n` values; the other lanes are zero.
    /// # Safety
    /// `n <= LANES` and `n` values can be read at `p`.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n` lanes.
    /// # Safety
    /// `n <= LANES` and `n` values can be written at `p`.
    unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize);
    /// Loads the lanes whose bits are set; the others are zero and their memory is not accessed.
    /// # Safety
    /// `p + i` can be read for every set bit i.
    unsafe fn load_bits(self, p: *const f32, bits: u32) -> Self::V;
    /// Loads lane i from `p + 2 i` where bit 2 i is set (odd bits are clear); the others are zero and their
    /// memory is not accessed.
    /// # Safety
    /// `p + i` can be read for every set bit i, all even.
    unsafe fn load_even_bits(self, p: *const f32, bits: u32) -> Self::V;
    /// Writes `SQUARE` × `SQUARE` values transposed; the strides are those of rows.
    /// # Safety
    /// `SQUARE` rows of `SQUARE` values can be read at `src` and written at `dst`, and they do not overlap.
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);

    /// The four values at `p`, repeated.
    /// # Safety
    /// Four values can be read at `p`.
    unsafe fn load_quads(self, p: *const f32) -> Self::V;
    /// Each lane gets value `I` of its four lanes.
    fn splat_quads<const I: usize>(self, a: Self::V) -> Self::V;
    /// Half a vector from `low`, and the other half from `high`.
    /// # Safety
    /// `LANES / 2` values can be read at each.
    unsafe fn load_halves(self, low: *const f32, high: *const f32) -> Self::V;
    /// Stores the first half of the lanes at `low` and the others at `high`.
    /// # Safety
    /// `LANES / 2` values can be written at each.
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: Self::V);
    /// The even and the odd lanes of `a` followed by `b`.
    fn unzip(self, a: Self::V, b: Self::V) -> (Self::V, Self::V);

    /// Loads `LANES` numbers of half precision.
    /// # Safety
    /// They can be read at `p`.
    unsafe fn load_f16(self, p: *const f16) -> Self::V;
    /// Moves the first lanes of `v`, in order, to the lanes whose bits are set; the others are zero.
    fn expand(self, v: Self::V, bits: u32) -> Self::V;
    /// Loads `LANES` words.
    /// # Safety
    /// They can be read at `p`.
    unsafe fn load_words(self, p: *const u32) -> Self::I;
    /// Each word shifted right by `BITS` bits.
    fn shift_right<const BITS: i32>(self, words: Self::I) -> Self::I;
    /// Each lane gets the value at `p` that the low `PICK_BITS` bits of its word index.
    /// # Safety
    /// 2^`PICK_BITS` values can be read at `p`.
    unsafe fn pick(self, p: *const f32, words: Self::I) -> Self::V;

    /// Each lane gets that one of its four lanes of `a` that the low two bits of its word index.
    fn pick_quads(self, a: Self::V, words: Self::I) -> Self::V;

    /// Sixteen zeros.
    fn zero_sums(self) -> Self::Sums;
    fn sums_to_array(self, sums: Self::Sums) -> [i32; 16];
    /// Adds 32 products of bytes, none of them −128, to the sums; which sum gets which product is unspecified.
    /// # Safety
    /// 32 bytes can be read at `w` and at `x`.
    unsafe fn add_bytes(self, sums: Self::Sums, w: *const i8, x: *const i8) -> Self::Sums;
    /// Adds to sum i the products of bytes 2 i and 2 i + 1 at `w`, none of them −128, with the bytes at `x` indexed by `BITS`
    /// bits (at most four), from bit `SHIFT` on, of bytes 2 i and 2 i + 1 at `picks`.
    /// # Safety
    /// 32 bytes can be read at `w` and at `picks`, and 16 at `x`.
    unsafe fn add_picked<const SHIFT: i32, const BITS: u32>(
        self,
        sums: Self::Sums,
        w: *const i8,
        picks: *const u8,
        x: *const i8,
    ) -> Self::Sums;

    /// Prefetches a value that will be read soon.
    fn prefetch(self, p: *const f32);
    /// Prefetches a value that will be written soon.
    fn prefetch_write(self, p: *const f32);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `1 / a` within two units in the last place, for `a` in [2⁻¹⁰⁰, 2¹⁰⁰]; NaN gives NaN.
    fn recip(self, a: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`, rounded once where the processor can.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    fn neg(self, a: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    fn floor(self, a: Self::V) -> Self::V;
    fn ceil(self, a: Self::V) -> Self::V;
    /// To the nearest whole number, halves to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n` for whole `n` in −252..=254.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// For positive normal `a`: `m` in [√½, √2) and whole `e` with `a = m · 2^e`.
    fn frexp(self, a: Self::V) -> (Self::V, Self::V);

    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    fn eq(self, a: Self::V, b: Self::V) -> Self::M;
    /// Bit i: whether lane i of `a` is below that of `b`, compared as unsigned integers.
    fn below_bits(self, a: Self::V, b: Self::V) -> u32;
    /// Lanes of `t` where `m`, else of `f`.
    fn select(self, m: Self::M, t: Self::V, f: Self::V) -> Self::V;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The lanes as an array; lanes beyond `LANES` are zero.
    #[inline(always)]
    fn to_array(self, a: Self::V) -> [f32; MAX_LANES] {
        let mut out = [0.0; MAX_LANES];
        // SAFETY: LANES <= MAX_LANES.
        unsafe { self.store(out.as_mut_ptr(), a) };
        out
    }
}

/// The sum of a vector's lanes.
#[inline(always)]
pub(crate) fn sum_lanes<S: Simd>(s: S, mut v: S::V) -> f32 {
    for _ in 0..S::LANES.ilog2() {
        let (even, odd) = s.unzip(v, v);
        v = s.add(even, odd);
    }
    s.to_array(v)[0]
}

/// A computation generic over the instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Replaces each vector `x` of a slice by an expression of it. The last vector may be partial, so an element's result does
/// not depend on its position.
macro_rules! map_vectors {
    ($s:ident, $data:ident, |$x:ident| $e:expr) => {{
        let (n, p) = ($data.len(), $data.as_mut_ptr());
        let whole = n - n % S::LANES;
        let mut i = 0;
        while i < whole {
            // SAFETY: i + LANES <= n.
            unsafe {
                let $x = $s.load(p.add(i));
                $s.store(p.add(i), $e);
            }
            i += S::LANES;
        }
        if i < n {
            // SAFETY: n - i < LANES values are left.
            unsafe {
                let $x = $s.load_n(p.add(i), n - i);
                $s.store_n(p.add(i), $e, n - i);
            }
        }
    }};
}
pub(crate) use map_vectors;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Isa(Level);

impl Isa {
    /// The best instruction set of this processor, detected once.
    pub(crate) fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| *Isa::available().last().expect("the portable one is always there"))
    }

    /// Every instruction set that this processor has, the best last.
    pub(crate) fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = vec![Isa(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt");
            if avx2 {
                found.push(Isa(Level::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                found.push(Isa(Level::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Isa(Level::Neon));
        }
        found
    }

    /// Instruction sets with kernels that this processor lacks.
    #[cfg(test)]
    pub(crate) fn missing() -> Vec<Isa> {
        #[cfg(target_arch = "x86_64")]
        let all = [Level::Portable, Level::Avx2, Level::Avx512];
        #[cfg(target_arch = "aarch64")]
        let all = [Level::Portable, Level::Neon];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let all = [Level::Portable];
        all.map(Isa).into_iter().filter(|isa| !Isa::available().contains(isa)).collect()
    }

    /// Whether [`Simd::expand`] takes one or two instructions.
    pub(crate) fn expands(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => true,
            _ => false,
        }
    }

    /// Whether single instructions expand vectors of bytes, pick from two of them, and multiply and sum them: AVX-512 with
    /// VBMI, VBMI2 and VNNI.
    pub(crate) fn has_byte_vectors(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("avx512vnni")
            }
            _ => false,
        }
    }

    /// Runs `kernel` with this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => kernel.run(Portable),
            // SAFETY: only `available` creates an `Isa`, after it has detected the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::run(kernel) },
        }
    }

    /// Sizes of the matrix-product tile of this instruction set.
    pub(crate) fn tile(self) -> TileSize {
        self.run(TileSizeOf)
    }
}

/// Name of the instruction set that the kernels use on this machine: `"portable"`, `"avx2"`, `"avx512"` or `"neon"`.
pub fn instruction_set() -> &'static str {
    match Isa::best().0 {
        Level::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "avx2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => "avx512",
        #[cfg(target_arch = "aarch64")]
        Level::Neon => "neon",
    }
}

/// Rows, columns and vector width of the matrix-product tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TileSize {
    pub(crate) mr: usize,
    pub(crate) nr: usize,
    pub(crate) lanes: usize,
    /// Lanes of narrow vectors.
    pub(crate) narrow: usize,
}

struct TileSizeOf;

impl Kernel for TileSizeOf {
    type Output = TileSize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> TileSize {
        TileSize { mr: S::MR, nr: S::NV * S::LANES, lanes: S::LANES, narrow: S::Narrow::LANES }
    }
}
