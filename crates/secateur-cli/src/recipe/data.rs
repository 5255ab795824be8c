//! What models are evaluated on.

use std::path::PathBuf;

use secateur::data::metrics::{Loss, Outputs};
use secateur::data::{Channels, Filter, Format, Layout, Resize, Scale};
use serde::{Deserialize, Serialize};

use super::word;
use super::{is_default, value};

/// What models are evaluated on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct DataFlags {
    /// Data: .npz, .npy, MNIST idx or CIFAR .bin files (also gzipped), or a folder of images; several are joined
    #[arg(long, short, value_name = "PATH", num_args = 1.., help_heading = "Data")]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub(crate) data: Vec<PathBuf>,
    /// The labels: an array in the .npz, a file, or `prefix` (the part of an image's file name before `_`)
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) labels: Option<String>,
    /// The format of the data: npz, npy, idx, cifar10, cifar100 or images [default: detected from the content]
    #[arg(long, value_name = "FORMAT", value_parser = word::<Format>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) format: Option<Format>,
    /// Text file with the class names of an image folder, one per line, in the order of the model's outputs
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) classes: Option<PathBuf>,
    /// The model input that takes the data, if there are several
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) input: Option<String>,
    /// Resize images: 256 (the shorter side) or 224x320 (height x width)
    #[arg(long, value_name = "SIZE", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) resize: Option<Resize>,
    /// How to resize: bilinear or bicubic [default: bilinear]
    #[arg(long, value_name = "FILTER", value_parser = word::<Filter>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) filter: Option<Filter>,
    /// Centre-crop to this size: 224 or 224x320
    #[arg(long, value_name = "SIZE", value_parser = crop, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) crop: Option<Crop>,
    /// Multiply values by this: a number, 1/255 or auto (1/255 for 8-bit values with a mean or std) [default: auto]
    #[arg(long, value_name = "FACTOR", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) scale: Option<Scale>,
    /// Subtract this after scaling, one value per channel: 0.485,0.456,0.406
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mean: Vec<f64>,
    /// Then divide by this, one value per channel: 0.229,0.224,0.225
    #[arg(long, value_delimiter = ',', help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) std: Vec<f64>,
    /// The order of the model's axes: nchw or nhwc [default: inferred from the input's shape]
    #[arg(long, value_parser = word::<Layout>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) layout: Option<Layout>,
    /// The channels the model expects: source (as in the data), rgb, bgr or gray [default: source]
    #[arg(long, value_parser = word::<Channels>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) channels: Option<Channels>,
    /// Evaluate a random subset of N samples, chosen by --seed
    #[arg(long, value_name = "N", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) samples: Option<usize>,
    /// Batch size [default: the model's, or 32; 64 in training]
    #[arg(long, value_name = "N", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) batch: Option<usize>,
    /// The loss: cross-entropy or mse [default: cross-entropy]
    #[arg(long, value_parser = word::<Loss>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) loss: Option<Loss>,
    /// How to read the outputs: auto, logits or probabilities [default: auto]
    #[arg(long, value_parser = word::<Outputs>, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) outputs: Option<Outputs>,
    /// The output to evaluate [default: the first]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) output_name: Option<String>,
    /// The class axis of the output [default: inferred from the labels' shape]
    #[arg(long, value_name = "AXIS", help_heading = "Data")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) class_axis: Option<usize>,
}

/// A size in pixels, written `224` or `224x320`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Crop(pub(crate) [usize; 2]);

fn crop(text: &str) -> secateur::Result<Crop> {
    secateur::data::parse_size(text).map(Crop)
}
