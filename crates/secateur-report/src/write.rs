//! Everything a finished run is shown by, written beside its results.

use std::path::{Path, PathBuf};

use secateur::bench::Bench;
use secateur::inspect::Inspection;
use secateur::lottery::Lottery;
use secateur::records::{Run, RunKind};
use secateur::sizes::Sizes;
use secateur::{Error, Result};
use serde::Serialize;

use super::analysis::{self, Analysis, Fit, Scale, Verdict};
use super::draw::Drawing;
use super::figures::SizeSeries;
use super::lottery::{self, Tickets};
use super::training::{self, Training};
use super::{bench, figures, html, sizes};

/// Pixels across a PNG file, for each pixel of its drawing.
const PNG_SCALE: f64 = 2.0;

/// The names of the files that [`write_bench`] writes.
const BENCH_FILES: [&str; 4] = ["bench.json", "bench.html", "bench.svg", "bench.png"];

/// The names of the files that [`write_training`] writes.
const TRAINING_FILES: [&str; 4] = ["report.html", "curve.csv", "curves.svg", "curves.png"];

/// The names of the files that [`write_sizes`] writes.
const SIZE_FILES: [&str; 4] = ["sizes.html", "sizes.csv", "sizes.svg", "sizes.png"];

/// Writes the report: `report.html`, `summary.json`, and each figure as SVG and PNG. Existing ones are
/// replaced, each at once. Returns what was written, the page first.
///
/// # Errors
/// Io where a file can't be written.
pub fn write_report(run: &Run, analysis: &Analysis, folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        ("report.html".to_string(), html::report(run, analysis).into_bytes()),
        ("summary.json".to_string(), summary(&Summary::of(run, analysis))?),
    ];
    for (name, drawing) in figures_of(run, analysis) {
        files.extend(pictures(name, &drawing)?);
    }
    write_files(folder.as_ref(), files, true)
}

/// Writes the report of lottery tickets: `report.html`, `summary.json`, `levels.csv`, and each figure as SVG and PNG. Existing
/// ones are replaced, each at once. Returns what was written, the page first.
///
/// # Errors
/// Io where a file can't be written.
pub fn write_tickets(found: &Lottery, tickets: &Tickets, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        ("report.html".to_string(), html::lottery(found, tickets).into_bytes()),
        ("summary.json".to_string(), summary(tickets)?),
        ("levels.csv".to_string(), lottery::csv(found, tickets).into_bytes()),
    ];
    for (name, drawing) in [
        ("curves", figures::ticket_curves(tickets)),
        ("early-stop", figures::ticket_stops(tickets)),
        ("accuracy", figures::ticket_values(tickets)),
        ("accuracy-at-the-end", figures::ticket_ends(tickets)),
    ] {
        files.extend(pictures(name, &drawing)?);
    }
    write_files(folder, files, true)
}

/// Checks that [`write_training`] may write, so that the work before is not for nothing; makes the folder.
///
/// # Errors
/// As [`write_training`].
pub fn check_training(folder: &Path, overwrite: bool) -> Result<()> {
    check_files(folder, &TRAINING_FILES, overwrite)
}

/// Writes the report of a training: `report.html`, `curve.csv`, `curves.svg` and `curves.png`. Returns what was written.
///
/// # Errors
/// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
pub fn write_training(found: &Training, folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        ("report.html".to_string(), html::training(found).into_bytes()),
        ("curve.csv".to_string(), training::csv(found).into_bytes()),
    ];
    files.extend(pictures("curves", &figures::training_figure(found))?);
    write_files(folder, files, overwrite)
}

/// What was found, for programs.
fn summary(found: &impl Serialize) -> Result<Vec<u8>> {
    let text =
        serde_json::to_string_pretty(found).map_err(|e| Error::internal(format!("the summary: {e}")))?;
    Ok((text + "\n").into_bytes())
}

/// The files of a drawing with their contents: SVG and PNG.
///
/// # Errors
/// As [`Drawing::to_png`].
fn pictures(name: &str, drawing: &Drawing) -> Result<[(String, Vec<u8>); 2]> {
    let png = drawing.to_png((drawing.file_width() * PNG_SCALE) as u32)?;
    Ok([(format!("{name}.svg"), drawing.to_svg().into_bytes()), (format!("{name}.png"), png)])
}

