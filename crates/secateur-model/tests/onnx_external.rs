//! External data: found safely, read lazily, written under new names.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use common::*;
use secateur_model::io::{self, WriteOptions};
use secateur_model::model::Patch;
use secateur_model::{Data, ErrorKind, Model, Tensor};

const FORCE: WriteOptions = WriteOptions { overwrite: true };
const KEEP: WriteOptions = WriteOptions { overwrite: false };

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A model with one external tensor, whose entries are given, beside `weights.bin` of 32 bytes.
fn read_with(folder: &Path, entries: &[(&str, &str)]) -> secateur_model::Result<Model> {
    fs::write(folder.join("weights.bin"), bytes(&[0., 1., 2., 3., 4., 5., 6., 7.])).unwrap();
    let graph = adds(&["w"], &[2]).msg(5, external("w", 1, &[2], entries));
    fs::write(folder.join("m.onnx"), model(graph).0).unwrap();
    io::read(folder.join("m.onnx"))
}

#[test]
fn locations_are_followed_inside_the_folder_only() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(outer.path().join("secret"), bytes(&[9.; 8])).unwrap();
    symlink("../secret", folder.join("link")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    symlink("weights.bin", folder.join("inside")).unwrap();
    symlink("loop", folder.join("loop")).unwrap();
    fs::write(folder.join("sub/weights.bin"), bytes(&[8., 9.])).unwrap();

    let load = |entries: &[(&str, &str)]| read_with(&folder, entries).map(|m| data(&m, "w"));
    assert_eq!(load(&[("location", "weights.bin")]).unwrap(), Data::F32(vec![0., 1.]));
    assert_eq!(load(&[("location", "./weights.bin"), ("offset", "8")]).unwrap(), Data::F32(vec![2., 3.]));
    assert_eq!(load(&[("location", "sub/weights.bin"), ("length", "8")]).unwrap(), Data::F32(vec![8., 9.]));
    assert_eq!(load(&[("location", "inside")]).unwrap(), Data::F32(vec![0., 1.]));

    let absolute = outer.path().join("secret");
    let (input, disk) = (ErrorKind::Input, ErrorKind::Io);
    for (entries, kind, word) in [
        (&[("location", "../secret")][..], input, "without `..`"),
        (&[("location", "sub/../../secret")], input, "without `..`"),
        (&[("location", absolute.to_str().unwrap())], input, "relative path"),
        (&[("location", "")], input, "relative path"),
        (&[("location", "link")], input, "outside the model's folder"),
        (&[("location", "up/secret")], input, "outside the model's folder"),
        (&[("location", "missing.bin")], disk, "missing.bin"),
        (&[("location", "loop")], disk, "loop"),
        (&[("location", "sub")], input, "only regular files"),
        (&[("offset", "0")], input, "without a location"),
        (&[("location", "weights.bin"), ("offset", "28")], input, "ends at 32"),
        (&[("location", "weights.bin"), ("offset", "18446744073709551615")], input, "ends at 32"),
        (&[("location", "weights.bin"), ("offset", "-1")], input, "`-1` is not a number"),
        (&[("location", "weights.bin"), ("length", "4")], input, "expected 8"),
    ] {
        let error = load(entries).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{entries:?}: {text}");
        assert!(
            text.contains(word) && text.contains("`w`") && text.contains("m.onnx"),
            "{entries:?}: {text}"
        );
    }
    let graph = adds(&["w"], &[2]).msg(5, external("w", 1, &[2], &[("location", "weights.bin")]));
    let error = io::read_bytes(model(graph).0).unwrap_err();
    assert!(error.to_string().contains("read from memory"), "{error}");
}

