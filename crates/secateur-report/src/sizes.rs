//! What pruning gains in bytes: page, table and figure.

use std::path::{Path, PathBuf};

use secateur::Result;
use secateur::records::{csv_line, csv_number};
use secateur::sizes::{Size, Sizes};

use crate::analysis::MeanBytes;
use crate::figures::{SizeSeries, sizes_figure};
use crate::html;
use crate::write::{check_files, pictures, write_files};

/// The names of the files that [`write`] writes.
const FILES: [&str; 4] = ["sizes.html", "sizes.csv", "sizes.svg", "sizes.png"];

/// Checks that [`write`] may write, so that the work before is not for nothing; makes the folder.
///
/// # Errors
/// As [`write`].
pub fn check(folder: &Path, overwrite: bool) -> Result<()> {
    check_files(folder, &FILES, overwrite)
}

/// Writes page, table and figure into a folder: `sizes.html`, `sizes.csv`, `sizes.svg`, `sizes.png`. Returns what was
/// written.
///
/// # Errors
/// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
pub fn write(found: &Sizes, folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        ("sizes.html".to_string(), html::sizes(found).into_bytes()),
        ("sizes.csv".to_string(), csv(found).into_bytes()),
    ];
    if let Some(figure) = sizes_figure(&found.model, &series(found)) {
        files.extend(pictures("sizes", &figure)?);
    }
    write_files(folder, files, overwrite)
}

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
fn csv(found: &Sizes) -> String {
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

#[cfg(test)]
mod tests {
    use secateur::progress::Silent;
    use secateur::prune::masks::Masks;
    use secateur::sweep::{Sparsities, SweepOptions};
    use secateur::{demo, io};

    use super::*;

    fn measured() -> Sizes {
        let folder = tempfile::tempdir().unwrap();
        demo::unpack(folder.path()).unwrap();
        let model = io::read(folder.path().join("digits.onnx")).unwrap();
        let options = SweepOptions {
            methods: vec!["l1@global".parse().unwrap(), "l1/channel".parse().unwrap()],
            sparsities: Sparsities::Listed(vec![0.4, 0.8]),
            ..SweepOptions::default()
        };
        secateur::sizes::sizes(&model, &options, &Masks::default(), String::new(), &Silent).unwrap()
    }

    #[test]
    fn the_same_model_gives_the_same_files_and_they_are_not_overwritten() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let written = folders.each_ref().map(|folder| {
            let files = write(&measured(), folder.path(), false).unwrap();
            files.iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(written[0].len(), FILES.len());
        assert!(written[0] == written[1]);
        let csv = String::from_utf8(written[0][1].clone()).unwrap();
        assert_eq!(csv.lines().count(), 1 + 1 + 4);
        assert!(csv.lines().all(|line| line.split(',').count() == 10), "{csv}");
        let message = write(&measured(), folders[0].path(), false).unwrap_err().to_string();
        assert!(message.contains("sizes.html"), "{message}");
        write(&measured(), folders[0].path(), true).unwrap();
    }
}
