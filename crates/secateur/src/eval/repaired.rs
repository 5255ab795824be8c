//! Pruned models of a sweep that are repaired before they are measured.

use std::sync::Arc;

use secateur_model::{Error, Model, Patch, Result};

use super::sweep::SweepOptions;
use crate::calib::{self, CalibrateOptions};
use crate::progress::Progress;
use crate::prune::{MaskMap, Pruning};
use crate::records::RepairSettings;
use crate::solve::{RepairOptions, Repairer};

/// How the pruned models of a sweep are repaired, where they are.
///
/// # Errors
/// `Usage` where there are no data to repair them on.
pub(super) fn options(of: &SweepOptions) -> Result<Option<RepairOptions>> {
    match (&of.calibrate, &of.repair[..]) {
        (_, []) => Ok(None),
        (None, _) => Err(Error::usage(
            "repairing pruned models takes data: pass some, for example with option `calibrate=train.npz`",
        )),
        (Some(CalibrateOptions { data, limits, .. }), methods) => {
            Ok(Some(RepairOptions { methods: methods.to_vec(), data: data.clone(), limits: *limits }))
        }
    }
}

/// What the record of a run says of it.
///
/// # Errors
/// As [`options`]; where the data cannot be read.
pub(super) fn settings(model: &Model, of: &SweepOptions) -> Result<Option<RepairSettings>> {
    let Some(RepairOptions { methods, data, .. }) = options(of)? else { return Ok(None) };
    let paths = data.data.paths.iter();
    let names = paths.map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned());
    Ok(Some(RepairSettings {
        methods: methods.iter().map(|method| method.name().to_string()).collect(),
        data: names.collect::<Vec<_>>().join(", "),
        samples: calib::batches(model, &data)?.samples() as u64,
    }))
}

/// The changes of pruning and repairing together; `masked` are those of the model's own masks.
///
/// # Errors
/// Those of [`Repairer::repair`].
pub(super) fn patch(
    repairer: &Repairer,
    model: &Model,
    pruning: &Pruning,
    masked: &Patch,
    progress: &dyn Progress,
) -> Result<Patch> {
    let patch = pruning.patch(model);
    let mut whole = patch.clone();
    whole.fill_from(masked);
    let pruned = Arc::new(whole.apply(model)?);
    let masks: MaskMap = pruning.masks.iter().chain(&pruning.companions).cloned().collect();
    let mut repaired = repairer.repair(&pruned, &masks, false, progress)?.patch;
    repaired.fill_from(&patch);
    Ok(repaired)
}
