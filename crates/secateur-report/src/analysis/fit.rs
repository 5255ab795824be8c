//! The exponential that the relative loss is said to follow.

/// r(s) = 1 + a·(e^{b·(s − s₀)} − 1), s₀ the unpruned model's own sparsity, fitted by least squares of ln r.
///
/// Errors of a loss grow with the loss, so its logarithm is what is fitted. Points count up to the first that
/// exceeds ten times the unpruned loss: beyond, a network is as good as dead and the loss goes anywhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Height a.
    pub a: f64,
    /// Steepness b.
    pub b: f64,
    /// Sparsity s₀ at which r = 1.
    pub origin: f64,
    /// Sparsity of the last point that counted.
    pub until: f64,
    /// Root mean square of ln(r) − ln(r̂): 0.05 means that points lie off by a factor of about 1.05.
    pub misfit: f64,
}

/// Where the loss is so many times the unpruned one, it says nothing any more.
const DEAD: f64 = 10.0;
/// Points besides the first that a fit of two parameters takes at least.
const FEWEST: usize = 4;

impl Fit {
    /// The misfit up to which the curve may be called exponential.
    pub const TOLERANCE: f64 = 0.1;

    /// Fits (sparsity, relative loss) pairs, the unpruned model first.
    pub fn of(points: &[(f64, f64)]) -> Option<Fit> {
        let (&(origin, _), rest) = points.split_first()?;
        let alive = rest.iter().take_while(|(_, r)| *r <= DEAD && *r > 0.0).count();
        let counted: Vec<(f64, f64)> = rest[..alive].iter().map(|(s, r)| (s - origin, r.ln())).collect();
        if counted.len() < FEWEST {
            return None;
        }
        // For a given b the misfit has one valley in ln a; over b it may have several, so a grid comes first.
        let error_at = |ln_a: f64, ln_b: f64| squares(&counted, ln_a.exp(), ln_b.exp());
        let best_a = |ln_b: f64| golden(-60.0, 6.0, |ln_a| error_at(ln_a, ln_b));
        let grid: Vec<f64> =
            (0..=60).map(|i| (0.05f64).ln() + f64::from(i) * (4000f64).ln() / 60.0).collect();
        let errors: Vec<f64> = grid.iter().map(|b| error_at(best_a(*b), *b)).collect();
        let i = (0..grid.len()).min_by(|i, j| errors[*i].total_cmp(&errors[*j]))?;
        let (low, high) = (grid[i.saturating_sub(1)], grid[(i + 1).min(grid.len() - 1)]);
        let ln_b = golden(low, high, |ln_b| error_at(best_a(ln_b), ln_b));
        let ln_a = best_a(ln_b);
        let misfit = (error_at(ln_a, ln_b) / counted.len() as f64).sqrt();
        let until = rest[alive - 1].0;
        Some(Fit { a: ln_a.exp(), b: ln_b.exp(), origin, until, misfit })
    }

    /// The relative loss it gives at a sparsity.
    pub fn value(&self, sparsity: f64) -> f64 {
        1.0 + self.a * (self.b * (sparsity - self.origin)).exp_m1()
    }

    /// Whether the misfit is within [`Fit::TOLERANCE`].
    pub fn holds(&self) -> bool {
        self.misfit <= Self::TOLERANCE
    }
}

fn squares(points: &[(f64, f64)], a: f64, b: f64) -> f64 {
    points.iter().map(|(s, ln_r)| ((a * (b * s).exp_m1()).ln_1p() - ln_r).powi(2)).sum()
}

/// The place of the least value of a function with one valley, to about 1e-9 of the interval.
fn golden(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    const SHARE: f64 = 0.618_033_988_749_894_9;
    let (mut left, mut right) = (high - SHARE * (high - low), low + SHARE * (high - low));
    let (mut at_left, mut at_right) = (f(left), f(right));
    for _ in 0..45 {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - SHARE * (high - low);
            at_left = f(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + SHARE * (high - low);
            at_right = f(right);
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> impl Iterator<Item = f64> {
        (0..=19).map(|i| f64::from(i) * 0.05)
    }

    #[test]
    fn an_exponential_is_found_again() {
        for (a, b, origin) in [(0.01, 7.0, 0.0), (1e-5, 15.0, 0.0), (0.5, 2.0, 0.1), (3.0, 0.4, 0.0)] {
            let exact = |s: f64| 1.0 + a * (b * s).exp_m1();
            let points: Vec<_> = steps().map(|s| (s + origin, exact(s))).collect();
            let fit = Fit::of(&points).unwrap();
            assert!((fit.a / a - 1.0).abs() < 1e-3 && (fit.b / b - 1.0).abs() < 1e-3, "{fit:?}");
            assert!(fit.misfit < 1e-4 && fit.holds(), "{fit:?}");
            assert!((fit.value(0.4 + origin) - exact(0.4)).abs() < 1e-3);
        }
    }

    #[test]
    fn noise_shows_as_misfit_and_a_step_does_not_fit() {
        let wobble = |i: usize| if i.is_multiple_of(2) { 1.05 } else { 1.0 / 1.05 };
        let noisy: Vec<_> = steps()
            .enumerate()
            .map(|(i, s)| (s, if i == 0 { 1.0 } else { (1.0 + 0.02 * (6.0 * s).exp_m1()) * wobble(i) }))
            .collect();
        let fit = Fit::of(&noisy).unwrap();
        assert!((fit.misfit - 1.05f64.ln()).abs() < 0.01, "{fit:?}");
        let step: Vec<_> = steps().map(|s| (s, if s < 0.5 { 1.0 } else { 6.0 })).collect();
        assert!(!Fit::of(&step).unwrap().holds());
    }

    #[test]
    fn dead_networks_do_not_count() {
        let mut points: Vec<_> = steps().map(|s| (s, 1.0 + 0.02 * (6.0 * s).exp_m1())).collect();
        let clean = Fit::of(&points[..15]).unwrap();
        points.truncate(15);
        points.extend([(0.8, 400.0), (0.85, 3.0), (0.9, f64::NAN)]);
        assert_eq!(Fit::of(&points), Some(clean));
        assert_eq!(clean.until, points[14].0);
        assert_eq!(Fit::of(&points[..4]), None);
        assert_eq!(Fit::of(&[]), None);
    }

    /// scipy.optimize.curve_fit of ln r over the same ten points gives a = 0.0136584, b = 6.18001.
    #[test]
    fn agrees_with_scipy() {
        let r = [1.0, 1.01, 1.02, 1.09, 1.11, 1.32, 1.51, 1.97, 3.1, 4.4];
        let points: Vec<_> = r.iter().enumerate().map(|(i, r)| (i as f64 * 0.1, *r)).collect();
        let fit = Fit::of(&points).unwrap();
        assert!((fit.a - 0.0136584).abs() < 1e-6 && (fit.b - 6.18001).abs() < 1e-4, "{fit:?}");
    }
}
