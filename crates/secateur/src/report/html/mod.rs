//! A run as one page without any connection to the network: the figures inline, the font inside.

mod page;
mod sensitivity;
mod sweep;
mod tables;

use super::analysis::Analysis;
use super::{Run, RunKind};

/// The page. It is a function of the run alone: no times, no folders.
pub(super) fn report(run: &Run, analysis: &Analysis) -> String {
    match run.header.kind {
        RunKind::Sweep => sweep::page(run, analysis),
        RunKind::Sensitivity => sensitivity::page(run, analysis),
    }
}

#[cfg(test)]
mod tests {
    use super::super::analysis::FREE_THRESHOLD;
    use super::super::synthetic::{header, run_of};
    use super::super::{RunHeader, RunKind};
    use super::*;

    fn page(header: &RunHeader) -> String {
        let (_folder, run) = run_of(header);
        report(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap())
    }

    /// Elements, in order, of a page whose tags are balanced and whose attributes are quoted.
    fn elements(html: &str) -> Vec<String> {
        const VOID: [&str; 3] = ["meta", "input", "br"];
        let mut open: Vec<String> = Vec::new();
        let mut all = Vec::new();
        let mut rest = html.strip_prefix("<!doctype html>").unwrap();
        while let Some(at) = rest.find('<') {
            rest = &rest[at..];
            let raw = open.last().filter(|name| ["script", "style"].contains(&name.as_str()));
            if let Some(name) = raw
                && !rest.starts_with(&format!("</{name}>"))
            {
                rest = &rest[1..];
                continue;
            }
            let mut end = 1;
            let mut quoted = false;
            for c in rest[1..].chars() {
                match c {
                    '"' => quoted = !quoted,
                    '<' => assert!(quoted, "a tag in a tag: {}", &rest[..end]),
                    '>' if !quoted => break,
                    _ => {}
                }
                end += c.len_utf8();
            }
            let tag = &rest[1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()), "<{tag}>");
            all.push(name.to_string());
            if !VOID.contains(&name) && !tag.ends_with('/') {
                open.push(name.to_string());
            }
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn pages_are_well_formed_and_load_nothing() {
        for (kind, labels) in [(RunKind::Sweep, true), (RunKind::Sweep, false), (RunKind::Sensitivity, true)]
        {
            let html = page(&header(kind, labels));
            let elements = elements(&html);
            assert_eq!(elements.iter().filter(|e| *e == "script").count(), 2);
            assert!(elements.iter().filter(|e| *e == "svg").count() >= 1);
            for word in ["http://", "https://", "@import", " href=", "NaN\"", "undefined"] {
                let at = html.find(word).map(|i| &html[i.saturating_sub(60)..i + 20]);
                assert_eq!(at, None, "{word}");
            }
            assert_eq!(html.matches("src=").count(), 0);
            assert_eq!(html.matches("url(").count(), html.matches("url(data:font").count());
        }
    }

    #[test]
    fn names_are_harmless() {
        const EVIL: &str =
            "</script></style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;\u{1b}[2J";
        for kind in [RunKind::Sweep, RunKind::Sensitivity] {
            let plain = elements(&page(&header(kind, true)));
            let mut header = header(kind, true);
            for layer in &mut header.layers {
                layer.name = format!("{EVIL}{}", layer.name);
                layer.op = EVIL.into();
            }
            header.model = EVIL.into();
            header.data = EVIL.into();
            header.environment.cpu = EVIL.into();
            header.recipe = serde_json::json!({ EVIL: EVIL });
            header.measures[1] = EVIL.into();
            header.sample_measures = vec!["loss".into(), EVIL.into()];
            let html = page(&header);
            assert!(!html.contains('\u{1b}'));
            let evil = elements(&html);
            assert!(!evil.contains(&"img".to_string()));
            assert_eq!(evil.iter().filter(|e| *e == "script").count(), 2);
            if kind == RunKind::Sensitivity {
                assert_eq!(evil, plain);
            }
        }
    }

    #[test]
    fn the_same_run_gives_the_same_page() {
        let header = header(RunKind::Sweep, true);
        assert_eq!(page(&header), page(&header));
    }

    #[test]
    fn a_run_that_has_only_begun_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        for points in [1, 2, 4] {
            super::super::synthetic::sweep(folder.path(), &header(RunKind::Sweep, true), points).unwrap();
            let run = Run::load(folder.path()).unwrap();
            elements(&report(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap()));
        }
    }
}
