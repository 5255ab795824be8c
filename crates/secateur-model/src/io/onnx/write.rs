//! Writing an ONNX model: the source's bytes with the changed tensors spliced in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Component, Path};

use super::OnnxSource;
use super::create::{self, NewFile};
use super::elements::Encoding;
use super::external::{ExternalFile, ExternalFiles};
use super::splice::{Piece, Splicer, external_locations};
use crate::io::atomic::{Staged, check_target, folder_of, same_file};
use crate::io::{WriteOptions, WriteReport, WrittenFile, mmap};
use crate::model::{Patch, encode, encode_chunks};
use crate::packed::{PackedCache, Part};
use crate::{Error, ErrorKind, Model, Result, ResultExt, TensorId};

/// Writes a model that was read from an ONNX file; see [`crate::io::write`].
pub(super) fn write(
    source: &OnnxSource,
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    let overwrite = options.overwrite;
    let in_place = model.path.as_deref().is_some_and(|input| same_file(input, path));
    if in_place && !overwrite {
        let message = "is the input itself; choose another name, or replace it with option `force`";
        return Err(Error::usage(message).at_file(path));
    }
    check_target(path, overwrite)?;
    let mut external = source.external.clone();
    let mut splicer = Splicer::new(source, model, patch, metadata, &mut external)?;
    check_input(splicer.external, path)?;
    if !in_place {
        splicer.locations = new_locations(splicer.external, path, overwrite)?;
    }
    if splicer.data.is_some() {
        let location = match (splicer.locations.get(&0), splicer.external.files().first()) {
            (Some(location), _) => location.clone(),
            (None, Some(replaced)) => replaced.location.clone(),
            (None, None) if splicer.has_new_data() => free_location(splicer.external, path, overwrite)?,
            (None, None) => String::new(),
        };
        splicer.data.iter_mut().for_each(|data| data.location.clone_from(&location));
    }
    let pieces = splicer.splice()?;
    let (locations, data) = (splicer.locations, splicer.data);

    let mut output = Output::new(Some(source), model, patch, &external);
    let mut staged = Vec::new();
    if let Some(data) = data.as_ref().filter(|data| !data.pieces.is_empty()) {
        let target = path.with_file_name(&data.location);
        let complete = Staged::new(&target, overwrite, |out| {
            output.pieces(&data.pieces, out, &|e| Error::io(&target, e))
        })?;
        let bytes = data.pieces.iter().map(Piece::len).sum();
        staged.push((complete, WrittenFile { path: target, bytes }));
    }
    let copied = if data.is_some() { &[] } else { external.files() };
    for (index, file) in copied.iter().enumerate() {
        let replaced = replaced(source, model, patch, index)?;
        let target = match locations.get(&index) {
            Some(location) => path.with_file_name(location),
            None if replaced.is_empty() => continue,
            None => file.path.clone(),
        };
        let complete = Staged::new(&target, overwrite, |out| {
            output.external(file, &replaced, out, &|e| Error::io(&target, e))
        })?;
        staged.push((complete, WrittenFile { path: target, bytes: file.bytes.len() as u64 }));
    }
    let main = Staged::new(path, overwrite, |out| output.pieces(&pieces, out, &|e| Error::io(path, e)))?;
    let bytes = pieces.iter().map(Piece::len).sum();
    let external = publish(staged, main)?;
    Ok(WriteReport { model: WrittenFile { path: path.to_path_buf(), bytes }, external })
}

/// Gives all files their names, the model last; where that fails, files that are new are removed.
fn publish(staged: Vec<(Staged, WrittenFile)>, main: Staged) -> Result<Vec<WrittenFile>> {
    let mut done: Vec<(WrittenFile, bool)> = Vec::new();
    let result = staged
        .into_iter()
        .try_for_each(|(file, report)| {
            let replaced = file.publish()?;
            done.push((report, replaced));
            Ok(())
        })
        .and_then(|()| main.publish());
    if let Err(error) = result {
        for (file, _) in done.iter().filter(|(_, replaced)| !replaced) {
            let _ = fs::remove_file(&file.path);
        }
        return Err(error);
    }
    Ok(done.into_iter().map(|(file, _)| file).collect())
}

