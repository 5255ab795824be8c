//! Bytes with AVX-512 VBMI2, which expands them to the positions of set bits, and VNNI, which multiplies and sums them.

use super::super::RowSums;
use super::super::rows::{PREFETCH_BYTES, streams};
use super::super::value::{BLOCK, Input};
use super::Mask;
use core::arch::asm;
use core::arch::x86_64::*;
use std::ops::Range;

/// See [`ByRow::special`](super::super::rows::ByRow::special).
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI2 and VNNI, and POPCNT.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx512vnni,popcnt")]
pub(super) unsafe fn run(mask: &Mask<i8>, range: Range<usize>, x: &Input, out: RowSums) {
    assert!(x.bytes.len() >= mask.words * BLOCK);
    // The instruction multiplies unsigned by signed bytes: weights become w + 128, and the excess is subtracted again.
    let excess = 128 * x.bytes.iter().map(|&x| i32::from(x)).sum::<i32>();
    let (streams, rest) = streams(range);
    for at in streams {
        // SAFETY: `of_rows` slices the rows, the inputs are long enough by the assertion, and ranges have disjoint rows.
        unsafe {
            let sums = sums(mask.of_rows(at), mask.words, x.bytes.as_ptr());
            sums.into_iter().zip(at).for_each(|(sum, row)| out.write(row, sum.wrapping_sub(excess) as f32));
        }
    }
    for row in rest {
        // SAFETY: as above.
        unsafe {
            let [sum] = sums(mask.of_rows([row]), mask.words, x.bytes.as_ptr());
            out.write(row, sum.wrapping_sub(excess) as f32);
        }
    }
}

/// Keeps `v` in a register: compilers fuse the load into the expanding instruction, which AMD processors execute at a
/// third of the speed (Zen 5: 8.5 cycles for 64 weights instead of 2.9).
#[inline]
#[target_feature(enable = "avx512f")]
fn in_register(mut v: __m512i) -> __m512i {
    // SAFETY: the assembly is empty and leaves the register unchanged.
    unsafe { asm!("/* {0} */", inout(zmm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// Sums of (w + 128) x.
///
/// # Safety
/// As for [`Masked::masked`](super::Masked::masked), and as for [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx512vnni,popcnt")]
unsafe fn sums<const R: usize>(
    mut rows: [(*const u64, *const i8); R],
    words: usize,
    x: *const i8,
) -> [i32; R] {
    let sign = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_si512(); R];
    for word in 0..words {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let x = _mm512_loadu_si512(x.add(word * BLOCK).cast());
            for ((bits, values), sum) in rows.iter_mut().zip(&mut sums) {
                let bits = *bits.add(word);
                let w = _mm512_maskz_expand_epi8(bits, in_register(_mm512_loadu_si512(values.cast())));
                _mm_prefetch::<_MM_HINT_T0>(values.wrapping_add(PREFETCH_BYTES));
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(w, sign), x);
                *values = values.add(bits.count_ones() as usize);
            }
        }
    }
    sums.map(|sum| _mm512_reduce_add_epi32(sum))
}