/// Checks that [`write_files`] may write files of these names, so that the work before is not for nothing; makes
/// the folder.
///
/// # Errors
/// As [`write_files`].
fn check_files(folder: &Path, names: &[&str], overwrite: bool) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    names.iter().try_for_each(|name| secateur::io::check_target(&folder.join(name), overwrite))
}

/// Writes files, given by name and content, into a folder, all or, where one of them may not be written, none.
/// Returns where they are.
///
/// # Errors
/// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
fn write_files(folder: &Path, files: Vec<(String, Vec<u8>)>, overwrite: bool) -> Result<Vec<PathBuf>> {
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    check_files(folder, &names, overwrite)?;
    let mut written = Vec::new();
    for (name, content) in &files {
        let path = folder.join(name);
        secateur::io::write_file(&path, overwrite, |out| {
            out.write_all(content).map_err(|e| Error::io(&path, e))
        })?;
        written.push(path);
    }
    Ok(written)
}

/// Writes what is in a model as a page.
///
/// # Errors
/// `Usage` where the file exists and `overwrite` is not given, Io where it can't be written.
pub fn write_inspection(found: &Inspection, path: &Path, overwrite: bool) -> Result<()> {
    secateur::io::write_file(path, overwrite, |out| {
        out.write_all(html::inspection(found).as_bytes()).map_err(|e| Error::io(path, e))
    })
}

/// Checks that [`write_bench`] may write, so that the work before is not for nothing; makes the folder.
///
/// # Errors
/// As [`write_bench`].
pub fn check_bench(folder: &Path, overwrite: bool) -> Result<()> {
    check_files(folder, &BENCH_FILES, overwrite)
}

/// Writes `bench.json`, `bench.html`, `bench.svg` and `bench.png` into a folder. Returns what was written.
///
/// # Errors
/// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
pub fn write_bench(found: &Bench, folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
    let json = serde_json::to_string_pretty(found).map_err(|e| Error::internal(e.to_string()))?;
    let mut files = vec![(BENCH_FILES[0].to_string(), (json + "\n").into_bytes())];
    files.push((BENCH_FILES[1].to_string(), html::bench(found).into_bytes()));
    files.extend(pictures("bench", &bench_figure(found))?);
    write_files(folder, files, overwrite)
}

/// Speed-up against sparsity, a panel for each batch size and number of threads, a line for each runtime.
fn bench_figure(found: &Bench) -> Drawing {
    let title = format!("Speed-up over {}", bench::reference_name(found));
    figures::speed_figure(&title, &bench::environment(found), &bench::speed_panels(found))
}

/// Checks that [`write_sizes`] may write, so that the work before is not for nothing; makes the folder.
///
/// # Errors
/// As [`write_sizes`].
pub fn check_sizes(folder: &Path, overwrite: bool) -> Result<()> {
    check_files(folder, &SIZE_FILES, overwrite)
}

/// Writes page, table and figure into a folder: `sizes.html`, `sizes.csv`, `sizes.svg`, `sizes.png`. Returns what was
/// written.
///
/// # Errors
/// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
pub fn write_sizes(found: &Sizes, folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        ("sizes.html".to_string(), html::sizes(found).into_bytes()),
        ("sizes.csv".to_string(), sizes::csv(found).into_bytes()),
    ];
    if let Some(figure) = figures::sizes_figure(&found.model, &sizes::series(found)) {
        files.extend(pictures("sizes", &figure)?);
    }
    write_files(folder, files, overwrite)
}

/// The figures that files are made of, with their names.
fn figures_of(run: &Run, analysis: &Analysis) -> Vec<(&'static str, Drawing)> {
    if analysis.curves.is_empty() {
        return Vec::new();
    }
    if run.header.kind == RunKind::Sensitivity {
        return vec![("sensitivity", figures::sensitivity_figure(run, analysis))];
    }
    let half = |a: &f64, b: &f64| (a - 0.5).abs().total_cmp(&(b - 0.5).abs());
    let target = analysis.targets().into_iter().min_by(half);
    let at_half = |f: &dyn Fn(f64) -> Option<Drawing>| target.and_then(f);
    [
        ("loss", Some(figures::loss_figure(run, analysis))),
        ("accuracy", figures::accuracy_figure(run, analysis)),
        ("latency", figures::operating_figure(run, analysis)),
        ("exponentials", figures::exponentials_figure(run, analysis)),
        ("sizes", figures::sizes_figure(&run.header.model, &SizeSeries::of_run(analysis))),
        ("layers", at_half(&|t| figures::layers_figure(run, analysis, t))),
        ("histograms", at_half(&|t| figures::histograms_figure(run, analysis, 0, t))),
    ]
    .into_iter()
    .filter_map(|(name, drawing)| Some((name, drawing?)))
    .collect()
}

