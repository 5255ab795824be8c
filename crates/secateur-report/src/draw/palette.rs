//! The colours of drawings and pages: named by what they're for, with a value for light and dark.

/// What a colour is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Ink {
    /// The page.
    Ground,
    /// Words that are read first.
    Text,
    /// Words that are read second, such as those of axes.
    Muted,
    /// Axes and the baseline.
    Axis,
    /// Grid lines.
    Grid,
    /// Marks of the i-th series.
    Series(usize),
    /// The name of the i-th series: its colour, with the contrast that words need.
    SeriesText(usize),
    /// A cell of a heat map at a share in [0, 1].
    Heat(f64),
    /// Words on such a cell.
    OnHeat(f64),
}

/// Values of one theme in hexadecimal.
pub(in super::super) struct Palette {
    pub ground: &'static str,
    pub text: &'static str,
    pub muted: &'static str,
    pub axis: &'static str,
    pub grid: &'static str,
    pub series: [&'static str; SERIES_COLOURS],
    pub series_text: [&'static str; SERIES_COLOURS],
    pub heat: [&'static str; 2],
    pub on_heat: [&'static str; 2],
}

/// Series beyond so many take the colours again, with another marker.
pub(in super::super) const SERIES_COLOURS: usize = 7;

/// Okabe and Ito's colours, told apart by all common kinds of colour vision; the two palest a little darker
/// for white ground, black replaced by grey because black is the baseline's.
pub(in super::super) const LIGHT: Palette = Palette {
    ground: "#ffffff",
    text: "#1b1f24",
    muted: "#5b6470",
    axis: "#8d96a1",
    grid: "#e7eaee",
    series: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a828c"],
    series_text: ["#00629a", "#b34f00", "#00775a", "#a8487d", "#966700", "#1b76ab", "#5b6470"],
    heat: ["#f1f6fb", "#003f7d"],
    on_heat: ["#000000", "#ffffff"],
};

/// The same colours on dark ground, the darkest of them lighter.
pub(in super::super) const DARK: Palette = Palette {
    ground: "#15181c",
    text: "#e8eaed",
    muted: "#a2abb5",
    axis: "#6b747e",
    grid: "#2a2f36",
    series: ["#3b9fe0", "#f07a2c", "#1fbf92", "#d98cb8", "#e9ab1f", "#7cc8f5", "#9aa3ad"],
    series_text: ["#62b4ea", "#f5955a", "#43d0a8", "#e3a3c8", "#eebb48", "#93d2f8", "#b4bcc5"],
    heat: ["#1f262e", "#569fd6"],
    on_heat: ["#ffffff", "#000000"],
};

/// Share at which words on a heat map change colour: in both palettes black and white are equally legible there.
pub(in super::super) const HEAT_TURN: f64 = 0.68;

/// What has its colour by name, in the order of colours: methods, then runtimes.
const NAMED: [&[&str]; 2] = [
    &[
        "l1",
        "l1/channel",
        "l1/channel:1",
        "l1@global",
        "random",
        "l1/4x1",
        "l1/2:4",
        "l2",
        "l2/channel",
        "lamp@global",
        "l1+erk",
        "l1+uniform+",
        "l1/channel@global",
    ],
    &["secateur", "ONNX Runtime", "OpenVINO"],
];

/// Colours and markers repeat with different periods: so many series can be told apart.
const SERIES: usize = 42;

/// The series that the methods or runtimes of a picture are drawn as, one for each name. Names of the table have
/// theirs in every picture, whatever else is drawn. All others get a series beyond the table by their name, and where
/// an earlier name of the picture has it, the next that is left.
pub(in super::super) fn slots<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<usize> {
    let first = NAMED[0].len();
    let rest = SERIES - first;
    let mut taken: Vec<(&str, usize)> = Vec::new();
    for name in names {
        let known = taken.iter().find(|(other, _)| *other == name).map(|(_, slot)| *slot);
        let named = || NAMED.iter().find_map(|names| names.iter().position(|n| *n == name));
        let slot = known.or_else(named).unwrap_or_else(|| {
            // FNV-1a, folded.
            let hash = name
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            let start = ((hash ^ (hash >> 32)) % rest as u64) as usize;
            let mut slots = (0..rest).map(|i| first + (start + i) % rest);
            let is_free = |slot: &usize| taken.iter().all(|(_, other)| other != slot);
            slots.find(is_free).unwrap_or(first + start)
        });
        taken.push((name, slot));
    }
    taken.into_iter().map(|(_, slot)| slot).collect()
}

impl Ink {
    /// Its value in a palette.
    pub(super) fn rgb(self, palette: &Palette) -> [u8; 3] {
        match self {
            Ink::Ground => parse(palette.ground),
            Ink::Text => parse(palette.text),
            Ink::Muted => parse(palette.muted),
            Ink::Axis => parse(palette.axis),
            Ink::Grid => parse(palette.grid),
            Ink::Series(i) => parse(palette.series[i % SERIES_COLOURS]),
            Ink::SeriesText(i) => parse(palette.series_text[i % SERIES_COLOURS]),
            Ink::Heat(v) => {
                let [low, high] = palette.heat.map(parse);
                let v = v.clamp(0.0, 1.0);
                let mix = |i: usize| f64::from(low[i]) + v * (f64::from(high[i]) - f64::from(low[i]));
                [0, 1, 2].map(|i| mix(i).round() as u8)
            }
            Ink::OnHeat(v) => parse(palette.on_heat[usize::from(v > HEAT_TURN)]),
        }
    }

    /// As a CSS value that follows the page's theme.
    pub(super) fn css(self) -> String {
        match self {
            Ink::Ground => "var(--ground)".into(),
            Ink::Text => "var(--text)".into(),
            Ink::Muted => "var(--muted)".into(),
            Ink::Axis => "var(--axis)".into(),
            Ink::Grid => "var(--grid)".into(),
            Ink::Series(i) => format!("var(--s{})", i % SERIES_COLOURS),
            Ink::SeriesText(i) => format!("var(--st{})", i % SERIES_COLOURS),
            Ink::Heat(v) => {
                format!("color-mix(in srgb, var(--heat1) {:.0}%, var(--heat0))", v.clamp(0.0, 1.0) * 100.0)
            }
            Ink::OnHeat(v) => format!("var(--on-heat{})", u8::from(v > HEAT_TURN)),
        }
    }

    /// As `#rrggbb`.
    pub(super) fn hex(self, palette: &Palette) -> String {
        let [r, g, b] = self.rgb(palette);
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}

impl Palette {
    /// The palette as CSS custom properties.
    pub(in super::super) fn css(&self) -> String {
        let one = |name: &str, value: &str| format!("--{name}:{value};");
        let many = |name: &str, values: &[&str]| -> String {
            values.iter().enumerate().map(|(i, v)| one(&format!("{name}{i}"), v)).collect()
        };
        [
            one("ground", self.ground),
            one("text", self.text),
            one("muted", self.muted),
            one("axis", self.axis),
            one("grid", self.grid),
            many("s", &self.series),
            many("st", &self.series_text),
            many("heat", &self.heat),
            many("on-heat", &self.on_heat),
        ]
        .concat()
    }
}

/// `#rrggbb` as bytes; the palettes above hold nothing else.
fn parse(hex: &str) -> [u8; 3] {
    let value = u32::from_str_radix(hex.trim_start_matches('#'), 16).unwrap_or(0);
    [(value >> 16) as u8, (value >> 8) as u8, value as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luminance(rgb: [u8; 3]) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
    }

    fn contrast(a: [u8; 3], b: [u8; 3]) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// WCAG's AA: 4.5 for words.
    #[test]
    fn words_have_contrast() {
        for palette in [&LIGHT, &DARK] {
            let ground = Ink::Ground.rgb(palette);
            let inks = [Ink::Text, Ink::Muted].into_iter().chain((0..SERIES_COLOURS).map(Ink::SeriesText));
            for ink in inks {
                let c = contrast(ink.rgb(palette), ground);
                assert!(c >= 4.5, "{ink:?} {c:.2}");
            }
            for step in 0..=20 {
                let v = f64::from(step) / 20.0;
                let c = contrast(Ink::Heat(v).rgb(palette), Ink::OnHeat(v).rgb(palette));
                assert!(c >= 4.5, "{v} {c:.2}");
            }
        }
    }

    #[test]
    fn names_have_their_series() {
        assert_eq!(slots(["my-method", "l1", "random", "secateur"])[1..], [0, 4, 0]);
        assert_eq!(slots(["my-method", "l1", "my-method"])[2], slots(["my-method"])[0]);
        assert_eq!(slots([]), [0usize; 0]);
    }

    #[test]
    fn series_of_a_picture_differ() {
        let others =
            ["l2/2:4", "l1/4:8", "l1/16x1", "l1/4x4", "l1/8x1", "l3", "", "wanda@row", "sparsegpt/2:4"];
        let names: Vec<String> = (0..20).map(|i| format!("method-{i}")).collect();
        let all = NAMED[0].iter().copied().chain(others).chain(names.iter().map(String::as_str));
        let mut found = slots(all.clone());
        assert_eq!(found.len(), SERIES);
        found.sort_unstable();
        assert_eq!(found, (0..SERIES).collect::<Vec<_>>());
        // More than can be told apart have one all the same.
        assert!(slots(all.chain(["one-more"])).iter().all(|slot| *slot < SERIES));
    }

    #[test]
    fn colours_are_written_as_named() {
        assert_eq!(Ink::Series(0).hex(&LIGHT), "#0072b2");
        assert_eq!(Ink::Heat(0.0).hex(&LIGHT), LIGHT.heat[0]);
        assert_eq!(Ink::Heat(7.0).hex(&LIGHT), LIGHT.heat[1]);
        assert!(LIGHT.css().contains("--s1:#d55e00;"));
    }
}