/// Writes the model, then its external files, one behind the other; see [`crate::io::write_stream`].
pub(super) fn write_stream(
    source: &OnnxSource,
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let mut external = source.external.clone();
    let mut splicer = Splicer::new(source, model, patch, metadata, &mut external)?;
    if let (Some(data), Some(file)) = (&mut splicer.data, splicer.external.files().first()) {
        data.location = file.location.clone();
    }
    let pieces = splicer.splice()?;
    let data = splicer.data;
    let fail = |e: io::Error| Error::new(ErrorKind::Io, format!("writing the model failed: {e}"));
    let mut output = Output::new(Some(source), model, patch, &external);
    output.pieces(&pieces, out, &fail)?;
    let mut len = pieces.iter().map(Piece::len).sum();
    if let Some(data) = &data {
        output.pieces(&data.pieces, out, &fail)?;
        len += data.pieces.iter().map(Piece::len).sum::<u64>();
    }
    let copied = if data.is_some() { &[] } else { external.files() };
    for (index, file) in copied.iter().enumerate() {
        output.external(file, &replaced(source, model, patch, index)?, out, &fail)?;
        len += file.bytes.len() as u64;
    }
    out.flush().map_err(fail)?;
    Ok(len)
}

/// Writes a model that was not read from an ONNX file as one; see [`crate::io::convert`].
pub(super) fn create(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    needs_graph(model)?;
    let model = patch.applied(model)?.model;
    let (patch, external) = (Patch::new(), ExternalFiles::default());
    check_target(path, options.overwrite)?;
    let location = format!("{}.data", path.file_name().unwrap_or_default().to_string_lossy());
    let NewFile { pieces, data } = create::layout(&model, metadata, Some(&location))?;
    let mut output = Output::new(None, &model, &patch, &external);
    let mut staged = Vec::new();
    if let Some(data) = &data {
        let target = path.with_file_name(&data.location);
        check_target(&target, options.overwrite).at(|| "external data")?;
        let complete = Staged::new(&target, options.overwrite, |out| {
            output.pieces(&data.pieces, out, &|e| Error::io(&target, e))
        })?;
        staged
            .push((complete, WrittenFile { path: target, bytes: data.pieces.iter().map(Piece::len).sum() }));
    }
    let main =
        Staged::new(path, options.overwrite, |out| output.pieces(&pieces, out, &|e| Error::io(path, e)))?;
    let bytes = pieces.iter().map(Piece::len).sum();
    let external = publish(staged, main)?;
    Ok(WriteReport { model: WrittenFile { path: path.to_path_buf(), bytes }, external })
}

/// Writes what [`create`] writes into one stream.
pub(super) fn create_stream(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    needs_graph(model)?;
    let model = patch.applied(model)?.model;
    let (patch, external) = (Patch::new(), ExternalFiles::default());
    let NewFile { pieces, .. } = create::layout(&model, metadata, None)?;
    let fail = |e: io::Error| Error::new(ErrorKind::Io, format!("writing the model failed: {e}"));
    Output::new(None, &model, &patch, &external).pieces(&pieces, out, &fail)?;
    out.flush().map_err(fail)?;
    Ok(pieces.iter().map(Piece::len).sum())
}

/// Checks that a model can be written as ONNX.
fn needs_graph(model: &Model) -> Result<()> {
    match model.graph {
        Some(_) => Ok(()),
        None => Err(Error::unsupported(
            "an ONNX file needs the graph, which weights alone do not hold: export it from the program that \
             made the model",
        )),
    }
}

/// Turns a failed write into an error that names the file.
type Fail<'a> = &'a dyn Fn(io::Error) -> Error;

/// What the written bytes come from.
struct Output<'a> {
    /// The file that is spliced; `None` for one that is new.
    source: Option<&'a OnnxSource>,
    model: &'a Model,
    patch: &'a Patch,
    external: &'a ExternalFiles,
    made: PackedCache,
}

impl<'a> Output<'a> {
    fn new(
        source: Option<&'a OnnxSource>,
        model: &'a Model,
        patch: &'a Patch,
        external: &'a ExternalFiles,
    ) -> Self {
        Output { source, model, patch, external, made: PackedCache::default() }
    }

