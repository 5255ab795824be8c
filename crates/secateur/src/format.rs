//! Formats numbers for display.

/// A share in [0, 1] as a percentage with at most one decimal: `42.5 %`, `40 %`. What is more than nothing never
/// reads `0 %`, and what is less than all never `100 %`: `<0.1 %`, `>99.9 %`.
pub fn percent(share: f64) -> String {
    format!("{} %", percent_number(share)).replace("– %", "–")
}

/// As [`percent`], without the unit, for columns and cells whose head says it.
pub fn percent_number(share: f64) -> String {
    if !share.is_finite() {
        return "–".into();
    }
    let size = (share * 100.0).abs();
    // What rounding has left of nothing and of all is nothing and all.
    let (nothing, all) = (size < 1e-7, (size - 100.0).abs() < 1e-7);
    let text = match format!("{size:.1}").as_str() {
        "0.0" if !nothing && share > 0.0 => "<0.1".to_string(),
        "100.0" if !all && size < 100.0 => ">99.9".to_string(),
        text => text.trim_end_matches(".0").to_string(),
    };
    if share < 0.0 && text != "0" { format!("−{text}") } else { text }
}

/// A difference of shares in points of per cent: `1 point`, `0.5 points`.
pub fn points(difference: f64) -> String {
    let number = decimals(difference * 100.0);
    if number == "1" { "1 point".into() } else { format!("{number} points") }
}

/// A share that someone has asked for, with the decimals that it has, two at most: `0.25 %`.
pub fn asked(share: f64) -> String {
    format!("{} %", decimals(share * 100.0))
}

/// A number with at most two decimals, trailing zeros dropped.
fn decimals(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Three digits or so of a positive number, such as a loss or a multiple: `0.384`, `1.03`, `12.4`, `1,950`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if value.is_nan() => "NaN".into(),
        _ if value.is_infinite() => if value > 0.0 { "∞" } else { "−∞" }.into(),
        _ if size >= 1e6 || (size < 1e-4 && size > 0.0) => format!("{value:.1e}"),
        _ if size >= 99.95 => grouped(value.round() as i64),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.9995 => format!("{value:.2}"),
        _ if size >= 0.09995 => format!("{value:.3}"),
        _ if value == 0.0 => "0".into(),
        _ => format!("{value:.4}"),
    }
}

/// A value with its standard error to two significant digits of the error: `1.031 ± 0.012`.
pub fn with_error(value: f64, error: f64) -> String {
    if !value.is_finite() || !error.is_finite() || error <= 0.0 {
        return number(value);
    }
    let digits = (1.0 - error.log10().floor()).clamp(0.0, 6.0) as usize;
    // Beside a large value, small errors are noise for the eye.
    let digits = digits.min(if value.abs() >= 9.95 {
        1
    } else if value.abs() >= 0.1 {
        3
    } else {
        6
    });
    format!("{value:.digits$} ± {error:.digits$}")
}

/// A whole number with a comma before each group of three digits.
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { "−".to_string() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes with a decimal unit: `3.42 MB`.
pub fn bytes(value: f64) -> String {
    let (scaled, unit) = scaled(value, &["B", "kB", "MB", "GB", "TB"]);
    format!("{} {unit}", if unit == "B" { format!("{scaled:.0}") } else { number(scaled) })
}

/// As [`bytes()`]; a dash where the size is not known.
pub fn known_bytes(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), bytes)
}

/// A time in milliseconds: `12.3 ms`.
pub fn milliseconds(seconds: f64) -> String {
    format!("{} ms", number(seconds * 1e3))
}

/// A count with a decimal unit where it is large: `125 M`, `640`.
pub fn count(value: f64) -> String {
    let (scaled, unit) = scaled(value, &["", "k", "M", "G", "T"]);
    if unit.is_empty() { format!("{scaled:.0}") } else { format!("{} {unit}", number(scaled)) }
}

fn scaled<'a>(value: f64, units: &[&'a str]) -> (f64, &'a str) {
    let mut value = value;
    let mut unit = 0;
    while value.abs() >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    (value, units[unit])
}

