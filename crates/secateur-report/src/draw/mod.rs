//! Drawings: a few kinds of marks, written as SVG or painted as PNG.
//!
//! One description serves the report's inline SVG (whose colours are the page's, light or dark), the SVG files
//! and the PNG files.

mod font;
mod palette;
mod png;
mod svg;

pub(super) use font::{REGULAR, SEMIBOLD, text_width};
pub(super) use palette::{DARK, HEAT_TURN, Ink, LIGHT, SERIES_COLOURS, slots};
pub(super) use svg::escape;

/// A picture of marks on a plain ground, in pixels with y downwards.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Width in pixels.
    pub width: f64,
    /// Height in pixels.
    pub height: f64,
    /// What it shows, for those who can't see it.
    pub title: String,
    marks: Vec<Mark>,
}

/// Pixels of ground around a drawing that stands in a file of its own.
const MARGIN: f64 = 14.0;

/// Width of the rim of ground about a text over lines.
const HALO: f64 = 4.0;

/// Where a text stands about its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A text with its look.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub x: f64,
    /// The base line.
    pub y: f64,
    pub text: String,
    pub size: f64,
    pub bold: bool,
    pub anchor: Anchor,
    pub ink: Ink,
}

#[derive(Clone, Debug)]
enum Mark {
    Line {
        points: Vec<(f64, f64)>,
        ink: Ink,
        width: f64,
        dash: Option<f64>,
    },
    Area {
        points: Vec<(f64, f64)>,
        ink: Ink,
        opacity: f64,
    },
    Circle {
        x: f64,
        y: f64,
        radius: f64,
        fill: Option<Ink>,
        stroke: Option<(Ink, f64)>,
    },
    /// `halo` parts the text from lines beneath it by a rim of ground.
    Text {
        text: Text,
        halo: bool,
    },
    /// `words` are shown where the marks are pointed at.
    Group {
        attributes: Vec<(&'static str, String)>,
        words: String,
        marks: Vec<Mark>,
    },
}

impl Drawing {
    pub(super) fn new(width: f64, height: f64, title: impl Into<String>) -> Drawing {
        Drawing { width, height, title: title.into(), marks: Vec::new() }
    }

    /// Width of the drawing in a file of its own, in pixels.
    pub(super) fn file_width(&self) -> f64 {
        let [left, _, right, _] = self.bounds();
        right - left + 2.0 * MARGIN
    }

    /// Left, top, right and bottom of the drawing, with everything that reaches beyond its width and height: nothing
    /// is ever clipped.
    pub(super) fn bounds(&self) -> [f64; 4] {
        let mut bounds = [0.0, 0.0, self.width, self.height];
        self.marks.iter().for_each(|mark| mark.widen(&mut bounds));
        bounds
    }

    /// A line through points; `dash` is the length of dashes and gaps.
    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64, dash: Option<f64>) {
        if points.len() > 1 {
            self.marks.push(Mark::Line { points, ink, width, dash });
        }
    }

