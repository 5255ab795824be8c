//! What all pages share: head, style, provenance.

use secateur::format;
use secateur::records::Run;
use secateur::text::counted;

use super::super::draw::{DARK, LIGHT, REGULAR, SEMIBOLD, escape};

/// What a page is made of. Sections and lead are HTML already.
pub(super) struct Page<'a> {
    /// What it is about: the model.
    pub subject: &'a str,
    /// The kind of page.
    pub heading: &'a str,
    /// A sentence above everything.
    pub lead: &'a str,
    /// Names and values beneath it.
    pub facts: &'a [(String, String)],
    /// The sections.
    pub sections: &'a [String],
    /// Data for the script, as JSON; a page without data has no script.
    pub data: Option<&'a str>,
}

/// The page of a run: its sections, then its settings.
pub(super) fn whole_run(
    run: &Run,
    heading: &str,
    lead: &str,
    mut sections: Vec<String>,
    data: &str,
) -> String {
    sections.push(provenance(run));
    whole(&Page {
        subject: &run.header.model,
        heading,
        lead,
        facts: &facts(run),
        sections: &sections,
        data: Some(data),
    })
}

/// A whole page.
pub(super) fn whole(page: &Page) -> String {
    let title = format!("{} – {}", page.subject, page.heading);
    let items = page
        .facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value)));
    let script = page.data.map(|data| {
        format!(
            "<div id=\"tip\" hidden></div>\n<script type=\"application/json\" id=\"data\">{}</script>\n\
             <script>\n{}</script>\n",
            in_script(data),
            include_str!("script.js")
        )
    });
    let sections = unbroken(&page.sections.concat());
    [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        // Nothing is loaded, whatever a name may try.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ",
        "script-src 'unsafe-inline'; font-src data:\">\n",
        &format!("<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n", escape(&title), style()),
        &format!(
            "<header>\n<p class=\"kind\">{}</p>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n\
             <dl class=\"facts\">{}</dl>\n</header>\n<main>\n",
            escape(page.heading),
            escape(page.subject),
            unbroken(page.lead),
            unbroken(&items.collect::<String>())
        ),
        &sections,
        "</main>\n",
        &script.unwrap_or_default(),
        "</body>\n</html>\n",
    ]
    .concat()
}

/// A section with a heading.
pub(super) fn section(id: &str, heading: &str, body: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{body}</section>\n", escape(heading))
}

/// Text under a heading or figure.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{text}</p>\n")
}

/// The command that makes a page's content again.
pub(super) fn command(command: &str) -> String {
    format!("<h3>Command</h3>\n<pre>{}</pre>\n", escape(command))
}

/// What no line may part from the number before it.
const UNITS: [&str; 17] = [
    "%", "B", "kB", "MB", "GB", "TB", "ms", "s", "k", "M", "G", "T", "±", "points", "point", "threads",
    "thread",
];

/// HTML in which numbers stay on a line with their units; markup and what is preformatted stay as they are.
fn unbroken(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(c) = rest.chars().next() {
        if c == '<' {
            let end = if rest.starts_with("<pre>") {
                rest.find("</pre>").map_or(rest.len(), |at| at + 6)
            } else {
                tag_end(rest)
            };
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let after = &rest[c.len_utf8()..];
        let unit = || {
            let end = after.find(|c: char| !(c.is_alphabetic() || "%±".contains(c))).unwrap_or(after.len());
            UNITS.contains(&&after[..end])
        };
        // Also between the sign and the error behind it.
        let number = out.ends_with(|c: char| c.is_ascii_digit() || c == '±');
        out.push(if c == ' ' && number && (unit() || out.ends_with('±')) { '\u{a0}' } else { c });
        rest = after;
    }
    out
}

/// Where a tag ends: behind its closing bracket, those in quoted attributes aside.
fn tag_end(html: &str) -> usize {
    let mut quoted = false;
    for (at, c) in html.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '>' if !quoted => return at + 1,
            _ => {}
        }
    }
    html.len()
}

/// JSON inside a script element: nothing in it can end the element.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn style() -> String {
    let font = |data: &[u8], weight: u32| {
        format!(
            "@font-face{{font-family:Inter;font-weight:{weight};src:url(data:font/otf;base64,{})}}\n",
            base64(data)
        )
    };
    [
        font(REGULAR, 400),
        font(SEMIBOLD, 600),
        format!(":root{{color-scheme:light dark;{}}}\n", LIGHT.css()),
        format!("@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n", DARK.css()),
        include_str!("style.css").to_string(),
    ]
    .concat()
}

fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk.iter().chain(&[0, 0]).take(3).fold(0u32, |bits, b| bits << 8 | u32::from(*b));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The unpruned model in figures.
fn facts(run: &Run) -> Vec<(String, String)> {
    let point = &run.unpruned;
    let mut facts: Vec<(String, String)> = Vec::new();
    if run.header.has_labels {
        for m in &point.measures {
            let value = format::measured(&m.name, m.value, m.standard_error);
            facts.push((format!("unpruned {}", format::measure(&m.name)), value));
        }
    }
    facts.push(("parameters".into(), format::grouped(point.parameters.total as i64)));
    facts.push(("selected for pruning".into(), format::grouped(point.selected.total as i64)));
    facts.push(("MACs for one sample".into(), format::count(point.macs.total as f64)));
    facts.extend(point.bytes.map(|b| ("file".to_string(), format::bytes(b.raw as f64))));
    facts.push(("samples".into(), format::grouped(run.header.samples as i64)));
    facts
}

/// Names and values beneath each other.
pub(super) fn rows<'a>(rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let row = |(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    format!("<dl class=\"rows\">{}</dl>\n", rows.into_iter().map(row).collect::<String>())
}

/// A recipe as its file would say it; what TOML can't hold stays JSON.
pub(super) fn recipe(recipe: &serde_json::Value) -> String {
    let text = toml::to_string(recipe).or_else(|_| serde_json::to_string_pretty(recipe)).unwrap_or_default();
    format!("<h3>Recipe</h3>\n<pre>{}</pre>\n", escape(&text))
}

fn provenance(run: &Run) -> String {
    let header = &run.header;
    let seeds = header.seed.to_string();
    let repaired = header.repair.as_ref().map(|repair| repair.to_string());
    let settings = [
        ("Model", header.model.as_str()),
        ("SHA-256", header.model_sha256.as_str()),
        ("Data", header.data.as_str()),
        ("Repaired", repaired.as_deref().unwrap_or("no")),
        ("Seed", seeds.as_str()),
        ("Version", &format!("secateur {}", header.environment.secateur)),
        (
            "Computed on",
            &format!("{}, {}", header.environment.cpu, counted(header.environment.threads, "thread")),
        ),
    ];
    let body = rows(settings) + &command(&crate::command::of_run(header)) + &recipe(&header.recipe);
    section("provenance", "Settings and provenance", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_with_their_units() {
        let html = "<b title=\"5 %\">5 %</b> of 3 MB, 2 Ms <pre>5 %</pre> 1.0 ± 0.5 % and 4 layers";
        let expected = "<b title=\"5 %\">5\u{a0}%</b> of 3\u{a0}MB, 2 Ms <pre>5 %</pre> 1.0\u{a0}±\u{a0}0.5\u{a0}% and 4 layers";
        assert_eq!(unbroken(html), expected);
    }

    /// RFC 4648, section 10.
    #[test]
    fn base64_as_specified() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (data, text) in cases {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }
}
