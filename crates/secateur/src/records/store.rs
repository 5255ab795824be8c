//! A run's folder: appending to it so that nothing is lost, and reading it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use secateur_model::io::{check_target, read_regular};
use secateur_model::{DType, Error, Result, ResultExt, Tensor};
use serde::{Deserialize, Serialize};

use super::csv;
use super::record::{Point, RunHeader, Timing};
use crate::data::{read_npy, write_npy};

/// The file with header and points.
pub const RESULTS_FILE: &str = "results.jsonl";
/// The same as a table.
pub const CSV_FILE: &str = "results.csv";
/// The file with the times of points, which differ from run to run.
pub const TIMINGS_FILE: &str = "timings.jsonl";
/// The folder with the per-sample values.
pub const SAMPLES_FOLDER: &str = "samples";

/// One line of `results.jsonl`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line {
    Header(Box<RunHeader>),
    Unpruned(Point),
    Point(Point),
}

/// A run as read from its folder.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Its header.
    pub header: RunHeader,
    /// The unpruned model.
    pub unpruned: Point,
    /// The points in the order they were written.
    pub points: Vec<Point>,
}

impl Run {
    /// Reads a finished or interrupted run. A torn last line is left out.
    ///
    /// # Errors
    /// Io where a file can't be read; Input where a line isn't a record (named with its number) or the run
    /// was cut off before the unpruned model was evaluated.
    pub fn load(folder: impl AsRef<Path>) -> Result<Run> {
        let folder = folder.as_ref();
        let path = folder.join(RESULTS_FILE);
        let text = read_regular(&path)?;
        let contents = Contents::parse(&text).map_err(|e| e.at_file(&path))?;
        let (Some(header), Some(unpruned)) = (contents.header, contents.unpruned) else {
            return Err(Error::input(
                "the run was cut off before the unpruned model was evaluated; run the command again to resume it",
            )
            .at_file(&path));
        };
        Ok(Run { folder: folder.to_path_buf(), header, unpruned, points: contents.points })
    }

    /// The per-sample values of a point for one of [`RunHeader::sample_measures`]; none where they weren't
    /// kept.
    ///
    /// # Errors
    /// Io where the file can't be read, Input where it doesn't hold one row of f32 for each measure.
    pub fn samples(&self, point: &Point, measure: &str) -> Result<Option<Vec<f32>>> {
        let names = &self.header.sample_measures;
        let Some(row) = names.iter().position(|n| n == measure) else { return Ok(None) };
        let path = samples_path(&self.folder, &point.id);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_regular(&path)?;
        let array = read_npy(bytes.into()).at_file(&path)?;
        let expected = [names.len(), self.header.samples as usize];
        if array.shape() != expected || array.dtype() != DType::F32 {
            return Err(Error::input(format!(
                "expected f32 {expected:?}, found {} {:?}; delete the run's folder and run the command again",
                array.dtype(),
                array.shape()
            ))
            .at_file(&path));
        }
        Ok(Some(array.row(row)?.to_f32s()?))
    }

