//! The sidecar: the file of masks next to a model.
//!
//! The model and its sidecar are two files, which cannot be replaced in one atomic step. So the sidecar names the hash
//! of the weights it belongs to, and is written before the model:
//!
//! 1. the sidecar is written under a temporary name, `<model>.masks.<hash>-<process>-<number>.safetensors`;
//! 2. the model is renamed to its final name;
//! 3. the sidecar is renamed to its final name, `<model>.masks.safetensors`.
//!
//! A reader takes the sidecar whose hash matches the model's weights: before step 2 that is the old file, after it the
//! new one, under either name. If none matches, that is an error.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use secateur_model::io::{self, Source};
use secateur_model::model::Entry;
use secateur_model::{Error, Model, Patch, Result, ResultExt, StoredTensor};

use super::{MASK, Mask, Masks, ORIGINAL, read_mask};
use crate::prune::weights::Weights;

/// The metadata that say to which weights a sidecar belongs: the hash of those that it masks, as the model
/// holds them.
const BELONGS_TO: &str = "secateur.weights_sha256";

/// How the names of such files end, and what stands before that in a name of step 1.
const ENDING: &str = ".safetensors";
const MIDDLE: &str = ".masks";

/// Where the sidecar of a model lies: `<model>.masks.safetensors`, beside the file or the folder.
pub fn path_for(model: &Path) -> PathBuf {
    named(model, &format!("{MIDDLE}{ENDING}"))
}

/// The path of a model with a suffix.
fn named(model: &Path, behind: &str) -> PathBuf {
    let mut name = model.components().collect::<PathBuf>().into_os_string();
    name.push(behind);
    name.into()
}

/// The sidecars under temporary names, in the order of these names.
fn pending(model: &Path) -> Vec<PathBuf> {
    let start = named(model, &format!("{MIDDLE}."));
    let (Some(start), folder) = (start.file_name(), folder_of(model)) else { return Vec::new() };
    let start = start.as_encoded_bytes();
    let is_pending = |name: &[u8]| {
        let tag = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(ENDING.as_bytes()));
        tag.is_some_and(|tag| {
            let parts: Vec<&[u8]> = tag.split(|&b| b == b'-').collect();
            parts.len() == 3
                && parts[0].len() == TAG
                && parts.iter().all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_hexdigit))
        })
    };
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|item| is_pending(item.file_name().as_encoded_bytes()))
        .map(|item| item.path())
        .collect();
    found.sort();
    found
}

/// How many digits of the hash the name holds.
const TAG: usize = 16;

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The hash of those tensors of `entries` that a sidecar of these names masks.
fn hash<'a>(names: impl Iterator<Item = &'a str>, entries: &[Entry<'_>]) -> Result<String> {
    let mut targets: Vec<&str> = names.filter_map(|name| name.strip_suffix(MASK)).collect();
    targets.sort_unstable();
    let by_path: HashMap<&str, &Entry<'_>> = entries.iter().map(|entry| (entry.path, entry)).collect();
    let find = |target: &str| {
        // A pair's mask is that of the weight, which the file has as the original.
        let found = by_path.get(target).or_else(|| by_path.get(format!("{target}{ORIGINAL}").as_str()));
        found.copied().ok_or_else(|| {
            Error::input("the model has no such tensor: the masks belong to another model").at_tensor(target)
        })
    };
    let found: Vec<&Entry<'_>> = targets.into_iter().map(find).collect::<Result<_>>()?;
    io::tensors_hash(found)
}

/// What a sidecar says it belongs to.
fn belongs_to(file: &Model) -> Option<&str> {
    let found = file.source.metadata().iter().find(|(key, _)| key == BELONGS_TO);
    found.map(|(_, hash)| hash.as_str())
}

/// Whether a sidecar belongs to a model; `None` where it does not say: it is older, or made by others.
fn belongs(file: &Model, model: &Model) -> Result<Option<bool>> {
    let Some(said) = belongs_to(file) else { return Ok(None) };
    let unchanged = Patch::new();
    Ok(Some(hash(file.tensors.keys().map(String::as_str), &unchanged.entries(model))? == said))
}

