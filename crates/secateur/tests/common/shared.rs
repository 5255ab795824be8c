//! The data shared between projects, which may be absent.

use std::path::{Path, PathBuf};

/// A part of the shared data; prints why where it is absent.
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = std::env::var_os("SECATEUR_DATA").map_or_else(beside, PathBuf::from).join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: there is no {} (set SECATEUR_DATA)", path.display());
    None
}
