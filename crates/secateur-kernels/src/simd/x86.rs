//! AVX2 with FMA and F16C, and AVX-512.

use super::portable::SQRT_HALF_BITS;
use super::{Kernel, Simd};
use core::arch::x86_64::*;
use half::f16;

/// Proof of AVX2, FMA, F16C and POPCNT.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Proof of AVX-512 F, DQ and VL, and of what AVX2 proves.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// # Safety
/// The processor has AVX2, FMA, F16C and POPCNT.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// # Safety
/// The processor has AVX2, FMA, F16C, POPCNT and AVX-512 F, DQ and VL.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,popcnt,avx512f,avx512dq,avx512vl")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

macro_rules! lanes {
    ($($name:ident($($arg:ident: $t:ty),*) -> $r:ty = $e:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            // SAFETY: a value of Self proves that the processor has the instructions.
            unsafe { $e }
        }
    )* };
}

/// The four values at `p`, repeated, as a vector that is opaque to the compiler: otherwise each splat of a lane would become
/// a load, and loads limit the loops that use this.
macro_rules! quads {
    ($name:ident, $features:literal, $class:ident, $v:ident, $broadcast:expr) => {
        /// # Safety
        /// Four values can be read at `p`, and the processor has the instructions.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name(p: *const f32) -> $v {
            // SAFETY: guaranteed by the caller; the assembly is empty.
            unsafe {
                let mut v = $broadcast(p);
                core::arch::asm!("/* {0} */", inout($class) v, options(pure, nomem, nostack, preserves_flags));
                v
            }
        }
    };
}
quads!(quads8, "avx2", ymm_reg, __m256, |p| _mm256_broadcast_ps(&_mm_loadu_ps(p)));
quads!(quads16, "avx512f,avx512dq", zmm_reg, __m512, |p| _mm512_broadcast_f32x4(_mm_loadu_ps(p)));

/// For each mask of eight bits, the source lane of each set bit, and −1 elsewhere.
static EXPAND: [[i8; 8]; 256] = {
    let mut table = [[-1; 8]; 256];
    let mut bits = 0;
    while bits < 256 {
        let (mut i, mut next) = (0, 0);
        while i < 8 {
            if bits >> i & 1 == 1 {
                table[bits][i] = next;
                next += 1;
            }
            i += 1;
        }
        bits += 1;
    }
    table
};

/// `MASK[8 - n..]` begins with n lanes of ones.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A mask of the first `n` lanes.
///
/// # Safety
/// `n <= 8`, and the processor has AVX2.
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    // SAFETY: n <= 8, so the eight values lie in MASK.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()) }
}

/// Lanes of ones where the low eight bits are set.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn spread8(bits: u32) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits as i32), lane), lane)
    }
}

/// 2ⁿ of whole n in −126..=127.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pow2x8(n: __m256) -> __m256 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(i))
    }
}

/// Transposes 8 × 8 values.
///
/// # Safety
/// Eight rows of eight values can be read at `src` and written at `dst`, and the processor has AVX2.
#[inline(always)]
unsafe fn transpose8(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        // Rows r and r + 4 in one vector, so that all further steps stay within halves.
        let mut r = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            for half in 0..2 {
                let low = _mm_loadu_ps(src.add(i * src_stride + 4 * half));
                let high = _mm_loadu_ps(src.add((i + 4) * src_stride + 4 * half));
                r[i + 4 * half] = _mm256_set_m128(high, low);
            }
        }
        for half in 0..2 {
            let [a, b, c, d] = [r[4 * half], r[4 * half + 1], r[4 * half + 2], r[4 * half + 3]];
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let out = [
                _mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
                _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
            ];
            for (i, v) in out.into_iter().enumerate() {
                _mm256_storeu_ps(dst.add((4 * half + i) * dst_stride), v);
            }
        }
    }
}

/// 256-bit intrinsics, under names that they share with the 512-bit ones.
mod w256 {
    pub(super) use core::arch::x86_64::{
        __m256 as V, __m256i as I, _mm_loadu_si128 as loadu_half, _mm256_add_epi32 as add_epi32,
        _mm256_add_ps as add, _mm256_and_ps as and, _mm256_and_si256 as and_int, _mm256_andnot_ps as andnot,
        _mm256_castps_si256 as to_int, _mm256_castsi256_ps as to_float, _mm256_cvtepi32_ps as convert,
        _mm256_cvtph_ps as widen, _mm256_div_ps as div, _mm256_fmadd_ps as fmadd, _mm256_fnmadd_ps as fnmadd,
        _mm256_loadu_ps as loadu, _mm256_loadu_si256 as loadu_int, _mm256_max_ps as max,
        _mm256_min_ps as min, _mm256_mul_ps as mul, _mm256_or_ps as or, _mm256_permute_ps as permute,
        _mm256_permutevar_ps as permutevar, _mm256_rcp_ps as rcp, _mm256_set1_epi32 as set1_epi32,
        _mm256_set1_ps as set1, _mm256_sqrt_ps as sqrt, _mm256_srai_epi32 as srai,
        _mm256_storeu_ps as storeu, _mm256_sub_epi32 as sub_epi32, _mm256_sub_ps as sub,
        _mm256_xor_ps as xor,
    };
}