/// Reads the masks and originals of a model's sidecar; returns its path where there is one.
///
/// # Errors
/// `Input` where there is one that does not belong to the model.
pub(super) fn read(model: &Model, masks: &mut Masks) -> Result<Option<PathBuf>> {
    let Some(at) = model.path.as_deref() else { return Ok(None) };
    let path = path_for(at);
    let mut unfit = None;
    if path.symlink_metadata().is_ok() {
        let file = io::read(&path)?;
        match belongs(&file, model) {
            Ok(Some(false)) => {
                unfit = Some(Error::input(
                    "the masks belong to another version of the model: its weights are not those that the masks \
                     were written with. Prune again, or move the sidecar away (option `masks` reads it from elsewhere)",
                ));
            }
            Err(error) => unfit = Some(error),
            Ok(Some(true) | None) => {
                fill(&file, model, masks).at_file(&path)?;
                return Ok(Some(path));
            }
        }
    }
    for path in pending(at) {
        // Whose writer goes on meanwhile gets its name, or is gone.
        let Ok(file) = io::read(&path) else { continue };
        if matches!(belongs(&file, model), Ok(Some(true))) {
            fill(&file, model, masks).at_file(&path)?;
            return Ok(Some(path));
        }
    }
    unfit.map_or(Ok(None), |error| Err(error.at_file(&path)))
}

/// Takes masks and originals from a sidecar.
fn fill(file: &Model, model: &Model, masks: &mut Masks) -> Result<()> {
    for (name, stored) in &file.tensors {
        let (target, original) = match (name.strip_suffix(MASK), name.strip_suffix(ORIGINAL)) {
            (Some(target), _) => (target, false),
            (_, Some(target)) => (target, true),
            _ => {
                return Err(
                    Error::input(format!("expected names that end in {MASK} or {ORIGINAL}")).at_tensor(name)
                );
            }
        };
        let id = masks.target(model, target).ok_or_else(|| {
            Error::input("the model has no such tensor: the masks belong to another model").at_tensor(target)
        })?;
        let weight = model.tensor(id);
        if original {
            if stored.shape != weight.shape || stored.dtype != weight.dtype {
                let message = format!(
                    "is {} of shape {:?}, but the model's tensor is {} of shape {:?}",
                    stored.dtype, stored.shape, weight.dtype, weight.shape
                );
                return Err(Error::input(message).at_tensor(name));
            }
            masks.originals.insert(id, stored.clone());
        } else {
            let mask = read_mask(stored, weight)?;
            check_zeros(&mask, weight).at_tensor(name)?;
            masks.intersect(id, mask)?;
        }
    }
    Ok(())
}

/// What a mask prunes is zero in the model it belongs to.
fn check_zeros(mask: &Mask, weight: &StoredTensor) -> Result<()> {
    let dense = weight.dense();
    let weights = Weights::of(&dense)?;
    let left = weights.len() - weights.masked_by(mask)?.zeros();
    let all = weights.len() - weights.zeros();
    if left == all {
        return Ok(());
    }
    Err(Error::input(format!(
        "prunes {} weights that are not zero in the model: the masks belong to another version of it; prune \
         again, or move the sidecar away",
        all - left
    )))
}

/// Called after each step of [`replace`]; tests interrupt it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The sidecar exists under its temporary name.
    Masks,
    /// The model has its name.
    Model,
    /// The sidecar has its name, or is removed.
    Done,
}

