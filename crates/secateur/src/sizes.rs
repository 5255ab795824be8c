//! What pruning gains in bytes: the sizes of files against sparsity, without any data.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use secateur_model::{Model, Patch, Result};
use serde::Serialize;

use crate::progress::Progress;
use crate::prune::Amount;
use crate::prune::masks::Masks;
use crate::prune::method::Method;
use crate::prune::{self, Pruning};
use crate::recipe::Recipe;
use crate::report::analysis::MeanBytes;
use crate::report::figures::{SizeSeries, sizes_figure};
use crate::report::{
    Bytes, Count, UNPRUNED, check_files, flags, pictures, quoted, sizes_csv, sizes_page, write_files,
};
use crate::sweep;

/// The names of the files that [`Sizes::write`] writes.
const FILES: [&str; 4] = ["sizes.html", "sizes.csv", "sizes.svg", "sizes.png"];

/// The sizes of a model's file under several methods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// File name of the model.
    pub model: String,
    /// The command that measures the same again.
    pub command: String,
    /// The model as it came.
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

/// Measures the files that the recipe's methods give at its sparsities. Random methods are drawn once: their
/// seeds do not differ in size by more than the noise of compression.
///
/// # Errors
/// `Usage` where the recipe does not fit the model; where a tensor cannot be read.
pub fn sizes(model: &Model, recipe: &Recipe, masks: &Masks, progress: &dyn Progress) -> Result<Sizes> {
    let methods = sweep::methods(recipe);
    let mut jobs: Vec<(Method, f64)> = Vec::new();
    for &method in &methods {
        jobs.extend(sweep::sparsities(method, recipe, sweep::DEFAULT_STEP)?.into_iter().map(|s| (method, s)));
    }
    let plan = |method: Method, target: f64| {
        prune::plan_from(model, &recipe.options_for(method, Amount::Sparsity(target))?, &masks.masks)
    };
    progress.begin("writing and compressing", jobs.len() as u64 + 1);
    let measure = |name: String, target: f64, pruning: &Pruning, patch: &Patch| {
        let counts = if name == UNPRUNED { pruning.counts_before() } else { pruning.counts() };
        let selected = counts.iter().fold(Count::default(), |sum, (_, count)| Count {
            nonzero: sum.nonzero + count.nonzero,
            total: sum.total + count.total,
        });
        let bytes = sweep::bytes(model, patch, &[], counts.into_iter())?;
        progress.advance(1);
        Ok(Size { method: name, target, sparsity: selected.sparsity(), selected, bytes })
    };
    let unpruned = measure(UNPRUNED.into(), 0.0, &plan("l1".parse()?, 0.0)?, &Patch::new())?;
    let points = jobs
        .into_par_iter()
        .map(|(method, target)| {
            let pruning = plan(method, target)?;
            measure(method.to_string(), target, &pruning, &pruning.patch(model))
        })
        .collect::<Result<_>>()?;
    let model = crate::file_name(model);
    let command = format!(
        "secateur sizes {}{} -o FOLDER",
        quoted(&model),
        flags("sizes", &recipe.as_text().to_json()?)
    );
    Ok(Sizes { model, command, unpruned, points })
}

impl Sizes {
    /// Checks that [`Sizes::write`] may write, so that the work before is not for nothing; makes the folder.
    ///
    /// # Errors
    /// As [`Sizes::write`].
    pub fn check(folder: &Path, overwrite: bool) -> Result<()> {
        check_files(folder, &FILES, overwrite)
    }

    /// Writes page, table and figure into a folder: `sizes.html`, `sizes.csv`, `sizes.svg`, `sizes.png`. Returns what was
    /// written.
    ///
    /// # Errors
    /// `Usage` where one of them exists and `overwrite` is not given, `Io` where writing fails.
    pub fn write(&self, folder: &Path, overwrite: bool) -> Result<Vec<PathBuf>> {
        let mut files = vec![
            ("sizes.html".to_string(), sizes_page(self).into_bytes()),
            ("sizes.csv".to_string(), sizes_csv(self).into_bytes()),
        ];
        if let Some(figure) = sizes_figure(&self.model, &self.series()) {
            files.extend(pictures("sizes", &figure)?);
        }
        write_files(folder, files, overwrite)
    }

    /// A series for each method, the unpruned model first in each.
    pub(crate) fn series(&self) -> Vec<SizeSeries> {
        let point = |size: &Size| (size.sparsity, MeanBytes::from(size.bytes));
        let mut series: Vec<SizeSeries> = Vec::new();
        for size in &self.points {
            match series.last_mut().filter(|s| s.method == size.method) {
                Some(last) => last.points.push(point(size)),
                None => series.push(SizeSeries {
                    method: size.method.clone(),
                    points: vec![point(&self.unpruned), point(size)],
                }),
            }
        }
        series
    }
}

#[cfg(test)]
mod tests {
    use secateur_model::io;

    use super::*;
    use crate::progress::Silent;

    fn measured() -> Sizes {
        let folder = tempfile::tempdir().unwrap();
        crate::demo::unpack(folder.path()).unwrap();
        let model = io::read(folder.path().join("digits.onnx")).unwrap();
        let mut recipe = Recipe::default();
        recipe.sweep.method = vec!["l1@global".parse().unwrap(), "l1/channel".parse().unwrap()];
        recipe.prune.sparsity = vec!["40%".parse().unwrap(), "80%".parse().unwrap()];
        sizes(&model, &recipe, &Masks::default(), &Silent).unwrap()
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

    #[test]
    fn the_same_model_gives_the_same_files_and_they_are_not_overwritten() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let written = folders.each_ref().map(|folder| {
            let files = measured().write(folder.path(), false).unwrap();
            files.iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(written[0].len(), FILES.len());
        assert!(written[0] == written[1]);
        let csv = String::from_utf8(written[0][1].clone()).unwrap();
        assert_eq!(csv.lines().count(), 1 + 1 + 4);
        assert!(csv.lines().all(|line| line.split(',').count() == 10), "{csv}");
        let message = measured().write(folders[0].path(), false).unwrap_err().to_string();
        assert!(message.contains("sizes.html"), "{message}");
        measured().write(folders[0].path(), true).unwrap();
    }
}
