//! The flags of the options that the library's messages name. A message says "option `class_axis`" or "options `mean` and
//! `std`", with a value as in "option `scale=1/255`"; the command line says `--class-axis`, `--scale 1/255`.

/// Options whose flags have other names. The flag of any other option is its name with `-` for `_`.
const RENAMED: &[(&str, &str)] = &[
    ("amount", "sparsity"),
    ("dims", "dim"),
    ("form", "masks"),
    ("masks", "mask"),
    ("modules", "module"),
    ("output", "output-name"),
    ("overrides", "layer"),
    ("shapes", "shape"),
    ("sparsities", "sparsity"),
];

fn flag(option: &str) -> String {
    match RENAMED.iter().find(|(name, _)| *name == option) {
        Some((_, flag)) => flag.to_string(),
        None => option.replace('_', "-"),
    }
}

/// A message of the library with the flags of the options that it names.
pub(crate) fn as_flags(message: &str) -> String {
    replaced(message, |option, value| match value {
        Some(value) => format!("`--{} {}`", flag(option), secateur_report::quoted(value)),
        None => format!("`--{}`", flag(option)),
    })
}

/// Replaces what names an option, given its name and its value.
fn replaced(message: &str, mut with: impl FnMut(&str, Option<&str>) -> String) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(at) = rest.find("option") {
        let word = if rest[at..].starts_with("options") { "options" } else { "option" };
        out += &rest[..at];
        rest = &rest[at + word.len()..];
        let mut between = " ";
        let mut found = false;
        while let Some((mention, after)) = rest.strip_prefix(between).and_then(in_backticks) {
            out += if found { between } else { "" };
            let (name, value) = mention.split_once('=').map_or((mention, None), |(n, v)| (n, Some(v)));
            out += &with(name, value);
            (rest, found) = (after, true);
            let joined = [", ", " and ", " or "].into_iter().find(|joint| rest.starts_with(joint));
            match joined.filter(|_| word == "options") {
                Some(joint) => between = joint,
                None => break,
            }
        }
        out += if found { "" } else { word };
    }
    out + rest
}

/// An option in backticks at the beginning of a text, and what follows it.
fn in_backticks(text: &str) -> Option<(&str, &str)> {
    let (mention, after) = text.strip_prefix('`')?.split_once('`')?;
    let name = mention.split('=').next().unwrap_or_default();
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_name.then_some((mention, after))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn options_become_flags() {
        for (message, expected) in [
            ("set option `class_axis`", "set `--class-axis`"),
            ("(option `include=a b*` prunes it)", "(`--include 'a b*'` prunes it)"),
            (
                "options `mean`, `std` and `scale=1/255`, or not",
                "`--mean`, `--std` and `--scale 1/255`, or not",
            ),
            ("option `form=sidecar` or `x` as it is", "`--masks sidecar` or `x` as it is"),
            (
                "no option is named: `x`; an option `Of a file`",
                "no option is named: `x`; an option `Of a file`",
            ),
            ("options `mean` and more options", "`--mean` and more options"),
            ("option `open", "option `open"),
        ] {
            assert_eq!(as_flags(message), expected);
        }
    }

    /// Adds what the library's sources name as options.
    fn collect(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                // A backslash joins the lines of a string.
                let source = source.split("\\\n").map(str::trim_start).collect::<String>();
                replaced(&source, |option, _| {
                    found.insert(option.to_string());
                    String::new()
                });
            }
        }
    }

    #[test]
    fn every_option_that_a_message_names_has_a_flag() {
        let mut named = BTreeSet::new();
        for krate in ["secateur", "secateur-model", "secateur-runtime"] {
            collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src"), &mut named);
        }
        assert!(named.contains("class_axis") && named.contains("form"), "{named:?}");
        // Some messages take the name from a table.
        named.extend(RENAMED.iter().map(|(option, _)| option.to_string()));
        let cli = crate::Cli::command();
        let flags: BTreeSet<&str> = std::iter::once(&cli)
            .chain(cli.get_subcommands())
            .flat_map(|command| command.get_arguments().filter_map(clap::Arg::get_long))
            .collect();
        let missing: Vec<_> = named.iter().filter(|option| !flags.contains(&*flag(option))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
