//! What models are evaluated on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(feature = "cli")]
use super::word;
use super::{is_default, value};
use crate::data::metrics::{Loss, Outputs};
use crate::data::{Channels, Filter, Format, Layout, Resize, Scale};

/// What models are evaluated on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct DataFlags {
    /// Data: .npz, .npy, MNIST idx or CIFAR .bin files (also gzipped), or a folder of images; several are joined
    #[cfg_attr(feature = "cli", arg(long, short, value_name = "PATH", num_args = 1.., help_heading = "Data"))]
    #[serde(deserialize_with = "value::list::deserialize", skip_serializing_if = "is_default")]
    pub data: Vec<PathBuf>,
    /// Where the labels are: an array in the .npz, a file, or `prefix` for the part of an image's name before `_`
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME|FILE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Option<String>,
    /// The format of the data: npz, npy, idx, cifar10, cifar100 or images [default: told from the content]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FORMAT", value_parser = word::<Format>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub format: Option<Format>,
    /// A file with the names of the image folder's classes in the order of the model's outputs, one per line
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub classes: Option<PathBuf>,
    /// The model input that takes the data, if there are several
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub input: Option<String>,
    /// Resize images: 256 (the shorter side) or 224x320 (height x width)
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub resize: Option<Resize>,
    /// How to resize: bilinear or bicubic [default: bilinear]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILTER", value_parser = word::<Filter>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Option<Filter>,
    /// Centre-crop to this size: 224 or 224x320
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", value_parser = crop, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub crop: Option<Crop>,
    /// Multiply values by this: a number, 1/255 or auto (1/255 for 8-bit values with a mean or std) [default: auto]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FACTOR", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub scale: Option<Scale>,
    /// Subtract this after scaling, one value per channel: 0.485,0.456,0.406
    #[cfg_attr(
        feature = "cli",
        arg(long, value_delimiter = ',', allow_hyphen_values = true, help_heading = "Data")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub mean: Vec<f64>,
    /// Divide by this last, one value per channel: 0.229,0.224,0.225
    #[cfg_attr(feature = "cli", arg(long, value_delimiter = ',', help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub std: Vec<f64>,
    /// The order of the model's axes: nchw or nhwc [default: told from the input's shape]
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Layout>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub layout: Option<Layout>,
    /// The channels the model expects: source (as in the data), rgb, bgr or gray [default: source]
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Channels>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub channels: Option<Channels>,
    /// Use only this many samples, drawn by the seed
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub samples: Option<usize>,
    /// Batch size [default: the model's, or 32]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub batch: Option<usize>,
    /// The loss: cross-entropy or mse [default: cross-entropy]
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Loss>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub loss: Option<Loss>,
    /// What the outputs are: auto, logits or probabilities [default: auto]
    #[cfg_attr(feature = "cli", arg(long, value_parser = word::<Outputs>, help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub outputs: Option<Outputs>,
    /// The output to evaluate [default: the first]
    #[cfg_attr(feature = "cli", arg(long, value_name = "NAME", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub output_name: Option<String>,
    /// The axis of the classes in the output [default: told from the labels' shape]
    #[cfg_attr(feature = "cli", arg(long, value_name = "AXIS", help_heading = "Data"))]
    #[serde(skip_serializing_if = "is_default")]
    pub class_axis: Option<usize>,
}

/// A size in pixels, written `224` or `224x320`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crop(pub [usize; 2]);

#[cfg(feature = "cli")]
fn crop(text: &str) -> secateur_model::Result<Crop> {
    crate::data::parse_size(text).map(Crop)
}
