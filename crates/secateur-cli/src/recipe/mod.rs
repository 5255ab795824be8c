//! Recipes: what the flags of the command say, as a TOML file.
//!
//! Each section holds the flags of the same names; `seed` and `graph` stand above them:
//!
//! ```toml
//! seed = 1
//!
//! [prune]
//! method = "l1@global"
//! sparsity = 0.8          # or "80%", or a list, of which `sweep` takes all
//! ops = ["Conv"]
//! exclude = ["linear*"]
//!
//! [data]
//! data = ["test_batch.bin.gz"]
//! mean = [0.485, 0.456, 0.406]
//! std = [0.229, 0.224, 0.225]
//! ```
//!
//! Flags given beside a recipe win over it.

mod calibrate;
mod data;
mod lottery;
mod prune;
mod repair;
mod sweep;
mod train;
mod value;

use std::path::{Path, PathBuf};

use secateur::bench::VersionOptions;
use secateur::data::metrics::{Loss, Scoring};
use secateur::data::{DataSpec, Preprocess, Sampling};
use secateur::evaluate::EvalOptions;
use secateur::prune::Amount;
use secateur::prune::masks::{Form, Masks};
use secateur::prune::method::Method;
use secateur::prune::{Override, PruneOptions};
use secateur::select::{Part, Selector};
use secateur::sweep::{DEFAULT_RANDOM_SEEDS, Sparsities, SweepOptions, default_methods};
use secateur::{Error, Model, Result, ResultExt, io};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};

pub(crate) use calibrate::CalibrateFlags;
pub(crate) use data::DataFlags;
pub(crate) use lottery::LotteryFlags;
pub(crate) use prune::PruneFlags;
pub(crate) use repair::RepairFlags;
pub(crate) use sweep::SweepFlags;
pub(crate) use train::TrainFlags;
pub(crate) use value::{HeldOut, Share};

/// The longest recipe that is read from a file or a model's metadata, in bytes: both can come from a stranger.
pub(crate) const RECIPE_BYTES: usize = 1 << 18;

/// Everything a command can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Recipe {
    /// What everything random derives from; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// The ONNX export that gives a checkpoint its graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) graph: Option<PathBuf>,
    /// Globs of tensors of the checkpoint that the graph need not use.
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) unused: Vec<String>,
    /// What is pruned and how.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) prune: PruneFlags,
    /// What models are evaluated on.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) data: DataFlags,
    /// What criteria that look at data are calibrated on.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) calibrate: CalibrateFlags,
    /// How a pruned model is repaired.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) repair: RepairFlags,
    /// The points of a sweep.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) sweep: SweepFlags,
    /// How a model is trained.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) train: TrainFlags,
    /// How lottery tickets are searched for.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lottery: LotteryFlags,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a word of an enumeration as recipes write it.
///
/// # Errors
/// For unknown words, listing the known ones.
pub(crate) fn word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(text))
        .map_err(|e| e.to_string())
}

