//! `/proc/PID/stat`, as far as instances need it.

use std::str::FromStr;

/// Places in the line behind the program's name (`proc(5)` counts from 1, and the state is 3).
const STATE: usize = 0;
const PARENT: usize = 1;
const GROUP: usize = 2;
const START_TICKS: usize = 19;

/// Whether it is for this process to ask how it ended.
pub(super) fn is_child_of_ours(pid: u32) -> bool {
    field(pid, PARENT) == Some(std::process::id())
}

/// Numbers of this process's children, those that have ended included.
pub(super) fn children_of_ours() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_child_of_ours(*pid)).collect()
}

/// Number of the process's group.
pub(super) fn group(pid: u32) -> Option<u32> {
    field(pid, GROUP)
}

/// Clock ticks from the host's boot to the process's start; `None` when there is no such process.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    field(pid, START_TICKS)
}

/// Nothing of it runs any more, and nobody has asked how it ended.
pub(super) fn is_zombie(pid: u32) -> bool {
    field::<char>(pid, STATE).is_some_and(|state| matches!(state, 'Z' | 'X'))
}

/// Nothing of it runs: it is stopped, or has ended.
pub(super) fn is_stopped(pid: u32) -> bool {
    field::<char>(pid, STATE).is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn field<T: FromStr>(pid: u32, place: usize) -> Option<T> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_group_a_start_and_is_no_zombie() {
        let pid = std::process::id();
        assert!(group(pid).is_some() && start_ticks(pid).is_some_and(|ticks| ticks > 0));
        assert!(!is_zombie(pid));
        assert_eq!(start_ticks(0), None);
        assert!(!is_child_of_ours(pid));
    }

    #[test]
    fn a_child_is_one_until_it_is_asked_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(children_of_ours().contains(&pid));
        child.wait().unwrap();
        assert!(!children_of_ours().contains(&pid));
    }
}
