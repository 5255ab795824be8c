//! Recipes: what the flags of the command say, as a TOML file.
//!
//! Each section is the flags of the same names, `seed` stands above them:
//!
//! ```toml
//! seed = 1
//!
//! [prune]
//! method = "l1@global"
//! sparsity = 0.8
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

use std::path::{Path, PathBuf};

use secateur_model::{Error, Model, Result, ResultExt, io};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};

use crate::data::metrics::{Loss, Outputs, Scoring};
use crate::data::{Channels, DataSpec, Filter, Format, Layout, Preprocess, Resize, Sampling, Scale};
use crate::evaluate::EvalOptions;
use crate::mask::Amount;
use crate::masks::{Form, Masks};
use crate::method::Method;
use crate::prune::{Override, PruneOptions};
use crate::score::Criterion;
use crate::select::{Part, Selector};

/// Everything a command can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What everything random derives from; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What is pruned and how.
    #[serde(skip_serializing_if = "is_default")]
    pub prune: PruneFlags,
    /// What models are evaluated on.
    #[serde(skip_serializing_if = "is_default")]
    pub data: DataFlags,
    /// The points of a sweep.
    #[serde(skip_serializing_if = "is_default")]
    pub sweep: SweepFlags,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is pruned and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct PruneFlags {
    /// How to prune, such as l1, l1@global, l2/channel, l1/2:4, lamp@global or l1+erk: see `secateur methods`
    #[cfg_attr(feature = "cli", arg(long, short, value_name = "METHOD", help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<Method>,
    /// The share of the selected weights (or channels) that is zero in the end, those already zero included
    #[cfg_attr(
        feature = "cli",
        arg(long, short, value_name = "SHARE", help_heading = "Pruning", conflicts_with = "count")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub sparsity: Option<f64>,
    /// The number of weights (or channels) that are zero in the end, instead of a share
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub count: Option<usize>,
    /// The amount applies to what is not zero yet, as in torch.nn.utils.prune
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub of_remaining: bool,
    /// The scores that the criterion `file` ranks by (.npz or .safetensors), under the tensors' paths
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub scores: Option<PathBuf>,
    /// Another sparsity for layers whose name matches: 'GLOB=SHARE'; the last match wins
    #[cfg_attr(feature = "cli", arg(long = "layer", value_name = "GLOB=SHARE", help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub layer: Vec<String>,
    /// Channels leave their bias and batch-norm alone, as in torch.nn.utils.prune
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Pruning"))]
    #[serde(skip_serializing_if = "is_default")]
    pub weights_only: bool,
    /// Prune what the masks of a file prune too (npz, safetensors, PyTorch), each under its tensor's name
    #[cfg_attr(feature = "cli", arg(long = "mask", value_name = "FILE", help_heading = "Masks"))]
    #[serde(skip_serializing_if = "is_default")]
    pub mask: Vec<PathBuf>,
    /// How masks are kept; by default as the input keeps them, and otherwise as exact zeros
    #[cfg_attr(feature = "cli", arg(long, value_name = "FORM", help_heading = "Masks"))]
    #[serde(skip_serializing_if = "is_default")]
    pub masks: Option<Form>,
    /// Keep the original weights beside the model, so that `secateur undo` gives them back
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Masks"))]
    #[serde(skip_serializing_if = "is_default")]
    pub keep_originals: bool,
    /// Prune the weights of these operators only, such as Conv,Gemm
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "OP", value_delimiter = ',', help_heading = "Selection")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub ops: Vec<String>,
    /// Prune only layers whose name matches a glob
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub include: Vec<String>,
    /// Leave out layers whose name matches a glob
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub exclude: Vec<String>,
    /// Prune only layers inside these modules, such as encoder or encoder.layer1
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "MODULE", value_delimiter = ',', help_heading = "Selection")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub module: Vec<String>,
    /// Prune the biases of the selected layers instead of their weights
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Selection"))]
    #[serde(skip_serializing_if = "is_default")]
    pub biases: bool,
}

