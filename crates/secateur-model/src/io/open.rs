//! Opening what is read: regular files only, whose size is known and whose bytes stay. A pipe would wait for
//! a writer without end, a device can give bytes without end.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Opens a regular file, links followed.
///
/// # Errors
/// `Io` where it cannot be opened, `Input` where it is a folder, a pipe, a socket or a device.
pub fn open_regular(path: &Path) -> Result<File> {
    let failed = |e| Error::io(path, e);
    // Looked at before it is opened: opening a pipe waits, opening a device may act.
    check_regular(&fs::metadata(path).map_err(failed)?, path)?;
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Where a pipe took the file's place meanwhile, this does not wait for its writer.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path).map_err(failed)?;
    check_regular(&file.metadata().map_err(failed)?, path)?;
    Ok(file)
}

/// The content of a regular file as a whole.
///
/// # Errors
/// As [`open_regular`].
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    open_regular(path)?.read_to_end(&mut content).map_err(|e| Error::io(path, e))?;
    Ok(content)
}

/// The content of a small file, such as a recipe. What stands behind one of this process's own descriptors
/// (`/dev/stdin`, `/dev/fd/63`: a shell's `<(…)`) may be a pipe.
///
/// # Errors
/// As [`open_regular`]; `Input` where the file has more than `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let own = ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|own| path.starts_with(own));
    let file = match own {
        true => File::open(path).map_err(|e| Error::io(path, e))?,
        false => open_regular(path)?,
    };
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|e| Error::io(path, e))?;
    if content.len() as u64 > limit {
        let message = format!("is larger than the limit of {limit} bytes");
        return Err(Error::input(message).at_file(path));
    }
    Ok(content)
}

/// As [`read_small`], for text.
///
/// # Errors
/// As [`read_small`]; `Input` where it is no UTF-8.
pub fn read_small_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_small(path, limit)?)
        .map_err(|e| Error::input(format!("is no text in UTF-8: {e}")).at_file(path))
}

fn check_regular(found: &Metadata, path: &Path) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let what = kind(found);
    Err(Error::input(format!("is {what}; only regular files are read")).at_file(path))
}

fn kind(found: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = found.file_type();
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() { "a folder" } else { "something else" }
}

/// The file that a path in a model's folder leads to, links followed; `None` where that is outside. A
/// snapshot in a Hugging Face cache (`models--…/snapshots/<commit>/`) is made of links to `blobs` beside
/// `snapshots`, which counts as inside.
///
/// # Errors
/// `Io` where the path leads to nothing.
pub fn inside_folder(folder: &Path, path: &Path) -> Result<Option<PathBuf>> {
    let real = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let root = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
    let inside = real.starts_with(&root) || cache_blobs(&root).is_some_and(|blobs| real.starts_with(blobs));
    Ok(inside.then_some(real))
}

/// The folder of blobs that the snapshot of a Hugging Face cache at or above `root` links to.
fn cache_blobs(root: &Path) -> Option<PathBuf> {
    let is_repository =
        |name: &str| ["models--", "datasets--", "spaces--"].iter().any(|p| name.starts_with(p));
    let mut repository = PathBuf::new();
    let mut parts = root.components().peekable();
    while let Some(part) = parts.next() {
        repository.push(part);
        let Component::Normal(name) = part else { continue };
        let snapshots = parts.peek().is_some_and(|next| next.as_os_str() == "snapshots");
        if snapshots && name.to_str().is_some_and(is_repository) && parts.clone().count() >= 2 {
            let blobs = repository.join("blobs").canonicalize().ok()?;
            return blobs.starts_with(&repository).then_some(blobs);
        }
    }
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn fifo(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        fifo(&pipe);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for (path, what) in [
            (&*pipe, "a pipe"),
            (&link, "a pipe"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            for error in [open_regular(path).unwrap_err(), read_small(path, 9).unwrap_err()] {
                assert_eq!(error.kind(), crate::ErrorKind::Input);
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        let missing = open_regular(&folder.path().join("no")).unwrap_err();
        assert_eq!(missing.kind(), crate::ErrorKind::Io);
    }

    #[test]
    fn small_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_small(&path, 5).unwrap(), b"12345");
        let error = read_small_text(&path, 4).unwrap_err().to_string();
        assert!(error.contains("limit of 4 bytes"), "{error}");
        fs::write(&path, b"\xff").unwrap();
        assert!(read_small_text(&path, 4).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn links_stay_in_the_folder_or_its_cache() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().unwrap();
        let snapshot = base.path().join("models--a--b/snapshots/1234");
        let blobs = base.path().join("models--a--b/blobs");
        let other = base.path().join("models--c/blobs");
        for folder in [&snapshot, &blobs, &other] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in [blobs.join("x"), other.join("x"), base.path().join("secret"), snapshot.join("own")] {
            fs::write(file, "x").unwrap();
        }
        symlink("../../blobs/x", snapshot.join("blob")).unwrap();
        symlink("own", snapshot.join("same")).unwrap();
        symlink("../../../secret", snapshot.join("out")).unwrap();
        symlink(other.join("x"), snapshot.join("other")).unwrap();
        let inside = |folder: &Path, name: &str| inside_folder(folder, &folder.join(name)).unwrap().is_some();
        assert!(inside(&snapshot, "own") && inside(&snapshot, "same") && inside(&snapshot, "blob"));
        assert!(!inside(&snapshot, "out") && !inside(&snapshot, "other"));

        // A folder inside the snapshot is of the same cache; one that only has links like it is not.
        fs::create_dir(snapshot.join("onnx")).unwrap();
        symlink("../../../blobs/x", snapshot.join("onnx/deep")).unwrap();
        assert!(inside(&snapshot.join("onnx"), "deep"));
        let plain = base.path().join("plain/snapshots/1");
        fs::create_dir_all(&plain).unwrap();
        fs::create_dir_all(base.path().join("plain/blobs")).unwrap();
        fs::write(base.path().join("plain/blobs/x"), "x").unwrap();
        symlink("../../blobs/x", plain.join("blob")).unwrap();
        assert!(!inside(&plain, "blob"));
    }
}
