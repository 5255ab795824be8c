//! Preprocessing: from a sample to the model's input.

use std::str::FromStr;

use half::{bf16, f16};
use secateur_model::{DType, Element, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::dataset::Value;
use super::image::{Filter, Image};
use super::input::InputSpec;

/// How a sample is prepared for the model, in this order: the channels are chosen, the image is
/// resized and cropped, then every value x becomes (x · scale − mean) / std and the axes
/// are put in the model's order. The default leaves values as they are.
///
/// Arrays of other types than u8 images are not resized, and integer inputs (token ids) are passed
/// on untouched; scale, mean and std apply to the inputs of a float type with at least 4 axes, or to
/// the only input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preprocess {
    /// The size images are resized to first; unchanged by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// How they are resized.
    pub filter: Filter,
    /// The centre crop after that: `[height, width]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 2]>,
    /// The factor of values.
    pub scale: Scale,
    /// Subtracted after scaling: one value, one per channel, or none.
    pub mean: Vec<f64>,
    /// The last divisor: one value, one per channel, or none.
    pub std: Vec<f64>,
    /// The order of the model's axes.
    pub layout: Layout,
    /// The channels the model sees.
    pub channels: Channels,
}

/// The size images are resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Resize {
    /// The shorter side gets this length; the longer one keeps the proportions, rounded to the
    /// nearest pixel (torchvision rounds down).
    Shorter(usize),
    /// `[height, width]`, whatever the proportions.
    Exact([usize; 2]),
}

impl FromStr for Resize {
    type Err = Error;

    /// `256` is the shorter side, `224x320` height and width.
    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(side) if side > 0 => Ok(Resize::Shorter(side)),
            _ => parse_size(text).map(Resize::Exact),
        }
    }
}

/// Reads a size in pixels: `224` is a square, `224x320` height and width.
///
/// # Errors
/// For other texts.
pub fn parse_size(text: &str) -> Result<[usize; 2]> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height), Ok(width)) if height > 0 && width > 0 => Ok([height, width]),
        _ => Err(Error::usage(format!("`{text}` is not a size in pixels, such as 224 or 224x320"))),
    }
}

/// The factor of values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scale {
    /// 1/255 for 8-bit values if a mean or std is given and all of them lie within [−1, 1], that is, if
    /// they are meant for values from 0 to 1; otherwise 1.
    #[default]
    Auto,
    /// This factor.
    Factor(f64),
}

impl FromStr for Scale {
    type Err = Error;

    /// `auto`, a number, or a quotient such as `1/255`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Scale::Auto);
        }
        let (above, below) = text.split_once('/').unwrap_or((text, "1"));
        match (above.trim().parse::<f64>(), below.trim().parse::<f64>()) {
            (Ok(above), Ok(below)) if (above / below).is_finite() && above != 0.0 => {
                Ok(Scale::Factor(above / below))
            }
            _ => Err(Error::usage(format!(
                "`{text}` is not a scale: `auto`, a number or a quotient like 1/255"
            ))),
        }
    }
}

impl Serialize for Scale {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scale::Auto => serializer.serialize_str("auto"),
            Scale::Factor(factor) => serializer.serialize_f64(*factor),
        }
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(factor) => factor.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The order of an image's axes in the model's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels before height and width.
    #[default]
    Nchw,
    /// Channels last.
    Nhwc,
}

/// The channels the model sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// As the data set has them: images red, green, blue (gray ones too).
    #[default]
    Source,
    /// Red, green, blue; gray is repeated.
    Rgb,
    /// Blue, green, red; gray is repeated.
    Bgr,
    /// One channel of luma.
    Gray,
}

impl Preprocess {
    /// Checks what can be checked without data.
    ///
    /// # Errors
    /// For a std of zero, or values that are not finite.
    pub fn check(&self) -> Result<()> {
        if let Some(value) = self.std.iter().find(|v| !v.is_finite() || **v == 0.0) {
            return Err(Error::usage(format!("the std is {value}, and values are divided by it")));
        }
        if let Some(value) = self.mean.iter().find(|v| !v.is_finite()) {
            return Err(Error::usage(format!("the mean holds {value}")));
        }
        if matches!(self.scale, Scale::Factor(factor) if !factor.is_finite() || factor == 0.0) {
            return Err(Error::usage("the scale must be finite and not zero"));
        }
        Ok(())
    }

    /// The factor that values are multiplied with: [`Scale::Auto`] resolved. For messages and recipes.
    pub fn factor(&self, eight_bit: bool) -> f64 {
        let mut statistics = self.mean.iter().chain(&self.std).peekable();
        match self.scale {
            Scale::Factor(factor) => factor,
            Scale::Auto if eight_bit && statistics.peek().is_some() && statistics.all(|v| v.abs() <= 1.0) => {
                1.0 / 255.0
            }
            Scale::Auto => 1.0,
        }
    }