    /// How long the points took. A point that was interrupted and evaluated again counts once; where timings
    /// are missing they're left out.
    ///
    /// # Errors
    /// Io where the file is there but can't be read.
    pub fn timings(&self) -> Result<Vec<Timing>> {
        let path = self.folder.join(TIMINGS_FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read_regular(&path)?;
        let text = String::from_utf8_lossy(&text);
        let mut timings: Vec<Timing> = Vec::new();
        for timing in text.lines().filter_map(|line| serde_json::from_str::<Timing>(line).ok()) {
            match timings.iter_mut().find(|t| t.id == timing.id) {
                Some(earlier) => *earlier = timing,
                None => timings.push(timing),
            }
        }
        Ok(timings)
    }
}

/// What the whole lines of a results file say.
#[derive(Default)]
struct Contents {
    header: Option<RunHeader>,
    header_line: Option<String>,
    unpruned: Option<Point>,
    points: Vec<Point>,
    /// Bytes up to the end of the last whole line; what follows is torn.
    whole: usize,
}

impl Contents {
    fn parse(text: &[u8]) -> Result<Contents> {
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        let mut contents = Contents { whole, ..Contents::default() };
        let lines = text[..contents.whole].split_inclusive(|b| *b == b'\n').enumerate();
        for (i, line) in lines {
            let place = format!("line {}", i + 1);
            let parsed: Line = serde_json::from_slice(line)
                .map_err(|e| Error::input(format!("not a record of a run: {e}")).at(&place))?;
            match (parsed, i) {
                (Line::Header(header), 0) => {
                    contents.header = Some(*header);
                    contents.header_line = Some(String::from_utf8_lossy(line).into_owned());
                }
                (Line::Unpruned(point), 1) => contents.unpruned = Some(point),
                (Line::Point(point), 2..) => contents.points.push(point),
                _ => {
                    return Err(Error::input(
                        "the header, the unpruned model and the points must follow each other",
                    )
                    .at(place));
                }
            }
        }
        Ok(contents)
    }
}

/// Appends to a run's folder.
///
/// ```no_run
/// # use secateur::records::{Point, PointKey, RunHeader, RunWriter};
/// # fn evaluate(key: &PointKey) -> (Point, Vec<f32>, f64) { unimplemented!() }
/// # fn main() -> secateur_model::Result<()> {
/// # let (header, plan): (RunHeader, Vec<PointKey>) = unimplemented!();
/// let mut writer = RunWriter::open("runs/resnet20", &header)?;
/// if writer.unpruned().is_none() {
///     let (point, losses, seconds) = evaluate(&PointKey::unpruned());
///     writer.append(point, &[&losses], seconds)?;
/// }
/// for key in plan {
///     if !writer.has(&key) {
///         let (point, losses, seconds) = evaluate(&key);
///         writer.append(point, &[&losses], seconds)?;
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RunWriter {
    run: PartialRun,
    /// Locked while the writer lives, so that two commands never write into one run.
    results: File,
    timings: File,
    csv: File,
}

#[derive(Debug)]
struct PartialRun {
    folder: PathBuf,
    header: RunHeader,
    unpruned: Option<Point>,
    points: Vec<Point>,
}

impl RunWriter {
    /// Opens a run's folder, making it where it isn't there; where it holds an interrupted run with an equal
    /// header (whose environment and kept samples stay as they are), resumes after the last whole line.
    ///
    /// # Errors
    /// Usage where the folder holds a run with another header (the differing fields are named) or another
    /// process is writing there; Input where its results aren't records; Io where it can't be written.
    pub fn open(folder: impl AsRef<Path>, header: &RunHeader) -> Result<RunWriter> {
        let folder = folder.as_ref();
        let samples = folder.join(SAMPLES_FOLDER);
        fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, e))?;
        let (path, timings_path) = (folder.join(RESULTS_FILE), folder.join(TIMINGS_FILE));
        // What is written on is a regular file: reading a pipe would wait.
        check_target(&path, true)?;
        check_target(&timings_path, true)?;
        let io = |e| Error::io(&path, e);
        let mut results =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match results.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::usage(
                    "another process is writing into this run; wait for it or write elsewhere",
                )
                .at_file(&path));
            }
            // Some file systems have no locks; the run is still right where nobody else writes.
            Err(fs::TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(fs::TryLockError::Error(e)) => return Err(io(e)),
        }
        let mut text = Vec::new();
        results.read_to_end(&mut text).map_err(io)?;
        let contents = Contents::parse(&text).map_err(|e| e.at_file(&path))?;
        results.set_len(contents.whole as u64).map_err(io)?;
        results.seek(SeekFrom::End(0)).map_err(io)?;

        let timings = open_timings(&timings_path).map_err(|e| Error::io(&timings_path, e))?;
        let line = line_of(&Line::Header(Box::new(header.clone())))?;
        let header = match (contents.header, contents.header_line) {
            (Some(found), Some(found_line)) => {
                let differing = differing_fields(&found_line, &line);
                if !differing.is_empty() {
                    let verb = if differing.len() == 1 { "differs" } else { "differ" };
                    return Err(Error::usage(format!(
                        "the folder holds another run, whose {} {verb}; name another folder or delete this one",
                        differing.join(", ")
                    ))
                    .at_file(&path));
                }
                found
            }
            _ => {
                append(&mut results, &line).map_err(io)?;
                header.clone()
            }
        };
        let run = PartialRun {
            folder: folder.to_path_buf(),
            header,
            unpruned: contents.unpruned,
            points: contents.points,
        };
        // The table follows from the results; writing it anew mends whatever an interruption left of it.
        let csv_path = folder.join(CSV_FILE);
        let rows = std::iter::once(csv::head(&run.header));
        let points = run.unpruned.iter().chain(&run.points);
        let rows: String =
            rows.chain(points.map(|p| csv::row(&run.header, run.unpruned.as_ref(), p))).collect();
        let csv = File::create(&csv_path)
            .and_then(|mut file| file.write_all(rows.as_bytes()).map(|()| file))
            .map_err(|e| Error::io(&csv_path, e))?;
        Ok(RunWriter { run, results, timings, csv })
    }

    /// The run's header: that of the folder, where it holds an interrupted run.
    pub fn header(&self) -> &RunHeader {
        &self.run.header
    }

    /// The unpruned model's point, once it is written.
    pub fn unpruned(&self) -> Option<&Point> {
        self.run.unpruned.as_ref()
    }

    /// The points written so far, those of earlier sessions first.
    pub fn points(&self) -> &[Point] {
        &self.run.points
    }

    /// Whether the point is written already.
    pub fn has(&self, key: &super::PointKey) -> bool {
        let id = key.id();
        self.run.points.iter().chain(&self.run.unpruned).any(|p| p.id == id)
    }

    /// Appends a point; it is on the disk when this returns. The first must be the unpruned model.
    ///
    /// `samples` holds a row for each of [`RunHeader::sample_measures`]; it may be empty, then none are kept.
    ///
    /// # Errors
    /// Internal where the rows don't fit the header or the unpruned model doesn't come first; Io where
    /// writing fails, after which what was written before is still whole.
    pub fn append(&mut self, point: Point, samples: &[&[f32]], seconds: f64) -> Result<()> {
        let is_unpruned = point.key.method == super::UNPRUNED;
        if is_unpruned != self.run.unpruned.is_none() {
            return Err(Error::internal("a run begins with the unpruned model and holds it once"));
        }
        if !samples.is_empty() {
            self.write_samples(&point.id, samples)?;
        }
        let timing = line_of(&Timing { id: point.id.clone(), seconds })?;
        let path = self.run.folder.join(TIMINGS_FILE);
        self.timings.write_all(timing.as_bytes()).map_err(|e| Error::io(&path, e))?;
        // The point's line comes last: where it stands, everything that belongs to it stands too.
        let line = if is_unpruned { Line::Unpruned(point) } else { Line::Point(point) };
        let text = line_of(&line)?;
        let path = self.run.folder.join(RESULTS_FILE);
        let before = self.results.stream_position().map_err(|e| Error::io(&path, e))?;
        if let Err(e) = append(&mut self.results, &text) {
            // Half a line would join the next one; where cutting fails too, resuming cuts it.
            let _ = self.results.set_len(before);
            let _ = self.results.seek(SeekFrom::Start(before));
            return Err(Error::io(&path, e));
        }
        match line {
            Line::Unpruned(point) => self.run.unpruned = Some(point),
            Line::Point(point) => self.run.points.push(point),
            Line::Header(_) => {}
        }
        let written = self.run.points.last().or(self.run.unpruned.as_ref());
        let row =
            written.map(|p| csv::row(&self.run.header, self.run.unpruned.as_ref(), p)).unwrap_or_default();
        let path = self.run.folder.join(CSV_FILE);
        self.csv.write_all(row.as_bytes()).map_err(|e| Error::io(&path, e))
    }

    fn write_samples(&self, id: &str, samples: &[&[f32]]) -> Result<()> {
        let header = &self.run.header;
        if samples.len() != header.sample_measures.len()
            || samples.iter().any(|row| row.len() as u64 != header.samples)
        {
            return Err(Error::internal(format!(
                "expected {} rows of {} per-sample values, found rows of {:?}",
                header.sample_measures.len(),
                header.samples,
                samples.iter().map(|row| row.len()).collect::<Vec<_>>()
            )));
        }
        let path = samples_path(&self.run.folder, id);
        let tensor = Tensor::new([samples.len(), header.samples as usize], samples.concat())?;
        secateur_model::io::write_file(&path, true, |out| write_npy(&tensor, out).at_file(&path))
    }
}

