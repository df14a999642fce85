//! Open files and memory.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;

const FILES: &str = "open files";
const MEMORY: &str = "memory";
/// A connection of a client is one, and one more to its instance; the store keeps a few hundred.
const MANY_FILES: u64 = 65_536;
/// Fewer are not enough for the store and a hundred instances.
const FEW_FILES: u64 = 1_024;
const MIB: u64 = 1024 * 1024;
/// A node with a hundred services takes some tens of MiB; less leaves nothing for instances.
const TOO_LITTLE: u64 = 128 * MIB;
const LITTLE: u64 = 512 * MIB;

pub(super) fn examine() -> Vec<Finding> {
    let limit = getrlimit(Resource::Nofile).current;
    let has_systemd = Path::new("/run/systemd/system").is_dir();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    vec![files(limit, has_systemd), self::memory(&memory)]
}

/// `limit` of this process, `None` = none; a unit of systemd has one of its own.
fn files(limit: Option<u64>, has_systemd: bool) -> Finding {
    let Some(limit) = limit.filter(|limit| *limit < MANY_FILES) else {
        return Finding::ok(FILES, "65536 or more");
    };
    let found = format!("{limit} at most");
    match (has_systemd, limit) {
        (true, _) => Finding::note(
            FILES,
            format!("{found} here; the package's unit has its own"),
        ),
        (false, ..FEW_FILES) => Finding::fail(FILES, found, "ulimit -n 65536 before the start"),
        (false, _) => Finding::warn(FILES, found, "ulimit -n 65536 before the start"),
    }
}

/// `text` is `/proc/meminfo` (proc(5)).
fn memory(text: &str) -> Finding {
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kib * 1024)
    };
    let (Some(total), Some(available)) = (of("MemTotal"), of("MemAvailable")) else {
        return Finding::note(MEMORY, "the kernel does not say");
    };
    let found = format!("{} of {} MiB to be had", available / MIB, total / MIB);
    let fix = "stop what else runs here, or add memory: instances need theirs beside the node's";
    match available {
        0..TOO_LITTLE => Finding::fail(MEMORY, found, fix),
        TOO_LITTLE..LITTLE => Finding::warn(MEMORY, found, fix),
        LITTLE.. => Finding::ok(MEMORY, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn a_node_needs_files_and_its_unit_gives_them() {
        let cases = [
            (None, false, State::Ok),
            (Some(1_048_576), false, State::Ok),
            (Some(65_536), false, State::Ok),
            (Some(4_096), false, State::Warn),
            (Some(256), false, State::Fail),
            (Some(1_024), true, State::Note),
        ];
        for (limit, has_systemd, state) in cases {
            assert_eq!(
                files(limit, has_systemd).state,
                state,
                "{limit:?} {has_systemd}"
            );
        }
    }

    #[test]
    fn memory_is_what_may_be_had_not_what_is_free() {
        let text = |available: u64| {
            let kib = available / 1024;
            format!("MemTotal:  1024000 kB\nMemFree:  1 kB\nMemAvailable:  {kib} kB\n")
        };
        let cases = [
            (text(TOO_LITTLE - 1024), State::Fail),
            (text(TOO_LITTLE), State::Warn),
            (text(LITTLE), State::Ok),
            ("MemTotal: 5 kB\n".to_owned(), State::Note),
        ];
        for (text, state) in cases {
            assert_eq!(memory(&text).state, state, "{text}");
        }
        assert_eq!(memory(&text(LITTLE)).found, "512 of 1000 MiB to be had");
    }

    #[test]
    fn this_machine_says_both() {
        assert_eq!(examine().len(), 2);
        assert_ne!(
            memory(&std::fs::read_to_string("/proc/meminfo").unwrap()).state,
            State::Note
        );
    }
}