/// 512-bit intrinsics, under names that they share with the 256-bit ones.
mod w512 {
    pub(super) use core::arch::x86_64::{
        __m512 as V, __m512i as I, _mm256_loadu_si256 as loadu_half, _mm512_add_epi32 as add_epi32,
        _mm512_add_ps as add, _mm512_and_ps as and, _mm512_and_si512 as and_int, _mm512_andnot_ps as andnot,
        _mm512_castps_si512 as to_int, _mm512_castsi512_ps as to_float, _mm512_cvtepi32_ps as convert,
        _mm512_cvtph_ps as widen, _mm512_div_ps as div, _mm512_fmadd_ps as fmadd, _mm512_fnmadd_ps as fnmadd,
        _mm512_loadu_ps as loadu, _mm512_loadu_si512 as loadu_int, _mm512_max_ps as max,
        _mm512_min_ps as min, _mm512_mul_ps as mul, _mm512_or_ps as or, _mm512_permute_ps as permute,
        _mm512_permutevar_ps as permutevar, _mm512_rcp14_ps as rcp, _mm512_set1_epi32 as set1_epi32,
        _mm512_set1_ps as set1, _mm512_sqrt_ps as sqrt, _mm512_srai_epi32 as srai,
        _mm512_storeu_ps as storeu, _mm512_sub_epi32 as sub_epi32, _mm512_sub_ps as sub,
        _mm512_xor_ps as xor,
    };
}

