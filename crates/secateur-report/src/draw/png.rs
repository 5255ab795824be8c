//! Drawings as PNG.

use secateur::{Error, Result};
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, StrokeDash, Transform,
};

use super::palette::LIGHT;
use super::{Anchor, Drawing, HALO, Ink, MARGIN, Mark, Text, font};

impl Drawing {
    /// The drawing as a PNG file so many pixels wide, in light colours on white ground.
    ///
    /// # Errors
    /// Usage where the picture would have no pixels or more than 2^28.
    pub fn to_png(&self, width: u32) -> Result<Vec<u8>> {
        let [left, top, right, bottom] = self.bounds();
        let scale = f64::from(width) / (right - left + 2.0 * MARGIN);
        let height = ((bottom - top + 2.0 * MARGIN) * scale).ceil();
        if height * f64::from(width) > f64::from(1 << 28) {
            return Err(Error::usage(format!("a picture of {width} by {height} pixels is too large")));
        }
        let mut pixmap = Pixmap::new(width, height as u32)
            .ok_or_else(|| Error::usage(format!("a picture of {width} by {height} pixels can't be made")))?;
        pixmap.fill(colour(Ink::Ground, 1.0));
        let transform = Transform::from_scale(scale as f32, scale as f32);
        let transform = transform.pre_translate((MARGIN - left) as f32, (MARGIN - top) as f32);
        let mut painter = Painter { pixmap, transform };
        painter.marks(&self.marks);
        painter.pixmap.encode_png().map_err(|e| Error::internal(format!("a PNG file: {e}")))
    }
}

struct Painter {
    pixmap: Pixmap,
    transform: Transform,
}

impl Painter {
    fn marks(&mut self, marks: &[Mark]) {
        for mark in marks {
            match mark {
                Mark::Line { points, ink, width, dash } => {
                    if let Some(path) = polygon(points, false) {
                        self.stroke(&path, *ink, *width, *dash);
                    }
                }
                Mark::Area { points, ink, opacity } => {
                    if let Some(path) = polygon(points, true) {
                        self.fill(&path, *ink, *opacity, self.transform);
                    }
                }
                Mark::Circle { x, y, radius, fill, stroke } => {
                    let mut builder = PathBuilder::new();
                    builder.push_circle(*x as f32, *y as f32, *radius as f32);
                    let Some(path) = builder.finish() else { continue };
                    if let Some(ink) = fill {
                        self.fill(&path, *ink, 1.0, self.transform);
                    }
                    if let Some((ink, width)) = stroke {
                        self.stroke(&path, *ink, *width, None);
                    }
                }
                Mark::Text { text, halo } => {
                    if *halo {
                        let rim =
                            Stroke { width: HALO as f32, line_join: LineJoin::Round, ..Stroke::default() };
                        self.glyphs(text, |pixmap, path, place, scale| {
                            let rim = Stroke { width: rim.width / scale, ..rim.clone() };
                            pixmap.stroke_path(path, &paint(Ink::Ground, 1.0), &rim, place, None);
                        });
                    }
                    self.glyphs(text, |pixmap, path, place, _| {
                        pixmap.fill_path(path, &paint(text.ink, 1.0), FillRule::Winding, place, None);
                    });
                }
                Mark::Group { marks, .. } => self.marks(marks),
            }
        }
    }

    fn fill(&mut self, path: &Path, ink: Ink, opacity: f64, transform: Transform) {
        self.pixmap.fill_path(path, &paint(ink, opacity), FillRule::Winding, transform, None);
    }

    fn stroke(&mut self, path: &Path, ink: Ink, width: f64, dash: Option<f64>) {
        let stroke = Stroke {
            width: width as f32,
            line_cap: LineCap::Butt,
            line_join: LineJoin::Round,
            dash: dash.and_then(|d| StrokeDash::new(vec![d as f32, d as f32], 0.0)),
            ..Stroke::default()
        };
        self.pixmap.stroke_path(path, &paint(ink, 1.0), &stroke, self.transform, None);
    }