/// What models are evaluated on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct DataFlags {
    /// Data: .npz, .npy, MNIST idx, CIFAR .bin (each also gzipped) or a folder of pictures; several are joined
    #[cfg_attr(feature = "cli", arg(long, short, value_name = "PATH", num_args = 1.., help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub data: Vec<PathBuf>,
    /// Where the labels are: an array's name in the .npz, a file, or `prefix` for pictures' names
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME|FILE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Option<String>,
    /// The data's format, where it should not be told from the content: npz, npy, idx, cifar10, cifar100, images
    #[cfg_attr(feature = "cli", arg(long, value_name = "FORMAT", value_parser = word::<Format>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub format: Option<Format>,
    /// A file that lists the classes of pictures in the order of the model's outputs
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub classes: Option<PathBuf>,
    /// The model's input that the data are for, where it has several
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub input: Option<String>,
    /// Resize pictures: 256 (the shorter side) or 224x320 (height x width)
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub resize: Option<Resize>,
    /// How to resize: bilinear or bicubic
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILTER", value_parser = word::<Filter>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Option<Filter>,
    /// Cut this size out of the middle: 224 or 224x320
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", value_parser = crop, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub crop: Option<Crop>,
    /// What values are multiplied with: a number, 1/255, or auto (1/255 for 8-bit values with a mean or std)
    #[cfg_attr(feature = "cli", arg(long, value_name = "FACTOR", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub scale: Option<Scale>,
    /// Subtracted after scaling, one a channel: 0.485,0.456,0.406
    #[cfg_attr(
        feature = "cli",
        arg(long, value_delimiter = ',', allow_hyphen_values = true, help_heading = "Data")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub mean: Vec<f64>,
    /// Divided by last, one a channel: 0.229,0.224,0.225
    #[cfg_attr(feature = "cli", arg(long, value_delimiter = ',', help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub std: Vec<f64>,
    /// The order of the model's axes: nchw or nhwc
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Layout>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub layout: Option<Layout>,
    /// The channels the model sees: source, rgb, bgr or gray
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Channels>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub channels: Option<Channels>,
    /// Use this many samples, drawn by the seed
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub samples: Option<usize>,
    /// Samples at a time
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub batch: Option<usize>,
    /// The loss: cross-entropy or mse
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Loss>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub loss: Option<Loss>,
    /// What the outputs are: auto, logits or probabilities
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Outputs>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub outputs: Option<Outputs>,
    /// The output that is judged, where it is not the first
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub output_name: Option<String>,
    /// The axis of the classes in the output
    #[cfg_attr(feature = "cli", arg(long, value_name = "AXIS", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub class_axis: Option<usize>,
}

/// A size in pixels, written `224` or `224x320`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crop(pub [usize; 2]);

#[cfg(feature = "cli")]
fn crop(text: &str) -> Result<Crop> {
    crate::data::parse_size(text).map(Crop)
}

/// The points of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct SweepFlags {
    /// The methods to compare, such as l1,l1/channel,l1@global,random
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "METHOD", value_delimiter = ',', help_heading = "Sweep")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<Method>,
    /// Distance between sparsities; 0.05 by default
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub step: Option<f64>,
    /// The largest sparsity; 0.95 by default
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub max: Option<f64>,
    /// How many seeds random methods are drawn with; 5 by default
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub random_seeds: Option<usize>,
    /// The relative loss up to which pruning counts as free; 0.01 by default
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub threshold: Option<f64>,
    /// Do not write and compress each pruned model to measure its size
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub no_sizes: bool,
}

