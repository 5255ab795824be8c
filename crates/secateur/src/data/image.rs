//! Images: decoding, resizing, cropping.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use secateur_model::io::unpack_limit;
use secateur_model::tensor::checked_len;
use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::resize::{resize_columns, resize_rows};

/// An image of 8-bit pixels, rows of interleaved channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

/// The filter for resizing. Both filters are stretched when an image gets smaller, as in Pillow, so
/// they do not alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The triangle filter.
    #[default]
    Bilinear,
    /// The cubic filter with a = −0.5 (Catmull–Rom).
    Bicubic,
}

/// The most pixels an image may have; Pillow's limit against decompression bombs.
const MAX_PIXELS: u64 = 178_956_970;

impl Image {
    /// Makes an image from its pixels: rows from the top, channels interleaved.
    ///
    /// # Errors
    /// Where there are neither 1 nor 3 channels, or the pixels do not fill the image.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        let len = checked_len(&[width, height, channels]);
        if !matches!(channels, 1 | 3) || len != Some(pixels.len()) || pixels.is_empty() {
            return Err(Error::input(format!(
                "{} bytes are not an image of {width}×{height} pixels with {channels} channels (1 or 3)",
                pixels.len()
            )));
        }
        Ok(Image { width, height, channels, pixels })
    }

    /// The width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 (gray) or 3 (red, green, blue unless [`Image::swapped`]).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The pixels: rows from the top, channels interleaved.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// One gray channel: (19595 R + 38470 G + 7471 B + 2¹⁵) / 2¹⁶, ITU-R 601 luma as Pillow computes it.
    #[must_use]
    pub fn to_gray(&self) -> Image {
        if self.channels == 1 {
            return self.clone();
        }
        let luma = |p: &[u8]| {
            let sum = 19595 * u32::from(p[0]) + 38470 * u32::from(p[1]) + 7471 * u32::from(p[2]);
            ((sum + 0x8000) >> 16) as u8
        };
        Image { channels: 1, pixels: self.pixels.chunks_exact(3).map(luma).collect(), ..*self }
    }

    /// Three channels; gray is repeated.
    #[must_use]
    pub fn to_rgb(&self) -> Image {
        if self.channels == 3 {
            return self.clone();
        }
        Image { channels: 3, pixels: self.pixels.iter().flat_map(|&p| [p; 3]).collect(), ..*self }
    }

    /// The channels in the opposite order: blue, green, red.
    #[must_use]
    pub fn swapped(&self) -> Image {
        let mut image = self.clone();
        image.pixels.chunks_exact_mut(self.channels).for_each(<[u8]>::reverse);
        image
    }

    /// The image at another size: the pixels of Pillow's `Image.resize`.
    ///
    /// # Errors
    /// Where a side is zero or the image gets larger than the limit.
    pub fn resized(&self, width: usize, height: usize, filter: Filter) -> Result<Image> {
        // The image between the two passes counts too.
        let fits = |height| checked_len(&[width, height]).is_some_and(|n| n as u64 <= MAX_PIXELS && n > 0);
        if !fits(height) || !fits(self.height) {
            return Err(Error::usage(format!("cannot resize to {width}×{height} pixels")));
        }
        let rows = resize_rows(&self.pixels, self.channels, self.width, width, filter);
        let pixels = resize_columns(&rows, width * self.channels, self.height, height, filter);
        Ok(Image { width, height, channels: self.channels, pixels })
    }

    /// Crops the centre of the image; the smaller half of an odd margin comes first (torchvision rounds
    /// it to even).
    ///
    /// # Errors
    /// Where the image is smaller.
    pub fn center_cropped(&self, width: usize, height: usize) -> Result<Image> {
        if width > self.width || height > self.height || width == 0 || height == 0 {
            return Err(Error::usage(format!(
                "cannot crop {width}×{height} pixels from an image of {}×{}; resize it first",
                self.width, self.height
            )));
        }
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let mut pixels = Vec::with_capacity(width * height * self.channels);
        for row in self.pixels.chunks_exact(self.width * self.channels).skip(top).take(height) {
            pixels.extend_from_slice(&row[left * self.channels..][..width * self.channels]);
        }
        Ok(Image { width, height, channels: self.channels, pixels })
    }
}

