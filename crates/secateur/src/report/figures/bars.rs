//! A bar for each layer.

use super::super::draw::{Anchor, Drawing, Ink, text_width};
use super::super::format;
use super::heat::{WIDEST_NAME, fitted};

const ROW: f64 = 18.0;
const SMALL: f64 = 11.0;
/// Length of a bar that is full.
const LENGTH: f64 = 320.0;

/// How much wider than proportional figures tabular ones are, at most.
const TABULAR: f64 = 1.12;

/// A layer's bar.
pub(in super::super) struct Bar {
    /// The layer.
    pub name: String,
    /// What stands between its name and its bar.
    pub before: String,
    /// Share of the bar that is filled, in [0, 1]; written behind it in per cent.
    pub share: f64,
    /// What stands behind that.
    pub after: String,
}

/// Bars beneath each other, the layers' names at their left.
pub(in super::super) fn bars(title: String, rows: &[Bar]) -> Drawing {
    let names: Vec<String> = rows.iter().map(|r| fitted(&r.name, SMALL, WIDEST_NAME)).collect();
    // Pages set figures as wide as the widest, which the font's outlines are not.
    let wide = |texts: &mut dyn Iterator<Item = &str>| {
        TABULAR * texts.map(|t| text_width(t, SMALL, false)).fold(0.0, f64::max)
    };
    let name_end = 2.0 + wide(&mut names.iter().map(String::as_str));
    let before_end = name_end + 14.0 + wide(&mut rows.iter().map(|r| r.before.as_str()));
    let (left, right) = (before_end + 10.0, before_end + 10.0 + LENGTH);
    let percent_end = right + 10.0 + wide(&mut ["99.9 %"].into_iter());
    let width = percent_end + 14.0 + wide(&mut rows.iter().map(|r| r.after.as_str()));
    let mut d = Drawing::new(width.max(percent_end), ROW * rows.len() as f64, title);
    for (i, (row, name)) in rows.iter().zip(names).enumerate() {
        let (top, line) = (ROW * i as f64, ROW * i as f64 + 13.0);
        d.label((name_end, line), name, SMALL, Anchor::End, Ink::Text);
        d.label((before_end, line), row.before.as_str(), SMALL, Anchor::End, Ink::Muted);
        d.rect((left, top + 3.0), (LENGTH, ROW - 6.0), Ink::Grid);
        let share = row.share.clamp(0.0, 1.0);
        if share > 0.0 {
            d.rect((left, top + 3.0), ((LENGTH * share).max(1.0), ROW - 6.0), Ink::Series(0));
        }
        d.label((percent_end, line), format::percent(share), SMALL, Anchor::End, Ink::Text);
        d.label((percent_end + 14.0, line), row.after.as_str(), SMALL, Anchor::Start, Ink::Muted);
    }
    d
}
