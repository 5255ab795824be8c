//! The page of a sensitivity run.

use secateur::format;
use secateur::records::Run;
use serde_json::json;

use super::super::analysis::Analysis;
use super::super::draw::escape;
use super::super::figures;
use super::page::{note, section, whole_run};
use super::tables;

pub(super) fn page(run: &Run, analysis: &Analysis) -> String {
    let map = figures::sensitivity_chart(run, analysis).to_inline_svg();
    let what = analysis.reading(run);
    let body = format!(
        "<div class=\"scroll heat\">{map}</div>\n{}",
        note(&format!(
            "Each layer pruned alone, the most sensitive first: {what}. Beside each layer stands its number of weights, \
             above each column the sparsity. The colour grows with the logarithm of the harm."
        ))
    );
    let sections = vec![
        section("map", "Layer by layer", &body),
        section(
            "table",
            "How far each layer can go",
            &(table(run, analysis) + &tables::limits(run, analysis)),
        ),
    ];
    whole_run(run, "Sensitivity", &lead(run, analysis), sections, &json!({}).to_string())
}

fn lead(run: &Run, analysis: &Analysis) -> String {
    let order = analysis.by_sensitivity();
    let (Some(first), Some(last)) = (order.first(), order.last()) else {
        return "No point has been evaluated yet.".into();
    };
    let [first, last] = [first, last].map(|i| &analysis.curves[*i]);
    let (least, most) = (tables::free(first).0, tables::free(last).0);
    let alike = analysis.curves.iter().filter(|c| tables::free(c).0 == most).count();
    let who = match alike {
        1 => format!("<b>{}</b> is the least sensitive", escape(last.name())),
        _ => format!("<b>{alike}</b> of {} layers are the least sensitive", analysis.curves.len()),
    };
    format!(
        "Pruned alone, <b>{}</b> is the most sensitive: <b>{least}</b> of its weights can go before {}. {who}: <b>{most}</b>.",
        escape(first.name()),
        escape(&analysis.harm_of(run, first)),
    )
}

fn table(run: &Run, analysis: &Analysis) -> String {
    let heads = ["layer", "free up to", "within 2 standard errors", "operator", "shape", "weights", "MACs"]
        .map(String::from);
    let row = |i: usize| {
        let curve = &analysis.curves[i];
        let (free, doubt) = tables::free(curve);
        let mut row = vec![escape(curve.name()), free, doubt];
        match run.header.layer(curve.name()) {
            Some(layer) => {
                let shape: Vec<String> = layer.shape.iter().map(u64::to_string).collect();
                row.extend([
                    escape(&layer.op),
                    shape.join("×"),
                    format::grouped(layer.weights as i64),
                    format::count(layer.macs as f64),
                ]);
            }
            None => row.extend([const { String::new() }; 4]),
        }
        row
    };
    tables::table("numbers", &heads, &analysis.by_sensitivity().into_iter().map(row).collect::<Vec<_>>())
}
