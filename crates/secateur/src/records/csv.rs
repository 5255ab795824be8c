//! Points as a table: ShrinkBench's columns, so that its plots and notebooks read it, then ours.

use super::{Point, RunHeader, UNPRUNED};
use crate::measure::{Bytes, Count};

/// The columns of ShrinkBench's `df_from_results`, in its order.
const SHRINKBENCH: [&str; 25] = [
    "dataset",
    "model",
    "strategy",
    "compression",
    "pre_acc1",
    "pre_acc5",
    "post_acc1",
    "post_acc5",
    "size",
    "size_nz",
    "real_compression",
    "memory",
    "memory_nz",
    "flops",
    "flops_nz",
    "speedup",
    "completed",
    "seed",
    "batch_size",
    "epochs",
    "optim",
    "lr",
    "resume",
    "path",
    "completed_epochs",
];

/// Columns after ShrinkBench's; [`SIZES`] and the measures follow.
const OURS: [&str; 2] = ["id", "layer"];

/// The columns of [`size_cells`].
pub const SIZES: [&str; 9] = [
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

/// Columns after the measures, where the models were timed: in seconds, and as a share of the unpruned model's time.
const LATENCY: [&str; 5] = ["latency", "latency_p10", "latency_p90", "latency_unpruned", "latency_share"];

/// The first line.
pub(super) fn head(header: &RunHeader) -> String {
    let measures = header.measures.iter().flat_map(|m| [m.clone(), format!("{m}_standard_error")]);
    let latency = header.latency.iter().flat_map(|_| LATENCY.map(String::from));
    line(SHRINKBENCH.iter().chain(&OURS).chain(&SIZES).map(|s| s.to_string()).chain(measures).chain(latency))
}

/// A point's line.
///
/// ShrinkBench's accuracies are shares, its sizes count parameters, its flops multiply-accumulate operations,
/// its `pre_` accuracies are those before fine-tuning, which a sweep doesn't do; the unpruned model is a
/// strategy without a name at compression 1. Its activation memory and training settings stay empty.
pub(super) fn row(header: &RunHeader, unpruned: Option<&Point>, point: &Point) -> String {
    let ratio = |a: u64, b: u64| if b == 0 { String::new() } else { number(a as f64 / b as f64) };
    let measure = |name: &str| point.measure(name).map(|m| number(m.value)).unwrap_or_default();
    let is_unpruned = point.key.method == UNPRUNED;
    let size = unpruned.map_or(point.parameters.total, |p| p.parameters.total);
    let [acc1, acc5] = [measure("top1"), measure("top5")];
    let shrinkbench = [
        header.data.clone(),
        header.model.clone(),
        if is_unpruned { String::new() } else { point.key.method.clone() },
        if point.key.target < 1.0 { number(1.0 / (1.0 - point.key.target)) } else { "inf".into() },
        acc1.clone(),
        acc5.clone(),
        acc1,
        acc5,
        size.to_string(),
        point.parameters.nonzero.to_string(),
        ratio(size, point.parameters.nonzero),
        String::new(),
        String::new(),
        point.macs.total.to_string(),
        point.macs.nonzero.to_string(),
        ratio(point.macs.total, point.macs.nonzero),
        "True".into(),
        point.key.seed.unwrap_or(header.seed).to_string(),
        String::new(),
        "0".into(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        "0".into(),
    ];
    let counted = point.counted(point.key.layer.as_ref().and_then(|name| header.layer(name)));
    let ours = [point.id.clone(), point.key.layer.clone().unwrap_or_default()];
    let sizes = size_cells(point.key.target, counted, point.bytes.as_ref());
    let measures = header.measures.iter().flat_map(|name| match point.measure(name) {
        Some(m) => [number(m.value), number(m.standard_error)],
        None => [String::new(), String::new()],
    });
    let latency = header.latency.iter().flat_map(|_| match point.latency {
        Some(t) => [t.median, t.p10, t.p90, t.unpruned, t.share].map(number),
        None => [const { String::new() }; LATENCY.len()],
    });
    line(shrinkbench.into_iter().chain(ours).chain(sizes).chain(measures).chain(latency))
}

/// The cells of [`SIZES`]: the sparsity asked for and achieved, the selected weights and those that are not zero, and
/// the bytes of the file, where they are known.
pub fn size_cells(target: f64, selected: Count, bytes: Option<&Bytes>) -> [String; 9] {
    let bytes = |cell: fn(&Bytes) -> String| bytes.map(cell).unwrap_or_default();
    [
        number(target),
        number(selected.sparsity()),
        selected.total.to_string(),
        selected.nonzero.to_string(),
        bytes(|b| b.raw.to_string()),
        bytes(|b| b.gzip.to_string()),
        bytes(|b| b.zstd.to_string()),
        bytes(|b| b.packed.map(|packed| packed.to_string()).unwrap_or_default()),
        bytes(|b| number(b.entropy)),
    ]
}

/// The shortest decimal that reads back as the same number; pandas reads `nan` and `inf`.
fn number(value: f64) -> String {
    if value.is_nan() { "nan".into() } else { value.to_string() }
}

/// Cells as a line of CSV, quoted where they have to be.
pub fn line(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{header, plan, point};
    use super::super::{PointKey, RunKind};
    use super::*;
    use crate::measure::Count;

    #[test]
    fn columns_and_rows_belong_together() {
        let mut header = header(RunKind::Sweep, true);
        header.model = "a \"quoted\", name.onnx".into();
        let mut unpruned = point(&header, &PointKey::unpruned()).0;
        let mut pruned = point(&header, &plan(&header)[30]).0;
        // Made-up losses go through functions whose last digit differs between platforms.
        for point in [&mut unpruned, &mut pruned] {
            point.measures.iter_mut().for_each(|m| (m.value, m.standard_error) = (0.375, 0.0625));
            point.bytes.iter_mut().for_each(|b| b.entropy = 100_000.5);
        }
        let text =
            [head(&header), row(&header, Some(&unpruned), &unpruned), row(&header, Some(&unpruned), &pruned)]
                .concat();
        insta::assert_snapshot!(text);
    }

    /// Older runs counted all selected weights in each point of a sensitivity run.
    #[test]
    fn a_row_counts_the_weights_of_its_layer() {
        let header = header(RunKind::Sensitivity, true);
        let unpruned = point(&header, &PointKey::unpruned()).0;
        let all: u64 = header.layers.iter().filter(|l| l.selected).map(|l| l.weights).sum();
        for key in plan(&header) {
            let point = point(&header, &key).0;
            let mut old = point.clone();
            let gone = point.selected.total - point.selected.nonzero;
            old.selected = Count { nonzero: all - gone, total: all };
            assert_eq!(row(&header, Some(&unpruned), &old), row(&header, Some(&unpruned), &point));
        }
    }
}
