//! Random changes of training images.

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::dataset::Value;
use super::image::Image;

/// Changes of images before they are preprocessed, other ones in each epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Whether each image is mirrored with probability ½.
    pub flip: bool,
    /// So many black pixels are put around each image, and a piece of its former size is cut out at a random place.
    pub pad: usize,
}

impl Augment {
    /// Whether nothing is changed.
    pub fn is_none(&self) -> bool {
        *self == Augment::default()
    }

    /// The values of a sample, their images changed as the draws say: each a uniform number of 64 bits, by its position.
    ///
    /// # Errors
    /// `Usage` where the sample has no image.
    pub fn apply(&self, values: Vec<Value>, draw: impl Fn(u64) -> u64) -> Result<Vec<Value>> {
        if self.is_none() {
            return Ok(values);
        }
        let span = 2 * self.pad as u64 + 1;
        let flip = self.flip && draw(0) >> 63 == 1;
        let [down, right] = [1, 2].map(|i| ((u128::from(draw(i)) * u128::from(span)) >> 64) as usize);
        let mut images = 0;
        let values = values.into_iter().map(|value| match value {
            Value::Image(image) => {
                images += 1;
                shifted(&image, self.pad, [down, right], flip).map(Value::Image)
            }
            other => Ok(other),
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        match images {
            0 => Err(Error::usage("images are flipped and cropped only: the data are arrays of numbers")),
            _ => Ok(values),
        }
    }
}

/// The image at a place within itself with a black border, mirrored where asked.
fn shifted(image: &Image, pad: usize, [down, right]: [usize; 2], flip: bool) -> Result<Image> {
    let (width, height, channels) = (image.width(), image.height(), image.channels());
    let mut pixels = vec![0u8; image.pixels().len()];
    for y in 0..height {
        let Some(from_y) = (y + down).checked_sub(pad).filter(|&y| y < height) else { continue };
        for x in 0..width {
            let Some(from_x) = (x + right).checked_sub(pad).filter(|&x| x < width) else { continue };
            let to = (y * width + if flip { width - 1 - x } else { x }) * channels;
            let from = (from_y * width + from_x) * channels;
            pixels[to..to + channels].copy_from_slice(&image.pixels()[from..from + channels]);
        }
    }
    Image::new(width, height, channels, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image::new(3, 2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap()
    }

    #[test]
    fn images_are_cut_out_of_a_black_border() {
        let pixels = |at, flip| shifted(&image(), 1, at, flip).unwrap().pixels().to_vec();
        assert_eq!(pixels([1, 1], false), [1, 2, 3, 4, 5, 6]);
        assert_eq!(pixels([0, 0], false), [0, 0, 0, 0, 1, 2]);
        assert_eq!(pixels([2, 2], false), [5, 6, 0, 0, 0, 0]);
        assert_eq!(pixels([1, 1], true), [3, 2, 1, 6, 5, 4]);
    }

    #[test]
    fn every_place_is_drawn_and_arrays_are_refused() {
        let augment = Augment { flip: true, pad: 1 };
        let mut seen = std::collections::BTreeSet::new();
        for sample in 0..400u64 {
            let stream = crate::random::Stream::new(sample, "augment");
            let values = augment.apply(vec![Value::Image(image())], |i| stream.draw(i)).unwrap();
            let Value::Image(image) = &values[0] else { panic!("no image") };
            seen.insert(image.pixels().to_vec());
        }
        assert_eq!(seen.len(), 2 * 3 * 3);
        let numbers = Value::Tensor(secateur_model::Tensor::vector(vec![1f32]));
        assert!(augment.apply(vec![numbers.clone()], |_| 0).is_err());
        assert_eq!(Augment::default().apply(vec![numbers.clone()], |_| 0).unwrap(), [numbers]);
    }
}
