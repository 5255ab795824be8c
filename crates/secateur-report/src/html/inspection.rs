//! The page of a model: what is in it, without a run.

use secateur::format;
use secateur::inspect::{Inspection, TensorInfo};

use super::super::draw::escape;
use super::super::figures;
use super::page::{Page, command, note, recipe, rows, section, whole};
use super::tables;
use crate::command::quoted;

pub(super) fn page(found: &Inspection) -> String {
    let sections: Vec<String> =
        [zeros(found), histograms(found), sizes(found), tensors(found), graph(found), metadata(found)]
            .into_iter()
            .flatten()
            .chain([provenance(found)])
            .collect();
    whole(&Page {
        subject: &found.model,
        heading: "Inspection",
        lead: &lead(found),
        facts: &facts(found),
        sections: &sections,
        data: None,
    })
}

fn lead(found: &Inspection) -> String {
    let format = escape(&found.format);
    let prunable = found.prunable;
    if prunable.total == 0 {
        return format!("{format}. Nothing can be pruned here.");
    }
    let share = format::percent(prunable.total as f64 / found.parameters.total.max(1) as f64);
    let layers = found.layers().count();
    let zeros = if found.unscanned {
        "their zeros were not counted".to_string()
    } else {
        format!("<b>{}</b> of these weights are zero", format::percent(prunable.sparsity()))
    };
    format!(
        "{format}. {share} of the parameters are in {layers} layer{} that can be pruned; {zeros}.",
        if layers == 1 { "" } else { "s" }
    )
}

fn facts(found: &Inspection) -> Vec<(String, String)> {
    let mut facts = vec![
        ("parameters", format::grouped(found.parameters.total as i64)),
        ("prunable", format::grouped(found.prunable.total as i64)),
    ];
    if !found.unscanned {
        facts.push(("sparsity", format::percent(found.prunable.sparsity())));
    }
    if let Some(macs) = found.macs {
        facts.push(("MACs for one sample", format::count(macs as f64)));
        let effective = found.effective_macs.filter(|&e| e < macs);
        facts.extend(effective.map(|e| ("with a weight that is not zero", format::count(e as f64))));
    }
    match found.bytes {
        Some(bytes) => facts.extend([
            ("file", format::bytes(bytes.raw as f64)),
            ("gzip", format::bytes(bytes.gzip as f64)),
            ("zstd", format::bytes(bytes.zstd as f64)),
            ("packed", format::known_bytes(bytes.packed.map(|packed| packed as f64))),
            ("entropy bound", format::bytes(bytes.entropy)),
        ]),
        None => facts.push(("tensors", format::bytes(found.tensor_bytes as f64))),
    }
    facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// The sparsity of each layer; `None` where nothing can be pruned or zeros were not counted.
fn zeros(found: &Inspection) -> Option<String> {
    if found.unscanned || found.prunable.total == 0 {
        return None;
    }
    if found.prunable.nonzero == found.prunable.total {
        return Some(section("zeros", "Where the zeros are", &note("No weight that can be pruned is zero.")));
    }
    let row = |t: &TensorInfo| {
        let share = t.count.sparsity();
        let patterns = t.pattern.as_ref().map(|p| p.brief(share).join(" · ")).unwrap_or_default();
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><div><i style=\"width:{:.1}%\"></i></div></td><td>{}</td>\
             <td>{}</td></tr>\n",
            escape(&t.name),
            format::grouped(t.count.total as i64),
            100.0 * share,
            format::percent(share),
            escape(&patterns)
        )
    };
    let rows: String = found.layers().map(row).collect();
    let note = note(
        "Beside each layer stands its number of weights, behind its bar the share of them that is zero, then the \
         patterns that the zeros form: “out 3/16” are 3 of 16 output channels that are all zero, “in” are input channels, \
         “2:4” says that at most 2 of each 4 consecutive input channels are kept, “4x4 30 %” that so many blocks of 4 \
         output and 4 input channels are all zero.",
    );
    let body = format!("<table class=\"bars\"><tbody>\n{rows}</tbody></table>\n{note}");
    Some(section("zeros", "Where the zeros are", &body))
}

