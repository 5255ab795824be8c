//! Bytes with AVX-512 VBMI, which picks among 128 of them, and VNNI, which multiplies and sums four per lane.

use super::super::RowSums;
use super::super::rows::prefetch_lines;
use super::super::value::BYTE_LANES;
use super::{Band, Shape, Slots, Steps};
use core::arch::x86_64::*;

const VECTOR: usize = 64;

/// Four slots per step, which picks from 128 inputs: a step's picks, then its weights.
pub(super) const SHAPE: Shape =
    Shape { lanes: BYTE_LANES, window: 2 * VECTOR, slots: 4, steps: 1, bytes: 2 * VECTOR };

/// Initial sum that compensates for the excess of Σ (x + 128) w: the instruction multiplies unsigned by signed bytes.
pub(super) fn base(in_slots: &[i8]) -> i32 {
    in_slots.iter().fold(0i32, |sum, &w| sum.wrapping_sub(i32::from(w) << 7))
}

/// Writes the sums of bands.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and VNNI; and as for [`Slots::run_bands`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) unsafe fn run(form: &Slots<i8>, bands: &[Band], x: &[i8], out: RowSums) {
    // SAFETY: guaranteed by the caller.
    unsafe { form.run_bands(Vbmi, bands, x, out) }
}

/// Only constructed in [`run`], so the processor has the instructions.
#[derive(Clone, Copy)]
struct Vbmi;

impl Steps<i8> for Vbmi {
    #[inline(always)]
    unsafe fn add<const R: usize>(
        self,
        blocks: [*const i8; R],
        windows: &[u32],
        x: *const i8,
        sums: &mut [i32],
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe { add_steps(blocks, windows, x, sums) }
    }
}

/// See [`Steps::add`].
///
/// # Safety
/// As there, and as for [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
unsafe fn add_steps<const R: usize>(blocks: [*const i8; R], windows: &[u32], x: *const i8, sums: &mut [i32]) {
    assert!(sums.len() >= R * SHAPE.lanes);
    let sign = _mm512_set1_epi8(-128);
    // SAFETY: blocks, windows and inputs by the caller's guarantee; sums as checked.
    unsafe {
        let sums = sums.as_mut_ptr();
        let mut acc: [__m512i; R] =
            std::array::from_fn(|r| _mm512_loadu_si512(sums.add(r * SHAPE.lanes).cast()));
        for (step, &window) in windows.iter().enumerate() {
            let x = x.add(window as usize);
            let low = _mm512_xor_si512(_mm512_loadu_si512(x.cast()), sign);
            let high = _mm512_xor_si512(_mm512_loadu_si512(x.add(VECTOR).cast()), sign);
            for (block, acc) in blocks.iter().zip(&mut acc) {
                let block = block.add(step * SHAPE.bytes);
                prefetch_lines(block, SHAPE.bytes, |p| _mm_prefetch::<_MM_HINT_T0>(p));
                let picks = _mm512_loadu_si512(block.cast());
                let weights = _mm512_loadu_si512(block.add(VECTOR).cast());
                *acc = _mm512_dpbusd_epi32(*acc, _mm512_permutex2var_epi8(low, picks, high), weights);
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            _mm512_storeu_si512(sums.add(r * SHAPE.lanes).cast(), acc);
        }
    }
}
