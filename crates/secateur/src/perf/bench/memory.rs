//! Measures the memory that a function takes (on Linux).

use std::fs;

/// Runs a function and measures how far the process's peak memory rises above what it was before, in bytes.
/// Memory that was free in the process already does not count.
pub(super) fn growth<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let known = fs::write("/proc/self/clear_refs", "5").ok().and_then(|()| field("VmRSS:"));
    let done = work();
    let grown = known.zip(field("VmHWM:")).map(|(before, peak)| peak.saturating_sub(before));
    (done, grown)
}

/// A line of `/proc/self/status`, in bytes.
fn field(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_counts() {
        // Held until after: other tests forget the peak at the same time.
        let (held, grown) = growth(|| std::hint::black_box(vec![1u8; 256 << 20]));
        match grown {
            Some(bytes) => assert!((128 << 20..1 << 30).contains(&bytes), "{bytes}"),
            None => println!("skipped: the system does not tell"),
        }
        drop(held);
    }
}
