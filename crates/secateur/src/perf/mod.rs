//! Speed: measured, predicted, and what kernels cost.

pub mod bench;
pub mod costs;
pub mod predict;

/// The name of the processor, where the system tells it.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, n)| n.trim().to_string())
}
