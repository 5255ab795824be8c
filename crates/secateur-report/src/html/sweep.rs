//! The page of a sweep.

use secateur::format;
use secateur::records::Run;
use secateur::text::counted;
use serde_json::{Value, json};

use super::super::analysis::{Analysis, Curve, CurvePoint, OperatingPoint, Scale, higher_is_better};
use super::super::draw::{HEAT_TURN, SERIES_COLOURS, escape};
use super::super::figures::{self, X, Y};
use super::page::{note, section, whole_run};
use super::tables;

pub(super) fn page(run: &Run, analysis: &Analysis) -> String {
    let mut sections = vec![cards(run, analysis), curves(run, analysis)];
    sections.extend(operating(run, analysis));
    sections.extend(exponentials(analysis));
    sections.extend(comparison(analysis));
    sections.extend(size_section(&figures::SizeSeries::of_run(analysis)));
    sections.extend(layers(run, analysis));
    let points = tables::points(run, analysis);
    let details =
        format!("<details><summary>Every number behind the figures</summary>\n{points}</details>\n");
    sections.push(section("points", "All points", &details));
    let data = json!({
        "tips": tips(run, analysis),
        "turn": HEAT_TURN,
        "colours": analysis.curves.iter().map(|c| c.slot % SERIES_COLOURS).collect::<Vec<_>>(),
        "targets": analysis.targets().iter().map(|t| format::percent(*t)).collect::<Vec<_>>(),
        "layers": layer_data(run, analysis),
        "histograms": histogram_data(run, analysis),
        "area": [figures::AREA.0, figures::AREA.1, figures::BASE],
    });
    whole_run(run, "Pruning curves", &lead(run, analysis), sections, &data.to_string())
}

/// What gets worse: `the loss`.
fn deciding(run: &Run) -> &str {
    format::measure(run.header.measures.first().map_or("loss", String::as_str))
}

fn lead(run: &Run, analysis: &Analysis) -> String {
    let best = analysis.curves.iter().max_by(|a, b| a.free.sparsity.total_cmp(&b.free.sparsity));
    let Some(best) = best else { return "No point has been evaluated yet.".into() };
    let (free, _) = tables::free(best);
    let among = match analysis.curves.len() {
        1 => String::new(),
        n => format!("goes furthest of {n} methods: "),
    };
    format!(
        "On {}, <b>{}</b> {among}<b>{}{free}</b> of the selected weights can go before {}.",
        escape(&run.header.data),
        escape(&best.method),
        if among.is_empty() { "shows that " } else { "" },
        escape(&analysis.harm_of(run, best))
    )
}

/// A card for each method: how far it is free and what that gains.
fn cards(run: &Run, analysis: &Analysis) -> String {
    let card = |curve: &Curve| {
        let (free, doubt) = tables::free(curve);
        let place = curve.free.place;
        let mut facts: Vec<(&str, String)> = Vec::new();
        if !doubt.is_empty() {
            facts.push(("± 2 s.e.", doubt));
        }
        if let Some(unpruned) = run.unpruned.bytes {
            let gzip = curve.at(place, |p| p.bytes.map_or(f64::NAN, |b| b.gzip));
            if gzip.is_finite() {
                let change = gzip / unpruned.gzip as f64 - 1.0;
                let change = format::percent(change);
                facts.push(("gzipped there", format!("{} ({change})", format::bytes(gzip))));
            }
        }
        if let Scale::Relative { .. } = analysis.scale {
            let doubled = curve.crossing(2.0).map(|place| curve.at(place, |p| p.sparsity));
            let text = doubled.map_or_else(|| "never".into(), format::percent);
            facts.push(("loss × 2 at", text));
        }
        if curve.seeds > 1 {
            facts.push(("seeds", format!("{}, mean and range", curve.seeds)));
        }
        let facts: String =
            facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
        format!(
            "<article class=\"card\" style=\"--c:var(--s{})\"><h3>{}</h3>\
             <p class=\"big\">{free}</p><p>of the weights can go before {}</p><dl>{facts}</dl></article>\n",
            curve.slot % SERIES_COLOURS,
            tables::method(curve),
            escape(&analysis.harm_of(run, curve)),
        )
    };
    let cards: String = analysis.curves.iter().map(card).collect();
    format!(
        "<section id=\"cards\" class=\"cards\" aria-label=\"How far pruning is free\">\n{cards}</section>\n{}",
        tables::limits(run, analysis)
    )
}

