//! File sizes against sparsity: the table, and the series of a figure.

use secateur::records::{SIZES, csv_line, size_cells};
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
    let row = |size: &Size| {
        let sizes = size_cells(size.target, size.selected, Some(&size.bytes));
        csv_line(std::iter::once(size.method.clone()).chain(sizes))
    };
    let head = csv_line(std::iter::once("method").chain(SIZES).map(String::from));
    head + &std::iter::once(&found.unpruned).chain(&found.points).map(row).collect::<String>()
}