/// What the analysis found, for programs. A value that isn't a number is null.
#[derive(Serialize)]
struct Summary<'a> {
    model: &'a str,
    model_sha256: &'a str,
    data: &'a str,
    samples: u64,
    /// The measure that decides, and whether it is read as a multiple of the unpruned model's.
    measure: &'a str,
    relative: bool,
    /// What still counts as free, such as `loss:1%`.
    free: &'a analysis::Tolerance,
    /// The same of the measure that decides.
    threshold: f64,
    curves: Vec<CurveSummary<'a>>,
    pairings: Vec<PairingSummary<'a>>,
}

#[derive(Serialize)]
struct CurveSummary<'a> {
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<&'a str>,
    seeds: usize,
    free_sparsity: f64,
    free_sparsity_certain: f64,
    free_sparsity_possible: f64,
    /// Whether the harm crosses the tolerance at all.
    crossed: bool,
    /// The standard error at the crossing, where it is larger than the tolerance and so what limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_limited_by_standard_error: Option<f64>,
    exponential: Option<FitSummary>,
    points: Vec<PointSummary>,
}

#[derive(Serialize)]
struct FitSummary {
    a: f64,
    b: f64,
    origin: f64,
    until: f64,
    misfit: f64,
    holds: bool,
}

#[derive(Serialize)]
struct PointSummary {
    target: f64,
    sparsity: f64,
    value: f64,
    standard_error: f64,
    low: f64,
    high: f64,
}

#[derive(Serialize)]
struct PairingSummary<'a> {
    first: &'a str,
    second: &'a str,
    comparisons: Vec<ComparisonSummary>,
}

#[derive(Serialize)]
struct ComparisonSummary {
    target: f64,
    difference: f64,
    standard_error: f64,
    better: Option<&'static str>,
}