/// The methods of [`Simd`] that are the same for both widths but for the intrinsics, which `$w` names.
macro_rules! shared {
    ($w:ident) => {
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> $w::V {
            // SAFETY: guaranteed by the caller.
            unsafe { $w::loadu(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: $w::V) {
            // SAFETY: guaranteed by the caller.
            unsafe { $w::storeu(p, v) }
        }
        #[inline(always)]
        unsafe fn load_f16(self, p: *const f16) -> $w::V {
            // SAFETY: guaranteed by the caller.
            unsafe { $w::widen($w::loadu_half(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_words(self, p: *const u32) -> $w::I {
            // SAFETY: guaranteed by the caller.
            unsafe { $w::loadu_int(p.cast()) }
        }
        #[inline(always)]
        unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
            // SAFETY: guaranteed by the caller; a value of Self proves AVX2.
            unsafe { transpose8(src, src_stride, dst, dst_stride) }
        }
        #[inline(always)]
        fn splat_quads<const I: usize>(self, a: $w::V) -> $w::V {
            // SAFETY: a value of Self proves that the processor has the instructions.
            unsafe {
                match I {
                    0 => $w::permute::<0x00>(a),
                    1 => $w::permute::<0x55>(a),
                    2 => $w::permute::<0xaa>(a),
                    _ => $w::permute::<0xff>(a),
                }
            }
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            // SAFETY: a prefetch accesses no memory.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        fn prefetch_write(self, p: *const f32) {
            // SAFETY: a prefetch accesses no memory.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
        }

        lanes! {
            splat(x: f32) -> $w::V = $w::set1(x);
            add(a: $w::V, b: $w::V) -> $w::V = $w::add(a, b);
            sub(a: $w::V, b: $w::V) -> $w::V = $w::sub(a, b);
            mul(a: $w::V, b: $w::V) -> $w::V = $w::mul(a, b);
            div(a: $w::V, b: $w::V) -> $w::V = $w::div(a, b);
            recip(a: $w::V) -> $w::V = {
                // Newton's step doubles the bits of the estimate: 12, or 14 with AVX-512.
                let x = $w::rcp(a);
                $w::fmadd($w::fnmadd(a, x, $w::set1(1.0)), x, x)
            };
            fma(a: $w::V, b: $w::V, c: $w::V) -> $w::V = $w::fmadd(a, b, c);
            fnma(a: $w::V, b: $w::V, c: $w::V) -> $w::V = $w::fnmadd(a, b, c);
            max(a: $w::V, b: $w::V) -> $w::V = $w::max(a, b);
            min(a: $w::V, b: $w::V) -> $w::V = $w::min(a, b);
            abs(a: $w::V) -> $w::V = $w::andnot($w::set1(-0.0), a);
            neg(a: $w::V) -> $w::V = $w::xor($w::set1(-0.0), a);
            copysign(a: $w::V, b: $w::V) -> $w::V = {
                let sign = $w::set1(-0.0);
                $w::or($w::andnot(sign, a), $w::and(sign, b))
            };
            sqrt(a: $w::V) -> $w::V = $w::sqrt(a);
            frexp(a: $w::V) -> ($w::V, $w::V) = {
                let cut = $w::set1_epi32(SQRT_HALF_BITS as i32);
                let t = $w::sub_epi32($w::to_int(a), cut);
                let e = $w::convert($w::srai::<23>(t));
                let m = $w::add_epi32($w::and_int(t, $w::set1_epi32(0x007f_ffff)), cut);
                ($w::to_float(m), e)
            };
            pick_quads(a: $w::V, words: $w::I) -> $w::V = $w::permutevar(a, words);
            zero_sums() -> [__m256i; 2] = [_mm256_setzero_si256(); 2];
        }
    };
}

impl Simd for Avx2 {
    type V = __m256;
    type M = __m256;
    type I = __m256i;
    type Sums = [__m256i; 2];
    const LANES: usize = 8;
    const MR: usize = 6;
    const NV: usize = 2;
    const SQUARE: usize = 8;
    const PICK_BITS: u32 = 4;
    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { run_avx2(kernel) }
    }

    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bits(self, p: *const f32, bits: u32) -> __m256 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm256_maskload_ps(p, spread8(bits)) }
    }
    #[inline(always)]
    unsafe fn load_even_bits(self, p: *const f32, bits: u32) -> __m256 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe {
            let a = _mm256_maskload_ps(p, spread8(bits));
            let b = _mm256_maskload_ps(p.wrapping_add(8), spread8(bits >> 8));
            let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(pairs))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(self, low: *const f32, high: *const f32) -> __m256 {
        // SAFETY: guaranteed by the caller; a value of Self proves that the processor has the instructions.
        unsafe { _mm256_loadu2_m128(high, low) }
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: __m256) {
        // SAFETY: guaranteed by the caller; a value of Self proves that the processor has the instructions.
        unsafe { _mm256_storeu2_m128(high, low, v) }
    }
    #[inline(always)]
    unsafe fn load_quads(self, p: *const f32) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe { quads8(p) }
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, words: __m256i) -> __m256i {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { _mm256_srli_epi32::<BITS>(words) }
    }
    #[inline(always)]
    unsafe fn pick(self, p: *const f32, words: __m256i) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), words);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p.add(8)), words);
            // The blend selects by the highest bit of each lane.
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(words)))
        }
    }
    #[inline(always)]
    unsafe fn add_bytes(self, [a, b]: [__m256i; 2], w: *const i8, x: *const i8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (w, x) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(x.cast()));
            // One factor has to be unsigned. Two products of at most 127 · 127 don't overflow 16 bits.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
            [_mm256_add_epi32(a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))), b]
        }
    }
    #[inline(always)]
    unsafe fn add_picked<const SHIFT: i32, const BITS: u32>(
        self,
        [even, odd]: [__m256i; 2],
        w: *const i8,
        picks: *const u8,
        x: *const i8,
    ) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (w, picks) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(picks.cast()));
            let picks = _mm256_srli_epi16::<SHIFT>(picks);
            let picks = _mm256_and_si256(picks, _mm256_set1_epi8((1 << BITS) - 1));
            let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(x.cast()));
            let x = _mm256_shuffle_epi8(x, picks);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
            [
                _mm256_add_epi32(even, _mm256_madd_epi16(pairs, _mm256_set1_epi32(1))),
                _mm256_add_epi32(odd, _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 << 16))),
            ]
        }
    }
    #[inline(always)]
    fn sums_to_array(self, sums: [__m256i; 2]) -> [i32; 16] {
        // SAFETY: two vectors of eight i32 have the size of the array, and every bit pattern is valid.
        let halves: [[i32; 8]; 2] = unsafe { core::mem::transmute(sums) };
        core::array::from_fn(|i| halves[i % 2][i / 2])
    }

    shared!(w256);

    lanes! {
        unzip(a: __m256, b: __m256) -> (__m256, __m256) = {
            let in_order = |pairs| {
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(pairs)))
            };
            let even = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
            let odd = _mm256_shuffle_ps::<0b11_01_11_01>(a, b);
            (in_order(even), in_order(odd))
        };
        floor(a: __m256) -> __m256 = _mm256_floor_ps(a);
        ceil(a: __m256) -> __m256 = _mm256_ceil_ps(a);
        round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale2(a: __m256, n: __m256) -> __m256 = {
            let h = _mm256_floor_ps(_mm256_mul_ps(n, _mm256_set1_ps(0.5)));
            _mm256_mul_ps(_mm256_mul_ps(a, pow2x8(h)), pow2x8(_mm256_sub_ps(n, h)))
        };
        lt(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        eq(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        below_bits(a: __m256, b: __m256) -> u32 = {
            // Unsigned order is signed order with the highest bits flipped.
            let flip = |v| _mm256_xor_si256(_mm256_castps_si256(v), _mm256_set1_epi32(i32::MIN));
            let below = _mm256_cmpgt_epi32(flip(b), flip(a));
            _mm256_movemask_ps(_mm256_castsi256_ps(below)) as u32
        };
        select(m: __m256, t: __m256, f: __m256) -> __m256 = _mm256_blendv_ps(f, t, m);
        expand(v: __m256, bits: u32) -> __m256 = {
            let from = _mm_loadl_epi64((&raw const EXPAND[bits as usize & 255]).cast());
            let from = _mm256_cvtepi8_epi32(from);
            let lanes = _mm256_permutevar8x32_ps(v, from);
            _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32::<31>(from)), lanes)
        };
    }
}

