//! Damaged data files: an error with a reason, no panic, no memory by what a header claims.

#[path = "common/exercise.rs"]
mod exercise;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use secateur::data::{Cifar, DataSpec, Format, Value, decode_image, read_cifar, read_npz};
use secateur_model::Result;

/// A file of each format, by the name that `check` knows.
fn files() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let goldens = fs::read(root.join("goldens/pictures/pictures.npz")).unwrap();
    let mut files = Vec::new();
    for (name, array) in read_npz(goldens.into()).unwrap() {
        if let Some(name) = name.strip_prefix("file/") {
            let bytes = (0..array.rows()).flat_map(|i| array.row_bytes(i).unwrap().to_vec()).collect();
            files.push((name.to_string(), bytes));
        }
    }
    let mut idx = vec![0, 0, 0x0b, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 3];
    idx.extend((0..4 * 5 * 3u16).flat_map(u16::to_be_bytes));
    files.push(("idx".into(), idx));
    let text = "{'descr': '>f4', 'fortran_order': True, 'shape': (5, 4, 3), }                            \n";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((text.len() as u16).to_le_bytes());
    npy.extend(text.as_bytes());
    npy.extend((0..60u32).flat_map(u32::to_be_bytes));
    files.push(("npz".into(), npz(&[("x", &npy), ("y", &npy)])));
    files.push(("npy".into(), npy));
    files
}

