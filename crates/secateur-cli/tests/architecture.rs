//! The layers of `docs/architecture.md`: no crate uses one that its row does not name, and no module one below its own row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The page, read once for all checks.
struct Page {
    /// For each crate, the crates that it may use.
    crates: BTreeMap<String, BTreeSet<String>>,
    /// For each crate with a table of modules, these from the lowest to the highest.
    modules: BTreeMap<String, Vec<String>>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The words in backticks of a cell.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(String::from)
}

/// Reads the tables: `| crate | holds | may use |`, and `| module of NAME | holds |`, the lowest modules first.
fn page(text: &str) -> Page {
    let mut page = Page { crates: BTreeMap::new(), modules: BTreeMap::new() };
    let mut of = None;
    for line in text.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let first = cells[0].trim_start_matches('|').trim();
        if !line.starts_with('|') {
            of = None;
        } else if first == "crate" {
            of = Some(String::new());
        } else if let Some(name) = first.strip_prefix("module of ") {
            of = quoted(name).next();
        } else if let (Some(of), Some(name)) = (&of, quoted(first).next()) {
            match of.as_str() {
                "" => drop(page.crates.insert(name, quoted(cells[2]).collect())),
                krate => page.modules.entry(krate.to_string()).or_default().extend(quoted(first)),
            }
        }
    }
    page
}

/// Words, `::`, strings and single signs of Rust source, without comments and characters.
fn tokens(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let hashes = rest[word..].bytes().take_while(|b| *b == b'#').count();
        let is_raw = matches!(&rest[..word], "r" | "br") && rest[word + hashes..].starts_with('"');
        let taken = if is_raw {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = word + hashes + 1;
            let taken = rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len());
            found.push(&rest[begin - 1..taken]);
            taken
        } else if word > 0 {
            found.push(&rest[..word]);
            word
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let taken = end.map_or(rest.len(), |at| at + 2);
            found.push(&rest[..taken]);
            taken
        } else if first == '\'' {
            // A character is closed, a lifetime is not.
            let inner = if rest[1..].starts_with('\\') { 2 } else { 1 };
            let width = rest[inner..].chars().next().map_or(0, char::len_utf8);
            if rest[inner + width..].starts_with('\'') { inner + width + 1 } else { 1 }
        } else if rest.starts_with("::") {
            found.push("::");
            2
        } else {
            if !first.is_whitespace() {
                found.push(&rest[..first.len_utf8()]);
            }
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    found
}

/// What stands at the beginning of a path or, in braces, of several: `a::b` names `a`, `{a::b, c}` names `a` and `c`.
fn heads<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    if tokens.first() != Some(&"{") {
        return tokens.first().copied().into_iter().collect();
    }
    let (mut depth, mut found) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0] {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0], "{" | ",") {
            found.push(pair[1]);
        }
    }
    found
}

/// Modules of its own crate that a file names at the crate's root; `depth` is that of the file's module below the root.
fn used<'a>(tokens: &[&'a str], depth: usize) -> Vec<&'a str> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if at > 0 && tokens[at - 1] == "::" {
            continue;
        }
        let mut next = at;
        let mut ups = 0;
        while tokens.get(next) == Some(&"super") && tokens.get(next + 1) == Some(&"::") {
            (next, ups) = (next + 2, ups + 1);
        }
        if tokens[at] == "crate" && tokens.get(at + 1) == Some(&"::") {
            found.extend(heads(&tokens[at + 2..]));
        } else if ups > 0 && ups == depth {
            found.extend(heads(&tokens[next..]));
        }
    }
    found
}

