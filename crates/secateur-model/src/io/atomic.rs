//! Files that appear under their name only when they are complete.
//!
//! Until then they have a temporary name and are locked, so that what a killed process left behind is told
//! from what another one is writing: [`clear_left_over`] removes what nobody has locked.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{BufWriter, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

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

/// As [`write_file`] where nothing is replaced: the new file has the permissions of the first of `like` that
/// exists.
///
/// # Errors
/// As [`write_file`].
pub fn write_file_like(
    path: &Path,
    like: &[&Path],
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let like = like.iter().find_map(|path| fs::metadata(path).ok());
    Staged::with_permissions(path, false, like, fill)?.publish().map(|_| ())
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
            _ if names_folder(path) => refuse("names a folder; expected the name of a file to write"),
            folder if folder.is_dir() => Ok(()),
            folder => refuse(&format!("the folder `{}` does not exist", folder.display())),
        },
        Err(e) => Err(Error::io(path, e)),
    }
}

/// Whether a path ends with a separator.
fn names_folder(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().last().is_some_and(|&end| std::path::is_separator(end.into()))
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
    /// Holds the lock.
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    overwrite: bool,
    published: bool,
}

impl Staged {
    /// Writes the temporary file and waits until the disk has it. A file that is to be replaced hands on its
    /// permissions, so that what only its owner could read stays so.
    ///
    /// # Errors
    /// As [`write_file`].
    pub(crate) fn new(
        path: &Path,
        overwrite: bool,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        Self::with_permissions(path, overwrite, fs::metadata(path).ok(), fill)
    }

    fn with_permissions(
        path: &Path,
        overwrite: bool,
        like: Option<Metadata>,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        check_target(path, overwrite)?;
        // Permissions of a folder mean something else.
        let replaced = like.filter(Metadata::is_file);
        fn itself(file: &File) -> Option<&File> {
            Some(file)
        }
        let create = |name: &Path| create_private(name, replaced.is_some());
        let (file, temporary) = create_beside(path, create, itself)?;
        let staged = Staged { file, temporary, path: path.to_path_buf(), overwrite, published: false };
        if let Some(replaced) = &replaced {
            hand_on_permissions(replaced, &staged.file).map_err(|e| Error::io(path, e))?;
        }
        fill_file(&staged.file, path, fill)?;
        Ok(staged)
    }

    /// Gives the file its name; returns whether another file was replaced.
    ///
    /// # Errors
    /// `Io` where renaming fails, `Usage` where a file has appeared there meanwhile.
    pub(crate) fn publish(mut self) -> Result<bool> {
        check_target(&self.path, self.overwrite)?;
        let replaced = self.path.exists();
        if self.overwrite {
            fs::rename(&self.temporary, &self.path).map_err(|e| Error::io(&self.path, e))?;
        } else {
            rename_new(&self.temporary, &self.path)?;
        }
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
    /// Holds the lock, where folders can be locked.
    lock: Option<File>,
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
        let create = |temporary: &Path| {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            if path.exists() {
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            }
            builder.create(temporary)?;
            Ok(File::open(temporary).ok())
        };
        let (lock, temporary) = create_beside(path, create, Option::as_ref)?;
        Ok(StagedFolder { lock, temporary, path: path.to_path_buf(), overwrite, published: false })
    }

