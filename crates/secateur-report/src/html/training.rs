//! The page of a training.

use secateur::format;
use secateur::records::{Event, Logged, MeasuredOn};

use super::super::draw::escape;
use super::super::figures;
use super::super::training::Training;
use super::page::{Page, command, note, recipe, rows, section, whole};
use super::tables::table;

pub(super) fn page(training: &Training) -> String {
    let figures = figures::training_panels(training);
    let figures = figures.iter().map(|d| format!("<figure>{}</figure>\n", d.to_inline_svg()));
    let mut said = "On training data: means over the batches since the point before, with augmentation, and with what label \
                    smoothing and a teacher add to the loss."
        .to_string();
    if training.prunings().next().is_some() {
        said.push_str(" Dashed lines: the model is pruned.");
    }
    let curves =
        format!("<div class=\"speed\">{}</div>\n", figures.collect::<String>()) + &note(&escape(&said));
    let mut sections = vec![section("curves", "Measures against iterations", &curves)];
    if let Some(rows) = evaluations(training) {
        sections.push(section("evaluations", "Validation and pruning", &rows));
    }
    sections.push(section("provenance", "Settings and provenance", &provenance(training)));
    whole(&Page {
        subject: &training.model,
        heading: "Training",
        lead: "",
        facts: &facts(training),
        sections: &sections,
        data: None,
    })
}

/// What stands at the end.
fn facts(training: &Training) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let loss = training.loss().unwrap_or_default();
    for (data, on) in [("training", MeasuredOn::Training), ("validation", MeasuredOn::Validation)] {
        for name in [loss, "top1"] {
            if let Some((_, value)) = training.measured(on, name).last() {
                facts.push((format!("last {data} {}", format::measure(name)), shown(name, *value)));
            }
        }
    }
    if let Some(last) = training.lines.last() {
        facts.push(("iterations".into(), format::grouped(last.iteration as i64)));
        facts.push(("zeros under masks".into(), format::percent(last.sparsity)));
    }
    facts
}

fn shown(measure: &str, value: f64) -> String {
    match measure {
        "top1" | "top5" => format!("{:.2} %", 100.0 * value),
        _ => format!("{value:.4}"),
    }
}

/// What was measured on validation data, and where the model was pruned; nothing where there is neither.
fn evaluations(training: &Training) -> Option<String> {
    let validation = training.lines.iter().find_map(|line| match &line.what {
        Logged::Measured { on: MeasuredOn::Validation, measures } => Some(measures.as_slice()),
        _ => None,
    });
    let names: Vec<&str> = validation.unwrap_or_default().iter().map(|m| m.name.as_str()).collect();
    let mut heads = vec!["iteration".to_string(), String::new(), "zeros".into()];
    heads.extend(names.iter().map(|name| format::measure(name).to_string()));
    let mut body = Vec::new();
    for line in &training.lines {
        let (what, measures) = match &line.what {
            Logged::Measured { on: MeasuredOn::Validation, measures } => ("", measures.as_slice()),
            Logged::Measured { .. } => continue,
            Logged::Changed { event: Event::Pruned } => ("pruned", &[][..]),
            Logged::Changed { event: Event::Repaired } => ("repaired", &[][..]),
        };
        let value = |name: &&str| {
            let found = measures.iter().find(|measure| measure.name == *name);
            found.map_or_else(String::new, |found| shown(name, found.value))
        };
        let mut row =
            vec![format::grouped(line.iteration as i64), what.to_string(), format::percent(line.sparsity)];
        row.extend(names.iter().map(value));
        body.push(row);
    }
    (!body.is_empty()).then(|| table("wide", &heads, &body))
}

fn provenance(training: &Training) -> String {
    let settings = [
        ("Model", training.model.clone()),
        ("Data", training.data.clone()),
        ("Version", format!("secateur {}", training.version)),
    ];
    let flags = crate::command::flags("finetune", &training.recipe);
    let model = crate::command::quoted(&training.model);
    rows(settings.iter().map(|(name, value)| (*name, value.as_str())))
        + &command(&format!("secateur finetune {model}{flags} -o FILE --log FOLDER"))
        + &recipe(&training.recipe)
}