fn samples_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(SAMPLES_FOLDER).join(format!("{id}.npy"))
}

fn line_of(record: &impl Serialize) -> Result<String> {
    let mut line = serde_json::to_string(record).map_err(|e| Error::internal(format!("a record: {e}")))?;
    line.push('\n');
    Ok(line)
}

fn append(file: &mut File, line: &str) -> std::io::Result<()> {
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

/// Opens the timings for appending, without the torn end an interruption may have left.
fn open_timings(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    file.set_len(text.iter().rposition(|b| *b == b'\n').map_or(0, |p| p as u64 + 1))?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Names of the header's fields in which two header lines differ, those aside that no result depends on: where the
/// run was started, and of which measures the samples are kept.
fn differing_fields(found: &str, given: &str) -> Vec<String> {
    // Both are read from text: so a float equals itself whichever of its spellings was written.
    let fields = |line: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line);
    let (Ok(mut found), Ok(mut given)) = (fields(found), fields(given)) else { return vec!["header".into()] };
    // What counts as free is how results are read, not what they are.
    for header in [&mut found, &mut given] {
        if let Some(recipe) = header.get_mut("recipe").and_then(serde_json::Value::as_object_mut) {
            if let Some(sweep) = recipe.get_mut("sweep").and_then(serde_json::Value::as_object_mut) {
                sweep.retain(|key, _| !["free", "threshold"].contains(&key.as_str()));
            }
            recipe.retain(|_, flags| flags.as_object().is_none_or(|flags| !flags.is_empty()));
        }
    }
    let names: std::collections::BTreeSet<_> = found.keys().chain(given.keys()).collect();
    names
        .into_iter()
        .filter(|name| {
            !["environment", "sample_measures"].contains(&name.as_str())
                && found.get(*name) != given.get(*name)
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{header, sweep};
    use super::super::{PointKey, RunKind};
    use super::*;

    #[test]
    fn a_run_cut_at_any_byte_ends_the_same() {
        let header = header(RunKind::Sweep, true);
        let whole = tempfile::tempdir().unwrap();
        sweep(whole.path(), &header, 4).unwrap();
        let expected = fs::read(whole.path().join(RESULTS_FILE)).unwrap();
        let cut = tempfile::tempdir().unwrap();
        let path = cut.path().join(RESULTS_FILE);
        let lines: Vec<_> = (0..expected.len()).filter(|i| expected[*i] == b'\n').collect();
        let places = lines.iter().flat_map(|l| [l.saturating_sub(40), *l, l + 1]).chain([0, 1, 700]);
        for place in places {
            fs::write(&path, &expected[..place]).unwrap();
            sweep(
                cut.path(),
                &header,
                4 - expected[..place].iter().filter(|b| **b == b'\n').count().saturating_sub(1),
            )
            .unwrap();
            assert_eq!(fs::read(&path).unwrap(), expected, "cut at {place}");
            let csv = |folder: &tempfile::TempDir| fs::read_to_string(folder.path().join(CSV_FILE)).unwrap();
            assert_eq!(csv(&cut), csv(&whole), "cut at {place}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let header = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        sweep(folder.path(), &header, 10).unwrap();
        let run = Run::load(folder.path()).unwrap();
        assert_eq!(run.header, header);
        assert_eq!(run.points.len(), 9);
        let losses = run.samples(&run.points[3], "loss").unwrap().unwrap();
        let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / 400.0;
        assert!((mean - run.points[3].measure("loss").unwrap().value).abs() < 1e-12);
        assert_eq!(run.samples(&run.points[3], "top5").unwrap(), None);
        assert_eq!(run.timings().unwrap().len(), 10);
        fs::write(samples_path(folder.path(), &run.points[0].id), b"\x93NUMPY").unwrap();
        assert!(run.samples(&run.points[0], "loss").is_err());
        fs::remove_file(samples_path(folder.path(), &run.points[0].id)).unwrap();
        assert_eq!(run.samples(&run.points[0], "loss").unwrap(), None);
    }

    /// Runs are kept for years: a change of their format must be meant.
    #[test]
    fn the_format_stays() {
        let mut header = header(RunKind::Sweep, true);
        header.layers.truncate(1);
        let mut point = super::super::synthetic::point(&header, &super::super::synthetic::plan(&header)[4]).0;
        // Made-up losses go through functions whose last digit differs between platforms.
        header.layers[0].histogram.limit = 1.25;
        point.measures.iter_mut().for_each(|m| (m.value, m.standard_error) = (0.375, f64::INFINITY));
        point.bytes.iter_mut().for_each(|b| b.entropy = 100_000.5);
        let mut unpruned = point.clone();
        unpruned.key = PointKey::unpruned();
        unpruned.id = unpruned.key.id();
        let lines = [Line::Header(Box::new(header)), Line::Unpruned(unpruned), Line::Point(point)];
        let text: String = lines.iter().map(|l| line_of(l).unwrap()).collect();
        insta::assert_snapshot!(text);
        assert_eq!(Contents::parse(text.as_bytes()).unwrap().points.len(), 1);
    }

    /// Runs from before there was packing have no such size.
    #[test]
    fn a_run_without_packed_sizes_is_read_and_gone_on_with() {
        let header = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        sweep(folder.path(), &header, 5).unwrap();
        let path = folder.path().join(RESULTS_FILE);
        let without: String = fs::read_to_string(&path).unwrap().lines().fold(String::new(), |text, line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            let packed = line.get_mut("bytes").map(|b| b.as_object_mut().unwrap().remove("packed").unwrap());
            assert_eq!(packed.is_none(), line["record"] == "header");
            format!("{text}{line}\n")
        });
        fs::write(&path, &without).unwrap();

        sweep(folder.path(), &header, 12).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with(&without), "what stood there stays");
        let run = Run::load(folder.path()).unwrap();
        let packed = |points: &[Point]| -> Vec<bool> {
            points.iter().map(|p| p.bytes.unwrap().packed.is_some()).collect()
        };
        assert_eq!(packed(std::slice::from_ref(&run.unpruned)), [false]);
        assert_eq!(packed(&run.points), [[false; 4].as_slice(), &[true; 12]].concat());
        let table = fs::read_to_string(folder.path().join(CSV_FILE)).unwrap();
        let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let column = rows.next().unwrap().iter().position(|name| *name == "bytes_packed").unwrap();
        assert_eq!(rows.filter(|row| row[column].is_empty()).count(), 5);
    }

    #[test]
    fn another_header_is_refused_and_another_machine_is_not() {
        let mut other = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        sweep(folder.path(), &other, 2).unwrap();
        other.environment.threads = 64;
        sweep(folder.path(), &other, 2).unwrap();
        assert_eq!(Run::load(folder.path()).unwrap().header.environment.threads, 2);
        other.samples = 7;
        other.seed = 9;
        let error = RunWriter::open(folder.path(), &other).unwrap_err().to_string();
        assert!(error.contains("another run, whose samples, seed differ;"), "{error}");
    }

    #[test]
    fn two_writers_are_refused() {
        let header = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        let _first = RunWriter::open(folder.path(), &header).unwrap();
        let error = RunWriter::open(folder.path(), &header).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn damage_is_named() {
        let header = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RESULTS_FILE);
        assert!(Run::load(folder.path()).is_err());
        sweep(folder.path(), &header, 0).unwrap();
        let error = Run::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cut off before"), "{error}");
        sweep(folder.path(), &header, 3).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"record\":\"point\"", "\"record\":\"pint\"", 1)).unwrap();
        let error = Run::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains(RESULTS_FILE), "{error}");
        let lines: Vec<_> = text.lines().collect();
        fs::write(&path, [lines[0], lines[2], ""].join("\n")).unwrap();
        assert!(Run::load(folder.path()).is_err());
    }

    #[test]
    fn misuse_is_an_error() {
        let header = header(RunKind::Sweep, true);
        let folder = tempfile::tempdir().unwrap();
        let mut writer = RunWriter::open(folder.path(), &header).unwrap();
        let (point, _) = super::super::synthetic::point(&header, &super::super::synthetic::plan(&header)[0]);
        assert!(writer.append(point, &[], 0.0).is_err(), "the unpruned model comes first");
        let (point, _) = super::super::synthetic::point(&header, &PointKey::unpruned());
        assert!(writer.append(point.clone(), &[&[0.0]], 0.0).is_err(), "rows don't fit");
        writer.append(point.clone(), &[], 0.0).unwrap();
        assert!(writer.append(point, &[], 0.0).is_err(), "once only");
    }
}
