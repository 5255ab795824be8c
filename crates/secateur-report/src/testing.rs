//! Made-up runs and timings: those of the tests of `secateur`, and whole runs of them.

#[path = "../../secateur/src/perf/bench/synthetic.rs"]
mod bench;
#[path = "../../secateur/src/records/synthetic.rs"]
mod points;

use secateur::Tensor;
use secateur::bench::{Bench, OURS, Predicted, RuntimeInfo, Times, Timing, VersionInfo};
use secateur::costs::CostTable;
use secateur::data::write_npy;
use secateur::records::{PointKey, Run, RunHeader, SAMPLES_FOLDER};

pub(crate) use bench::made_up as bench;
pub(crate) use points::*;

/// A whole made-up run with its folder. It is put together without [`RunWriter`], whose waiting for the disk
/// would make up most of a test's time.
pub(crate) fn run_of(header: &RunHeader) -> (tempfile::TempDir, Run) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(SAMPLES_FOLDER)).unwrap();
    let evaluate = |key: &PointKey| {
        let (point, rows) = point(header, key);
        let path = folder.path().join(SAMPLES_FOLDER).join(format!("{}.npy", point.id));
        let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
        let tensor = Tensor::new([rows.len(), header.samples as usize], rows.concat()).unwrap();
        write_npy(&tensor, &mut file).unwrap();
        point
    };
    let unpruned = evaluate(&PointKey::unpruned());
    let points = plan(header).iter().map(evaluate).collect();
    let run = Run { folder: folder.path().to_path_buf(), header: header.clone(), unpruned, points };
    (folder, run)
}