#[test]
fn links_of_a_cache_lead_to_its_own_store() {
    let cache = tempfile::tempdir().unwrap();
    let stores = ["models--a--b", "models--other"].map(|name| cache.path().join(name).join("blobs"));
    let folder = cache.path().join("models--a--b/snapshots/0123/onnx");
    fs::create_dir_all(&folder).unwrap();
    for store in &stores {
        fs::create_dir_all(store).unwrap();
        fs::write(store.join("ff00"), bytes(&[0., 1., 2., 3., 4., 5., 6., 7.])).unwrap();
    }
    fs::write(cache.path().join("models--a--b/ff00"), bytes(&[9.; 8])).unwrap();
    symlink("../../../blobs/ff00", folder.join("model.onnx_data")).unwrap();
    symlink("../../../../models--other/blobs/ff00", folder.join("other")).unwrap();
    symlink("../../../ff00", folder.join("beside")).unwrap();
    let load = |location: &str| read_with(&folder, &[("location", location)]);
    let model = load("model.onnx_data").unwrap();
    assert_eq!(data(&model, "w"), Data::F32(vec![0., 1.]));
    for location in ["other", "beside"] {
        let error = load(location).unwrap_err().to_string();
        assert!(error.contains("outside the model's folder"), "{error}");
    }
    // Replaced in place, the link gives way, and what it led to stays.
    let model = load("model.onnx_data").unwrap();
    let patch = set(&model, "w", vec![5f32, 6.]);
    let path = folder.join("m.onnx");
    write(&model, &patch, &path, WriteOptions { overwrite: true }).unwrap();
    assert_eq!(data(&io::read(&path).unwrap(), "w"), Data::F32(vec![5., 6.]));
    assert_eq!(fs::read(stores[0].join("ff00")).unwrap(), bytes(&[0., 1., 2., 3., 4., 5., 6., 7.]));
}

/// Two tensors in one file, a third in another, one in a function that is never called.
fn three(folder: &Path) -> Model {
    fs::write(folder.join("weights.bin"), bytes(&[0., 1., 2., 3., 4., 5.])).unwrap();
    fs::write(folder.join("other.bin"), bytes(&[6., 7.])).unwrap();
    fs::write(folder.join("unread.bin"), bytes(&[8., 9.])).unwrap();
    let t = |name, location, offset| {
        external(name, 1, &[2], &[("location", location), ("offset", offset), ("checksum", "0")]).unknown()
    };
    let constant = node("Constant", &[], &["c"]).msg(5, attr("value", 4).msg(5, t("", "unread.bin", "0")));
    let graph = adds(&["u", "v", "w"], &[2])
        .msg(5, t("u", "weights.bin", "0"))
        .msg(5, t("v", "weights.bin", "16"))
        .msg(5, t("w", "other.bin", "0"));
    let source = model(graph).msg(25, msg().text(1, "f").text(10, "local").msg(7, constant));
    fs::write(folder.join("m.onnx"), source.0).unwrap();
    io::read(folder.join("m.onnx")).unwrap()
}

fn write(
    model: &Model,
    patch: &Patch,
    path: &Path,
    options: WriteOptions,
) -> secateur_model::Result<Vec<String>> {
    let report = io::write(model, patch, &[], path, options)?;
    Ok(report.external.iter().map(|f| f.path.file_name().unwrap().to_str().unwrap().to_string()).collect())
}

#[test]
fn in_another_folder_the_files_keep_their_names() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = three(from.path());
    let out = to.path().join("m.onnx");
    let written = write(&model, &Patch::new(), &out, KEEP).unwrap();
    assert_eq!(written, ["weights.bin", "other.bin", "unread.bin"]);
    for name in names(from.path()) {
        assert_eq!(
            fs::read(from.path().join(&name)).unwrap(),
            fs::read(to.path().join(&name)).unwrap(),
            "{name}"
        );
    }

    // Again with a change: they belong to the model that is replaced, so the names stay.
    let patch = set(&model, "v", vec![-1f32, -2.]);
    assert_eq!(write(&model, &patch, &out, KEEP).unwrap_err().kind(), ErrorKind::Usage);
    write(&model, &patch, &out, FORCE).unwrap();
    assert_eq!(fs::read(to.path().join("weights.bin")).unwrap(), bytes(&[0., 1., 2., 3., -1., -2.]));
    assert_eq!(names(to.path()), names(from.path()));
    let again = io::read(&out).unwrap();
    assert_eq!(data(&again, "v"), Data::F32(vec![-1., -2.]));
    // The digest of a file that changed is gone, the others' stay.
    let text = fs::read(&out).unwrap();
    assert_eq!(text.windows(8).filter(|w| w == b"checksum").count(), 2);

    // Files of that name that are someone else's stay untouched.
    let third = tempfile::tempdir().unwrap();
    fs::write(third.path().join("weights.bin"), b"mine").unwrap();
    let written = write(&model, &patch, &third.path().join("m.onnx"), FORCE).unwrap();
    assert_eq!(written, ["m.onnx.data", "other.bin", "unread.bin"]);
    assert_eq!(fs::read(third.path().join("weights.bin")).unwrap(), b"mine");
    assert_eq!(data(&io::read(third.path().join("m.onnx")).unwrap(), "v"), Data::F32(vec![-1., -2.]));
}