/// The charts for each x axis, one shown at a time, with the controls that choose.
fn curves(run: &Run, analysis: &Analysis) -> String {
    let sizes = run.unpruned.bytes.is_some();
    let raw = run.header.measures.iter().position(|m| higher_is_better(m));
    let xs: Vec<(X, &str)> = X::ALL.into_iter().filter(|(x, _)| *x != X::Bytes || sizes).collect();
    let radio = |group: &str, id: &str, label: &str, checked: bool| {
        let checked = if checked { " checked" } else { "" };
        format!(
            "<label><input type=\"radio\" name=\"{group}\" id=\"{group}-{id}\"{checked}><span>{label}</span></label>"
        )
    };
    let x_radios: String =
        xs.iter().enumerate().map(|(i, (_, label))| radio("x", &i.to_string(), label, i == 0)).collect();
    let y_radios = radio("y", "cut", "cut off", true) + &radio("y", "log", "logarithmic", false);
    let toggles: String = analysis
        .curves
        .iter()
        .enumerate()
        .map(|(i, curve)| {
            format!(
                "<label class=\"toggle\"><input type=\"checkbox\" checked data-toggle=\"{i}\">{}</label>",
                tables::method(curve)
            )
        })
        .collect();
    let controls = format!(
        "<div class=\"controls\"><fieldset class=\"choice\"><legend>Against</legend>{x_radios}</fieldset>\
         <fieldset class=\"choice\"><legend>Axis of the {}</legend>{y_radios}</fieldset>\
         <fieldset class=\"toggles\"><legend>Methods</legend>{toggles}</fieldset></div>\n",
        deciding(run),
    );
    let variant = |class: String, x: X, y: Y| {
        format!(
            "<div class=\"variant {class}\">{}</div>\n",
            figures::chart(run, analysis, x, y).to_inline_svg()
        )
    };
    let mut left = String::new();
    let mut right = String::new();
    for (i, (x, _)) in xs.iter().enumerate() {
        left += &variant(format!("x{i} cut"), *x, Y::Cut);
        left += &variant(format!("x{i} log"), *x, Y::Log);
        right += &raw.map_or_else(String::new, |m| variant(format!("x{i}"), *x, Y::Raw(m)));
    }
    let right = if right.is_empty() { right } else { format!("<figure class=\"chart\">{right}</figure>\n") };
    let seeds = if analysis.curves.iter().any(|c| c.seeds > 1) {
        "; for random methods the range over the seeds"
    } else {
        ""
    };
    let note = note(&format!(
        "Bands: ± 2 standard errors (s.e.){seeds}. Dashed: the unpruned model. Rings: where pruning stops being free, \
         that is where {}. ↑: the curve leaves the chart. Lines between points are straight.",
        escape(&analysis.harm(run))
    ));
    let body = format!(
        "{controls}<div class=\"pair\"><figure class=\"chart\">{left}</figure>\n{right}</div>\n{note}"
    );
    section("curves", "What pruning costs", &body)
}

/// Accuracy against latency, and the points that nothing beats as a table.
fn operating(run: &Run, analysis: &Analysis) -> Option<String> {
    let found = analysis.operating(run)?;
    let settings = run.header.latency.as_ref()?;
    let figure = figures::operating_chart(run, analysis)?.to_inline_svg();
    let measure = &run.header.measures[found.measure];
    let heads = ["", "model", format::measure(measure), "median", "speed-up", "p10–p90"].map(escape);
    let ms = |seconds: f64| format::number(seconds * 1e3);
    let row = |(number, point): (String, &OperatingPoint)| {
        vec![
            number,
            escape(&point.name),
            format::measured(measure, point.value, point.error),
            format!("{} ms", ms(point.latency)),
            format!("{}×", format::number(point.speedup)),
            format!("{} ms", point.spread.map(ms).join("–")),
        ]
    };
    let rows: Vec<_> = found.shown().into_iter().map(row).collect();
    let note = note(&format!(
        "Numbered: the points on the Pareto front, than which none is both faster and better. Batch {}, {}, on {}. Each \
         model took turns with the unpruned one, and its time is given as a share of that one’s; so points that were \
         timed in a busy moment compare with the others.",
        settings.batch,
        counted(settings.threads, "thread"),
        escape(&run.header.environment.cpu)
    ));
    let body = format!(
        "<figure class=\"chart\">{figure}</figure>\n{}\n{note}",
        tables::table("front", &heads, &rows)
    );
    Some(section("latency", "Accuracy against latency", &body))
}

