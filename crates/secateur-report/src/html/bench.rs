//! The page of timings.

use secateur::bench::{Bench, OURS, Timing};
use secateur::format;
use secateur::format::milliseconds;
use secateur::text::counted;

use super::super::draw::escape;
use super::super::figures;
use super::page::{Page, command, note, rows, section, whole};
use super::tables;
use crate::bench::{predicted, reference_name, speed_panels};

/// Layers that a profile shows, the slowest.
const SHOWN_LAYERS: usize = 30;

pub(super) fn page(found: &Bench) -> String {
    let panels = speed_panels(found);
    let legend = figures::speed_legend(&panels).to_inline_svg();
    let drawn = figures::speed_panels(&panels);
    let drawn: String = drawn.iter().map(|p| format!("<figure>{}</figure>\n", p.to_inline_svg())).collect();
    let body = format!(
        "<div class=\"legend\">{legend}</div>\n<div class=\"speed\">{drawn}</div>\n{}",
        note(
            "Bands: what most runs lie in (a tenth is faster, a tenth slower). Dashed: as fast as the reference."
        )
    );
    let mut sections = vec![
        section("speed", &format!("Speed-up over {}", reference_name(found)), &body),
        section("times", "All times", &times(found)),
    ];
    sections.extend(profiles(found));
    if !found.notes.is_empty() {
        sections.push(section(
            "notes",
            "Notes",
            &found.notes.iter().map(|n| note(&escape(n))).collect::<String>(),
        ));
    }
    sections.push(section("provenance", "Settings and provenance", &provenance(found)));
    whole(&Page {
        subject: found.versions.first().map_or("", |v| v.model.as_str()),
        heading: "Speed",
        lead: &lead(found),
        facts: &facts(found),
        sections: &sections,
        data: None,
    })
}

/// The fastest version of ours, and where nothing is faster, that.
fn lead(found: &Bench) -> String {
    let ours = found.timings.iter().filter(|t| t.runtime == OURS);
    let Some(best) = ours.max_by(|a, b| a.speedup_median.total_cmp(&b.speedup_median)) else {
        return String::new();
    };
    let (batch, threads) = (best.batch, counted(best.threads, "thread"));
    let reference = escape(&reference_name(found));
    if best.speedup_median <= 1.0 {
        return format!("Nothing that was timed is faster than {reference}.");
    }
    format!(
        "<b>{}</b> runs <b>{}×</b> as fast as {reference} in the median (batch {batch}, {threads}): {} for a run.",
        escape(&found.versions[best.version].label()),
        format::number(best.speedup_median),
        milliseconds(best.latency.median)
    )
}

fn facts(found: &Bench) -> Vec<(String, String)> {
    let mut facts = vec![
        ("processor".to_string(), found.cpu.clone()),
        ("cores".into(), found.cores.to_string()),
        ("instruction set".into(), found.instruction_set.to_string()),
        ("precision".into(), found.precision.to_string()),
        ("rounds".into(), found.rounds.to_string()),
    ];
    facts.extend(found.runtimes.iter().map(|r| (r.name.clone(), r.version.clone())));
    facts
}

fn times(found: &Bench) -> String {
    let beneath = |text: String, small: String| format!("{text}<small>{small}</small>");
    let heads = [
        "model",
        "runtime",
        "median, p10–p90",
        "speed-up, by best runs",
        "best, predicted",
        "batch",
        "threads",
        "zeros",
        "MACs left",
        "samples/s",
        "sparse layers",
        "memory",
        "file",
    ]
    .map(String::from);
    let row = |t: &Timing| {
        let version = &found.versions[t.version];
        vec![
            escape(&version.label()),
            escape(&t.runtime),
            beneath(
                milliseconds(t.latency.median),
                format!("{}–{} ms", format::number(t.latency.p10 * 1e3), format::number(t.latency.p90 * 1e3)),
            ),
            beneath(
                format!("{}×", format::number(t.speedup_median)),
                format!("{}×", format::number(t.speedup_best)),
            ),
            beneath(milliseconds(t.latency.best), t.predicted.map_or_else(String::new, predicted)),
            t.batch.to_string(),
            t.threads.to_string(),
            format::percent(version.sparsity),
            version.macs.map_or_else(String::new, format::percent),
            format::number(t.throughput),
            t.sparse_layers.map_or_else(String::new, |n| n.to_string()),
            t.memory.map_or_else(String::new, |bytes| format::bytes(bytes as f64)),
            format::bytes(version.bytes as f64),
        ]
    };
    let rows: Vec<_> = found.timings.iter().map(row).collect();
    tables::table("numbers", &heads, &rows)
}

/// The slowest layers of each timing that has a profile.
fn profiles(found: &Bench) -> Option<String> {
    let profile = |t: &Timing| {
        let total: f64 = t.layers.iter().map(|l| l.seconds).sum();
        let mut layers: Vec<_> = t.layers.iter().collect();
        layers.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let rows: Vec<_> = layers
            .iter()
            .take(SHOWN_LAYERS)
            .map(|l| {
                vec![
                    escape(if l.name.is_empty() { "(layout)" } else { &l.name }),
                    escape(&l.kernel),
                    milliseconds(l.seconds),
                    format::percent(l.seconds / total),
                ]
            })
            .collect();
        let heads = ["layer", "kernel", "time", "share"].map(String::from);
        format!(
            "<details><summary>{}, batch {}, {}: the slowest {} of {} layers</summary>\n{}</details>\n",
            escape(&found.versions[t.version].label()),
            t.batch,
            counted(t.threads, "thread"),
            rows.len(),
            layers.len(),
            tables::table("numbers", &heads, &rows)
        )
    };
    let all: String = found.timings.iter().filter(|t| !t.layers.is_empty()).map(profile).collect();
    (!all.is_empty()).then(|| section("layers", "Where the time goes", &all))
}

fn provenance(found: &Bench) -> String {
    let seed = found.seed.to_string();
    let settings = [("Seed", seed.as_str()), ("Kernels chosen by", found.costs.source.name())];
    format!(
        "{}{}<details><summary>Costs of kernels</summary>\n<p class=\"note\">{}</p></details>\n",
        rows(settings),
        command(&found.command),
        escape(&found.costs.to_string())
    )
}
