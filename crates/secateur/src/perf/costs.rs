//! The costs by which kernels are chosen for speed: measured once on a machine and kept in the user's
//! cache folder.
//!
//! Evaluation, sweeps and verification use [`Costs::SHIPPED`] instead, so that their results do not depend on the
//! machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use secateur_model::{Error, Result, ResultExt, io};
use secateur_runtime::Costs;
use serde::{Deserialize, Serialize};

/// The largest `bench.json` that is read, in bytes.
const MAX_BENCH: u64 = 1 << 26;

/// A table of costs and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Record", try_from = "Record")]
pub struct CostTable {
    /// Where the figures come from.
    pub source: CostSource,
    /// The figures.
    pub costs: Costs,
}

/// Where costs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostSource {
    /// They come with secateur.
    Shipped,
    /// They were measured.
    Measured,
}

impl CostSource {
    /// `shipped costs` or `measured costs`.
    pub fn name(self) -> &'static str {
        match self {
            CostSource::Shipped => "shipped costs",
            CostSource::Measured => "measured costs",
        }
    }
}

impl CostTable {
    /// The costs that come with secateur.
    pub const SHIPPED: CostTable = CostTable { source: CostSource::Shipped, costs: Costs::SHIPPED };

    /// This machine's costs: those kept in the user's cache folder, or, where there are none or `anew` is given,
    /// measured within about a second and kept there. The text says why they could not be kept.
    ///
    /// # Errors
    /// As [`Costs::measure`].
    pub fn of_machine(anew: bool) -> Result<(CostTable, Option<String>)> {
        match cache_file() {
            Ok(path) => of_cache(&path, anew),
            Err(why) => Ok((measure()?, Some(not_kept(why)))),
        }
    }

    /// The costs that a `bench.json` records.
    ///
    /// # Errors
    /// `Io` where the file cannot be read, `Input` where it records no costs, or those of another version's table.
    pub fn of_bench(path: &Path) -> Result<CostTable> {
        #[derive(Deserialize)]
        struct Bench {
            costs: CostTable,
        }
        let bytes = io::read_small(path, MAX_BENCH)?;
        let bench = serde_json::from_slice::<Bench>(&bytes);
        Ok(bench.map_err(|e| Error::input(format!("records no costs of kernels: {e}"))).at_file(path)?.costs)
    }
}

impl fmt::Display for CostTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.name())?;
        let figures = Costs::NAMES.iter().zip(self.costs.figures());
        let figures: Vec<String> = figures.map(|(name, figure)| format!("{name} {figure:.3}")).collect();
        write!(f, " ({} ns)", figures.join(", "))
    }
}

/// A table as it is written: each figure by its name.
#[derive(Serialize, Deserialize)]
struct Record {
    source: CostSource,
    nanoseconds: BTreeMap<String, f64>,
}

impl From<CostTable> for Record {
    fn from(table: CostTable) -> Record {
        let names = Costs::NAMES.iter().map(|name| (*name).to_string());
        Record { source: table.source, nanoseconds: names.zip(table.costs.figures()).collect() }
    }
}

impl TryFrom<Record> for CostTable {
    type Error = String;

    fn try_from(record: Record) -> std::result::Result<CostTable, String> {
        let mut figures = [0.0; Costs::NAMES.len()];
        for (figure, name) in figures.iter_mut().zip(Costs::NAMES) {
            let found = record.nanoseconds.get(name).filter(|found| found.is_finite() && **found >= 0.0);
            *figure = *found.ok_or_else(|| format!("no time is given for `{name}`"))?;
        }
        if record.nanoseconds.len() != figures.len() {
            return Err("times are given that this version does not know".into());
        }
        Ok(CostTable { source: record.source, costs: Costs::from_figures(figures) })
    }
}

/// Costs in the cache, with everything they depend on.
#[derive(PartialEq, Serialize, Deserialize)]
struct Cached {
    version: String,
    /// Whether debug assertions are on, which slow kernels down.
    checks: bool,
    cpu: String,
    instruction_set: String,
    /// The table that was shipped then: it changes with the kernels and with what is counted.
    shipped: CostTable,
    costs: CostTable,
}

