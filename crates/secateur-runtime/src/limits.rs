//! What one run of a model may take, whatever the model says.

use std::fmt;

/// Bounds on one run of a model. Beyond them it ends with an error that names the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes for inputs, outputs, all values between and working buffers at the same time. The weights come on
    /// top: the file's size bounds them.
    pub memory: u64,
    /// Runs of nodes in the bodies of `Loop` and `Scan`, in one run of the model. A node that gives much counts
    /// once more for each 2¹⁸ elements.
    pub steps: u64,
}

impl Limits {
    /// Steps by default: a second or two of small nodes.
    pub const STEPS: u64 = 1_000_000;

    /// The default steps, and the memory that the machine has available at this moment: what its kernel says, or what
    /// is left to the control group where that is less. Only Linux is asked; elsewhere memory has no bound.
    pub fn of_machine() -> Self {
        Limits { memory: available::memory().unwrap_or(u64::MAX), steps: Self::STEPS }
    }
}

impl Default for Limits {
    /// [`Limits::of_machine`].
    fn default() -> Self {
        Limits::of_machine()
    }
}

/// A number of bytes as people read it.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value >= 999.5 && unit + 1 < units.len() {
            (value, unit) = (value / 1000.0, unit + 1);
        }
        let digits = usize::from(unit > 0 && value < 99.5);
        write!(f, "{value:.digits$} {}", units[unit])
    }
}

#[cfg(target_os = "linux")]
mod available {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    /// Bytes that new values can take.
    pub(super) fn memory() -> Option<u64> {
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        let machine = read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text));
        machine.into_iter().chain(of_groups(&groups, Path::new("/sys/fs/cgroup"))).min()
    }

    fn kilobytes(meminfo: &str) -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// What is left to each of the control groups that the process is in.
    pub(super) fn of_groups(groups: &str, root: &Path) -> Vec<u64> {
        let mut left = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (base, limit, usage, cache) = match controllers {
                "" => (root.to_path_buf(), "memory.max", "memory.current", "inactive_file"),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    let names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
                    (root.join("memory"), names.0, names.1, names.2)
                }
                _ => continue,
            };
            // In a container the group's own folder may be the root.
            let own = base.join(path.trim_start_matches('/'));
            let folders: Vec<PathBuf> =
                own.ancestors().take_while(|folder| folder.starts_with(&base)).map(Into::into).collect();
            for folder in folders {
                let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
                let Some((limit, usage)) = number(limit).zip(number(usage)) else { continue };
                // Cached files give way to values.
                let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let cached =
                    stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
                left.push(limit.saturating_sub(usage.saturating_sub(cached.unwrap_or(0))));
            }
        }
        left
    }
}

#[cfg(not(target_os = "linux"))]
mod available {
    pub(super) fn memory() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let shown = [0, 999, 1500, 12_000_000_000, 123_456_789, u64::MAX].map(|n| Size(n).to_string());
        assert_eq!(shown, ["0 B", "999 B", "1.5 kB", "12.0 GB", "123 MB", "18.4 EB"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_control_group_bounds_memory() {
        let root = std::env::temp_dir().join(format!("secateur-groups-{}", std::process::id()));
        let (outer, inner) = (root.join("outer"), root.join("outer/inner"));
        std::fs::create_dir_all(&inner).unwrap();
        let write = |folder: &std::path::Path, max: &str, current: &str, cached: &str| {
            std::fs::write(folder.join("memory.max"), max).unwrap();
            std::fs::write(folder.join("memory.current"), current).unwrap();
            std::fs::write(folder.join("memory.stat"), format!("anon 5\ninactive_file {cached}\n")).unwrap();
        };
        write(&outer, "1000\n", "700\n", "200");
        write(&inner, "max\n", "600\n", "0");
        assert_eq!(available::of_groups("0::/outer/inner\n", &root), [500]);
        write(&inner, "650\n", "600\n", "0");
        assert_eq!(available::of_groups("0::/outer/inner\n", &root), [50, 500]);
        assert!(available::of_groups("", &root).is_empty());
        std::fs::remove_dir_all(&root).unwrap();
        assert!(Limits::of_machine().memory > 0);
    }
}
