//! Folders of images.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use secateur_model::io::read_small_text;
use secateur_model::text::{counted, listed, quoted};
use secateur_model::{Error, Result, ResultExt, Tensor};

use super::dataset::{Dataset, Value};
use super::image::decode_image;
use super::source;

/// The file next to the images that lists the classes in the order of the model's outputs.
const CLASSES: &str = "classes.txt";

/// How deep the folders of a class may be nested; also ends cycles of symbolic links.
const MAX_DEPTH: usize = 16;

/// The longest list of classes, in bytes.
const MAX_CLASSES: u64 = 1 << 24;

/// Images in a folder, read on demand.
pub(super) struct FolderDataset {
    files: Vec<PathBuf>,
    /// Empty where the set has no labels.
    labels: Vec<i64>,
    classes: Vec<String>,
    /// Whether the classes are sorted by name, since no file gives their order.
    assumes_order: bool,
    names: [String; 1],
    notes: Vec<String>,
}

impl FolderDataset {
    /// Lists the images of a folder, sorted by path. Files of other kinds are counted in a note.
    ///
    /// Where the folder has folders with images, these are the classes, in the order of the file
    /// `classes` (or `classes.txt` in the folder), or sorted by name. Where it has images itself,
    /// the part of a file's name before the first `_` is its class, by the order file; without one
    /// (and without `by_prefix`) there are no labels.
    pub(super) fn open(root: &Path, classes: Option<&Path>, by_prefix: bool, name: String) -> Result<Self> {
        let default = root.join(CLASSES);
        let order_file = classes.or_else(|| default.is_file().then_some(default.as_path()));
        let order = order_file.map(read_order).transpose()?;
        let entries = entries(root)?;
        let mut found: Vec<(PathBuf, String)> = Vec::new();
        let mut skipped = Skipped::default();
        for path in entries.iter().filter(|p| p.is_dir()) {
            let mut files = Vec::new();
            collect(path, &mut files, &mut skipped, MAX_DEPTH)?;
            let class = file_name(path)?;
            if files.is_empty() {
                skipped.folders.push(class.to_string());
            }
            found.extend(files.into_iter().map(|file| (file, class.to_string())));
        }
        let by_folder = !found.is_empty();
        for path in entries.iter().filter(|p| p.is_file()) {
            if !is_image(path) {
                if order_file != Some(path.as_path()) {
                    skipped.add(path);
                }
                continue;
            }
            if by_folder {
                return Err(Error::input(format!(
                    "has both images (`{}`) and folders of images: labels come from one or the other",
                    file_name(path)?
                )))
                .at_file(root);
            }
            let name = file_name(path)?;
            found.push((path.clone(), name.split_once('_').map_or(name, |(prefix, _)| prefix).to_string()));
        }
        if found.is_empty() {
            let mut message = format!("holds no images (files ending in {})", ENDINGS.join(", "));
            skipped.notes(root).iter().for_each(|note| message += &format!("; {note}"));
            return Err(Error::input(message)).at_file(root);
        }
        let notes = skipped.notes(root);
        found.sort();
        let names = [name];
        if !by_folder && !by_prefix && order.is_none() {
            let files = found.into_iter().map(|(file, _)| file).collect();
            let (labels, classes) = (Vec::new(), Vec::new());
            return Ok(FolderDataset { files, labels, classes, assumes_order: false, names, notes });
        }
        let assumes_order = order.is_none();
        let classes = order.unwrap_or_else(|| {
            let mut classes: Vec<String> = found.iter().map(|(_, class)| class.clone()).collect();
            classes.sort();
            classes.dedup();
            classes
        });
        let index: HashMap<&str, i64> =
            classes.iter().zip(0..).map(|(class, i)| (class.as_str(), i)).collect();
        let mut labels = Vec::with_capacity(found.len());
        for (file, class) in &found {
            labels.push(*index.get(class.as_str()).ok_or_else(|| {
                Error::input(format!(
                    "its class `{class}` is not in the list of classes `{}`",
                    order_file.unwrap_or(root).display()
                ))
                .at_file(file)
            })?);
        }
        let files = found.into_iter().map(|(file, _)| file).collect();
        Ok(FolderDataset { files, labels, classes, assumes_order, names, notes })
    }

