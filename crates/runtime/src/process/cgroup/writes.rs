//! What is written into a group's files for given limits: tables, no files.

use nihilo_types::instance::Limits;

use super::{Controllers, Version};

/// Microseconds over which a cpu limit is counted; Kubernetes' and the kernel's default.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller share of a period.
const MIN_CPU_QUOTA_US: u64 = 1_000;
/// Ten thousand cores: no host has them, and the kernel refuses much more.
const MAX_CPU_QUOTA_US: u64 = 10_000 * CPU_PERIOD_US;
/// Range of `cpu.shares`.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// One line into one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Without it the limit does not hold; others are for kernels that have them.
    pub(super) is_needed: bool,
}

/// Everything for one group, in order; `controllers` are those that its hierarchy has.
pub(super) fn writes(
    version: Version,
    controllers: Controllers,
    limits: &Limits,
    max_processes: u64,
) -> Vec<Write> {
    let mut writes = Vec::new();
    if controllers.memory
        && let Some(bytes) = limits.memory_bytes
    {
        memory(version, bytes, &mut writes);
    }
    if controllers.cpu {
        cpu(version, limits, &mut writes);
    }
    if controllers.pids {
        writes.push(needed("pids.max", max_processes));
    }
    writes
}

/// No `memory.high` beside it: a program at its limit would neither end nor go on (decision 0081).
fn memory(version: Version, bytes: u64, writes: &mut Vec<Write>) {
    match version {
        Version::Two => writes.extend([
            needed("memory.max", bytes),
            wanted("memory.swap.max", 0),
            // What is left of a program that lost a part is of no use to anybody.
            wanted("memory.oom.group", 1),
        ]),
        Version::One => writes.extend([
            needed("memory.limit_in_bytes", bytes),
            // Memory and swap together, where swap is counted.
            wanted("memory.memsw.limit_in_bytes", bytes),
        ]),
    }
}

fn cpu(version: Version, limits: &Limits, writes: &mut Vec<Write>) {
    if let Some(milli) = limits.cpu_milli {
        let quota = quota_us(milli);
        match version {
            Version::Two => writes.push(needed("cpu.max", format!("{quota} {CPU_PERIOD_US}"))),
            Version::One => writes.extend([
                wanted("cpu.cfs_period_us", CPU_PERIOD_US),
                needed("cpu.cfs_quota_us", quota),
            ]),
        }
    }
    if let Some(milli) = limits.cpu_request_milli {
        let shares = shares(milli);
        match version {
            // Kubernetes' way from one range to the other.
            Version::Two => {
                let weight =
                    1 + (shares - SHARES.start()) * 9_999 / (SHARES.end() - SHARES.start());
                writes.push(wanted("cpu.weight", weight));
            }
            Version::One => writes.push(wanted("cpu.shares", shares)),
        }
    }
}

/// So much of each [`CPU_PERIOD_US`], of thousandths of a core.
pub(crate) fn quota_us(milli: u64) -> u64 {
    let quota = milli.saturating_mul(CPU_PERIOD_US / 1_000);
    quota.clamp(MIN_CPU_QUOTA_US, MAX_CPU_QUOTA_US)
}

/// What version 1 and container engines weigh by, of thousandths of a core.
pub(crate) fn shares(milli: u64) -> u64 {
    let shares = milli.saturating_mul(1_024) / 1_000;
    shares.clamp(*SHARES.start(), *SHARES.end())
}

fn needed(file: &'static str, value: impl ToString) -> Write {
    Write {
        file,
        value: value.to_string(),
        is_needed: true,
    }
}

fn wanted(file: &'static str, value: impl ToString) -> Write {
    Write {
        is_needed: false,
        ..needed(file, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Controllers = Controllers {
        cpu: true,
        memory: true,
        pids: true,
    };

    fn written(version: Version, controllers: Controllers, limits: &Limits) -> Vec<String> {
        let row = |write: Write| {
            let mark = if write.is_needed { "" } else { "?" };
            format!("{}{mark} = {}", write.file, write.value)
        };
        let all = writes(version, controllers, limits, 1_024);
        all.into_iter().map(row).collect()
    }

    #[test]
    fn each_version_has_its_own_files() {
        let limits = Limits {
            cpu_milli: Some(500),
            cpu_request_milli: Some(1_000),
            memory_bytes: Some(64 << 20),
        };
        assert_eq!(
            written(Version::Two, ALL, &limits),
            [
                "memory.max = 67108864",
                "memory.swap.max? = 0",
                "memory.oom.group? = 1",
                "cpu.max = 50000 100000",
                "cpu.weight? = 39",
                "pids.max = 1024",
            ]
        );
        assert_eq!(
            written(Version::One, ALL, &limits),
            [
                "memory.limit_in_bytes = 67108864",
                "memory.memsw.limit_in_bytes? = 67108864",
                "cpu.cfs_period_us? = 100000",
                "cpu.cfs_quota_us = 50000",
                "cpu.shares? = 1024",
                "pids.max = 1024",
            ]
        );
    }

    #[test]
    fn no_limit_is_no_line_and_processes_always_have_one() {
        let none = Limits::default();
        assert_eq!(written(Version::Two, ALL, &none), ["pids.max = 1024"]);
        let only_cpu = Controllers {
            cpu: true,
            ..Controllers::default()
        };
        assert!(written(Version::One, only_cpu, &none).is_empty());
    }

    #[test]
    fn the_smallest_and_the_largest_amounts_stay_in_the_kernel_s_ranges() {
        let limits = |milli| Limits {
            cpu_milli: Some(milli),
            cpu_request_milli: Some(milli),
            memory_bytes: None,
        };
        let two = |milli| written(Version::Two, ALL, &limits(milli))[..2].to_vec();
        assert_eq!(two(1), ["cpu.max = 1000 100000", "cpu.weight? = 1"]);
        assert_eq!(two(1_000_000)[1], "cpu.weight? = 10000");
        let one = written(Version::One, ALL, &limits(1));
        assert_eq!(one[2], "cpu.shares? = 2");
    }
}
