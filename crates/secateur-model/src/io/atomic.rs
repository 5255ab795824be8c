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
pub fn check_target(path: &Path, overwrite: bool) -> Result<()> {
    let refuse = |message: &str| Err(Error::usage(message).at_file(path));
    if path.file_name().is_none() {
        return refuse("expected the name of a file to write");
    }
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => refuse("is a folder; expected the name of a file to write"),
        Ok(meta) if !meta.is_file() => refuse("is not a regular file, so it cannot be replaced"),
        Ok(_) if !overwrite => Err(exists(path)),
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

/// Whether two paths are the same file or folder.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
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
        let new = |temporary: &Path| OpenOptions::new().write(true).create_new(true).open(temporary);
        let (file, temporary) = create_beside(path, new)?;
        let staged = Staged { temporary, path: path.to_path_buf(), overwrite, published: false };
        fill_file(&file, path, fill)?;
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
        sync_folder(folder_of(&self.path));
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

/// A complete folder under a temporary name, removed unless it is published.
#[derive(Debug)]
pub(crate) struct StagedFolder {
    temporary: PathBuf,
    path: PathBuf,
    overwrite: bool,
    published: bool,
}

impl StagedFolder {
    /// Makes a temporary folder beside `path` for files of these names.
    ///
    /// # Errors
    /// `Usage` where `path` is there and `overwrite` is not given, or it holds something that the new
    /// folder would not have; `Io` where no folder can be made.
    pub(crate) fn new(path: &Path, overwrite: bool, names: &[&str]) -> Result<Self> {
        let path = &path.components().collect::<PathBuf>();
        check_target_folder(path, overwrite, names)?;
        let ((), temporary) = create_beside(path, |temporary| fs::create_dir(temporary))?;
        Ok(StagedFolder { temporary, path: path.to_path_buf(), overwrite, published: false })
    }

    /// Writes a file of the folder and waits until the disk has it; returns what `fill` returns.
    ///
    /// # Errors
    /// `Io` where writing fails, and those of `fill`.
    pub(crate) fn file<T>(&self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        let path = self.temporary.join(name);
        let file = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        fill_file(&file, &path, fill)
    }

    /// Gives the folder its name. Where one is there already, both change places at once, so that
    /// the name always holds a whole folder; on systems that cannot do that, the old folder is moved
    /// aside first.
    ///
    /// # Errors
    /// `Io` where renaming fails, `Usage` where a folder has appeared there meanwhile.
    pub(crate) fn publish(mut self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(&self.path, e);
        sync_folder(&self.temporary);
        if !self.path.exists() {
            fs::rename(&self.temporary, &self.path).map_err(failed)?;
        } else if !self.overwrite {
            return Err(exists(&self.path));
        } else if exchange(&self.temporary, &self.path) {
            let _ = fs::remove_dir_all(&self.temporary);
        } else {
            let ((), old) = create_beside(&self.path, |old| fs::rename(&self.path, old))?;
            fs::rename(&self.temporary, &self.path).map_err(failed)?;
            let _ = fs::remove_dir_all(old);
        }
        self.published = true;
        sync_folder(folder_of(&self.path));
        Ok(())
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Writes a file's content and waits until the disk has it. `path` is the name that errors say.
fn fill_file<T>(file: &File, path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let filled = fill(&mut out)?;
    out.flush().and_then(|()| file.sync_all()).map_err(|e| Error::io(path, e))?;
    Ok(filled)
}

/// Waits until the disk has the names in a folder: a new name is there only then. Not every platform can do that.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Lets two paths change places in one step; false where the system cannot.
fn exchange(one: &Path, other: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (one, other);
        false
    }
}

fn exists(path: &Path) -> Error {
    Error::usage("already exists; choose another name, or pass --force to overwrite it").at_file(path)
}

/// Checks that a folder with files of these names may be written at `path`. Nothing but a model of the
/// same kind is replaced: files of other names in it would be lost.
fn check_target_folder(path: &Path, overwrite: bool, names: &[&str]) -> Result<()> {
    let refuse = |message: String| Err(Error::usage(message).at_file(path));
    if path.file_name().is_none() {
        return refuse("expected the name of a folder to write".into());
    }
    if path.symlink_metadata().is_err() {
        return match folder_of(path) {
            folder if folder.is_dir() => Ok(()),
            folder => refuse(format!("the folder `{}` does not exist", folder.display())),
        };
    }
    if !path.is_dir() {
        return refuse("is a file; the model is a folder: choose the name of a folder".into());
    }
    if !overwrite {
        return Err(exists(path));
    }
    for item in fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        let item = item.map_err(|e| Error::io(path, e))?;
        let name = item.file_name();
        if !names.iter().any(|n| name == **n) || item.path().is_dir() {
            return refuse(format!(
                "holds `{}`, which would be lost; choose another folder, or remove it first",
                name.to_string_lossy()
            ));
        }
    }
    Ok(())
}

/// Makes something under a temporary name in the folder of `path`.
fn create_beside<T>(path: &Path, create: impl Fn(&Path) -> std::io::Result<T>) -> Result<(T, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder_of(path).join(format!(".secateur-{}-{count}.part", std::process::id()));
        match create(&temporary) {
            Ok(created) => return Ok((created, temporary)),
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
