//! NEON on 64-bit ARM.

use super::portable::SQRT_HALF_BITS;
use super::{Kernel, Simd};
use core::arch::aarch64::*;
use core::arch::asm;
use half::f16;

/// Proof of NEON.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
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

/// 2ⁿ of whole n in −126..=127.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn pow2(n: float32x4_t) -> float32x4_t {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let i = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(i))
    }
}

/// For each mask of four bits, the source bytes of each set bit's lane; out of range elsewhere.
static EXPAND: [[u8; 16]; 16] = {
    let mut table = [[u8::MAX; 16]; 16];
    let mut bits = 0;
    while bits < 16 {
        let (mut i, mut next) = (0, 0);
        while i < 16 {
            if bits >> (i / 4) & 1 == 1 {
                table[bits][i] = next;
                next += 1;
            }
            i += 1;
        }
        bits += 1;
    }
    table
};

/// Indices of the four bytes of value i, which begin at 4 i.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn bytes_of(i: uint32x4_t) -> uint8x16_t {
    // SAFETY: guaranteed by the caller.
    unsafe { vreinterpretq_u8_u32(vmlaq_u32(vdupq_n_u32(0x0302_0100), i, vdupq_n_u32(0x0404_0404))) }
}

/// Adds the products of bytes 2 i and 2 i + 1 to sum i.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn add_pairs([a, b, c, d]: [int32x4_t; 4], w: [int8x16_t; 2], x: [int8x16_t; 2]) -> [int32x4_t; 4] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let low = |i: usize| vmull_s8(vget_low_s8(w[i]), vget_low_s8(x[i]));
        let high = |i: usize| vmull_high_s8(w[i], x[i]);
        [vpadalq_s16(a, low(0)), vpadalq_s16(b, high(0)), vpadalq_s16(c, low(1)), vpadalq_s16(d, high(1))]
    }
}

/// Lane i from `p + STEP i` if bit `STEP i` is set, else zero. NEON has no masked load, so lanes are loaded one by one.
///
/// # Safety
/// `p + i` can be read for every set bit i, and the processor has NEON.
#[inline(always)]
unsafe fn gather<const STEP: usize>(p: *const f32, bits: u32) -> float32x4_t {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut v = vdupq_n_f32(0.0);
        if bits & 1 != 0 {
            v = vld1q_lane_f32::<0>(p, v);
        }
        if bits >> STEP & 1 != 0 {
            v = vld1q_lane_f32::<1>(p.wrapping_add(STEP), v);
        }
        if bits >> (2 * STEP) & 1 != 0 {
            v = vld1q_lane_f32::<2>(p.wrapping_add(2 * STEP), v);
        }
        if bits >> (3 * STEP) & 1 != 0 {
            v = vld1q_lane_f32::<3>(p.wrapping_add(3 * STEP), v);
        }
        v
    }
}