    fn file(&self, index: usize) -> Result<&Path> {
        let file = self.files.get(index);
        file.map(PathBuf::as_path).ok_or_else(|| Error::internal(format!("there is no image {index}")))
    }
}

impl Dataset for FolderDataset {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn input_names(&self) -> &[String] {
        &self.names
    }

    fn sample(&self, index: usize) -> Result<Vec<Value>> {
        let file = self.file(index)?;
        let image =
            source::unpack(source::map(file)?, None).and_then(|bytes| decode_image(&bytes)).at_file(file)?;
        Ok(vec![Value::Image(image)])
    }

    fn label(&self, index: usize) -> Result<Option<Tensor>> {
        self.file(index)?;
        Ok(self.labels.get(index).map(|&label| Tensor::scalar(label)))
    }

    fn classes(&self) -> Option<&[String]> {
        (!self.classes.is_empty()).then_some(self.classes.as_slice())
    }

    fn assumes_order(&self) -> bool {
        self.assumes_order
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The classes of an order file: the first word of each line.
fn read_order(path: &Path) -> Result<Vec<String>> {
    let text = read_small_text(path, MAX_CLASSES)?;
    let classes: Vec<String> =
        text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_string).collect();
    let mut seen = HashMap::new();
    for (line, class) in classes.iter().enumerate() {
        if let Some(first) = seen.insert(class, line) {
            return Err(Error::input(format!(
                "lists the class `{class}` twice, as number {first} and {line}"
            )))
            .at_file(path);
        }
    }
    if classes.is_empty() {
        return Err(Error::input("lists no classes")).at_file(path);
    }
    Ok(classes)
}

/// What a folder holds, sorted, without hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().map_err(|e| Error::io(folder, e))?;
    paths.retain(|p| p.file_name().is_some_and(|n| !n.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

/// The images in a folder and its subfolders.
fn collect(folder: &Path, files: &mut Vec<PathBuf>, skipped: &mut Skipped, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(Error::input(format!("folders are nested more than {MAX_DEPTH} deep"))).at_file(folder);
    }
    for path in entries(folder)? {
        if path.is_dir() {
            collect(&path, files, skipped, depth - 1)?;
        } else if is_image(&path) {
            files.push(path);
        } else {
            skipped.add(&path);
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Error::unsupported("the name is not UTF-8").at_file(path))
}

/// The file extensions that are read as images.
const ENDINGS: [&str; 9] = [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"];

fn is_image(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// What else a folder holds.
#[derive(Default)]
struct Skipped {
    /// The number of files by extension.
    files: BTreeMap<String, usize>,
    /// Folders in which there are no images.
    folders: Vec<String>,
}

impl Skipped {
    fn add(&mut self, file: &Path) {
        let ending = file.extension().map(|e| format!(".{}", e.to_string_lossy().to_ascii_lowercase()));
        *self.files.entry(ending.unwrap_or_else(|| "no extension".into())).or_default() += 1;
    }

    /// A note for each kind of file that was left out.
    fn notes(&self, root: &Path) -> Vec<String> {
        let mut notes = Vec::new();
        let files: usize = self.files.values().sum();
        if files > 0 {
            let kinds = listed(self.files.iter().map(|(ending, number)| format!("{number} {ending}")));
            let files = counted(files, "file");
            notes.push(format!(
                "skipped {files} in `{}` that cannot be read as images: {kinds}",
                root.display()
            ));
        }
        if !self.folders.is_empty() {
            let folders = quoted(&self.folders);
            notes.push(format!("folders in `{}` without images are not classes: {folders}", root.display()));
        }
        notes
    }
}
