//! Memory-mapped files as shared bytes.

use std::path::Path;

use bytes::Bytes;

use super::open::open_regular;
use crate::{Error, Result};

/// The content of a file, memory-mapped: read when touched, never copied as a whole.
///
/// # Errors
/// `Io` where the file cannot be opened or mapped, `Input` where it is no regular file.
pub fn map_file(path: &Path) -> Result<Bytes> {
    let file = open_regular(path)?;
    if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private; the bytes are only read. Another process that
    // truncates the file while it is mapped ends this one with a signal, as with every tool that
    // maps its input (docs/security.md); nothing here writes to an input in place.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Bytes::from_owner(map))
}