#[test]
fn in_the_same_folder_the_files_get_new_names() {
    let folder = tempfile::tempdir().unwrap();
    let model = three(folder.path());
    let before: Vec<_> =
        names(folder.path()).iter().map(|n| fs::read(folder.path().join(n)).unwrap()).collect();
    let out = folder.path().join("pruned.onnx");
    let patch = set(&model, "w", vec![0f32, 0.]);
    let written = write(&model, &patch, &out, KEEP).unwrap();
    assert_eq!(written, ["pruned.onnx.data", "pruned.onnx.2.data", "pruned.onnx.3.data"]);
    let old = ["m.onnx", "other.bin", "unread.bin", "weights.bin"];
    for (name, before) in old.iter().zip(&before) {
        assert_eq!(&fs::read(folder.path().join(name)).unwrap(), before, "{name}");
    }
    let again = io::read(&out).unwrap();
    for (name, values) in [("u", [0f32, 1.]), ("v", [4., 5.]), ("w", [0., 0.])] {
        assert_eq!(data(&again, name), Data::F32(values.to_vec()), "{name}");
    }
    // The bytes do not depend on what stands there already.
    let first = fs::read(&out).unwrap();
    write(&model, &patch, &out, FORCE).unwrap();
    assert_eq!(first, fs::read(&out).unwrap());
    assert_eq!(names(folder.path()).len(), 8);
    // What the input reads from is not replaced.
    let chained = io::read(&out).unwrap();
    let alias = folder.path().join("pruned.onnx.data");
    let error = write(&chained, &Patch::new(), &alias, FORCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn a_model_is_replaced_in_place_with_the_files_that_change() {
    let folder = tempfile::tempdir().unwrap();
    let model = three(folder.path());
    let source = fs::read(folder.path().join("m.onnx")).unwrap();
    let patch = set(&model, "u", vec![-1f32, -2.]);
    let written = write(&model, &patch, &folder.path().join("m.onnx"), FORCE).unwrap();
    assert_eq!(written, ["weights.bin"]);
    assert_eq!(names(folder.path()).len(), 4);
    assert_eq!(fs::read(folder.path().join("weights.bin")).unwrap(), bytes(&[-1., -2., 2., 3., 4., 5.]));
    assert!(fs::read(folder.path().join("m.onnx")).unwrap().len() < source.len(), "a stale checksum stayed");
    assert_eq!(data(&model, "u"), Data::F32(vec![0., 1.]), "the map of the old file");
}

#[test]
fn a_model_cannot_choose_what_is_written_where() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("sub")).unwrap();
    for name in [".profile", "sub/w.bin", "out.onnx"] {
        fs::write(from.path().join(name), bytes(&[1., 2.])).unwrap();
    }
    let graph = adds(&["u", "v", "w"], &[2])
        .msg(5, external("u", 1, &[2], &[("location", ".profile")]))
        .msg(5, external("v", 1, &[2], &[("location", "sub/w.bin")]))
        .msg(5, external("w", 1, &[2], &[("location", "out.onnx")]));
    fs::write(from.path().join("m.onnx"), model(graph).0).unwrap();
    let model = io::read(from.path().join("m.onnx")).unwrap();
    write(&model, &Patch::new(), &to.path().join("out.onnx"), KEEP).unwrap();
    assert_eq!(names(to.path()), ["out.onnx", "out.onnx.2.data", "out.onnx.3.data", "out.onnx.data"]);
    assert_eq!(data(&io::read(to.path().join("out.onnx")).unwrap(), "w"), Data::F32(vec![1., 2.]));
}