fn exponentials(analysis: &Analysis) -> Option<String> {
    let panels = figures::exponential_panels(analysis);
    if panels.is_empty() {
        return None;
    }
    let panels: String = panels.iter().map(|p| format!("<figure>{}</figure>\n", p.to_inline_svg())).collect();
    let note = note(
        "The line is r(s) = 1 + a·(e<sup>b·s</sup> − 1), fitted to the logarithm of the relative loss r against the \
         sparsity s, up to the first point at ten times the unpruned loss; dashed beyond. “Off by” is the typical factor \
         between points and line; above 11 % the exponential doesn’t fit.",
    );
    let body = format!("<div class=\"panels\">{panels}</div>\n{note}");
    Some(section("exponentials", "Exponential fit", &body))
}

fn comparison(analysis: &Analysis) -> Option<String> {
    if analysis.pairings.is_empty() {
        return None;
    }
    let note = note(
        "Bold: the best at that target. Underlined: no difference from the best, that is less than two standard errors \
         of the difference, paired sample by sample. Methods are compared at equal target; what they achieve may differ \
         where whole channels go.",
    );
    let body = format!(
        "{}{note}<h3>Pairwise comparison</h3>\n{}",
        tables::comparison(analysis),
        tables::pairings(analysis)
    );
    Some(section("comparison", "Which method is better?", &body))
}

/// The sizes of files under each method; none where none were measured.
pub(super) fn size_section(series: &[figures::SizeSeries]) -> Option<String> {
    let panels = figures::size_panels(series);
    if panels.is_empty() {
        return None;
    }
    let panels: String = panels.iter().map(|p| format!("<figure>{}</figure>\n", p.to_inline_svg())).collect();
    let note = note(
        "Zeros take as much room as any number until the file is compressed, or packed: a bit for each weight and the kept \
         values. The entropy bound is the least that packing single weights can reach: H(s) + (1 − s)·30 bits a weight, H \
         being the entropy of which weights are zero and 30 the bits that a kept 32-bit float still needs. gzip and zstd also \
         find order, in the kept values and in zeros that stand together, and can take less.",
    );
    let legend = figures::size_legend().to_inline_svg();
    let body = format!("<div class=\"legend\">{legend}</div>\n<div class=\"panels\">{panels}</div>\n{note}");
    Some(section("sizes", "File size", &body))
}

/// The layers at one target, which a slider moves.
fn layers(run: &Run, analysis: &Analysis) -> Option<String> {
    let targets = analysis.targets();
    let at = (0..targets.len()).min_by(|a, b| {
        let off = |i: &usize| (targets[*i] - 0.5).abs();
        off(a).total_cmp(&off(b))
    })?;
    let target = targets[at];
    let map = figures::layers_figure(run, analysis, target)?.to_inline_svg();
    let slider = format!(
        "<div class=\"controls\" id=\"target\"><label>Target sparsity <input type=\"range\" min=\"0\" max=\"{}\" value=\"{at}\">\
         <output>{}</output></label></div>\n",
        targets.len() - 1,
        format::percent(target)
    );
    let mut body = format!(
        "{slider}<h3>Sparsity of each layer, %</h3>\n<div class=\"scroll heat\">{map}</div>\n{}",
        note("The number next to each layer is its count of weights.")
    );
    let panels = figures::histogram_panels(run, analysis, 0, target);
    if !panels.is_empty() {
        let options: String = analysis
            .curves
            .iter()
            .enumerate()
            .map(|(i, c)| format!("<option value=\"{i}\">{}</option>", escape(&c.method)))
            .collect();
        let panels: String =
            panels.iter().map(|p| format!("<figure>{}</figure>\n", p.to_inline_svg())).collect();
        let shown = figures::shown_layers(run).len();
        let all = run.header.layers.iter().filter(|l| l.selected).count();
        let most = if shown < all { format!(" The {shown} largest of {all} layers.") } else { String::new() };
        body += &format!(
            "<h3>Weights before and after <select id=\"method\" aria-label=\"Method\">{options}</select></h3>\n\
             <div class=\"histograms\">{panels}</div>\n{}",
            note(&format!(
                "Grey: before. Coloured: the weights that are kept. Zeros are left out; the outermost bars hold everything \
                 beyond, and random methods show their first seed.{most}"
            ))
        );
    }
    Some(section("layers", "Where the zeros are", &body))
}

