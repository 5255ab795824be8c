//! Drawings as SVG.

use std::fmt::Write;

use super::palette::LIGHT;
use super::{Anchor, Drawing, HALO, Ink, MARGIN, Mark, Text};

impl Drawing {
    /// The drawing as an SVG file in light colours on white ground.
    pub fn to_svg(&self) -> String {
        let [left, top, right, bottom] = self.bounds();
        let (w, h) = (number(right - left + 2.0 * MARGIN), number(bottom - top + 2.0 * MARGIN));
        let (x, y) = (number(left - MARGIN), number(top - MARGIN));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
             viewBox=\"{x} {y} {w} {h}\" font-family=\"Inter, system-ui, sans-serif\" role=\"img\">\
             <title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{}\"/>",
            escape(&self.title),
            Ink::Ground.hex(&LIGHT),
        );
        write_marks(&mut svg, &self.marks, &|ink| ink.hex(&LIGHT), false);
        svg.push_str("</svg>\n");
        svg
    }

    /// The drawing as an element of a page: colours and font are the page's.
    pub(in super::super) fn to_inline_svg(&self) -> String {
        let [left, top, right, bottom] = self.bounds();
        let (x, y, w, h) = (number(left), number(top), number(right - left), number(bottom - top));
        let mut svg = format!(
            "<svg viewBox=\"{x} {y} {w} {h}\" role=\"img\" style=\"--w:{w}\"><title>{}</title>",
            escape(&self.title)
        );
        write_marks(&mut svg, &self.marks, &|ink| ink.css(), true);
        svg.push_str("</svg>");
        svg
    }
}

fn write_marks(svg: &mut String, marks: &[Mark], colour: &dyn Fn(Ink) -> String, attributes: bool) {
    for mark in marks {
        match mark {
            Mark::Line { points, ink, width, dash } => {
                let dash = dash.map(|d| format!(" stroke-dasharray=\"{}\"", number(d))).unwrap_or_default();
                svg.push_str("<path d=\"");
                path(svg, points);
                let (colour, width) = (colour(*ink), number(*width));
                push(
                    svg,
                    format_args!(
                        "\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dash}/>"
                    ),
                );
            }
            Mark::Area { points, ink, opacity } => {
                let opacity = match opacity {
                    1.0 => String::new(),
                    o => format!(" fill-opacity=\"{}\"", number(*o)),
                };
                svg.push_str("<path d=\"");
                path(svg, points);
                push(svg, format_args!("Z\" fill=\"{}\"{opacity}/>", colour(*ink)));
            }
            Mark::Circle { x, y, radius, fill, stroke } => {
                let fill = fill.map_or("none".into(), colour);
                let (x, y, radius) = (number(*x), number(*y), number(*radius));
                push(svg, format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{fill}\""));
                if let Some((ink, width)) = stroke {
                    push(
                        svg,
                        format_args!(" stroke=\"{}\" stroke-width=\"{}\"", colour(*ink), number(*width)),
                    );
                }
                svg.push_str("/>");
            }
            Mark::Text { text: Text { x, y, text, size, bold, anchor, ink }, halo } => {
                let (x, y, size) = (number(*x), number(*y), number(*size));
                push(svg, format_args!("<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\""));
                match anchor {
                    Anchor::Start => {}
                    Anchor::Middle => svg.push_str(" text-anchor=\"middle\""),
                    Anchor::End => svg.push_str(" text-anchor=\"end\""),
                }
                if *bold {
                    svg.push_str(" font-weight=\"600\"");
                }
                if *halo {
                    let ground = colour(Ink::Ground);
                    push(
                        svg,
                        format_args!(" stroke=\"{ground}\" stroke-width=\"{HALO}\" paint-order=\"stroke\""),
                    );
                }
                push(svg, format_args!(" fill=\"{}\">{}</text>", colour(*ink), escape(text)));
            }
            Mark::Group { attributes: list, words, marks } => {
                svg.push_str("<g");
                if attributes {
                    for (name, value) in list {
                        push(svg, format_args!(" {name}=\"{}\"", escape(value)));
                    }
                }
                svg.push('>');
                // In pages the script says its own words where there are attributes for it.
                if !words.is_empty() && (!attributes || list.is_empty()) {
                    push(svg, format_args!("<title>{}</title>", escape(words)));
                }
                write_marks(svg, marks, colour, attributes);
                svg.push_str("</g>");
            }
        }
    }
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string can't fail.
    let _ = svg.write_fmt(text);
}

fn path(svg: &mut String, points: &[(f64, f64)]) {
    for (i, (x, y)) in points.iter().enumerate() {
        push(svg, format_args!("{}{} {}", if i == 0 { 'M' } else { 'L' }, number(*x), number(*y)));
    }
}

/// At most two decimals: a hundredth of a pixel is nothing.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A text as content or attribute of HTML, SVG and XML: markup becomes harmless, and characters that XML
/// forbids become a replacement character.
pub(in super::super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless() {
        let name = "<script>alert('x')</script>&\"\u{0}\u{1b}";
        assert_eq!(
            escape(name),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}"
        );
        let mut drawing = Drawing::new(10.0, 10.0, name);
        drawing.label((0.0, 0.0), name, 10.0, Anchor::Start, Ink::Text);
        drawing.group(vec![("data-s", name.into())], |d| d.circle((1.0, 1.0), 1.0, None, None));
        for svg in [drawing.to_svg(), drawing.to_inline_svg()] {
            assert!(!svg.contains("<script"), "{svg}");
            assert!(!svg.contains('\u{1b}'), "{svg}");
        }
        assert!(!drawing.to_svg().contains("data-s"));
        assert!(drawing.to_inline_svg().contains("data-s"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([number(1.0), number(0.126), number(-2.5), number(100.0)], ["1", "0.13", "-2.5", "100"]);
    }
}
