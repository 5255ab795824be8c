//! Memory-mapped files as shared bytes.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::{Error, Result};

/// The content of a file, memory-mapped: read when touched, never copied as a whole.
///
/// # Errors
/// Where the file cannot be opened or mapped.
pub fn map_file(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::input("is not a regular file").at_file(path));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private; the bytes are only read. Another process that
    // truncates the file while it is mapped ends this one with a signal, as with every tool that
    // maps its input (docs/security.md); nothing here writes to an input in place.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Bytes::from_owner(map))
}
