//! What happens where pruning stops being free, in words.

use secateur::data::{Tolerance, higher_is_better};
use secateur::format;

use super::Scale;

/// What happens to the model where pruning stops being free: `the loss rises by 1 %`. `deciding` is the run's first measure,
/// `scale` how it is read, `amount` what it changes by.
pub(super) fn harm(tolerance: &Tolerance, deciding: &str, scale: Scale, amount: &str) -> String {
    let measure = if tolerance.measure == "loss" { deciding } else { &tolerance.measure };
    let name = format::measure(measure);
    let verb = match scale {
        Scale::Absolute if measure == deciding => "reaches",
        _ if higher_is_better(measure) => "falls by",
        _ => "rises by",
    };
    let the = if name.starts_with("top-") { "" } else { "the " };
    format!("{the}{name} {verb} {amount}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_a_clause() {
        let harm = |text: &str, deciding, scale| {
            let tolerance = text.parse::<Tolerance>().unwrap();
            super::harm(&tolerance, deciding, scale, &tolerance.amount_text(tolerance.amount()))
        };
        let relative = Scale::Relative { unpruned: 0.4 };
        assert_eq!(harm("loss:1%", "loss", relative), "the loss rises by 1 %");
        assert_eq!(harm("top1:1pt", "loss", relative), "top-1 accuracy falls by 1 point");
        assert_eq!(harm("loss:5%", "relative_l2", Scale::Absolute), "the relative output error reaches 5 %");
    }
}