impl Simd for Neon {
    type V = float32x4_t;
    type M = uint32x4_t;
    type I = uint32x4_t;
    type Sums = [int32x4_t; 4];
    const LANES: usize = 4;
    const MR: usize = 8;
    const NV: usize = 3;
    const SQUARE: usize = 4;
    const PICK_BITS: u32 = 4;
    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { run(kernel) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: guaranteed by the caller.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> float32x4_t {
        // SAFETY: guaranteed by the caller; nothing beyond n values is accessed.
        unsafe {
            let zero = vdup_n_f32(0.0);
            match n {
                0 => vcombine_f32(zero, zero),
                1 => vcombine_f32(vld1_lane_f32::<0>(p, zero), zero),
                2 => vcombine_f32(vld1_f32(p), zero),
                3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), zero)),
                _ => vld1q_f32(p),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: float32x4_t, n: usize) {
        // SAFETY: guaranteed by the caller; nothing beyond n values is accessed.
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, v),
                2 => vst1_f32(p, vget_low_f32(v)),
                3 => {
                    vst1_f32(p, vget_low_f32(v));
                    vst1q_lane_f32::<2>(p.add(2), v);
                }
                _ => vst1q_f32(p, v),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bits(self, p: *const f32, bits: u32) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { if bits & 15 == 15 { vld1q_f32(p) } else { gather::<1>(p, bits) } }
    }
    #[inline(always)]
    unsafe fn load_even_bits(self, p: *const f32, bits: u32) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { gather::<2>(p, bits) }
    }
    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: guaranteed by the caller; a value of Self proves that the processor has the instructions.
        unsafe {
            let row = |i: usize| vld1q_f32(src.add(i * src_stride));
            let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
            // Even and odd columns of two rows, then pairs of rows side by side.
            let pairs = |v| vreinterpretq_f64_f32(v);
            let (ab_even, ab_odd) = (pairs(vtrn1q_f32(a, b)), pairs(vtrn2q_f32(a, b)));
            let (cd_even, cd_odd) = (pairs(vtrn1q_f32(c, d)), pairs(vtrn2q_f32(c, d)));
            let out = [
                vtrn1q_f64(ab_even, cd_even),
                vtrn1q_f64(ab_odd, cd_odd),
                vtrn2q_f64(ab_even, cd_even),
                vtrn2q_f64(ab_odd, cd_odd),
            ];
            for (i, v) in out.into_iter().enumerate() {
                vst1q_f32(dst.add(i * dst_stride), vreinterpretq_f32_f64(v));
            }
        }
    }

    #[inline(always)]
    unsafe fn load_quads(self, p: *const f32) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    fn splat_quads<const I: usize>(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe {
            match I {
                0 => vdupq_laneq_f32::<0>(a),
                1 => vdupq_laneq_f32::<1>(a),
                2 => vdupq_laneq_f32::<2>(a),
                _ => vdupq_laneq_f32::<3>(a),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_halves(self, low: *const f32, high: *const f32) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { vcombine_f32(vld1_f32(low), vld1_f32(high)) }
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: float32x4_t) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            vst1_f32(low, vget_low_f32(v));
            vst1_f32(high, vget_high_f32(v));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> float32x4_t {
        // SAFETY: guaranteed by the caller. Every NEON has the instruction; the intrinsic is not in stable Rust.
        unsafe {
            let halves = vld1_u16(p.cast());
            let v: float32x4_t;
            asm!(
                "fcvtl {v:v}.4s, {halves:v}.4h",
                v = lateout(vreg) v,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
            v
        }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u32) -> uint32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe { vld1q_u32(p) }
    }
    #[inline(always)]
    fn shift_right<const BITS: i32>(self, words: uint32x4_t) -> uint32x4_t {
        // SAFETY: a value of Self proves that the processor has the instructions.
        unsafe { vshrq_n_u32::<BITS>(words) }
    }
    #[inline(always)]
    unsafe fn pick(self, p: *const f32, words: uint32x4_t) -> float32x4_t {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let value = |i: usize| vreinterpretq_u8_f32(vld1q_f32(p.add(4 * i)));
            let values = uint8x16x4_t(value(0), value(1), value(2), value(3));
            vreinterpretq_f32_u8(vqtbl4q_u8(values, bytes_of(vandq_u32(words, vdupq_n_u32(15)))))
        }
    }
    #[inline(always)]
    unsafe fn add_bytes(self, sums: [int32x4_t; 4], w: *const i8, x: *const i8) -> [int32x4_t; 4] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let w = [vld1q_s8(w), vld1q_s8(w.add(16))];
            add_pairs(sums, w, [vld1q_s8(x), vld1q_s8(x.add(16))])
        }
    }
    #[inline(always)]
    unsafe fn add_picked<const SHIFT: i32, const BITS: u32>(
        self,
        sums: [int32x4_t; 4],
        w: *const i8,
        picks: *const u8,
        x: *const i8,
    ) -> [int32x4_t; 4] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let values = vld1q_s8(x);
            let x = [0, 16].map(|i| {
                let picks = vld1q_u8(picks.add(i));
                // A negative left shift is a right shift.
                let picks = vshlq_u8(picks, vdupq_n_s8(-(SHIFT as i8)));
                let picks = vandq_u8(picks, vdupq_n_u8((1 << BITS) - 1));
                vqtbl1q_s8(values, picks)
            });
            add_pairs(sums, [vld1q_s8(w), vld1q_s8(w.add(16))], x)
        }
    }
    #[inline(always)]
    fn sums_to_array(self, sums: [int32x4_t; 4]) -> [i32; 16] {
        // SAFETY: four vectors of four i32 have the size of the array, and every bit pattern is valid.
        unsafe { core::mem::transmute(sums) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch accesses no memory.
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn prefetch_write(self, p: *const f32) {
        // SAFETY: a prefetch accesses no memory.
        unsafe { asm!("prfm pstl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags)) }
    }

    lanes! {
        unzip(a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b));
        splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        recip(a: float32x4_t) -> float32x4_t = vdivq_f32(vdupq_n_f32(1.0), a);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmsq_f32(c, a, b);
        // The instructions for these return NaN or the number if one operand is NaN, not the second operand.
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        abs(a: float32x4_t) -> float32x4_t = vabsq_f32(a);
        neg(a: float32x4_t) -> float32x4_t = vnegq_f32(a);
        copysign(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vdupq_n_u32(1 << 31), b, a);
        sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
        floor(a: float32x4_t) -> float32x4_t = vrndmq_f32(a);
        ceil(a: float32x4_t) -> float32x4_t = vrndpq_f32(a);
        round(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        scale2(a: float32x4_t, n: float32x4_t) -> float32x4_t = {
            let h = vrndmq_f32(vmulq_f32(n, vdupq_n_f32(0.5)));
            vmulq_f32(vmulq_f32(a, pow2(h)), pow2(vsubq_f32(n, h)))
        };
        frexp(a: float32x4_t) -> (float32x4_t, float32x4_t) = {
            let cut = vdupq_n_s32(SQRT_HALF_BITS as i32);
            let t = vsubq_s32(vreinterpretq_s32_f32(a), cut);
            let e = vcvtq_f32_s32(vshrq_n_s32::<23>(t));
            let m = vaddq_s32(vandq_s32(t, vdupq_n_s32(0x007f_ffff)), cut);
            (vreinterpretq_f32_s32(m), e)
        };
        lt(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        eq(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vceqq_f32(a, b);
        below_bits(a: float32x4_t, b: float32x4_t) -> u32 = {
            let below = vcltq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b));
            vaddvq_u32(vandq_u32(below, vld1q_u32([1, 2, 4, 8].as_ptr())))
        };
        select(m: uint32x4_t, t: float32x4_t, f: float32x4_t) -> float32x4_t = vbslq_f32(m, t, f);
        pick_quads(a: float32x4_t, words: uint32x4_t) -> float32x4_t = {
            let from = bytes_of(vandq_u32(words, vdupq_n_u32(3)));
            vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a), from))
        };
        zero_sums() -> [int32x4_t; 4] = [vdupq_n_s32(0); 4];
        expand(v: float32x4_t, bits: u32) -> float32x4_t = {
            let from = vld1q_u8(EXPAND[bits as usize & 15].as_ptr());
            vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), from))
        };
    }
}