    /// Whether values are changed.
    fn normalises(&self) -> bool {
        self.scale != Scale::Auto || !self.mean.is_empty() || !self.std.is_empty()
    }

    /// A sample as the model's input, without the batch axis.
    ///
    /// `only` tells that the model has no other input.
    ///
    /// # Errors
    /// Where the shape is not the input's, the type cannot be converted without loss, or the number
    /// of channels is not that of mean and std.
    pub fn apply(&self, value: &Value, input: &InputSpec, only: bool) -> Result<Tensor> {
        let tensor = match value {
            Value::Image(image) => self.image(image, input)?,
            Value::Tensor(tensor) if self.touches(input, only) && self.normalises() => {
                self.check_channels(tensor.shape())?;
                let mut values = tensor.to_f32s()?;
                let factor = self.factor(tensor.dtype() == DType::U8);
                let (channels, inner) = self.channel_stride(tensor.shape());
                for (i, value) in values.iter_mut().enumerate() {
                    *value = self.normalised((*value).into(), factor, i / inner % channels);
                }
                Tensor::new(tensor.shape(), values)?
            }
            Value::Tensor(tensor) => tensor.clone(),
        };
        let tensor = input.fit(&tensor).map_err(|e| self.hint(e, value))?;
        convert(&tensor, input.dtype)
    }

    /// Whether scale, mean and std apply to the input.
    fn touches(&self, input: &InputSpec, only: bool) -> bool {
        let float = matches!(input.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64);
        float && (only || input.shape.as_ref().is_some_and(|s| s.len() >= 4))
    }

    fn image(&self, image: &Image, input: &InputSpec) -> Result<Tensor> {
        let mut image = match self.channels {
            Channels::Source => image.clone(),
            Channels::Rgb => image.to_rgb(),
            Channels::Bgr => image.to_rgb().swapped(),
            Channels::Gray => image.to_gray(),
        };
        let target = match self.resize {
            None => None,
            Some(Resize::Exact([height, width])) => Some((width, height)),
            Some(Resize::Shorter(side)) => {
                let (w, h) = (image.width(), image.height());
                let longer = |long: usize, short: usize| {
                    (side as f64 * long as f64 / short as f64).round_ties_even() as usize
                };
                Some(if w <= h { (side, longer(h, w)) } else { (longer(w, h), side) })
            }
        };
        if let Some((width, height)) = target {
            image = image.resized(width, height, self.filter)?;
        }
        if let Some([height, width]) = self.crop {
            image = image.center_cropped(width, height)?;
        }
        let (width, height, channels) = (image.width(), image.height(), image.channels());
        let shape = match self.layout {
            Layout::Nchw => [channels, height, width],
            Layout::Nhwc => [height, width, channels],
        };
        if !matches!(input.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            if self.normalises() {
                return Err(Error::usage(format!(
                    "the model takes {} pixels: scale, mean and std do not apply",
                    input.dtype
                )));
            }
            return Tensor::new(shape, reorder(&image, self.layout, |p, _| p));
        }
        self.check_channels(&shape)?;
        let factor = self.factor(true);
        let table: Vec<f32> =
            (0..channels * 256).map(|i| self.normalised((i % 256) as f64, factor, i / 256)).collect();
        Tensor::new(shape, reorder(&image, self.layout, |p, c| table[c * 256 + usize::from(p)]))
    }

    fn normalised(&self, value: f64, factor: f64, channel: usize) -> f32 {
        let of = |list: &[f64], default| match list {
            [] => default,
            [one] => *one,
            many => many[channel],
        };
        ((value * factor - of(&self.mean, 0.0)) / of(&self.std, 1.0)) as f32
    }

    /// The number of channels of a sample, and the elements from one channel to the next.
    fn channel_stride(&self, shape: &[usize]) -> (usize, usize) {
        match (self.layout, shape.len()) {
            (Layout::Nchw, rank @ 3..) => (shape[rank - 3], (shape[rank - 2] * shape[rank - 1]).max(1)),
            (Layout::Nhwc, rank @ 3..) => (shape[rank - 1], 1),
            _ => (1, 1),
        }
    }