/// What a point says when it is pointed at, by curve and place: a line each.
fn tips(run: &Run, analysis: &Analysis) -> Value {
    let tip = |curve: &Curve, p: &CurvePoint| {
        let mut lines = vec![curve.name().to_string()];
        lines.push(format!(
            "{} sparsity (target {})",
            format::percent(p.sparsity),
            format::percent(p.target)
        ));
        if let Scale::Relative { .. } = analysis.scale {
            let value = format::with_error(p.value.mean, p.value.standard_error);
            lines.push(format!("{} ÷ unpruned {value}", deciding(run)));
        }
        lines.extend(run.header.measures.iter().zip(&p.measures).map(|(name, m)| {
            format!("{} {}", format::measure(name), format::measured(name, m.mean, m.standard_error))
        }));
        if p.indices.len() > 1 {
            let range = [p.value.low, p.value.high].map(format::number).join("–");
            lines.push(format!("{} seeds, {range}", p.indices.len()));
        }
        lines.push(format!("{} parameters, {} MACs", format::count(p.parameters), format::count(p.macs)));
        lines.extend(p.bytes.map(|b| format!("{} gzipped", format::bytes(b.gzip))));
        lines.extend(p.latency.map(|t| format!("{}× as fast", format::number(1.0 / t.share))));
        lines
    };
    let curves = analysis.curves.iter();
    curves.map(|c| c.points.iter().map(|p| tip(c, p)).collect::<Vec<_>>()).collect()
}

/// The share of zeros by layer, method and target, and as the heat map writes it.
fn layer_data(run: &Run, analysis: &Analysis) -> Value {
    let targets = analysis.targets();
    let layers = run.header.layers.iter().filter(|l| l.selected);
    let layer = |name: &str| -> Vec<Vec<Option<Value>>> {
        let of = |curve: usize, target: f64| {
            let sparsity = figures::layer_sparsity(run, analysis, curve, target, name)?;
            Some(json!([sparsity, format::percent_number(sparsity)]))
        };
        (0..analysis.curves.len()).map(|curve| targets.iter().map(|t| of(curve, *t)).collect()).collect()
    };
    layers.map(|l| layer(&l.name)).collect()
}

/// The bars after pruning by method, target and layer: a digit of base 64 for each, in shares of the layer's
/// highest bar before.
fn histogram_data(run: &Run, analysis: &Analysis) -> Value {
    let layers = figures::shown_layers(run);
    let targets = analysis.targets();
    let bars = |curve: &Curve, target: f64| -> Option<Vec<String>> {
        let index = *curve.point(target)?.indices.first()?;
        let pruned = &run.points[index].layers;
        let of = |layer: &secateur::records::LayerInfo| {
            let most = layer.histogram.counts.iter().copied().max().unwrap_or(0).max(1);
            let kept = pruned.iter().find(|l| l.name == layer.name).map_or(&[][..], |l| &l.kept);
            // From `0` on: 64 characters without any that JSON escapes but the backslash.
            kept.iter().map(|n| char::from(48 + (n * 63 / most).min(63) as u8)).collect::<String>()
        };
        Some(layers.iter().map(|l| of(l)).collect())
    };
    let curves = analysis.curves.iter();
    curves.map(|c| targets.iter().map(|t| bars(c, *t)).collect::<Vec<_>>()).collect()
}