/// Writes a model with `write_model`, and with it its sidecar: what the patch in `masks` adds to an empty model, for
/// the weights that the entries in it are written with. Without masks, the sidecar of the replaced model is
/// removed; returns its path then.
///
/// # Errors
/// `Usage` where the sidecar is there and may not be replaced; `Io` where writing fails; those of
/// `write_model`.
pub(super) fn replace<T>(
    path: &Path,
    masks: Option<(&Patch, &[Entry<'_>])>,
    overwrite: bool,
    write_model: impl FnOnce() -> Result<T>,
) -> Result<(T, Option<PathBuf>)> {
    replace_by_steps(path, masks, overwrite, write_model, &mut |_| ())
}

fn replace_by_steps<T>(
    path: &Path,
    masks: Option<(&Patch, &[Entry<'_>])>,
    overwrite: bool,
    write_model: impl FnOnce() -> Result<T>,
    done: &mut dyn FnMut(Step),
) -> Result<(T, Option<PathBuf>)> {
    let target = path_for(path);
    let before = identity(&target);
    let file = match masks {
        Some((patch, entries)) => {
            io::check_target(&target, overwrite).at(|| "masks")?;
            Some(Pending::new(path, patch, entries)?)
        }
        None => None,
    };
    done(Step::Masks);
    let written = write_model()?;
    done(Step::Model);
    let removed = {
        // Held while it is looked which model is there and the file gets its name: two that write the same
        // model do so one after the other. Where a file system has no locks, the last check is the reader's.
        let folder = File::open(folder_of(path)).ok();
        let _held = folder.as_ref().map(File::lock);
        match file {
            Some(file) => {
                // Somebody else's masks are there: they stay where the model is theirs too.
                if identity(&target) == before || file.belongs_to(path) {
                    file.publish(&target)?;
                }
                None
            }
            None => remove_unfit(path, &target, overwrite)?,
        }
    };
    for left_over in pending(path) {
        let unused = File::open(&left_over).is_ok_and(|file| file.try_lock().is_ok());
        if unused {
            let _ = fs::remove_file(left_over);
        }
    }
    done(Step::Done);
    Ok((written, removed))
}

/// A sidecar under a temporary name, locked; removed unless it is published.
struct Pending {
    path: PathBuf,
    _lock: Option<File>,
}

impl Pending {
    fn new(model: &Path, patch: &Patch, entries: &[Entry<'_>]) -> Result<Pending> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let empty = Model { tensors: Default::default(), graph: None, path: None, source: Source::memory() };
        let added = patch.entries(&empty);
        let hash = hash(added.iter().map(|entry| entry.path), entries)?;
        let metadata = [("format".to_string(), "pt".to_string()), (BELONGS_TO.to_string(), hash.clone())];
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let tag = format!("{}-{:x}-{count:x}", &hash[..TAG], std::process::id());
            let path = named(model, &format!("{MIDDLE}.{tag}{ENDING}"));
            // Originals are as private as the model that is replaced.
            io::write_file_like(&path, &[&path_for(model), model], |out| {
                io::convert_stream(&empty, patch, &metadata, &io::SAFETENSORS, out).map(|_| ())
            })
            .at(|| "masks")?;
            let lock = File::open(&path).ok();
            let locked = lock.as_ref().is_some_and(|file| file.lock().is_ok());
            // Before it was locked, another process may have taken it for left over.
            if !locked || path.exists() {
                return Ok(Pending { path, _lock: lock });
            }
        }
    }

    /// Whether the model at a path is the one that this belongs to.
    fn belongs_to(&self, model: &Path) -> bool {
        let (Ok(file), Ok(model)) = (io::read(&self.path), io::read(model)) else { return false };
        matches!(belongs(&file, &model), Ok(Some(true)))
    }

    fn publish(self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(|e| Error::io(target, e))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Identifies a file, to notice that another one has taken its name.
fn identity(path: &Path) -> Option<(u64, u64, Option<std::time::SystemTime>)> {
    let found = fs::metadata(path).ok()?;
    Some((inode(&found), found.len(), found.modified().ok()))
}

fn inode(found: &Metadata) -> u64 {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::ino(found)
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        0
    }
}

/// Removes the sidecar of a model that was replaced by one without masks. A sidecar that does not say to
/// which weights it belongs stays, and so does one that belongs to the new model too.
fn remove_unfit(model: &Path, target: &Path, overwrite: bool) -> Result<Option<PathBuf>> {
    if !overwrite || !target.is_file() {
        return Ok(None);
    }
    let Ok(file) = io::read(target) else { return Ok(None) };
    if belongs_to(&file).is_none() || matches!(belongs(&file, &io::read(model)?), Ok(Some(true))) {
        return Ok(None);
    }
    fs::remove_file(target).map_err(|e| Error::io(target, e))?;
    Ok(Some(target.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use secateur_model::{DType, Tensor};

    use super::*;

    /// Says to a process of this test which step it ends after, and where it writes.
    const KILLED_AFTER: &str = "SECATEUR_TEST_KILLED_AFTER";
    const KILLED_AT: &str = "SECATEUR_TEST_KILLED_AT";

    fn empty() -> Model {
        Model { tensors: Default::default(), graph: None, path: None, source: Source::memory() }
    }

    /// A pair as `version` says: a weight that is 0 in one of four places, its mask, and its original.
    fn pair(version: usize) -> (Patch, Patch) {
        let add = |patch: &mut Patch, name: &str, tensor: Tensor| {
            let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
            patch.add(name, dtype, shape, None, Arc::new(move || Ok(tensor.clone())));
        };
        let kept = |i: usize| i != version % 4;
        let weight = |mask: bool| -> Vec<f32> {
            (0..4).map(|i| if kept(i) || !mask { (version * 10 + i + 1) as f32 } else { 0.0 }).collect()
        };
        let (mut model, mut masks) = (Patch::new(), Patch::new());
        add(&mut model, "w", Tensor::vector(weight(true)));
        add(&mut masks, "w_mask", Tensor::vector((0..4).map(kept).collect::<Vec<bool>>()));
        add(&mut masks, "w_orig", Tensor::vector(weight(false)));
        (model, masks)
    }

    fn write(path: &Path, version: usize, with_masks: bool, done: &mut dyn FnMut(Step)) -> Result<()> {
        let ((model, masks), empty) = (pair(version), empty());
        let entries = model.entries(&empty);
        let masks = with_masks.then_some((&masks, &entries[..]));
        let options = io::WriteOptions { overwrite: true };
        let write = || io::convert(&empty, &model, &[], &io::SAFETENSORS, path, options);
        replace_by_steps(path, masks, true, write, done).map(|_| ())
    }

    /// The versions of the model and of its masks, where it has such.
    fn found(path: &Path) -> Result<(usize, Option<usize>)> {
        let model = io::read(path)?;
        let weight = model.tensors["w"].load()?.to_f32s()?;
        let masks = Masks::of(&model)?;
        let original = masks.originals.values().next().map(|stored| stored.load()?.to_f32s()).transpose()?;
        let largest = weight.iter().copied().fold(0f32, f32::max);
        Ok(((largest as usize - 1) / 10, original.map(|values| values[0] as usize / 10)))
    }

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Writes version 1 in a process that ends after a step, without anything that tidies up.
    fn killed(path: &Path, after: Step, with_masks: bool) {
        let step = format!("{after:?}/{with_masks}");
        let me = std::env::current_exe().unwrap();
        let child = Command::new(me)
            .args(["--exact", "prune::masks::sidecar::tests::a_pair_is_whole_wherever_a_writer_is_killed"])
            .env(KILLED_AFTER, step)
            .env(KILLED_AT, path)
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(9), "{}", String::from_utf8_lossy(&child.stdout));
    }

    #[test]
    fn a_pair_is_whole_wherever_a_writer_is_killed() {
        if let (Ok(after), Some(path)) = (std::env::var(KILLED_AFTER), std::env::var_os(KILLED_AT)) {
            let (step, with_masks) = after.split_once('/').unwrap();
            let end = &mut |done: Step| {
                if format!("{done:?}") == step {
                    std::process::exit(9);
                }
            };
            write(Path::new(&path), 1, with_masks == "true", end).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        for with_masks in [true, false] {
            for (step, model) in [(Step::Masks, 0), (Step::Model, 1), (Step::Done, 1)] {
                write(&path, 0, true, &mut |_| ()).unwrap();
                killed(&path, step, with_masks);
                match (with_masks, step) {
                    (false, Step::Model) => {
                        let error = found(&path).unwrap_err().to_string();
                        assert!(error.contains("another version"), "{error}");
                    }
                    (false, Step::Done) => assert_eq!(found(&path).unwrap(), (1, None)),
                    _ => assert_eq!(found(&path).unwrap(), (model, Some(model)), "{step:?}"),
                }
                // The next writer clears what is left.
                write(&path, 2, true, &mut |_| ()).unwrap();
                assert_eq!(found(&path).unwrap(), (2, Some(2)));
                assert_eq!(files(folder.path()), ["m.safetensors", "m.safetensors.masks.safetensors"]);
            }
        }
        // The first pair of all: before the model is there, nothing is.
        for (step, model) in [(Step::Masks, None), (Step::Model, Some(1)), (Step::Done, Some(1))] {
            let path = folder.path().join(format!("{step:?}.safetensors"));
            killed(&path, step, true);
            assert_eq!(found(&path).ok(), model.map(|model| (model, Some(model))), "{step:?}");
        }
    }

    #[test]
    fn of_two_writers_one_has_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        for step in [Step::Masks, Step::Model, Step::Done] {
            for (first, second) in [(true, true), (true, false), (false, true)] {
                write(&path, 0, true, &mut |_| ()).unwrap();
                // The second one writes all while the first one has done a step.
                write(&path, 1, first, &mut |done| {
                    if done == step {
                        write(&path, 2, second, &mut |_| ()).unwrap();
                        assert_eq!(found(&path).unwrap(), (2, second.then_some(2)));
                    }
                })
                .unwrap();
                let (last, has) = if step == Step::Masks { (1, first) } else { (2, second) };
                assert_eq!(found(&path).unwrap(), (last, has.then_some(last)), "{step:?} {first} {second}");
                let sidecar = has.then_some("m.safetensors.masks.safetensors");
                let expected: Vec<&str> = ["m.safetensors"].into_iter().chain(sidecar).collect();
                assert_eq!(files(folder.path()), expected, "{step:?} {first} {second}");
                let _ = fs::remove_file(path_for(&path));
            }
        }
    }

    #[test]
    fn masks_of_another_version_are_an_error_and_those_of_a_copy_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in [0, 1, 4] {
            write(&at(&format!("{version}.safetensors")), version, true, &mut |_| ()).unwrap();
        }
        // Version 4 masks the same places as version 0: the zeros alone do not tell them apart.
        for other in ["1", "4"] {
            fs::copy(
                at(&format!("{other}.safetensors.masks.safetensors")),
                at("0.safetensors.masks.safetensors"),
            )
            .unwrap();
            let error = found(&at("0.safetensors")).unwrap_err();
            assert_eq!(error.kind(), secateur_model::ErrorKind::Input);
            assert!(error.to_string().contains("another version"), "{error}");
        }
        for ending in ["", ".masks.safetensors"] {
            fs::copy(at(&format!("1.safetensors{ending}")), at(&format!("b.safetensors{ending}"))).unwrap();
        }
        assert_eq!(found(&at("b.safetensors")).unwrap(), (1, Some(1)));
    }

    #[test]
    fn names_that_only_look_like_ours_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let others = [
            "m.safetensors.masks.old.safetensors",
            "m.safetensors.masks.0123456789abcdef.safetensors",
            "m.safetensors.masks.0123456789abcdeg-1-0.safetensors",
            "other.masks.0123456789abcdef-1-0.safetensors",
        ];
        others.iter().for_each(|name| fs::write(folder.path().join(name), "mine").unwrap());
        write(&path, 0, true, &mut |_| ()).unwrap();
        assert_eq!(files(folder.path()).len(), others.len() + 2);
        assert_eq!(DType::Bool, io::read(path_for(&path)).unwrap().tensors["w_mask"].dtype);
    }
}