#[test]
fn tensors_that_share_bytes_change_alike() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w.bin"), bytes(&[1., 2., 3.])).unwrap();
    let t = |name, offset| external(name, 1, &[2], &[("location", "w.bin"), ("offset", offset)]);
    let graph = adds(&["a", "b", "c"], &[2]).msg(5, t("a", "0")).msg(5, t("b", "0")).msg(5, t("c", "4"));
    fs::write(folder.path().join("m.onnx"), model(graph).0).unwrap();
    let model = io::read(folder.path().join("m.onnx")).unwrap();
    let write = |patch: &Patch| io::write_stream(&model, patch, &[], &mut Vec::new());
    let value = |values: [f32; 2]| Tensor::new([2], values.to_vec()).unwrap();
    let mut patch = Patch::new();
    for (names, fits) in [(&["a"][..], false), (&["a", "b"], false), (&["c"], false)] {
        let mut patch = Patch::new();
        names.iter().for_each(|n| patch.set(id(&model, n), value([0., 0.])));
        let result = write(&patch);
        assert_eq!(result.is_ok(), fits, "{names:?}");
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("shares its bytes"), "{error}");
    }
    // Without the one that overlaps, equal changes are one change.
    let graph = adds(&["a", "b"], &[2]).msg(5, t("a", "0")).msg(5, t("b", "0"));
    fs::write(folder.path().join("m.onnx"), common::model(graph).0).unwrap();
    let model = io::read(folder.path().join("m.onnx")).unwrap();
    patch.set(id(&model, "a"), value([0., 5.]));
    patch.set(id(&model, "b"), value([0., 5.]));
    io::write(&model, &patch, &[], &folder.path().join("o.onnx"), KEEP).unwrap();
    assert_eq!(fs::read(folder.path().join("o.onnx.data")).unwrap(), bytes(&[0., 5., 3.]));
    patch.set(id(&model, "b"), value([0., 6.]));
    assert!(io::write_stream(&model, &patch, &[], &mut Vec::new()).is_err());
}

#[test]
fn the_hash_covers_all_files() {
    let folder = tempfile::tempdir().unwrap();
    let hash = io::content_hash(&three(folder.path())).unwrap();
    assert_eq!(hash.len(), 64);
    fs::write(folder.path().join("other.bin"), bytes(&[6., 8.])).unwrap();
    assert_ne!(hash, io::content_hash(&io::read(folder.path().join("m.onnx")).unwrap()).unwrap());
}

/// A model of `count` external f32 tensors of `len` elements each in one file, sparse on disk.
fn large(folder: &Path, count: usize, len: usize) -> std::path::PathBuf {
    let names: Vec<String> = (0..count).map(|k| format!("layer{k}.weight")).collect();
    let mut graph = adds(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[len as i64]);
    for (k, name) in names.iter().enumerate() {
        let (offset, length) = ((k * len * 4).to_string(), (len * 4).to_string());
        let entries = [("location", "large.bin"), ("offset", &offset), ("length", &length)];
        graph = graph.msg(5, external(name, 1, &[len as i64], &entries));
    }
    File::create(folder.join("large.bin")).unwrap().set_len((count * len * 4) as u64).unwrap();
    fs::write(folder.join("large.onnx"), model(graph).0).unwrap();
    folder.join("large.onnx")
}

/// Runs a test of this program in a process of its own, whose memory is its alone.
fn alone(test: &str, shell: &str) -> std::process::Output {
    let program = std::env::current_exe().unwrap();
    let command = format!("{shell} exec \"$0\" --exact {test} --nocapture --test-threads=1");
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(command).arg(program).env("SECATEUR_TEST_CHILD", test).output().unwrap()
}

