//! The gradient of resampling along one axis.

use crate::size;
use crate::threads;

/// The gradient of y\[o, t, i\] = Σₖ weight\[t, k\] · x\[o, position\[t, k\], i\] over the middle of `[outer, from, inner]`:
/// ∂x\[o, position\[t, k\], i\] = Σ weight\[t, k\] · ∂y\[o, t, i\]. `dx` is overwritten.
///
/// # Panics
/// If the lengths don't fit each other, or a position isn't below `from`.
pub fn resample_gradient(
    (positions, weights): (&[usize], &[f32]),
    [from, to, inner]: [usize; 3],
    d: &[f32],
    dx: &mut [f32],
) {
    assert_eq!(positions.len(), weights.len(), "weights of positions");
    let (source, target) = (size::of(&[from, inner]), size::of(&[to, inner]));
    if source == 0 || target == 0 {
        return dx.fill(0.0);
    }
    assert!(positions.len().is_multiple_of(to), "positions of {to} elements");
    assert_eq!(d.len() / target, dx.len() / source, "outer extents");
    let each = positions.len() / to;
    threads::chunks(dx, source, size::work(&[target, each]), |first, dx| {
        dx.fill(0.0);
        for (o, dx) in dx.chunks_exact_mut(source).enumerate() {
            let d = &d[(first + o) * target..][..target];
            for t in 0..to {
                let d = &d[t * inner..][..inner];
                for k in t * each..(t + 1) * each {
                    let weight = weights[k];
                    let dx = &mut dx[positions[k] * inner..][..inner];
                    dx.iter_mut().zip(d).for_each(|(dx, d)| *dx += weight * d);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_sums, in_pool};

    #[test]
    fn agrees_with_the_definition_on_any_threads() {
        let mut rng = Rng::new(15);
        for _ in 0..20 {
            let [outer, from, to, inner, each] =
                [1 + rng.below(4), 1 + rng.below(9), 1 + rng.below(20), 1 + rng.below(30), 1 + rng.below(4)];
            let positions: Vec<usize> = (0..to * each).map(|_| rng.below(from)).collect();
            let (weights, d) = (rng.values(to * each), rng.values(outer * to * inner));
            let n = outer * from * inner;
            let (mut want, mut scale) = (vec![0.0; n], vec![0.0; n]);
            for (o, t, k, i) in (0..outer)
                .flat_map(|o| (0..to).map(move |t| (o, t)))
                .flat_map(|(o, t)| (0..each).map(move |k| (o, t, k)))
                .flat_map(|(o, t, k)| (0..inner).map(move |i| (o, t, k, i)))
            {
                let at = (o * from + positions[t * each + k]) * inner + i;
                let term = f64::from(weights[t * each + k]) * f64::from(d[(o * to + t) * inner + i]);
                want[at] += term;
                scale[at] += term.abs();
            }
            let run = |threads| {
                let mut dx = vec![f32::NAN; n];
                in_pool(threads, || {
                    resample_gradient((&positions, &weights), [from, to, inner], &d, &mut dx);
                });
                dx
            };
            assert_sums(&run(1), &want, &scale, to * each, &format!("{from} to {to}"));
            assert_eq!(run(1), run(3));
        }
    }
}
