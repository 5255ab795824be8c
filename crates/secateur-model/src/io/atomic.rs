//! Files that appear under their name only when they are complete.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind, Result};

/// Writes a file by way of a temporary one in the same folder: whatever goes wrong, `path` holds
/// what it held before and nothing else is left behind. `fill` writes the content.
///
/// # Errors
/// `Usage` where `path` exists and `overwrite` is not given, or is no regular file; `Io` where
/// writing fails; and those of `fill`.
pub fn write_file(
    path: &Path,
    overwrite: bool,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    Staged::new(path, overwrite, fill)?.publish().map(|_| ())
}

/// Checks that a file may be written at `path`.
///
/// # Errors
/// `Usage` where the path names no file, its folder is missing, something that is no regular file
/// stands there, or a file does and `overwrite` is not given.
pub(crate) fn check_target(path: &Path, overwrite: bool) -> Result<()> {
    let refuse = |message: &str| Err(Error::usage(message).at_file(path));
    if path.file_name().is_none() {
        return refuse("expected the name of a file to write");
    }
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => refuse("is a folder; expected the name of a file to write"),
        Ok(meta) if !meta.is_file() => refuse("is not a regular file, so it cannot be replaced"),
        Ok(_) if !overwrite => refuse("exists already; choose another name, or `--force` to replace it"),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == IoErrorKind::NotFound => match folder_of(path) {
            folder if folder.is_dir() => Ok(()),
            folder => refuse(&format!("the folder `{}` does not exist", folder.display())),
        },
        Err(e) => Err(Error::io(path, e)),
    }
}

/// The folder a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A complete file under a temporary name, removed unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    overwrite: bool,
    published: bool,
}

impl Staged {
    /// Writes the temporary file and waits until the disk has it.
    ///
    /// # Errors
    /// As [`write_file`].
    pub(crate) fn new(
        path: &Path,
        overwrite: bool,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        check_target(path, overwrite)?;
        let (file, temporary) = create_beside(path)?;
        let staged = Staged { temporary, path: path.to_path_buf(), overwrite, published: false };
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        fill(&mut out)?;
        out.flush().and_then(|()| file.sync_all()).map_err(|e| Error::io(path, e))?;
        // A failed write must not be tried again when the buffer is dropped.
        let _ = out.into_parts();
        Ok(staged)
    }

    /// Gives the file its name; returns whether another file was replaced.
    ///
    /// # Errors
    /// `Io` where renaming fails, `Usage` where a file has appeared there meanwhile.
    pub(crate) fn publish(mut self) -> Result<bool> {
        check_target(&self.path, self.overwrite)?;
        let replaced = self.path.exists();
        fs::rename(&self.temporary, &self.path).map_err(|e| Error::io(&self.path, e))?;
        self.published = true;
        // The new name is on disk only when the folder is. Not every platform can do that.
        if let Ok(folder) = File::open(folder_of(&self.path)) {
            let _ = folder.sync_all();
        }
        Ok(replaced)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn create_beside(path: &Path) -> Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder_of(path).join(format!(".secateur-{}-{count}.part", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(e) if e.kind() == IoErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(Error::new(
                    ErrorKind::Io,
                    format!("no file can be made in the folder `{}`: {e}", folder_of(path).display()),
                )
                .at_file(path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(out: &mut dyn Write, text: &[u8]) -> Result<()> {
        out.write_all(text).map_err(|e| Error::io("out", e))
    }

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let error = write_file(&path, false, |out| {
            out.write_all(&[1; 3 << 20]).unwrap();
            Err(Error::io("out", std::io::Error::from(IoErrorKind::StorageFull)))
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(entries(folder.path()).is_empty());

        write_file(&path, false, |out| put(out, b"old")).unwrap();
        assert!(write_file(&path, true, |_| Err(Error::internal("stop"))).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), ["out"]);
    }

    #[test]
    fn a_file_is_replaced_only_where_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let write = |overwrite, text: &[u8]| write_file(&path, overwrite, |out| put(out, text));
        write(false, b"old").unwrap();
        let error = write(false, b"new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("--force"), "{error}");
        write(true, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(write_file(folder.path(), true, |_| Ok(())).unwrap_err().kind(), ErrorKind::Usage);
        let missing = folder.path().join("no/out");
        let error = write_file(&missing, true, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
    }

    #[test]
    fn two_writers_of_one_name_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let first = Staged::new(&path, false, |out| put(out, b"first")).unwrap();
        let second = Staged::new(&path, false, |out| put(out, b"second")).unwrap();
        first.publish().unwrap();
        assert_eq!(second.publish().unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(entries(folder.path()), ["out"]);
    }
}
