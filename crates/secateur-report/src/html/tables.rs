//! The tables of a page.

use secateur::format;
use secateur::records::Run;

use super::super::analysis::{Analysis, Curve, MeanBytes, Pairing, Scale, Verdict};
use super::super::draw::{SERIES_COLOURS, escape};
use super::page::note;

/// A table from cells that are HTML already; the first column is a row's head.
pub(super) fn table(class: &str, heads: &[String], rows: &[Vec<String>]) -> String {
    let heads: String = heads.iter().map(|h| format!("<th scope=\"col\">{h}</th>")).collect();
    let rows = rows.iter().map(|row| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("<th scope=\"row\">{cell}</th>"),
            _ => format!("<td>{cell}</td>"),
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    });
    format!(
        "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{heads}</tr></thead><tbody>\n{}</tbody></table></div>\n",
        rows.collect::<String>()
    )
}

/// A method's name in its colour.
pub(super) fn method(curve: &Curve) -> String {
    named(&curve.method, curve.slot)
}

/// A method by its name, in the colour of its series.
pub(super) fn named(method: &str, slot: usize) -> String {
    let i = slot % SERIES_COLOURS;
    format!("<span class=\"method\" style=\"--c:var(--s{i});--ct:var(--st{i})\">{}</span>", escape(method))
}

/// Says that standard errors are what limits, where they are.
pub(super) fn limits(run: &Run, analysis: &Analysis) -> String {
    analysis.limits(run).map_or_else(String::new, |text| note(&escape(&format::capital(&text))))
}

/// How far pruning is free, with the doubt: `62 %` and `60–64 %`.
pub(super) fn free(curve: &Curve) -> (String, String) {
    let free = curve.free;
    let at = format::percent(free.sparsity);
    let doubt = if free.certain == free.possible {
        String::new()
    } else {
        format::ranges(&[(free.certain, free.possible)])
    };
    (if free.crossed { at } else { format!("≥ {at}") }, doubt)
}

/// The methods at each target side by side: the best is marked, and so is what can't be told from it.
pub(super) fn comparison(analysis: &Analysis) -> String {
    let curves = &analysis.curves;
    let mut heads = vec!["target".to_string()];
    heads.extend(curves.iter().map(method));
    let rows = analysis.targets().into_iter().map(|target| {
        let best = best(analysis, target);
        let mut row = vec![format::percent(target)];
        row.extend(curves.iter().enumerate().map(|(i, curve)| {
            let Some(p) = curve.point(target) else { return String::new() };
            let text = format::with_error(p.value.mean, p.value.standard_error);
            let range = if p.indices.len() > 1 {
                format!("<small>{}–{}</small>", format::number(p.value.low), format::number(p.value.high))
            } else {
                String::new()
            };
            let class = match best {
                Some(b) if b == i => "best",
                Some(b) if verdict(analysis, b, i, target) == Some(Verdict::NoDifference) => "near",
                _ => "",
            };
            format!("<span class=\"{class}\">{text}</span>{range}")
        }));
        row
    });
    table("numbers", &heads, &rows.collect::<Vec<_>>())
}

/// The curve with the least value at a target.
fn best(analysis: &Analysis, target: f64) -> Option<usize> {
    let values =
        analysis.curves.iter().enumerate().filter_map(|(i, c)| Some((i, c.point(target)?.value.mean)));
    values.filter(|v| v.1.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1)).map(|v| v.0)
}

/// What comparing two curves at a target says, whichever is the first of their pairing.
fn verdict(analysis: &Analysis, a: usize, b: usize, target: f64) -> Option<Verdict> {
    let pairing =
        analysis.pairings.iter().find(|p| (p.first, p.second) == (a, b) || (p.first, p.second) == (b, a))?;
    pairing.comparisons.iter().find(|c| (c.target - target).abs() < 1e-9).map(|c| c.verdict)
}

/// Every two methods: where the first is better, where neither, where the second.
pub(super) fn pairings(analysis: &Analysis) -> String {
    let heads = ["method", "against", "better at", "no difference at", "worse at"].map(String::from);
    let row = |pairing: &Pairing| {
        let at = |verdict| match format::ranges(&pairing.ranges(verdict)) {
            ranges if ranges.is_empty() => "–".to_string(),
            ranges => ranges,
        };
        let [first, second] = [pairing.first, pairing.second].map(|i| method(&analysis.curves[i]));
        vec![first, second, at(Verdict::First), at(Verdict::NoDifference), at(Verdict::Second)]
    };
    table("words", &heads, &analysis.pairings.iter().map(row).collect::<Vec<_>>())
}

/// All points with all their numbers.
pub(super) fn points(run: &Run, analysis: &Analysis) -> String {
    let mut heads: Vec<String> = ["method", "target", "achieved"].map(String::from).to_vec();
    let sizes = run.unpruned.bytes.is_some();
    let relative = matches!(analysis.scale, Scale::Relative { .. });
    let deciding = run.header.measures.first().map_or("", String::as_str);
    heads.extend(relative.then(|| format!("{} ÷ unpruned", escape(format::measure(deciding)))));
    heads.extend(run.header.measures.iter().map(|m| escape(format::measure(m))));
    heads.extend(["parameters left", "MACs left"].map(String::from));
    if sizes {
        heads.extend(["gzip", "zstd", "packed", "entropy bound"].map(String::from));
    }
    let mut rows = Vec::new();
    for curve in &analysis.curves {
        for p in &curve.points[1..] {
            let mut row = vec![method(curve), format::percent(p.target), format::percent(p.sparsity)];
            row.extend(relative.then(|| format::with_error(p.value.mean, p.value.standard_error)));
            row.extend(
                run.header
                    .measures
                    .iter()
                    .zip(&p.measures)
                    .map(|(name, m)| format::measured(name, m.mean, m.standard_error)),
            );
            row.extend([format::count(p.parameters), format::count(p.macs)]);
            if sizes {
                let of = |f: fn(&MeanBytes) -> Option<f64>| format::known_bytes(p.bytes.as_ref().and_then(f));
                row.extend([
                    of(|b| Some(b.gzip)),
                    of(|b| Some(b.zstd)),
                    of(|b| b.packed),
                    of(|b| Some(b.entropy)),
                ]);
            }
            rows.push(row);
        }
    }
    table("numbers", &heads, &rows)
}
