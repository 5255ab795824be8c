//! Texts from files, as they are shown: names of tensors and nodes can hold whatever their writer put there.

use std::borrow::Cow;

/// A text without what a terminal would obey: control characters, but for line ends and tabs, and marks that turn
/// the direction of writing are written as `\u001b`, as JSON has it.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c| acts(c) && !matches!(c, '\n' | '\t'))
}

/// As [`shown`], for a name in a line or in a table, where line ends and tabs have no place either.
pub fn shown_name(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// Whether a terminal obeys a character instead of showing it. C1 controls are among those of [`char::is_control`].
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, acts: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&acts) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match acts(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(shown("layer.0 größe 層\n\tb"), "layer.0 größe 層\n\tb");
        assert_eq!(
            shown("a\x1b[2Jb\u{9b}0m\r\x07\u{202e}c\x7f"),
            "a\\u001b[2Jb\\u009b0m\\u000d\\u0007\\u202ec\\u007f"
        );
        assert_eq!(shown_name("a\nb"), "a\\u000ab");
        // In JSON it means the same character.
        let json = format!("\"{}\"", shown("x\u{9b}y"));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "x\u{9b}y");
    }
}
