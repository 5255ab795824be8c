//! File sizes against sparsity: the table, and the series of a figure.

use secateur::records::{csv_line, csv_number};
use secateur::sizes::{Size, Sizes};

use crate::analysis::MeanBytes;
use crate::figures::SizeSeries;

/// A series for each method, the unpruned model first in each.
pub(crate) fn series(found: &Sizes) -> Vec<SizeSeries> {
    let point = |size: &Size| (size.sparsity, MeanBytes::from(size.bytes));
    let mut series: Vec<SizeSeries> = Vec::new();
    for size in &found.points {
        match series.last_mut().filter(|s| s.method == size.method) {
            Some(last) => last.points.push(point(size)),
            None => series.push(SizeSeries {
                method: size.method.clone(),
                points: vec![point(&found.unpruned), point(size)],
            }),
        }
    }
    series
}

/// Sizes as a table, the unpruned model first.
pub(crate) fn csv(found: &Sizes) -> String {
    const COLUMNS: [&str; 10] = [
        "method",
        "target_sparsity",
        "sparsity",
        "selected",
        "selected_nz",
        "bytes",
        "bytes_gzip",
        "bytes_zstd",
        "bytes_packed",
        "bytes_entropy",
    ];
    let row = |size: &Size| {
        let Size { method, target, sparsity, selected, bytes } = size;
        let cells = [
            method.clone(),
            csv_number(*target),
            csv_number(*sparsity),
            selected.total.to_string(),
            selected.nonzero.to_string(),
            bytes.raw.to_string(),
            bytes.gzip.to_string(),
            bytes.zstd.to_string(),
            bytes.packed.map(|packed| packed.to_string()).unwrap_or_default(),
            csv_number(bytes.entropy),
        ];
        csv_line(cells.into_iter())
    };
    let rows = std::iter::once(&found.unpruned).chain(&found.points).map(row);
    csv_line(COLUMNS.iter().map(|c| c.to_string())) + &rows.collect::<String>()
}
