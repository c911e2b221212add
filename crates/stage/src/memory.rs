//! How much memory is available, and errors for what does not fit into it.

use crate::ParamError;
use std::fmt;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// An amount of memory in bytes, which is displayed with a decimal unit: `4.4 GB`.
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let (mut value, mut unit) = (self.0, 0);
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        match value {
            value if value < 9.95 && unit > 0 => write!(f, "{value:.1} {}", UNITS[unit]),
            value => write!(f, "{value:.0} {}", UNITS[unit]),
        }
    }
}

/// Bytes of memory that this process can still allocate: the least of what is left of the machine's memory, of its
/// control group's limit, and of its own address space. `None` if the system reports none of them.
#[must_use]
pub fn available() -> Option<u64> {
    let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(ram);
    let machine = Some(system.available_memory()).filter(|bytes| *bytes > 0);
    // The page cache counts as used in a control group, but is given up when memory is needed: so `rss` counts.
    let group = system.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
    [machine, group, address_space()].into_iter().flatten().min()
}

/// Bytes of address space that are left to this process. `None` if it has no limit (`ulimit -v`).
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let most: u64 = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let taken =
        status.lines().find_map(|line| line.strip_prefix("VmSize:"))?.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(most.saturating_sub(1024 * taken))
}

impl ParamError {
    /// Requires that the memory for what a field asks for is available. `what` takes at least `bytes`, an `f64` because
    /// estimates of that type do not overflow.
    ///
    /// # Errors
    /// `bytes` is more than [`available`] memory. Nothing is refused if that is unknown.
    pub fn fits(path: &str, what: impl fmt::Display, bytes: f64) -> Result<(), Self> {
        match available() {
            Some(there) if bytes > there as f64 => {
                let (bytes, there) = (Bytes(bytes), Bytes(there as f64));
                Err(Self::new(path, format!("{what} takes at least {bytes} of memory, and {there} are available")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_words() {
        let words = |bytes| Bytes(bytes).to_string();
        assert_eq!([0.0, 999.0, 1000.0, 4.4e9, 9.96e9].map(words), ["0 B", "999 B", "1.0 kB", "4.4 GB", "10 GB"]);
        assert_eq!([999.7e3, 1.2e18, 5e24].map(words), ["1.0 MB", "1.2 EB", "5000000 EB"]);
    }

    #[test]
    fn what_is_small_fits_and_what_no_machine_has_does_not() {
        let there = available().unwrap();
        assert!(there > 1 << 20, "{there}");
        assert_eq!(ParamError::fits("width", "a decoder", 1000.0), Ok(()));
        let message = ParamError::fits("width", "a decoder of width 4294967296", 1.2e18).unwrap_err().to_string();
        assert!(
            message.starts_with("`width`: a decoder of width 4294967296 takes at least 1.2 EB of memory, and "),
            "{message}"
        );
        assert!(ParamError::fits("width", "", f64::INFINITY).is_err());
    }
}
