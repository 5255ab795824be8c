//! File size against sparsity, without any data.

use rayon::prelude::*;
use secateur_model::{Model, Patch, Result};
use serde::Serialize;

use crate::eval::sweep::{DEFAULT_STEP, SweepOptions};
use crate::files::size;
use crate::measure::{Bytes, Count};
use crate::progress::Progress;
use crate::prune::Amount;
use crate::prune::masks::Masks;
use crate::prune::method::Method;
use crate::prune::{self, Pruning, Subject};
use crate::records::UNPRUNED;

/// The sizes of a model's file under several methods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// File name of the model.
    pub model: String,
    /// The command that measures the same again.
    pub command: String,
    /// The unpruned model.
    pub unpruned: Size,
    /// The pruned models: method by method, each by rising sparsity.
    pub points: Vec<Size>,
}

/// The sizes of one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Size {
    /// The method, or [`UNPRUNED`].
    pub method: String,
    /// Sparsity asked for.
    pub target: f64,
    /// Sparsity achieved over the selected weights.
    pub sparsity: f64,
    /// The selected weights.
    pub selected: Count,
    /// The sizes.
    pub bytes: Bytes,
}

/// Measures the file sizes of methods at sparsities; `command` is the command that measures the same again. Random
/// methods are drawn once: between seeds, sizes differ only by the noise of compression.
///
/// # Errors
/// `Usage` where the options do not fit the model; where a tensor cannot be read.
pub fn sizes(
    model: &Model,
    options: &SweepOptions,
    masks: &Masks,
    command: String,
    progress: &dyn Progress,
) -> Result<Sizes> {
    let mut jobs: Vec<(Method, f64)> = Vec::new();
    for &method in &options.methods {
        jobs.extend(options.sparsities.of(method, DEFAULT_STEP)?.into_iter().map(|s| (method, s)));
    }
    let subject = Subject::of(model);
    let plan = |method: Method, target: f64| {
        prune::plan_on(&subject, &options.prune.with(method, Amount::Sparsity(target)), &masks.masks)
    };
    progress.begin("writing and compressing", jobs.len() as u64 + 1);
    let measure = |name: String, target: f64, pruning: &Pruning, patch: &Patch| {
        let counts = if name == UNPRUNED { pruning.counts_before() } else { pruning.counts() };
        let selected = counts.iter().fold(Count::default(), |sum, (_, count)| Count {
            nonzero: sum.nonzero + count.nonzero,
            total: sum.total + count.total,
        });
        let bytes = size::bytes(model, patch, &[], counts.into_iter())?;
        progress.advance(1);
        Ok(Size { method: name, target, sparsity: selected.sparsity(), selected, bytes })
    };
    let unpruned = measure(UNPRUNED.into(), 0.0, &plan(Method::default(), 0.0)?, &Patch::new())?;
    let points = jobs
        .into_par_iter()
        .map(|(method, target)| {
            let pruning = plan(method, target)?;
            measure(method.to_string(), target, &pruning, &pruning.patch(model))
        })
        .collect::<Result<_>>()?;
    let model = crate::names::file_name(model);
    Ok(Sizes { model, command, unpruned, points })
}

#[cfg(test)]
mod tests {
    use secateur_model::io;

    use super::*;
    use crate::eval::sweep::Sparsities;
    use crate::progress::Silent;

    fn measured() -> Sizes {
        let folder = tempfile::tempdir().unwrap();
        crate::demo::unpack(folder.path()).unwrap();
        let model = io::read(folder.path().join("digits.onnx")).unwrap();
        let options = SweepOptions {
            methods: vec!["l1@global".parse().unwrap(), "l1/channel".parse().unwrap()],
            sparsities: Sparsities::Listed(vec![0.4, 0.8]),
            ..SweepOptions::default()
        };
        sizes(&model, &options, &Masks::default(), String::new(), &Silent).unwrap()
    }

    #[test]
    fn files_shrink_as_weights_go_and_only_when_compressed() {
        let found = measured();
        let names: Vec<_> = found.points.iter().map(|p| (p.method.as_str(), p.target)).collect();
        assert_eq!(names, [("l1@global", 0.4), ("l1@global", 0.8), ("l1/channel", 0.4), ("l1/channel", 0.8)]);
        assert_eq!(found.unpruned.sparsity, 0.0);
        for pair in found.points.chunks(2) {
            let [low, high] = pair else { unreachable!() };
            for (more, less) in [(&found.unpruned, low), (low, high)] {
                assert!(less.sparsity > more.sparsity);
                assert_eq!(less.bytes.raw, more.bytes.raw);
                assert!(less.bytes.gzip < more.bytes.gzip && less.bytes.zstd < more.bytes.zstd);
                assert!(less.bytes.packed < more.bytes.packed && less.bytes.entropy < more.bytes.entropy);
            }
        }
        // Single weights stand without order: the bound holds, about.
        let single = &found.points[1];
        assert!((single.sparsity - 0.8).abs() < 1e-3, "{}", single.sparsity);
        assert!(single.bytes.gzip as f64 > 0.97 * single.bytes.entropy);
        assert!(single.bytes.packed.unwrap() as f64 > 0.97 * single.bytes.entropy);
        assert!(found.unpruned.bytes.packed == Some(found.unpruned.bytes.raw), "nothing is smaller packed");
    }
}