/// An archive, its first array stored and the others deflated.
fn npz(arrays: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (i, (name, bytes)) in arrays.iter().enumerate() {
        let method = if i == 0 { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn check(name: &str, bytes: &[u8]) -> Result<()> {
    match name {
        "idx" => exercise::idx(bytes),
        "npy" | "npz" => exercise::npy(bytes),
        _ => exercise::picture(bytes),
    }
}

/// The generator SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
fn whole_files_are_read() {
    for (name, bytes) in files() {
        check(&name, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn files_cut_anywhere_are_errors() {
    for (name, bytes) in files() {
        // What comes after the last chunk's data of a PNG and the end marker of a JPEG says nothing.
        let tail = if name.starts_with("png") { 16 } else { 1 };
        for len in (0..bytes.len() - tail).step_by(7) {
            let error = check(&name, &bytes[..len]).expect_err(&format!("{name} cut to {len} bytes"));
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn flipped_bits_do_no_harm() {
    let mut random = Random(3);
    for (name, bytes) in files() {
        let mut errors = 0;
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(3) {
                // Half of the damage goes to the first bytes, where the headers are.
                let reach = if random.below(2) == 0 { damaged.len().min(200) } else { damaged.len() };
                damaged[random.below(reach)] ^= 1 << random.below(8);
            }
            errors += usize::from(check(&name, &damaged).is_err());
        }
        assert!(errors > 0, "no damage to {name} was noticed");
    }
}

#[test]
fn dimensions_without_data_are_refused() {
    for (name, mut bytes) in files().into_iter().filter(|(name, _)| name.starts_with("jpeg")) {
        let frame = bytes.windows(2).position(|w| matches!(w, [0xff, 0xc0 | 0xc2])).unwrap();
        bytes[frame + 5..frame + 9].fill(0xff);
        let error = decode_image(&bytes).unwrap_err().to_string();
        assert!(error.contains("65535×65535"), "{name}: {error}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn open(path: &Path) -> Result<()> {
    let set = DataSpec { paths: vec![path.into()], ..DataSpec::default() }.open()?;
    set.sample(0).map(drop)
}

#[test]
fn the_same_holds_for_files_and_their_gzipped_forms() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    for (name, bytes) in
        files().into_iter().filter(|(name, _)| ["idx", "npy", "npz"].contains(&name.as_str()))
    {
        let path = folder.path().join("data");
        for packed in [bytes.clone(), gzip(&bytes)] {
            fs::write(&path, &packed).unwrap();
            open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            for _ in 0..100 {
                let mut damaged = packed.clone();
                damaged[random.below(packed.len())] ^= 1 << random.below(8);
                damaged.truncate(packed.len() - random.below(2) * random.below(packed.len()));
                fs::write(&path, &damaged).unwrap();
                if let Err(error) = open(&path) {
                    assert!(error.to_string().starts_with("file `"), "{error}");
                }
            }
        }
        fs::write(&path, gzip(&[&bytes[..], &[0; 100]].concat())).unwrap();
        assert!(name == "npz" || open(&path).is_err(), "{name} with more than it declares");
    }
}

#[test]
fn a_header_cannot_ask_for_more_than_gzip_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t10k-images-idx3-ubyte.gz");
    fs::write(&path, gzip(&[0, 0, 8, 3, 0, 0xff, 0xff, 0xff, 0, 0, 0, 28, 0, 0, 0, 28])).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("gzipped bytes can hold"), "{error}");
}

#[test]
fn unknown_files_say_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.bin");
    fs::write(&path, b"not data at all").unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("neither npz, npy, idx nor CIFAR"), "{error}");
    let spec = DataSpec { paths: vec![path], format: Format::Cifar10, ..DataSpec::default() };
    assert!(spec.open().err().unwrap().to_string().contains("CIFAR-10's records"));
    assert!(read_cifar(&[10; 3073], Cifar::Ten).is_err());
    assert!(open(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("nowhere"));
}

/// A folder with pictures by their paths.
fn pictures(paths: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (_, picture) = files().into_iter().find(|(name, _)| name == "png-rgb").unwrap();
    for path in paths {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &picture).unwrap();
    }
    folder
}

fn labels(spec: &DataSpec) -> Result<Vec<i64>> {
    let set = spec.open()?;
    (0..set.len()).map(|i| Ok(set.label(i)?.map_or(-1, |l| l.to_i64s().unwrap()[0]))).collect()
}

#[test]
fn folders_give_labels() {
    let by_folder = pictures(&["dog/2.png", "cat/b/1.jpg", "cat/a.PNG", "dog/1.jpeg"]);
    let mut spec = DataSpec { paths: vec![by_folder.path().into()], ..DataSpec::default() };
    assert_eq!(labels(&spec).unwrap(), [0, 0, 1, 1]);
    // A PNG by content, whatever its name; read only when asked for.
    assert!(matches!(spec.open().unwrap().sample(1).unwrap()[0], Value::Image(_)));
    fs::write(by_folder.path().join("classes.txt"), "dog the best\ncat\n").unwrap();
    assert_eq!(labels(&spec).unwrap(), [1, 1, 0, 0]);
    fs::write(by_folder.path().join("classes.txt"), "dog\ndog\n").unwrap();
    assert!(labels(&spec).unwrap_err().to_string().contains("lists the class `dog` twice"));
    spec.classes = Some(by_folder.path().join("other.txt"));
    fs::write(by_folder.path().join("other.txt"), "bird\ndog\n").unwrap();
    let error = labels(&spec).unwrap_err().to_string();
    assert!(error.contains("class `cat` is not in the list"), "{error}");
    spec.classes = None;
    fs::write(by_folder.path().join("stray.png"), b"").unwrap();
    assert!(labels(&spec).is_err());
}

#[test]
fn names_give_labels() {
    let flat = pictures(&["b_1.png", "a_2_x.png", "a_1.png"]);
    let mut spec = DataSpec { paths: vec![flat.path().into()], ..DataSpec::default() };
    assert_eq!(labels(&spec).unwrap(), [-1, -1, -1]); // nobody said that names have classes
    spec.labels = Some("prefix".into());
    assert_eq!(labels(&spec).unwrap(), [0, 0, 1]);
    let empty: PathBuf = tempfile::tempdir().unwrap().keep();
    spec.paths = vec![empty.clone()];
    assert!(labels(&spec).unwrap_err().to_string().contains("holds no images"));
    fs::remove_dir(empty).unwrap();
}

#[test]
fn a_damaged_picture_is_named() {
    let folder = pictures(&["a/1.png", "a/2.png"]);
    let path = folder.path().join("a/2.png");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let set = DataSpec { paths: vec![folder.path().into()], ..DataSpec::default() }.open().unwrap();
    assert!(set.sample(0).is_ok());
    let error = set.sample(1).unwrap_err().to_string();
    assert!(error.contains("2.png`: cannot decode the image"), "{error}");
}