/// Reads a word of an enumeration as recipes write it.
///
/// # Errors
/// For unknown words, listing the known ones.
pub fn word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(text))
        .map_err(|e| e.to_string())
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Where it cannot be read, is not TOML, or says something unknown: with its line.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        toml::from_str(&text).map_err(|e| Error::usage(e.to_string())).at_file(path)
    }

    /// This recipe with everything that `over` says laid over it.
    ///
    /// # Errors
    /// Never for recipes that were read or built from flags.
    pub fn with(&self, over: &Recipe) -> Result<Self> {
        let mut base = self.to_json()?;
        overlay(&mut base, over.to_json()?);
        // An amount replaces an amount of the other kind.
        if over.prune.count.is_some() || over.prune.sparsity.is_some() {
            let gone = if over.prune.count.is_some() { "sparsity" } else { "count" };
            if let Some(prune) = base.get_mut("prune").and_then(serde_json::Value::as_object_mut) {
                prune.remove(gone);
            }
        }
        serde_json::from_value(base).map_err(|e| Error::internal(e.to_string()))
    }

    /// The recipe as JSON, for metadata and records.
    ///
    /// # Errors
    /// Never for recipes that were read or built from flags.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::internal(e.to_string()))
    }

    /// The recipe as a file would say it.
    ///
    /// # Errors
    /// Never for recipes that were read or built from flags.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::internal(e.to_string()))
    }

    /// What to prune and how; `method` stands in where the recipe names none.
    ///
    /// # Errors
    /// `Usage` where no method or no amount is given.
    pub fn prune_options(&self) -> Result<PruneOptions> {
        let method = self
            .prune
            .method
            .ok_or_else(|| Error::usage("no method is given: say --method, such as --method l1@global"))?;
        let amount = match (self.prune.sparsity, self.prune.count, method.pattern.sparsity()) {
            (Some(sparsity), None, _) | (None, None, Some(sparsity)) => Amount::Sparsity(sparsity),
            (None, Some(count), _) => Amount::Count(count),
            (None, None, None) => {
                return Err(Error::usage(
                    "no amount is given: say --sparsity, such as --sparsity 0.8, or --count",
                ));
            }
            (Some(_), Some(_), _) => {
                return Err(Error::usage("a sparsity and a count are given: say one of them"));
            }
        };
        let scores = self.prune.scores.clone();
        let options = PruneOptions { scores, ..self.options_for(method, amount)? };
        options.check()?;
        Ok(options)
    }

    /// What to prune by another method and amount, the rest as the recipe says.
    ///
    /// # Errors
    /// `Usage` where a layer's own sparsity is not written `GLOB=SHARE`.
    pub fn options_for(&self, method: Method, amount: Amount) -> Result<PruneOptions> {
        let prune = &self.prune;
        Ok(PruneOptions {
            method,
            amount,
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
            // The other methods of a sweep take none.
            scores: prune.scores.clone().filter(|_| method.criterion == Criterion::File),
        })
    }

    /// The form in which masks are kept, and whether originals are: as the recipe says, and otherwise as
    /// the model that is pruned keeps them.
    pub fn masks_form(&self, found: &Masks) -> (Form, bool) {
        let form = self.prune.masks.unwrap_or_else(|| found.form());
        (form, form != Form::Pairs && (self.prune.keep_originals || !found.originals.is_empty()))
    }

    /// What is written into a pruned model's metadata: the recipe, the seed, the SHA-256 of the input
    /// and the version. No times and no paths, so that the same input gives the same bytes.
    ///
    /// # Errors
    /// Where the input cannot be read.
    pub fn metadata(&self, model: &Model) -> Result<Vec<(String, String)>> {
        let mut said = Recipe { data: DataFlags::default(), sweep: SweepFlags::default(), ..self.clone() };
        for path in said.prune.mask.iter_mut().chain(&mut said.prune.scores) {
            *path = path.file_name().unwrap_or_default().into();
        }
        Ok(vec![
            ("secateur.version".into(), env!("CARGO_PKG_VERSION").into()),
            ("secateur.recipe".into(), said.to_json()?.to_string()),
            ("secateur.seed".into(), self.seed.unwrap_or(0).to_string()),
            ("secateur.input_sha256".into(), io::content_hash(model)?),
        ])
    }

    /// What to evaluate on.
    ///
    /// # Errors
    /// `Usage` where no data are named.
    pub fn eval_options(&self) -> Result<EvalOptions> {
        let d = &self.data;
        if d.data.is_empty() {
            return Err(Error::usage("no data are given: say --data, such as --data test.npz"));
        }
        Ok(EvalOptions {
            data: DataSpec {
                paths: d.data.clone(),
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
            sampling: Sampling { samples: d.samples, seed: self.seed.unwrap_or(0), batch: d.batch },
            scoring: Scoring {
                loss: d.loss.unwrap_or_default(),
                outputs: d.outputs.unwrap_or_default(),
                class_axis: d.class_axis,
            },
            output: d.output_name.clone(),
        })
    }
}

/// Reads `GLOB=SHARE`.
fn layer_override(text: &str) -> Result<Override> {
    let parts = text.rsplit_once('=').and_then(|(name, share)| Some((name, share.parse().ok()?)));
    let (name, sparsity) = parts.ok_or_else(|| {
        Error::usage(format!("`{text}`: expected a glob and a sparsity, such as 'layer4.*=0.5'"))
    })?;
    Ok(Override { name: name.to_string(), sparsity })
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
        assert_eq!((both.prune.sparsity, both.prune.count), (None, Some(7)));
        assert_eq!(both.prune.ops, ["Conv"]);
        assert_eq!(both.prune.exclude, ["a*"]);
        assert_eq!(recipe(&both.to_toml().unwrap()), both);
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
        let other = said.options_for("l1".parse().unwrap(), Amount::Sparsity(0.5)).unwrap();
        assert_eq!(other.scores, None);
        assert!(recipe("[prune]\nmethod = 'file'\nsparsity = 0.5").prune_options().is_err());
        let lost = recipe("[prune]\nmethod = 'l1'\nsparsity = 0.5\nscores = 'b.npz'");
        assert!(lost.prune_options().unwrap_err().to_string().contains("takes no file of scores"));
    }

    #[test]
    fn unknown_keys_and_words_are_refused() {
        assert!(toml::from_str::<Recipe>("[prune]\nsparsty = 0.5").is_err());
        assert!(
            toml::from_str::<Recipe>("[data]\nformat = 'jpg'").unwrap_err().to_string().contains("cifar10")
        );
        assert!(word::<Loss>("mse").is_ok());
        assert!(recipe("").prune_options().is_err());
        assert!(recipe("").eval_options().is_err());
    }
}