impl Cached {
    fn new(costs: CostTable) -> Cached {
        Cached {
            version: env!("CARGO_PKG_VERSION").into(),
            checks: cfg!(debug_assertions),
            cpu: crate::perf::cpu_name(),
            instruction_set: secateur_kernels::instruction_set().into(),
            shipped: CostTable::SHIPPED,
            costs,
        }
    }

    /// What a file holds, where it was measured on this machine for these kernels.
    fn read(path: &Path) -> Option<CostTable> {
        let cached: Cached = serde_json::from_slice(&io::read_small(path, MAX_BENCH).ok()?).ok()?;
        (cached == Cached::new(cached.costs)).then_some(cached.costs)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::internal(e.to_string()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        io::write_file(path, true, |out| out.write_all(&json).map_err(|e| Error::io(path, e)))
    }
}

fn cache_file() -> Result<PathBuf> {
    let places = etcetera::choose_base_strategy().map_err(|e| Error::usage(e.to_string()))?;
    Ok(places.cache_dir().join("secateur").join("costs.json"))
}

fn of_cache(path: &Path, anew: bool) -> Result<(CostTable, Option<String>)> {
    if let Some(kept) = Cached::read(path).filter(|_| !anew) {
        return Ok((kept, None));
    }
    let table = measure()?;
    Ok((table, Cached::new(table).write(path).err().map(not_kept)))
}

fn measure() -> Result<CostTable> {
    Ok(CostTable { source: CostSource::Measured, costs: Costs::measure()? })
}

fn not_kept(why: Error) -> String {
    format!("the costs of this machine's kernels are not kept: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> CostTable {
        let costs = Costs::from_figures(Costs::SHIPPED.figures().map(|figure| 1.25 * figure));
        CostTable { source: CostSource::Measured, costs }
    }

    #[test]
    fn costs_are_kept_until_anything_they_depend_on_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/costs.json");
        assert!(Cached::read(&path).is_none());
        Cached::new(made_up()).write(&path).unwrap();
        assert_eq!(of_cache(&path, false).unwrap(), (made_up(), None));
        let changes: [fn(&mut Cached); 5] = [
            |cached| cached.version += "1",
            |cached| cached.checks = !cached.checks,
            |cached| cached.cpu += " II",
            |cached| cached.instruction_set = "another".into(),
            |cached| cached.shipped = made_up(),
        ];
        for change in changes {
            let mut cached = Cached::new(made_up());
            change(&mut cached);
            cached.write(&path).unwrap();
            assert!(Cached::read(&path).is_none());
        }
    }

    #[test]
    fn damaged_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("costs.json");
        for damage in ["", "{", "[1, 2]", r#"{"costs": {"source": "measured", "nanoseconds": {}}}"#] {
            std::fs::write(&path, damage).unwrap();
            assert!(Cached::read(&path).is_none(), "{damage}");
        }
        let (measured, note) = of_cache(&path, false).unwrap();
        assert_eq!((measured.source, note), (CostSource::Measured, None));
        assert_eq!(Cached::read(&path), Some(measured));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (measured, note) = of_cache(&file.join("costs.json"), false).unwrap();
        assert_eq!(measured.source, CostSource::Measured);
        assert!(note.unwrap().contains("not kept"));
    }

    #[test]
    fn figures_are_written_by_name_and_checked() {
        let json = serde_json::to_value(made_up()).unwrap();
        assert_eq!(json["nanoseconds"]["turn"], made_up().costs.turn);
        assert_eq!(serde_json::from_value::<CostTable>(json.clone()).unwrap(), made_up());
        for figure in [serde_json::json!(-1.0), serde_json::json!("fast")] {
            let mut wrong = json.clone();
            wrong["nanoseconds"]["turn"] = figure;
            assert!(serde_json::from_value::<CostTable>(wrong).is_err());
        }
        let mut unknown = json;
        unknown["nanoseconds"]["teleport"] = 1.0.into();
        assert!(serde_json::from_value::<CostTable>(unknown).unwrap_err().to_string().contains("not know"));
    }
}