    /// Writes a file of the folder and waits until the disk has it; returns what `fill` returns.
    ///
    /// # Errors
    /// `Io` where writing fails, and those of `fill`.
    pub(crate) fn file<T>(&self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        let path = self.temporary.join(name);
        let replaced = fs::metadata(self.path.join(name)).ok();
        let file = create_private(&path, replaced.is_some()).map_err(|e| Error::io(&path, e))?;
        if let Some(replaced) = &replaced {
            hand_on_permissions(replaced, &file).map_err(|e| Error::io(&path, e))?;
        }
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
        if let (Ok(replaced), Some(folder)) = (fs::metadata(&self.path), &self.lock) {
            hand_on_permissions(&replaced, folder).map_err(failed)?;
        }
        sync_folder(&self.temporary);
        if !self.overwrite {
            rename_new(&self.temporary, &self.path)?;
        } else if !self.path.exists() {
            fs::rename(&self.temporary, &self.path).map_err(failed)?;
        } else if exchange(&self.temporary, &self.path) {
            let _ = fs::remove_dir_all(&self.temporary);
        } else {
            move_over(&self.temporary, &self.path).map_err(failed)?;
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

/// Gives a file or folder a name that is free. Where the system cannot do that in one step, it is looked first
/// whether the name is.
///
/// # Errors
/// `Usage` where the name is taken; `Io` where renaming fails.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let taken_or_failed = |e: std::io::Error| match e.kind() {
        IoErrorKind::AlreadyExists => exists(to),
        _ => Error::io(to, e),
    };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system or the kernel lacks it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return done.map_err(|e| taken_or_failed(e.into())),
        }
    }
    if to.symlink_metadata().is_ok() {
        return Err(exists(to));
    }
    fs::rename(from, to).map_err(taken_or_failed)
}

/// Puts a folder in the place of another one, which is moved aside first, and back again where the new one
/// does not get its name.
fn move_over(new: &Path, path: &Path) -> std::io::Result<()> {
    // Not a name that is cleared: until the new folder has its name, this is the only one.
    let mut old = new.to_path_buf().into_os_string();
    old.push(".old");
    fs::rename(path, &old)?;
    if let Err(error) = fs::rename(new, path) {
        let _ = fs::rename(&old, path);
        return Err(error);
    }
    let _ = fs::remove_dir_all(old);
    Ok(())
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
    Error::usage("already exists; choose another name, or overwrite it with option `force`").at_file(path)
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

/// A new file to write; that only its owner may read where permissions are handed on before it is filled.
fn create_private(path: &Path, private: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = private;
    options.open(path)
}

/// Gives a file or folder the permissions of the one it replaces, and its owner and group where that is
/// allowed; where it is not, the group gets no more than everybody.
fn hand_on_permissions(from: &Metadata, to: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let own = to.metadata()?;
        let same = (own.uid(), own.gid()) == (from.uid(), from.gid());
        let kept = same || fchown(to, Some(from.uid()), Some(from.gid())).is_ok();
        let mode = from.mode() & 0o777;
        let everybody = mode & 0o007;
        let mode = if kept || own.gid() == from.gid() { mode } else { mode & (0o707 | everybody << 3) };
        to.set_permissions(fs::Permissions::from_mode(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = (from, to);
        Ok(())
    }
}

/// How temporary names begin and end; between them stand the process and a number.
const PREFIX: &str = ".secateur-";
const SUFFIX: &str = ".part";

/// Makes something under a temporary name in the folder of `path`, and locks the file that `opened` finds in
/// it: none for a folder on systems that do not open these.
fn create_beside<T>(
    path: &Path,
    create: impl Fn(&Path) -> std::io::Result<T>,
    opened: impl Fn(&T) -> Option<&File>,
) -> Result<(T, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = folder_of(path);
    clear_left_over(folder);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("{PREFIX}{}-{count}{SUFFIX}", std::process::id()));
        match create(&temporary) {
            // Between its making and its locking, another process may have taken it for left over.
            Ok(created) if lock_as(opened(&created), &temporary) => return Ok((created, temporary)),
            Ok(_) => {}
            Err(e) if e.kind() == IoErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(Error::new(
                    ErrorKind::Io,
                    format!("cannot create a file in `{}`: {e}", folder.display()),
                )
                .at_file(path));
            }
        }
    }
}

/// Locks what has just been made; false where it has lost its name meanwhile. Where a file system has no
/// locks nothing can be told, and nothing is cleared either.
fn lock_as(made: Option<&File>, path: &Path) -> bool {
    match made {
        Some(file) if file.lock().is_ok() => path.symlink_metadata().is_ok(),
        _ => true,
    }
}

/// Removes the temporary files and folders that killed processes left in a folder: those that nobody has
/// locked. A process looks once into each folder.
fn clear_left_over(folder: &Path) {
    static SEEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    if !SEEN.lock().unwrap_or_else(|e| e.into_inner()).insert(real) {
        return;
    }
    clear_now(folder);
}

