//! Runs a model once on arrays from files and writes the outputs to files.

use std::path::{Path, PathBuf};

use secateur_model::text::quoted;
use secateur_model::{Error, Result, ResultExt, Tensor, io};
use secateur_runtime::InputInfo;

use crate::data::{read_npy, read_npz, write_npy, write_npz};

/// Reads a model's inputs. Each text is `FILE` or `NAME=FILE`: an `.npz` gives the inputs that its arrays
/// are named after, an `.npy` the input named before it, or, without a name, the first that is not given yet.
///
/// # Errors
/// `Usage` where an input is given twice, not at all, or not the model's; `Input` where a file is damaged or
/// its array does not have the input's type and shape.
pub fn read_inputs(inputs: &[InputInfo], given: &[String]) -> Result<Vec<(String, Tensor)>> {
    let names = quoted(inputs.iter().map(|i| i.name.as_str()));
    let info = |name: &str| {
        inputs
            .iter()
            .find(|i| i.name == name)
            .ok_or_else(|| Error::usage(format!("the model has no input `{name}`; it has {names}")))
    };
    let mut found: Vec<(String, Tensor)> = Vec::new();
    let mut add = |name: &str, tensor: Tensor, path: &Path| {
        let tensor = info(name)?.accept(tensor).at_file(path)?;
        if found.iter().any(|(n, _)| n == name) {
            return Err(Error::usage(format!("input `{name}` is given twice")).at_file(path));
        }
        found.push((name.to_string(), tensor));
        Ok(())
    };
    let mut unnamed = Vec::new();
    for text in given {
        let (name, path) = split_name(text, inputs.iter().map(|i| i.name.as_str()));
        let bytes = || io::mmap::map_file(path);
        match name {
            None if is_npz(path) => {
                for (name, array) in read_npz(bytes()?).at_file(path)? {
                    add(&name, array.to_tensor()?, path)?;
                }
            }
            None => unnamed.push(path),
            Some(name) => add(name, read_npy(bytes()?).at_file(path)?.to_tensor()?, path)?,
        }
    }
    for path in unnamed {
        let tensor = read_npy(io::mmap::map_file(path)?).at_file(path)?.to_tensor()?;
        let Some(next) = inputs.iter().find(|i| found.iter().all(|(name, _)| *name != i.name)) else {
            return Err(Error::usage(format!("the model has no further input; it has {names}")).at_file(path));
        };
        found.push((next.name.clone(), next.accept(tensor).at_file(path)?));
    }
    let missing: Vec<&str> =
        inputs.iter().map(|i| i.name.as_str()).filter(|name| found.iter().all(|(n, _)| n != name)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Error::usage(format!(
        "{} not given: pass option `input` as NAME=FILE.npy",
        quoted(missing.iter().copied())
    )))
}

/// The output files, each with the outputs it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    files: Vec<(PathBuf, Vec<usize>)>,
    folder: Option<PathBuf>,
}

impl Destination {
    /// Reads where a model's outputs are to go: one `.npy` for a single output, an `.npz` for all, a folder
    /// that gets an `.npy` for each, or `NAME=FILE.npy` for those that are named. Checks that all of
    /// it can be written before the model runs.
    ///
    /// # Errors
    /// `Usage` where outputs are unknown or do not fit into what is named, or a file exists and `overwrite`
    /// is not given.
    pub fn new(outputs: &[String], given: &[String], overwrite: bool) -> Result<Self> {
        let all = || quoted(outputs.iter().map(String::as_str));
        let mut files: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        let mut folder = None;
        for text in given {
            let (name, path) = split_name(text, outputs.iter().map(String::as_str));
            let npy = path.extension().is_some_and(|ending| ending == "npy");
            match name {
                Some(name) => {
                    let index = outputs.iter().position(|o| o == name).ok_or_else(|| {
                        Error::usage(format!("the model has no output `{name}`; it has {}", all()))
                    })?;
                    if !npy {
                        let message = "one output is written as an .npy file: end the name in .npy";
                        return Err(Error::usage(message).at_file(path));
                    }
                    files.push((path.into(), vec![index]));
                }
                None if is_npz(path) => files.push((path.into(), (0..outputs.len()).collect())),
                None if npy && outputs.len() == 1 => files.push((path.into(), vec![0])),
                None if npy => {
                    return Err(Error::usage(format!(
                        "the model has the outputs {}: name a folder, an .npz file, or NAME=FILE.npy",
                        all()
                    ))
                    .at_file(path));
                }
                None if path.extension().is_some() && !path.is_dir() && !text.ends_with('/') => {
                    return Err(Error::usage(
                        "unknown output extension: use .npy for one output, .npz for all, or name a folder with a \
                         / at the end",
                    )
                    .at_file(path));
                }
                None => {
                    let names = outputs.iter().enumerate();
                    files.extend(names.map(|(i, o)| (path.join(file_name(o)), vec![i])));
                    folder = Some(path.to_path_buf());
                }
            }
        }
        for (i, (path, _)) in files.iter().enumerate() {
            if files[..i].iter().any(|(other, _)| other == path) {
                let message = "two outputs would be written here: pass NAME=FILE.npy for each";
                return Err(Error::usage(message).at_file(path));
            }
            // A folder is made only when there is something to write.
            if path.exists() || folder.as_deref() != path.parent() {
                io::check_target(path, overwrite)?;
            }
        }
        Ok(Destination { files, folder })
    }