#[track_caller]
fn assert_passed(output: &std::process::Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("the child is done"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn reading_four_gigabytes_takes_little_memory() {
    if cfg!(not(target_os = "linux")) {
        eprintln!("skipped: the peak of memory is read from /proc");
        return;
    }
    assert_passed(&alone("child_reads_four_gigabytes", ""));
}

/// Whether this process was started by [`alone`] for a test; the test says when it is done.
fn is_child(test: &str) -> bool {
    std::env::var_os("SECATEUR_TEST_CHILD").is_some_and(|name| name == test)
}

#[test]
fn child_reads_four_gigabytes() {
    if !is_child("child_reads_four_gigabytes") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 100, 10_900_000);
    assert!(fs::metadata(folder.path().join("large.bin")).unwrap().len() > 1 << 32);
    let model = io::read(path).unwrap();
    let total: usize = model.tensors.values().map(|t| t.byte_len()).sum();
    assert_eq!(total, 100 * 10_900_000 * 4);
    // The last tensor begins above 4 GB.
    let last = model.tensors.values().last().unwrap();
    assert_eq!(last.load().unwrap().values::<f32>().unwrap()[0], 0.0);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let kb: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak {kb} kB");
    assert!(kb < 200_000, "{kb} kB");
    println!("the child is done");
}

/// Takes a stream and keeps only what differs from zero, with its position.
#[derive(Default)]
struct NonZero {
    at: u64,
    found: Vec<(u64, u8)>,
}

impl std::io::Write for NonZero {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for (block, start) in bytes.chunks(1 << 16).zip((self.at..).step_by(1 << 16)) {
            if block.iter().fold(0, |any, b| any | b) != 0 {
                self.found
                    .extend(block.iter().zip(start..).filter(|(b, _)| **b != 0).map(|(b, at)| (at, *b)));
            }
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "streams more than 4 GB, which takes 20 s"]
fn changes_above_four_gigabytes_land_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    let (count, len) = (3, 360_000_000);
    let path = large(folder.path(), count, len);
    let model_len = fs::metadata(&path).unwrap().len();
    let model = io::read(path).unwrap();
    let last = model.tensor_id("layer2.weight").unwrap();
    let mut patch = Patch::new();
    patch.set_lazy(
        last,
        std::sync::Arc::new(move || {
            let mut values = vec![0f32; len];
            (values[0], values[len - 1]) = (1.0, 1.0);
            Tensor::new([len], values)
        }),
    );
    let mut out = NonZero::default();
    io::write_stream(&model, &patch, &[], &mut out).unwrap();
    let first = (2 * len * 4) as u64;
    let end = (3 * len * 4) as u64;
    assert!(end > 1 << 32);
    assert_eq!(out.at - model_len, end);
    let found: Vec<_> =
        out.found.iter().filter(|(at, _)| *at >= model_len).map(|(at, b)| (at - model_len, *b)).collect();
    assert_eq!(found, [(first + 2, 0x80), (first + 3, 0x3f), (end - 2, 0x80), (end - 1, 0x3f)]);
}

#[test]
fn a_limit_on_file_sizes_leaves_nothing_behind() {
    // Files may grow to 64 blocks of 512 bytes (1024 in some shells): less than the data below.
    assert_passed(&alone("child_writes_into_a_limit", "trap '' XFSZ; ulimit -f 64;"));
}

#[test]
fn child_writes_into_a_limit() {
    if !is_child("child_writes_into_a_limit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let len = 50_000;
    let path = large(folder.path(), 1, 1);
    fs::remove_file(&path).unwrap();
    let graph = adds(&["w"], &[1]).msg(5, external("w", 1, &[1], &[("location", "large.bin")]));
    fs::write(&path, model(graph).0).unwrap();
    let inner = adds(&["v", "w"], &[1]).msg(5, raw_f32("v", &[len], &vec![1.0; len as usize]));
    let inner = inner.msg(5, external("w", 1, &[1], &[("location", "large.bin")]));
    // The external file fits, the model does not: both must be gone afterwards.
    let model = io::onnx::from_bytes(model(inner).0.into(), folder.path()).unwrap();
    let before = names(folder.path());
    let out = folder.path().join("out.onnx");
    let error = io::write(&model, &Patch::new(), &[], &out, KEEP).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("out.onnx"), "{error}");
    assert_eq!(names(folder.path()), before);
    println!("the child is done");
}

#[test]
fn a_folder_without_the_right_to_write_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = three(from.path());
    fs::set_permissions(to.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if File::create(to.path().join("probe")).is_ok() {
        eprintln!("skipped: this user may write everywhere");
        return;
    }
    let error = write(&model, &Patch::new(), &to.path().join("m.onnx"), KEEP).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("m.onnx") && error.to_string().contains("denied"), "{error}");
}