/// All tensors.
fn tensors(found: &Inspection) -> Option<String> {
    if found.tensors.is_empty() {
        return None;
    }
    let has_macs = found.has_graph();
    let mut heads = vec!["tensor", "operator", "type", "shape", "elements", "zeros"];
    heads.extend(has_macs.then_some("MACs"));
    heads.push("why it cannot be pruned");
    let row = |t: &TensorInfo| {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let counted = !found.unscanned && t.count.nonzero < t.count.total;
        let mut row = vec![
            escape(&t.path),
            escape(t.op.as_deref().unwrap_or_default()),
            escape(&t.dtype),
            shape.join("×"),
            format::grouped(t.count.total as i64),
            if counted { format::percent(t.count.sparsity()) } else { String::new() },
        ];
        row.extend(has_macs.then(|| t.macs.map_or_else(String::new, |m| format::count(m as f64))));
        row.push(escape(t.reason.as_deref().unwrap_or_default()));
        row
    };
    let heads: Vec<String> = heads.into_iter().map(String::from).collect();
    let table = tables::table("tensors", &heads, &found.tensors.iter().map(row).collect::<Vec<_>>());
    Some(section("tensors", "All tensors", &table))
}

/// The sizes of the layers, where they were measured.
fn sizes(found: &Inspection) -> Option<String> {
    let row = |t: &TensorInfo| {
        let bytes = t.bytes?;
        let sizes = bytes.all().map(format::known_bytes);
        Some(std::iter::once(escape(&t.path)).chain(sizes).collect::<Vec<_>>())
    };
    let rows: Vec<Vec<String>> = found.layers().filter_map(row).collect();
    let heads = ["layer", "plain", "gzip", "zstd", "packed", "entropy bound"].map(String::from);
    (!rows.is_empty())
        .then(|| section("sizes", "Sizes of the layers", &tables::table("numbers", &heads, &rows)))
}

/// The distributions of the weights.
fn histograms(found: &Inspection) -> Option<String> {
    let layers: Vec<_> = found.layers().filter_map(|t| Some((t, t.histogram.as_ref()?))).collect();
    let all = layers.len();
    let shown = figures::largest(layers, |(t, _)| t.count.total);
    if shown.is_empty() {
        return None;
    }
    let most = if shown.len() < all {
        format!(" The {} largest of {all} layers.", shown.len())
    } else {
        String::new()
    };
    let panels: String = shown
        .into_iter()
        .map(|(t, histogram)| {
            let panel = figures::weights_panel(&t.name, histogram).to_inline_svg();
            format!("<figure>{panel}</figure>\n")
        })
        .collect();
    let note = note(&format!("Zeros are left out; the outermost bars hold everything beyond.{most}"));
    Some(section(
        "weights",
        "Distribution of the weights",
        &format!("<div class=\"histograms\">{panels}</div>\n{note}"),
    ))
}

/// Inputs, outputs and operators.
fn graph(found: &Inspection) -> Option<String> {
    if !found.has_graph() {
        return None;
    }
    let mut facts: Vec<(&str, String)> = Vec::new();
    for (what, values) in [("Input", &found.inputs), ("Output", &found.outputs)] {
        facts.extend(values.iter().map(|v| (what, format!("{}: {} {}", v.name, v.dtype, v.declared))));
    }
    let operators: Vec<String> = found.operators.iter().map(|(name, n)| format!("{name} {n}")).collect();
    facts.push(("Nodes", operators.join(", ")));
    if !found.unknown_operators.is_empty() {
        facts.push(("Not known here", found.unknown_operators.join(", ")));
    }
    facts.extend(found.problems.iter().take(5).map(|p| ("Shapes are open behind", p.clone())));
    Some(section("graph", "Graph", &rows(facts.iter().map(|(name, value)| (*name, value.as_str())))))
}

fn provenance(found: &Inspection) -> String {
    let again = format!("secateur inspect {} --html page.html", quoted(&found.model));
    section("provenance", "Settings and provenance", &command(&again))
}

/// What the file says about itself; recipes as their files would say it.
fn metadata(found: &Inspection) -> Option<String> {
    let producer = (!found.producer.is_empty()).then_some(("written by", found.producer.as_str()));
    let entries = producer.into_iter().chain(found.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let (recipes, others): (Vec<_>, Vec<_>) = entries.partition(|(key, _)| *key == "secateur.recipe");
    if recipes.is_empty() && others.is_empty() {
        return None;
    }
    let mut body = if others.is_empty() { String::new() } else { rows(others) };
    for (_, text) in recipes {
        let written: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        body += &recipe(&written);
    }
    Some(section("metadata", "Metadata", &body))
}