/// Removes what is compiled for tests only, which may use everything. Returns the modules whose files are too.
fn without_tests<'a>(tokens: &mut Vec<&'a str>) -> Vec<&'a str> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut files = Vec::new();
    while let Some(at) = tokens.windows(mark.len()).position(|window| window == mark) {
        let mut end = at + mark.len();
        while tokens[end] != ";" && tokens[end] != "{" {
            end += 1;
        }
        if tokens[end] == ";" && tokens[end - 2] == "mod" {
            files.push(tokens[end - 1]);
        }
        let mut depth = usize::from(tokens[end] == "{");
        while depth > 0 {
            end += 1;
            match tokens[end] {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        tokens.drain(at..=end);
    }
    files
}

/// The source files of a crate with the modules that they are, such as `["prune", "masks"]`.
fn sources(folder: &Path, of: &[String], found: &mut Vec<(Vec<String>, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(&path, &[of, &[name]].concat(), found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let own = if name == "mod" { Vec::new() } else { vec![name] };
            found.push(([of, &own].concat(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What is compiled outside tests: the tokens of each file.
fn outside_tests(files: &[(Vec<String>, String)]) -> Vec<(&[String], Vec<&str>)> {
    let mut read: Vec<(&[String], Vec<&str>)> = Vec::new();
    let mut tests: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, source) in files {
        let mut tokens = tokens(source);
        let parent = if matches!(module[0].as_str(), "lib" | "main") { &[] } else { &module[..] };
        for name in without_tests(&mut tokens) {
            tests.insert([parent, &[name.to_string()]].concat());
        }
        read.push((module, tokens));
    }
    read.retain(|(module, _)| !tests.iter().any(|test| module.starts_with(test)));
    read
}

/// What a crate's files use that its layer may not.
fn violations(page: &Page, krate: &str, files: &[(Vec<String>, String)]) -> Vec<String> {
    let allowed = &page.crates[krate];
    let mut wrong = Vec::new();
    let read = outside_tests(files);
    for (module, tokens) in &read {
        for other in page.crates.keys() {
            let name = other.replace('-', "_");
            let uses = tokens.windows(2).any(|pair| pair == [name.as_str(), "::"]);
            if uses && !allowed.contains(other) {
                wrong.push(format!("{krate}: {} uses the crate {other}", module.join("::")));
            }
        }
    }
    let Some(order) = page.modules.get(krate) else { return wrong };
    let place = |name: &str| order.iter().position(|module| module == name);
    let is_root = |module: &[String]| matches!(module[0].as_str(), "lib" | "main");
    for (module, tokens) in read.iter().filter(|(module, _)| !is_root(module)) {
        let Some(own) = place(&module[0]) else {
            wrong.push(format!("{krate}: {} has no row", module[0]));
            continue;
        };
        for used in used(tokens, module.len()) {
            match place(used) {
                Some(other) if other <= own => {}
                Some(_) => {
                    wrong.push(format!("{krate}: {} uses {used}, which is above it", module.join("::")))
                }
                // What the root defines or exports is above everything.
                None => wrong.push(format!("{krate}: {} uses {used} of the root", module.join("::"))),
            }
        }
    }
    let there: BTreeSet<&str> = read.iter().map(|(module, _)| module[0].as_str()).collect();
    wrong.extend(
        order.iter().filter(|row| !there.contains(row.as_str())).map(|row| format!("{krate}: no {row}")),
    );
    wrong.sort();
    wrong.dedup();
    wrong
}

/// The crates that know nothing of the command line. Their messages name options, and the command line adds the flags.
const WITHOUT_FLAGS: &[&str] = &["secateur-model", "secateur-kernels", "secateur-runtime", "secateur"];

/// The strings that name a flag, such as `--force`.
fn with_flags<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let names_one = |text: &str| {
        let before = |at: usize| text[..at].chars().next_back();
        text.match_indices("--").any(|(at, _)| {
            text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
                && before(at).is_none_or(|c| c != '-' && !c.is_alphanumeric())
        })
    };
    let strings = tokens.iter().copied().filter(|token| token.starts_with('"'));
    strings.filter(|text| names_one(text)).collect()
}

#[test]
fn no_message_of_the_library_names_a_flag() {
    let mut wrong = Vec::new();
    for krate in WITHOUT_FLAGS {
        let mut files = Vec::new();
        sources(&repository().join("crates").join(krate).join("src"), &[], &mut files);
        for (module, tokens) in outside_tests(&files) {
            let named = with_flags(&tokens).into_iter();
            wrong.extend(named.map(|text| format!("{krate}: {}: {text}", module.join("::"))));
        }
    }
    assert!(wrong.is_empty(), "say \"option `name`\" instead:\n{}", wrong.join("\n"));
    let source = "// \"--a\"\nf(\"pass --force\", \"a -- b\", r#\"`--x\"#, \"3--x\");";
    assert_eq!(with_flags(&tokens(source)), ["\"pass --force\"", "\"`--x\"#"]);
}

#[test]
fn no_module_uses_one_above_it() {
    let page = page(&std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap());
    let folder = repository().join("crates");
    let there: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(page.crates.keys().cloned().collect::<BTreeSet<_>>(), there, "a row for each crate");
    assert!(page.modules.contains_key("secateur"));
    let mut wrong = Vec::new();
    for krate in &there {
        let mut files = Vec::new();
        sources(&folder.join(krate).join("src"), &[], &mut files);
        wrong.extend(violations(&page, krate, &files));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_use_of_something_above_is_found() {
    let page = page(
        "| crate | holds | may use |\n|---|---|---|\n| `low` | – | – |\n| `high` | – | `low` |\n\n\
         | module of `high` | holds |\n|---|---|\n| `measure` | – |\n| `prune` | – |\n| `eval` | – |\n",
    );
    let found = |module: &str, source: &str| {
        let module: Vec<String> = module.split("::").map(String::from).collect();
        let mut files: Vec<(Vec<String>, String)> =
            ["measure", "prune", "eval"].map(|name| (vec![name.to_string()], String::new())).to_vec();
        files.push((module, source.to_string()));
        violations(&page, "high", &files)
    };
    for allowed in [
        "use crate::measure::Count;\nuse low::Model;",
        "// crate::eval\nfn f() -> &'static str { \"crate::eval\" }",
        "#[cfg(test)]\nmod tests {\n    use crate::eval::sweep;\n}",
        "use super::eval;",
        "use crate::prune::{self, masks};",
    ] {
        assert_eq!(found("prune::masks", allowed), [""; 0], "{allowed}");
    }
    for (module, wrong) in [
        ("prune::masks", "use crate::eval::sweep;"),
        ("prune::masks", "use crate::{measure::Count, eval::{sweep, run}};"),
        ("prune::masks", "fn f() { let quote = '\"'; crate::eval::run(quote) }"),
        ("prune::masks", "use super::super::eval::sweep;"),
        ("measure", "use super::{measure, prune::{self, eval}};"),
    ] {
        let found = found(module, wrong);
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(found[0].contains("above it"), "{found:?}");
    }
    assert_eq!(found("prune::masks", "use crate::Global;"), ["high: prune::masks uses Global of the root"]);
    assert_eq!(found("other", ""), ["high: other has no row"]);
    let files = [(vec!["lib".to_string()], "use high::Model;".to_string())];
    assert_eq!(violations(&page, "low", &files), ["low: lib uses the crate high"]);
}
