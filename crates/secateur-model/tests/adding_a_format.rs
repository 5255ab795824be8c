//! The steps of docs/adding-a-format.md: a small format, added from outside. Its files are lines of text such as
//! `w 2 3: 1 2 3 4 5 6`, behind a line that says what they are.

mod common;

use std::io::Write;
use std::path::Path;

use common::*;
use secateur_model::io::{self, Formats, WriteOptions};
use secateur_model::model::{Container, Format, Metadata, Patch, Source, Storage};
use secateur_model::{DType, Data, Error, Model, Result, StoredTensor, Tensor};

const HEAD: &str = "plain tensors\n";

static PLAIN: Format = Format {
    name: "plain",
    extensions: &["plain"],
    begins: |bytes| bytes.starts_with(HEAD.as_bytes()),
    read: |bytes, _| read_plain(std::str::from_utf8(&bytes).map_err(|_| Error::input("is no text"))?),
    create: |model, patch, _, out| write_plain(model, patch, out),
    create_files: None,
};

#[derive(Debug)]
struct PlainSource;

impl Container for PlainSource {
    fn format(&self) -> Option<&'static Format> {
        Some(&PLAIN)
    }

    fn write_stream(&self, model: &Model, patch: &Patch, _: &Metadata, out: &mut dyn Write) -> Result<u64> {
        write_plain(model, patch, out)
    }
}

fn read_plain(text: &str) -> Result<Model> {
    let damaged = || Error::input("is damaged");
    let mut tensors = indexmap::IndexMap::new();
    for line in text.lines().skip(1) {
        let (head, values) = line.split_once(": ").ok_or_else(damaged)?;
        let mut words = head.split(' ');
        let path = words.next().unwrap_or_default().to_string();
        let shape = words.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| damaged())?;
        let values =
            values.split(' ').map(str::parse).collect::<Result<Vec<f32>, _>>().map_err(|_| damaged())?;
        let tensor = Tensor::new(shape, values)?;
        let (shape, data) = tensor.into_parts();
        let storage = Storage::Data(std::sync::Arc::new(data));
        tensors.insert(path.clone(), StoredTensor { path, dtype: DType::F32, shape, storage });
    }
    Ok(Model { tensors, graph: None, path: None, source: Source::new(PlainSource) })
}

fn write_plain(model: &Model, patch: &Patch, out: &mut dyn Write) -> Result<u64> {
    let mut text = HEAD.to_string();
    for entry in patch.entries(model) {
        let dims: Vec<String> = entry.shape.iter().map(usize::to_string).collect();
        let values: Vec<String> = entry.load()?.to_f32s()?.iter().map(f32::to_string).collect();
        text += &format!("{} {}: {}\n", entry.path, dims.join(" "), values.join(" "));
    }
    out.write_all(text.as_bytes()).map_err(|e| Error::io("the stream", e))?;
    Ok(text.len() as u64)
}

#[test]
fn a_format_is_added_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.plain");
    std::fs::write(&path, format!("{HEAD}w 2 2: 1 2 3 4\nb 1: 5\n")).unwrap();
    let formats = Formats::known().with(&PLAIN);
    assert_eq!(formats.of_name(&path), Some(&PLAIN));
    assert_eq!(io::format_of(&path), None);
    assert!(io::read(&path).is_err());

    let model = formats.read(&path).unwrap();
    assert_eq!(data(&model, "w"), Data::F32(vec![1., 2., 3., 4.]));
    let mut patch = Patch::new();
    patch.replace(id(&model, "w"), Tensor::new([1, 2], vec![7f32, 8.]).unwrap());
    patch.rename(id(&model, "b"), "bias");
    let out = folder.path().join("out.plain");
    io::write(&model, &patch, &[], &out, WriteOptions::default()).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), format!("{HEAD}w 1 2: 7 8\nbias 1: 5\n"));

    // Other formats are written from it, and it from others.
    for name in ["m.safetensors", "m.pth"] {
        let other = folder.path().join(name);
        let format = io::format_of(&other).unwrap();
        io::convert(&model, &Patch::new(), &[], format, &other, WriteOptions::default()).unwrap();
        let back = folder.path().join(format!("{name}.plain"));
        convert_back(&other, &back);
        assert_eq!(std::fs::read(&back).unwrap().len(), std::fs::read(&path).unwrap().len());
    }
}

fn convert_back(from: &Path, to: &Path) {
    let model = io::read(from).unwrap();
    io::convert(&model, &Patch::new(), &[], &PLAIN, to, WriteOptions::default()).unwrap();
}
