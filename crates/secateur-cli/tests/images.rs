//! Folders of images: what a folder's files and classes mean for the labels.

mod common;

use common::{Place, json};
use secateur::data::read_npz;

/// Names of the digits, of which the sorted order is not the model's.
const NAMES: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
/// The digits that have a folder.
const FOLDERS: [usize; 3] = [1, 2, 7];

/// How the images go into the embedded model: from 0 to 240 instead of to 16.
const READ: [&str; 6] = ["--channels", "gray", "--scale", "1/240", "--format", "images"];

/// The embedded test images of three digits in class folders, gray levels as `level` gives them.
fn digits_in_folders(p: &Place, level: impl Fn(u8) -> u8) -> usize {
    let arrays = read_npz(common::bytes(&p.path("digits-test.npz")).into()).unwrap();
    let find = |name: &str| &arrays.iter().find(|(n, _)| n == name).unwrap().1;
    let labels = find("y").to_tensor().unwrap().to_i64s().unwrap();
    let images = arrays.iter().find(|(n, _)| n != "y").unwrap().1.to_tensor().unwrap().to_f32s().unwrap();
    let mut written = 0;
    for (index, (label, pixels)) in labels.iter().zip(images.chunks_exact(64)).enumerate() {
        let digit = *label as usize;
        if FOLDERS.contains(&digit) {
            let folder = p.path("photos").join(NAMES[digit]);
            std::fs::create_dir_all(&folder).unwrap();
            let pixels: Vec<u8> = pixels.iter().map(|&v| level((v * 15.0) as u8)).collect();
            let pgm = [b"P5\n8 8\n255\n".as_slice(), &pixels].concat();
            std::fs::write(folder.join(format!("{index}.pgm")), pgm).unwrap();
            written += 1;
        }
    }
    written
}

fn eval(p: &Place, more: &[&str]) -> serde_json::Value {
    json(&p.ok(&[&["eval", "digits.onnx", "--data", "photos", "--json"], &READ[..], more].concat()))
}

fn top1(found: &serde_json::Value) -> f64 {
    let measures = found["measures"].as_array().unwrap();
    measures.iter().find(|m| m["name"] == "top1").unwrap()["value"].as_f64().unwrap()
}

#[test]
fn fewer_class_folders_than_classes_need_an_order() {
    let p = Place::new();
    let images = digits_in_folders(&p, |v| v);
    let command = [&["eval", "digits.onnx", "--data", "photos"], &READ[..]].concat();
    let message = p.fails(2, &command);
    for said in ["3 classes", "one, seven, two", "10", "--classes", "one per line"] {
        assert!(message.contains(said), "{said}: {message}");
    }
    std::fs::write(p.path("order.txt"), NAMES.join("\n")).unwrap();
    let found = eval(&p, &["--classes", "order.txt"]);
    assert_eq!(found["samples"], images);
    assert!(top1(&found) > 0.97, "{found}");
    // The same file in the folder needs no flag, and is not counted among what was skipped.
    std::fs::rename(p.path("order.txt"), p.path("photos/classes.txt")).unwrap();
    let found = eval(&p, &[]);
    assert!(top1(&found) > 0.97, "{found}");
    assert!(!found["notes"].to_string().contains("skipped"), "{found}");
}

#[test]
fn what_is_no_image_is_counted_and_bitmaps_are_read() {
    let p = Place::new();
    let images = digits_in_folders(&p, |v| v);
    std::fs::write(p.path("photos/classes.txt"), NAMES.join("\n")).unwrap();
    for name in ["one/notes.txt", "one/a.heic", "two/b.HEIC"] {
        std::fs::write(p.path("photos").join(name), "").unwrap();
    }
    std::fs::create_dir(p.path("photos/nothing")).unwrap();
    // 8 × 8 pixels of 24 bits: a header of 54 bytes, then the rows.
    let mut bmp = vec![0u8; 54 + 192];
    bmp[..2].copy_from_slice(b"BM");
    bmp[2..6].copy_from_slice(&246u32.to_le_bytes());
    bmp[10] = 54;
    bmp[14] = 40;
    (bmp[18], bmp[22], bmp[26], bmp[28]) = (8, 8, 1, 24);
    std::fs::write(p.path("photos/one/c.bmp"), bmp).unwrap();
    let found = eval(&p, &[]);
    assert_eq!(found["samples"], images + 1);
    let notes = found["notes"].to_string();
    assert!(notes.contains("skipped 3 files") && notes.contains("2 .heic, 1 .txt"), "{notes}");
    assert!(notes.contains("`nothing`"), "{notes}");
}

#[test]
fn a_loss_worse_than_guessing_hints_at_mean_and_std() {
    let p = Place::new();
    digits_in_folders(&p, |v| 255 - v);
    std::fs::write(p.path("photos/classes.txt"), NAMES.join("\n")).unwrap();
    let command = ["eval", "digits.onnx", "--data", "photos", "--channels", "gray"];
    let shown = p.ok(&command);
    assert!(shown.contains("--mean") && shown.contains("ln 10 = 2.303"), "{shown}");
    let told = p.ok(&[&command[..], &["--scale", "1/255"]].concat());
    assert!(!told.contains("--mean"), "{told}");
    let shown = p.ok(&["eval", "digits.onnx", "--data", "digits-test.npz"]);
    assert!(shown.contains("values from 0 to 16") && shown.contains("--scale 1/16"), "{shown}");
}