/// Decodes a JPEG, PNG, BMP, WebP or PNM image to red, green and blue.
///
/// Gray is repeated, CMYK converted, transparency dropped, 16 bits reduced to 8; the orientation in
/// a photograph's metadata is ignored, as torchvision's loader does.
///
/// # Errors
/// Where the bytes are another format, damaged or cut off, or the header claims more pixels than so
/// many bytes can hold.
pub fn decode_image(bytes: &[u8]) -> Result<Image> {
    let (format, pixels_per_byte) = match image::guess_format(bytes) {
        // Each block of 64 samples takes a bit at least, and subsampled chroma covers four times that.
        Ok(ImageFormat::Jpeg) => (ImageFormat::Jpeg, 8 * 64 * 4),
        // A bit a pixel, packed by deflate at its best.
        Ok(ImageFormat::Png) => (ImageFormat::Png, 8 * 1032),
        // A bit a pixel, or runs of 255 pixels in two bytes.
        Ok(ImageFormat::Bmp) => (ImageFormat::Bmp, 128),
        // A bit a pixel.
        Ok(ImageFormat::Pnm) => (ImageFormat::Pnm, 8),
        // One colour takes no bits at all: [`MAX_PIXELS`] is the bound.
        Ok(ImageFormat::WebP) => (ImageFormat::WebP, MAX_PIXELS),
        _ => return Err(Error::unsupported("is not a JPEG, PNG, BMP, WebP or PNM image")),
    };
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Error::input("the JPEG image has no end marker: truncated?"));
    }
    let damaged = |e: image::ImageError| Error::input(format!("cannot decode the image: {e}"));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    let limit = unpack_limit(bytes.len());
    limits.max_alloc = Some(limit);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS || pixels > (bytes.len() as u64).saturating_mul(pixels_per_byte) {
        return Err(Error::input(format!(
            "the header claims {width}×{height} pixels, too many for a file of {} bytes or for the limit of {MAX_PIXELS}",
            bytes.len()
        )));
    }
    // As decoded, and as red, green and blue of 8 bits.
    if decoder.total_bytes().max(pixels * 3) > limit {
        return Err(Error::input(format!(
            "{width}×{height} pixels take more than {} MiB, the most that {} compressed bytes may unpack to",
            limit >> 20,
            bytes.len()
        )));
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    Image::new(width as usize, height as usize, 3, decoded.into_rgb8().into_raw())
}

/// Whether the end marker comes after the first scan. Decoders fill what is missing with gray, which
/// would be evaluated as if it were the photograph.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    // Segments are skipped by their length: thumbnails in the metadata have end markers too.
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == START_OF_SCAN {
            return bytes[at..].windows(2).any(|w| w == [0xff, 0xd9]);
        }
        at += match marker {
            0xff => 1, // fill byte
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: usize, height: usize, channels: usize) -> Image {
        let pixels = (0..width * height * channels).map(|i| i as u8).collect();
        Image::new(width, height, channels, pixels).unwrap()
    }

    #[test]
    fn an_odd_margin_is_smaller_first() {
        let image = ramp(5, 7, 1);
        // Margins 1 and 3: offsets 0 and 1.
        let crop = image.center_cropped(4, 4).unwrap();
        assert_eq!(crop.pixels()[0], 5);
        let error = image.center_cropped(6, 4).unwrap_err().to_string();
        assert!(error.contains("6×4 pixels from an image of 5×7"), "{error}");
    }

    #[test]
    fn channels() {
        let image = Image::new(1, 2, 3, vec![255, 0, 0, 10, 10, 10]).unwrap();
        assert_eq!(image.to_gray().pixels(), [76, 10]);
        assert_eq!(image.swapped().pixels(), [0, 0, 255, 10, 10, 10]);
        assert_eq!(image.to_gray().to_rgb().pixels(), [76, 76, 76, 10, 10, 10]);
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(decode_image(b"GIF89a......").unwrap_err().to_string().contains("is not a JPEG"));
        assert!(decode_image(b"").unwrap_err().to_string().contains("is not a JPEG"));
        assert!(decode_image(&[0xff, 0xd8, 0xff, 0xe0]).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn other_formats_hold_the_same_pixels() {
        let pixels: Vec<u8> = (0..3 * 4 * 3).map(|i| (i * 7) as u8).collect();
        let ppm = [b"P6\n4 3\n255\n".as_slice(), &pixels].concat();
        assert_eq!(decode_image(&ppm).unwrap().pixels(), pixels);
        let buffer = image::RgbImage::from_raw(4, 3, pixels.clone()).unwrap();
        for format in [ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Png] {
            let mut bytes = Vec::new();
            buffer.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
            assert_eq!(decode_image(&bytes).unwrap().pixels(), pixels, "{format:?}");
            assert!(decode_image(&bytes[..bytes.len() - 8]).is_err() || format == ImageFormat::Png);
        }
        // A header that claims more than the file can hold.
        let mut bytes = Vec::new();
        buffer.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Bmp).unwrap();
        bytes[18..26].copy_from_slice(&[0, 32, 0, 0, 0, 32, 0, 0]);
        assert!(decode_image(&bytes).is_err());
    }
}