impl<'a> Summary<'a> {
    fn of(run: &'a Run, analysis: &'a Analysis) -> Summary<'a> {
        let fit = |f: &Fit| FitSummary {
            a: f.a,
            b: f.b,
            origin: f.origin,
            until: f.until,
            misfit: f.misfit,
            holds: f.holds(),
        };
        let curves = analysis.curves.iter().map(|c| CurveSummary {
            method: &c.method,
            layer: c.layer.as_deref(),
            seeds: c.seeds,
            free_sparsity: c.free.sparsity,
            free_sparsity_certain: c.free.certain,
            free_sparsity_possible: c.free.possible,
            crossed: c.free.crossed,
            free_limited_by_standard_error: c.free.limited_by,
            exponential: c.fit.as_ref().map(fit),
            points: c
                .points
                .iter()
                .map(|p| PointSummary {
                    target: p.target,
                    sparsity: p.sparsity,
                    value: p.value.mean,
                    standard_error: p.value.standard_error,
                    low: p.value.low,
                    high: p.value.high,
                })
                .collect(),
        });
        let pairings = analysis.pairings.iter().map(|p| PairingSummary {
            first: &analysis.curves[p.first].method,
            second: &analysis.curves[p.second].method,
            comparisons: p
                .comparisons
                .iter()
                .map(|c| ComparisonSummary {
                    target: c.target,
                    difference: c.difference,
                    standard_error: c.standard_error,
                    better: match c.verdict {
                        Verdict::First => Some("first"),
                        Verdict::Second => Some("second"),
                        Verdict::NoDifference => None,
                    },
                })
                .collect(),
        });
        Summary {
            model: &run.header.model,
            model_sha256: &run.header.model_sha256,
            data: &run.header.data,
            samples: run.header.samples,
            measure: run.header.measures.first().map_or("", String::as_str),
            relative: matches!(analysis.scale, Scale::Relative { .. }),
            free: &analysis.tolerance,
            threshold: analysis.threshold(),
            curves: curves.collect(),
            pairings: pairings.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use secateur::progress::Silent;
    use secateur::prune::masks::Masks;
    use secateur::sweep::{Sparsities, SweepOptions};
    use secateur::{demo, io};

    use super::*;

    fn timings() -> Bench {
        let mut bench = crate::testing::bench();
        bench.compare();
        bench
    }
    use crate::analysis::FREE_THRESHOLD;
    use crate::testing::{header, run_of};

    fn names(kind: RunKind, has_labels: bool) -> Vec<String> {
        let (folder, run) = run_of(&header(kind, has_labels));
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let written = write_report(&run, &analysis, folder.path()).unwrap();
        for path in &written {
            let content = std::fs::read(path).unwrap();
            match path.extension().and_then(|e| e.to_str()) {
                Some("svg") => {
                    let text = String::from_utf8(content).unwrap();
                    let document = roxmltree::Document::parse(&text).unwrap();
                    assert!(!text.contains("NaN") && !text.contains("var("), "{}", path.display());
                    assert!(document.descendants().count() > 20, "{}", path.display());
                }
                Some("png") => {
                    let pixmap = tiny_skia::Pixmap::decode_png(&content).unwrap();
                    let white = pixmap.pixels().iter().filter(|p| p.red() == 255 && p.blue() == 255).count();
                    let share = white as f64 / pixmap.pixels().len() as f64;
                    assert!((0.02..0.99).contains(&share), "{} {share}", path.display());
                }
                Some("json") => {
                    let summary: serde_json::Value = serde_json::from_slice(&content).unwrap();
                    assert_eq!(summary["curves"].as_array().unwrap().len(), analysis.curves.len());
                }
                _ => {}
            }
        }
        written.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_sweep_writes_page_summary_and_figures() {
        let figures = ["loss", "accuracy", "exponentials", "sizes", "layers", "histograms"];
        let files = figures.iter().flat_map(|f| [format!("{f}.svg"), format!("{f}.png")]);
        let expected: Vec<String> =
            ["report.html".to_string(), "summary.json".to_string()].into_iter().chain(files).collect();
        assert_eq!(names(RunKind::Sweep, true), expected);
        let without: Vec<String> = expected.into_iter().filter(|n| !n.starts_with("exp")).collect();
        assert_eq!(names(RunKind::Sweep, false), without);
    }

    #[test]
    fn a_sensitivity_run_writes_a_map() {
        assert_eq!(
            names(RunKind::Sensitivity, true),
            ["report.html", "summary.json", "sensitivity.svg", "sensitivity.png"]
        );
    }

    #[test]
    fn tickets_write_page_table_and_figures() {
        let found = lottery::tests::made_up();
        let tickets = Tickets::of(&found).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = write_tickets(&found, &tickets, folder.path()).unwrap();
        let first = written.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>();
        assert_eq!(written.len(), 3 + 2 * 4);
        for path in written.iter().filter(|path| path.extension().is_some_and(|e| e == "svg")) {
            let text = std::fs::read_to_string(path).unwrap();
            let document = roxmltree::Document::parse(&text).unwrap();
            assert!(!text.contains("NaN") && document.descendants().count() > 20, "{}", path.display());
        }
        let again = write_tickets(&found, &tickets, folder.path()).unwrap();
        assert_eq!(first, again.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn files_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_bench(&timings(), folder.path(), false).unwrap();
        let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, BENCH_FILES);
        let svg = std::fs::read_to_string(&files[2]).unwrap();
        roxmltree::Document::parse(&svg).unwrap();
        for said in ["batch 1, 2 threads", "ONNX Runtime", "OpenVINO", "avx2", "Example CPU"] {
            assert!(svg.contains(said), "{said}");
        }
        assert!(!svg.contains("NaN"));
        assert!(check_bench(folder.path(), false).unwrap_err().to_string().contains("bench.json"));
    }

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
            let files = write_sizes(&measured(), folder.path(), false).unwrap();
            files.iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(written[0].len(), SIZE_FILES.len());
        assert!(written[0] == written[1]);
        let csv = String::from_utf8(written[0][1].clone()).unwrap();
        assert_eq!(csv.lines().count(), 1 + 1 + 4);
        assert!(csv.lines().all(|line| line.split(',').count() == 10), "{csv}");
        let message = write_sizes(&measured(), folders[0].path(), false).unwrap_err().to_string();
        assert!(message.contains("sizes.html"), "{message}");
        write_sizes(&measured(), folders[0].path(), true).unwrap();
    }
}
