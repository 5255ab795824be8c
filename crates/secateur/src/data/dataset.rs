//! Data sets: samples by index.

use secateur_model::{DType, Error, Result, Tensor};

use super::array::Array;
use super::image::Image;

/// One value of a sample, before preprocessing.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An image.
    Image(Image),
    /// Numbers of any other kind.
    Tensor(Tensor),
}

/// Samples by index, each with one value for every input, and perhaps a label.
pub trait Dataset: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The model's inputs the values are meant for; an empty name fits a model's only input.
    fn input_names(&self) -> &[String];

    /// The values of a sample, in the order of [`Dataset::input_names`].
    ///
    /// # Errors
    /// Where there is no such sample, or its file cannot be read or is damaged.
    fn sample(&self, index: usize) -> Result<Vec<Value>>;

    /// The label of a sample, where the set has labels: i64 for classes (one number, or one for each
    /// position), f32 for the targets of a regression.
    ///
    /// # Errors
    /// Where there is no such sample.
    fn label(&self, index: usize) -> Result<Option<Tensor>>;

    /// The names of the classes in the order of the labels, where the set knows them.
    fn classes(&self) -> Option<&[String]> {
        None
    }

    /// Whether the order of the classes is assumed: they are sorted by name because no file gives their order.
    fn assumes_order(&self) -> bool {
        false
    }

    /// Notes about the data, such as files that were left out.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A data set of arrays whose rows are the samples.
pub(super) struct ArrayDataset {
    names: Vec<String>,
    arrays: Vec<(Array, Kind)>,
    labels: Option<Array>,
}

/// What the rows of an array are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Numbers,
    /// `[height, width]` or `[height, width, channels]`.
    Interleaved,
    /// `[channels, height, width]`.
    Planes,
}

impl Kind {
    /// Rows of u8 are images if they have 2 axes, or 3 axes with the last or else the first of length 1
    /// or 3.
    fn of(array: &Array) -> Kind {
        match (array.dtype(), array.row_shape()) {
            (DType::U8, [_, _] | [_, _, 1 | 3]) => Kind::Interleaved,
            (DType::U8, [1 | 3, _, _]) => Kind::Planes,
            _ => Kind::Numbers,
        }
    }
}

impl ArrayDataset {
    /// A data set of named arrays with as many rows each.
    pub(super) fn new(arrays: Vec<(String, Array)>, labels: Option<Array>) -> Result<Self> {
        let Some(rows) = arrays.first().map(|(_, a)| a.rows()) else {
            return Err(Error::input("holds no arrays but the labels"));
        };
        for (name, array) in &arrays {
            if array.shape().is_empty() || array.row_shape().contains(&0) {
                return Err(Error::input(format!(
                    "array `{name}` of shape {:?} has no samples",
                    array.shape()
                )));
            }
            if array.rows() != rows {
                return Err(Error::input(format!(
                    "array `{name}` has {} rows, `{}` has {rows}",
                    array.rows(),
                    arrays[0].0
                )));
            }
        }
        if let Some(labels) = &labels
            && (labels.rows() != rows || labels.shape().is_empty() || labels.row_shape().contains(&0))
        {
            return Err(Error::input(format!("labels of shape {:?} for {rows} samples", labels.shape())));
        }
        let (names, arrays) = arrays.into_iter().map(|(name, a)| (name, (a.clone(), Kind::of(&a)))).unzip();
        Ok(ArrayDataset { names, arrays, labels })
    }
}

impl Dataset for ArrayDataset {
    fn len(&self) -> usize {
        self.arrays[0].0.rows()
    }

    fn input_names(&self) -> &[String] {
        &self.names
    }

    fn sample(&self, index: usize) -> Result<Vec<Value>> {
        let value = |(array, kind): &(Array, Kind)| {
            Ok(Value::Image(match (kind, array.row_shape()) {
                (Kind::Interleaved, &[height, width]) => {
                    Image::new(width, height, 1, array.row_bytes(index)?.to_vec())?
                }
                (Kind::Interleaved, &[height, width, channels]) => {
                    Image::new(width, height, channels, array.row_bytes(index)?.to_vec())?
                }
                (Kind::Planes, &[channels, height, width]) => {
                    let planes = array.row_bytes(index)?;
                    let plane = width * height;
                    let pixels = (0..plane * channels).map(|i| planes[i % channels * plane + i / channels]);
                    Image::new(width, height, channels, pixels.collect())?
                }
                _ => return Ok(Value::Tensor(array.row(index)?)),
            }))
        };
        self.arrays.iter().map(value).collect()
    }

    fn label(&self, index: usize) -> Result<Option<Tensor>> {
        let Some(labels) = &self.labels else {
            return Ok(None);
        };
        let row = labels.row(index)?;
        Ok(Some(match row.dtype() {
            dtype if dtype.is_prunable() => Tensor::new(row.shape(), row.to_f32s()?)?,
            _ => Tensor::new(row.shape(), row.to_i64s()?)?,
        }))
    }
}

/// Several data sets of the same kind, one after the other.
pub(super) struct Joined {
    sets: Vec<Box<dyn Dataset>>,
}

impl Joined {
    /// Joins sets; all have labels, or none.
    pub(super) fn new(sets: Vec<Box<dyn Dataset>>) -> Result<Self> {
        for set in &sets[1..] {
            if set.input_names() != sets[0].input_names() {
                return Err(Error::input(format!(
                    "the files hold different inputs: {:?} and {:?}",
                    sets[0].input_names(),
                    set.input_names()
                )));
            }
            if set.classes() != sets[0].classes() {
                return Err(Error::input(
                    "the folders have different classes; list them in a file (option `classes`)",
                ));
            }
        }
        let (mut with, mut without) = (false, false);
        for set in sets.iter().filter(|s| !s.is_empty()) {
            let labelled = set.label(0)?.is_some();
            with |= labelled;
            without |= !labelled;
        }
        if with && without {
            return Err(Error::input("only some of the files have labels"));
        }
        Ok(Joined { sets })
    }

    fn find(&self, mut index: usize) -> Result<(&dyn Dataset, usize)> {
        for set in &self.sets {
            if index < set.len() {
                return Ok((set.as_ref(), index));
            }
            index -= set.len();
        }
        Err(Error::internal(format!("there is no sample {index}")))
    }
}

impl Dataset for Joined {
    fn len(&self) -> usize {
        self.sets.iter().map(|s| s.len()).sum()
    }

    fn input_names(&self) -> &[String] {
        self.sets[0].input_names()
    }

    fn sample(&self, index: usize) -> Result<Vec<Value>> {
        let (set, index) = self.find(index)?;
        set.sample(index)
    }

    fn label(&self, index: usize) -> Result<Option<Tensor>> {
        let (set, index) = self.find(index)?;
        set.label(index)
    }

    fn classes(&self) -> Option<&[String]> {
        self.sets[0].classes()
    }

    fn assumes_order(&self) -> bool {
        self.sets[0].assumes_order()
    }

    fn notes(&self) -> Vec<String> {
        self.sets.iter().flat_map(|set| set.notes()).collect()
    }
}
