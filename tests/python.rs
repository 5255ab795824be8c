//! The Python that tests compare with. Included by path into the tests of several crates.

use std::path::PathBuf;
use std::process::Command;

/// The Python that `SECATEUR_PYTHON` names, where it has these packages; prints why there is none.
pub(crate) fn python(packages: &[&str]) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("SECATEUR_PYTHON").map(PathBuf::from) else {
        println!("comparison skipped: SECATEUR_PYTHON names no Python with {}", packages.join(", "));
        return None;
    };
    let missing = "import sys; from importlib.util import find_spec; \
                   print(*[p for p in sys.argv[1:] if find_spec(p) is None], sep=', ')";
    let found = Command::new(&python).args(["-c", missing]).args(packages).output().expect("it can be run");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    match String::from_utf8_lossy(&found.stdout).trim() {
        "" => Some(python),
        missing => {
            println!("comparison skipped: the Python of SECATEUR_PYTHON lacks {missing}");
            None
        }
    }
}