    fn check_channels(&self, shape: &[usize]) -> Result<()> {
        let (channels, _) = self.channel_stride(shape);
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            if list.len() > 1 && list.len() != channels {
                return Err(Error::usage(format!(
                    "{} values of {name} for samples of {channels} channels (shape {shape:?}, layout {}); \
                     give one, or one per channel",
                    list.len(),
                    if self.layout == Layout::Nchw { "nchw" } else { "nhwc" },
                )));
            }
        }
        Ok(())
    }

    /// Adds a hint where a sample has the wrong shape.
    fn hint(&self, error: Error, value: &Value) -> Error {
        let hint = match value {
            Value::Image(_) if self.resize.is_none() && self.crop.is_none() => {
                "options `resize` and `crop` bring images to the model's size, options `layout` and `channels` set \
                 their axes"
            }
            Value::Image(_) => "check options `resize`, `crop`, `layout` and `channels`",
            Value::Tensor(_) => {
                "arrays are passed on unchanged: save them in the model's order of axes, for example \
                 numpy.transpose(images, (0, 3, 1, 2)) for channels first"
            }
        };
        Error::new(error.kind(), format!("{error}; {hint}"))
    }
}

/// The image's values in the layout's order, each computed from its byte and channel.
fn reorder<T>(image: &Image, layout: Layout, value: impl Fn(u8, usize) -> T) -> Vec<T> {
    let (channels, pixels) = (image.channels(), image.pixels());
    match layout {
        Layout::Nhwc => pixels.iter().enumerate().map(|(i, &p)| value(p, i % channels)).collect(),
        Layout::Nchw => (0..channels)
            .flat_map(|c| pixels[c..].iter().step_by(channels).map(move |&p| (p, c)))
            .map(|(p, c)| value(p, c))
            .collect(),
    }
}