#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    type V = __m512;
    type M = __mmask16;
    type I = __m512i;
    type Sums = [__m256i; 2];
    const LANES: usize = 16;
    const MR: usize = 8;
    const NV: usize = 3;
    const SQUARE: usize = 8;
    const PICK_BITS: u32 = 5;
    type Narrow = Avx2;

    #[inline(always)]
    fn narrow(self) -> Avx2 {
        Avx2(())
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { run_avx512(kernel) }
    }

    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bits(self, p: *const f32, bits: u32) -> __m512 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(bits as __mmask16, p) }
    }
    #[inline(always)]
    unsafe fn load_even_bits(self, p: *const f32, bits: u32) -> __m512 {
        // SAFETY: guaranteed by the caller; masked lanes are not accessed.
        unsafe {
            let a = _mm512_maskz_loadu_ps(bits as __mmask16, p);
            let b = _mm512_maskz_loadu_ps((bits >> 16) as __mmask16, p.wrapping_add(16));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_permutex2var_ps(a, even, b)
        }
    }

    #[inline(always)]
    unsafe fn load_quads(self, p: *const f32) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { quads16(p) }
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, words: __m512i) -> __m512i {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { _mm512_srl_epi32(words, _mm_cvtsi32_si128(BITS)) }
    }
    #[inline(always)]
    unsafe fn pick(self, p: *const f32, words: __m512i) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_permutex2var_ps(_mm512_loadu_ps(p), words, _mm512_loadu_ps(p.add(16))) }
    }
    #[inline(always)]
    unsafe fn add_bytes(self, sums: [__m256i; 2], w: *const i8, x: *const i8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { self.narrow().add_bytes(sums, w, x) }
    }
    #[inline(always)]
    unsafe fn add_picked<const SHIFT: i32, const BITS: u32>(
        self,
        sums: [__m256i; 2],
        w: *const i8,
        picks: *const u8,
        x: *const i8,
    ) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { self.narrow().add_picked::<SHIFT, BITS>(sums, w, picks, x) }
    }
    #[inline(always)]
    fn sums_to_array(self, sums: [__m256i; 2]) -> [i32; 16] {
        self.narrow().sums_to_array(sums)
    }

    #[inline(always)]
    unsafe fn load_halves(self, low: *const f32, high: *const f32) -> __m512 {
        // SAFETY: guaranteed by the caller; a value of Self proves that the processor has the instructions.
        unsafe {
            _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: __m512) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(low, _mm512_castps512_ps256(v));
            _mm256_storeu_ps(high, _mm512_extractf32x8_ps::<1>(v));
        }
    }

    shared!(w512);

    lanes! {
        unzip(a: __m512, b: __m512) -> (__m512, __m512) = {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        };
        floor(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a);
        ceil(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a);
        round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale2(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        eq(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        below_bits(a: __m512, b: __m512) -> u32 = {
            _mm512_cmplt_epu32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)).into()
        };
        select(m: __mmask16, t: __m512, f: __m512) -> __m512 = _mm512_mask_blend_ps(m, f, t);
        expand(v: __m512, bits: u32) -> __m512 = _mm512_maskz_expand_ps(bits as __mmask16, v);
    }
}