    /// A filled polygon.
    pub(super) fn area(&mut self, points: Vec<(f64, f64)>, ink: Ink, opacity: f64) {
        if points.len() > 2 {
            self.marks.push(Mark::Area { points, ink, opacity });
        }
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), ink: Ink) {
        let points = vec![(x, y), (x + width, y), (x + width, y + height), (x, y + height)];
        self.marks.push(Mark::Area { points, ink, opacity: 1.0 });
    }

    pub(super) fn circle(
        &mut self,
        (x, y): (f64, f64),
        radius: f64,
        fill: Option<Ink>,
        stroke: Option<(Ink, f64)>,
    ) {
        self.marks.push(Mark::Circle { x, y, radius, fill, stroke });
    }

    /// The marker of a series: shapes differ as colours do.
    pub(super) fn marker(&mut self, (x, y): (f64, f64), series: usize, size: f64) {
        let ink = Ink::Series(series);
        // Shapes of equal area, as corners about the centre.
        let corners: &[(f64, f64)] = match series % 6 {
            0 => return self.circle((x, y), size, Some(ink), None),
            1 => &[(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)],
            2 => &[(0.0, -1.35), (1.17, 0.68), (-1.17, 0.68)],
            3 => &[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
            4 => &[(0.0, 1.35), (1.17, -0.68), (-1.17, -0.68)],
            _ => &[(-1.35, 0.0), (0.68, -1.17), (0.68, 1.17)],
        };
        self.area(corners.iter().map(|(dx, dy)| (x + dx * size, y + dy * size)).collect(), ink, 1.0);
    }

    pub(super) fn text(&mut self, text: Text) {
        self.marks.push(Mark::Text { text, halo: false });
    }

    /// A text over lines, which a rim of ground keeps from striking it through.
    pub(super) fn text_over_lines(&mut self, text: Text) {
        self.marks.push(Mark::Text { text, halo: true });
    }

    /// Regular text at a point.
    pub(super) fn label(
        &mut self,
        (x, y): (f64, f64),
        text: impl Into<String>,
        size: f64,
        anchor: Anchor,
        ink: Ink,
    ) {
        self.text(Text { x, y, text: text.into(), size, bold: false, anchor, ink });
    }

    /// Bold text that starts at a point.
    pub(super) fn heading(&mut self, (x, y): (f64, f64), text: impl Into<String>, size: f64) {
        self.text(Text { x, y, text: text.into(), size, bold: true, anchor: Anchor::Start, ink: Ink::Text });
    }

    /// Marks that belong together and carry attributes for the report's script; they mean nothing in files.
    pub(super) fn group(&mut self, attributes: Vec<(&'static str, String)>, draw: impl FnOnce(&mut Drawing)) {
        self.grouped(attributes, String::new(), draw);
    }

    /// Marks at which words are shown where they are pointed at.
    pub(super) fn hover(&mut self, words: impl Into<String>, draw: impl FnOnce(&mut Drawing)) {
        self.grouped(Vec::new(), words.into(), draw);
    }

    /// As [`Drawing::group`], with words for files; in pages the script that reads the attributes shows its own.
    pub(super) fn grouped(
        &mut self,
        attributes: Vec<(&'static str, String)>,
        words: String,
        draw: impl FnOnce(&mut Drawing),
    ) {
        let mut inner = Drawing::new(self.width, self.height, "");
        draw(&mut inner);
        self.marks.push(Mark::Group { attributes, words, marks: inner.marks });
    }

    /// Puts another drawing's marks here, moved.
    pub(super) fn place(&mut self, other: Drawing, (dx, dy): (f64, f64)) {
        self.marks.extend(other.marks.into_iter().map(|mark| mark.moved(dx, dy)));
    }
}

impl Mark {
    fn moved(self, dx: f64, dy: f64) -> Mark {
        let all = |points: Vec<(f64, f64)>| points.into_iter().map(|(x, y)| (x + dx, y + dy)).collect();
        match self {
            Mark::Line { points, ink, width, dash } => Mark::Line { points: all(points), ink, width, dash },
            Mark::Area { points, ink, opacity } => Mark::Area { points: all(points), ink, opacity },
            Mark::Circle { x, y, radius, fill, stroke } => {
                Mark::Circle { x: x + dx, y: y + dy, radius, fill, stroke }
            }
            Mark::Text { text, halo } => {
                Mark::Text { text: Text { x: text.x + dx, y: text.y + dy, ..text }, halo }
            }
            Mark::Group { attributes, words, marks } => {
                Mark::Group { attributes, words, marks: marks.into_iter().map(|m| m.moved(dx, dy)).collect() }
            }
        }
    }

    /// Widens left, top, right and bottom to hold the mark.
    fn widen(&self, bounds: &mut [f64; 4]) {
        let mut hold = |(x, y): (f64, f64), by: f64| {
            let [left, top, right, bottom] = *bounds;
            *bounds = [left.min(x - by), top.min(y - by), right.max(x + by), bottom.max(y + by)];
        };
        match self {
            Mark::Line { points, width, .. } => points.iter().for_each(|&point| hold(point, width / 2.0)),
            Mark::Area { points, .. } => points.iter().for_each(|&point| hold(point, 0.0)),
            Mark::Circle { x, y, radius, stroke, .. } => {
                hold((*x, *y), radius + stroke.map_or(0.0, |(_, width)| width / 2.0));
            }
            Mark::Text { text, .. } => {
                let wide = text_width(&text.text, text.size, text.bold);
                let left = match text.anchor {
                    Anchor::Start => text.x,
                    Anchor::Middle => text.x - wide / 2.0,
                    Anchor::End => text.x - wide,
                };
                hold((left, text.y - 0.8 * text.size), 0.0);
                hold((left + wide, text.y + 0.25 * text.size), 0.0);
            }
            Mark::Group { marks, .. } => marks.iter().for_each(|mark| mark.widen(bounds)),
        }
    }
}