    /// Writes the outputs, given in the model's order with their names; returns the files.
    ///
    /// # Errors
    /// `Unsupported` where numpy has no such element type; `Usage` where a file has appeared meanwhile; `Io`
    /// where writing fails.
    pub fn write(&self, outputs: &[(String, Tensor)], overwrite: bool) -> Result<Vec<PathBuf>> {
        if let Some(folder) = &self.folder {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        for (path, taken) in &self.files {
            io::write_file(path, overwrite, |out| match taken[..] {
                [index] if !is_npz(path) => write_npy(&outputs[index].1, out).at_tensor(&outputs[index].0),
                _ => write_npz(outputs, out),
            })
            .at_file(path)?;
        }
        Ok(self.files.iter().map(|(path, _)| path.clone()).collect())
    }
}

/// `NAME=FILE`, or a file alone. Names and files may contain `=` themselves: known names are looked for first,
/// then a file of the whole name.
fn split_name<'a>(text: &'a str, mut known: impl Iterator<Item = &'a str>) -> (Option<&'a str>, &'a Path) {
    let named = known.find_map(|name| Some((name, text.strip_prefix(name)?.strip_prefix('=')?)));
    match named.or_else(|| text.split_once('=').filter(|_| !Path::new(text).exists())) {
        Some((name, path)) => (Some(name), Path::new(path)),
        None => (None, Path::new(text)),
    }
}

fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "npz")
}

/// The file of an output in a folder: its name, with `_` for what file systems may not take.
fn file_name(output: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{}.npy", output.chars().map(safe).collect::<String>())
}

#[cfg(test)]
mod tests {
    use secateur_model::DType;
    use secateur_model::graph::Dim;

    use super::*;

    fn input(name: &str, dtype: DType) -> InputInfo {
        InputInfo { name: name.into(), dtype: Some(dtype), shape: Some(vec![Dim::Unknown, Dim::Known(2)]) }
    }

    #[test]
    fn inputs_come_by_name_by_archive_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, tensor: &Tensor| {
            let path = folder.path().join(name);
            write_npy(tensor, &mut std::fs::File::create(&path).unwrap()).unwrap();
            path.display().to_string()
        };
        let floats = Tensor::new([1, 2], vec![1f32, 2.0]).unwrap();
        let ids = Tensor::new([1, 2], vec![3i64, 4]).unwrap();
        let (x, y) = (file("x=1.npy", &floats), file("y.npy", &ids));
        let z = folder.path().join("z.npz").display().to_string();
        let named = [("y".to_string(), ids.clone()), ("x".to_string(), floats.clone())];
        write_npz(&named, &mut std::fs::File::create(&z).unwrap()).unwrap();

        let inputs = [input("x", DType::F32), input("y", DType::I64)];
        let given = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| (*t).to_string()).collect();
            let mut found = read_inputs(&inputs, &texts)?;
            found.sort_by(|a, b| a.0.cmp(&b.0));
            Ok::<_, Error>(found)
        };
        let expected = vec![("x".to_string(), floats.clone()), ("y".to_string(), ids)];
        assert_eq!(given(&[&x, &y]).unwrap(), expected);
        assert_eq!(given(&[&x, &format!("y={y}")]).unwrap(), expected);
        assert_eq!(given(&[&format!("y={y}"), &format!("x={x}")]).unwrap(), expected);
        assert_eq!(given(&[&z]).unwrap(), expected);

        let message = |texts: &[&str]| given(texts).unwrap_err().to_string();
        assert!(message(&[&x]).contains("`y` not given"));
        assert!(message(&[&y, &x]).contains("expected f32"), "{}", message(&[&y, &x]));
        assert!(message(&[&z, &format!("x={x}")]).contains("`x` is given twice"));
        assert!(message(&[&x, &y, &y]).contains("no further input"));
        assert!(message(&[&format!("w={x}")]).contains("no input `w`; it has `x`, `y`"));
    }

    #[test]
    fn outputs_go_where_they_fit() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
        let one = Tensor::new([1], vec![1f32]).unwrap();
        let outputs = [("a/0".to_string(), one.clone()), ("b".to_string(), one)];
        let known = names(&["a/0", "b"]);
        let write = |given: &[String]| {
            Destination::new(&known, given, false)?.write(&outputs, false).map(|files| {
                files
                    .iter()
                    .map(|f| f.file_name().unwrap().to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(write(&[at("all")]).unwrap(), ["a_0.npy", "b.npy"]);
        assert_eq!(write(&[at("all.npz")]).unwrap(), ["all.npz"]);
        assert_eq!(write(&[format!("b={}", at("x.npy"))]).unwrap(), ["x.npy"]);
        let message = |given: &[String]| write(given).unwrap_err().to_string();
        assert!(message(&[at("all")]).contains("a_0.npy"));
        assert!(message(&[at("one.npy")]).contains("name a folder"));
        assert!(message(&[format!("c={}", at("c.npy"))]).contains("it has `a/0`, `b`"));
        assert!(message(&[format!("b={}", at("b.npz"))]).contains("end the name in .npy"));
        let same = format!("b={}", at("y.npy"));
        assert!(message(&[same.clone(), same]).contains("two outputs"));
        assert!(Destination::new(&known[..1], &[at("one.npy")], false).is_ok());
    }
}