/// Round steps that part an interval into at least three and at most about `most` pieces, with the decimals
/// their labels need: multiples of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, most: usize) -> (Vec<f64>, usize) {
    let rough = (high - low) / most.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return (vec![low], 2);
    }
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(power);
    let decimals = (-(step * 1.001).log10().floor()).max(0.0) as usize;
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    ((first..=last).map(|i| i as f64 * step).collect(), decimals)
}

/// A measure's name for people: `top-1 accuracy`.
pub fn measure(name: &str) -> &str {
    match name {
        "loss" => "loss",
        "top1" => "top-1 accuracy",
        "top5" => "top-5 accuracy",
        "mse" => "mean squared error",
        "relative_l2" => "relative output error",
        "cosine" => "cosine similarity",
        "argmax_equal" => "share of equal arg-max",
        other => other,
    }
}

/// A measure's value: shares as a percentage, others as a number.
pub fn measured(name: &str, value: f64, error: f64) -> String {
    match name {
        "top1" | "top5" | "argmax_equal" if value.is_finite() && error.is_finite() => {
            format!("{:.1} ± {:.1} %", value * 100.0, error * 100.0)
        }
        "top1" | "top5" | "argmax_equal" => percent(value),
        _ => with_error(value, error),
    }
}

/// A text with its first letter in upper case.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Ranges of targets: `5–35 %, 60 %`.
pub fn ranges(ranges: &[(f64, f64)]) -> String {
    let one = |&(from, to): &(f64, f64)| {
        if from == to { percent(from) } else { format!("{}–{}", percent_number(from), percent(to)) }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.00001, "1.0e-5"),
            (0.01234, "0.0123"),
            (0.3842, "0.384"),
            (0.99996, "1.00"),
            (1.034, "1.03"),
            (9.999, "10.0"),
            (99.96, "100"),
            (1234.5, "1,235"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "∞"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(percent(0.425), "42.5 %");
        assert_eq!(percent(0.4), "40 %");
        assert_eq!(percent(-0.00001), "0 %");
        assert_eq!(percent(f64::NAN), "–");
        assert_eq!(
            [0.0, 1e-6, 0.0004, 0.999, 0.99996, 1.0].map(percent),
            ["0 %", "<0.1 %", "<0.1 %", "99.9 %", ">99.9 %", "100 %"]
        );
        assert_eq!([-0.25, 1.0 - 1e-15, 2.5].map(percent), ["−25 %", "100 %", "250 %"]);
        assert_eq!([0.01, 0.005].map(points), ["1 point", "0.5 points"]);
        assert_eq!([0.01, 0.0025].map(asked), ["1 %", "0.25 %"]);
        assert_eq!(with_error(1.0314, 0.0123), "1.031 ± 0.012");
        assert_eq!(with_error(312.44, 2.5), "312.4 ± 2.5");
        assert_eq!(with_error(1.02785, 0.00996), "1.028 ± 0.010");
        assert_eq!(with_error(0.00021, 0.000013), "0.000210 ± 0.000013");
        assert_eq!(with_error(1.0, 0.0), "1.00");
        assert_eq!(bytes(3_421_000.0), "3.42 MB");
        assert_eq!(bytes(999.7), "1.00 kB");
        assert_eq!(bytes(12.0), "12 B");
        assert_eq!(count(125_485_706.0), "125 M");
        assert_eq!(count(640.0), "640");
        assert_eq!(grouped(-1_234_567), "−1,234,567");
        assert_eq!(ticks(0.9, 3.0, 5), (vec![1.0, 1.5, 2.0, 2.5, 3.0], 1));
        assert_eq!(ticks(0.0, 1.0, 4).0, [0.0, 0.5, 1.0]);
        assert_eq!(ticks(0.0, 1.0, 4).1, 1);
        assert_eq!(ticks(1.0, 1.0, 4), (vec![1.0], 2));
        assert_eq!(ranges(&[(0.05, 0.35), (0.6, 0.6)]), "5–35 %, 60 %");
        assert_eq!(measured("top1", 0.915, 0.0088), "91.5 ± 0.9 %");
    }
}
