//! A run in the terminal.

mod plot;
mod summary;
mod table;

pub use summary::print_summary;
pub use table::{Align, Table};

use secateur::measure::Histogram;
use unicode_width::UnicodeWidthStr;

/// The distribution in one line of `width` block characters at most, such as `▁▂▅█▅▂▁`; bins are joined to
/// fit. Bars are as high as their square root, so that tails stay visible.
pub fn sparkline(histogram: &Histogram, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let join = histogram.counts.len().div_ceil(width.max(1)).max(1);
    let bins: Vec<u64> = histogram.counts.chunks(join).map(|c| c.iter().sum()).collect();
    let most = bins.iter().copied().max().unwrap_or(0).max(1) as f64;
    let bar = |n: &u64| match n {
        0 => ' ',
        n => BARS[((*n as f64 / most).sqrt() * 7.0).round() as usize],
    };
    bins.iter().map(bar).collect()
}

/// A text broken at spaces into lines of at most `width` columns; words that are longer stay whole, and a number
/// stays with its unit of one or two characters.
pub fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match words.last_mut() {
            Some(last) if word.width() <= 2 && last.ends_with(|c: char| c.is_ascii_digit()) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_string()),
        }
    }
    for word in words {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines.join("\n")
}

/// A share in [0, 1] as a bar of block characters, in eighths of a character; `width` characters are 1. What
/// is more than nothing has at least an eighth, and only 1 is full.
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let whole = 8 * width;
    let eighths = match (share * whole as f64).round() as usize {
        0 if share > 0.0 => 1,
        n if n >= whole && share < 1.0 => whole.saturating_sub(1),
        n => n.min(whole),
    };
    let mut text = "█".repeat(eighths / 8);
    text.extend((eighths % 8).checked_sub(1).map(|i| EIGHTHS[i]));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparkline_shows_the_shape() {
        let histogram = |counts: Vec<u64>| Histogram { limit: 1.0, zeros: 0, counts };
        assert_eq!(sparkline(&histogram(vec![1, 4, 16, 64, 16, 4, 0, 1]), 8), "▂▃▅█▅▃ ▂");
        assert_eq!(sparkline(&histogram(vec![1, 4, 16, 64, 16, 4, 0, 1]), 4), "▃█▅▂");
        assert_eq!(sparkline(&histogram(vec![0; 4]), 4), "    ");
        assert_eq!(sparkline(&histogram(vec![]), 4), "");
    }

    #[test]
    fn texts_break_between_words_and_not_before_units() {
        assert_eq!(wrap("the loss rises by 1 % of it", 20), "the loss rises by\n1 % of it");
        assert_eq!(wrap("extraordinarily long", 4), "extraordinarily\nlong");
        assert_eq!(wrap("", 4), "");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let bars = [0.0, 0.001, 0.5, 0.53125, 0.999, 1.0, 7.0, f64::NAN].map(|share| bar(share, 4));
        assert_eq!(bars, ["", "▏", "██", "██▏", "███▉", "████", "████", ""]);
    }
}