    fn pieces(&mut self, pieces: &[Piece], out: &mut dyn Write, fail: Fail<'_>) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Copy(range) => {
                    let source = self.source.ok_or_else(|| Error::internal("a new file has no source"))?;
                    out.write_all(&source.bytes[range.clone()]).map_err(fail)?;
                }
                Piece::New(bytes) => out.write_all(bytes).map_err(fail)?,
                Piece::External(file, range) => {
                    out.write_all(&self.external.files()[*file].bytes[range.clone()]).map_err(fail)?;
                }
                &Piece::Tensor(id, form, len) => self.tensor(id, form, len, out, fail)?,
                &Piece::Added(index, len) => self.added(index, len, out, fail)?,
                &Piece::Part(id, part, len) => self.part(id, part, len, out, fail)?,
            }
        }
        Ok(())
    }

    fn added(&self, index: usize, len: u64, out: &mut dyn Write, fail: Fail<'_>) -> Result<()> {
        let tensor = self.patch.load_added(index)?;
        let mut written = 0;
        encode_chunks(tensor.data(), &mut |bytes| {
            written += bytes.len() as u64;
            out.write_all(bytes).map_err(fail)
        })?;
        if written != len {
            return Err(Error::internal(format!(
                "an added tensor came out as {written} bytes, expected {len}"
            )));
        }
        Ok(())
    }

    fn part(
        &mut self,
        id: TensorId,
        part: Part,
        len: u64,
        out: &mut dyn Write,
        fail: Fail<'_>,
    ) -> Result<()> {
        let (_, make) = self.patch.packing(self.model, id).ok_or_else(|| Error::internal("not packed"))?;
        let bytes = self.made.get(id, &make).at_tensor(&self.model.tensor(id).path)?.part(part);
        self.check(id, bytes.len() as u64, len)?;
        out.write_all(&bytes).map_err(fail)
    }

    /// Checks that a change takes as much room as was made for it.
    fn check(&self, id: TensorId, written: u64, expected: u64) -> Result<()> {
        if written != expected {
            let message = format!("the change came out as {written} bytes, expected {expected}");
            return Err(Error::internal(message).at_tensor(&self.model.tensor(id).path));
        }
        Ok(())
    }

    fn external(
        &self,
        file: &ExternalFile,
        replaced: &[Replaced],
        out: &mut dyn Write,
        fail: Fail<'_>,
    ) -> Result<()> {
        let mut at = 0;
        for part in replaced {
            out.write_all(&file.bytes[at..part.range.start]).map_err(fail)?;
            self.tensor(part.id, Encoding::Raw, part.range.len() as u64, out, fail)?;
            at = part.range.end;
        }
        out.write_all(&file.bytes[at..]).map_err(fail)
    }

    fn tensor(
        &self,
        id: TensorId,
        form: Encoding,
        len: u64,
        out: &mut dyn Write,
        fail: Fail<'_>,
    ) -> Result<()> {
        let mut tensor = self.patch.load(self.model, id)?;
        if let Some(source) = self.source {
            tensor = source.written(id, tensor).at_tensor(&self.model.tensor(id).path)?;
        }
        let mut written = 0;
        form.encode(tensor.data(), &mut |bytes| {
            written += bytes.len() as u64;
            out.write_all(bytes).map_err(fail)
        })?;
        self.check(id, written, len)
    }
}

/// A changed tensor in an external file.
struct Replaced {
    range: Range<usize>,
    id: TensorId,
}

