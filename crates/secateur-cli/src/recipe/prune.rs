//! What is pruned and how.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use secateur::prune::masks::Form;
use secateur::prune::method::Method;
use serde::{Deserialize, Serialize};

use super::{Share, is_default, value, word};

/// What is pruned and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct PruneFlags {
    /// How to prune, such as l1, l1@global, l2/channel, l1/2:4 or l1+erk; several are compared: see `secateur methods`
    #[arg(
        long,
        short,
        alias = "methods",
        value_name = "METHOD",
        value_delimiter = ',',
        help_heading = "Pruning"
    )]
    #[serde(with = "value::list", alias = "methods", skip_serializing_if = "is_default")]
    pub(crate) method: Vec<Method>,
    /// Final share of zeros among the selected weights (or channels), such as 0.8 or 80%
    #[arg(
        long,
        short,
        alias = "sparsities",
        value_name = "SHARE",
        value_delimiter = ',',
        help_heading = "Pruning",
        conflicts_with = "count"
    )]
    #[serde(with = "value::list", alias = "sparsities", skip_serializing_if = "is_default")]
    pub(crate) sparsity: Vec<Share>,
    /// Final number of zeros among the selected weights (or channels), instead of a share
    #[arg(long, value_name = "N", help_heading = "Pruning")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) count: Option<usize>,
    /// The sparsity applies to the weights that are not zero yet, as in torch.nn.utils.prune
    #[arg(long, help_heading = "Pruning")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) of_remaining: bool,
    /// A file of scores (.npz or .safetensors) for the criterion `file`, each array named like its tensor
    #[arg(long, value_name = "FILE", help_heading = "Pruning")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) scores: Option<PathBuf>,
    /// Override the sparsity of layers whose name matches: 'GLOB=SHARE'; the last match wins
    #[arg(long = "layer", value_name = "GLOB=SHARE", help_heading = "Pruning")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) layer: Vec<String>,
    /// Keep the bias and batch-norm entries of pruned channels, as in torch.nn.utils.prune
    #[arg(long, help_heading = "Pruning")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) weights_only: bool,
    /// Also apply the masks in this file (npz, safetensors, PyTorch), each named like its tensor
    #[arg(long = "mask", value_name = "FILE", help_heading = "Masks")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) mask: Vec<PathBuf>,
    /// How to store masks: zeros (in the weights themselves), sidecar (a file next to the model) or pairs (PyTorch's
    /// weight_orig and weight_mask) [default: as in the input, otherwise zeros]
    #[arg(long, value_name = "FORM", value_parser = form(), hide_possible_values = true, help_heading = "Masks")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) masks: Option<Form>,
    /// Keep the original weights in a sidecar, so that `secateur undo` can restore them
    #[arg(long, help_heading = "Masks")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) keep_originals: bool,
    /// Prune only the weights of these operators, such as Conv,Gemm
    #[arg(long, value_name = "OP", value_delimiter = ',', help_heading = "Selection")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) ops: Vec<String>,
    /// Prune only layers whose name matches a glob
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) include: Vec<String>,
    /// Skip layers whose name matches a glob
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) exclude: Vec<String>,
    /// Prune only layers inside these modules, such as encoder or encoder.layer1
    #[arg(long, value_name = "MODULE", value_delimiter = ',', help_heading = "Selection")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) module: Vec<String>,
    /// Prune the biases of the selected layers instead of their weights
    #[arg(long, help_heading = "Selection")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) biases: bool,
}

impl PruneFlags {
    /// The sparsities, as numbers.
    pub(crate) fn sparsities(&self) -> Vec<f64> {
        self.sparsity.iter().map(|share| share.get()).collect()
    }
}

/// The forms of masks by name; `beside` is an older name of the sidecar.
fn form() -> impl TypedValueParser<Value = Form> {
    let names = [
        PossibleValue::new("zeros"),
        PossibleValue::new("sidecar").alias("beside"),
        PossibleValue::new("pairs"),
    ];
    PossibleValuesParser::new(names).try_map(|name| word::<Form>(&name))
}