/// A file without its folder, as reports name it.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Where it cannot be read, is not TOML, or says something unknown: with its line.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = io::read_small_text(path, RECIPE_BYTES as u64)?;
        toml::from_str(&text).map_err(|e| Error::usage(with_near_key(&e))).at_file(path)
    }

    /// This recipe with everything that `over` says laid over it.
    ///
    /// # Errors
    /// Never for recipes that were read or built from flags.
    pub(crate) fn with(&self, over: &Recipe) -> Result<Self> {
        let (mut base, mut over) = (self.clone(), over.clone());
        // No path begins with a zero byte: so these stand for those that are not UTF-8, which JSON cannot hold.
        let mut kept = Vec::new();
        for path in base.paths_mut().chain(over.paths_mut()).filter(|path| path.to_str().is_none()) {
            kept.push(std::mem::replace(path, format!("\0{}", kept.len()).into()));
        }
        let mut base = base.to_json()?;
        overlay(&mut base, over.to_json()?);
        let mut drop = |section: &str, keys: &[&str]| {
            if let Some(section) = base.get_mut(section).and_then(serde_json::Value::as_object_mut) {
                section.retain(|key, _| !keys.contains(&key.as_str()));
            }
        };
        // An amount replaces an amount of the other kind, and what is said of all commands what a sweep's own
        // section says.
        if over.prune.count.is_some() {
            drop("prune", &["sparsity"]);
        }
        if !over.prune.sparsity.is_empty() {
            drop("prune", &["count"]);
            if over.sweep.step.is_none() && over.sweep.max.is_none() {
                drop("sweep", &["step", "max"]);
            }
        }
        if !over.prune.method.is_empty() && over.sweep.method.is_empty() {
            drop("sweep", &["method"]);
        }
        let mut both: Recipe = serde_json::from_value(base).map_err(|e| Error::internal(e.to_string()))?;
        for path in both.paths_mut() {
            let place = path.to_str().and_then(|path| path.strip_prefix('\0')?.parse::<usize>().ok());
            if let Some(own) = place.and_then(|place| kept.get(place)) {
                path.clone_from(own);
            }
        }
        Ok(both)
    }

    /// The recipe as JSON, for metadata and records.
    ///
    /// # Errors
    /// `Usage` where a path in it is not UTF-8: [`Recipe::as_text`] has none.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::usage(format!("the recipe cannot be recorded: {e}")))
    }

    /// The recipe with all paths as text: what is not UTF-8 in them is replaced. To be shown, not to be used.
    #[must_use]
    pub(crate) fn as_text(&self) -> Recipe {
        let mut recipe = self.clone();
        recipe.paths_mut().for_each(|path| *path = path.to_string_lossy().into_owned().into());
        recipe
    }

    fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let (prune, data, graph) = (&mut self.prune, &mut self.data, &mut self.graph);
        prune
            .mask
            .iter_mut()
            .chain(&mut prune.scores)
            .chain(&mut data.data)
            .chain(&mut data.classes)
            .chain(&mut self.train.teacher)
            .chain(&mut self.calibrate.calibrate)
            .chain(&mut self.repair.reference)
            .chain(&mut self.repair.validation)
            .chain(&mut self.train.validation)
            .chain(&mut self.lottery.test)
            .chain(graph)
    }

    /// What to prune and how, by one method to one amount.
    ///
    /// # Errors
    /// `Usage` where no method or no amount is given, or several.
    pub(crate) fn prune_options(&self) -> Result<PruneOptions> {
        let method = self.only_method("use `secateur sweep` to compare several")?.ok_or_else(|| {
            Error::usage("no method is given: pass --method, for example --method l1@global")
        })?;
        let amount = match (&self.prune.sparsity[..], self.prune.count, method.pattern.sparsity()) {
            (&[sparsity], None, _) => Amount::Sparsity(sparsity.get()),
            ([], None, Some(sparsity)) => Amount::Sparsity(sparsity),
            ([], Some(count), _) => Amount::Count(count),
            ([], None, None) => {
                return Err(Error::usage(
                    "no amount is given: pass --sparsity, for example --sparsity 0.8, or --count",
                ));
            }
            ([_], Some(_), _) => {
                return Err(Error::usage("a sparsity and a count are given: pass only one of them"));
            }
            (several, ..) => {
                let found = several.iter().map(Share::to_string).collect::<Vec<_>>().join(", ");
                return Err(Error::usage(format!(
                    "expected one sparsity, found {found}: use `secateur sweep` to compare several"
                )));
            }
        };
        let options = PruneOptions { method, amount, ..self.base_options()? };
        options.check()?;
        Ok(options)
    }

    /// The one method that is given, if any.
    ///
    /// # Errors
    /// `Usage` where several are given: `instead` says what to do then.
    pub(crate) fn only_method(&self, instead: &str) -> Result<Option<Method>> {
        match self.prune.method[..] {
            [] => Ok(None),
            [method] => Ok(Some(method)),
            ref several => {
                let found = several.iter().map(Method::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::usage(format!("expected one method, found {found}: {instead}")))
            }
        }
    }

    /// What to prune by any method and amount: everything but these.
    ///
    /// # Errors
    /// `Usage` where a layer's own sparsity is not written `GLOB=SHARE`.
    pub(crate) fn base_options(&self) -> Result<PruneOptions> {
        let prune = &self.prune;
        Ok(PruneOptions {
            overrides: prune.layer.iter().map(|text| layer_override(text)).collect::<Result<_>>()?,
            selector: Selector {
                ops: prune.ops.clone(),
                include: prune.include.clone(),
                exclude: prune.exclude.clone(),
                modules: prune.module.clone(),
                part: if prune.biases { Part::Biases } else { Part::Weights },
            },
            weights_only: prune.weights_only,
            of_remaining: prune.of_remaining,
            seed: self.seed.unwrap_or(0),
            scores: prune.scores.clone(),
            ..PruneOptions::default()
        })
    }

    /// The recipe that a changed file carries: what its zeros come from is said by its former recipe where this one does not
    /// prune.
    #[must_use]
    pub(crate) fn told(&self, model: &Model) -> Recipe {
        match recipe_in(model) {
            Ok(former) if self.prune.method.is_empty() => {
                Recipe { prune: former.prune, seed: self.seed.or(former.seed), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The form in which masks are kept, and whether originals are: as the recipe says, and otherwise as
    /// the model that is pruned keeps them.
    pub(crate) fn masks_form(&self, found: &Masks) -> (Form, bool) {
        let form = self.prune.masks.unwrap_or_else(|| found.form());
        (form, form != Form::Pairs && (self.prune.keep_originals || !found.originals.is_empty()))
    }

    /// What is written into a pruned model's metadata: the recipe, the seed, the SHA-256 of the input
    /// and the version. No times and no paths, so that the same input gives the same bytes.
    ///
    /// # Errors
    /// Where the input cannot be read.
    pub(crate) fn metadata(&self, model: &Model) -> Result<Vec<(String, String)>> {
        let mut said = Recipe {
            graph: None,
            unused: Vec::new(),
            data: DataFlags::default(),
            sweep: SweepFlags::default(),
            lottery: LotteryFlags::default(),
            ..self.clone()
        };
        let train = &mut said.train;
        let of_training = train.teacher.iter_mut().chain(&mut train.validation);
        let repair = &mut said.repair;
        let of_data =
            repair.reference.iter_mut().chain(&mut repair.validation).chain(&mut said.calibrate.calibrate);
        let of_pruning = said.prune.mask.iter_mut().chain(&mut said.prune.scores);
        for path in of_pruning.chain(of_training).chain(of_data) {
            *path = path.file_name().unwrap_or_default().into();
        }
        Ok(vec![
            ("secateur.version".into(), env!("CARGO_PKG_VERSION").into()),
            ("secateur.recipe".into(), said.as_text().to_json()?.to_string()),
            ("secateur.seed".into(), self.seed.unwrap_or(0).to_string()),
            ("secateur.input_sha256".into(), io::content_hash(model)?),
        ])
    }

    /// The data in words: the names of their files.
    pub(crate) fn data_name(&self) -> String {
        self.data.data.iter().map(|path| file_name(path)).collect::<Vec<_>>().join(", ")
    }

    /// What to evaluate on.
    ///
    /// # Errors
    /// `Usage` where no data are named.
    pub(crate) fn eval_options(&self) -> Result<EvalOptions> {
        if self.data.data.is_empty() {
            return Err(Error::usage("no data are given: pass --data, for example --data test.npz"));
        }
        self.options_on(&self.data.data)
    }

    /// As [`Recipe::eval_options`], with other files or folders.
    ///
    /// # Errors
    /// `Usage` where flags contradict each other.
    fn options_on(&self, paths: &[PathBuf]) -> Result<EvalOptions> {
        let d = &self.data;
        if d.filter.is_some() && d.resize.is_none() {
            return Err(Error::usage("--filter has no effect without --resize"));
        }
        if d.loss == Some(Loss::Mse) && (d.outputs.is_some() || d.class_axis.is_some()) {
            return Err(Error::usage("--outputs and --class-axis have no effect with --loss mse"));
        }
        Ok(EvalOptions {
            data: DataSpec {
                paths: paths.to_vec(),
                labels: d.labels.clone(),
                format: d.format.unwrap_or_default(),
                classes: d.classes.clone(),
                input: d.input.clone(),
            },
            preprocess: Preprocess {
                resize: d.resize,
                filter: d.filter.unwrap_or_default(),
                crop: d.crop.map(|c| c.0),
                scale: d.scale.unwrap_or_default(),
                mean: d.mean.clone(),
                std: d.std.clone(),
                layout: d.layout.unwrap_or_default(),
                channels: d.channels.unwrap_or_default(),
            },
            sampling: Sampling {
                samples: d.samples,
                seed: self.seed.unwrap_or(0),
                batch: d.batch,
                ..Sampling::default()
            },
            scoring: Scoring {
                loss: d.loss.unwrap_or_default(),
                outputs: d.outputs.unwrap_or_default(),
                class_axis: d.class_axis,
            },
            output: d.output_name.clone(),
        })
    }
}

impl Recipe {
    /// What a sweep measures.
    ///
    /// # Errors
    /// As [`Recipe::base_options`].
    pub(crate) fn sweep_options(&self) -> Result<SweepOptions> {
        Ok(SweepOptions {
            methods: self.methods(),
            prune: self.base_options()?,
            sparsities: self.sparsities(),
            random_seeds: self.sweep.random_seeds.unwrap_or(DEFAULT_RANDOM_SEEDS),
            calibrate: self.calibrate_options()?,
            repair: self.sweep.repair.clone(),
            latency: self.sweep.latency,
            sizes: !self.sweep.no_sizes,
            data: self.data_name(),
            recipe: self.as_text().to_json()?,
        })
    }

    /// As [`Recipe::sweep_options`], with the one method that each layer is pruned by.
    ///
    /// # Errors
    /// `Usage` where several methods are given.
    pub(crate) fn sensitivity_options(&self) -> Result<SweepOptions> {
        let method = self.only_method("each layer is pruned by one; run this once for each")?;
        Ok(SweepOptions { methods: vec![method.unwrap_or_default()], ..self.sweep_options()? })
    }

    /// The methods that are compared: those of a sweep's own section, else those that every command prunes by.
    pub(crate) fn methods(&self) -> Vec<Method> {
        let said = [&self.sweep.method, &self.prune.method].into_iter().find(|methods| !methods.is_empty());
        said.cloned().unwrap_or_else(default_methods)
    }

    /// The sparsities that methods are compared at: steps where they are given, else those that are listed.
    fn sparsities(&self) -> Sparsities {
        let (step, max) = (self.sweep.step.map(Share::get), self.sweep.max.map(Share::get));
        if step.is_none() && max.is_none() && !self.prune.sparsity.is_empty() {
            return Sparsities::Listed(self.prune.sparsities());
        }
        Sparsities::Steps { step, max }
    }

    /// How versions of a model are pruned in memory, to be timed.
    ///
    /// # Errors
    /// As [`Recipe::base_options`].
    pub(crate) fn version_options(&self) -> Result<VersionOptions> {
        Ok(VersionOptions {
            methods: self.prune.method.clone(),
            sparsities: self.prune.sparsities(),
            prune: self.base_options()?,
            masks: self.prune.mask.clone(),
        })
    }
}

/// The recipe that a pruned file carries in its metadata.
///
/// # Errors
/// `Usage` where it carries none, `Input` where that does not read.
pub(crate) fn recipe_in(model: &Model) -> Result<Recipe> {
    let entry = model.source.metadata().iter().find(|(key, _)| key == "secateur.recipe");
    let (_, text) = entry.ok_or_else(|| {
        Error::usage("the file carries no recipe: pass --recipe, or --method and --sparsity")
    })?;
    if text.len() > RECIPE_BYTES {
        let (found, most) = (text.len(), RECIPE_BYTES);
        let message = format!("the recipe in the file's metadata has {found} bytes, {most} at most are read");
        return Err(Error::input(message));
    }
    serde_json::from_str(text)
        .map_err(|e| Error::input(format!("the recipe in the file's metadata cannot be read: {e}")))
}

/// What is wrong with a recipe; of an unknown key what it may have meant, not all that there are.
fn with_near_key(error: &toml::de::Error) -> String {
    let (text, message) = (error.to_string(), error.message());
    let parts: Vec<&str> = message.split('`').collect();
    let [before, key, _, known @ ..] = &parts[..] else { return text };
    if !before.starts_with("unknown field") {
        return text;
    }
    // Every other part is a name. The older names of two keys are not for who writes a new recipe.
    let known = known.iter().step_by(2).copied().filter(|key| !["methods", "sparsities"].contains(key));
    text.replace(
        message,
        &format!("there is no key `{key}` here{}", secateur::near::did_you_mean(key, known)),
    )
}

/// Reads `GLOB=SHARE`.
fn layer_override(text: &str) -> Result<Override> {
    let (name, share) = text.rsplit_once('=').ok_or_else(|| {
        Error::usage(format!("`{text}`: expected a glob and a sparsity, such as 'layer4.*=0.5'"))
    })?;
    let share: Share = share.parse().map_err(|e: Error| e.at(format!("`{text}`")))?;
    Ok(Override { name: name.to_string(), sparsity: share.get() })
}

fn overlay(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_win_over_the_recipe() {
        let base = recipe("seed = 1\n[prune]\nmethod = 'l1@global'\nsparsity = 0.8\nops = ['Conv']");
        let over = recipe("[prune]\ncount = 7\nexclude = ['a*']");
        let both = base.with(&over).unwrap();
        assert_eq!(both.seed, Some(1));
        assert_eq!((both.prune.sparsities(), both.prune.count), (vec![], Some(7)));
        assert_eq!(both.prune.ops, ["Conv"]);
        assert_eq!(both.prune.exclude, ["a*"]);
        assert_eq!(recipe(&toml::to_string(&both).unwrap()), both);
    }

    #[test]
    fn one_value_or_a_list_is_written_as_it_was_read() {
        let one = recipe("[prune]\nmethod = 'l1'\nsparsity = '80%'");
        assert_eq!(toml::to_string(&one).unwrap(), "[prune]\nmethod = \"l1\"\nsparsity = 0.8\n");
        let several = recipe("[prune]\nmethod = ['l1', 'l2/channel']\nsparsity = [0.5, 0.8]");
        assert_eq!(several.prune.sparsities(), [0.5, 0.8]);
        assert_eq!(recipe(&toml::to_string(&several).unwrap()), several);
        let message = several.prune_options().unwrap_err().to_string();
        assert!(message.contains("l1, l2/channel") && message.contains("sweep"), "{message}");
        let error = |text: &str| toml::from_str::<Recipe>(text).unwrap_err().to_string();
        assert!(error("[prune]\nsparsity = 80").contains("did you mean 0.8 (80 %)?"));
        assert!(error("[prune]\nmethod = ['l1', 'l1@globl']").contains("did you mean `global`"));
    }

    #[test]
    fn what_flags_say_of_methods_and_sparsities_replaces_what_a_sweep_says() {
        let base = recipe("[sweep]\nmethods = ['l1', 'random']\nstep = 0.1\nmax = 0.5\nno-sizes = true");
        let over = recipe("[prune]\nmethod = 'l2'\nsparsity = [0.3, 0.6]");
        let both = base.with(&over).unwrap();
        assert_eq!(both.prune, over.prune);
        assert_eq!(both.sweep, recipe("[sweep]\nno-sizes = true").sweep);
        let step = base.with(&recipe("[sweep]\nstep = 0.25")).unwrap();
        assert_eq!((step.sweep.method.len(), step.sweep.step), (2, Some(Share::new(0.25).unwrap())));
    }

    #[test]
    fn a_pattern_may_fix_the_sparsity() {
        let said = |text: &str| recipe(text).prune_options();
        assert_eq!(said("[prune]\nmethod = 'l1/1:4'").unwrap().amount, Amount::Sparsity(0.75));
        assert!(said("[prune]\nmethod = 'l1/1:3'\nsparsity = 0.667").is_ok());
        let error = said("[prune]\nmethod = 'l1/1:4'\nsparsity = 0.5").unwrap_err().to_string();
        assert!(error.contains("fixes the sparsity at 0.75"), "{error}");
        assert!(said("[prune]\nmethod = 'l1/1:4'\ncount = 3").is_err());
    }

    #[test]
    fn a_file_of_scores_goes_with_its_criterion() {
        let said = recipe("[prune]\nmethod = 'file'\nsparsity = 0.5\nscores = 'a/b.npz'");
        assert_eq!(said.prune_options().unwrap().scores, Some("a/b.npz".into()));
        let other = said.base_options().unwrap().with("l1".parse().unwrap(), Amount::Sparsity(0.5));
        assert_eq!(other.scores, None);
        let lost = recipe("[prune]\nmethod = 'l1'\nsparsity = 0.5\nscores = 'b.npz'");
        assert!(lost.prune_options().unwrap_err().to_string().contains("takes no file of scores"));
    }

    #[test]
    fn unknown_keys_and_words_are_refused() {
        let error = toml::from_str::<Recipe>("[prune]\nexlude = ['a*']").unwrap_err();
        let said = with_near_key(&error);
        assert!(said.contains("did you mean `exclude`") && !said.contains("sparsities"), "{said}");
        assert_eq!(recipe("[prune]\nops = 'Conv'").prune.ops, ["Conv"]);
        assert!(
            toml::from_str::<Recipe>("[data]\nformat = 'jpg'").unwrap_err().to_string().contains("cifar10")
        );
        assert!(word::<Loss>("mse").is_ok());
        assert!(recipe("").prune_options().is_err());
        assert!(recipe("").eval_options().is_err());
    }
}