fn clear_now(folder: &Path) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = item.file_name();
        let between =
            name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-'));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !between.is_some_and(|(process, count)| number(process) && number(count)) {
            continue;
        }
        let (path, kind) = (item.path(), item.file_type());
        let is_folder = kind.as_ref().is_ok_and(fs::FileType::is_dir);
        if !is_folder && !kind.is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        // The lock is held until it is gone: who makes one of this name waits, and finds it gone.
        if file.try_lock().is_ok() {
            let _ = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
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
    fn a_name_that_ends_with_a_separator_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &str| check_target(&folder.path().join(path), true).unwrap_err().to_string();
        assert!(refused("new/").contains("names a folder"));
        fs::create_dir(folder.path().join("old")).unwrap();
        assert!(refused("old/").contains("is a folder"));
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
        assert!(error.to_string().contains("option `force`"), "{error}");
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

    #[test]
    fn a_name_that_is_taken_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("new"), "new").unwrap();
        fs::write(at("taken"), "old").unwrap();
        assert_eq!(rename_new(&at("new"), &at("taken")).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(fs::read(at("taken")).unwrap(), b"old");
        // A folder without files, which renaming alone would replace.
        fs::create_dir(at("new folder")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        assert_eq!(rename_new(&at("new folder"), &at("empty")).unwrap_err().kind(), ErrorKind::Usage);
        assert!(at("new folder").is_dir());
        rename_new(&at("new"), &at("free")).unwrap();
        assert_eq!(entries(folder.path()), ["empty", "free", "new folder", "taken"]);
    }

    #[test]
    fn a_folder_that_is_not_replaced_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("model")).unwrap();
        fs::write(at("model/a"), "old").unwrap();
        assert!(move_over(&at("missing"), &at("model")).is_err());
        assert_eq!(fs::read(at("model/a")).unwrap(), b"old");
        fs::create_dir(at("new")).unwrap();
        fs::write(at("new/a"), "new").unwrap();
        move_over(&at("new"), &at("model")).unwrap();
        assert_eq!(fs::read(at("model/a")).unwrap(), b"new");
        assert_eq!(entries(folder.path()), ["model"]);
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at(".secateur-999999-0.part"), "cut").unwrap();
        fs::create_dir(at(".secateur-999999-1.part")).unwrap();
        fs::write(at(".secateur-999999-1.part").join("model.safetensors"), "cut").unwrap();
        for other in
            [".secateur-notes.part", ".secateur-1-2.part.old", "secateur-1-2.part", ".secateur-1-.part"]
        {
            fs::write(at(other), "mine").unwrap();
        }
        // What a live process writes, as seen by another: a lock belongs to the opened file.
        let written = Staged::new(&at("out"), false, |out| put(out, b"new")).unwrap();
        let folder_written = StagedFolder::new(&at("folder"), false, &[]).unwrap();
        clear_now(folder.path());
        written.publish().unwrap();
        folder_written.publish().unwrap();
        let left = entries(folder.path());
        let kept = [".secateur-1-.part", ".secateur-1-2.part.old", ".secateur-notes.part", "folder", "out"];
        assert_eq!(left, [&kept[..], &["secateur-1-2.part"]].concat());
    }

    #[cfg(unix)]
    #[test]
    fn permissions_of_what_is_replaced_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for wanted in [0o600, 0o640, 0o444, 0o666] {
            write_file(&path, true, |out| put(out, b"old")).unwrap();
            set(&path, wanted);
            write_file(&path, true, |out| {
                let temporary = entries(folder.path()).into_iter().find(|n| n.starts_with(PREFIX)).unwrap();
                assert_eq!(mode(&folder.path().join(temporary)), wanted, "while it is written");
                put(out, b"new")
            })
            .unwrap();
            assert_eq!((mode(&path), &*fs::read(&path).unwrap()), (wanted, &b"new"[..]));
        }
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("a"), "old").unwrap();
        set(&model.join("a"), 0o600);
        set(&model, 0o700);
        let staged = StagedFolder::new(&model, true, &["a"]).unwrap();
        staged.file("a", |out| put(out, b"new")).unwrap();
        staged.publish().unwrap();
        assert_eq!((mode(&model), mode(&model.join("a"))), (0o700, 0o600));
    }
}