    /// Paints each glyph's outline: in font units, with the transform that puts it in place and how many pixels of the
    /// drawing a unit is.
    fn glyphs(&mut self, text: &Text, glyph_painted: impl Fn(&mut Pixmap, &Path, Transform, f32)) {
        let Some(face) = font::face(text.bold) else { return };
        let width = font::text_width(&text.text, text.size, text.bold);
        let mut x = match text.anchor {
            Anchor::Start => text.x,
            Anchor::Middle => text.x - width / 2.0,
            Anchor::End => text.x - width,
        };
        let scale = text.size / f64::from(face.units_per_em());
        let mut outline = Outline(PathBuilder::new());
        for c in text.text.chars() {
            let glyph = face.glyph_index(c).unwrap_or_default();
            outline.0.clear();
            face.outline_glyph(glyph, &mut outline);
            let place =
                self.transform.pre_translate(x as f32, text.y as f32).pre_scale(scale as f32, -scale as f32);
            if let Some(path) = std::mem::replace(&mut outline.0, PathBuilder::new()).finish() {
                glyph_painted(&mut self.pixmap, &path, place, scale as f32);
            }
            x += f64::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * scale;
        }
    }
}

/// A glyph's outline in font units.
struct Outline(PathBuilder);

impl ttf_parser::OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, y);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.0.quad_to(x1, y1, x, y);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.0.cubic_to(x1, y1, x2, y2, x, y);
    }
    fn close(&mut self) {
        self.0.close();
    }
}

fn polygon(points: &[(f64, f64)], closed: bool) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for (i, (x, y)) in points.iter().enumerate() {
        match i {
            0 => builder.move_to(*x as f32, *y as f32),
            _ => builder.line_to(*x as f32, *y as f32),
        }
    }
    if closed {
        builder.close();
    }
    builder.finish()
}

fn colour(ink: Ink, opacity: f64) -> Color {
    let [r, g, b] = ink.rgb(&LIGHT);
    Color::from_rgba8(r, g, b, (opacity.clamp(0.0, 1.0) * 255.0).round() as u8)
}

fn paint(ink: Ink, opacity: f64) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(ink, opacity));
    paint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(drawing: &Drawing, width: u32) -> Pixmap {
        Pixmap::decode_png(&drawing.to_png(width).unwrap()).unwrap()
    }

    #[test]
    fn marks_land_where_they_should() {
        let mut drawing = Drawing::new(20.0, 10.0, "");
        drawing.rect((10.0, 0.0), (10.0, 10.0), Ink::Series(0));
        drawing.circle((5.0, 5.0), 2.0, Some(Ink::Series(1)), None);
        let pixmap = painted(&drawing, 2 * (20 + 28));
        assert_eq!((pixmap.width(), pixmap.height()), (96, 76));
        let at =
            |x: u32, y: u32| pixmap.pixel(x + 28, y + 28).map(|p| [p.red(), p.green(), p.blue()]).unwrap();
        assert_eq!(at(30, 10), Ink::Series(0).rgb(&LIGHT));
        assert_eq!(at(10, 10), Ink::Series(1).rgb(&LIGHT));
        assert_eq!(at(1, 1), Ink::Ground.rgb(&LIGHT));
    }

    #[test]
    fn text_leaves_ink_about_as_wide_as_measured() {
        let mut drawing = Drawing::new(200.0, 40.0, "");
        drawing.heading((0.0, 30.0), "Loss ÷ unpruned", 20.0);
        let pixmap = painted(&drawing, 2 * (200 + 28));
        let dark: Vec<u32> = (0..pixmap.width())
            .filter(|x| (0..pixmap.height()).any(|y| pixmap.pixel(*x, y).unwrap().red() < 100))
            .collect();
        let width = font::text_width("Loss ÷ unpruned", 20.0, true) * 2.0;
        let (first, last) = (f64::from(dark[0]), f64::from(dark[dark.len() - 1]));
        assert!((first - 28.0).abs() < 6.0 && (last - first - width).abs() < 10.0, "{first} {last} {width}");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let drawing = Drawing::new(10.0, 10.0, "");
        assert!(drawing.to_png(0).is_err());
        assert!(drawing.to_png(1 << 20).is_err());
    }
}