/// The tensor in the type the model takes: floats from any number, integers only from integers in
/// range. For bf16, which numpy does not have, u16 holds bit patterns.
fn convert(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    fn from_ints<T: Element>(tensor: &Tensor, to: impl Fn(i64) -> Option<T>) -> Result<Tensor> {
        let values: Result<Vec<T>> = tensor
            .to_i64s()?
            .into_iter()
            .map(|v| to(v).ok_or_else(|| Error::input(format!("{v} does not fit the type {}", T::DTYPE))))
            .collect();
        Tensor::new(tensor.shape(), values?)
    }
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    let floats = || tensor.to_f32s();
    let shape = tensor.shape();
    match dtype {
        DType::BF16 if tensor.dtype() == DType::U16 => {
            Tensor::new(shape, tensor.values::<u16>()?.iter().map(|&bits| bf16::from_bits(bits)).collect())
        }
        DType::F32 => Tensor::new(shape, floats()?),
        DType::F64 => Tensor::new(shape, floats()?.into_iter().map(f64::from).collect()),
        DType::F16 => Tensor::new(shape, floats()?.into_iter().map(f16::from_f32).collect()),
        DType::BF16 => Tensor::new(shape, floats()?.into_iter().map(bf16::from_f32).collect()),
        DType::I8 => from_ints(tensor, |v| i8::try_from(v).ok()),
        DType::I16 => from_ints(tensor, |v| i16::try_from(v).ok()),
        DType::I32 => from_ints(tensor, |v| i32::try_from(v).ok()),
        DType::I64 => from_ints(tensor, Some),
        DType::U8 => from_ints(tensor, |v| u8::try_from(v).ok()),
        DType::U16 => from_ints(tensor, |v| u16::try_from(v).ok()),
        DType::U32 => from_ints(tensor, |v| u32::try_from(v).ok()),
        DType::U64 => from_ints(tensor, |v| u64::try_from(v).ok()),
        DType::Bool => from_ints(tensor, |v| [false, true].get(usize::try_from(v).ok()?).copied()),
        _ => Err(Error::unsupported(format!("the model takes {dtype}, which data sets do not support"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(dtype: DType, shape: &[usize]) -> InputSpec {
        let shape = [None].into_iter().chain(shape.iter().map(|&d| Some(d))).collect();
        InputSpec { name: "x".into(), dtype, shape: Some(shape) }
    }

    fn image() -> Value {
        Value::Image(Image::new(2, 1, 3, vec![0, 51, 102, 255, 204, 153]).unwrap())
    }

    fn values(preprocess: &Preprocess, value: &Value, input: &InputSpec) -> Vec<f32> {
        preprocess.apply(value, input, true).unwrap().to_f32s().unwrap()
    }

    #[test]
    fn automatic_scale_goes_by_mean_and_std() {
        let raw = values(&Preprocess::default(), &image(), &input(DType::F32, &[3, 1, 2]));
        assert_eq!(raw, [0.0, 255.0, 51.0, 204.0, 102.0, 153.0]);
        let mut preprocess = Preprocess { mean: vec![0.5], std: vec![0.5], ..Preprocess::default() };
        assert_eq!(values(&preprocess, &image(), &input(DType::F32, &[3, 1, 2]))[..2], [-1.0, 1.0]);
        preprocess.mean = vec![127.5];
        assert_eq!(preprocess.factor(true), 1.0);
        preprocess.scale = Scale::Factor(2.0);
        assert_eq!(values(&preprocess, &image(), &input(DType::F32, &[3, 1, 2]))[1], (510.0 - 127.5) / 0.5);
    }

    #[test]
    fn layouts_and_channels() {
        let mut preprocess = Preprocess {
            layout: Layout::Nhwc,
            scale: Scale::Factor(1.0),
            mean: vec![0.0, 1.0, 2.0],
            channels: Channels::Bgr,
            ..Preprocess::default()
        };
        let found = values(&preprocess, &image(), &input(DType::F32, &[1, 2, 3]));
        assert_eq!(found, [102.0, 50.0, -2.0, 153.0, 203.0, 253.0]);
        preprocess = Preprocess { channels: Channels::Gray, ..Preprocess::default() };
        assert_eq!(values(&preprocess, &image(), &input(DType::F32, &[2])), [42.0, 213.0]);
        assert_eq!(values(&preprocess, &image(), &input(DType::U8, &[1, 2])), [42.0, 213.0]);
    }

    #[test]
    fn arrays_of_floats_are_normalised_along_their_channels() {
        let tensor = Tensor::new([2, 1, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let preprocess = Preprocess { mean: vec![1.0, 3.0], std: vec![2.0], ..Preprocess::default() };
        let found = values(&preprocess, &Value::Tensor(tensor), &input(DType::F32, &[2, 1, 2]));
        assert_eq!(found, [0.0, 0.5, 0.0, 0.5]);
        let ids = Value::Tensor(Tensor::vector(vec![7i64]));
        // The bits of 1.5 and of -2 as bf16.
        let bits = Value::Tensor(Tensor::vector(vec![0x3fc0u16, 0xc000]));
        assert_eq!(values(&Preprocess::default(), &bits, &input(DType::BF16, &[2])), [1.5, -2.0]);
        assert_eq!(values(&preprocess, &ids, &input(DType::I64, &[1])), [7.0]);
    }

    #[test]
    fn sizes_follow_the_shorter_side() {
        let image = Value::Image(Image::new(5, 3, 1, vec![9; 15]).unwrap());
        let preprocess = Preprocess { resize: Some(Resize::Shorter(4)), ..Preprocess::default() };
        // 4 · 5 / 3 = 6.67 becomes 7.
        assert_eq!(values(&preprocess, &image, &input(DType::F32, &[1, 4, 7])).len(), 28);
        let preprocess = Preprocess { crop: Some([2, 2]), ..preprocess };
        assert_eq!(values(&preprocess, &image, &input(DType::F32, &[1, 2, 2])), [9.0; 4]);
    }

    #[test]
    fn mistakes_are_explained() {
        let fails = |p: &Preprocess, shape: &[usize]| {
            p.apply(&image(), &input(DType::F32, shape), true).unwrap_err().to_string()
        };
        let error = fails(&Preprocess::default(), &[3, 4, 4]);
        assert!(
            error.contains("takes samples of shape [3, 4, 4], found [3, 1, 2]; options `resize` and `crop`"),
            "{error}"
        );
        let two = Preprocess { mean: vec![0.1, 0.2], ..Preprocess::default() };
        assert!(fails(&two, &[3, 1, 2]).contains("2 values of mean for samples of 3 channels"));
        let zero = Preprocess { std: vec![0.0], ..Preprocess::default() };
        assert!(zero.check().is_err());
        for text in ["", "1/0", "0", "x", "nan"] {
            assert!(text.parse::<Scale>().is_err(), "{text}");
        }
        for text in ["", "0", "3x0", "-1", "axb"] {
            assert!(text.parse::<Resize>().is_err(), "{text}");
        }
    }

    #[test]
    fn recipes_say_what_flags_say() {
        let text = "resize = 256\nfilter = \"bicubic\"\ncrop = [224, 224]\nscale = \"1/255\"\nmean = [0.5]\n";
        let preprocess: Preprocess = toml::from_str(text).unwrap();
        let expected = Preprocess {
            resize: Some("256".parse().unwrap()),
            filter: Filter::Bicubic,
            crop: Some(parse_size("224").unwrap()),
            scale: "1/255".parse().unwrap(),
            mean: vec![0.5],
            ..Preprocess::default()
        };
        assert_eq!(preprocess, expected);
        let written = toml::to_string(&expected).unwrap();
        assert_eq!(toml::from_str::<Preprocess>(&written).unwrap(), expected);
        assert!(toml::from_str::<Preprocess>("resise = 3").is_err());
    }
}