/// What changes in an external file, from front to back. Tensors that share bytes must change alike.
fn replaced(source: &OnnxSource, model: &Model, patch: &Patch, file: usize) -> Result<Vec<Replaced>> {
    let mut by_range: BTreeMap<(usize, usize), Vec<TensorId>> = BTreeMap::new();
    for (index, extent) in source.extents.iter().enumerate() {
        match extent {
            Some((f, range)) if *f == file && !range.is_empty() => {
                by_range.entry((range.start, range.end)).or_default().push(TensorId(index as u32));
            }
            _ => {}
        }
    }
    let mut replaced = Vec::new();
    // The furthest end so far, and the furthest of a changed tensor, with whose it is.
    let mut end: Option<(usize, TensorId)> = None;
    let mut changed_end = end;
    for ((start, stop), ids) in by_range {
        let changed = ids.iter().copied().find(|&id| patch.contains(id));
        let before = if changed.is_some() { end } else { changed_end };
        if let Some((_, other)) = before.filter(|&(end, _)| end > start) {
            return Err(shared(model, changed.unwrap_or(ids[0]), other));
        }
        end = end.max(Some((stop, ids[0])));
        if let Some(id) = changed {
            changed_end = changed_end.max(Some((stop, id)));
            let content = |id| encode(patch.load(model, id)?.data());
            if ids.len() > 1 {
                let first = content(id)?;
                for &other in ids.iter().filter(|&&other| other != id) {
                    if !patch.contains(other) || content(other)? != first {
                        return Err(shared(model, id, other));
                    }
                }
            }
            replaced.push(Replaced { range: start..stop, id });
        }
    }
    Ok(replaced)
}

fn shared(model: &Model, one: TensorId, other: TensorId) -> Error {
    Error::unsupported(format!(
        "shares its bytes in the external data with tensor `{}`: change both alike or neither",
        model.tensor(other).path
    ))
    .at_tensor(&model.tensor(one).path)
}

/// The locations of the external files of a model written to `path`.
///
/// A file keeps its name where the folder is another one, the name is plain and visible, and no
/// file of that name is there (but for the one that belongs to the model being replaced); so a
/// model cannot choose to write `.profile` or into a subfolder. All others are named after the
/// model.
fn new_locations(files: &ExternalFiles, path: &Path, overwrite: bool) -> Result<HashMap<usize, String>> {
    let folder = folder_of(path);
    let same_folder = files.folder().is_some_and(|input| same_file(input, folder));
    let model_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let replaced = overwrite.then(|| mmap::map_file(path).ok()).flatten();
    let owned = replaced.map(|bytes| external_locations(&bytes)).unwrap_or_default();
    let keeps = |location: &str| {
        let mut parts = Path::new(location).components().filter(|c| *c != Component::CurDir);
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let name = location.trim_start_matches("./");
        let target = folder.join(name);
        let free = target.symlink_metadata().is_err() || owned.contains(name);
        !same_folder && plain && !name.starts_with('.') && name != model_name && free
    };

    let mut locations: HashMap<usize, String> = HashMap::new();
    let kept = |file: &ExternalFile| keeps(&file.location);
    let mut taken: BTreeSet<String> = BTreeSet::from([model_name.clone()]);
    for (index, file) in files.files().iter().enumerate().filter(|(_, f)| kept(f)) {
        taken.insert(file.location.trim_start_matches("./").to_string());
        locations.insert(index, file.location.clone());
    }
    let mut names = (1..).map(|n| match n {
        1 => format!("{model_name}.data"),
        n => format!("{model_name}.{n}.data"),
    });
    for index in 0..files.files().len() {
        if locations.contains_key(&index) {
            continue;
        }
        let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
        check_location(files, &folder.join(&name), overwrite)?;
        locations.insert(index, name);
    }
    Ok(locations)
}

/// The location of external data of a model that had none.
fn free_location(files: &ExternalFiles, path: &Path, overwrite: bool) -> Result<String> {
    let name = format!("{}.data", path.file_name().unwrap_or_default().to_string_lossy());
    check_location(files, &path.with_file_name(&name), overwrite)?;
    Ok(name)
}

fn check_location(files: &ExternalFiles, target: &Path, overwrite: bool) -> Result<()> {
    check_input(files, target)?;
    check_target(target, overwrite).at(|| "external data")
}

/// Checks that a file to be written is none that the input reads from.
fn check_input(files: &ExternalFiles, target: &Path) -> Result<()> {
    match files.files().iter().any(|f| same_file(&f.path, target)) {
        true => {
            Err(Error::usage("holds data of the input; choose another name for the output").at_file(target))
        }
        false => Ok(()),
    }
}
