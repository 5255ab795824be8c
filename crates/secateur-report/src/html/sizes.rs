//! The page of file sizes.

use secateur::format;
use secateur::sizes::{Size, Sizes};

use super::super::draw::{escape, slots};
use super::page::{Page, command, section, whole};
use super::{sweep, tables};
use crate::sizes::series;

pub(super) fn page(found: &Sizes) -> String {
    let mut sections: Vec<String> = sweep::size_section(&series(found)).into_iter().collect();
    sections.push(section("files", "All sizes", &files(found)));
    sections.push(section("provenance", "Settings and provenance", &command(&found.command)));
    whole(&Page {
        subject: &found.model,
        heading: "File sizes",
        lead: &lead(found),
        facts: &facts(found),
        sections: &sections,
        data: None,
    })
}

/// The smallest file, as it can be written today.
fn lead(found: &Sizes) -> String {
    let least = |size: &Size| {
        let bytes = size.bytes;
        let packed = bytes.packed.map(|packed| (packed, "packed"));
        [(bytes.gzip, "with gzip"), (bytes.zstd, "with zstd")].into_iter().chain(packed).min()
    };
    let all = found.points.iter().filter_map(|size| Some((least(size)?, size)));
    let Some(((bytes, how), size)) = all.min_by_key(|((bytes, _), _)| *bytes) else {
        return "No file has been measured.".into();
    };
    format!(
        "The plain file takes <b>{}</b>. The smallest here is <b>{}</b>: <b>{}</b> at {} zeros, {how}.",
        format::bytes(found.unpruned.bytes.raw as f64),
        format::bytes(bytes as f64),
        escape(&size.method),
        format::percent(size.sparsity)
    )
}

fn facts(found: &Sizes) -> Vec<(String, String)> {
    let names = ["plain", "gzip", "zstd", "packed", "entropy bound"];
    let sizes = names.into_iter().zip(found.unpruned.bytes.all());
    let mut facts: Vec<(String, String)> =
        sizes.map(|(name, size)| (format!("unpruned, {name}"), format::known_bytes(size))).collect();
    facts.push(("selected weights".into(), format::grouped(found.unpruned.selected.total as i64)));
    facts
}

fn files(found: &Sizes) -> String {
    let heads = ["method", "target", "sparsity", "plain", "gzip", "zstd", "packed", "entropy bound"]
        .map(String::from);
    let row = |name: String, size: &Size| {
        let mut row = vec![name, format::percent(size.target), format::percent(size.sparsity)];
        row.extend(size.bytes.all().map(format::known_bytes));
        row
    };
    let mut rows = vec![row(escape(&found.unpruned.method), &found.unpruned)];
    let slots = slots(found.points.iter().map(|size| size.method.as_str()));
    rows.extend(
        found.points.iter().zip(slots).map(|(size, slot)| row(tables::named(&size.method, slot), size)),
    );
    tables::table("numbers", &heads, &rows)
}
