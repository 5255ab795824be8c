//! Pictures against Pillow: `goldens/pictures/make.py` wrote the expected pixels.

use std::collections::BTreeMap;
use std::path::Path;

use secateur::data::{Array, Filter, Image, decode_image, read_npz};

fn goldens() -> BTreeMap<String, Array> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/pictures/pictures.npz");
    read_npz(std::fs::read(path).unwrap().into()).unwrap().into_iter().collect()
}

fn bytes(array: &Array) -> Vec<u8> {
    (0..array.rows()).flat_map(|row| array.row_bytes(row).unwrap().to_vec()).collect()
}

fn image(array: &Array) -> Image {
    let (height, width) = (array.shape()[0], array.shape()[1]);
    Image::new(width, height, array.shape().get(2).copied().unwrap_or(1), bytes(array)).unwrap()
}

/// The largest difference, and the mean of all.
fn difference(a: &Image, b: &Image) -> (u8, f64) {
    assert_eq!((a.width(), a.height(), a.channels()), (b.width(), b.height(), b.channels()));
    let differences = a.pixels().iter().zip(b.pixels()).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (differences.max().unwrap(), sum / a.pixels().len() as f64)
}

#[test]
fn resized_as_pillow_does() {
    let goldens = goldens();
    let mut cases = 0;
    for (name, expected) in goldens.iter().filter(|(name, _)| name.contains("/bi")) {
        let (mode, rest) = name.strip_prefix("resize/").unwrap().split_once('/').unwrap();
        let filter = if rest.starts_with("bilinear") { Filter::Bilinear } else { Filter::Bicubic };
        let expected = image(expected);
        let source = image(&goldens[&format!("resize/{mode}/source")]);
        let found = source.resized(expected.width(), expected.height(), filter).unwrap();
        let (largest, mean) = difference(&found, &expected);
        println!("{name}: largest {largest}, mean {mean:.4}");
        assert_eq!(largest, 0, "{name}");
        cases += 1;
    }
    assert_eq!(cases, 16);
}

#[test]
fn decoded_as_pillow_does() {
    let goldens = goldens();
    let mut cases = 0;
    for (name, file) in goldens.iter().filter_map(|(name, a)| Some((name.strip_prefix("file/")?, a))) {
        let found = decode_image(&bytes(file)).unwrap();
        let (largest, mean) = difference(&found, &image(&goldens[&format!("pixels/{name}")]));
        println!("{name}: largest {largest}, mean {mean:.4}");
        // JPEG leaves the rounding of the cosine transform, and how coarse colours are interpolated,
        // to the decoder.
        let allowed = match name {
            "jpeg-420" | "jpeg-422" | "jpeg-progressive" => 5,
            _ if name.starts_with("jpeg") => 2,
            _ => 0,
        };
        assert!(largest <= allowed, "{name}: {largest}");
        cases += 1;
    }
    assert_eq!(cases, 11);
}
