//! Counts and lists of names in sentences for people.

/// Names that a sentence shows before it says how many more there are.
const SHOWN: usize = 8;

/// A number of things: `1 thread`, `2 threads`.
pub fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Names in a sentence, no more of them than can be read: `a, b and 52 more`.
pub fn listed<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    shortened(names, |name| name.to_string())
}

/// As [`listed`], each name in backquotes.
pub fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    shortened(names, |name| format!("`{name}`"))
}

fn shortened<S: AsRef<str>>(names: impl IntoIterator<Item = S>, show: impl Fn(&str) -> String) -> String {
    let mut names = names.into_iter();
    let mut text = String::new();
    for (at, name) in names.by_ref().take(SHOWN).enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(&show(name.as_ref()));
    }
    match names.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_shortened_and_one_thing_is_singular() {
        assert_eq!(counted(1, "thread"), "1 thread");
        assert_eq!(counted(0, "tensor"), "0 tensors");
        assert_eq!(listed(["a", "b"]), "a, b");
        assert_eq!(quoted([] as [&str; 0]), "");
        let sixty: Vec<String> = (0..60).map(|i| format!("layer{i}")).collect();
        let text = quoted(&sixty);
        assert!(text.starts_with("`layer0`, `layer1`") && text.ends_with("`layer7` and 52 more"), "{text}");
    }
}
